/* A bucket in exact fractions: the slow model that the limiter's is held against. It shares no line with it. */
#ifndef TESTS_LIB_SLOW_BUCKET_H
#define TESTS_LIB_SLOW_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

__extension__ typedef __int128 wide;

#define SLOW_UNITS_MAX INT64_C(1000000000000)

struct slow_bucket {
    bool present;
    int64_t limit, capacity, rate; /* units, per minute */
    wide balance;                  /* in units / 1000 / MINUTE_US */
    mono_us latest;
    int holds;
    wide held_milli; /* and not spent */
};

int64_t smaller_of(int64_t a, int64_t b);
/* Milli-units in the unit of a balance, and a balance in whole milli-units. */
wide slow_scaled(wide milli);
int64_t slow_floored_milli(const struct slow_bucket *bucket);
/* What may be there while so much is held. */
wide slow_top(const struct slow_bucket *bucket);
void slow_add(struct slow_bucket *bucket, wide amount);
void slow_refill(struct slow_bucket *bucket, mono_us now);
/* What a policy says; 0 = no limit. */
void slow_set(struct slow_bucket *bucket, int64_t limit, int64_t burst, bool strict, mono_us now);
void slow_set_seats(struct slow_bucket *bucket, int64_t limit, mono_us now);

#endif
