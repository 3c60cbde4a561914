#include "backends/retry_budget.h"

#include "tests/lib/unit.h"

static int take_all(struct retry_budget *budget, mono_ms now)
{
    int taken = 0;
    while (retry_budget_take(budget, now))
        taken++;
    return taken;
}

static void test_burst_then_three_a_second(void **state)
{
    (void) state;
    struct retry_budget budget;
    retry_budget_init(&budget, 5000);
    assert_int_equal(take_all(&budget, 5000), RETRY_BURST);
    assert_int_equal(take_all(&budget, 5333), 0);
    assert_int_equal(take_all(&budget, 5334), 1);
    assert_int_equal(take_all(&budget, 6334), 3);
    assert_int_equal(take_all(&budget, 600000), RETRY_BURST);
}

static void test_a_fifth_of_the_requests(void **state)
{
    (void) state;
    struct retry_budget budget;
    retry_budget_init(&budget, 0);
    take_all(&budget, 0);
    int retries = 0;
    for (int i = 0; i < 1000; i++) {
        retry_budget_request(&budget);
        retries += retry_budget_take(&budget, 0);
    }
    assert_int_equal(retries, 200);
    for (int i = 0; i < 1000; i++)
        retry_budget_request(&budget);
    assert_int_equal(take_all(&budget, 0), RETRY_BURST);
}

static void test_time_that_steps_back_gives_nothing(void **state)
{
    (void) state;
    struct retry_budget budget;
    retry_budget_init(&budget, 10000);
    take_all(&budget, 10000);
    for (int i = 0; i < 100; i++)
        assert_int_equal(take_all(&budget, i % 2 ? 9000 : 10000), 0);
}

/* In any life: retries <= burst + a fifth of the requests + three a second. */
static void test_bound_holds(void **state)
{
    (void) state;
    for (int round = 0; round < 100; round++) {
        struct retry_budget budget;
        mono_ms now = 0;
        int64_t requests = 0;
        int64_t retries = 0;
        retry_budget_init(&budget, now);
        for (int i = 0; i < 1000; i++) {
            now += (mono_ms) unit_random_below(200);
            if (unit_random_below(2)) {
                retry_budget_request(&budget);
                requests++;
            }
            retries += retry_budget_take(&budget, now);
            assert_true(retries * 1000 <= 10 * 1000 + requests * 200 + now * 3);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_burst_then_three_a_second),
        cmocka_unit_test(test_a_fifth_of_the_requests),
        cmocka_unit_test(test_time_that_steps_back_gives_nothing),
        cmocka_unit_test(test_bound_holds),
    };
    unit_random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
