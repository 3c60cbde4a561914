/* One token bucket, held against exact rational arithmetic. */
#include "ratelimit/bucket.h"

#include "tests/lib/unit.h"

__extension__ typedef __int128 wide;

static const int64_t MINUTE_US = 60000000;
static const int64_t LARGEST_MILLI = BUCKET_UNITS_MAX * BUCKET_MILLI;

static struct bucket bucket_of(int64_t capacity, int64_t per_minute)
{
    struct bucket bucket;
    bucket_begin(&bucket, capacity * BUCKET_MILLI, per_minute * BUCKET_MILLI, 0);
    return bucket;
}

static void begins_full_and_flows_back_at_its_rate(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(10, 60);
    assert_true(bucket_covers(&bucket, 10000));
    assert_false(bucket_covers(&bucket, 10001));
    bucket_take(&bucket, 10000);
    assert_false(bucket_covers(&bucket, 1));
    bucket_refill(&bucket, 2500000);
    assert_int_equal(bucket.balance_milli, 2500);
    bucket_refill(&bucket, 100 * MINUTE_US);
    assert_int_equal(bucket.balance_milli, 10000);
}

static void nothing_is_lost_by_frequent_looks(void **state)
{
    (void) state;
    struct bucket often = bucket_of(100, 7), once = often;
    bucket_take(&often, 100000);
    bucket_take(&once, 100000);
    for (mono_us now = 0; now <= MINUTE_US; now += 17)
        bucket_refill(&often, now);
    bucket_refill(&often, MINUTE_US);
    bucket_refill(&once, MINUTE_US);
    assert_int_equal(once.balance_milli, 7000);
    assert_int_equal(often.balance_milli, once.balance_milli);
}

static void clock_that_steps_back_refills_nothing_and_nothing_twice(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(100, 60);
    bucket_take(&bucket, 100000);
    bucket_refill(&bucket, 10 * 1000000);
    assert_int_equal(bucket.balance_milli, 10000);
    bucket_refill(&bucket, 0);
    bucket_refill(&bucket, INT64_MIN);
    assert_int_equal(bucket.balance_milli, 10000);
    bucket_refill(&bucket, 10 * 1000000);
    assert_int_equal(bucket.balance_milli, 10000);
    bucket_refill(&bucket, 11 * 1000000);
    assert_int_equal(bucket.balance_milli, 11000);
}

static void leaps_of_the_clock_fill_it_once(void **state)
{
    (void) state;
    struct bucket bucket;
    bucket_begin(&bucket, LARGEST_MILLI, LARGEST_MILLI, INT64_MIN);
    bucket_take(&bucket, LARGEST_MILLI);
    bucket_refill(&bucket, INT64_MAX);
    assert_int_equal(bucket.balance_milli, LARGEST_MILLI);
    assert_int_equal(bucket.remainder, 0);
}

static void ends_of_int64_saturate(void **state)
{
    (void) state;
    struct bucket bucket;
    bucket_begin(&bucket, LARGEST_MILLI, 1, 0);
    bucket_take(&bucket, INT64_MAX);
    bucket_take(&bucket, INT64_MAX);
    assert_true(bucket.balance_milli == INT64_MIN);
    bucket_take(&bucket, INT64_MAX);
    assert_true(bucket.balance_milli == INT64_MIN);
    assert_true(bucket_wait_us(&bucket, LARGEST_MILLI) == INT64_MAX);
    bucket_refill(&bucket, INT64_MAX);
    assert_true(bucket.balance_milli < 0);
    bucket_give(&bucket, INT64_MAX);
    bucket_give(&bucket, INT64_MAX);
    assert_true(bucket.balance_milli == LARGEST_MILLI);
}

static void debt_is_paid_before_anything_is_covered(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(10, 60);
    bucket_take(&bucket, 15000);
    assert_int_equal(bucket.balance_milli, -5000);
    assert_false(bucket_covers(&bucket, 0));
    assert_int_equal(bucket_wait_us(&bucket, 0), 5000000);
    assert_int_equal(bucket_wait_us(&bucket, 1000), 6000000);
}

static void giving_stops_at_the_capacity(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(10, 60);
    bucket_take(&bucket, 3000);
    bucket_refill(&bucket, 1000001);
    bucket_give(&bucket, 3000);
    assert_int_equal(bucket.balance_milli, 10000);
    assert_int_equal(bucket.remainder, 0);
}

static void seats_never_come_back_by_themselves(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(2, 0);
    bucket_take(&bucket, 2000);
    bucket_refill(&bucket, INT64_MAX);
    assert_int_equal(bucket.balance_milli, 0);
    assert_true(bucket_wait_us(&bucket, 1000) == INT64_MAX);
    bucket_give(&bucket, 1000);
    assert_int_equal(bucket_wait_us(&bucket, 1000), 0);
}

