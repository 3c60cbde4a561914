#include "gateway/admin_usage.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "gateway/gateway.h"

enum { ANSWER_BYTES = 4096 };

/* ---- where usage stands ---- */

static void add_string(struct builder *to, const char *key, const char *value)
{
    builder_format(to, "\"%s\":", key);
    builder_add_json_repaired(to, text_of(value));
}

static void add_date(struct builder *to, const char *key, wall_ms when)
{
    char date[CLOCK_TEXT_BYTES];
    if (when == 0)
        builder_format(to, "\"%s\":null", key);
    else
        builder_format(to, "\"%s\":\"%s\"", key, clock_text(when, date));
}

static void add_journals(struct builder *to, const struct admin_usage *usage)
{
    builder_add_string(to, "\"journals\":[");
    for (int i = 0; i < usage->journal_count; i++) {
        const struct worker_journal *journal = &usage->journals[i];
        builder_format(to, "%s{\"worker\":%d,", i > 0 ? "," : "", i);
        add_string(to, "trouble", journal->trouble);
        builder_format(to, ",\"slowest_write_seconds\":%.6f}", (double) journal->slowest_write_us / 1e6);
    }
    builder_add_string(to, "]");
}

static void add_redis(struct builder *to, const struct admin_usage *usage)
{
    const struct store_status *redis = usage->redis;
    builder_format(to, "\"redis\":{\"up\":%s,", redis->is_up ? "true" : "false");
    add_string(to, "error", usage->redis_error);
    builder_add_string(to, ",");
    add_string(to, "durability", redis->is_durability_known ? redis->durability : "");
    builder_format(to, ",\"may_evict\":%s,\"writers\":%zu,\"stuck_writers\":%zu,\"regressions\":%llu,",
                   redis->may_evict ? "true" : "false", redis->writers, redis->stuck_writers,
                   (unsigned long long) redis->regressions);
    add_date(to, "oldest_unshipped", redis->oldest_unshipped);
    builder_add_string(to, "}");
}

void admin_usage_waiting_json(const struct usage_waiting *row, struct builder *to)
{
    builder_add_string(to, "{");
    add_string(to, "row", row->id);
    builder_add_string(to, ",");
    add_string(to, "tenant", row->tenant);
    builder_add_string(to, ",");
    add_string(to, "meter", row->meter);
    builder_format(to, ",\"quantity\":%lld,", (long long) row->quantity);
    add_date(to, "ended", row->ended);
    builder_format(to, ",\"state\":\"%s\",", ROW_STATE_NAMES[row->state]);
    add_string(to, "reason", row->reason);
    builder_add_string(to, "}");
}

void admin_usage_provider_json(const struct usage_status *status, struct builder *to)
{
    builder_format(to, "{\"provider\":\"%s\",\"rows\":{", PROVIDER_KIND_NAMES[status->provider]);
    for (int state = 0; state < ROW_STATE_COUNT; state++)
        builder_format(to, "%s\"%s\":%llu", state > 0 ? "," : "", ROW_STATE_NAMES[state],
                       (unsigned long long) status->rows[state]);
    builder_add_string(to, "},");
    add_date(to, "oldest", status->oldest);
    builder_add_string(to, ",");
    add_date(to, "last_acked", status->last_acked);
    builder_format(to, ",\"waiting_total\":%llu,\"waiting\":[",
                   (unsigned long long) (status->rows[ROW_HELD] + status->rows[ROW_REJECTED]));
    for (size_t i = 0; i < status->waiting_count; i++) {
        builder_add_string(to, i > 0 ? "," : "");
        admin_usage_waiting_json(&status->waiting[i], to);
    }
    builder_add_string(to, "]}");
}

void admin_usage_json(const struct admin_usage *usage, struct builder *to)
{
    const struct biller_status *billing = usage->billing;
    builder_add_string(to, "{");
    add_journals(to, usage);
    builder_add_string(to, ",");
    add_redis(to, usage);
    builder_add_string(to, ",\"providers\":[");
    for (size_t i = 0; i < billing->provider_count; i++) {
        builder_add_string(to, i > 0 ? "," : "");
        admin_usage_provider_json(&billing->providers[i], to);
    }
    builder_add_string(to, "],");
    add_date(to, "oldest_unflushed", billing->oldest_unflushed);
    builder_format(to, ",\"recovered_writers\":%llu,\"crashed_requests\":%llu,",
                   (unsigned long long) billing->recovered_writers, (unsigned long long) billing->crashed_requests);
    add_string(to, "error", billing->error);
    builder_add_string(to, "}\n");
}

