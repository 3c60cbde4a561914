/* One token bucket of integer milli-units with a signed balance. Pure arithmetic: no I/O, no clock, no overflow. */
#ifndef RATELIMIT_BUCKET_H
#define RATELIMIT_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define BUCKET_MILLI INT64_C(1000)
/* Whole units: above it arithmetic is saturated, never wrapped. */
#define BUCKET_UNITS_MAX INT64_C(1000000000000)

/* The bound it keeps: what is taken in any window of length d is at most capacity + rate * d, plus stated debt. */
struct bucket {
    int64_t capacity_milli;        /* > 0 */
    int64_t rate_milli_per_minute; /* 0 = seats: nothing flows back by itself */
    int64_t balance_milli;         /* <= capacity; negative = debt */
    int64_t remainder;             /* of the refill's division, so that nothing is lost by frequent looks */
    mono_us refilled_at;           /* a step back of the clock refills nothing, and nothing twice */
};

/* Full at @now. */
void bucket_begin(struct bucket *bucket, int64_t capacity_milli, int64_t rate_milli_per_minute, mono_us now);
/* New limits: refilled by the old rate up to @now, then cut to the new capacity; never filled.
 * Of seats what is taken stays taken: the rest is the new capacity less that, or negative. */
void bucket_change(struct bucket *bucket, int64_t capacity_milli, int64_t rate_milli_per_minute, mono_us now);
void bucket_refill(struct bucket *bucket, mono_us now);
/* The balance covers @milli now (after bucket_refill). */
bool bucket_covers(const struct bucket *bucket, int64_t milli);
/* Take, also into debt. Saturates at the ends of int64. */
void bucket_take(struct bucket *bucket, int64_t milli);
/* Give back, at most to capacity. */
void bucket_give(struct bucket *bucket, int64_t milli);
/* Microseconds until bucket_covers(@milli) if nothing else happens; 0 = now, INT64_MAX = never. Rounded up. */
int64_t bucket_wait_us(const struct bucket *bucket, int64_t milli);

#endif
