/* `tollgate keys new`: make a key, keep its digest, show it once. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <jansson.h>

#include "auth/key.h"
#include "conf/keys_file.h"
#include "conf/schema.h"
#include "conf/suggest.h"
#include "conf/value.h"
#include "gateway/command.h"

static const char NAME[] = "keys new";
enum { USER_BYTES_MAX = 256, PATTERN_BYTES_MAX = 128 };

/* What was asked for, as it stands in argv; NULL = not given. */
struct wish {
    const char *config;
    const char *tenant;
    const char *name;
    const char *environment;
    const char *user;
    const char *expires;
    const char *models;
    const char *endpoints;
    bool json;
};

/* A new key; its maker wipes it. */
struct new_key {
    char text[KEY_TEXT_BYTES];
    char id[KEY_ID_CHARACTERS + 1];
};

/* The keys file has one record a line, its fields between spaces: no value may hold one, nor what begins a comment. */
static bool is_one_word(struct text value, size_t bytes_max)
{
    if (value.length < 1 || value.length > bytes_max) {
        return false;
    }
    for (size_t i = 0; i < value.length; i++) {
        unsigned char c = (unsigned char) value.at[i];
        if (c <= ' ' || c == 0x7f || c == '#') {
            return false;
        }
    }
    return true;
}

/* Cut the part before the next ',' off *@list. False when nothing is left. */
static bool next_item(struct text *list, struct text *ret_item)
{
    if (list->at == NULL) {
        return false;
    }
    const char *comma = list->length == 0 ? NULL : memchr(list->at, ',', list->length);
    if (comma == NULL) {
        *ret_item = *list;
        *list = (struct text){NULL, 0};
        return true;
    }
    *ret_item = (struct text){list->at, (size_t) (comma - list->at)};
    list->length -= ret_item->length + 1;
    list->at = comma + 1;
    return true;
}

static bool models_are_valid(struct text list)
{
    struct text pattern;
    while (next_item(&list, &pattern)) {
        if (!is_one_word(pattern, PATTERN_BYTES_MAX)) {
            return false;
        }
    }
    return true;
}

/* COMMAND_DONE, or COMMAND_USAGE after saying which one is no endpoint. */
static int check_endpoints(struct text list)
{
    struct text name;
    while (next_item(&list, &name)) {
        bool known = false;
        struct suggestion near = {0};
        for (size_t i = 0; i < ENDPOINT_COUNT; i++) {
            known = known || text_equal(name, text_of(ENDPOINT_NAMES[i]));
            suggest_look_at(&near, name, ENDPOINT_NAMES[i]);
        }
        if (!known && near.best != NULL) {
            return command_usage_error(NAME, "--endpoints: no endpoint is called \"%.*s\"; did you mean \"%s\"?",
                                       TEXT_ARGUMENTS(name), near.best);
        }
        if (!known) {
            return command_usage_error(NAME,
                                       "--endpoints: no endpoint is called \"%.*s\"; there are completions, "
                                       "chat, embeddings and models",
                                       TEXT_ARGUMENTS(name));
        }
    }
    return COMMAND_DONE;
}

/* "90d" from @now on, or a date. False when it is neither, or not in the future. */
static bool parse_expiry(struct text text, wall_ms now, wall_ms *ret)
{
    int64_t duration;
    wall_ms expires;
    if (value_duration_ms(text, &duration)) {
        if (__builtin_add_overflow(now, duration, &expires)) {
            return false;
        }
    } else if (!value_date(text, &expires)) {
        return false;
    }
    static const wall_ms YEAR_10000 = INT64_C(253402300800000); /* RFC 3339 has four digits for the year */
    if (expires <= now || expires >= YEAR_10000) {
        return false;
    }
    *ret = expires;
    return true;
}

/* Everything about @wish that needs no configuration; on COMMAND_DONE the record has all but name and digest. */
static int check_wish(const struct wish *wish, struct keys_file_record *ret)
{
    if (wish->tenant == NULL) {
        return command_usage_error(NAME, "--tenant is missing: whose key is it?");
    }
    if (!key_environment_is_valid(text_of(wish->environment))) {
        return command_usage_error(NAME, "--env is 1 to 8 of a-z and 0-9");
    }
    if (wish->name != NULL && !setting_is_name(text_of(wish->name))) {
        return command_usage_error(NAME, "--name is 1 to %d letters, digits and . _ : / -", SETTING_NAME_BYTES_MAX);
    }
    if (wish->user != NULL && !is_one_word(text_of(wish->user), USER_BYTES_MAX)) {
        return command_usage_error(NAME, "--user is one word without '#', of at most %d bytes", USER_BYTES_MAX);
    }
    struct keys_file_record record = {.tenant = text_of(wish->tenant),
                                      .name = text_of(wish->name),
                                      .user = text_of(wish->user),
                                      .models = text_of(wish->models),
                                      .endpoints = text_of(wish->endpoints)};
    if (wish->expires != NULL && !parse_expiry(text_of(wish->expires), clock_wall_ms(), &record.expires_wall_ms)) {
        return command_usage_error(NAME, "--expires is a time to come: 90d, 2027-01-01 or 2027-01-01T00:00:00Z");
    }
    if (wish->models != NULL && !models_are_valid(record.models)) {
        return command_usage_error(NAME, "--models is a list of names or patterns: gemma-*,llama");
    }
    if (wish->endpoints != NULL && check_endpoints(record.endpoints) != COMMAND_DONE) {
        return COMMAND_USAGE;
    }
    *ret = record;
    return COMMAND_DONE;
}

