/* The two clocks: a monotonic one for deadlines and a wall clock for dates. Pure code takes their values, never calls
 * them. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

/* Milliseconds and microseconds since an arbitrary start; never steps. */
typedef int64_t mono_ms;
typedef int64_t mono_us;
/* Milliseconds since 1970-01-01T00:00:00Z; may step either way. */
typedef int64_t wall_ms;

mono_ms clock_mono_ms(void);
mono_us clock_mono_us(void);
/* In a build for tests (TOLLGATE_TEST_CLOCK), and there only, the milliseconds in the file that the environment's
 * TOLLGATE_CLOCK_OFFSET_FILE names are added to it. */
wall_ms clock_wall_ms(void);
/* When the UTC hour of @when began. */
static inline wall_ms clock_hour(wall_ms when)
{
    return when - when % (3600 * 1000);
}

enum { CLOCK_TEXT_BYTES = 32 };

/* Write @when as RFC 3339 in UTC with milliseconds ("2026-11-22T16:48:39.123Z") and a NUL; returns @to. */
const char *clock_text(wall_ms when, char to[CLOCK_TEXT_BYTES]);

#endif
