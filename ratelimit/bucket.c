/* The arithmetic is done in 128 bits and cut to 64 at its end, so that no limit, usage or clock can wrap it around. */
#include "ratelimit/bucket.h"

#include "base/panic.h"

static const int64_t MINUTE_US = INT64_C(60000000);

static int64_t cut(wide value)
{
    if (value > INT64_MAX)
        return INT64_MAX;
    return value < INT64_MIN ? INT64_MIN : (int64_t) value;
}

/* How far the balance may rise. */
static wide top_of(const struct bucket *bucket)
{
    return bucket->capacity_milli - bucket->held_milli;
}

/* A balance that is above its top, by a cut of the capacity, stays as it is. */
static void raise_to(struct bucket *bucket, wide balance, int64_t remainder)
{
    wide top = top_of(bucket);
    if (bucket->balance_milli >= top)
        return;
    bucket->balance_milli = (int64_t) (balance < top ? balance : top);
    bucket->remainder = balance < top ? remainder : 0;
}

void bucket_begin(struct bucket *bucket, int64_t capacity_milli, int64_t rate_milli_per_minute, mono_us now)
{
    ENSURE(capacity_milli > 0 && rate_milli_per_minute >= 0);
    *bucket = (struct bucket){.capacity_milli = capacity_milli,
                              .rate_milli_per_minute = rate_milli_per_minute,
                              .balance_milli = capacity_milli,
                              .refilled_at = now};
}

void bucket_change(struct bucket *bucket, int64_t capacity_milli, int64_t rate_milli_per_minute, mono_us now)
{
    ENSURE(capacity_milli > 0 && rate_milli_per_minute >= 0);
    bucket_refill(bucket, now);
    if (bucket->rate_milli_per_minute == 0 && rate_milli_per_minute == 0)
        bucket->balance_milli = cut((wide) bucket->balance_milli + capacity_milli - bucket->capacity_milli);
    bucket->capacity_milli = capacity_milli;
    bucket->rate_milli_per_minute = rate_milli_per_minute;
    wide most = top_of(bucket) > 0 || rate_milli_per_minute == 0 ? top_of(bucket) : 0;
    if (bucket->balance_milli >= most) {
        bucket->balance_milli = cut(most);
        bucket->remainder = 0;
    }
}

void bucket_refill(struct bucket *bucket, mono_us now)
{
    if (now <= bucket->refilled_at)
        return;
    wide passed_us = (wide) now - bucket->refilled_at;
    bucket->refilled_at = now;
    wide inflow = passed_us * bucket->rate_milli_per_minute + bucket->remainder;
    raise_to(bucket, bucket->balance_milli + inflow / MINUTE_US, (int64_t) (inflow % MINUTE_US));
}

bool bucket_covers(const struct bucket *bucket, int64_t milli)
{
    return bucket->balance_milli >= milli;
}

void bucket_take(struct bucket *bucket, int64_t milli)
{
    ENSURE(milli >= 0);
    bucket->balance_milli = cut((wide) bucket->balance_milli - milli);
}

void bucket_give(struct bucket *bucket, int64_t milli)
{
    ENSURE(milli >= 0);
    raise_to(bucket, (wide) bucket->balance_milli + milli, bucket->remainder);
}

void bucket_hold(struct bucket *bucket, int64_t milli)
{
    bucket_take(bucket, milli);
    bucket->held_milli += milli;
}

void bucket_spend(struct bucket *bucket, int64_t milli)
{
    ENSURE(milli >= 0 && milli <= bucket->held_milli);
    bucket->held_milli -= milli;
}

void bucket_release(struct bucket *bucket, int64_t milli)
{
    bucket_spend(bucket, milli);
    bucket_give(bucket, milli);
}

int64_t bucket_wait_us(const struct bucket *bucket, int64_t milli)
{
    if (bucket_covers(bucket, milli))
        return 0;
    if (milli > top_of(bucket) || bucket->rate_milli_per_minute == 0)
        return INT64_MAX;
    wide missing = ((wide) milli - bucket->balance_milli) * MINUTE_US - bucket->remainder;
    return cut((missing + bucket->rate_milli_per_minute - 1) / bucket->rate_milli_per_minute);
}

int64_t bucket_wait_least_us(const struct bucket *bucket, int64_t milli)
{
    struct bucket released = *bucket;
    released.held_milli = 0;
    released.balance_milli = cut(bucket->balance_milli + bucket->held_milli);
    return bucket_wait_us(&released, milli);
}

int64_t bucket_fill_us(const struct bucket *bucket)
{
    struct bucket spent = *bucket;
    spent.held_milli = 0;
    return bucket_wait_us(&spent, bucket->capacity_milli);
}
