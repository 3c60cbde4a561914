/* billing/cells: the cells' sum is the CLOSEs' sum, whatever the order. */
#include "billing/cells.h"

#include <errno.h>
#include <string.h>

#include "tests/lib/unit.h"

static const char *const NAMES[] = {"", "a", "ab", "acme", "a long name of somebody"};
enum { NAME_COUNT = sizeof NAMES / sizeof NAMES[0] };

static struct text any_name(void)
{
    return text_of(NAMES[unit_random_below(NAME_COUNT)]);
}

static struct record any_close(void)
{
    return (struct record){.type = RECORD_CLOSE,
                           .tenant = any_name(),
                           .key = any_name(),
                           .model = any_name(),
                           .input_tokens = (int64_t) unit_random_below(1000),
                           .cached_input_tokens = (int64_t) unit_random_below(3),
                           .output_tokens = (int64_t) unit_random_below(1000),
                           .input_source = (enum count_source) unit_random_below(4),
                           .output_source = (enum count_source) unit_random_below(4),
                           .billed = unit_random_below(4) != 0};
}

static void test_cells_are_the_sum_of_the_closes(void **state)
{
    (void) state;
    for (int round = 0; round < 20; round++) {
        struct cells *cells = cells_create();
        int64_t expected[MEASURE_COUNT][4] = {0}, found[MEASURE_COUNT][4] = {0}; /* by source */
        for (size_t i = unit_random_below(3000); i > 0; i--) {
            struct record close = any_close();
            assert_true(cells_add_close(cells, &close));
            expected[MEASURE_REQUESTS][COUNT_NONE] += close.billed;
            expected[MEASURE_INPUT_TOKENS][close.input_source] += close.billed ? close.input_tokens : 0;
            expected[MEASURE_CACHED_INPUT_TOKENS][close.input_source] += close.billed ? close.cached_input_tokens : 0;
            expected[MEASURE_OUTPUT_TOKENS][close.output_source] += close.billed ? close.output_tokens : 0;
        }
        struct cell *sorted = cells_sorted(cells);
        for (size_t i = 0; i < cells_count(cells); i++) {
            assert_true(sorted[i].quantity > 0);
            found[sorted[i].measure][sorted[i].source] += sorted[i].quantity;
        }
        assert_memory_equal(found, expected, sizeof found);
        free(sorted);
        cells_destroy(&cells);
        assert_null(cells);
    }
}

/* Two names whose bytes run together are two cells; one name is one. */
static void test_names_are_told_apart_and_sorted(void **state)
{
    (void) state;
    struct cells *cells = cells_create();
    const struct cell added[] = {
        {TEXT("b"), TEXT(""), TEXT("m"), MEASURE_OUTPUT_TOKENS, COUNT_ENGINE, 1},
        {TEXT("a"), TEXT("bc"), TEXT("m"), MEASURE_OUTPUT_TOKENS, COUNT_ENGINE, 2},
        {TEXT("ab"), TEXT("c"), TEXT("m"), MEASURE_OUTPUT_TOKENS, COUNT_ENGINE, 3},
        {TEXT("a"), TEXT("bc"), TEXT("m"), MEASURE_OUTPUT_TOKENS, COUNT_COUNTED, 4},
        {TEXT("a"), TEXT("bc"), TEXT("m"), MEASURE_INPUT_TOKENS, COUNT_ESTIMATED, 5},
        {TEXT("a"), TEXT("bc"), TEXT("m"), MEASURE_OUTPUT_TOKENS, COUNT_ENGINE, 6},
        {TEXT("zero"), TEXT(""), TEXT("m"), MEASURE_OUTPUT_TOKENS, COUNT_ENGINE, 0},
    };
    for (size_t i = 0; i < sizeof added / sizeof added[0]; i++)
        assert_true(cells_add(cells, &added[i]));
    static const int64_t expected[] = {5, 8, 4, 3, 1};
    struct cell *sorted = cells_sorted(cells);
    assert_int_equal(cells_count(cells), 5);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(sorted[i].quantity, expected[i]);
    free(sorted);
    cells_destroy(&cells);
}

static void test_what_cannot_be_summed_is_refused(void **state)
{
    (void) state;
    static char long_name[RECORD_NAME_BYTES_MAX + 1];
    struct cells *cells = cells_create();
    struct cell cell = {.measure = MEASURE_REQUESTS, .quantity = INT64_MAX};
    assert_true(cells_add(cells, &cell));
    cell.quantity = 1;
    assert_false(cells_add(cells, &cell));
    assert_int_equal(errno, EOVERFLOW);
    cell.quantity = -1;
    assert_false(cells_add(cells, &cell));
    assert_int_equal(errno, EINVAL);
    cell.quantity = 1;
    cell.model = (struct text){long_name, sizeof long_name};
    assert_false(cells_add(cells, &cell));
    assert_int_equal(errno, EINVAL);
    struct cell *sorted = cells_sorted(cells);
    assert_int_equal(cells_count(cells), 1);
    assert_true(sorted[0].quantity == INT64_MAX);
    free(sorted);
    cells_destroy(&cells);
    cells_destroy(&cells);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cells_are_the_sum_of_the_closes),
        cmocka_unit_test(test_names_are_told_apart_and_sorted),
        cmocka_unit_test(test_what_cannot_be_summed_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
