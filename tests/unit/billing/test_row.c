/* billing/row: the identifiers of record, and rows whose sum is what the meters take of the cells. */
#include "billing/row.h"

#include <string.h>

#include "tests/lib/unit.h"

static const char INSTALL[] = "00112233445566778899aabbccddeeff";
static const struct row_name NAME = {
    .provider = PROVIDER_STRIPE,
    .epoch = {"0123456789abcdef0123456789abcdef", 7},
    .tenant = "acme",
    .meter = "output_tokens",
};
static const char *const ALL[] = {"*"};
static const char *const GEMMA[] = {"gemma-*"};

/* Computed by Python: "tg1-" + base64.b32encode(sha256(INSTALL|stripe|...|7|acme|output_tokens|0)).lower()[:40] */
static void test_identifiers_never_change(void **state)
{
    (void) state;
    char id[ROW_ID_CHARACTERS + 1];
    row_identifier(&NAME, INSTALL, 0, id);
    assert_string_equal(id, "tg1-jnrgnhpuzwhsj75nfiydfmy44xysn3nt2mzezxky");
    row_identifier(&NAME, INSTALL, 1, id);
    assert_string_equal(id, "tg1-u3vtbcdoxgszno7aokymtpthh5jdxjgcgtj3puwc");
}

static void test_each_part_of_the_name_counts(void **state)
{
    (void) state;
    char first[ROW_ID_CHARACTERS + 1], second[ROW_ID_CHARACTERS + 1];
    struct row_name names[5] = {NAME, NAME, NAME, NAME, NAME};
    names[0].provider = PROVIDER_FILE;
    names[1].epoch.writer[31] = '0';
    names[2].epoch.epoch = 8;
    names[3].tenant[0] = 'b';
    names[4].meter[0] = 'b';
    row_identifier(&NAME, INSTALL, 0, first);
    for (size_t i = 0; i < 5; i++) {
        row_identifier(&names[i], INSTALL, 0, second);
        assert_string_not_equal(first, second);
    }
    row_identifier(&NAME, "00112233445566778899aabbccddeefe", 0, second);
    assert_string_not_equal(first, second);
}

static void add(struct cells *cells, const char *tenant, const char *model, enum measure measure, int64_t quantity)
{
    struct cell cell = {text_of(tenant), TEXT("k"), text_of(model), measure, COUNT_ENGINE, quantity};
    assert_true(cells_add(cells, &cell));
    cell.key = TEXT("another");
    assert_true(cells_add(cells, &cell));
}

static struct row *make(const struct provider_policy *provider, const struct cells *cells, size_t *count)
{
    static const struct ledger_head HEAD = {.name = {"0123456789abcdef0123456789abcdef", 7}, .began = 1, .ended = 2};
    struct row_source source = {provider, INSTALL, &HEAD, cells};
    struct row *rows = NULL;
    assert_true(rows_make(&source, &rows, count));
    return rows;
}

static void test_a_meter_sums_the_models_it_takes(void **state)
{
    (void) state;
    const struct meter_policy meters[] = {
        {"all_output", MEASURE_OUTPUT_TOKENS, 1, ALL},
        {"gemma_input", MEASURE_INPUT_TOKENS, 1, GEMMA},
    };
    const struct provider_policy provider = {.kind = PROVIDER_STRIPE, .meter_count = 2, .meters = meters};
    struct cells *cells = cells_create();
    add(cells, "acme", "gemma-1", MEASURE_OUTPUT_TOKENS, 1);
    add(cells, "acme", "gemma-2", MEASURE_OUTPUT_TOKENS, 10);
    add(cells, "acme", "llama", MEASURE_OUTPUT_TOKENS, 100);
    add(cells, "acme", "llama", MEASURE_INPUT_TOKENS, 1000);
    add(cells, "globex", "gemma-2", MEASURE_INPUT_TOKENS, 10000);
    size_t count;
    struct row *rows = make(&provider, cells, &count);
    assert_int_equal(count, 2);
    assert_string_equal(rows[0].name.meter, "all_output");
    assert_int_equal(rows[0].quantity, 222);
    assert_string_equal(rows[0].name.tenant, "acme");
    assert_string_equal(rows[0].model, "");
    assert_string_equal(rows[1].name.meter, "gemma_input");
    assert_int_equal(rows[1].quantity, 20000);
    assert_true(rows[0].metered && rows[1].metered);
    free(rows);
    cells_destroy(&cells);
}

/* Usage that no row could stand for would be lost without a word. */
static void test_a_model_without_a_meter_has_rows_to_hold(void **state)
{
    (void) state;
    const struct meter_policy meters[] = {{"gemma", MEASURE_OUTPUT_TOKENS, 1, GEMMA}};
    const struct provider_policy provider = {.kind = PROVIDER_STRIPE, .meter_count = 1, .meters = meters};
    struct cells *cells = cells_create();
    add(cells, "acme", "llama", MEASURE_OUTPUT_TOKENS, 5);
    add(cells, "acme", "llama", MEASURE_INPUT_TOKENS, 7);
    add(cells, "acme", "gemma-1", MEASURE_INPUT_TOKENS, 7);
    size_t count;
    struct row *rows = make(&provider, cells, &count);
    assert_int_equal(count, 2);
    assert_string_equal(rows[0].name.meter, "input_tokens/llama");
    assert_string_equal(rows[1].name.meter, "output_tokens/llama");
    assert_string_equal(rows[1].model, "llama");
    assert_false(rows[0].metered || rows[1].metered);
    assert_int_equal(rows[1].quantity, 10);
    free(rows);
    cells_destroy(&cells);
}

static void test_a_file_gets_every_model_and_measure(void **state)
{
    (void) state;
    static const char *const MODELS[] = {"a", "b", "c"};
    const struct provider_policy provider = {.kind = PROVIDER_FILE};
    for (int round = 0; round < 100; round++) {
        struct cells *cells = cells_create();
        int64_t expected = 0, found = 0;
        for (size_t i = unit_random_below(50); i > 0; i--) {
            int64_t quantity = (int64_t) unit_random_below(100);
            expected += 2 * quantity;
            add(cells, MODELS[unit_random_below(3)], MODELS[unit_random_below(3)],
                (enum measure) unit_random_below(MEASURE_COUNT), quantity);
        }
        size_t count;
        struct row *rows = make(&provider, cells, &count);
        for (size_t i = 0; i < count; i++) {
            found += rows[i].quantity;
            assert_true(rows[i].metered && rows[i].quantity > 0);
            assert_true(i == 0 || strcmp(rows[i - 1].id, rows[i].id) != 0);
        }
        assert_int_equal(found, expected);
        free(rows);
        cells_destroy(&cells);
    }
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identifiers_never_change),
        cmocka_unit_test(test_each_part_of_the_name_counts),
        cmocka_unit_test(test_a_meter_sums_the_models_it_takes),
        cmocka_unit_test(test_a_model_without_a_meter_has_rows_to_hold),
        cmocka_unit_test(test_a_file_gets_every_model_and_measure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
