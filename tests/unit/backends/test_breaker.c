#include "backends/breaker.h"

#include "tests/lib/unit.h"

static const struct breaker_end FAILURE = {.result = BREAKER_FAILURE, .may_open = true, .random = 0.5};
static const struct breaker_end LAST_FAILURE = {.result = BREAKER_FAILURE, .may_open = false, .random = 0.5};
static const struct breaker_end SUCCESS = {.result = BREAKER_SUCCESS, .may_open = true, .random = 0.5};

static struct breaker_end trial(enum breaker_result result)
{
    return (struct breaker_end){.result = result, .was_trial = true, .may_open = true, .random = 0.5};
}

static struct breaker opened_at(mono_ms now)
{
    struct breaker breaker = {0};
    for (int i = 0; i < BREAKER_FAILURES_IN_A_ROW_MAX; i++)
        assert_int_equal(breaker_end(&breaker, &FAILURE, now), i == BREAKER_FAILURES_IN_A_ROW_MAX - 1);
    assert_int_equal(breaker.state, BREAKER_OPEN);
    return breaker;
}

static void test_five_failures_in_a_row_open(void **state)
{
    (void) state;
    struct breaker breaker = {0};
    for (int i = 0; i < 40; i++)
        assert_false(breaker_end(&breaker, i % 5 == 4 ? &SUCCESS : &FAILURE, i * BREAKER_WINDOW_MS));
    breaker = opened_at(1000);
    assert_false(breaker_admits(&breaker, 1000));
    assert_false(breaker_take(&breaker, 1000));
    assert_int_equal(breaker.state, BREAKER_OPEN);
}

static void test_half_of_twenty_in_the_window_opens(void **state)
{
    (void) state;
    struct breaker breaker = {0};
    for (int i = 0; i < 19; i++)
        assert_false(breaker_end(&breaker, i % 2 ? &FAILURE : &SUCCESS, i * 1000));
    assert_true(breaker_end(&breaker, &FAILURE, 19 * 1000));
    struct breaker slower = {0};
    for (int i = 0; i < 200; i++) /* never twenty within 30 s */
        assert_false(breaker_end(&slower, i % 2 ? &FAILURE : &SUCCESS, i * 2000));
    struct breaker better = {0};
    for (int i = 0; i < 200; i++) /* never half */
        assert_false(breaker_end(&better, i % 3 == 2 ? &FAILURE : &SUCCESS, i * 100));
}

static void test_back_pressure_and_unsent_requests_do_not_count(void **state)
{
    (void) state;
    struct breaker breaker = {0};
    const struct breaker_end busy = {.result = BREAKER_ANSWERED, .may_open = true};
    const struct breaker_end unsent = {.result = BREAKER_NOTHING, .may_open = true};
    for (int i = 0; i < 100; i++)
        assert_false(breaker_end(&breaker, i % 2 ? &busy : &unsent, i));
    for (int i = 0; i < 4; i++) {
        assert_false(breaker_end(&breaker, &FAILURE, 200));
        assert_false(breaker_end(&breaker, &busy, 200));
    }
    assert_true(breaker_end(&breaker, &FAILURE, 200));
}

static void test_last_instance_never_opens(void **state)
{
    (void) state;
    struct breaker breaker = {0};
    for (int i = 0; i < 1000; i++)
        assert_false(breaker_end(&breaker, &LAST_FAILURE, i * 10));
    assert_true(breaker_admits(&breaker, 10000));
    assert_true(breaker_end(&breaker, &FAILURE, 10000)); /* another one is there again */
}

static void test_open_time_doubles_up_to_a_minute(void **state)
{
    (void) state;
    static const mono_ms PLAIN_MS[] = {5000, 10000, 20000, 40000, 60000, 60000};
    mono_ms now = 1000;
    struct breaker breaker = opened_at(now);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(breaker.open_until - now, PLAIN_MS[i]); /* random 0.5: no jitter */
        assert_false(breaker_admits(&breaker, breaker.open_until - 1));
        now = breaker.open_until;
        assert_true(breaker_admits(&breaker, now));
        assert_true(breaker_take(&breaker, now));
        struct breaker_end end = trial(BREAKER_FAILURE);
        assert_true(breaker_end(&breaker, &end, now));
    }
}

