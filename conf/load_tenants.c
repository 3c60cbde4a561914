/* The tenants, from the main file, tenants_dir and the keys file, and their keys. */
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "conf/address.h"
#include "conf/files.h"
#include "conf/keys_file.h"
#include "conf/loading.h"
#include "conf/suggest.h"

enum { SCOPE_LIST_MAX = 64 };
static const struct scopes EVERYTHING;

/* A tenant's map, wherever it was written. */
struct tenant_source {
    struct text name;
    struct node *map;
    struct place place;
};

/* A key, with its place for errors. */
struct key_draft {
    struct key key;
    struct place place;
    bool has_digest;
};

struct tenants_loading {
    struct loading *loading;
    size_t source_count;
    struct tenant_source *sources; /* sorted by name */
    struct tenant *tenants;        /* one for each source */
    size_t draft_count;
    size_t draft_capacity;
    struct key_draft *drafts;
    struct limits tenant_presets;
    struct limits key_presets;
};

static struct text tenant_name_of_file(const char *path)
{
    const char *slash = strrchr(path, '/');
    struct text name = text_of(slash != NULL ? slash + 1 : path);
    const char *dot = memrchr(name.at, '.', name.length);
    return (struct text){name.at, dot != NULL ? (size_t) (dot - name.at) : name.length};
}

static void add_source(struct tenants_loading *tenants, struct text name, struct node *map, struct place place)
{
    tenants->sources[tenants->source_count++] = (struct tenant_source){name, map, place};
}

static void add_tenant_file(struct tenants_loading *tenants, const struct bundle_file *file)
{
    struct loading *loading = tenants->loading;
    struct place start = {file->path, 1, 1};
    struct text name = arena_copy(&loading->documents, tenant_name_of_file(file->path));
    if (!setting_is_name(name)) {
        problem_error(loading->problems, start,
                      "the file's name is no tenant's name: use 1 to %d letters, digits and . _ : - before .yaml",
                      SETTING_NAME_BYTES_MAX);
        return;
    }
    struct node *map = document_parse(file->path, file->bytes, &loading->documents, loading->problems);
    if (map == NULL) {
        /* The tenant is there all the same: its lines in the keys file are not to blame. */
        map = arena_take(&loading->documents, sizeof(*map));
        if (map != NULL)
            add_source(tenants, name, map, start);
        return;
    }
    map->key = name;
    struct schema_context context = {loading->mode, &loading->documents, loading->problems};
    schema_check(&context, SETTING_TENANT, map);
    add_source(tenants, name, map, start);
}

static int compare_sources(const void *a, const void *b)
{
    return strcmp(((const struct tenant_source *) a)->name.at, ((const struct tenant_source *) b)->name.at);
}

/* False when memory is exhausted. */
static bool gather_sources(struct tenants_loading *tenants)
{
    struct loading *loading = tenants->loading;
    const struct bundle *bundle = loading->bundle;
    const struct node *inline_map = setting_node(loading->root, SETTING_TENANTS);
    bool has_inline = inline_map != NULL && inline_map->valid;
    size_t capacity = bundle->file_count + (has_inline ? inline_map->count : 0);
    tenants->sources = arena_take(&loading->documents, capacity * sizeof(*tenants->sources));
    if (tenants->sources == NULL)
        return false;
    for (struct node *map = has_inline ? inline_map->first : NULL; map != NULL; map = map->next)
        add_source(tenants, map->key, map, map->key_place);
    for (size_t i = 0; i < bundle->file_count; i++) {
        if (bundle->files[i].kind == BUNDLE_TENANT)
            add_tenant_file(tenants, &bundle->files[i]);
    }
    qsort(tenants->sources, tenants->source_count, sizeof(*tenants->sources), compare_sources);
    for (size_t i = 1; i < tenants->source_count; i++) {
        const struct tenant_source *one = &tenants->sources[i - 1], *two = &tenants->sources[i];
        bool same_file = strcmp(one->place.file, two->place.file) == 0; /* told when it was parsed */
        struct text other = problem_shown_path(one->place.file);
        if (text_equal(one->name, two->name) && !same_file)
            problem_error(loading->problems, two->place,
                          "the tenant \"%.*s\" is there twice, here and in %.*s: keep one of the two",
                          TEXT_ARGUMENTS(two->name), TEXT_ARGUMENTS(other));
    }
    return true;
}

