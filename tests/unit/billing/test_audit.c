/* billing/audit: one wrong cell is found on whichever side it is, and rows are held against what the ledger makes of
 * them, whatever became of meters and tenants meanwhile. */
#include "billing/audit.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/conf/scratch.h"

enum { HOUR_MS = 3600 * 1000 };

static const char WRITER[] = "0123456789abcdef0123456789abcdef";
static const char INSTALL[] = "00112233445566778899aabbccddeeff";
static const wall_ms BEGIN = 1795363200000; /* 2026-11-22T16:00:00Z */
static const char *const GEMMA[] = {"gemma"};
static const struct meter_policy METERS[] = {
    {.event_name = "in", .measure = MEASURE_INPUT_TOKENS, .model_patterns = GEMMA, .model_pattern_count = 1},
    {.event_name = "out", .measure = MEASURE_OUTPUT_TOKENS, .model_patterns = GEMMA, .model_pattern_count = 1},
};
static const struct provider_policy STRIPE = {.kind = PROVIDER_STRIPE, .meters = METERS, .meter_count = 2};
static const struct tenant TENANTS[] = {{.name = "acme", .customer = "cus_1"}, {.name = "beta", .customer = "cus_1"}};
static const struct policy POLICY = {.tenants = TENANTS, .tenant_count = 2};

/* ---- cells ---- */

static struct cell cell_of(const char *tenant, const char *model, enum measure measure, int64_t quantity)
{
    return (struct cell){text_of(tenant), TEXT("ci"), text_of(model), measure, COUNT_ENGINE, quantity};
}

static struct cells *cells_of(const struct cell *list, size_t count)
{
    struct cells *cells = cells_create();
    for (size_t i = 0; i < count; i++)
        assert_true(cells_add(cells, &list[i]));
    return cells;
}

struct told {
    size_t count;
    struct audit_difference last;
    char model[32];
};

static bool tell(void *owner, const struct audit_difference *difference)
{
    struct told *told = owner;
    told->count++;
    told->last = *difference;
    text_copy(told->model, sizeof told->model, difference->cell.model);
    errno = ECANCELED;
    return told->count < 3;
}

static void test_each_side_is_compared(void **state)
{
    (void) state;
    const struct cell list[] = {cell_of("acme", "gemma", MEASURE_OUTPUT_TOKENS, 7),
                                cell_of("acme", "gemma", MEASURE_INPUT_TOKENS, 5),
                                cell_of("beta", "llama", MEASURE_INPUT_TOKENS, 5)};
    struct cells *all = cells_of(list, 3), *fewer = cells_of(list, 2), *more = cells_of(list, 3);
    assert_true(cells_add(more, &list[0]));
    struct told told = {0};
    const struct cells *const same[AUDIT_SIDE_COUNT] = {all, all, all};
    assert_true(audit_cells(same, tell, &told));
    const struct cells *const one[AUDIT_SIDE_COUNT] = {NULL, all, NULL};
    assert_true(audit_cells(one, tell, &told));
    assert_int_equal(told.count, 0);
    for (size_t side = 0; side < AUDIT_SIDE_COUNT; side++) {
        const struct cells *lacking[AUDIT_SIDE_COUNT] = {all, all, all};
        lacking[side] = fewer;
        told = (struct told){0};
        assert_true(audit_cells(lacking, tell, &told));
        assert_int_equal(told.count, 1);
        assert_string_equal(told.model, "llama");
        for (size_t i = 0; i < AUDIT_SIDE_COUNT; i++)
            assert_int_equal(told.last.quantities[i], i == side ? 0 : 5);
        lacking[side] = more;
        told = (struct told){0};
        assert_true(audit_cells(lacking, tell, &told));
        assert_int_equal(told.count, 1);
        assert_int_equal(told.last.quantities[side], 14);
        assert_int_equal(told.last.cell.measure, MEASURE_OUTPUT_TOKENS);
    }
    cells_destroy(&all);
    cells_destroy(&fewer);
    cells_destroy(&more);
}