static void test_half_open_admits_one_and_its_end_decides(void **state)
{
    (void) state;
    struct breaker breaker = opened_at(0);
    mono_ms now = breaker.open_until;
    assert_true(breaker_take(&breaker, now));
    assert_int_equal(breaker.state, BREAKER_HALF_OPEN);
    assert_false(breaker_admits(&breaker, now));
    assert_false(breaker_take(&breaker, now));
    /* Requests from before it opened say nothing now. */
    assert_false(breaker_end(&breaker, &SUCCESS, now));
    assert_false(breaker_end(&breaker, &FAILURE, now));
    assert_int_equal(breaker.state, BREAKER_HALF_OPEN);
    struct breaker_end unsent = trial(BREAKER_NOTHING);
    assert_false(breaker_end(&breaker, &unsent, now));
    assert_true(breaker_admits(&breaker, now)); /* the next one is the trial */
    assert_true(breaker_take(&breaker, now));
    struct breaker_end good = trial(BREAKER_SUCCESS);
    assert_false(breaker_end(&breaker, &good, now));
    assert_int_equal(breaker.state, BREAKER_CLOSED);
    assert_true(breaker_admits(&breaker, now));
}

static void test_soon_again_is_longer_calm_is_not(void **state)
{
    (void) state;
    for (int calm = 0; calm < 2; calm++) {
        struct breaker breaker = opened_at(0);
        mono_ms now = breaker.open_until;
        assert_true(breaker_take(&breaker, now));
        struct breaker_end good = trial(BREAKER_SUCCESS);
        breaker_end(&breaker, &good, now);
        now += calm ? BREAKER_CALM_MS : BREAKER_CALM_MS - 1;
        for (int i = 0; i < BREAKER_FAILURES_IN_A_ROW_MAX; i++)
            breaker_end(&breaker, &FAILURE, now);
        assert_int_equal(breaker.open_until - now, calm ? 5000 : 10000);
    }
}

/* Random lives: an open breaker admits nothing before its time, one trial at most is out, and it opens for a bounded
 * time. */
static void test_rules_hold_in_random_lives(void **state)
{
    (void) state;
    for (int round = 0; round < 300; round++) {
        struct breaker breaker = {0};
        mono_ms now = 1;
        int trials = 0;
        for (int i = 0; i < 300; i++) {
            now += (mono_ms) unit_random_below(2000);
            bool admitted = breaker_admits(&breaker, now);
            if (breaker.state == BREAKER_OPEN)
                assert_int_equal(admitted, now >= breaker.open_until);
            if (unit_random_below(2) && breaker_take(&breaker, now)) {
                assert_true(admitted);
                trials++;
            }
            assert_in_range(trials, 0, 1);
            bool was_trial = trials > 0 && unit_random_below(3) == 0;
            struct breaker_end end = {.result = (enum breaker_result) unit_random_below(4),
                                      .was_trial = was_trial,
                                      .may_open = unit_random_below(4) > 0,
                                      .random = (double) (unit_random() >> 11) * 0x1p-53};
            bool opened = breaker_end(&breaker, &end, now);
            trials -= was_trial;
            if (opened)
                assert_in_range(breaker.open_until - now, BREAKER_OPEN_FIRST_MS / 2, BREAKER_OPEN_MS_MAX * 3 / 2);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_five_failures_in_a_row_open),
        cmocka_unit_test(test_half_of_twenty_in_the_window_opens),
        cmocka_unit_test(test_back_pressure_and_unsent_requests_do_not_count),
        cmocka_unit_test(test_last_instance_never_opens),
        cmocka_unit_test(test_open_time_doubles_up_to_a_minute),
        cmocka_unit_test(test_half_open_admits_one_and_its_end_decides),
        cmocka_unit_test(test_soon_again_is_longer_calm_is_not),
        cmocka_unit_test(test_rules_hold_in_random_lives),
    };
    unit_random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
