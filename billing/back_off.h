/* How long something that fails is left alone: longer each time, up to a bound. Pure. */
#ifndef BILLING_BACK_OFF_H
#define BILLING_BACK_OFF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

enum { BACK_OFF_FIRST_MS = 1000, BACK_OFF_MAX_MS = 5 * 60 * 1000 };

/* Zeroed memory: nothing has failed. A plain value. */
struct back_off {
    int64_t _wait_ms;
    mono_ms _until;
};

static inline bool back_off_is_over(const struct back_off *back_off, mono_ms now)
{
    return now >= back_off->_until;
}

/* It failed since the last success. */
static inline bool back_off_is_on(const struct back_off *back_off)
{
    return back_off->_wait_ms != 0;
}

static inline void back_off_failed(struct back_off *back_off, mono_ms now)
{
    int64_t next = back_off->_wait_ms == 0 ? BACK_OFF_FIRST_MS : back_off->_wait_ms * 2;
    back_off->_wait_ms = next < BACK_OFF_MAX_MS ? next : BACK_OFF_MAX_MS;
    back_off->_until = now + back_off->_wait_ms;
}

static inline void back_off_worked(struct back_off *back_off)
{
    *back_off = (struct back_off){0};
}

#endif
