/* One model's line: its instances, the requests that wait for one, and the lock over both. Private to the fleet. */
#ifndef BACKENDS_LINE_H
#define BACKENDS_LINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/fleet.h"
#include "backends/instance.h"
#include "backends/pick.h"
#include "backends/queue.h"
#include "backends/retry_budget.h"

enum { LINE_INSTANCES_MAX = 512 }; /* of one model, those that are leaving included */

struct line {
    char *model; /* never changes */
    struct {
        struct metric_series *queue_length, *queue_wait;
    } metrics;

    pthread_mutex_t lock; /* short: no I/O but waking a loop */
    /* -- under @lock; the array is changed by the control thread only, which may read it without -- */
    struct instance **instances;
    struct pick_candidate *candidates; /* room for picking, as long as @instances */
    size_t count;
    size_t capacity;
    struct queue queue;
    int64_t queue_wait_ms;
    struct retry_budget retries;
    bool refusing; /* the gateway is shutting down */
    int told;      /* tickets whose task is posted and has not run: they name this line */
    uint64_t random_state;

    /* -- control thread only, but for looking at @wanted -- */
    atomic_bool wanted; /* in the policy being applied */
    struct line *next;
};

/* A slot of an instance, held. Its target is a copy: timers and ports may change while a request runs. */
struct lease {
    struct instance *instance;
    struct lease_target target;
    bool is_trial; /* of a half-open breaker */
    char port_url[48];
};

/* ---- control thread ---- */

struct line *line_create(const char *model);
/* Nothing in it, nobody waits, no ticket is told. */
void line_destroy(struct line **line);
void line_configure(struct line *line, const struct model *model);
/* False when memory is exhausted or LINE_INSTANCES_MAX are in it. */
bool line_add(struct line *line, struct instance *instance);
/* Take it out, unless leases are held: then false. */
bool line_remove(struct line *line, struct instance *instance);
bool line_is_empty(struct line *line);
bool line_has_waiters(struct line *line);
/* An instance has changed: give free slots to who waits; refuse all when every instance is FAILED. */
void line_serve(struct line *line);
/* As above, after refusing who waited too long. */
void line_sweep(struct line *line, mono_ms now);
/* Every waiter is refused, now and from now on. */
void line_refuse(struct line *line);

/* ---- any thread; the caller holds @lock or makes sure otherwise that the line stays ---- */

/* lease_take with the lock held. @spare is the lease to fill; it is used up (NULL) unless the request is refused. */
enum lease_verdict line_take(struct line *line, const char *except, struct lease_waiter *waiter, struct lease **spare);
/* Waiting or told: forget @ticket's waiter. Takes the lock. */
void line_abandon(struct ticket *ticket);
/* Takes the lock. The lease is still the caller's memory. */
void line_end(struct lease *lease, enum lease_outcome outcome);

#endif
