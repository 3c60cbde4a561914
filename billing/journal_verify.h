/* Whether a writer's records, in their order, keep the journal's rules. Pure. */
#ifndef BILLING_JOURNAL_VERIFY_H
#define BILLING_JOURNAL_VERIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "billing/record.h"

struct journal_verifier;

struct journal_summary {
    uint64_t records, opens, progresses, closes, seals;
    uint64_t still_open; /* OPENs without a CLOSE so far */
    bool is_finished;
};

/* @is_whole: the first record is the writer's first; else what came before is unknown and taken to be right. NULL
 * without memory. */
struct journal_verifier *journal_verifier_create(bool is_whole);
/* NULLs; no-op on NULL. */
void journal_verifier_destroy(struct journal_verifier **verifier);
/* The next record. NULL = right; else what is wrong, valid for ever, and nothing more may be taken. */
const char *journal_verifier_take(struct journal_verifier *verifier, const struct record *record);
struct journal_summary journal_verifier_summary(const struct journal_verifier *verifier);

#endif