static void more_than_the_capacity_is_never_covered(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(10, 60);
    assert_true(bucket_wait_us(&bucket, 10001) == INT64_MAX);
}

static void change_cuts_and_never_fills(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(100, 60);
    bucket_take(&bucket, 90000);
    bucket_change(&bucket, 500000, 600000, 5000000);
    assert_int_equal(bucket.balance_milli, 15000); /* 10 left, 5 at the old rate */
    bucket_refill(&bucket, 6000000);
    assert_int_equal(bucket.balance_milli, 25000); /* 10 at the new one */
    bucket_change(&bucket, 20000, 600000, 6000000);
    assert_int_equal(bucket.balance_milli, 20000);
    bucket_change(&bucket, 500000, 600000, 6000000);
    assert_int_equal(bucket.balance_milli, 20000);
    bucket_take(&bucket, 30000);
    bucket_change(&bucket, 1000, 600000, 6000000);
    assert_int_equal(bucket.balance_milli, -10000); /* debts stay */
}

static void change_of_seats_counts_those_taken(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(10, 0);
    bucket_take(&bucket, 7000);
    bucket_change(&bucket, 5000, 0, 1);
    assert_int_equal(bucket.balance_milli, -2000);
    bucket_give(&bucket, 3000);
    assert_int_equal(bucket.balance_milli, 1000);
    bucket_change(&bucket, 20000, 0, 2);
    assert_int_equal(bucket.balance_milli, 16000);
    bucket_give(&bucket, 4000);
    assert_int_equal(bucket.balance_milli, 20000);
}

static void what_is_held_leaves_no_room(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(100, 60);
    bucket_hold(&bucket, 70000);
    bucket_refill(&bucket, 10 * MINUTE_US);
    assert_int_equal(bucket.balance_milli, 30000);
    assert_int_equal(bucket_wait_us(&bucket, 30000), 0);
    assert_true(bucket_wait_us(&bucket, 30001) == INT64_MAX);
    assert_int_equal(bucket_wait_least_us(&bucket, 100000), 0);
    assert_int_equal(bucket_fill_us(&bucket), 70 * 1000000);
    bucket_spend(&bucket, 20000);
    bucket_refill(&bucket, 10 * MINUTE_US + 5000000); /* not for the time before */
    assert_int_equal(bucket.balance_milli, 35000);
    assert_int_equal(bucket_wait_us(&bucket, 50000), 15 * 1000000);
    bucket_release(&bucket, 50000);
    assert_int_equal(bucket.balance_milli, 85000);
    bucket_refill(&bucket, 20 * MINUTE_US);
    assert_int_equal(bucket.balance_milli, 100000);
    bucket_hold(&bucket, 60000);
    bucket_take(&bucket, 90000); /* debt */
    assert_int_equal(bucket_wait_least_us(&bucket, 40000), 30 * 1000000);
}

static void cut_below_what_is_held_leaves_nothing_and_no_debt(void **state)
{
    (void) state;
    struct bucket bucket = bucket_of(100, 60);
    bucket_hold(&bucket, 70000);
    bucket_change(&bucket, 50000, 60000, 0);
    assert_int_equal(bucket.balance_milli, 0);
    bucket_refill(&bucket, MINUTE_US);
    assert_int_equal(bucket.balance_milli, 0);
    bucket_release(&bucket, 30000); /* 40 are held still */
    assert_int_equal(bucket.balance_milli, 10000);
    bucket_spend(&bucket, 40000);
    assert_int_equal(bucket.balance_milli, 10000);
    bucket_refill(&bucket, 2 * MINUTE_US);
    assert_int_equal(bucket.balance_milli, 50000);
}

static int64_t random_amount(void)
{
    static const int64_t MAGNITUDES[] = {2, 1000, 60000, 1000000000, LARGEST_MILLI};
    return (int64_t) unit_random_below((size_t) MAGNITUDES[unit_random_below(5)]) + 1;
}

/* The wait is the first microsecond at which it is covered, with looks in between or without. */
static void wait_is_exact(void **state)
{
    (void) state;
    unit_random_seed();
    for (int round = 0; round < 50000; round++) {
        struct bucket bucket;
        int64_t capacity_milli = random_amount();
        mono_us now = (mono_us) unit_random_below(1000000);
        bucket_begin(&bucket, capacity_milli, random_amount(), now);
        bucket_take(&bucket, random_amount());
        now += (mono_us) unit_random_below(100000);
        bucket_refill(&bucket, now);
        int64_t wanted = (int64_t) unit_random_below((size_t) capacity_milli + 1);
        int64_t wait_us = bucket_wait_us(&bucket, wanted);
        assert_int_equal(wait_us == 0, bucket_covers(&bucket, wanted));
        if (wait_us == 0 || wait_us > INT64_MAX - now) /* now, or in more than 292 000 years */
            continue;
        bucket_refill(&bucket, now + wait_us / 3);
        bucket_refill(&bucket, now + wait_us - 1);
        assert_false(bucket_covers(&bucket, wanted));
        bucket_refill(&bucket, now + wait_us);
        assert_true(bucket_covers(&bucket, wanted));
    }
}