/* A pattern that no model matches is probably mistyped, but may wait for a model that comes later. */
static void check_pattern(struct loading *loading, struct text pattern, struct place place)
{
    const struct policy *policy = &loading->snapshot->policy;
    if (loading->mode != LOAD_CHECK || policy->model_count == 0)
        return;
    for (size_t i = 0; i < policy->model_count; i++) {
        if (text_matches_glob(text_of(policy->models[i].name), pattern))
            return;
    }
    problem_warning(loading->problems, place,
                    "\"%.*s\" matches no model: scopes are patterns of canonical names, not of aliases",
                    TEXT_ARGUMENTS(pattern));
}

static void load_scope_models(struct loading *loading, const struct node *list, struct scopes *scopes)
{
    const char **patterns = loading_take(loading, list->count, sizeof(*patterns));
    if (patterns == NULL)
        return;
    scopes->models_limited = true;
    for (const struct node *node = list->first; node != NULL; node = node->next) {
        if (!node->valid)
            continue;
        check_pattern(loading, node->value, node->place);
        patterns[scopes->model_pattern_count++] = loading_keep(loading, node->value);
    }
    scopes->model_patterns = patterns;
}

static struct scopes load_scopes(struct loading *loading, const struct node *map, enum setting_id models_id,
                                 enum setting_id endpoints_id)
{
    struct scopes scopes = {0};
    const struct node *models = setting_node(map, models_id), *endpoints = setting_node(map, endpoints_id);
    if (models != NULL && models->valid)
        load_scope_models(loading, models, &scopes);
    if (endpoints == NULL || !endpoints->valid)
        return scopes;
    scopes.endpoints_limited = true;
    for (const struct node *node = endpoints->first; node != NULL; node = node->next) {
        if (node->valid)
            scopes.endpoint_bits |= 1u << node->number;
    }
    return scopes;
}

static void add_draft(struct tenants_loading *tenants, const struct key_draft *draft)
{
    if (tenants->draft_count == tenants->draft_capacity) {
        size_t capacity = tenants->draft_capacity == 0 ? 64 : tenants->draft_capacity * 2;
        struct key_draft *grown = arena_take(&tenants->loading->documents, capacity * sizeof(*grown));
        if (grown == NULL)
            return;
        if (tenants->draft_count > 0)
            memcpy(grown, tenants->drafts, tenants->draft_count * sizeof(*grown));
        tenants->drafts = grown;
        tenants->draft_capacity = capacity;
    }
    tenants->drafts[tenants->draft_count++] = *draft;
}

static void load_key(struct tenants_loading *tenants, const struct node *map, const struct tenant *tenant)
{
    struct loading *loading = tenants->loading;
    const struct node *sha256 = setting_node(map, SETTING_KEY_SHA256), *user = setting_node(map, SETTING_KEY_USER);
    struct key_draft draft = {.place = map->key_place};
    struct key *key = &draft.key;
    key->name = loading_keep(loading, map->key);
    key->tenant = tenant;
    draft.has_digest =
        sha256 != NULL && sha256->valid && text_from_hex(sha256->value, key->sha256, sizeof(key->sha256));
    key->user = user != NULL && user->valid ? loading_keep(loading, user->value) : "";
    key->expires_wall_ms = setting_number(map, SETTING_KEY_EXPIRES);
    key->disabled = setting_number(map, SETTING_KEY_DISABLED) != 0;
    key->scopes = load_scopes(loading, setting_node(map, SETTING_KEY_SCOPES), SETTING_KEY_SCOPE_MODELS,
                              SETTING_KEY_SCOPE_ENDPOINTS);
    const struct node *limits = setting_node(map, SETTING_KEY_LIMITS);
    key->limits = loading_limits(loading, limits, &tenants->key_presets);
    loading_warn_hard_in(loading, limits, &tenant->scopes, &key->scopes);
    add_draft(tenants, &draft);
}

