#include "backends/liveness.h"

#include "tests/lib/unit.h"

static struct liveness_facts facts_of(int in_flight, mono_ms quiet_ms, mono_ms silent_ms)
{
    mono_ms now = 10 * 60 * 1000;
    return (struct liveness_facts){.now = now,
                                   .in_flight = in_flight,
                                   .last_progress = now - quiet_ms,
                                   .silent_since = silent_ms > 0 ? now - silent_ms : 0,
                                   .wedged_ms = LIVENESS_WEDGED_MS};
}

/* llama.cpp with all slots busy answers no probe for half a minute, but generates. */
static void test_engine_that_generates_is_alive_whatever_its_probes_say(void **state)
{
    (void) state;
    struct liveness liveness = {0};
    struct liveness_facts facts = facts_of(4, 1000, 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(liveness_failed(&liveness, &facts), LIVENESS_ALIVE);
    facts = facts_of(4, LIVENESS_PROGRESS_MS, 0);
    assert_int_equal(liveness_failed(&liveness, &facts), LIVENESS_ALIVE);
}

static void test_idle_engine_is_dead_after_three_failures(void **state)
{
    (void) state;
    struct liveness liveness = {0};
    struct liveness_facts facts = facts_of(0, LIVENESS_PROGRESS_MS + 1, 0);
    assert_int_equal(liveness_failed(&liveness, &facts), LIVENESS_SUSPECT);
    assert_int_equal(liveness_failed(&liveness, &facts), LIVENESS_SUSPECT);
    liveness_passed(&liveness);
    assert_int_equal(liveness_failed(&liveness, &facts), LIVENESS_SUSPECT);
    assert_int_equal(liveness_failed(&liveness, &facts), LIVENESS_SUSPECT);
    assert_int_equal(liveness_failed(&liveness, &facts), LIVENESS_DEAD);
}

static void test_progress_between_failures_starts_the_count_again(void **state)
{
    (void) state;
    struct liveness liveness = {0};
    struct liveness_facts quiet = facts_of(0, LIVENESS_PROGRESS_MS + 1, 0);
    struct liveness_facts lively = facts_of(0, 10, 0);
    for (int i = 0; i < 30; i++)
        assert_int_not_equal(liveness_failed(&liveness, i % 3 == 2 ? &lively : &quiet), LIVENESS_DEAD);
}

static void test_busy_engine_has_longer(void **state)
{
    (void) state;
    struct liveness liveness = {0};
    struct liveness_facts prefilling = facts_of(4, LIVENESS_WEDGED_MS - 1, LIVENESS_WEDGED_MS - 1);
    for (int i = 0; i < 20; i++)
        assert_int_equal(liveness_failed(&liveness, &prefilling), LIVENESS_SUSPECT);
    struct liveness_facts wedged = facts_of(4, LIVENESS_WEDGED_MS + 1, LIVENESS_WEDGED_MS);
    assert_int_equal(liveness_failed(&liveness, &wedged), LIVENESS_DEAD);
}

/* vLLM's /health stays 200 with a hung core. */
static void test_long_silence_is_asked_for_a_token(void **state)
{
    (void) state;
    struct liveness_facts facts = facts_of(4, LIVENESS_WEDGED_MS + 1, LIVENESS_WEDGED_MS);
    assert_true(liveness_wants_token(&facts));
    facts = facts_of(0, LIVENESS_WEDGED_MS + 1, LIVENESS_WEDGED_MS); /* its requests ran into their timers */
    assert_true(liveness_wants_token(&facts));
    facts = facts_of(4, LIVENESS_WEDGED_MS, LIVENESS_WEDGED_MS - 1);
    assert_false(liveness_wants_token(&facts));
    facts = facts_of(4, 10, LIVENESS_WEDGED_MS * 2); /* generated since */
    assert_false(liveness_wants_token(&facts));
    facts = facts_of(0, LIVENESS_WEDGED_MS * 4, 0); /* idle */
    assert_false(liveness_wants_token(&facts));
}

static void test_patience_follows_the_request_timers(void **state)
{
    (void) state;
    assert_int_equal(liveness_wedged_ms(1000, 500), LIVENESS_WEDGED_MS);
    assert_int_equal(liveness_wedged_ms(300 * 1000, 60 * 1000), LIVENESS_WEDGED_MS);
    assert_int_equal(liveness_wedged_ms(600 * 1000, 400 * 1000), 400 * 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_that_generates_is_alive_whatever_its_probes_say),
        cmocka_unit_test(test_idle_engine_is_dead_after_three_failures),
        cmocka_unit_test(test_progress_between_failures_starts_the_count_again),
        cmocka_unit_test(test_busy_engine_has_longer),
        cmocka_unit_test(test_long_silence_is_asked_for_a_token),
        cmocka_unit_test(test_patience_follows_the_request_timers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
