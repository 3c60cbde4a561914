/* The models section: names that are told apart, engines that can be started or reached. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf/address.h"
#include "conf/files.h"
#include "conf/loading.h"

enum { PROGRAM_PATH_BYTES_MAX = 4096 };

static const char *variable_of(const struct engine *engine, const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < engine->environment_count; i++) {
        if (strncmp(engine->environment[i], name, length) == 0 && engine->environment[i][length] == '=')
            return engine->environment[i] + length + 1;
    }
    return getenv(name);
}

static bool is_program(const char *directory, struct text part, struct text program)
{
    char path[PROGRAM_PATH_BYTES_MAX];
    struct builder to;
    builder_init(&to, path, sizeof(path));
    bool absolute = text_starts_with(program, TEXT("/")) || text_starts_with(part, TEXT("/"));
    if (!absolute)
        builder_format(&to, "%s/", directory);
    if (part.length > 0)
        builder_format(&to, "%.*s/", TEXT_ARGUMENTS(part));
    builder_add(&to, program);
    return !to.overflowed && access(builder_string(&to), X_OK) == 0;
}

/* As execvp would find it in the engine's directory. */
static bool program_exists(const struct engine *engine)
{
    struct text program = text_of(engine->arguments[0]);
    if (memchr(program.at, '/', program.length) != NULL)
        return is_program(engine->working_directory, TEXT(""), program);
    const char *path = variable_of(engine, "PATH");
    for (const char *part = path != NULL ? path : "/usr/local/bin:/usr/bin:/bin"; part != NULL;) {
        const char *colon = strchr(part, ':');
        struct text directory = {part, colon != NULL ? (size_t) (colon - part) : strlen(part)};
        if (is_program(engine->working_directory, directory, program))
            return true;
        part = colon != NULL ? colon + 1 : NULL;
    }
    return false;
}

static bool has_placeholder(const struct engine *engine, const char *placeholder)
{
    for (size_t i = 0; i < engine->argument_count; i++) {
        if (strstr(engine->arguments[i], placeholder) != NULL)
            return true;
    }
    return false;
}

static void check_spawn(struct loading *loading, const struct node *spawn, const struct engine *engine)
{
    bool socket = has_placeholder(engine, "{socket}"), port = has_placeholder(engine, "{port}");
    if (!socket && !port)
        problem_error(loading->problems, spawn->place,
                      "spawn has neither {socket} nor {port}: put one where the program takes its address, such as "
                      "--socket, \"{socket}\"");
    if (socket && port)
        problem_error(loading->problems, spawn->place, "spawn has both {socket} and {port}: use one of them");
    if (engine->arguments[0][0] == '\0')
        problem_error(loading->problems, spawn->first->place, "the program's name is empty");
    else if (!program_exists(engine))
        problem_warning(loading->problems, spawn->first->place, "there is no program %.200s", engine->arguments[0]);
}

static void load_spawn(struct loading *loading, const struct node *spawn, struct engine *engine)
{
    const char **arguments = loading_take(loading, spawn->count + 1, sizeof(*arguments));
    if (arguments == NULL)
        return;
    bool all_known = spawn->count > 0;
    for (const struct node *node = spawn->first; node != NULL; node = node->next) {
        arguments[engine->argument_count++] = node->valid ? loading_keep(loading, node->value) : "";
        all_known = all_known && node->valid;
    }
    engine->arguments = arguments;
    engine->working_directory = loading_keep(loading, file_directory(text_of(loading->main_file)));
    if (all_known)
        check_spawn(loading, spawn, engine);
}

static int compare_variables(const void *a, const void *b)
{
    const char *left = *(const char *const *) a, *right = *(const char *const *) b;
    size_t left_length = strcspn(left, "="), right_length = strcspn(right, "=");
    int order = memcmp(left, right, left_length < right_length ? left_length : right_length);
    if (order != 0)
        return order;
    return left_length < right_length ? -1 : left_length > right_length;
}

static void load_environment(struct loading *loading, const struct node *map, struct engine *engine)
{
    const char **variables = loading_take(loading, map->count, sizeof(*variables));
    if (variables == NULL)
        return;
    for (const struct node *node = map->first; node != NULL; node = node->next) {
        size_t capacity = node->key.length + node->value.length + 2;
        char *memory = loading_take(loading, capacity, 1);
        if (memory == NULL)
            return;
        struct builder to;
        builder_init(&to, memory, capacity);
        builder_add(&to, node->key);
        builder_add_string(&to, "=");
        builder_add(&to, node->value);
        variables[engine->environment_count++] = builder_string(&to);
    }
    qsort(variables, engine->environment_count, sizeof(*variables), compare_variables);
    engine->environment = variables;
}

