/* How many requests of a model may be sent a second time: a share of its requests plus a few a second. Pure. */
#ifndef BACKENDS_RETRY_BUDGET_H
#define BACKENDS_RETRY_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

enum {
    RETRY_SHARE_PER_MILLE = 200, /* of the requests */
    RETRY_PER_SECOND = 3,
    RETRY_BURST = 10
};

/* Tokens in thousandths, so that the share is exact. */
struct retry_budget {
    int64_t milli_tokens;
    mono_ms filled_at;
};

/* Full. */
void retry_budget_init(struct retry_budget *budget, mono_ms now);
/* A request came (not a retry). */
void retry_budget_request(struct retry_budget *budget);
/* True: one retry may be sent, and is counted. */
bool retry_budget_take(struct retry_budget *budget, mono_ms now);

#endif
