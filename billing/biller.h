/* The billing thread: with the policy in force (conf/reload.h) it finishes dead writers' journals, turns sealed epochs
 * into ledger files and rows, hands the rows to the providers, and removes what nobody needs any more. The only one
 * that changes states of rows. */
#ifndef BILLING_BILLER_H
#define BILLING_BILLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "billing/row_change.h"
#include "billing/store.h"
#include "billing/usage_status.h"

struct biller;

enum { BILLER_ERROR_BYTES = 256 };

struct biller_options {
    const char *state_dir; /* copied; the caller's process holds its lock */
    struct store *store;   /* outlives the biller. A row goes only when its epoch is in Redis */
};

/* Start it, before any worker has made a journal: those that are there now are dead writers' and will be recovered.
 * Makes state_dir/journal, ledger, billing and install_id when they are missing. NULL with @error in words for a
 * person.
 */
struct biller *biller_start(const struct biller_options *options, char error[BILLER_ERROR_BYTES]);
/* Ends it within a second, whatever a provider does: what was not told is asked for again after the next start. NULLs;
 * no-op on NULL. */
void biller_stop(struct biller **biller);

struct biller_status {
    size_t provider_count;
    struct usage_status providers[PROVIDER_KIND_COUNT];
    /* Of the first record that is not yet in a ledger file, or in a row that some provider has not taken (held and
     * rejected rows wait for a person and do not count); 0 = there is none. */
    wall_ms oldest_unflushed;
    uint64_t recovered_writers, crashed_requests; /* since the start */
    char error[BILLER_ERROR_BYTES];               /* the last trouble; "" since all is well */
};
/* Any thread; a copy of what the last turn knew; never waits for a provider or a disk. */
void biller_status(struct biller *biller, struct biller_status *ret);

/* What a person wants with one row; in the caller's memory until @done. */
struct biller_change {
    enum row_verb verb;
    char id[ROW_ID_CHARACTERS + 1];
    struct loop *loop;
    void (*done)(struct biller_change *change); /* on @loop's thread */
    void *owner;
    /* The answer, for @done: */
    struct row_change_result result;
    struct loop_task _task;
    struct biller *_biller;
};
/* Any thread. @done always comes; when the biller stops first, with a result that says so. */
void biller_post(struct biller *biller, struct biller_change *change);

#endif