static void test_whoever_is_told_ends_it(void **state)
{
    (void) state;
    struct cells *all = cells_create(), *nothing = cells_create();
    for (int measure = 0; measure < MEASURE_COUNT; measure++) {
        struct cell cell = cell_of("acme", "gemma", (enum measure) measure, 1);
        assert_true(cells_add(all, &cell));
    }
    struct told told = {0};
    const struct cells *const sides[AUDIT_SIDE_COUNT] = {NULL, all, nothing};
    assert_false(audit_cells(sides, tell, &told));
    assert_int_equal(told.count, 3);
    assert_int_equal(errno, ECANCELED);
    cells_destroy(&all);
    cells_destroy(&nothing);
}

/* ---- rows ---- */

/* One writer's ledger of a few epochs, and the states. */
struct house {
    struct row_states *states;
    struct audit_source source;
    struct audit_rows *rows;
};
static struct house house;

static int create(void **state)
{
    int result = scratch_create(state);
    house = (struct house){.states = row_states_open(scratch_directory, PROVIDER_STRIPE)};
    house.source = (struct audit_source){.policy = &POLICY,
                                         .provider = &STRIPE,
                                         .install_id = INSTALL,
                                         .states = house.states,
                                         .now = BEGIN + 10 * HOUR_MS,
                                         .retention_ms = (int64_t) 24 * HOUR_MS,
                                         .to = INT64_MAX};
    return result != 0 || house.states == NULL;
}

static int destroy(void **state)
{
    audit_rows_destroy(&house.rows);
    row_states_close(&house.states);
    return scratch_destroy(state);
}

static struct ledger_head head_of(uint64_t epoch, wall_ms ended)
{
    struct ledger_head head = {.began = ended, .ended = ended};
    strcpy(head.name.writer, WRITER);
    head.name.epoch = epoch;
    return head;
}

/* What the billing thread does with an epoch; rows before @skip are left out. */
static void make_rows(uint64_t epoch, wall_ms ended, const struct cells *cells, size_t skip)
{
    struct ledger_head head = head_of(epoch, ended);
    const struct row_source source = {house.source.provider, INSTALL, &head, cells};
    struct row *rows;
    size_t count;
    assert_true(rows_make(&source, &rows, &count));
    for (size_t i = skip; i < count; i++)
        assert_true(row_states_add(house.states, &rows[i], rows[i].metered ? ROW_PENDING : ROW_HELD, ended, ""));
    free(rows);
}

static void deliver(size_t place)
{
    const char *id = row_states_at(house.states, place)->row.id;
    assert_true(row_states_mark_sent(house.states, id, BEGIN, "cus_1"));
    assert_true(row_states_move(house.states, id, ROW_ACKED, BEGIN, ""));
}

/* Never sent; or, with a customer, rejected. */
static void bill_by_hand(size_t place, const char *customer)
{
    const char *id = row_states_at(house.states, place)->row.id;
    if (customer != NULL) {
        assert_true(row_states_mark_sent(house.states, id, BEGIN, customer));
        assert_true(row_states_move(house.states, id, ROW_REJECTED, BEGIN, ""));
    } else if (row_states_at(house.states, place)->state != ROW_HELD) {
        assert_true(row_states_move(house.states, id, ROW_HELD, BEGIN, ""));
    }
    assert_true(row_states_move(house.states, id, ROW_ACKED, BEGIN, ""));
}

static void begin(void)
{
    house.rows = audit_rows_create(&house.source);
    assert_non_null(house.rows);
}

static void add_epoch(uint64_t epoch, wall_ms ended, const struct cells *ledger, const struct cells *redis)
{
    struct ledger_head head = head_of(epoch, ended);
    assert_true(audit_rows_add_epoch(house.rows, &head, ledger, redis));
}

/* How many lines differ, of how many. */
static size_t differing(bool asked, size_t *ret_count)
{
    const struct reconcile_known known = {.redis = true, .provider = asked};
    const struct reconcile_line *lines = audit_rows_lines(house.rows, ret_count);
    size_t found = 0;
    assert_non_null(lines);
    for (size_t i = 0; i < *ret_count; i++)
        found += reconcile_differs(&lines[i], known);
    return found;
}

