/* Asks a provider what it has of a customer's meter: Stripe's event summaries. Results come on the loop. */
#ifndef BILLING_TOTALS_H
#define BILLING_TOTALS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/fetch.h"
#include "conf/policy.h"

/* Remembers which id each meter has. One thread. */
struct totals;

/* @fetcher outlives it. NULL: no memory. */
struct totals *totals_create(struct fetcher *fetcher);
/* Cancels what is in flight, without calls. NULLs; no-op on NULL. */
void totals_destroy(struct totals **totals);

struct totals_question {
    const struct provider_policy *provider; /* with its key; copied, and wiped when the answer is there */
    const char *event_name;
    const char *customer;
    wall_ms from, to; /* full UTC hours, from < to */
};
/* @error "" when @total is the answer; else why there is none, in words, without a secret. Others may be asked from
 * inside; the totals must not be destroyed. */
typedef void totals_done(void *owner, int64_t total, const char *error);
/* What an error is about, from inside the call that tells it: then others may still be answered, but for the first. */
enum totals_fault { TOTALS_FAULT_PROVIDER, TOTALS_FAULT_METER, TOTALS_FAULT_QUESTION };
enum totals_fault totals_fault(const struct totals *totals);
/* Texts are copied. One question is asked at a time, the others wait. False when memory is exhausted: no call will
 * come. */
bool totals_ask(struct totals *totals, const struct totals_question *question, totals_done *done, void *owner);

#endif
