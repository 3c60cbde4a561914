/* Model to lease: every engine instance, who may use its slots, and who waits for one. Shared by all threads of the
 * gateway. */
#ifndef BACKENDS_FLEET_H
#define BACKENDS_FLEET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/loop.h"
#include "conf/policy.h"

struct fleet;
struct children; /* backends/children.h */
struct ticket;   /* backends/queue.h */

/* ---- life; control thread ---- */

/* @control is the loop that owns states, probes and timers. @children may be NULL: then nothing can be spawned (tests).
 */
struct fleet *fleet_create(struct loop *control, struct children *children);
/* Make the instances be what @policy says: matched by name and by a hash of the engine's settings. New ones start, what
 * is gone or changed drains and stops (a changed one is replaced), the others go on with their state. At the first
 * call, children that the master already runs are adopted where name and hash match, and serve at once if they were
 * READY. */
void fleet_apply(struct fleet *fleet, const struct policy *policy);
/* Every waiter is refused from now on; leases go on. */
void fleet_refuse_new(struct fleet *fleet);
/* No lease may be held, nobody waits, the other threads have ended; the loop is not run afterwards. Engines are left
 * running: stopping them is the master's work when it is told to end. */
void fleet_destroy(struct fleet **fleet);

enum instance_state {
    INSTANCE_STOPPED,
    INSTANCE_STARTING, /* its process runs (or a remote one is not yet seen), nothing answered */
    INSTANCE_WARMING,  /* answers, but has not proved that it generates */
    INSTANCE_READY,
    INSTANCE_DRAINING, /* gets no new request */
    INSTANCE_STOPPING,
    INSTANCE_BACKOFF, /* died or failed; a timer brings it back */
    INSTANCE_FAILED,  /* crash loop; tried again every 5 minutes, or when its settings change */
    INSTANCE_STATE_COUNT
};
extern const char *const INSTANCE_STATE_NAMES[INSTANCE_STATE_COUNT];

/* ---- leases; any thread ---- */

/* One slot of one instance, held by one request. */
struct lease;

/* Where and how to ask; valid while the lease is held. */
struct lease_target {
    const char *engine;      /* instance name, "<model>/<n>" */
    const char *base_url;    /* "http://host:port" or "https://…"; "http://localhost" with socket_path */
    const char *socket_path; /* unix socket, or NULL */
    const char *api_key;     /* or NULL */
    enum engine_dialect dialect;
    bool continuous_usage;
    struct engine_timeouts timeouts;
};

enum lease_verdict {
    LEASE_TAKEN,
    LEASE_WAITING, /* in the queue: @granted or @refused will be called, unless lease_abandon comes first */
    LEASE_QUEUE_FULL,
    LEASE_ALL_FAILED, /* every instance of the model is FAILED, or the model has no engine */
    LEASE_TIMED_OUT,  /* only through @refused: waited for the model's queue.wait */
    LEASE_DRAINING,   /* the gateway is shutting down */
    LEASE_VERDICT_COUNT
};
extern const char *const LEASE_VERDICT_NAMES[LEASE_VERDICT_COUNT];

/* A place in the queue, in the request's memory, which must stay until granted, refused or abandoned; when one of these
 * is called or returns, it may be freed or used again. */
struct lease_waiter {
    struct loop *loop; /* the request's loop; the calls below are made on its thread */
    void (*granted)(struct lease_waiter *waiter, struct lease *lease); /* the lease is the receiver's */
    void (*refused)(struct lease_waiter *waiter, enum lease_verdict why);
    void *owner;
    struct ticket *_ticket; /* private to the fleet; NULL before lease_take */
};

/* Take a free slot of @model's least loaded READY instance, or queue @waiter when all are busy, starting or restarting.
 * Never @except (an instance's name; NULL = none) unless it is the only one READY. @ret_lease only on TAKEN. */
enum lease_verdict lease_take(struct fleet *fleet, const char *model, const char *except, struct lease_waiter *waiter,
                              struct lease **ret_lease);
/* Give up waiting. On the waiter's own thread. After it no call comes; a lease granted meanwhile is ended unused. No-op
 * when the waiter does not wait. */
void lease_abandon(struct fleet *fleet, struct lease_waiter *waiter);
const struct lease_target *lease_target(const struct lease *lease);

/* How the instance did, for its breaker. */
enum lease_outcome {
    LEASE_UNUSED, /* nothing was sent, or it said nothing before the client left */
    LEASE_OK,     /* it answered, also with 4xx */
    LEASE_BUSY,   /* 429 or 503: back-pressure, no failure */
    LEASE_CONNECT_FAILED,
    LEASE_CLOSED_EARLY, /* no byte, or the stream broke off */
    LEASE_SERVER_ERROR, /* 5xx but 503 */
    LEASE_TIMED_OUT_FIRST,
    LEASE_TIMED_OUT_LATER,
    LEASE_OUTCOME_COUNT
};
extern const char *const LEASE_OUTCOME_NAMES[LEASE_OUTCOME_COUNT];
/* Free the slot, hand it to the first waiter, NULL the pointer. Ending a NULL is a no-op. */
void lease_end(struct lease **lease, enum lease_outcome outcome);
/* The instance generated something just now: its proof of life, so that a silent probe is no failure. Cheap; any
 * thread. */
void lease_progress(struct lease *lease);
/* A retry may be sent for @model: within a budget of 20 % of its requests plus 3 a second. Counts it when true. */
bool fleet_retry_allowed(struct fleet *fleet, const char *model);

/* ---- what people and other folders may see; any thread ---- */

/* Context tokens the model's READY instances reported, or 0. */
int64_t fleet_context_tokens(struct fleet *fleet, const char *model);

struct model_status {
    const char *model;
    int instances, ready, failed, in_flight, slots, waiting;
};
typedef void model_status_receiver(void *owner, const struct model_status *status);
void fleet_each_model(struct fleet *fleet, model_status_receiver *receive, void *owner);
/* The body of GET /admin/v1/engines: per instance name, model, state, since, evidence, pid, url or socket, in-flight,
 * slots, restarts, breaker, last exit and last log lines; per model the queue. JSON appended to @to. Control thread. */
bool fleet_write_json(struct fleet *fleet, struct buffer *to);

#endif