/* Settings that have no meaning beside spawn, or beside url. */
static void check_company(struct loading *loading, const struct node *map)
{
    const struct node *spawn = setting_node(map, SETTING_ENGINE_SPAWN), *url = setting_node(map, SETTING_ENGINE_URL);
    const struct node *environment = setting_node(map, SETTING_ENGINE_ENV);
    const struct node *api_key_file = setting_node(map, SETTING_ENGINE_API_KEY_FILE);
    if (spawn != NULL && url != NULL)
        problem_error(loading->problems, map->place,
                      "an engine has either spawn (it is started) or url (it runs already), not both");
    else if (spawn == NULL && url == NULL)
        problem_error(loading->problems, map->place,
                      "an engine needs spawn (a program to start) or url (of one that runs already)");
    if (spawn == NULL && url != NULL && environment != NULL)
        problem_error(loading->problems, environment->key_place, "env is for engines with spawn only");
    if (spawn != NULL && url == NULL && api_key_file != NULL)
        problem_error(loading->problems, api_key_file->key_place,
                      "api_key_file is for engines with url only: one with spawn is reached over its own socket");
}

static const char *load_url(struct loading *loading, const struct node *node)
{
    struct text url;
    if (address_parse_url(node->value, &url) != NULL)
        return NULL;
    if (!text_starts_with(url, TEXT("unix:")))
        return loading_keep(loading, url);
    const char *path = loading_keep_path(loading, (struct text){url.at + 5, url.length - 5});
    if (strlen(path) > SOCKET_PATH_BYTES_MAX)
        problem_error(loading->problems, node->place,
                      "the socket's absolute path has %zu bytes, but may have at most %d", strlen(path),
                      SOCKET_PATH_BYTES_MAX);
    size_t capacity = strlen(path) + sizeof("unix:");
    char *memory = loading_take(loading, capacity, 1);
    if (memory == NULL)
        return NULL;
    struct builder to;
    builder_init(&to, memory, capacity);
    builder_format(&to, "unix:%s", path);
    return builder_string(&to);
}

static void load_engine(struct loading *loading, const struct node *map, struct engine *engine)
{
    const struct node *spawn = setting_node(map, SETTING_ENGINE_SPAWN), *url = setting_node(map, SETTING_ENGINE_URL);
    const struct node *environment = setting_node(map, SETTING_ENGINE_ENV);
    check_company(loading, map);
    if (environment != NULL && environment->valid)
        load_environment(loading, environment, engine);
    if (spawn != NULL && spawn->valid)
        load_spawn(loading, spawn, engine);
    if (url != NULL && url->valid)
        engine->url = load_url(loading, url);
    engine->dialect = (enum engine_dialect) setting_number(map, SETTING_ENGINE_DIALECT);
    engine->api_key = loading_read_secret(loading, setting_node(map, SETTING_ENGINE_API_KEY_FILE));
    engine->weight = (int) setting_number(map, SETTING_ENGINE_WEIGHT);
    engine->max_in_flight = (int) setting_number(map, SETTING_ENGINE_MAX_IN_FLIGHT);
    engine->continuous_usage = setting_number(map, SETTING_ENGINE_CONTINUOUS_USAGE) != 0;
    engine->embeddings_only = setting_number(map, SETTING_ENGINE_EMBEDDINGS_ONLY) != 0;
}

static const char *engine_name(struct loading *loading, const char *model, size_t position)
{
    char memory[SETTING_NAME_BYTES_MAX + 32];
    struct builder name;
    builder_init(&name, memory, sizeof(memory));
    builder_format(&name, "%s/%zu", model, position);
    return loading_keep(loading, builder_text(&name));
}

static void load_engines(struct loading *loading, const struct node *list, struct model *model)
{
    if (list == NULL || !list->valid)
        return;
    struct engine *engines = loading_take(loading, list->count, sizeof(*engines));
    if (engines == NULL)
        return;
    for (const struct node *node = list->first; node != NULL; node = node->next) {
        struct engine *engine = &engines[model->engine_count++];
        engine->model = model->name;
        engine->name = engine_name(loading, model->name, model->engine_count);
        if (node->valid)
            load_engine(loading, node, engine);
    }
    model->engines = engines;
}

static void load_aliases(struct loading *loading, const struct node *list, struct model *model)
{
    if (list == NULL || !list->valid)
        return;
    const char **aliases = loading_take(loading, list->count, sizeof(*aliases));
    if (aliases == NULL)
        return;
    for (const struct node *node = list->first; node != NULL; node = node->next) {
        if (node->valid)
            aliases[model->alias_count++] = loading_keep(loading, node->value);
    }
    model->aliases = aliases;
}

static void load_token_bounds(struct loading *loading, const struct node *map, struct model *model)
{
    const struct node *output = setting_node(map, SETTING_MODEL_MAX_OUTPUT_TOKENS);
    const struct node *completion = setting_node(map, SETTING_MODEL_DEFAULT_MAX_TOKENS);
    model->context_tokens = setting_number(map, SETTING_MODEL_CONTEXT_TOKENS);
    model->max_output_tokens = setting_number(map, SETTING_MODEL_MAX_OUTPUT_TOKENS);
    model->default_max_tokens = setting_number(map, SETTING_MODEL_DEFAULT_MAX_TOKENS);
    if (output != NULL && model->context_tokens > 0 && model->max_output_tokens > model->context_tokens)
        problem_error(loading->problems, output->place, "max_output_tokens must not be larger than context_tokens");
    bool too_large = model->max_output_tokens > 0 && model->default_max_tokens > model->max_output_tokens;
    if (too_large && completion != NULL)
        problem_error(loading->problems, completion->place,
                      "default_max_tokens must not be larger than max_output_tokens");
    if (too_large)
        model->default_max_tokens = model->max_output_tokens;
}

