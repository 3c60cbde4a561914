/* Removes what nobody needs any more: segments whose epochs are in the ledger, in Redis and with every provider, and
 * ledger files that are older than the configuration wants. */
#ifndef BILLING_RETENTION_H
#define BILLING_RETENTION_H

#include <stdbool.h>
#include <stddef.h>

#include "billing/outbox.h"
#include "billing/writers.h"

enum { JOURNAL_KEPT_MS = 3600 * 1000 };

struct retention {
    struct writers *writers;
    struct store *store;
    struct outbox *const *outboxes; /* NULLs among them are passed over; only active ones count */
    size_t outbox_count;
    const char *ledger_directory;
    wall_ms now;
};

/* Segments, the oldest first: each goes when its last record is older than JOURNAL_KEPT_MS (or further ahead than that:
 * then its time is not known, and it goes at once), each epoch in it is sealed,
 * in the ledger and in Redis, no provider's row of it is pending or sent, and no OPEN in it lacks its CLOSE. A finished
 * writer whose segments are gone goes as well. False with errno: a file cannot be removed. */
bool retention_of_segments(const struct retention *retention);
/* Ledger files of epochs that ended more than @retention_ms before now; or before the end of the last epoch that no
 * journal has any more, when that is earlier: a clock that is ahead makes nothing old, also not by what is recorded
 * under it. Not while a row of it is not delivered, nor while its journal is there. What is known of delivered rows
 * goes with them. Logs what went. */
void retention_of_ledger(const struct retention *retention, int64_t retention_ms);

#endif
