/* One token bucket of integer milli-units with a signed balance. Pure arithmetic: no I/O, no clock, no overflow. */
#ifndef RATELIMIT_BUCKET_H
#define RATELIMIT_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define BUCKET_MILLI INT64_C(1000)
/* Whole units: above it arithmetic is saturated, never wrapped. */
#define BUCKET_UNITS_MAX INT64_C(1000000000000)

__extension__ typedef __int128 wide;

/* The bound it keeps: what is taken in any window of length d, and is not given back in the end, is at most capacity +
 * rate * d, plus stated debt. For that, balance and held together never grow above the capacity: what may come back
 * keeps as much from flowing in. */
struct bucket {
    int64_t capacity_milli;        /* > 0 */
    int64_t rate_milli_per_minute; /* 0 = seats: nothing flows back by itself */
    int64_t balance_milli;         /* <= capacity - held, but right after a cut of the capacity; negative = debt */
    wide held_milli;               /* taken, and may come back; wide, so that no sum of holds saturates */
    int64_t remainder;             /* of the refill's division, so that nothing is lost by frequent looks */
    mono_us refilled_at;           /* a step back of the clock refills nothing, and nothing twice */
};

/* Full at @now. */
void bucket_begin(struct bucket *bucket, int64_t capacity_milli, int64_t rate_milli_per_minute, mono_us now);
/* New limits: refilled by the old rate up to @now, then cut to what of the new capacity is not held, but never into
 * debt by that; never filled.
 * Of seats what is taken stays taken: the rest is the new capacity less that, or negative. */
void bucket_change(struct bucket *bucket, int64_t capacity_milli, int64_t rate_milli_per_minute, mono_us now);
void bucket_refill(struct bucket *bucket, mono_us now);
/* The balance covers @milli now (after bucket_refill). */
bool bucket_covers(const struct bucket *bucket, int64_t milli);
/* Take for good, also into debt. Saturates at the ends of int64. */
void bucket_take(struct bucket *bucket, int64_t milli);
/* Give back, at most to what of the capacity is not held. */
void bucket_give(struct bucket *bucket, int64_t milli);
/* Take like bucket_take, until it is spent or released. */
void bucket_hold(struct bucket *bucket, int64_t milli);
/* After bucket_refill, of what is held: it does not come back, and as much may flow in from now on. */
void bucket_spend(struct bucket *bucket, int64_t milli);
/* Of what is held: it comes back. */
void bucket_release(struct bucket *bucket, int64_t milli);
/* Microseconds until bucket_covers(@milli) if nothing else happens; 0 = now, INT64_MAX = never, or not before some of
 * what is held is spent or released. Rounded up. */
int64_t bucket_wait_us(const struct bucket *bucket, int64_t milli);
/* The same if everything held were released now: it cannot be sooner, whatever happens to holds. */
int64_t bucket_wait_least_us(const struct bucket *bucket, int64_t milli);
/* Microseconds until the capacity is there if everything held were spent now. */
int64_t bucket_fill_us(const struct bucket *bucket);

#endif
