#include "tests/lib/slow_bucket.h"

static const wide MINUTE_US = 60000000;

int64_t smaller_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

wide slow_scaled(wide milli)
{
    return milli * MINUTE_US;
}

int64_t slow_floored_milli(const struct slow_bucket *bucket)
{
    wide milli = bucket->balance / MINUTE_US;
    if (bucket->balance < 0 && milli * MINUTE_US != bucket->balance)
        milli--;
    return (int64_t) milli;
}

static void slow_cut(struct slow_bucket *bucket, wide most)
{
    if (bucket->balance > most)
        bucket->balance = most;
}

/* What may be there while so much is held. */
wide slow_top(const struct slow_bucket *bucket)
{
    return slow_scaled((wide) bucket->capacity * 1000 - bucket->held_milli);
}

void slow_add(struct slow_bucket *bucket, wide amount)
{
    if (bucket->balance >= slow_top(bucket))
        return;
    bucket->balance += amount;
    slow_cut(bucket, slow_top(bucket));
}

void slow_refill(struct slow_bucket *bucket, mono_us now)
{
    if (now <= bucket->latest)
        return;
    slow_add(bucket, ((wide) now - bucket->latest) * bucket->rate * 1000);
    bucket->latest = now;
}

void slow_set(struct slow_bucket *bucket, int64_t limit, int64_t burst, bool strict, mono_us now)
{
    int64_t capacity = smaller_of(burst > 0 ? burst : limit, SLOW_UNITS_MAX), rate = smaller_of(limit, SLOW_UNITS_MAX);
    if (strict && burst == 0)
        capacity = rate / 10 > 0 ? rate / 10 : 1;
    if (strict) {
        capacity = smaller_of(capacity, rate);
        rate = rate - capacity > 0 ? rate - capacity : 1;
    }
    bool lives = bucket->present || bucket->holds > 0;
    bucket->present = limit > 0;
    if (!bucket->present)
        return;
    if (lives)
        slow_refill(bucket, now);
    else
        *bucket = (struct slow_bucket){.present = true, .balance = slow_scaled((wide) capacity * 1000), .latest = now};
    bucket->limit = limit;
    bucket->capacity = capacity;
    bucket->rate = rate;
    slow_cut(bucket, slow_top(bucket) > 0 ? slow_top(bucket) : 0);
}

void slow_set_seats(struct slow_bucket *bucket, int64_t limit, mono_us now)
{
    wide taken = slow_scaled((wide) bucket->capacity * 1000) - bucket->balance;
    bool lives = bucket->present || bucket->holds > 0;
    slow_set(bucket, limit, 0, false, now);
    bucket->rate = 0;
    if (bucket->present && lives)
        bucket->balance = slow_scaled((wide) bucket->capacity * 1000) - taken;
}
