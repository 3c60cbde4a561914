/* One engine that runs or should run: what it is, what state it is in, what it is doing. Private to the fleet. */
#ifndef BACKENDS_INSTANCE_H
#define BACKENDS_INSTANCE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "backends/backoff.h"
#include "backends/breaker.h"
#include "backends/fleet.h"
#include "backends/liveness.h"
#include "base/loop.h"
#include "conf/policy.h"

struct line;
struct fleet;
struct probe;
struct metric_series;

enum {
    INSTANCE_TEXT_BYTES = 256,
    INSTANCE_LOG_TAIL_BYTES = 4096,
    INSTANCE_SLOTS_DEFAULT = 8, /* when the engine does not say */
    INSTANCE_SOCKET_BYTES = 108 /* of sun_path */
};

struct instance {
    /* -- set at creation, then only read -- */
    struct fleet *fleet;
    struct line *line;
    pthread_mutex_t *lock; /* the line's */
    char *name;
    char *model;
    char *engine_model;
    uint8_t settings_hash[32];
    bool is_spawned;
    char **arguments;   /* spawned: as written, NULL-terminated */
    char **environment; /* spawned: the engine's own part, NULL-terminated */
    char *working_directory;
    char *base_url;    /* "http://localhost" with a socket; NULL while a port is to be found */
    char *socket_path; /* or NULL */
    char *api_key;     /* or NULL */
    enum engine_dialect dialect;
    struct {
        struct metric_series *up, *in_flight, *slots, *restarts;
    } metrics;

    /* -- under *lock; what is marked C is written by the control thread only, which may read it without the lock -- */
    bool leaving;              /* C: no longer in the policy, ends when its leases have: by instance_set_leaving only */
    enum instance_state state; /* C: by instance_set_state only */
    struct engine_timeouts timeouts; /* C */
    bool continuous_usage;           /* C */
    int weight;                      /* C */
    int slots;                       /* C: what may be in flight */
    int64_t context_tokens;          /* C: as the engine says, or 0 */
    int port;                        /* C: on loopback, or 0 */
    int in_flight;
    struct breaker breaker;
    mono_ms silent_since; /* backends/liveness.h */

    /* -- any thread -- */
    _Atomic mono_ms last_progress;

    /* -- control thread only -- */
    bool embeddings_only;
    int configured_slots; /* 0 = ask the engine */
    int64_t start_timeout_ms;
    bool wanted;                  /* in the policy being applied */
    struct instance *predecessor; /* has this name's process; we start when it is gone */
    bool has_child;               /* the master runs, or was told to run, its process */
    int pid;                      /* 0 = not yet known */
    struct probe *probe;
    struct loop_timer probe_timer;
    struct loop_timer clock_timer; /* of the state: start deadline, next start, end of draining */
    struct backoff backoff;
    struct liveness liveness;
    mono_ms state_since;
    wall_ms state_since_wall;
    mono_ms ready_since; /* -1 = not READY since it was started */
    mono_ms started_at;
    mono_ms drain_until;
    int starts;
    char evidence[INSTANCE_TEXT_BYTES]; /* of the state */
    char last_exit[INSTANCE_TEXT_BYTES];
    char log_tail[INSTANCE_LOG_TAIL_BYTES];
    size_t log_tail_length;
};

/* A STOPPED instance with copies of what @engine says; @runtime_dir is where a spawned one has its socket. Never fails
 * but for memory (NULL). */
struct instance *instance_create(struct line *line, const struct model *model, const struct engine *engine,
                                 const char *runtime_dir);
/* STOPPED, without leases, timers and probes. */
void instance_destroy(struct instance **instance);
/* Take over what may change while it runs. */
void instance_update(struct instance *instance, const struct model *model, const struct engine *engine);
/* @engine of @model is what the instance was made from. */
bool instance_matches(const struct instance *instance, const struct model *model, const struct engine *engine);

/* The only way a state changes. Asserts that the move is legal, and writes one log line with @evidence (printf). */
__attribute__((format(printf, 3, 4))) void instance_set_state(struct instance *instance, enum instance_state to,
                                                              const char *evidence, ...);
/* What the engine says it runs at once (0 = unknown) and its context. */
void instance_set_facts(struct instance *instance, int slots, int64_t context_tokens);
void instance_set_leaving(struct instance *instance, bool leaving);
void instance_set_port(struct instance *instance, int port);

/* Of what liveness decides on, now. */
struct liveness_facts instance_liveness_facts(struct instance *instance, mono_ms now);

#endif
