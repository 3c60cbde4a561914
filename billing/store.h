/* The store thread: the only one that talks to Redis. It ships every writer's journal, for ever, puts back from ledger
 * files what Redis forgot of journals that are gone, and blocks nobody. */
#ifndef BILLING_STORE_H
#define BILLING_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/redis.h"
#include "billing/journal.h"
#include "conf/policy.h"

struct store;

enum { STORE_WRITERS_MAX = 4096 };
/* Sums are in Redis for looking at and comparing, no longer than that; ledger files are what is kept. */
#define STORE_KEPT_MS ((int64_t) 7 * 24 * 3600 * 1000)
/* How long Redis has sums when ledger files stay for @retention_ms: what ended longer ago need not be there. */
int64_t store_kept_ms(int64_t retention_ms);

struct store_options {
    const char *journal_directory; /* state_dir/journal; copied */
    const char *ledger_directory;  /* state_dir/ledger; copied. For what Redis lost and no journal has any more */
    struct redis_options redis;    /* its strings are copied */
    int64_t kept_ms;               /* store_kept_ms, at least a second */
};

/* Where the Redis of the configuration is, with this program's time limits; @private_socket is the one of the private
 * one. The result points into both. */
struct redis_options store_redis_options(const struct redis_address *address, const char *private_socket);

/* Redis need not be there yet. NULL with errno. */
struct store *store_start(const struct store_options *options);
/* Ends it within a second, whatever Redis does (but for a look-up of a name that takes longer); what is not shipped is
 * shipped after the next start. NULLs; no-op on NULL. */
void store_stop(struct store **store);

struct store_status {
    bool is_up;                    /* Redis answered the last call */
    char error[REDIS_ERROR_BYTES]; /* the last one, also of a single writer; "" since all is well */
    bool is_durability_known;
    bool may_evict;           /* its sums are not safe from itself */
    bool is_durability_scant; /* the line below says what to set */
    char durability[REDIS_DURABILITY_BYTES];
    size_t writers, stuck_writers;
    uint64_t regressions;     /* how often Redis had less than it had confirmed */
    uint64_t restored_epochs; /* put back from ledger files */
    wall_ms oldest_unshipped; /* of the first record that Redis has not confirmed; 0 = there is none */
};
/* Any thread; never waits for Redis. */
void store_status(struct store *store, struct store_status *ret);

struct store_writer {
    char id[WRITER_ID_CHARACTERS + 1];
    uint64_t shipped; /* sequence of the last record that Redis confirmed */
    wall_ms oldest_unshipped;
};
/* Any thread: up to @capacity writers, sorted by id; returns how many there are. */
size_t store_writers(struct store *store, struct store_writer ret[], size_t capacity);
/* Any thread: 0 for a writer that is not known (yet). */
uint64_t store_shipped(struct store *store, const char *writer_id);

#endif
