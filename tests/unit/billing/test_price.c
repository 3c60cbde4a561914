/* billing/price: the price of its own time, exact amounts, one rounding half to even. */
#include "billing/price.h"

#include "tests/lib/unit.h"

static const wall_ms HOUR = 3600 * 1000;

static const struct price ONE = {.currency = "EUR",
                                 .input = "0.10",
                                 .cached_input = "0.05",
                                 .output = "0.546875",
                                 .input_pico = 100000,
                                 .cached_input_pico = 50000,
                                 .output_pico = 546875};

static void test_the_last_version_that_is_valid_counts(void **state)
{
    (void) state;
    struct price versions[3] = {ONE, ONE, ONE};
    versions[1].valid_from_wall_ms = 100 * HOUR;
    versions[2].valid_from_wall_ms = 200 * HOUR;
    struct model model = {.prices = versions, .price_count = 3};
    assert_ptr_equal(price_at(&model, 0), &versions[0]);
    assert_ptr_equal(price_at(&model, 100 * HOUR - 1), &versions[0]);
    assert_ptr_equal(price_at(&model, 100 * HOUR), &versions[1]);
    assert_ptr_equal(price_at(&model, 200 * HOUR - 1), &versions[1]);
    assert_ptr_equal(price_at(&model, INT64_MAX), &versions[2]);
    model.prices = versions + 1;
    model.price_count = 2;
    assert_null(price_at(&model, 100 * HOUR - 1));
    model.price_count = 0;
    assert_null(price_at(&model, INT64_MAX));
}

static void assert_text(money_pico amount, const char *exact, const char *rounded)
{
    char text[PRICE_TEXT_BYTES];
    assert_string_equal(price_text(amount, text), exact);
    assert_string_equal(price_text_rounded(amount, text), rounded);
}

static void test_cached_input_costs_its_own_price_instead(void **state)
{
    (void) state;
    money_pico sum = price_of(&ONE, MEASURE_INPUT_TOKENS, 1000) + price_of(&ONE, MEASURE_CACHED_INPUT_TOKENS, 400) +
                     price_of(&ONE, MEASURE_OUTPUT_TOKENS, 3) + price_of(&ONE, MEASURE_REQUESTS, 7);
    assert_true(sum == 600 * 100000 + 400 * 50000 + 3 * 546875);
    assert_text(sum, "0.000081640625", "0.000082");
}

static void test_amounts_as_text(void **state)
{
    (void) state;
    assert_text(0, "0", "0.000000");
    assert_text(1, "0.000000000001", "0.000000");
    assert_text(-1, "-0.000000000001", "0.000000");
    assert_text(INT64_C(1000000000000), "1", "1.000000");
    assert_text(INT64_C(-12500000000000), "-12.5", "-12.500000");
    assert_text(INT64_C(10000000000000), "10", "10.000000");
    assert_text(INT64_C(999999999999), "0.999999999999", "1.000000");
}

static void test_half_goes_to_even(void **state)
{
    (void) state;
    assert_text(500000, "0.0000005", "0.000000");
    assert_text(500001, "0.000000500001", "0.000001");
    assert_text(1500000, "0.0000015", "0.000002");
    assert_text(2500000, "0.0000025", "0.000002");
    assert_text(-1500000, "-0.0000015", "-0.000002");
    assert_text(-2500000, "-0.0000025", "-0.000002");
}

/* The dearest model, more tokens than int64 has elsewhere. */
static void test_the_greatest_amount_is_exact(void **state)
{
    (void) state;
    const struct price dearest = {.input_pico = PRICE_PICO_MAX, .output_pico = PRICE_PICO_MAX};
    money_pico sum =
        price_of(&dearest, MEASURE_INPUT_TOKENS, INT64_MAX) + price_of(&dearest, MEASURE_OUTPUT_TOKENS, INT64_MAX);
    char text[PRICE_TEXT_BYTES];
    assert_string_equal(price_text(sum, text), "18446744073709551614000");
    assert_string_equal(price_text_pico(sum, text), "18446744073709551614000000000000000");
    assert_string_equal(price_text_pico(0, text), "0");
    assert_string_equal(price_text_pico(-20, text), "-20");
}

/* However the counts are cut into cells, their amounts have one sum. */
static void test_amounts_are_sums_in_any_cut(void **state)
{
    (void) state;
    for (int round = 0; round < 1000; round++) {
        int64_t total = 0;
        money_pico cut = 0;
        for (size_t parts = unit_random_below(20); parts > 0; parts--) {
            int64_t part = (int64_t) unit_random_below(1000000);
            total += part;
            cut += price_of(&ONE, MEASURE_CACHED_INPUT_TOKENS, part);
        }
        assert_true(cut == price_of(&ONE, MEASURE_CACHED_INPUT_TOKENS, total));
    }
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_last_version_that_is_valid_counts),
        cmocka_unit_test(test_cached_input_costs_its_own_price_instead),
        cmocka_unit_test(test_amounts_as_text),
        cmocka_unit_test(test_half_goes_to_even),
        cmocka_unit_test(test_the_greatest_amount_is_exact),
        cmocka_unit_test(test_amounts_are_sums_in_any_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