static struct cells *gemma(int64_t input, int64_t output)
{
    const struct cell list[] = {cell_of("acme", "gemma", MEASURE_INPUT_TOKENS, input),
                                cell_of("acme", "gemma", MEASURE_OUTPUT_TOKENS, output)};
    return cells_of(list, 2);
}

static void test_rows_agree_with_their_epoch(void **state)
{
    (void) state;
    size_t count;
    struct cells *cells = gemma(5, 7), *other = gemma(5, 8);
    make_rows(1, BEGIN, cells, 0);
    deliver(0);
    begin();
    add_epoch(1, BEGIN, cells, cells);
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(differing(false, &count), 0);
    assert_int_equal(count, 2);
    audit_rows_destroy(&house.rows);
    begin();
    add_epoch(1, BEGIN, other, other);
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(differing(false, &count), 1);
    audit_rows_destroy(&house.rows);
    begin();
    add_epoch(1, BEGIN, cells, other);
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(differing(false, &count), 1);
    cells_destroy(&cells);
    cells_destroy(&other);
}

static void test_rows_that_are_to_be_made_are_pending_and_lost_ones_differ(void **state)
{
    (void) state;
    size_t count;
    struct cells *cells = gemma(5, 7);
    make_rows(1, BEGIN, cells, 0);
    make_rows(2, BEGIN + HOUR_MS, cells, 1); /* its first row is lost */
    begin();
    add_epoch(1, BEGIN, cells, NULL);
    add_epoch(2, BEGIN + HOUR_MS, cells, NULL);
    add_epoch(3, BEGIN + 2 * HOUR_MS, cells, NULL); /* nobody got to it yet */
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(differing(false, &count), 1);
    const struct reconcile_line *lines = audit_rows_lines(house.rows, &count);
    assert_int_equal(count, 6);
    assert_int_equal(lines[1].hour, BEGIN + HOUR_MS);
    assert_int_equal(lines[1].quantities[RECONCILE_LEDGER], 5);
    assert_int_equal(lines[1].quantities[RECONCILE_PENDING], 0);
    assert_int_equal(lines[2].quantities[RECONCILE_LEDGER], 5);
    assert_int_equal(lines[2].quantities[RECONCILE_PENDING], 5);
    audit_rows_destroy(&house.rows);
    house.source.now = BEGIN + HOUR_MS + AUDIT_FRESH_MS - 1; /* perhaps it is being added this moment */
    begin();
    add_epoch(1, BEGIN, cells, NULL);
    add_epoch(2, BEGIN + HOUR_MS, cells, NULL);
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(differing(false, &count), 0);
    cells_destroy(&cells);
}

static void test_only_the_window_counts_and_what_is_older_than_the_provider_has_no_rows(void **state)
{
    (void) state;
    size_t count;
    struct cells *cells = gemma(5, 7);
    make_rows(2, BEGIN + HOUR_MS, cells, 0);
    house.source.since = BEGIN + 1;
    house.source.to = BEGIN + HOUR_MS;
    begin();
    add_epoch(1, BEGIN, cells, cells);
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(differing(false, &count), 0);
    assert_int_equal(count, 0);
    cells_destroy(&cells);
}

static void test_a_row_without_its_ledger_file_is_lost_or_old(void **state)
{
    (void) state;
    size_t count;
    struct cells *cells = gemma(5, 7);
    make_rows(1, BEGIN, cells, 0);
    begin();
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(differing(false, &count), 2);
    audit_rows_destroy(&house.rows);
    house.source.retention_ms = HOUR_MS;
    begin();
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(differing(false, &count), 0);
    assert_int_equal(count, 2);
    cells_destroy(&cells);
}

