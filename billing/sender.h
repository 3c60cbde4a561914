/* Takes one provider's rows from their states to the provider, over HTTP, one lane at a time. The billing thread's. */
#ifndef BILLING_SENDER_H
#define BILLING_SENDER_H

#include "base/fetch.h"
#include "base/loop.h"
#include "billing/row_state.h"

struct sender;

struct sender_options {
    struct loop *loop;
    struct fetcher *fetcher;
    struct row_states *states; /* shared with the biller, which adds rows; same thread */
    enum provider_kind provider;
    const char *install_id; /* copied */
    uint64_t seed;          /* of the jitter */
};

/* All rows that are pending, or sent without an answer, will go. NULL: no memory. */
struct sender *sender_create(const struct sender_options *options);
/* What is in flight is cancelled: it stays sent, and goes again, or is reconciled first, after the next start. NULLs;
 * no-op on NULL. */
void sender_destroy(struct sender **sender);

/* Rows were added or a person changed one: look for what may go, with what @policy says now (customers, key, address).
 * The policy is held until the next call. When the policy names the provider no more, nothing goes. Call it at least
 * every few seconds; cheap when nothing changed. */
void sender_turn(struct sender *sender, const struct policy *policy);
/* Why nothing goes at the moment, or the last answer that was not taken; "" = all is well, or nothing is to go. */
const char *sender_trouble(const struct sender *sender);

#endif
