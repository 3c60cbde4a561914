/* A ring of the last requests. */
#include "gateway/recent.h"

#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/request.h"

enum { NAME_BYTES = 96 };

/* A value copied out of a request, since the request's memory goes. */
struct recent {
    char id[REQUEST_ID_BYTES];
    char tenant[NAME_BYTES], key[NAME_BYTES], model[NAME_BYTES], model_asked[NAME_BYTES], engine[NAME_BYTES];
    const char *endpoint, *outcome;
    wall_ms began;
    int status, attempts;
    bool stream;
    mono_us duration, first_content, waited;
    struct usage usage;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct recent ring[RECENT_REQUESTS_MAX];
static size_t added;

static void copy(char to[NAME_BYTES], const char *from)
{
    text_copy(to, NAME_BYTES, text_of(from));
}

void recent_add(const struct request *request)
{
    const struct request_times *times = &request->times;
    pthread_mutex_lock(&lock);
    struct recent *recent = &ring[added++ % RECENT_REQUESTS_MAX];
    memcpy(recent->id, request->id, sizeof recent->id);
    copy(recent->tenant, request->tenant);
    copy(recent->key, request->key);
    copy(recent->model, request->model);
    copy(recent->model_asked, request->model_asked);
    copy(recent->engine, request->engine);
    recent->endpoint = request->endpoint < ENDPOINT_COUNT ? ENDPOINT_NAMES[request->endpoint] : "";
    recent->outcome = OUTCOMES[request->outcome].label;
    recent->began = request->began_wall_ms;
    recent->status = request->status;
    recent->attempts = request->attempts;
    recent->stream = request->asked.stream;
    recent->duration = times->ended - times->head;
    recent->first_content = times->first_content > 0 ? times->first_content - times->head : 0;
    recent->waited = times->waited;
    recent->usage = request->usage;
    pthread_mutex_unlock(&lock);
}

static json_t *to_json(const struct recent *recent)
{
    char began[CLOCK_TEXT_BYTES];
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:s,s:b,s:i,s:f,s:f,s:f,s:{s:I,s:I,s:I,s:s,s:s}}", "id",
                     recent->id, "time", clock_text(recent->began, began), "endpoint", recent->endpoint, "tenant",
                     recent->tenant, "key", recent->key, "model", recent->model, "model_asked", recent->model_asked,
                     "engine", recent->engine, "status", recent->status, "outcome", recent->outcome, "stream",
                     recent->stream, "attempts", recent->attempts, "duration_seconds", (double) recent->duration / 1e6,
                     "first_token_seconds", (double) recent->first_content / 1e6, "queue_seconds",
                     (double) recent->waited / 1e6, "usage", "input_tokens", (json_int_t) recent->usage.input_tokens,
                     "cached_input_tokens", (json_int_t) recent->usage.cached_input_tokens, "output_tokens",
                     (json_int_t) recent->usage.output_tokens, "input_source",
                     USAGE_SOURCE_NAMES[recent->usage.input_source], "output_source",
                     USAGE_SOURCE_NAMES[recent->usage.output_source]);
}

bool recent_write_json(struct buffer *to)
{
    json_t *list = json_array();
    struct recent *copies = calloc(RECENT_REQUESTS_MAX, sizeof *copies);
    if (copies == NULL || list == NULL) {
        free(copies);
        json_decref(list);
        return false;
    }
    pthread_mutex_lock(&lock);
    size_t count = added < RECENT_REQUESTS_MAX ? added : RECENT_REQUESTS_MAX;
    for (size_t i = 0; i < count; i++)
        copies[i] = ring[(added - 1 - i) % RECENT_REQUESTS_MAX];
    pthread_mutex_unlock(&lock);

    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, to_json(&copies[i]));
    free(copies);
    json_t *document = json_pack("{s:o}", "requests", list);
    char *text = json_dumps(document, JSON_COMPACT);
    bool written = text != NULL && buffer_add(to, text_of(text));
    free(text);
    json_decref(document);
    return written;
}
