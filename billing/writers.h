/* All writers' journals on their way into the ledger, and the recovery of those whose gateway died. */
#ifndef BILLING_WRITERS_H
#define BILLING_WRITERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "billing/harvest.h"
#include "billing/store.h"

/* For one thread. */
struct writers;

struct writers_options {
    const char *journal_directory, *ledger_directory; /* existing; copied */
    struct store *store;                              /* outlives it */
    harvest_sealed *sealed;                           /* each epoch that is in the ledger */
    void *owner;
    const atomic_bool *stop; /* a long recovery ends when it is set */
};

/* What is in the journal directory now are dead writers' journals. NULL with errno. */
struct writers *writers_create(const struct writers_options *options);
/* NULLs; no-op on NULL. */
void writers_destroy(struct writers **writers);

/* Find those that began since the last look. */
void writers_look(struct writers *writers);
/* Read on, and finish dead ones as `billing.bill` says: @bill_crash. True: @until came first. What fails is tried again
 * later, and keeps nobody else from going on. */
bool writers_turn(struct writers *writers, bool bill_crash, mono_ms until);

/* Redis has the whole epoch, or the journal went, which it does only then. */
bool writers_is_shipped(const struct writers *writers, const struct ledger_name *epoch);
/* The epoch may stand in a journal, as a whole or in part. */
bool writers_may_hold(const struct writers *writers, const struct ledger_name *epoch);
/* Wall time of the first CLOSE that is in no ledger file; 0 = there is none. */
wall_ms writers_oldest(const struct writers *writers);
/* What fails at the moment, "" = nothing. */
const char *writers_trouble(const struct writers *writers);

struct writers_recovered {
    uint64_t writers, crashed_requests;
};
struct writers_recovered writers_recovered(const struct writers *writers);

/* In order of their ids. Valid until the next look or removal. */
size_t writers_count(const struct writers *writers);
struct harvest *writers_at(const struct writers *writers, size_t place);
/* The place of @writer_id, or writers_count. */
size_t writers_find(const struct writers *writers, const char *writer_id);
/* A finished writer whose segments are all removed: its directory goes. False with errno. */
bool writers_remove(struct writers *writers, size_t place);

#endif