/* Held without a meter, then released to one that was added: its cells are its own, under the meter's name. */
static void test_a_meter_that_came_later_changes_no_epoch_before_it(void **state)
{
    (void) state;
    size_t count;
    static const struct provider_policy BEFORE = {.kind = PROVIDER_STRIPE, .meters = METERS, .meter_count = 1};
    static const char *const LLAMA[] = {"llama"};
    static const struct meter_policy NOW[] = {
        {.event_name = "in", .measure = MEASURE_INPUT_TOKENS, .model_patterns = GEMMA, .model_pattern_count = 1},
        {.event_name = "out", .measure = MEASURE_OUTPUT_TOKENS, .model_patterns = GEMMA, .model_pattern_count = 1},
        {.event_name = "llama_in", .measure = MEASURE_INPUT_TOKENS, .model_patterns = LLAMA, .model_pattern_count = 1},
    };
    static const struct provider_policy AFTER = {.kind = PROVIDER_STRIPE, .meters = NOW, .meter_count = 3};
    const struct cell list[] = {cell_of("acme", "gemma", MEASURE_INPUT_TOKENS, 5),
                                cell_of("acme", "gemma", MEASURE_OUTPUT_TOKENS, 7),
                                cell_of("acme", "llama", MEASURE_INPUT_TOKENS, 11)};
    struct cells *cells = cells_of(list, 3);
    house.source.provider = &BEFORE;
    make_rows(1, BEGIN, cells, 0);
    assert_int_equal(row_states_count(house.states), 2);
    size_t held = row_states_at(house.states, 0)->state == ROW_HELD ? 0 : 1;
    assert_true(row_states_give_meter(house.states, row_states_at(house.states, held)->row.id, BEGIN, "llama_in"));
    house.source.provider = &AFTER;
    make_rows(2, BEGIN + HOUR_MS, cells, 0); /* with all meters */
    begin();
    add_epoch(1, BEGIN, cells, cells);
    add_epoch(2, BEGIN + HOUR_MS, cells, cells);
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(differing(false, &count), 0);
    assert_int_equal(count, 5); /* in and llama_in, then with out */
    assert_int_equal(audit_rows_unexplained(house.rows), 0);
    audit_rows_destroy(&house.rows);
    house.source.provider = &BEFORE; /* as if the meters were gone again */
    begin();
    add_epoch(2, BEGIN + HOUR_MS, cells, cells);
    assert_int_equal(audit_rows_unexplained(house.rows), 2);
    cells_destroy(&cells);
}

/* ---- totals ---- */

static void test_totals_are_asked_once_and_shared_by_tenants_of_one_customer(void **state)
{
    (void) state;
    size_t count;
    const struct audit_total *totals;
    const struct cell list[] = {cell_of("acme", "gemma", MEASURE_INPUT_TOKENS, 5),
                                cell_of("beta", "gemma", MEASURE_INPUT_TOKENS, 7)};
    struct cells *cells = cells_of(list, 2);
    make_rows(1, BEGIN + 1, cells, 0);
    make_rows(2, BEGIN + 2, cells, 0);
    make_rows(3, BEGIN + HOUR_MS, cells, 0); /* pending: nothing can be there */
    for (size_t i = 0; i < 4; i++)
        deliver(i);
    begin();
    for (uint64_t epoch = 1; epoch <= 3; epoch++)
        add_epoch(epoch, epoch < 3 ? BEGIN + (wall_ms) epoch : BEGIN + HOUR_MS, cells, cells);
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(audit_rows_totals(house.rows, &totals), 1);
    assert_string_equal(totals[0].customer, "cus_1");
    assert_string_equal(totals[0].event_name, "in");
    assert_int_equal(totals[0].hour, BEGIN);
    assert_true(audit_rows_answer(house.rows, &totals[0], 24));
    assert_int_equal(differing(true, &count), 0);
    audit_rows_destroy(&house.rows);
    for (int64_t total = 23; total <= 25; total += 2) {
        begin();
        for (uint64_t epoch = 1; epoch <= 3; epoch++)
            add_epoch(epoch, epoch < 3 ? BEGIN + (wall_ms) epoch : BEGIN + HOUR_MS, cells, cells);
        assert_true(audit_rows_end(house.rows));
        assert_int_equal(audit_rows_totals(house.rows, &totals), 1);
        assert_true(audit_rows_answer(house.rows, &totals[0], total));
        assert_int_equal(differing(true, &count), 1);
        audit_rows_destroy(&house.rows);
    }
    cells_destroy(&cells);
}

