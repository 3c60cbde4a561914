#include "backends/pick.h"

#include "tests/lib/unit.h"

static void test_nobody_with_room_is_nobody(void **state)
{
    (void) state;
    const struct pick_candidate candidates[] = {
        {.allowed = false, .in_flight = 0, .slots = 4, .weight = 1},
        {.allowed = true, .in_flight = 4, .slots = 4, .weight = 1},
        {.allowed = true, .in_flight = 5, .slots = 4, .weight = 9},
        {.allowed = true, .in_flight = 0, .slots = 0, .weight = 1},
    };
    assert_true(pick_least_loaded(candidates, 4, 7) == PICK_NONE);
    assert_true(pick_least_loaded(candidates, 0, 7) == PICK_NONE);
}

static void test_load_is_in_flight_over_weight(void **state)
{
    (void) state;
    const struct pick_candidate candidates[] = {
        {.allowed = true, .in_flight = 2, .slots = 9, .weight = 1},
        {.allowed = true, .in_flight = 5, .slots = 9, .weight = 3}, /* 1.67 */
        {.allowed = true, .in_flight = 7, .slots = 9, .weight = 4}, /* 1.75 */
    };
    assert_int_equal(pick_least_loaded(candidates, 3, 0), 1);
}

static void test_ties_are_broken_evenly(void **state)
{
    (void) state;
    const struct pick_candidate candidates[] = {
        {.allowed = true, .in_flight = 3, .slots = 9, .weight = 1},
        {.allowed = true, .in_flight = 1, .slots = 9, .weight = 1},
        {.allowed = true, .in_flight = 2, .slots = 2, .weight = 2}, /* full */
        {.allowed = true, .in_flight = 2, .slots = 9, .weight = 2},
        {.allowed = true, .in_flight = 4, .slots = 9, .weight = 4},
    };
    int picked[5] = {0};
    for (int i = 0; i < 3000; i++)
        picked[pick_least_loaded(candidates, 5, unit_random())]++;
    assert_int_equal(picked[0] + picked[2], 0);
    for (int i = 1; i < 5; i++)
        assert_true(i == 2 || (picked[i] > 800 && picked[i] < 1200));
}

/* Against the definition, on random candidates. */
static void test_picked_one_is_allowed_has_room_and_none_is_less_loaded(void **state)
{
    (void) state;
    for (int round = 0; round < 20000; round++) {
        struct pick_candidate candidates[6];
        size_t count = unit_random_below(7);
        bool some = false;
        for (size_t i = 0; i < count; i++) {
            candidates[i] = (struct pick_candidate){.allowed = unit_random_below(3) > 0,
                                                    .in_flight = (int) unit_random_below(5),
                                                    .slots = (int) unit_random_below(6),
                                                    .weight = 1 + (int) unit_random_below(4)};
            some |= candidates[i].allowed && candidates[i].in_flight < candidates[i].slots;
        }
        size_t picked = pick_least_loaded(candidates, count, unit_random());
        assert_int_equal(picked != PICK_NONE, some);
        if (!some)
            continue;
        assert_true(candidates[picked].allowed && candidates[picked].in_flight < candidates[picked].slots);
        for (size_t i = 0; i < count; i++) {
            if (candidates[i].allowed && candidates[i].in_flight < candidates[i].slots)
                assert_true(candidates[picked].in_flight * candidates[i].weight <=
                            candidates[i].in_flight * candidates[picked].weight);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_with_room_is_nobody),
        cmocka_unit_test(test_load_is_in_flight_over_weight),
        cmocka_unit_test(test_ties_are_broken_evenly),
        cmocka_unit_test(test_picked_one_is_allowed_has_room_and_none_is_less_loaded),
    };
    unit_random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