static int check_tenant(const struct policy *policy, struct text tenant)
{
    struct suggestion near = {0};
    for (size_t i = 0; i < policy->tenant_count; i++) {
        if (text_equal(tenant, text_of(policy->tenants[i].name))) {
            return COMMAND_DONE;
        }
        suggest_look_at(&near, tenant, policy->tenants[i].name);
    }
    if (near.best != NULL) {
        return command_fail(NAME, "no tenant is called \"%.*s\"; did you mean \"%s\"?", TEXT_ARGUMENTS(tenant),
                            near.best);
    }
    return command_fail(NAME, "no tenant is called \"%.*s\" in %s: add it under `tenants:` first",
                        TEXT_ARGUMENTS(tenant), policy->file);
}

static bool name_is_taken(const struct policy *policy, const struct keys_file_record *record)
{
    for (size_t i = 0; i < policy->key_count; i++) {
        const struct key *key = &policy->keys[i];
        if (text_equal(record->tenant, text_of(key->tenant->name)) && text_equal(record->name, text_of(key->name))) {
            return true;
        }
    }
    return false;
}

static int show(const struct new_key *key, const struct keys_file_record *record, bool json)
{
    if (json) {
        char sha256[65];
        text_hex(sha256, record->sha256, sizeof(record->sha256));
        return command_print_json(NAME, json_pack("{s:s, s:s, s:s%, s:s%, s:s}", "key", key->text, "id", key->id,
                                                  "tenant", record->tenant.at, record->tenant.length, "name",
                                                  record->name.at, record->name.length, "sha256", sha256));
    }
    puts(key->text);
    if (isatty(STDOUT_FILENO) == 1) {
        fputs("This is shown once. `tollgate reload` puts it in force.\n", stderr);
    }
    return COMMAND_DONE;
}

/* The record's digest before the key's text: what was shown is always there, whatever fails. */
static int add_key(const struct policy *policy, const struct keys_file_record *wanted, const struct wish *wish)
{
    struct new_key key;
    struct keys_file_record record = *wanted;
    if (!key_make(wish->environment, key.text, key.id) || !key_digest(text_of(key.text), record.sha256)) {
        explicit_bzero(&key, sizeof(key));
        return command_fail(NAME, "the system gives no random numbers, or memory is exhausted");
    }
    if (wish->name == NULL) {
        record.name = text_of(key.id);
    }
    int exit_code;
    if (name_is_taken(policy, &record)) {
        exit_code = command_fail(NAME, "tenant %.*s has a key called \"%.*s\" already", TEXT_ARGUMENTS(record.tenant),
                                 TEXT_ARGUMENTS(record.name));
    } else if (!keys_file_append(policy->keys_file, &record)) {
        exit_code = command_fail(NAME, "%s: %s", policy->keys_file,
                                 errno == EINVAL ? "the record would not fit into one line" : strerror(errno));
    } else {
        exit_code = show(&key, &record, wish->json);
    }
    explicit_bzero(&key, sizeof(key));
    return exit_code;
}

static int add_to(const char *file, const struct keys_file_record *record, const struct wish *wish)
{
    const struct policy *policy = command_load(NAME, file);
    if (policy == NULL) {
        return COMMAND_FAILED;
    }
    int exit_code = check_tenant(policy, record->tenant);
    if (exit_code == COMMAND_DONE && policy->keys_file == NULL) {
        exit_code = command_fail(NAME, "%s names no file for new keys: add the line `keys_file: keys` to it", file);
    }
    if (exit_code == COMMAND_DONE) {
        exit_code = add_key(policy, record, wish);
    }
    policy_drop(&policy);
    return exit_code;
}

static int keys_new(const struct wish *wish)
{
    struct keys_file_record record = {0};
    int exit_code = check_wish(wish, &record);
    if (exit_code != COMMAND_DONE) {
        return exit_code;
    }
    const char *file = command_config_file(NAME, wish->config);
    if (file == NULL) {
        return COMMAND_FAILED;
    }
    int lock = open(file, O_RDONLY | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX) != 0) { /* two at once could both find the same name free */
        exit_code = command_fail(NAME, "%s: %s", file, strerror(errno));
    } else {
        exit_code = add_to(file, &record, wish);
    }
    if (lock >= 0) {
        close(lock);
    }
    return exit_code;
}

int command_keys_new(int argc, char **argv)
{
    struct wish wish = {0};
    const struct command_option options[] = {
        {.name = "tenant", .value_name = "TENANT", .help = "whose key it is (required)", .value = &wish.tenant},
        {.name = "name",
         .value_name = "NAME",
         .help = "what logs call it; default: the id in the key",
         .value = &wish.name},
        {.name = "env",
         .value_name = "WORD",
         .help = "the word after tg_ in the key; default live",
         .value = &wish.environment},
        {.name = "user", .value_name = "USER", .help = "who will use it", .value = &wish.user},
        {.name = "expires",
         .value_name = "WHEN",
         .help = "90d, 12h, 2027-01-01 or 2027-01-01T00:00:00Z",
         .value = &wish.expires},
        {.name = "models", .value_name = "PATTERNS", .help = "only these models: gemma-*,llama", .value = &wish.models},
        {.name = "endpoints",
         .value_name = "NAMES",
         .help = "only these: completions,chat,embeddings,models",
         .value = &wish.endpoints},
        COMMAND_OPTION_CONFIG(&wish.config),
        COMMAND_OPTION_JSON(&wish.json),
    };
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "--tenant TENANT [OPTIONS]",
        .about = "Make an API key and print it, once: the configuration's `keys_file` gets its SHA-256 and what it\n"
                 "may do, never the key. `tollgate reload` puts it in force.\n\n"
                 "Exit codes: 0 made, 1 not made, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code)) {
        return exit_code;
    }
    if (wish.environment == NULL) {
        wish.environment = "live";
    }
    return keys_new(&wish);
}
