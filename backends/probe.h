/* Asking an engine whether it answers, serves its model and generates; one round of HTTP questions. Control thread. */
#ifndef BACKENDS_PROBE_H
#define BACKENDS_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/fetch.h"
#include "conf/policy.h"

enum {
    PROBE_CONNECT_MS = 2000,
    PROBE_ANSWER_MS = 10 * 1000,       /* for questions that cost no generation */
    PROBE_TOKEN_MS = 30 * 1000,        /* for one token of an engine that was READY */
    PROBE_FIRST_TOKEN_MS = 120 * 1000, /* for the very first: engines compile and warm up on it */
    PROBE_EVIDENCE_BYTES = 256,
    PROBE_SLOTS_MAX = 1 << 20
};

enum probe_kind {
    PROBE_READINESS, /* health, the model is listed, slots and context, one token (or embedding) */
    PROBE_FACTS,     /* slots and context only */
    PROBE_HEALTH,    /* GET /health; 404, 405 and 501 pass: it answers and has none */
    PROBE_TOKEN,     /* one token (or embedding) */
    PROBE_KIND_COUNT
};

/* Whom to ask; read during probe_start, texts are copied. */
struct probe_target {
    const char *base_url;
    const char *socket_path; /* or NULL */
    const char *api_key;     /* or NULL */
    const char *engine_model;
    enum engine_dialect dialect;
    bool embeddings_only;
};

struct probe_result {
    bool passed;
    const char *evidence;   /* one line: the question that failed and how, or what was seen */
    int slots;              /* READINESS, FACTS: what the engine runs at once, 0 = it does not say */
    int64_t context_tokens; /* as above */
};

struct probe_events {
    /* READINESS: it answers and lists the model; the token is asked for next. Others: never called. */
    void (*answers)(void *owner, const char *evidence);
    /* Once, the probe being over: it must not be cancelled any more. */
    void (*done)(void *owner, const struct probe_result *result);
};

struct probe;

/* Calls come later, on the loop's thread. NULL when memory is exhausted. */
struct probe *probe_start(struct fetcher *fetcher, enum probe_kind kind, const struct probe_target *target,
                          const struct probe_events *events, void *owner);
/* No call will come. NULLs. No-op on NULL. */
void probe_cancel(struct probe **probe);

#endif
