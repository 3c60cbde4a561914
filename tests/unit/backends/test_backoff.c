#include "backends/backoff.h"

#include "tests/lib/unit.h"

static double random_fraction_of_test(void)
{
    return (double) (unit_random() >> 11) * 0x1p-53;
}

static void test_delays_double_up_to_a_minute_and_are_jittered(void **state)
{
    (void) state;
    static const int64_t PLAIN_MS[] = {1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000};
    struct backoff low = {0}, high = {0};
    mono_ms now = 0;
    for (int i = 0; i < 9; i++) {
        now += BACKOFF_WINDOW_MS; /* never too many in the window; never the same status twice */
        struct backoff_decision least = backoff_exited(&low, now, i, -1, 0.0);
        struct backoff_decision most = backoff_exited(&high, now, i, -1, 0.999999);
        assert_false(least.failed || most.failed);
        assert_int_equal(least.delay_ms, PLAIN_MS[i] / 2);
        assert_in_range(most.delay_ms, PLAIN_MS[i] * 3 / 2 - 2, PLAIN_MS[i] * 3 / 2);
    }
}

static void test_ten_minutes_ready_start_over(void **state)
{
    (void) state;
    struct backoff backoff = {0};
    mono_ms now = 0;
    for (int i = 0; i < 4; i++)
        backoff_exited(&backoff, now += BACKOFF_WINDOW_MS, i, -1, 0.5);
    backoff_ready(&backoff);
    assert_int_equal(backoff_exited(&backoff, now += BACKOFF_WINDOW_MS, 9, BACKOFF_PROVEN_MS - 1, 0.5).delay_ms, 16000);
    backoff_ready(&backoff);
    assert_int_equal(backoff_exited(&backoff, now += BACKOFF_WINDOW_MS, 9, BACKOFF_PROVEN_MS, 0.5).delay_ms, 1000);
}

static void test_three_same_ends_before_ready_fail(void **state)
{
    (void) state;
    struct backoff backoff = {0};
    assert_false(backoff_exited(&backoff, 0, 3, -1, 0.5).failed);
    assert_false(backoff_exited(&backoff, 1, 3, -1, 0.5).failed);
    struct backoff_decision third = backoff_exited(&backoff, 2, 3, -1, 0.5);
    assert_true(third.failed);
    assert_int_equal(third.delay_ms, BACKOFF_FAILED_RETRY_MS);
}

static void test_different_ends_or_a_ready_one_between_do_not(void **state)
{
    (void) state;
    struct backoff backoff = {0};
    mono_ms now = 0;
    for (int i = 0; i < 12; i++)
        assert_false(backoff_exited(&backoff, now += BACKOFF_WINDOW_MS, i % 2, -1, 0.5).failed);
    for (int i = 0; i < 12; i++)
        assert_false(backoff_exited(&backoff, now += BACKOFF_WINDOW_MS, 3, i % 3 == 2 ? 5 : -1, 0.5).failed);
}

static void test_five_ends_in_ten_minutes_fail_also_when_ready_between(void **state)
{
    (void) state;
    struct backoff backoff = {0};
    for (int i = 0; i < 4; i++) {
        assert_false(backoff_exited(&backoff, i * 1000, 3, 500, 0.5).failed);
        backoff_ready(&backoff);
    }
    assert_true(backoff_exited(&backoff, BACKOFF_WINDOW_MS, 3, 500, 0.5).failed);
    struct backoff slower = {0};
    for (int i = 0; i < 4; i++) {
        assert_false(backoff_exited(&slower, i * 1000, 3, 500, 0.5).failed);
        backoff_ready(&slower);
    }
    assert_false(backoff_exited(&slower, BACKOFF_WINDOW_MS + 1, 3, 500, 0.5).failed);
}

static void test_given_up_one_has_one_chance_every_five_minutes(void **state)
{
    (void) state;
    struct backoff backoff = {0};
    for (int i = 0; i < 3; i++)
        backoff_exited(&backoff, i, 3, -1, 0.5);
    mono_ms now = BACKOFF_WINDOW_MS * 10;
    assert_true(backoff_exited(&backoff, now, 4, -1, 0.5).failed); /* another status, once is enough */
    now += BACKOFF_WINDOW_MS;
    backoff_ready(&backoff);
    struct backoff_decision after = backoff_exited(&backoff, now, 4, 1000, 0.5);
    assert_false(after.failed);
    assert_false(backoff_exited(&backoff, now + BACKOFF_WINDOW_MS, 4, -1, 0.5).failed);
}

/* Whatever happens: bounded delays, and never more than four starts in ten minutes without being given up. */
static void test_no_storm(void **state)
{
    (void) state;
    for (int round = 0; round < 200; round++) {
        struct backoff backoff = {0};
        mono_ms now = 0;
        mono_ms starts[64];
        bool failed[64];
        for (int i = 0; i < 64; i++) {
            int64_t ready_ms = unit_random_below(2) ? -1 : (int64_t) unit_random_below(1000 * 1000);
            if (ready_ms >= 0)
                backoff_ready(&backoff);
            now += ready_ms > 0 ? ready_ms : 1;
            struct backoff_decision next =
                backoff_exited(&backoff, now, (int) unit_random_below(3), ready_ms, random_fraction_of_test());
            assert_in_range(next.delay_ms, BACKOFF_FIRST_MS / 2, BACKOFF_FAILED_RETRY_MS);
            starts[i] = now;
            failed[i] = next.failed;
            if (i >= 4 && starts[i] - starts[i - 4] <= BACKOFF_WINDOW_MS)
                assert_true(failed[i]);
            now += next.delay_ms;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delays_double_up_to_a_minute_and_are_jittered),
        cmocka_unit_test(test_ten_minutes_ready_start_over),
        cmocka_unit_test(test_three_same_ends_before_ready_fail),
        cmocka_unit_test(test_different_ends_or_a_ready_one_between_do_not),
        cmocka_unit_test(test_five_ends_in_ten_minutes_fail_also_when_ready_between),
        cmocka_unit_test(test_given_up_one_has_one_chance_every_five_minutes),
        cmocka_unit_test(test_no_storm),
    };
    unit_random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
