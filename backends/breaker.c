#include "backends/breaker.h"

#include <string.h>

const char *const BREAKER_STATE_NAMES[BREAKER_STATE_COUNT] = {
    [BREAKER_CLOSED] = "closed",
    [BREAKER_OPEN] = "open",
    [BREAKER_HALF_OPEN] = "half-open",
};

bool breaker_admits(const struct breaker *breaker, mono_ms now)
{
    switch (breaker->state) {
    case BREAKER_CLOSED:
        return true;
    case BREAKER_OPEN:
        return now >= breaker->open_until;
    case BREAKER_HALF_OPEN:
        return !breaker->trial_taken;
    case BREAKER_STATE_COUNT:
        break;
    }
    return false;
}

bool breaker_take(struct breaker *breaker, mono_ms now)
{
    if (breaker->state == BREAKER_CLOSED || !breaker_admits(breaker, now))
        return false;
    breaker->state = BREAKER_HALF_OPEN;
    breaker->trial_taken = true;
    return true;
}

static void open_breaker(struct breaker *breaker, double random, mono_ms now)
{
    int64_t open_ms = (int64_t) BREAKER_OPEN_FIRST_MS << breaker->opens;

    if (open_ms >= BREAKER_OPEN_MS_MAX)
        open_ms = BREAKER_OPEN_MS_MAX;
    else
        breaker->opens++;
    breaker->state = BREAKER_OPEN;
    breaker->open_until = now + (int64_t) ((double) open_ms * (0.5 + random));
    breaker->trial_taken = false;
}

static void close_breaker(struct breaker *breaker, mono_ms now)
{
    unsigned opens = breaker->opens;

    memset(breaker, 0, sizeof(*breaker));
    breaker->opens = opens;
    breaker->closed_since = now;
}

static void count(struct breaker *breaker, bool failed, mono_ms now)
{
    int64_t slice = now / BREAKER_SLICE_MS;
    size_t at = (size_t) (slice % BREAKER_SLICES);

    if (breaker->_window[at].slice != slice) {
        breaker->_window[at].slice = slice;
        breaker->_window[at].failures = 0;
        breaker->_window[at].successes = 0;
    }
    if (failed)
        breaker->_window[at].failures++;
    else
        breaker->_window[at].successes++;
    breaker->failures_in_a_row = failed ? breaker->failures_in_a_row + 1 : 0;
}

static bool failed_too_often(const struct breaker *breaker, mono_ms now)
{
    int64_t slice = now / BREAKER_SLICE_MS;
    int failures = 0;
    int all = 0;

    if (breaker->failures_in_a_row >= BREAKER_FAILURES_IN_A_ROW_MAX)
        return true;
    for (size_t i = 0; i < BREAKER_SLICES; i++) {
        if (slice - breaker->_window[i].slice >= BREAKER_SLICES)
            continue;
        failures += breaker->_window[i].failures;
        all += breaker->_window[i].failures + breaker->_window[i].successes;
    }
    return all >= BREAKER_SAMPLES_MIN && failures * 2 >= all;
}

static bool end_trial(struct breaker *breaker, const struct breaker_end *end, mono_ms now)
{
    breaker->trial_taken = false;
    if (end->result == BREAKER_FAILURE) {
        open_breaker(breaker, end->random, now);
        return true;
    }
    if (end->result != BREAKER_NOTHING)
        close_breaker(breaker, now);
    return false;
}

bool breaker_end(struct breaker *breaker, const struct breaker_end *end, mono_ms now)
{
    if (end->was_trial && breaker->state == BREAKER_HALF_OPEN)
        return end_trial(breaker, end, now);
    if (breaker->state != BREAKER_CLOSED || end->result == BREAKER_NOTHING || end->result == BREAKER_ANSWERED)
        return false;
    if (now - breaker->closed_since >= BREAKER_CALM_MS)
        breaker->opens = 0;
    count(breaker, end->result == BREAKER_FAILURE, now);
    if (end->result != BREAKER_FAILURE || !end->may_open || !failed_too_often(breaker, now))
        return false;
    open_breaker(breaker, end->random, now);
    return true;
}
