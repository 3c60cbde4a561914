#include "backends/retry_budget.h"

enum { MILLI = 1000 };

static void fill(struct retry_budget *budget, int64_t milli_tokens)
{
    budget->milli_tokens += milli_tokens;
    if (budget->milli_tokens > (int64_t) RETRY_BURST * MILLI)
        budget->milli_tokens = (int64_t) RETRY_BURST * MILLI;
}

void retry_budget_init(struct retry_budget *budget, mono_ms now)
{
    budget->milli_tokens = (int64_t) RETRY_BURST * MILLI;
    budget->filled_at = now;
}

void retry_budget_request(struct retry_budget *budget)
{
    fill(budget, RETRY_SHARE_PER_MILLE);
}

bool retry_budget_take(struct retry_budget *budget, mono_ms now)
{
    /* Threads read the clock before they get the lock: time may seem to step back by a little. */
    if (now > budget->filled_at) {
        /* So many tokens a second are as many thousandths a millisecond. */
        fill(budget, (now - budget->filled_at) * RETRY_PER_SECOND);
        budget->filled_at = now;
    }
    if (budget->milli_tokens < MILLI)
        return false;
    budget->milli_tokens -= MILLI;
    return true;
}
