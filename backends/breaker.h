/* Keeps requests away from an instance that fails them, and tries it again with one. Pure. */
#ifndef BACKENDS_BREAKER_H
#define BACKENDS_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

enum {
    BREAKER_FAILURES_IN_A_ROW_MAX = 5,
    BREAKER_WINDOW_MS = 30 * 1000, /* in it, half of at least BREAKER_SAMPLES_MIN requests failed: open */
    BREAKER_SAMPLES_MIN = 20,
    BREAKER_OPEN_FIRST_MS = 5 * 1000, /* open for 5 s * 2^k, at most 60 s, times U(0.5, 1.5) */
    BREAKER_OPEN_MS_MAX = 60 * 1000,
    BREAKER_CALM_MS = 60 * 1000, /* closed for this long: k starts at 0 again */
    BREAKER_SLICES = 6,
    BREAKER_SLICE_MS = BREAKER_WINDOW_MS / BREAKER_SLICES
};

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN, BREAKER_STATE_COUNT };
extern const char *const BREAKER_STATE_NAMES[BREAKER_STATE_COUNT];

/* Zeroed memory is a closed breaker. Fields are for reading. */
struct breaker {
    enum breaker_state state;
    mono_ms open_until;
    mono_ms closed_since;
    unsigned opens; /* k, since it was calm */
    int failures_in_a_row;
    bool trial_taken; /* HALF_OPEN: its one request is out */
    struct {
        int64_t slice; /* which one: time / BREAKER_SLICE_MS */
        int failures;
        int successes;
    } _window[BREAKER_SLICES];
};

/* A request may be sent at @now. */
bool breaker_admits(const struct breaker *breaker, mono_ms now);
/* One is sent. True: it is the trial of a half-open breaker, and its end must say so. May be called when
 * breaker_admits says no (a model's last instance): then false. */
bool breaker_take(struct breaker *breaker, mono_ms now);

enum breaker_result {
    BREAKER_NOTHING,  /* the request was not sent */
    BREAKER_ANSWERED, /* back-pressure: it lives, but this is no success to count */
    BREAKER_SUCCESS,
    BREAKER_FAILURE
};

/* How a request ended. Results of requests sent before it opened do not count while it is open. */
struct breaker_end {
    enum breaker_result result;
    bool was_trial;
    bool may_open; /* another instance can take the requests */
    double random; /* uniform in [0, 1) */
};
/* True when it opened, also again. */
bool breaker_end(struct breaker *breaker, const struct breaker_end *end, mono_ms now);

#endif