/* The same bucket in exact fractions: the balance counted in milli-units / MINUTE_US. */
struct exact {
    wide capacity, rate, balance;
    mono_us latest;
};

static void exact_refill(struct exact *exact, mono_us now)
{
    if (now < exact->latest)
        return;
    exact->balance += ((wide) now - exact->latest) * exact->rate;
    exact->latest = now;
    if (exact->balance > exact->capacity)
        exact->balance = exact->capacity;
}

static void exact_step(struct exact *exact, struct bucket *bucket, mono_us now)
{
    int64_t amount = random_amount();
    exact_refill(exact, now);
    bucket_refill(bucket, now);
    switch (unit_random_below(4)) {
    case 0:
        if (bucket->balance_milli < -LARGEST_MILLI)
            return;
        bucket_take(bucket, amount);
        exact->balance -= (wide) amount * MINUTE_US;
        return;
    case 1:
        bucket_give(bucket, amount);
        exact->balance += (wide) amount * MINUTE_US;
        break;
    case 2:
        bucket_change(bucket, amount, bucket->rate_milli_per_minute / 2 + 1, now);
        exact->capacity = (wide) amount * MINUTE_US;
        exact->rate = bucket->rate_milli_per_minute;
        break;
    default:
        break;
    }
    if (exact->balance > exact->capacity)
        exact->balance = exact->capacity;
}

static void any_sequence_agrees_with_exact_fractions(void **state)
{
    (void) state;
    unit_random_seed();
    for (int round = 0; round < 2000; round++) {
        struct bucket bucket;
        int64_t capacity_milli = random_amount(), rate = random_amount();
        mono_us now = (mono_us) unit_random_below(1000);
        bucket_begin(&bucket, capacity_milli, rate, now);
        struct exact exact = {(wide) capacity_milli * MINUTE_US, rate, (wide) capacity_milli * MINUTE_US, now};
        for (int step = 0; step < 100; step++) {
            now += (mono_us) unit_random_below(1000000) - 300000; /* steps back, too */
            exact_step(&exact, &bucket, now);
            assert_true(bucket.remainder >= 0 && bucket.remainder < MINUTE_US);
            assert_true((wide) bucket.balance_milli * MINUTE_US + bucket.remainder == exact.balance);
        }
    }
}

enum { TAKES = 200 };

/* Every window of what a greedy client gets, by brute force. */
static void no_window_gets_more_than_capacity_and_rate(void **state)
{
    (void) state;
    unit_random_seed();
    for (int round = 0; round < 100; round++) {
        int64_t capacity_milli = 1 + (int64_t) unit_random_below(50000);
        int64_t rate = 1 + (int64_t) unit_random_below(5000000);
        mono_us when[TAKES], now = 0;
        int64_t taken[TAKES];
        struct bucket bucket;
        bucket_begin(&bucket, capacity_milli, rate, now);
        for (int take = 0; take < TAKES; take++) {
            now += (mono_us) unit_random_below(unit_random_below(2) ? 2000000 : 1000);
            bucket_refill(&bucket, now);
            int64_t wanted = (int64_t) unit_random_below((size_t) capacity_milli + 1);
            when[take] = now;
            taken[take] = bucket_covers(&bucket, wanted) ? wanted : 0;
            bucket_take(&bucket, taken[take]);
        }
        for (int first = 0; first < TAKES; first++) {
            wide sum = 0;
            for (int last = first; last < TAKES; last++) {
                sum += taken[last];
                assert_true((sum - capacity_milli) * MINUTE_US <= (wide) (when[last] - when[first]) * rate);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(begins_full_and_flows_back_at_its_rate),
        cmocka_unit_test(nothing_is_lost_by_frequent_looks),
        cmocka_unit_test(clock_that_steps_back_refills_nothing_and_nothing_twice),
        cmocka_unit_test(leaps_of_the_clock_fill_it_once),
        cmocka_unit_test(ends_of_int64_saturate),
        cmocka_unit_test(debt_is_paid_before_anything_is_covered),
        cmocka_unit_test(giving_stops_at_the_capacity),
        cmocka_unit_test(seats_never_come_back_by_themselves),
        cmocka_unit_test(more_than_the_capacity_is_never_covered),
        cmocka_unit_test(change_cuts_and_never_fills),
        cmocka_unit_test(change_of_seats_counts_those_taken),
        cmocka_unit_test(what_is_held_leaves_no_room),
        cmocka_unit_test(cut_below_what_is_held_leaves_nothing_and_no_debt),
        cmocka_unit_test(wait_is_exact),
        cmocka_unit_test(any_sequence_agrees_with_exact_fractions),
        cmocka_unit_test(no_window_gets_more_than_capacity_and_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
