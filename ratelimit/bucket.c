/* The arithmetic is done in 128 bits and cut to 64 at its end, so that no limit, usage or clock can wrap it around. */
#include "ratelimit/bucket.h"

#include "base/panic.h"

__extension__ typedef __int128 wide;

static const int64_t MINUTE_US = INT64_C(60000000);

static int64_t cut(wide value)
{
    if (value > INT64_MAX)
        return INT64_MAX;
    return value < INT64_MIN ? INT64_MIN : (int64_t) value;
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
    if (bucket->balance_milli >= capacity_milli) {
        bucket->balance_milli = capacity_milli;
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
    wide balance = bucket->balance_milli + inflow / MINUTE_US;
    if (balance >= bucket->capacity_milli) {
        bucket->balance_milli = bucket->capacity_milli;
        bucket->remainder = 0;
        return;
    }
    bucket->balance_milli = (int64_t) balance;
    bucket->remainder = (int64_t) (inflow % MINUTE_US);
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
    wide balance = (wide) bucket->balance_milli + milli;
    if (balance >= bucket->capacity_milli) {
        bucket->balance_milli = bucket->capacity_milli;
        bucket->remainder = 0;
        return;
    }
    bucket->balance_milli = (int64_t) balance;
}

int64_t bucket_wait_us(const struct bucket *bucket, int64_t milli)
{
    if (bucket_covers(bucket, milli))
        return 0;
    if (milli > bucket->capacity_milli || bucket->rate_milli_per_minute == 0)
        return INT64_MAX;
    wide missing = ((wide) milli - bucket->balance_milli) * MINUTE_US - bucket->remainder;
    return cut((missing + bucket->rate_milli_per_minute - 1) / bucket->rate_milli_per_minute);
}
