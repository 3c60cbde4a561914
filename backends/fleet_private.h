/* What the files of the fleet share. */
#ifndef BACKENDS_FLEET_PRIVATE_H
#define BACKENDS_FLEET_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "backends/fleet.h"
#include "backends/line.h"
#include "base/loop.h"

enum { FLEET_SWEEP_MS = 250 };

struct fetcher;

struct fleet {
    struct loop *control;
    struct children *children; /* or NULL */
    struct fetcher *fetcher;

    pthread_rwlock_t lines_lock; /* the list below; taken before a line's lock, never after */
    struct line *lines;
    atomic_bool refusing;

    /* The sweep runs every FLEET_SWEEP_MS while somebody waits or an instance is leaving. */
    atomic_bool sweeping;
    struct loop_task sweep_task; /* asks for the sweep from another thread; owned by who turned @sweeping on */
    struct loop_timer sweep_timer;

    /* -- control thread only -- */
    char *runtime_dir;     /* of the policy applied last */
    bool applied;          /* fleet_apply was called */
    uint64_t random_state; /* backends/random.h */
};

/* The line of @model, locked; NULL when there is none. Any thread. */
struct line *fleet_lock_line(struct fleet *fleet, const char *model);
/* The line of @model, made when there is none; NULL when memory is exhausted. Control thread. */
struct line *fleet_find_or_make_line(struct fleet *fleet, const char *model);
/* Somebody waits now. Any thread. */
void fleet_want_sweep(struct fleet *fleet);
/* Control thread: the instance is leaving and its process has ended. Frees it unless leases are held, and starts who
 * waited for its name. True when it is gone. */
bool fleet_let_go(struct fleet *fleet, struct instance *instance);

#endif
