/* What people may see of the fleet. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "backends/children.h"
#include "backends/fleet.h"
#include "backends/fleet_private.h"

int64_t fleet_context_tokens(struct fleet *fleet, const char *model)
{
    struct line *line = fleet_lock_line(fleet, model);
    int64_t least = 0;

    if (line == NULL)
        return 0;
    for (size_t i = 0; i < line->count; i++) {
        const struct instance *instance = line->instances[i];
        bool counts = instance->state == INSTANCE_READY && instance->context_tokens > 0;

        if (counts && (least == 0 || instance->context_tokens < least))
            least = instance->context_tokens;
    }
    pthread_mutex_unlock(&line->lock);
    return least;
}

static struct model_status status_of(struct line *line)
{
    struct model_status status = {.model = line->model};

    pthread_mutex_lock(&line->lock);
    status.waiting = line->queue.length;
    for (size_t i = 0; i < line->count; i++) {
        const struct instance *instance = line->instances[i];

        status.in_flight += instance->in_flight;
        if (instance->leaving)
            continue;
        status.instances++;
        status.ready += instance->state == INSTANCE_READY;
        status.failed += instance->state == INSTANCE_FAILED;
        if (instance->state == INSTANCE_READY)
            status.slots += instance->slots;
    }
    pthread_mutex_unlock(&line->lock);
    return status;
}

void fleet_each_model(struct fleet *fleet, model_status_receiver *receive, void *owner)
{
    pthread_rwlock_rdlock(&fleet->lines_lock);
    for (struct line *line = fleet->lines; line != NULL; line = line->next) {
        struct model_status status = status_of(line);

        if (line->wanted)
            receive(owner, &status);
    }
    pthread_rwlock_unlock(&fleet->lines_lock);
}

/* ---- GET /admin/v1/engines ---- */

/* An engine writes what it likes, and texts may be cut within a character: then all but plain ASCII becomes '?'. */
static json_t *json_of_bytes(struct text bytes)
{
    char copy[INSTANCE_LOG_TAIL_BYTES];
    size_t length = bytes.length < sizeof(copy) ? bytes.length : sizeof(copy);
    json_t *string = json_stringn(bytes.at, bytes.length);

    if (string != NULL)
        return string;
    for (size_t i = 0; i < length; i++)
        copy[i] = bytes.at[i] >= ' ' && bytes.at[i] <= '~' ? bytes.at[i] : '?';
    return json_stringn(copy, length);
}

static json_t *string_or_null(const char *string)
{
    return string[0] != '\0' ? json_of_bytes(text_of(string)) : json_null();
}

static json_t *log_lines(const struct instance *instance)
{
    json_t *lines = json_array();
    struct text rest = {instance->log_tail, instance->log_tail_length};

    while (rest.length > 0) {
        const char *end = memchr(rest.at, '\n', rest.length);
        size_t length = end != NULL ? (size_t) (end - rest.at) : rest.length;

        json_array_append_new(lines, json_of_bytes((struct text){rest.at, length}));
        length += end != NULL;
        rest = (struct text){rest.at + length, rest.length - length};
    }
    return lines;
}

static void add_address(json_t *object, const struct instance *instance)
{
    if (instance->socket_path != NULL)
        json_object_set_new(object, "socket", json_string(instance->socket_path));
    else if (instance->base_url != NULL)
        json_object_set_new(object, "url", json_string(instance->base_url));
    else
        json_object_set_new(object, "port", json_integer(instance->port));
}

static void add_load(json_t *object, struct instance *instance)
{
    pthread_mutex_lock(instance->lock);
    json_object_set_new(object, "in_flight", json_integer(instance->in_flight));
    json_object_set_new(object, "slots", json_integer(instance->slots));
    json_object_set_new(object, "weight", json_integer(instance->weight));
    json_object_set_new(object, "context_tokens", json_integer(instance->context_tokens));
    json_object_set_new(object, "breaker", json_string(BREAKER_STATE_NAMES[instance->breaker.state]));
    pthread_mutex_unlock(instance->lock);
}

static json_t *json_of_instance(struct instance *instance)
{
    json_t *object = json_object();
    char since[CLOCK_TEXT_BYTES];

    json_object_set_new(object, "name", json_string(instance->name));
    json_object_set_new(object, "model", json_string(instance->model));
    json_object_set_new(object, "state", json_string(INSTANCE_STATE_NAMES[instance->state]));
    if (instance->state_since_wall != 0)
        json_object_set_new(object, "since", json_string(clock_text(instance->state_since_wall, since)));
    json_object_set_new(object, "evidence", string_or_null(instance->evidence));
    json_object_set_new(object, "spawned", json_boolean(instance->is_spawned));
    if (instance->is_spawned)
        json_object_set_new(object, "pid", instance->pid != 0 ? json_integer(instance->pid) : json_null());
    add_address(object, instance);
    add_load(object, instance);
    json_object_set_new(object, "leaving", json_boolean(instance->leaving));
    if (instance->is_spawned) {
        json_object_set_new(object, "restarts", json_integer(instance->starts > 0 ? instance->starts - 1 : 0));
        json_object_set_new(object, "last_exit", string_or_null(instance->last_exit));
        json_object_set_new(object, "log", log_lines(instance));
    }
    return object;
}

static json_t *json_of_line(struct line *line)
{
    struct model_status status = status_of(line);
    json_t *object = json_object();
    json_t *engines = json_array();

    json_object_set_new(object, "model", json_string(line->model));
    json_object_set_new(object, "ready", json_integer(status.ready));
    json_object_set_new(object, "in_flight", json_integer(status.in_flight));
    json_object_set_new(object, "slots", json_integer(status.slots));
    json_object_set_new(object, "queue",
                        json_pack("{s:i, s:i, s:f}", "waiting", status.waiting, "length", line->queue.length_max,
                                  "wait_seconds", (double) line->queue_wait_ms / 1000));
    for (size_t i = 0; i < line->count; i++)
        json_array_append_new(engines, json_of_instance(line->instances[i]));
    json_object_set_new(object, "engines", engines);
    return object;
}

/* Ask for what the engines have written since, for whoever looks again. */
static void ask_logs(struct fleet *fleet, const struct line *line)
{
    for (size_t i = 0; i < line->count; i++) {
        if (line->instances[i]->has_child)
            children_ask_logs(fleet->children, line->instances[i]->name);
    }
}

bool fleet_write_json(struct fleet *fleet, struct buffer *to)
{
    json_t *models = json_array();
    json_t *whole;
    char *text;
    bool written;

    for (struct line *line = fleet->lines; line != NULL; line = line->next) {
        json_array_append_new(models, json_of_line(line));
        ask_logs(fleet, line);
    }
    whole = json_pack("{s:o}", "models", models);
    text = whole != NULL ? json_dumps(whole, JSON_INDENT(2)) : NULL;
    written = text != NULL && buffer_add(to, text_of(text)) && buffer_add(to, TEXT("\n"));
    free(text);
    json_decref(whole);
    return written;
}