static void test_what_was_sent_without_an_answer_may_be_there_or_not(void **state)
{
    (void) state;
    size_t count;
    const struct audit_total *totals;
    struct cells *cells = gemma(5, 7);
    make_rows(1, BEGIN, cells, 0);
    deliver(0);
    assert_true(row_states_mark_sent(house.states, row_states_at(house.states, 1)->row.id, BEGIN, "cus_1"));
    for (int64_t there = 0; there <= 14; there += 7) {
        begin();
        add_epoch(1, BEGIN, cells, cells);
        assert_true(audit_rows_end(house.rows));
        assert_int_equal(audit_rows_totals(house.rows, &totals), 2);
        for (size_t i = 0; i < 2; i++)
            assert_true(audit_rows_answer(house.rows, &totals[i], strcmp(totals[i].event_name, "in") == 0 ? 5 : there));
        assert_int_equal(differing(true, &count), there == 14 ? 1 : 0);
        audit_rows_destroy(&house.rows);
    }
    cells_destroy(&cells);
}

static void test_what_was_billed_by_hand_may_be_there_or_not(void **state)
{
    (void) state;
    size_t count;
    const struct audit_total *totals;
    const struct cell list[] = {cell_of("acme", "gemma", MEASURE_INPUT_TOKENS, 5),
                                cell_of("beta", "gemma", MEASURE_INPUT_TOKENS, 7)};
    struct cells *cells = cells_of(list, 2);
    make_rows(1, BEGIN, cells, 0);
    make_rows(2, BEGIN + 1, cells, 0);
    bill_by_hand(0, NULL);
    bill_by_hand(2, "cus_typo");
    deliver(1);
    deliver(3);
    for (int64_t there = 13; there <= 25; there++) {
        begin();
        add_epoch(1, BEGIN, cells, cells);
        add_epoch(2, BEGIN + 1, cells, cells);
        assert_true(audit_rows_end(house.rows));
        assert_int_equal(audit_rows_totals(house.rows, &totals), 1);
        assert_true(audit_rows_answer(house.rows, &totals[0], there));
        assert_int_equal(differing(true, &count), there < 14 || there > 24 ? 1 : 0);
        const struct reconcile_line *lines = audit_rows_lines(house.rows, &count);
        assert_int_equal(count, 2);
        assert_int_equal(lines[0].quantities[RECONCILE_BY_HAND], 10);
        assert_int_equal(lines[1].quantities[RECONCILE_DELIVERED], 14);
        audit_rows_destroy(&house.rows);
    }
    cells_destroy(&cells);
}

static void test_what_was_also_sent_is_asked_for(void **state)
{
    (void) state;
    const struct audit_total *totals;
    const struct cell cell = cell_of("acme", "gemma", MEASURE_INPUT_TOKENS, 5);
    struct cells *cells = cells_of(&cell, 1);
    for (uint64_t epoch = 0; epoch < 4; epoch++) { /* two hours, each in another order */
        make_rows(epoch, BEGIN + (wall_ms) epoch / 2 * HOUR_MS, cells, 0);
        if (epoch == 0 || epoch == 3)
            bill_by_hand(epoch, NULL);
        else
            deliver(epoch);
    }
    begin();
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(audit_rows_totals(house.rows, &totals), 2);
    cells_destroy(&cells);
}

/* A rejected row is not there; what was billed by hand only may lack a customer or a meter for ever. The provider need
 * not know for whom it was. */
static void test_what_was_rejected_or_only_billed_by_hand_is_not_asked_for(void **state)
{
    (void) state;
    size_t count;
    const struct audit_total *totals;
    const struct cell list[] = {
        cell_of("acme", "gemma", MEASURE_INPUT_TOKENS, 5), cell_of("acme", "llama", MEASURE_INPUT_TOKENS, 7),
        cell_of("beta", "gemma", MEASURE_INPUT_TOKENS, 9), cell_of("nobody", "gemma", MEASURE_INPUT_TOKENS, 11)};
    struct cells *cells = cells_of(list, 4);
    make_rows(1, BEGIN, cells, 0);
    for (size_t i = 0; i < 4; i++) {
        const struct row_entry *entry = row_states_at(house.states, i);
        if (strcmp(entry->row.name.tenant, "beta") != 0)
            bill_by_hand(i, NULL);
        else if (row_states_mark_sent(house.states, entry->row.id, BEGIN, "cus_typo"))
            assert_true(row_states_move(house.states, entry->row.id, ROW_REJECTED, BEGIN, ""));
    }
    begin();
    add_epoch(1, BEGIN, cells, cells);
    assert_true(audit_rows_end(house.rows));
    assert_int_equal(audit_rows_totals(house.rows, &totals), 0);
    assert_int_equal(audit_rows_unexplained(house.rows), 0);
    assert_int_equal(differing(true, &count), 0);
    assert_int_equal(count, 4);
    cells_destroy(&cells);
}

