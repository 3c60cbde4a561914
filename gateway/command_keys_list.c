/* `tollgate keys list`: the keys of a configuration, without their secrets, which are nowhere. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "conf/keys_file.h"
#include "gateway/command.h"

static const char NAME[] = "keys list";
enum { CELL_BYTES = 512, DIGEST_CHARACTERS = 12 };

/* One key and where its record stands: a line of the keys file, or 0 = in YAML. */
struct listed {
    const struct key *key;
    unsigned long line;
};

struct listing {
    const struct policy *policy;
    wall_ms now;
    struct listed *keys; /* key_count of the policy; in its order while lines are looked up, then in that of the list */
};

static const char *state_of(const struct listing *listing, const struct key *key)
{
    if (key->disabled) {
        return "disabled";
    }
    if (key->tenant->disabled) {
        return "tenant disabled";
    }
    return key->expires_wall_ms != 0 && listing->now >= key->expires_wall_ms ? "expired" : "active";
}

typedef void add_cell(struct builder *to, const struct listing *listing, const struct listed *listed);

static void add_tenant(struct builder *to, const struct listing *listing, const struct listed *listed)
{
    (void) listing;
    builder_add_string(to, listed->key->tenant->name);
}

static void add_name(struct builder *to, const struct listing *listing, const struct listed *listed)
{
    (void) listing;
    builder_add_string(to, listed->key->name);
}

static void add_user(struct builder *to, const struct listing *listing, const struct listed *listed)
{
    (void) listing;
    builder_add_string(to, listed->key->user[0] != '\0' ? listed->key->user : "-");
}

static void add_state(struct builder *to, const struct listing *listing, const struct listed *listed)
{
    builder_add_string(to, state_of(listing, listed->key));
}

static void add_expiry(struct builder *to, const struct listing *listing, const struct listed *listed)
{
    (void) listing;
    char when[CLOCK_TEXT_BYTES];
    wall_ms expires = listed->key->expires_wall_ms;
    builder_add_string(to, expires == 0 ? "never" : clock_text(expires, when));
}

static void add_models(struct builder *to, const struct listing *listing, const struct listed *listed)
{
    (void) listing;
    const struct scopes *scopes = &listed->key->scopes;
    for (size_t i = 0; i < scopes->model_pattern_count; i++) {
        builder_format(to, "%s%s", i > 0 ? "," : "", scopes->model_patterns[i]);
    }
    if (scopes->model_pattern_count == 0) {
        builder_add_string(to, scopes->models_limited ? "none" : "all");
    }
}

static void add_endpoints(struct builder *to, const struct listing *listing, const struct listed *listed)
{
    (void) listing;
    const struct scopes *scopes = &listed->key->scopes;
    size_t before = to->length;
    for (size_t i = 0; i < ENDPOINT_COUNT; i++) {
        if (scopes->endpoints_limited && (scopes->endpoint_bits & (1u << i)) != 0) {
            builder_format(to, "%s%s", to->length > before ? "," : "", ENDPOINT_NAMES[i]);
        }
    }
    if (to->length == before) {
        builder_add_string(to, scopes->endpoints_limited ? "none" : "all");
    }
}

static void add_digest(struct builder *to, const struct listing *listing, const struct listed *listed)
{
    (void) listing;
    char sha256[65];
    text_hex(sha256, listed->key->sha256, sizeof(listed->key->sha256));
    builder_add(to, (struct text){sha256, DIGEST_CHARACTERS});
}

static void add_place(struct builder *to, const struct listing *listing, const struct listed *listed)
{
    if (listed->line == 0) {
        builder_add_string(to, "YAML");
    } else {
        builder_format(to, "%s:%lu", listing->policy->keys_file, listed->line);
    }
}

static const struct {
    const char *heading;
    add_cell *add;
} COLUMNS[] = {
    {"TENANT", add_tenant},       {"NAME", add_name},      {"USER", add_user},
    {"STATE", add_state},         {"EXPIRES", add_expiry}, {"MODELS", add_models},
    {"ENDPOINTS", add_endpoints}, {"SHA256", add_digest},  {"WHERE", add_place},
};
enum { COLUMN_COUNT = sizeof(COLUMNS) / sizeof(COLUMNS[0]) };

/* The cell's text in @memory; what does not fit is shown as cut. */
static const char *cell(const struct listing *listing, size_t row, size_t column, char memory[CELL_BYTES])
{
    struct builder to;
    builder_init(&to, memory, CELL_BYTES - 3);
    COLUMNS[column].add(&to, listing, &listing->keys[row]);
    const char *text = builder_string(&to);
    if (to.overflowed) {
        memcpy(memory + to.length, "...", 4);
    }
    return text;
}

static void print_table(const struct listing *listing)
{
    char memory[CELL_BYTES];
    size_t widths[COLUMN_COUNT];
    for (size_t column = 0; column < COLUMN_COUNT; column++) {
        widths[column] = strlen(COLUMNS[column].heading);
        for (size_t row = 0; row < listing->policy->key_count; row++) {
            size_t width = strlen(cell(listing, row, column, memory));
            widths[column] = width > widths[column] ? width : widths[column];
        }
    }
    widths[COLUMN_COUNT - 1] = 0; /* nothing follows */
    for (size_t column = 0; column < COLUMN_COUNT; column++) {
        printf("%-*s%s", (int) widths[column], COLUMNS[column].heading, column + 1 < COLUMN_COUNT ? "  " : "\n");
    }
    for (size_t row = 0; row < listing->policy->key_count; row++) {
        for (size_t column = 0; column < COLUMN_COUNT; column++) {
            printf("%-*s%s", (int) widths[column], cell(listing, row, column, memory),
                   column + 1 < COLUMN_COUNT ? "  " : "\n");
        }
    }
}

