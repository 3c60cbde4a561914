#include "backends/backoff.h"

void backoff_ready(struct backoff *backoff)
{
    backoff->same_exits = 0;
    backoff->failed = false;
}

/* The last BACKOFF_EXITS_MAX ends, this one included, lie within the window. */
static bool too_many_exits(struct backoff *backoff, mono_ms now)
{
    backoff->exits[backoff->exit_count % BACKOFF_EXITS_MAX] = now;
    backoff->exit_count++;
    if (backoff->exit_count < BACKOFF_EXITS_MAX)
        return false;
    mono_ms oldest = backoff->exits[backoff->exit_count % BACKOFF_EXITS_MAX];

    return now - oldest <= BACKOFF_WINDOW_MS;
}

static bool same_exit_again(struct backoff *backoff, int status, bool was_ready)
{
    if (was_ready) {
        backoff->same_exits = 0;
        return false;
    }
    backoff->same_exits = backoff->same_exits > 0 && backoff->last_status == status ? backoff->same_exits + 1 : 1;
    backoff->last_status = status;
    return backoff->same_exits >= BACKOFF_SAME_EXITS_MAX;
}

struct backoff_decision backoff_exited(struct backoff *backoff, mono_ms now, int status, int64_t ready_ms,
                                       double random)
{
    bool was_ready = ready_ms >= 0;
    bool storm = too_many_exits(backoff, now);
    bool same = same_exit_again(backoff, status, was_ready);

    if (ready_ms >= BACKOFF_PROVEN_MS)
        backoff->exponent = 0;
    if (storm || same || (backoff->failed && !was_ready)) {
        backoff->failed = true;
        return (struct backoff_decision){.failed = true, .delay_ms = BACKOFF_FAILED_RETRY_MS};
    }
    int64_t delay_ms = (int64_t) BACKOFF_FIRST_MS << backoff->exponent;

    if (delay_ms >= BACKOFF_DELAY_MS_MAX)
        delay_ms = BACKOFF_DELAY_MS_MAX;
    else
        backoff->exponent++;
    return (struct backoff_decision){.delay_ms = (int64_t) ((double) delay_ms * (0.5 + random))};
}