/* Everything that the answer needs, too much for a stack. */
struct gathered {
    struct worker_journal journals[GATEWAY_WORKERS_MAX];
    struct store_status redis;
    struct biller_status billing;
    char json[ADMIN_USAGE_BYTES_MAX];
};

static void gather(struct gateway *gateway, struct gathered *gathered)
{
    for (int i = 0; i < gateway->worker_count; i++)
        worker_journal(gateway->workers[i], &gathered->journals[i]);
    store_status(gateway->money.store, &gathered->redis);
    biller_status(gateway->money.biller, &gathered->billing);
}

bool admin_usage_write(struct gateway *gateway, struct buffer *to)
{
    struct builder json;
    struct gathered *gathered = malloc(sizeof *gathered);
    if (gathered == NULL)
        return false;
    gather(gateway, gathered);
    const struct admin_usage usage = {.journals = gathered->journals,
                                      .journal_count = gateway->worker_count,
                                      .redis = &gathered->redis,
                                      .redis_error = money_redis_trouble(&gateway->money, &gathered->redis),
                                      .billing = &gathered->billing};
    builder_init(&json, gathered->json, sizeof gathered->json);
    admin_usage_json(&usage, &json);
    bool fits = !json.overflowed && buffer_add(to, builder_text(&json));
    free(gathered);
    return fits;
}

/* ---- a change ---- */

static bool parse_action(struct text span, enum row_verb *ret)
{
    for (int verb = 0; verb < ROW_VERB_COUNT; verb++) {
        if (json_string_equals(span, text_of(ROW_VERB_NAMES[verb]))) {
            *ret = (enum row_verb) verb;
            return true;
        }
    }
    return false;
}

/* Too long an id is cut, and then none that a row has. */
static bool parse_row(struct text span, char ret_id[ROW_ID_CHARACTERS + 1])
{
    char id[ROW_ID_CHARACTERS + 2];
    if (json_decoded_length(span) != ROW_ID_CHARACTERS || span.length > sizeof id)
        return false;
    size_t length = json_string_decode(span, id);
    text_copy(ret_id, ROW_ID_CHARACTERS + 1, (struct text){id, length});
    return true;
}

const char *admin_change_parse(struct text body, struct admin_change *ret)
{
    struct json_scan scan;
    bool has_action = false, has_row = false;
    json_begin(&scan, body);
    if (json_next(&scan) != JSON_OBJECT_BEGIN)
        return "The body must be a JSON object with action and row.";
    while (json_next(&scan) == JSON_KEY) {
        struct text key = scan.span;
        if (json_next(&scan) != JSON_STRING)
            return "action and row are strings.";
        if (json_string_equals(key, TEXT("action")))
            has_action = parse_action(scan.span, &ret->verb);
        else if (json_string_equals(key, TEXT("row")))
            has_row = parse_row(scan.span, ret->id);
        else
            return "The body has action and row, and nothing else.";
    }
    if (scan.token != JSON_OBJECT_END || json_next(&scan) != JSON_END)
        return "The body must be a JSON object with action and row.";
    if (!has_action)
        return "action must be retry, release, hold or delivered.";
    return has_row ? NULL : "row must be the id of a row: tg1- and 40 characters.";
}

static void on_done(struct biller_change *done)
{
    struct admin_change *change = done->owner;
    const struct row_change_result *result = &done->result;
    char memory[ANSWER_BYTES];
    struct builder json;
    builder_init(&json, memory, sizeof memory);
    if (result->changed) {
        builder_format(&json, "{\"row\":\"%s\",\"state\":\"%s\"}\n", change->id, ROW_STATE_NAMES[result->state]);
    } else {
        builder_add_string(&json, "{\"error\":{\"message\":");
        builder_add_json_repaired(&json, text_of(result->reason));
        builder_add_string(&json, "}}\n");
    }
    if (change->answer != NULL)
        change->answer(change->owner, result->changed ? 200 : result->is_known ? 409 : 404, builder_text(&json));
    free(change);
}

void admin_change_begin(struct biller *biller, struct loop *loop, struct admin_change *change)
{
    change->_change = (struct biller_change){.verb = change->verb, .loop = loop, .done = on_done, .owner = change};
    memcpy(change->_change.id, change->id, sizeof change->id);
    biller_post(biller, &change->_change);
}
