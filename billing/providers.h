/* All providers that were ever there: which rows each has, and that they go. */
#ifndef BILLING_PROVIDERS_H
#define BILLING_PROVIDERS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/fetch.h"
#include "base/loop.h"
#include "billing/outbox.h"
#include "billing/row_change.h"
#include "billing/usage_status.h"

/* For the loop's thread, or for another one before and after it runs. */
struct providers;

enum { PROVIDERS_TROUBLE_BYTES = 256 };

struct providers_options {
    const char *billing_directory, *ledger_directory; /* existing; copied */
    const char *install_id;                           /* copied */
    struct loop *loop;
    struct fetcher *fetcher;
};

/* None is open yet. NULL: no memory. */
struct providers *providers_create(const struct providers_options *options);
/* NULLs; no-op on NULL. */
void providers_destroy(struct providers **providers);

/* What @policy says now. Those that it names, and those that have left something on the disk, are open afterwards.
 * False with providers_trouble: one that is named is not in use; it is tried again with the next calls. */
bool providers_follow(struct providers *providers, const struct policy *policy);
/* The epoch has its ledger file. */
void providers_sealed(struct providers *providers, const struct ledger_name *epoch);
/* Make rows of what may go, and have them on their way. True: there is more. */
bool providers_turn(struct providers *providers, const struct outbox_turn *turn);
/* Let go what was delivered long ago: now and then. False with errno: nothing is lost. */
bool providers_tidy(struct providers *providers);
/* What a person wants with the row @id of any provider. */
struct row_change_result providers_change(struct providers *providers, const struct policy *policy, const char *id,
                                          enum row_verb verb);

/* PROVIDER_KIND_COUNT of them; NULL where there is none. */
struct outbox *const *providers_outboxes(const struct providers *providers);
/* Where each stands that is open; returns how many. @ret_oldest: when the oldest usage began that one of those in use
 * has not got; 0 = there is none. */
size_t providers_usage(const struct providers *providers, struct usage_status ret[PROVIDER_KIND_COUNT],
                       wall_ms *ret_oldest);
/* What fails at the moment, of each provider, "" = nothing. Valid until the next call. */
const char *providers_trouble(struct providers *providers);

#endif
