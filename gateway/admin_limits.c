/* Buckets for people: the query, the subject it names, and the list. */
#include "gateway/admin_limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ratelimit/limiter.h"

enum { NAMES_BYTES_MAX = 8 * 1024 * 1024 };

/* ---- the query ---- */

enum parameter { PARAMETER_TENANT, PARAMETER_KEY, PARAMETER_MODEL, PARAMETER_USER, PARAMETER_COUNT };
static const char *const PARAMETER_NAMES[PARAMETER_COUNT] = {"tenant", "key", "model", "user"};

/* What was asked, decoded; "" = not given. */
struct asked {
    char values[PARAMETER_COUNT][ADMIN_LIMITS_NAME_BYTES];
    bool anything;
};

/* Percent and plus decoding. False for a broken escape, a NUL, nothing, or too much. */
static bool decode(struct text from, char to[ADMIN_LIMITS_NAME_BYTES])
{
    size_t length = 0;
    for (size_t i = 0; i < from.length; i++) {
        uint8_t byte = from.at[i] == '+' ? ' ' : (uint8_t) from.at[i];
        if (from.at[i] == '%') {
            struct text digits = {from.at + i + 1, 2};
            if (from.length - i < 3 || !text_from_hex(digits, &byte, 1))
                return false;
            i += 2;
        }
        if (byte == '\0' || length + 1 >= ADMIN_LIMITS_NAME_BYTES)
            return false;
        to[length++] = (char) byte;
    }
    to[length] = '\0';
    return length > 0;
}

static struct text cut_at(struct text *rest, char mark)
{
    const char *end = rest->length > 0 ? memchr(rest->at, mark, rest->length) : NULL;
    struct text piece = *rest;
    if (end == NULL) {
        *rest = (struct text){NULL, 0};
        return piece;
    }
    piece.length = (size_t) (end - rest->at);
    *rest = (struct text){end + 1, rest->length - piece.length - 1};
    return piece;
}

static bool take_parameter(struct asked *asked, struct text piece)
{
    struct text name = cut_at(&piece, '=');
    for (size_t i = 0; i < PARAMETER_COUNT; i++) {
        if (!text_equal(name, text_of(PARAMETER_NAMES[i])))
            continue;
        asked->anything = true;
        return asked->values[i][0] == '\0' && decode(piece, asked->values[i]);
    }
    return false;
}

static bool read_query(struct text query, struct asked *ret)
{
    memset(ret, 0, sizeof *ret);
    while (query.length > 0) {
        if (!take_parameter(ret, cut_at(&query, '&')))
            return false;
    }
    return ret->values[PARAMETER_TENANT][0] != '\0' ||
           (ret->values[PARAMETER_KEY][0] == '\0' && ret->values[PARAMETER_USER][0] == '\0');
}

/* ---- whom it names ---- */

static bool has_tenant(const struct policy *policy, const char *name)
{
    for (size_t i = 0; i < policy->tenant_count; i++) {
        if (strcmp(policy->tenants[i].name, name) == 0)
            return true;
    }
    return false;
}

static const struct key *find_key(const struct policy *policy, const char *tenant, const char *name)
{
    for (size_t i = 0; i < policy->key_count; i++) {
        const struct key *key = &policy->keys[i];
        if (strcmp(key->name, name) == 0 && strcmp(key->tenant->name, tenant) == 0)
            return key;
    }
    return NULL;
}

/* False with what is not there. */
static bool find_subject(const struct policy *policy, const struct asked *asked, struct limit_subject *ret,
                         enum parameter *ret_unknown)
{
    const struct key *key = find_key(policy, asked->values[PARAMETER_TENANT], asked->values[PARAMETER_KEY]);
    const struct model *model = policy_model(policy, text_of(asked->values[PARAMETER_MODEL]));
    *ret = (struct limit_subject){.tenant = asked->values[PARAMETER_TENANT],
                                  .key = asked->values[PARAMETER_KEY],
                                  .user = asked->values[PARAMETER_USER],
                                  .model = model != NULL ? model->name : ""};
    if (key != NULL && ret->user[0] == '\0')
        ret->user = key->user;
    *ret_unknown = PARAMETER_COUNT;
    if (ret->tenant[0] != '\0' && !has_tenant(policy, ret->tenant))
        *ret_unknown = PARAMETER_TENANT;
    else if (ret->key[0] != '\0' && key == NULL)
        *ret_unknown = PARAMETER_KEY;
    else if (asked->values[PARAMETER_MODEL][0] != '\0' && model == NULL)
        *ret_unknown = PARAMETER_MODEL;
    return *ret_unknown == PARAMETER_COUNT;
}

/* ---- the list ---- */

