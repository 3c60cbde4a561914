/* Whether all usage before a time stands in ledger files, and what is missing if not. */
#ifndef BILLING_COMPLETENESS_H
#define BILLING_COMPLETENESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "billing/journal.h"

struct completeness_question {
    const char *journal_directory;
    const char *ledger_directory;
    wall_ms from, to; /* full UTC hours: from <= ended < to */
    wall_ms now;      /* read before the question is asked */
    int64_t retention_ms;
};

struct completeness {
    bool is_complete;
    bool is_future;          /* @to has not come yet */
    bool is_too_old;         /* what is older than the retention may have been removed already */
    uint64_t open_requests;  /* may still become usage before @to */
    uint64_t open_epochs;    /* not sealed yet */
    uint64_t missing_epochs; /* sealed, and not in the ledger yet */
    uint64_t damaged_journals;
    char damaged_writer[WRITER_ID_CHARACTERS + 1]; /* one of them */
};

/* Reads all journals, also while a gateway writes them. What is in the ledger when it returns is_complete is all there
 * will ever be. False with errno; ENOENT = there are no journals: no gateway has run. */
bool completeness_read(const struct completeness_question *question, struct completeness *ret);

#endif
