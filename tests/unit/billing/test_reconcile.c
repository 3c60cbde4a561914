/* billing/reconcile: what a total proves about one row, and which lines cannot be true. */
#include "billing/reconcile.h"

#include <errno.h>
#include <string.h>

#include "tests/lib/unit.h"

static const wall_ms HOUR = 3600 * 1000;

static void assert_finding(int64_t total, int64_t delivered, int64_t unclear, enum reconcile_finding expected)
{
    const struct reconcile_facts facts = {
        .provider_total = total, .delivered = delivered, .unclear = unclear, .quantity = 10};
    assert_int_equal(reconcile_row(&facts), expected);
}

static void test_only_what_is_proven(void **state)
{
    (void) state;
    assert_finding(100, 100, 0, RECONCILE_NOT_TAKEN);
    assert_finding(110, 100, 0, RECONCILE_TAKEN);
    assert_finding(105, 100, 0, RECONCILE_UNCLEAR);
    assert_finding(90, 100, 0, RECONCILE_UNCLEAR);
    assert_finding(100, 100, 10, RECONCILE_NOT_TAKEN);
    assert_finding(110, 100, 10, RECONCILE_UNCLEAR); /* it, or the other */
    assert_finding(120, 100, 10, RECONCILE_TAKEN);
    assert_finding(INT64_MIN, INT64_MAX, INT64_MAX, RECONCILE_UNCLEAR);
}

/* What a person billed by hand is at the provider, or elsewhere. */
static void test_what_was_billed_by_hand_proves_nothing(void **state)
{
    (void) state;
    static const struct {
        int64_t total;
        enum reconcile_finding finding;
    } CASES[] = {
        {100, RECONCILE_NOT_TAKEN}, {110, RECONCILE_UNCLEAR}, {120, RECONCILE_TAKEN}, {130, RECONCILE_UNCLEAR}};
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        const struct reconcile_facts facts = {
            .provider_total = CASES[i].total, .delivered = 100, .by_hand = 10, .quantity = 10};
        assert_int_equal(reconcile_row(&facts), CASES[i].finding);
    }
    const struct reconcile_facts wide = {.provider_total = INT64_MIN, .by_hand = INT64_MAX, .quantity = 1};
    assert_int_equal(reconcile_row(&wide), RECONCILE_UNCLEAR);
}

/* Against the truth: whatever other rows there are, a finding is never wrong. */
static void test_a_finding_is_never_wrong(void **state)
{
    (void) state;
    unsigned found[3] = {0};
    for (int round = 0; round < 20000; round++) {
        bool is_taken = unit_random_below(2) != 0;
        struct reconcile_facts facts = {.delivered = (int64_t) unit_random_below(50),
                                        .quantity = (int64_t) unit_random_below(5) + 1};
        facts.provider_total = facts.delivered + (is_taken ? facts.quantity : 0);
        for (size_t others = unit_random_below(3); others > 0; others--) {
            int64_t quantity = (int64_t) unit_random_below(5) + 1;
            *(unit_random_below(2) != 0 ? &facts.unclear : &facts.by_hand) += quantity;
            facts.provider_total += unit_random_below(2) != 0 ? quantity : 0;
        }
        enum reconcile_finding finding = reconcile_row(&facts);
        found[finding]++;
        assert_true(finding == RECONCILE_UNCLEAR || (finding == RECONCILE_TAKEN) == is_taken);
    }
    assert_true(found[RECONCILE_TAKEN] > 0 && found[RECONCILE_NOT_TAKEN] > 0 && found[RECONCILE_UNCLEAR] > 0);
}

static struct row_name name_of(const char *tenant, const char *meter)
{
    struct row_name name = {0};
    strcpy(name.tenant, tenant);
    strcpy(name.meter, meter);
    return name;
}

static void test_lines_are_sums_in_order(void **state)
{
    (void) state;
    static const char *const NAMES[] = {"a", "b", "c"};
    int64_t expected[3][3][4][RECONCILE_COLUMN_COUNT] = {0};
    struct reconcile *reconcile = reconcile_create();
    for (int i = 0; i < 5000; i++) {
        size_t tenant = unit_random_below(3), meter = unit_random_below(3), hour = unit_random_below(4);
        size_t column = unit_random_below(RECONCILE_COLUMN_COUNT);
        int64_t quantity = (int64_t) unit_random_below(100);
        struct row_name name = name_of(NAMES[tenant], NAMES[meter]);
        wall_ms when = (wall_ms) hour * HOUR + (wall_ms) unit_random_below(3600 * 1000);
        assert_true(reconcile_add(reconcile, &name, when, (enum reconcile_column) column, quantity));
        expected[tenant][meter][hour][column] += quantity;
    }
    size_t count;
    const struct reconcile_line *lines = reconcile_lines(reconcile, &count);
    assert_int_equal(count, 3 * 3 * 4);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(lines[i].tenant, NAMES[i / 12]);
        assert_string_equal(lines[i].meter, NAMES[i / 4 % 3]);
        assert_true(lines[i].hour == (wall_ms) (i % 4) * HOUR);
        assert_memory_equal(lines[i].quantities, expected[i / 12][i / 4 % 3][i % 4], sizeof lines[i].quantities);
    }
    reconcile_destroy(&reconcile);
    assert_null(reconcile);
}