static void load_tenant(struct tenants_loading *tenants, const struct node *map, struct tenant *tenant)
{
    struct loading *loading = tenants->loading;
    const struct node *customer = setting_node(map, SETTING_TENANT_CUSTOMER);
    tenant->customer = customer != NULL && customer->valid ? loading_keep(loading, customer->value) : "";
    tenant->disabled = setting_number(map, SETTING_TENANT_DISABLED) != 0;
    tenant->scopes = load_scopes(loading, setting_node(map, SETTING_TENANT_SCOPES), SETTING_TENANT_SCOPE_MODELS,
                                 SETTING_TENANT_SCOPE_ENDPOINTS);
    const struct node *limits = setting_node(map, SETTING_TENANT_LIMITS);
    tenant->limits = loading_limits(loading, limits, &tenants->tenant_presets);
    loading_warn_hard_in(loading, limits, &tenant->scopes, &EVERYTHING);
    loading_tenant_models(loading, setting_node(map, SETTING_TENANT_MODELS), tenant);
    const struct node *keys = setting_node(map, SETTING_KEYS);
    for (const struct node *key = keys != NULL && keys->valid ? keys->first : NULL; key != NULL; key = key->next) {
        if (key->valid)
            load_key(tenants, key, tenant);
    }
}

static const struct tenant *find_tenant(const struct tenants_loading *tenants, struct text name)
{
    for (size_t low = 0, high = tenants->source_count; low < high;) {
        size_t middle = low + (high - low) / 2;
        struct text here = tenants->sources[middle].name;
        size_t shorter = here.length < name.length ? here.length : name.length;
        int order = memcmp(here.at, name.at, shorter);
        if (order == 0 && here.length == name.length)
            return &tenants->tenants[middle];
        if (order < 0 || (order == 0 && here.length < name.length))
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static void report_unknown_tenant(const struct tenants_loading *tenants, struct text name, struct place place)
{
    struct suggestion suggestion = {0};
    for (size_t i = 0; i < tenants->source_count; i++)
        suggest_look_at(&suggestion, name, tenants->sources[i].name.at);
    if (suggestion.best != NULL)
        problem_error(tenants->loading->problems, place, "unknown tenant \"%.*s\": did you mean \"%s\"?",
                      TEXT_ARGUMENTS(name), suggestion.best);
    else
        problem_error(tenants->loading->problems, place,
                      "unknown tenant \"%.*s\": add it below tenants, or remove the line", TEXT_ARGUMENTS(name));
}

/* The next part of a list with commas; false at its end. */
static bool next_part(struct text *rest, struct text *ret)
{
    if (rest->length == 0)
        return false;
    const char *comma = memchr(rest->at, ',', rest->length);
    size_t length = comma != NULL ? (size_t) (comma - rest->at) : rest->length;
    *ret = (struct text){rest->at, length};
    size_t taken = length + (comma != NULL);
    *rest = (struct text){rest->at + taken, rest->length - taken};
    return true;
}

static struct scopes scopes_of_record(struct loading *loading, const struct keys_file_record *record,
                                      struct place place)
{
    struct scopes scopes = {.models_limited = record->models.length > 0,
                            .endpoints_limited = record->endpoints.length > 0};
    struct text models = record->models, endpoints = record->endpoints, part;
    const char **patterns = loading_take(loading, SCOPE_LIST_MAX, scopes.models_limited ? sizeof(*patterns) : 0);
    while (patterns != NULL && scopes.model_pattern_count < SCOPE_LIST_MAX && next_part(&models, &part)) {
        check_pattern(loading, part, place);
        patterns[scopes.model_pattern_count++] = loading_keep(loading, part);
    }
    if (models.length > 0 && patterns != NULL)
        problem_error(loading->problems, place, "more than %d patterns of models", SCOPE_LIST_MAX);
    scopes.model_patterns = patterns;
    while (next_part(&endpoints, &part)) {
        int64_t number;
        if (setting_parse(TYPE_ENDPOINT, part, &number))
            scopes.endpoint_bits |= 1u << number;
        else
            problem_error(loading->problems, place, "\"%.*s\" is not one of completions, chat, embeddings, models",
                          TEXT_ARGUMENTS(part));
    }
    return scopes;
}

static void add_record(struct tenants_loading *tenants, const struct keys_file_record *record, struct place place)
{
    struct loading *loading = tenants->loading;
    const struct tenant *tenant = find_tenant(tenants, record->tenant);
    if (tenant == NULL) {
        report_unknown_tenant(tenants, record->tenant, place);
        return;
    }
    struct key_draft draft = {.place = place, .has_digest = true};
    struct key *key = &draft.key;
    key->name = loading_keep(loading, record->name);
    key->tenant = tenant;
    memcpy(key->sha256, record->sha256, sizeof(key->sha256));
    key->user = loading_keep(loading, record->user);
    key->expires_wall_ms = record->expires_wall_ms;
    key->disabled = record->disabled;
    key->scopes = scopes_of_record(loading, record, place);
    key->limits = tenants->key_presets;
    add_draft(tenants, &draft);
}

static void load_keys_file(struct tenants_loading *tenants, const struct bundle_file *file)
{
    struct text rest = file->bytes;
    for (struct place place = {file->path, 1, 1}; rest.length > 0; place.line++) {
        const char *end = memchr(rest.at, '\n', rest.length);
        size_t length = end != NULL ? (size_t) (end - rest.at) : rest.length;
        struct text line = {rest.at, length};
        size_t taken = length + (end != NULL);
        rest = (struct text){rest.at + taken, rest.length - taken};

        struct keys_file_record record;
        const char *error;
        size_t column;
        enum keys_file_result result = keys_file_parse_line(line, &record, &error, &column);
        if (result == KEYS_FILE_BAD)
            problem_error(tenants->loading->problems, (struct place){place.file, place.line, (unsigned) column + 1},
                          "%s", error);
        if (result == KEYS_FILE_RECORD)
            add_record(tenants, &record, place);
    }
}

static int compare_drafts_by_name(const void *a, const void *b)
{
    const struct key_draft *left = a, *right = b;
    if (left->key.tenant != right->key.tenant)
        return left->key.tenant < right->key.tenant ? -1 : 1;
    return strcmp(left->key.name, right->key.name);
}

static int compare_drafts_by_digest(const void *a, const void *b)
{
    const struct key_draft *left = a, *right = b;
    int order = memcmp(left->key.sha256, right->key.sha256, sizeof(left->key.sha256));
    if (order != 0)
        return order;
    int file_order = strcmp(left->place.file, right->place.file);
    if (file_order != 0)
        return file_order;
    return left->place.line < right->place.line ? -1 : left->place.line > right->place.line;
}

static void check_key_names(const struct tenants_loading *tenants)
{
    if (tenants->draft_count > 1)
        qsort(tenants->drafts, tenants->draft_count, sizeof(*tenants->drafts), compare_drafts_by_name);
    for (size_t i = 1; i < tenants->draft_count; i++) {
        const struct key_draft *one = &tenants->drafts[i - 1], *two = &tenants->drafts[i];
        if (compare_drafts_by_name(one, two) != 0)
            continue;
        struct text other = problem_shown_path(one->place.file);
        problem_error(tenants->loading->problems, two->place,
                      "the tenant \"%s\" has another key \"%s\" on line %u of %.*s: give it another name",
                      two->key.tenant->name, two->key.name, one->place.line, TEXT_ARGUMENTS(other));
    }
}

static void keep_keys(struct tenants_loading *tenants)
{
    struct policy *policy = &tenants->loading->snapshot->policy;
    check_key_names(tenants);
    if (tenants->draft_count > 1)
        qsort(tenants->drafts, tenants->draft_count, sizeof(*tenants->drafts), compare_drafts_by_digest);
    struct key *keys = loading_take(tenants->loading, tenants->draft_count, sizeof(*keys));
    for (size_t i = 0; keys != NULL && i < tenants->draft_count; i++) {
        const struct key_draft *draft = &tenants->drafts[i];
        keys[i] = draft->key;
        bool twice = i > 0 && draft->has_digest && draft[-1].has_digest &&
                     memcmp(draft->key.sha256, draft[-1].key.sha256, sizeof(draft->key.sha256)) == 0;
        if (twice)
            problem_error(tenants->loading->problems, draft->place,
                          "the key \"%s\" has the same sha256 as \"%s\" of tenant \"%s\": remove one of the two",
                          draft->key.name, draft[-1].key.name, draft[-1].key.tenant->name);
    }
    policy->keys = keys;
    policy->key_count = keys != NULL ? tenants->draft_count : 0;
}

/* What bundle_read could not read is told at the setting that names it. */
static void report_unreadable(struct loading *loading, const struct bundle_file *file)
{
    const enum setting_id settings[] = {SETTING_TENANTS_DIR, SETTING_KEYS_FILE};
    struct place place = {file->path, 1, 1};
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        const struct node *node = setting_node(loading->root, settings[i]);
        struct text path = {0};
        if (node != NULL && node->valid)
            path = file_path_from(loading->main_file, node->value, &loading->documents);
        if (path.at == NULL || !text_equal(path, text_of(file->path)))
            continue;
        problem_error(loading->problems, node->place, "%s cannot be read: %.*s", setting_name(settings[i]),
                      TEXT_ARGUMENTS(file->bytes));
        return;
    }
    problem_error(loading->problems, place, "cannot be read: %.*s", TEXT_ARGUMENTS(file->bytes));
}

static void load_named_files(struct tenants_loading *tenants)
{
    struct loading *loading = tenants->loading;
    const struct node *keys_file = setting_node(loading->root, SETTING_KEYS_FILE);
    for (size_t i = 0; i < loading->bundle->file_count; i++) {
        const struct bundle_file *file = &loading->bundle->files[i];
        if (file->kind == BUNDLE_KEYS)
            load_keys_file(tenants, file);
        else if (file->kind == BUNDLE_UNREADABLE)
            report_unreadable(loading, file);
        else if (file->kind == BUNDLE_KEYS_MISSING && keys_file != NULL && loading->mode == LOAD_CHECK)
            problem_warning(loading->problems, keys_file->place,
                            "the keys file does not exist yet: `tollgate keys new` makes it");
    }
}

/* A gateway that nobody can use is told; one that is open to the network by mistake is refused. */
static void check_any_key(struct loading *loading)
{
    const struct policy *policy = &loading->snapshot->policy;
    if (policy->key_count > 0 || loading->problems->errors > 0)
        return; /* with errors, keys may be missing for another reason */
    const struct node *listen = setting_node(loading->root, SETTING_LISTEN);
    struct place place = listen != NULL ? listen->place : (struct place){loading->main_file, 1, 1};
    bool local = policy->listen.kind == LISTEN_UNIX || address_is_loopback(text_of(policy->listen.host));
    if (!local)
        problem_error(loading->problems, place,
                      "listen is open to the network, but there is no API key: add one below tenants.<name>.keys, or "
                      "listen on 127.0.0.1");
    else
        problem_warning(loading->problems, place,
                        "there is no API key, so every request will be refused: add one below tenants.<name>.keys, or "
                        "with `tollgate keys new`");
}

/* Told once here, not again for each tenant and key. */
static struct limits load_presets(struct loading *loading, enum setting_id kind, enum setting_id limits_id)
{
    const struct node *map = setting_node(setting_node(setting_node(loading->root, SETTING_DEFAULTS), kind), limits_id);
    loading_warn_hard_in(loading, map, &EVERYTHING, &EVERYTHING);
    return loading_limits(loading, map, NULL);
}

void load_tenants(struct loading *loading)
{
    struct policy *policy = &loading->snapshot->policy;
    struct tenants_loading tenants = {
        .loading = loading,
        .tenant_presets = load_presets(loading, SETTING_DEFAULTS_TENANT, SETTING_DEFAULTS_TENANT_LIMITS),
        .key_presets = load_presets(loading, SETTING_DEFAULTS_KEY, SETTING_DEFAULTS_KEY_LIMITS),
    };
    policy->user_limits = load_presets(loading, SETTING_DEFAULTS_USER, SETTING_DEFAULTS_USER_LIMITS);
    if (!gather_sources(&tenants))
        return;
    tenants.tenants = loading_take(loading, tenants.source_count, sizeof(*tenants.tenants));
    if (tenants.tenants == NULL)
        return;
    for (size_t i = 0; i < tenants.source_count; i++) {
        tenants.tenants[i].name = loading_keep(loading, tenants.sources[i].name);
        tenants.tenants[i].customer = "";
        if (tenants.sources[i].map->valid)
            load_tenant(&tenants, tenants.sources[i].map, &tenants.tenants[i]);
    }
    load_named_files(&tenants);
    policy->tenants = tenants.tenants;
    policy->tenant_count = tenants.source_count;
    keep_keys(&tenants);
    check_any_key(loading);
}