/* The provider is asked between two looks at the states. */
static void test_what_moves_while_the_provider_is_asked_is_open(void **state)
{
    (void) state;
    size_t count;
    const struct audit_total *totals;
    struct cells *cells = gemma(5, 7);
    make_rows(1, BEGIN, cells, 0);
    deliver(0);
    make_rows(2, BEGIN + 1, cells, 0); /* pending */
    struct row_states *before = row_states_read(scratch_directory, PROVIDER_STRIPE);
    for (int64_t there = 5; there <= 20; there += 5) { /* 15 when all of what moves has arrived before the answer */
        house.source.states = before;
        house.source.now = BEGIN + 1000;
        begin();
        add_epoch(1, BEGIN, cells, cells);
        add_epoch(2, BEGIN + 1, cells, cells);
        add_epoch(3, BEGIN + 2, cells, cells); /* its rows come meanwhile */
        assert_true(audit_rows_end(house.rows));
        assert_int_equal(audit_rows_totals(house.rows, &totals), 1);
        if (there == 5) {
            deliver(2);
            make_rows(3, BEGIN + 2, cells, 0);
            deliver(4);
        }
        assert_true(audit_rows_settle(house.rows, house.states));
        assert_true(audit_rows_answer(house.rows, &totals[0], there));
        assert_int_equal(differing(true, &count), there > 15 ? 1 : 0);
        assert_int_equal(count, 2);
        audit_rows_destroy(&house.rows);
    }
    row_states_close(&before);
    cells_destroy(&cells);
}

/* An epoch that ended after the ledger was listed. */
static void test_what_nobody_knew_before_is_neither_missing_nor_too_much(void **state)
{
    (void) state;
    size_t count;
    struct cells *cells = gemma(5, 7);
    struct row_states *before = row_states_read(scratch_directory, PROVIDER_STRIPE);
    house.source.states = before;
    begin();
    assert_true(audit_rows_end(house.rows));
    make_rows(1, BEGIN, cells, 0);
    deliver(0);
    assert_true(audit_rows_settle(house.rows, house.states));
    assert_int_equal(differing(true, &count), 0);
    assert_int_equal(count, 2);
    audit_rows_destroy(&house.rows);
    row_states_close(&before);
    cells_destroy(&cells);
}

#define ROWS(name) cmocka_unit_test_setup_teardown(name, create, destroy)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_side_is_compared),
        cmocka_unit_test(test_whoever_is_told_ends_it),
        ROWS(test_rows_agree_with_their_epoch),
        ROWS(test_rows_that_are_to_be_made_are_pending_and_lost_ones_differ),
        ROWS(test_only_the_window_counts_and_what_is_older_than_the_provider_has_no_rows),
        ROWS(test_a_row_without_its_ledger_file_is_lost_or_old),
        ROWS(test_a_meter_that_came_later_changes_no_epoch_before_it),
        ROWS(test_totals_are_asked_once_and_shared_by_tenants_of_one_customer),
        ROWS(test_what_was_sent_without_an_answer_may_be_there_or_not),
        ROWS(test_what_was_billed_by_hand_may_be_there_or_not),
        ROWS(test_what_was_also_sent_is_asked_for),
        ROWS(test_what_was_rejected_or_only_billed_by_hand_is_not_asked_for),
        ROWS(test_what_moves_while_the_provider_is_asked_is_open),
        ROWS(test_what_nobody_knew_before_is_neither_missing_nor_too_much),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
