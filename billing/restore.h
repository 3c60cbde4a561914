/* Epochs of one writer put back into a Redis that lost them, from their ledger files: for records that no journal has
 * any more. They are the sums themselves, so that putting them twice changes nothing. An epoch that Redis has as sealed
 * is whole there (ship.lua adds nothing to it any more) and is passed by.
 *
 * key                       what                                       lives
 * tg:{<writer>}:restoring   whose restoration it is, and how far       an hour
 *
 * Each step demands the one before it: a Redis that loses a part of them, or everything, gets them from the beginning.
 */
#ifndef BILLING_RESTORE_H
#define BILLING_RESTORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/redis.h"
#include "billing/ledger.h"

/* For one thread. About a quarter of a megabyte, and in a turn the cells of one epoch. */
struct restore;

struct restore_options {
    const char *ledger_directory;    /* copied */
    const char *writer_id;           /* copied */
    const struct ledger_name *names; /* of this writer's files; copied */
    size_t count;
    wall_ms since;       /* what ended before is passed by: it may be gone */
    int64_t retention_s; /* how long the cells live from now on */
    uint64_t mark;       /* what the writer's mark is raised to when all are there; 0: it stays as it is */
};

/* Reads the heads of some files. NULL with errno. */
struct restore *restore_create(const struct restore_options *options);
/* NULLs; no-op on NULL. Half of a restoration does no harm, as long as nothing is added to the same epochs before
 * another one ends. */
void restore_destroy(struct restore **restore);

enum restore_result {
    RESTORE_MORE, /* call again */
    RESTORE_DONE, /* all of it is in Redis, and so is the mark */
    RESTORE_DOWN, /* redis_error says why. The next call begins anew */
    RESTORE_REFUSED,
    RESTORE_UNREADABLE /* a ledger file, with errno. A file that went since it was listed is none: it was too old */
};
/* At most one epoch, or one question about several. */
enum restore_result restore_turn(struct restore *restore, struct redis *redis);
/* After UNREADABLE: do without that epoch. */
void restore_skip(struct restore *restore);

/* All that there is ended too long ago. */
bool restore_is_empty(const struct restore *restore);
/* How many epochs it has put. */
size_t restore_count(const struct restore *restore);

#endif
