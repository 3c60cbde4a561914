#include "backends/instance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/line.h"
#include "backends/spawn.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/panic.h"

const char *const INSTANCE_STATE_NAMES[INSTANCE_STATE_COUNT] = {
    [INSTANCE_STOPPED] = "STOPPED", [INSTANCE_STARTING] = "STARTING", [INSTANCE_WARMING] = "WARMING",
    [INSTANCE_READY] = "READY",     [INSTANCE_DRAINING] = "DRAINING", [INSTANCE_STOPPING] = "STOPPING",
    [INSTANCE_BACKOFF] = "BACKOFF", [INSTANCE_FAILED] = "FAILED",
};

#define MAY(state) (1u << INSTANCE_##state)

static const unsigned MAY_BECOME[INSTANCE_STATE_COUNT] = {
    [INSTANCE_STOPPED] = MAY(STARTING),
    /* READY: a child that was READY under the gateway before us. */
    [INSTANCE_STARTING] = MAY(WARMING) | MAY(READY) | MAY(STOPPING) | MAY(STOPPED) | MAY(BACKOFF) | MAY(FAILED),
    [INSTANCE_WARMING] = MAY(READY) | MAY(STOPPING) | MAY(STOPPED) | MAY(BACKOFF) | MAY(FAILED),
    [INSTANCE_READY] = MAY(DRAINING) | MAY(STOPPING) | MAY(BACKOFF) | MAY(FAILED),
    [INSTANCE_DRAINING] = MAY(READY) | MAY(STOPPING) | MAY(STOPPED),
    [INSTANCE_STOPPING] = MAY(STOPPED) | MAY(BACKOFF) | MAY(FAILED),
    [INSTANCE_BACKOFF] = MAY(STARTING) | MAY(STOPPED),
    [INSTANCE_FAILED] = MAY(STARTING) | MAY(STOPPED),
};

static char **copy_strings(const char *const *from, size_t count)
{
    char **copy = calloc(count + 1, sizeof(*copy));

    for (size_t i = 0; copy != NULL && i < count; i++) {
        copy[i] = strdup(from[i]);
        if (copy[i] == NULL) {
            while (i > 0)
                free(copy[--i]);
            free(copy);
            return NULL;
        }
    }
    return copy;
}

static void free_strings(char **strings)
{
    for (char **string = strings; string != NULL && *string != NULL; string++)
        free(*string);
    free(strings);
}

static bool copy_spawned(struct instance *instance, const struct engine *engine, const char *runtime_dir)
{
    instance->arguments = copy_strings(engine->arguments, engine->argument_count);
    instance->environment = copy_strings(engine->environment, engine->environment_count);
    instance->working_directory = strdup(engine->working_directory != NULL ? engine->working_directory : "/");
    if (instance->arguments == NULL || instance->environment == NULL || instance->working_directory == NULL)
        return false;
    if (!spawn_wants(engine->arguments, SPAWN_SOCKET))
        return true;
    instance->base_url = strdup("http://localhost");
    instance->socket_path = spawn_socket_path(runtime_dir, engine->name);
    return instance->base_url != NULL && instance->socket_path != NULL;
}

static bool copy_remote(struct instance *instance, const struct engine *engine)
{
    static const char UNIX_SCHEME[] = "unix:";

    if (engine->api_key._bytes != NULL) {
        instance->api_key = strdup(engine->api_key._bytes);
        if (instance->api_key == NULL)
            return false;
    }
    if (strncmp(engine->url, UNIX_SCHEME, sizeof(UNIX_SCHEME) - 1) != 0) {
        instance->base_url = strdup(engine->url);
        return instance->base_url != NULL;
    }
    instance->base_url = strdup("http://localhost");
    instance->socket_path = strdup(engine->url + sizeof(UNIX_SCHEME) - 1);
    return instance->base_url != NULL && instance->socket_path != NULL;
}

static void find_metrics(struct instance *instance)
{
    const char *labels[METRIC_LABELS_MAX] = {instance->model, instance->name};

    instance->metrics.up = metric_series(METRIC_ENGINE_UP, labels);
    instance->metrics.in_flight = metric_series(METRIC_ENGINE_IN_FLIGHT, labels);
    instance->metrics.slots = metric_series(METRIC_ENGINE_SLOTS, labels);
    instance->metrics.restarts = metric_series(METRIC_ENGINE_RESTARTS, labels);
}

struct instance *instance_create(struct line *line, const struct model *model, const struct engine *engine,
                                 const char *runtime_dir)
{
    struct instance *instance = calloc(1, sizeof(*instance));
    bool copied;

    if (instance == NULL)
        return NULL;
    instance->line = line;
    instance->lock = &line->lock;
    instance->name = strdup(engine->name);
    instance->model = strdup(model->name);
    instance->engine_model = strdup(model->engine_model);
    instance->dialect = engine->dialect;
    instance->is_spawned = engine->arguments != NULL;
    instance->ready_since = -1;
    engine_settings_hash(engine, instance->settings_hash);
    copied = instance->is_spawned ? copy_spawned(instance, engine, runtime_dir) : copy_remote(instance, engine);
    if (!copied || instance->name == NULL || instance->model == NULL || instance->engine_model == NULL) {
        instance_destroy(&instance);
        return NULL;
    }
    find_metrics(instance);
    instance_update(instance, model, engine);
    return instance;
}