/* Copies, made under the limiter's lock and written out after it: requests wait for that lock. */
struct listing {
    struct limit_status *rows; /* their texts are behind each other in @texts, name before origin */
    size_t count;
    struct buffer texts;
    bool full;
};

static void keep_row(void *owner, const struct limit_status *status)
{
    struct listing *listing = owner;
    listing->full = listing->full || listing->count == ADMIN_LIMITS_MAX ||
                    !buffer_add(&listing->texts, (struct text){status->name, strlen(status->name) + 1}) ||
                    !buffer_add(&listing->texts, (struct text){status->origin, strlen(status->origin) + 1});
    if (!listing->full)
        listing->rows[listing->count++] = *status;
}

/* Any bytes as a JSON string. */
static bool add_string(struct buffer *to, const char *string)
{
    size_t capacity = strlen(string) * 6 + 3;
    char *memory = malloc(capacity);
    struct builder json;
    if (memory == NULL)
        return false;
    builder_init(&json, memory, capacity);
    builder_add_json_repaired(&json, text_of(string));
    bool added = !json.overflowed && buffer_add(to, builder_text(&json));
    free(memory);
    return added;
}

static bool add_member(struct buffer *to, const char *name, const char *value)
{
    return buffer_format(to, "\"%s\":", name) && add_string(to, value) && buffer_add(to, TEXT(","));
}

static bool add_row(struct buffer *to, const struct limit_status *row)
{
    return buffer_format(to, "{\"kind\":\"%s\",\"scope\":\"%s\",", LIMIT_KIND_NAMES[row->kind],
                         LIMIT_SCOPE_NAMES[row->scope]) &&
           add_member(to, "name", row->name) && add_member(to, "origin", row->origin) &&
           buffer_format(to, "\"limit\":%" PRId64 ",\"capacity\":%" PRId64 ",\"balance\":%.3f,\"held\":%.3f,",
                         row->limit, row->capacity, row->balance, row->held) &&
           buffer_format(to, "\"full_in_ms\":%" PRId64 ",\"on_exceed\":\"%s\"}", row->full_in_ms,
                         ON_EXCEED_NAMES[row->on_exceed]);
}

static bool add_rows(struct buffer *to, struct listing *listing)
{
    const char *text = buffer_text(&listing->texts).at;
    bool fits = buffer_add(to, TEXT("\"limits\":["));
    for (size_t i = 0; i < listing->count && fits; i++) {
        struct limit_status *row = &listing->rows[i];
        row->name = text;
        row->origin = row->name + strlen(row->name) + 1;
        text = row->origin + strlen(row->origin) + 1;
        fits = (i == 0 || buffer_add(to, TEXT(","))) && add_row(to, row);
    }
    return fits && buffer_format(to, "],\"complete\":%s}\n", listing->full ? "false" : "true");
}

static bool write_list(struct limiter *limiter, const struct limit_subject *subject, struct buffer *to)
{
    struct listing listing = {.rows = calloc(ADMIN_LIMITS_MAX, sizeof *listing.rows)};
    if (listing.rows == NULL)
        return false;
    buffer_init(&listing.texts, NAMES_BYTES_MAX);
    /* One more than is told: it shows that there are more. */
    limiter_each(limiter, subject, ADMIN_LIMITS_MAX + 1, clock_mono_us(), keep_row, &listing);
    bool fits = buffer_add(to, TEXT("{"));
    if (subject != NULL)
        fits = fits && add_member(to, "tenant", subject->tenant) && add_member(to, "key", subject->key) &&
               add_member(to, "user", subject->user) && add_member(to, "model", subject->model);
    fits = fits && add_rows(to, &listing);
    buffer_finish(&listing.texts);
    free(listing.rows);
    return fits;
}

int admin_limits_write(struct limiter *limiter, const struct policy *policy, struct text query, struct buffer *to,
                       char ret_message[ADMIN_LIMITS_MESSAGE_BYTES])
{
    struct asked asked;
    struct limit_subject subject;
    enum parameter unknown;
    if (!read_query(query, &asked)) {
        snprintf(ret_message, ADMIN_LIMITS_MESSAGE_BYTES,
                 "The query may have tenant, key, model and user, each once; key and user go with a tenant.");
        return 400;
    }
    if (!find_subject(policy, &asked, &subject, &unknown)) {
        snprintf(ret_message, ADMIN_LIMITS_MESSAGE_BYTES, "The configuration in force has no such %s.",
                 PARAMETER_NAMES[unknown]);
        return 404;
    }
    if (write_list(limiter, asked.anything ? &subject : NULL, to))
        return 200;
    snprintf(ret_message, ADMIN_LIMITS_MESSAGE_BYTES, "The list does not fit.");
    return 500;
}