/* null = not limited. */
static json_t *models_json(const struct scopes *scopes)
{
    if (!scopes->models_limited) {
        return json_null();
    }
    json_t *list = json_array();
    for (size_t i = 0; i < scopes->model_pattern_count; i++) {
        json_array_append_new(list, json_string(scopes->model_patterns[i]));
    }
    return list;
}

static json_t *endpoints_json(const struct scopes *scopes)
{
    if (!scopes->endpoints_limited) {
        return json_null();
    }
    json_t *list = json_array();
    for (size_t i = 0; i < ENDPOINT_COUNT; i++) {
        if ((scopes->endpoint_bits & (1u << i)) != 0) {
            json_array_append_new(list, json_string(ENDPOINT_NAMES[i]));
        }
    }
    return list;
}

static json_t *key_json(const struct listing *listing, size_t row)
{
    const struct listed *listed = &listing->keys[row];
    const struct key *key = listed->key;
    char memory[CELL_BYTES];
    char when[CLOCK_TEXT_BYTES];
    struct builder digest;
    builder_init(&digest, memory, sizeof(memory));
    add_digest(&digest, listing, listed);
    json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:s}", "tenant", key->tenant->name, "name", key->name, "user",
                             key->user, "state", state_of(listing, key), "sha256_prefix", builder_string(&digest));
    if (json == NULL) {
        return NULL;
    }
    json_object_set_new(json, "expires",
                        key->expires_wall_ms == 0 ? json_null() : json_string(clock_text(key->expires_wall_ms, when)));
    json_object_set_new(json, "models", models_json(&key->scopes));
    json_object_set_new(json, "endpoints", endpoints_json(&key->scopes));
    json_object_set_new(json, "keys_file", listed->line == 0 ? json_null() : json_string(listing->policy->keys_file));
    json_object_set_new(json, "line", listed->line == 0 ? json_null() : json_integer((json_int_t) listed->line));
    return json;
}

static int print_json(const struct listing *listing)
{
    json_t *list = json_array();
    for (size_t row = 0; row < listing->policy->key_count; row++) {
        if (json_array_append_new(list, key_json(listing, row)) != 0) {
            json_decref(list);
            list = NULL;
            break;
        }
    }
    return command_print_json(NAME, list);
}

/* The digest of a record says which of the policy's keys it made. */
static void note_line(struct listing *listing, struct text line, unsigned long number)
{
    struct keys_file_record record;
    const char *error;
    size_t column;
    if (keys_file_parse_line(line, &record, &error, &column) != KEYS_FILE_RECORD) {
        return;
    }
    const struct key *key = policy_key(listing->policy, record.sha256);
    if (key != NULL) {
        listing->keys[key - listing->policy->keys].line = number;
    }
}

/* Best effort: the file may have changed since the policy was loaded, or not be there. */
static void find_lines(struct listing *listing)
{
    FILE *file = listing->policy->keys_file == NULL ? NULL : fopen(listing->policy->keys_file, "re");
    if (file == NULL) {
        return;
    }
    char *line = NULL;
    size_t capacity = 0;
    unsigned long number = 0;
    for (ssize_t length; (length = getline(&line, &capacity, file)) > 0;) {
        if (line[length - 1] == '\n') {
            length--;
        }
        note_line(listing, (struct text){line, (size_t) length}, ++number);
    }
    free(line);
    fclose(file);
}

static int by_tenant_and_name(const void *a, const void *b)
{
    const struct key *left = ((const struct listed *) a)->key;
    const struct key *right = ((const struct listed *) b)->key;
    int order = strcmp(left->tenant->name, right->tenant->name);
    return order != 0 ? order : strcmp(left->name, right->name);
}

static int list_keys(const struct policy *policy, bool json)
{
    struct listing listing = {
        .policy = policy, .now = clock_wall_ms(), .keys = calloc(policy->key_count + 1, sizeof(struct listed))};
    if (listing.keys == NULL) {
        return command_fail(NAME, "memory is exhausted");
    }
    for (size_t i = 0; i < policy->key_count; i++) {
        listing.keys[i].key = &policy->keys[i];
    }
    find_lines(&listing);
    qsort(listing.keys, policy->key_count, sizeof(struct listed), by_tenant_and_name);
    int exit_code = COMMAND_DONE;
    if (json) {
        exit_code = print_json(&listing);
    } else {
        print_table(&listing);
    }
    free(listing.keys);
    return exit_code;
}

int command_keys_list(int argc, char **argv)
{
    const char *config = NULL;
    bool json = false;
    const struct command_option options[] = {COMMAND_OPTION_CONFIG(&config), COMMAND_OPTION_JSON(&json)};
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "[--config FILE] [--json]",
        .about = "List the keys that a configuration has, from YAML and from its `keys_file`: whose, what they may\n"
                 "do within what their tenant may, until when, and the start of their SHA-256.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code)) {
        return exit_code;
    }
    const char *file = command_config_file(NAME, config);
    const struct policy *policy = file == NULL ? NULL : command_load(NAME, file);
    if (policy == NULL) {
        return COMMAND_FAILED;
    }
    exit_code = list_keys(policy, json);
    policy_drop(&policy);
    return exit_code;
}
