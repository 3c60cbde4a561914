/* Writers of which only ledger files are left: whether Redis still has their epochs, and if not, that it gets them. */
#ifndef BILLING_SWEEP_H
#define BILLING_SWEEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/redis.h"

/* For one thread. */
struct sweep;

/* Nothing is under way. What ended more than @retention_s ago is nobody's loss. NULL: no memory. */
struct sweep *sweep_create(const char *ledger_directory, int64_t retention_s);
/* NULLs; no-op on NULL. */
void sweep_destroy(struct sweep **sweep);

/* Redis may have lost something: look at all of them, from the first. */
void sweep_begin(struct sweep *sweep);
/* A writer whose last record Redis has confirmed has no journal any more. */
void sweep_note_gone(struct sweep *sweep, const char *writer_id);

/* Its records come out of its journal: it is none of ours. */
typedef bool sweep_is_shipped(void *owner, const char *writer_id);

enum sweep_result {
    SWEEP_LISTED, /* call again, with an is_shipped that knows all journals that are there now */
    SWEEP_MORE,   /* call again */
    SWEEP_IDLE,   /* nothing is under way */
    SWEEP_DOWN,   /* redis_error says why; it goes on there */
    SWEEP_REFUSED
};
/* The list of ledger files; then a writer that Redis has whole, or an epoch that it lacks, at a time. */
enum sweep_result sweep_turn(struct sweep *sweep, struct redis *redis, sweep_is_shipped *is_shipped, void *owner);
/* Ask for one thing that has to be there, or has become too old; when it is not, begin. */
void sweep_check(struct sweep *sweep, struct redis *redis);

/* What was wrong with a ledger file, which was passed by; "" = nothing since the last begin. */
const char *sweep_trouble(const struct sweep *sweep);
/* How many epochs were put back. */
uint64_t sweep_restored(const struct sweep *sweep);

#endif