void instance_destroy(struct instance **instance)
{
    struct instance *dying = *instance;

    if (dying == NULL)
        return;
    *instance = NULL;
    ENSURE(dying->in_flight == 0 && dying->probe == NULL);
    ENSURE(!loop_timer_is_set(&dying->probe_timer) && !loop_timer_is_set(&dying->clock_timer));
    if (dying->api_key != NULL)
        explicit_bzero(dying->api_key, strlen(dying->api_key));
    free(dying->api_key);
    free_strings(dying->arguments);
    free_strings(dying->environment);
    free(dying->working_directory);
    free(dying->base_url);
    free(dying->socket_path);
    free(dying->engine_model);
    free(dying->model);
    free(dying->name);
    free(dying);
}

static void set_slots(struct instance *instance, int slots)
{
    instance->slots = slots;
    metric_set(instance->metrics.slots, slots);
}

void instance_update(struct instance *instance, const struct model *model, const struct engine *engine)
{
    pthread_mutex_lock(instance->lock);
    instance->timeouts = model->timeouts;
    instance->continuous_usage = engine->continuous_usage;
    instance->weight = engine->weight > 0 ? engine->weight : 1;
    if (engine->max_in_flight > 0)
        set_slots(instance, engine->max_in_flight);
    else if (instance->slots == 0)
        set_slots(instance, INSTANCE_SLOTS_DEFAULT);
    pthread_mutex_unlock(instance->lock);
    instance->configured_slots = engine->max_in_flight;
    instance->embeddings_only = engine->embeddings_only;
    instance->start_timeout_ms = model->start_timeout_ms;
}

bool instance_matches(const struct instance *instance, const struct model *model, const struct engine *engine)
{
    uint8_t hash[32];

    engine_settings_hash(engine, hash);
    return strcmp(instance->name, engine->name) == 0 && memcmp(instance->settings_hash, hash, sizeof(hash)) == 0 &&
           strcmp(instance->engine_model, model->engine_model) == 0;
}

static void log_state(const struct instance *instance, enum instance_state from)
{
    struct log_line line;
    enum instance_state to = instance->state;
    bool is_bad = to == INSTANCE_BACKOFF || to == INSTANCE_FAILED;

    log_begin(&line, is_bad ? LOG_WARNING : LOG_INFO, "engine");
    log_add_string(&line, "engine", instance->name);
    log_add_string(&line, "state", INSTANCE_STATE_NAMES[to]);
    log_add_string(&line, "was", INSTANCE_STATE_NAMES[from]);
    log_add_string(&line, "evidence", instance->evidence);
    if (instance->pid != 0)
        log_add_int(&line, "pid", instance->pid);
    log_end(&line);
}

void instance_set_state(struct instance *instance, enum instance_state to, const char *evidence, ...)
{
    enum instance_state from = instance->state;
    va_list arguments;

    ENSURE(MAY_BECOME[from] & (1u << to));
    va_start(arguments, evidence);
    vsnprintf(instance->evidence, sizeof(instance->evidence), evidence, arguments);
    va_end(arguments);
    instance->state_since = clock_mono_ms();
    instance->state_since_wall = clock_wall_ms();
    if (to == INSTANCE_READY && from != INSTANCE_DRAINING) {
        instance->ready_since = instance->state_since;
        atomic_store_explicit(&instance->last_progress, instance->state_since, memory_order_relaxed);
    }
    pthread_mutex_lock(instance->lock);
    instance->state = to;
    pthread_mutex_unlock(instance->lock);
    if (!instance->leaving) /* else the series may already be its successor's */
        metric_set(instance->metrics.up, to == INSTANCE_READY);
    log_state(instance, from);
}

void instance_set_facts(struct instance *instance, int slots, int64_t context_tokens)
{
    pthread_mutex_lock(instance->lock);
    instance->context_tokens = context_tokens;
    if (instance->configured_slots > 0)
        set_slots(instance, instance->configured_slots);
    else
        set_slots(instance, slots > 0 ? slots : INSTANCE_SLOTS_DEFAULT);
    pthread_mutex_unlock(instance->lock);
    if (instance->configured_slots == 0 && slots <= 0)
        log_event(LOG_INFO, "engine", "%s does not say how many requests it runs at once: %d are sent (max_in_flight)",
                  instance->name, INSTANCE_SLOTS_DEFAULT);
}

void instance_set_leaving(struct instance *instance, bool leaving)
{
    pthread_mutex_lock(instance->lock);
    instance->leaving = leaving;
    pthread_mutex_unlock(instance->lock);
}

void instance_set_port(struct instance *instance, int port)
{
    pthread_mutex_lock(instance->lock);
    instance->port = port;
    pthread_mutex_unlock(instance->lock);
}

struct liveness_facts instance_liveness_facts(struct instance *instance, mono_ms now)
{
    struct liveness_facts facts = {.now = now};

    pthread_mutex_lock(instance->lock);
    facts.in_flight = instance->in_flight;
    facts.silent_since = instance->silent_since;
    facts.wedged_ms = liveness_wedged_ms(instance->timeouts.first_token_ms, instance->timeouts.inter_chunk_ms);
    pthread_mutex_unlock(instance->lock);
    facts.last_progress = atomic_load_explicit(&instance->last_progress, memory_order_relaxed);
    return facts;
}