static void test_nothing_and_too_much(void **state)
{
    (void) state;
    size_t count = 1;
    struct reconcile *reconcile = reconcile_create();
    assert_non_null(reconcile_lines(reconcile, &count));
    assert_int_equal(count, 0);
    struct row_name name = name_of("a", "b");
    assert_true(reconcile_add(reconcile, &name, 0, RECONCILE_LEDGER, INT64_MAX));
    assert_true(reconcile_add(reconcile, &name, 0, RECONCILE_LEDGER, 1));
    assert_null(reconcile_lines(reconcile, &count));
    assert_int_equal(errno, EOVERFLOW);
    reconcile_destroy(&reconcile);
}

static bool differs(int64_t ledger, int64_t redis, int64_t delivered, int64_t sent, int64_t provider)
{
    const struct reconcile_line line = {.quantities = {[RECONCILE_LEDGER] = ledger,
                                                       [RECONCILE_REDIS] = redis,
                                                       [RECONCILE_DELIVERED] = delivered,
                                                       [RECONCILE_SENT] = sent,
                                                       [RECONCILE_HELD] = 1,
                                                       [RECONCILE_PENDING] = 2,
                                                       [RECONCILE_REJECTED] = 3,
                                                       [RECONCILE_PROVIDER] = provider}};
    return reconcile_differs(&line, (struct reconcile_known){redis >= 0, provider >= 0});
}

static void test_what_cannot_be_true_differs(void **state)
{
    (void) state;
    assert_false(differs(106, 106, 100, 0, 100));
    assert_false(differs(106, -1, 100, 0, -1));
    assert_true(differs(107, 107, 100, 0, 100));  /* a row is missing */
    assert_true(differs(106, 105, 100, 0, 100));  /* Redis lost some */
    assert_true(differs(106, 106, 100, 0, 99));   /* the provider lost an acknowledged row */
    assert_false(differs(106, 106, 100, 0, 101)); /* the held row arrived */
    assert_true(differs(106, 106, 100, 0, 102));
    assert_false(differs(116, 116, 100, 10, 111));
    assert_true(differs(116, 116, 100, 10, 112)); /* something was taken twice */
}

static bool differs_by_hand(int64_t by_hand, int64_t sent, int64_t provider)
{
    const struct reconcile_line line = {.quantities = {[RECONCILE_LEDGER] = 100 + by_hand + sent,
                                                       [RECONCILE_DELIVERED] = 100,
                                                       [RECONCILE_BY_HAND] = by_hand,
                                                       [RECONCILE_SENT] = sent,
                                                       [RECONCILE_PROVIDER] = provider}};
    return reconcile_differs(&line, (struct reconcile_known){.provider = true});
}

static void test_the_provider_may_have_what_was_billed_by_hand(void **state)
{
    (void) state;
    assert_true(differs_by_hand(3, 0, 99));
    assert_false(differs_by_hand(3, 0, 100));
    assert_false(differs_by_hand(3, 0, 103));
    assert_true(differs_by_hand(3, 0, 104));
    assert_false(differs_by_hand(3, 5, 108));
    assert_true(differs_by_hand(3, 5, 109));
    assert_true(differs_by_hand(INT64_MAX - 100, 0, INT64_MIN));
    assert_false(differs_by_hand(INT64_MAX - 100, 0, INT64_MAX));
}

static void test_each_state_has_a_column(void **state)
{
    (void) state;
    static const enum reconcile_column COLUMNS[ROW_STATE_COUNT] = {
        [ROW_PENDING] = RECONCILE_PENDING,     [ROW_SENT] = RECONCILE_SENT,         [ROW_ACKED] = RECONCILE_DELIVERED,
        [ROW_DUPLICATE] = RECONCILE_DELIVERED, [ROW_REJECTED] = RECONCILE_REJECTED, [ROW_HELD] = RECONCILE_HELD,
    };
    for (int of = 0; of < ROW_STATE_COUNT; of++) {
        struct row_entry entry = {.state = (enum row_state) of, .first_sent = 1};
        assert_int_equal(reconcile_column_of(&entry), COLUMNS[of]);
        entry.first_sent = 0;
        assert_int_equal(reconcile_column_of(&entry), of == ROW_ACKED ? RECONCILE_BY_HAND : COLUMNS[of]);
    }
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_what_is_proven),
        cmocka_unit_test(test_what_was_billed_by_hand_proves_nothing),
        cmocka_unit_test(test_a_finding_is_never_wrong),
        cmocka_unit_test(test_lines_are_sums_in_order),
        cmocka_unit_test(test_nothing_and_too_much),
        cmocka_unit_test(test_what_cannot_be_true_differs),
        cmocka_unit_test(test_each_state_has_a_column),
        cmocka_unit_test(test_the_provider_may_have_what_was_billed_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
