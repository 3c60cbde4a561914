#include "backends/probe.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/dialect.h"
#include "base/panic.h"

enum { URL_BYTES_MAX = 2048, KEY_BYTES_MAX = 128, CONTEXT_TOKENS_MAX = 1 << 30 };

enum verdict { FAILED, PASSED, ASK_AGAIN };

/* One question: how it is put and what its answer means. */
struct question {
    bool (*ask)(struct probe *probe);
    enum verdict (*judge)(struct probe *probe, const struct fetch_result *result);
};

struct probe {
    struct fetcher *fetcher;
    struct fetch *fetch; /* the question that is out */
    const struct probe_events *events;
    void *owner;
    enum probe_kind kind;
    const struct question *const *next; /* NULL-terminated */
    char *base_url;
    char *socket_path;
    char *api_key;
    char *engine_model;
    const struct dialect *dialect;
    bool embeddings_only;
    bool by_chat; /* no /v1/completions there */
    int slots;
    int64_t context_tokens;
    char evidence[PROBE_EVIDENCE_BYTES];
};

static void on_answer(void *owner, const struct fetch_result *result);

static bool send_question(struct probe *probe, const char *path, const char *json_body, int timeout_ms)
{
    char url[URL_BYTES_MAX];
    int length = snprintf(url, sizeof(url), "%s%s", probe->base_url, path);
    struct fetch_request request = {
        .url = url,
        .socket_path = probe->socket_path,
        .bearer = probe->api_key,
        .json_body = json_body,
        .timeout_ms = timeout_ms,
        .connect_timeout_ms = PROBE_CONNECT_MS,
    };

    if (length < 0 || (size_t) length >= sizeof(url))
        return false;
    probe->fetch = fetch_start(probe->fetcher, &request, on_answer, probe);
    return probe->fetch != NULL;
}

static enum verdict fail(struct probe *probe, const char *question, const struct fetch_result *result)
{
    /* curl would name a host and port that nobody configured. */
    if (result->connect_failed && probe->socket_path != NULL)
        snprintf(probe->evidence, sizeof(probe->evidence), "%s: cannot connect to %s", question, probe->socket_path);
    else if (result->status == 0)
        snprintf(probe->evidence, sizeof(probe->evidence), "%s: %s", question, result->error);
    else
        snprintf(probe->evidence, sizeof(probe->evidence), "%s answered %d", question, result->status);
    return FAILED;
}

static bool is_not_there(int status)
{
    return status == 404 || status == 405 || status == 501;
}

/* ---- GET /health ---- */

static bool ask_health(struct probe *probe)
{
    return send_question(probe, "/health", NULL, PROBE_ANSWER_MS);
}

static enum verdict judge_health(struct probe *probe, const struct fetch_result *result)
{
    if ((result->status < 200 || result->status > 299) && !is_not_there(result->status))
        return fail(probe, "GET /health", result);
    snprintf(probe->evidence, sizeof(probe->evidence), "GET /health answered %d", result->status);
    return PASSED;
}

/* ---- GET /v1/models ---- */

static bool ask_models(struct probe *probe)
{
    return send_question(probe, "/v1/models", NULL, PROBE_ANSWER_MS);
}

static bool is_string(const json_t *value, const char *string)
{
    return json_is_string(value) && strcmp(json_string_value(value), string) == 0;
}

static bool entry_names(const json_t *entry, const char *name)
{
    static const char *const NAME_KEYS[] = {"id", "name", "model"};
    const json_t *aliases = json_object_get(entry, "aliases");

    for (size_t i = 0; i < sizeof(NAME_KEYS) / sizeof(NAME_KEYS[0]); i++) {
        if (is_string(json_object_get(entry, NAME_KEYS[i]), name))
            return true;
    }
    for (size_t i = 0; i < json_array_size(aliases); i++) {
        if (is_string(json_array_get(aliases, i), name))
            return true;
    }
    return false;
}

/* The entry of /v1/models for @name, in `data` or (llama.cpp, Ollama) `models`; or NULL. */
static const json_t *find_entry(const json_t *answer, const char *name)
{
    static const char *const LIST_KEYS[] = {"data", "models"};

    for (size_t i = 0; i < sizeof(LIST_KEYS) / sizeof(LIST_KEYS[0]); i++) {
        const json_t *list = json_object_get(answer, LIST_KEYS[i]);

        for (size_t j = 0; j < json_array_size(list); j++) {
            if (entry_names(json_array_get(list, j), name))
                return json_array_get(list, j);
        }
    }
    return NULL;
}