static void load_model(struct loading *loading, const struct node *map, struct model *model)
{
    const struct node *queue = setting_node(map, SETTING_MODEL_QUEUE);
    const struct node *timeouts = setting_node(map, SETTING_MODEL_TIMEOUTS);
    const struct node *engine_model = setting_node(map, SETTING_MODEL_ENGINE_MODEL);
    model->name = loading_keep(loading, map->key);
    model->engine_model =
        engine_model != NULL && engine_model->valid ? loading_keep(loading, engine_model->value) : model->name;
    load_aliases(loading, setting_node(map, SETTING_MODEL_ALIASES), model);
    load_token_bounds(loading, map, model);
    model->queue_length = (int) setting_number(queue, SETTING_QUEUE_LENGTH);
    model->queue_wait_ms = setting_number(queue, SETTING_QUEUE_WAIT);
    model->timeouts = (struct engine_timeouts){
        .connect_ms = setting_number(timeouts, SETTING_TIMEOUT_CONNECT),
        .first_token_ms = setting_number(timeouts, SETTING_TIMEOUT_FIRST_TOKEN),
        .inter_chunk_ms = setting_number(timeouts, SETTING_TIMEOUT_INTER_CHUNK),
        .total_ms = setting_number(timeouts, SETTING_TIMEOUT_TOTAL),
    };
    model->start_timeout_ms = setting_number(map, SETTING_MODEL_START_TIMEOUT);
    model->created_wall_s = loading->snapshot->policy.loaded_wall_ms / 1000;
    load_engines(loading, setting_node(map, SETTING_ENGINES), model);
    loading_prices(loading, setting_node(map, SETTING_MODEL_PRICES), model);
    const struct node *limits = setting_node(map, SETTING_MODEL_LIMITS);
    model->limits = loading_limits(loading, limits, NULL);
    (void) loading_warn_hard(loading, limits, model);
}

struct name_place {
    struct text name;
    struct place place;
    bool is_key;
};

static int compare_name_places(const void *a, const void *b)
{
    const struct name_place *left = a, *right = b;
    int order = strcmp(left->name.at, right->name.at);
    if (order != 0)
        return order;
    if (left->place.line != right->place.line)
        return left->place.line < right->place.line ? -1 : 1;
    return left->place.column < right->place.column ? -1 : left->place.column > right->place.column;
}

/* A name must mean one model, also where it is an alias. */
static void check_names(struct loading *loading, const struct node *models)
{
    size_t count = 0, capacity = models->count;
    for (const struct node *model = models->first; model != NULL; model = model->next) {
        const struct node *aliases = setting_node(model, SETTING_MODEL_ALIASES);
        capacity += aliases != NULL ? aliases->count : 0;
    }
    struct name_place *names = arena_take(&loading->documents, (capacity + 1) * sizeof(*names));
    if (names == NULL)
        return;
    for (const struct node *model = models->first; model != NULL; model = model->next) {
        names[count++] = (struct name_place){model->key, model->key_place, true};
        const struct node *aliases = setting_node(model, SETTING_MODEL_ALIASES);
        for (const struct node *alias = aliases != NULL ? aliases->first : NULL; alias != NULL; alias = alias->next) {
            if (alias->valid)
                names[count++] = (struct name_place){alias->value, alias->place, false};
        }
    }
    qsort(names, count, sizeof(*names), compare_name_places);
    for (size_t i = 1; i < count; i++) {
        /* Two equal keys of one map were told when the file was parsed. */
        bool both_keys = names[i].is_key && names[i - 1].is_key;
        if (text_equal(names[i].name, names[i - 1].name) && !both_keys)
            problem_error(loading->problems, names[i].place,
                          "\"%.*s\" is already a name or alias on line %u: a name must mean one model",
                          TEXT_ARGUMENTS(names[i].name), names[i - 1].place.line);
    }
}

static int compare_models(const void *a, const void *b)
{
    return strcmp(((const struct model *) a)->name, ((const struct model *) b)->name);
}

void load_models(struct loading *loading)
{
    struct snapshot *snapshot = loading->snapshot;
    const struct node *map = setting_node(loading->root, SETTING_MODELS);
    if (map == NULL || !map->valid)
        return;
    snapshot->models = loading_take(loading, map->count, sizeof(*snapshot->models));
    if (snapshot->models == NULL)
        return;
    size_t count = 0;
    for (const struct node *node = map->first; node != NULL; node = node->next) {
        if (node->valid)
            load_model(loading, node, &snapshot->models[count++]);
    }
    check_names(loading, map);
    qsort(snapshot->models, count, sizeof(*snapshot->models), compare_models);
    snapshot->policy.models = snapshot->models;
    snapshot->policy.model_count = count;
    (void) snapshot_index_names(snapshot);
}