static const char *first_listed(const json_t *answer)
{
    const char *id = json_string_value(json_object_get(json_array_get(json_object_get(answer, "data"), 0), "id"));

    return id != NULL ? id : "no model";
}

/* The integer at the dotted @path in @object, or 0 unless it is within 1..@most. */
static int64_t integer_at(const json_t *object, const char *path, int64_t most)
{
    char key[KEY_BYTES_MAX];
    int64_t value;

    while (path != NULL && object != NULL) {
        size_t length = strcspn(path, ".");

        text_copy(key, sizeof(key), (struct text){path, length});
        object = json_object_get(object, key);
        path = path[length] == '.' ? path + length + 1 : NULL;
    }
    value = json_is_integer(object) ? (int64_t) json_integer_value(object) : 0;
    return value >= 1 && value <= most ? value : 0;
}

static enum verdict judge_models(struct probe *probe, const struct fetch_result *result)
{
    json_t *answer;
    const json_t *entry;

    if (is_not_there(result->status)) {
        snprintf(probe->evidence, sizeof(probe->evidence), "answers, but has no GET /v1/models");
        return PASSED;
    }
    if (result->status != 200)
        return fail(probe, "GET /v1/models", result);
    answer = json_loadb(result->body.at, result->body.length, 0, NULL);
    entry = find_entry(answer, probe->engine_model);
    if (entry != NULL)
        snprintf(probe->evidence, sizeof(probe->evidence), "GET /v1/models lists %s", probe->engine_model);
    else
        snprintf(probe->evidence, sizeof(probe->evidence), "GET /v1/models lists %.80s, not %.80s",
                 first_listed(answer), probe->engine_model);
    if (entry != NULL && probe->dialect->slots_path == NULL && probe->dialect->context_key != NULL)
        probe->context_tokens = integer_at(entry, probe->dialect->context_key, CONTEXT_TOKENS_MAX);
    json_decref(answer);
    return entry != NULL ? PASSED : FAILED;
}

/* ---- slots and context ---- */

static bool ask_slots(struct probe *probe)
{
    return send_question(probe, probe->dialect->slots_path, NULL, PROBE_ANSWER_MS);
}

/* Never a failure: an engine that does not say gets a default. */
static enum verdict judge_slots(struct probe *probe, const struct fetch_result *result)
{
    json_t *answer = result->status == 200 ? json_loadb(result->body.at, result->body.length, 0, NULL) : NULL;

    probe->slots = (int) integer_at(answer, probe->dialect->slots_key, PROBE_SLOTS_MAX);
    if (probe->dialect->context_key != NULL)
        probe->context_tokens = integer_at(answer, probe->dialect->context_key, CONTEXT_TOKENS_MAX);
    json_decref(answer);
    return PASSED;
}

/* ---- one token ---- */

static const char *token_path(const struct probe *probe)
{
    if (probe->embeddings_only)
        return "/v1/embeddings";
    return probe->by_chat ? "/v1/chat/completions" : "/v1/completions";
}

static json_t *token_body(const struct probe *probe)
{
    if (probe->embeddings_only)
        return json_pack("{s:s, s:s}", "model", probe->engine_model, "input", "ping");
    if (probe->by_chat)
        return json_pack("{s:s, s:[{s:s, s:s}], s:i}", "model", probe->engine_model, "messages", "role", "user",
                         "content", "ping", "max_tokens", 1);
    return json_pack("{s:s, s:s, s:i}", "model", probe->engine_model, "prompt", "ping", "max_tokens", 1);
}

static bool ask_token(struct probe *probe)
{
    json_t *body = token_body(probe);
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    int timeout_ms = probe->kind == PROBE_READINESS ? PROBE_FIRST_TOKEN_MS : PROBE_TOKEN_MS;
    bool asked = text != NULL && send_question(probe, token_path(probe), text, timeout_ms);

    free(text);
    json_decref(body);
    return asked;
}

static enum verdict judge_token(struct probe *probe, const struct fetch_result *result)
{
    char question[KEY_BYTES_MAX];
    json_t *answer;
    bool generated;

    snprintf(question, sizeof(question), "POST %s", token_path(probe));
    if (is_not_there(result->status) && !probe->embeddings_only && !probe->by_chat) {
        probe->by_chat = true;
        return ASK_AGAIN;
    }
    if (result->status != 200)
        return fail(probe, question, result);
    answer = json_loadb(result->body.at, result->body.length, 0, NULL);
    generated = json_array_size(json_object_get(answer, probe->embeddings_only ? "data" : "choices")) > 0;
    json_decref(answer);
    snprintf(probe->evidence, sizeof(probe->evidence), "%s %s", question,
             generated ? "generated" : "answered 200 without a result");
    return generated ? PASSED : FAILED;
}

/* ---- the round ---- */

static const struct question HEALTH = {ask_health, judge_health};
static const struct question MODELS = {ask_models, judge_models};
static const struct question SLOTS = {ask_slots, judge_slots};
static const struct question TOKEN = {ask_token, judge_token};
static const struct question *const ROUNDS[PROBE_KIND_COUNT][5] = {
    [PROBE_READINESS] = {&HEALTH, &MODELS, &SLOTS, &TOKEN},
    [PROBE_FACTS] = {&MODELS, &SLOTS},
    [PROBE_HEALTH] = {&HEALTH},
    [PROBE_TOKEN] = {&TOKEN},
};

static void free_probe(struct probe *probe)
{
    if (probe->api_key != NULL)
        explicit_bzero(probe->api_key, strlen(probe->api_key));
    free(probe->api_key);
    free(probe->base_url);
    free(probe->socket_path);
    free(probe->engine_model);
    free(probe);
}

static void end_round(struct probe *probe, bool passed)
{
    struct probe_result result = {
        .passed = passed,
        .evidence = probe->evidence,
        .slots = probe->slots,
        .context_tokens = probe->context_tokens,
    };

    probe->events->done(probe->owner, &result);
    free_probe(probe);
}

static bool is_skipped(const struct probe *probe)
{
    return *probe->next == &SLOTS && probe->dialect->slots_path == NULL;
}

static bool ask_next(struct probe *probe)
{
    if ((*probe->next)->ask(probe))
        return true;
    snprintf(probe->evidence, sizeof(probe->evidence), "cannot ask: no memory, or curl refuses the address");
    return false;
}

static void on_answer(void *owner, const struct fetch_result *result)
{
    struct probe *probe = owner;
    const struct question *asked = *probe->next;
    enum verdict verdict = asked->judge(probe, result);

    probe->fetch = NULL;
    if (verdict == FAILED) {
        end_round(probe, false);
        return;
    }
    if (verdict == PASSED) {
        probe->next++;
        if (*probe->next != NULL && is_skipped(probe))
            probe->next++;
    }
    if (*probe->next == NULL) {
        end_round(probe, true);
        return;
    }
    if (*probe->next == &TOKEN && !probe->by_chat && probe->kind == PROBE_READINESS)
        probe->events->answers(probe->owner, probe->evidence);
    if (!ask_next(probe))
        end_round(probe, false);
}

static bool copy_optional(char **to, const char *from)
{
    *to = from != NULL ? strdup(from) : NULL;
    return from == NULL || *to != NULL;
}

struct probe *probe_start(struct fetcher *fetcher, enum probe_kind kind, const struct probe_target *target,
                          const struct probe_events *events, void *owner)
{
    struct probe *probe = calloc(1, sizeof(*probe));
    bool copied;

    ENSURE(kind < PROBE_KIND_COUNT);
    if (probe == NULL)
        return NULL;
    probe->fetcher = fetcher;
    probe->events = events;
    probe->owner = owner;
    probe->kind = kind;
    probe->next = ROUNDS[kind];
    probe->dialect = dialect_of(target->dialect);
    probe->embeddings_only = target->embeddings_only;
    copied = copy_optional(&probe->base_url, target->base_url);
    copied = copy_optional(&probe->socket_path, target->socket_path) && copied;
    copied = copy_optional(&probe->api_key, target->api_key) && copied;
    copied = copy_optional(&probe->engine_model, target->engine_model) && copied;
    if (!copied || !ask_next(probe)) {
        free_probe(probe);
        return NULL;
    }
    return probe;
}

void probe_cancel(struct probe **probe)
{
    struct probe *dying = *probe;

    if (dying == NULL)
        return;
    *probe = NULL;
    fetch_cancel(&dying->fetch);
    free_probe(dying);
}
