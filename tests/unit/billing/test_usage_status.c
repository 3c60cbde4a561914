/* billing/usage_status: what is counted, what is the oldest, and which rows are shown to people. */
#include "billing/usage_status.h"

#include "tests/unit/conf/scratch.h"

static struct row_states *states;

static int set_up(void **state)
{
    if (scratch_create(state) != 0)
        return -1;
    states = row_states_open(scratch_directory, PROVIDER_STRIPE);
    return states != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    row_states_close(&states);
    return scratch_destroy(state);
}

static const char *add(unsigned number, wall_ms ended, enum row_state first)
{
    static struct row row;
    row = (struct row){.name = {.provider = PROVIDER_STRIPE, .tenant = "acme", .meter = "in"},
                       .quantity = number,
                       .began = ended - 10,
                       .ended = ended};
    snprintf(row.id, sizeof row.id, "tg1-%06u", number);
    assert_true(row_states_add(states, &row, first, 5, first == ROW_HELD ? "no customer" : ""));
    return row.id;
}

static void move(const char *id, enum row_state to, wall_ms when)
{
    assert_true(row_states_move(states, id, to, when, "why"));
}

static void nothing_is_nothing(void **state)
{
    (void) state;
    struct usage_status status;
    usage_status_of(states, PROVIDER_STRIPE, &status);
    assert_int_equal(status.provider, PROVIDER_STRIPE);
    assert_true(status.oldest == 0 && status.last_acked == 0 && status.waiting_count == 0);
    for (int i = 0; i < ROW_STATE_COUNT; i++)
        assert_int_equal(status.rows[i], 0);
}

static void each_state_counts(void **state)
{
    (void) state;
    struct usage_status status;
    (void) add(1, 5000, ROW_PENDING);
    move(add(2, 4000, ROW_PENDING), ROW_SENT, 10);
    const char *id = add(3, 1000, ROW_PENDING);
    move(id, ROW_SENT, 10);
    move(id, ROW_ACKED, 20);
    id = add(4, 2000, ROW_PENDING);
    move(id, ROW_SENT, 10);
    move(id, ROW_DUPLICATE, 30);
    id = add(5, 3000, ROW_PENDING);
    move(id, ROW_SENT, 10);
    move(id, ROW_REJECTED, 40);
    (void) add(6, 2500, ROW_HELD);
    usage_status_of(states, PROVIDER_STRIPE, &status);
    for (int i = 0; i < ROW_STATE_COUNT; i++)
        assert_int_equal(status.rows[i], 1);
    assert_int_equal(status.oldest, 4000);
    assert_int_equal(status.last_acked, 30);
    assert_int_equal(status.waiting_count, 2);
    assert_string_equal(status.waiting[0].id, "tg1-000006");
    assert_int_equal(status.waiting[0].state, ROW_HELD);
    assert_string_equal(status.waiting[0].reason, "no customer");
    assert_string_equal(status.waiting[0].tenant, "acme");
    assert_string_equal(status.waiting[0].meter, "in");
    assert_int_equal(status.waiting[0].quantity, 6);
    assert_int_equal(status.waiting[0].ended, 2500);
    assert_string_equal(status.waiting[1].id, "tg1-000005");
    assert_int_equal(status.waiting[1].state, ROW_REJECTED);
    size_t count;
    struct usage_waiting *all = usage_waiting_all(states, &count);
    assert_int_equal(count, 2);
    assert_string_equal(all[0].id, "tg1-000006");
    assert_string_equal(all[1].id, "tg1-000005");
    assert_string_equal(all[1].reason, "why");
    free(all);
}

/* The oldest ones, in order, wherever they stand. */
static void only_the_oldest_are_shown(void **state)
{
    (void) state;
    enum { ROWS = 200 };
    struct usage_status status;
    unit_random_seed();
    wall_ms ended[ROWS];
    for (unsigned i = 0; i < ROWS; i++) {
        ended[i] = (wall_ms) unit_random_below(100);
        (void) add(i, ended[i], ROW_HELD);
    }
    usage_status_of(states, PROVIDER_STRIPE, &status);
    assert_int_equal(status.rows[ROW_HELD], ROWS);
    assert_int_equal(status.waiting_count, USAGE_STATUS_WAITING_MAX);
    size_t older = 0;
    wall_ms last = status.waiting[USAGE_STATUS_WAITING_MAX - 1].ended;
    for (size_t i = 0; i < ROWS; i++)
        older += ended[i] < last;
    assert_true(older < USAGE_STATUS_WAITING_MAX);
    for (size_t i = 1; i < USAGE_STATUS_WAITING_MAX; i++)
        assert_true(status.waiting[i - 1].ended <= status.waiting[i].ended);
    size_t count;
    struct usage_waiting *all = usage_waiting_all(states, &count);
    assert_non_null(all);
    assert_int_equal(count, ROWS);
    for (size_t i = 0; i < USAGE_STATUS_WAITING_MAX; i++)
        assert_string_equal(all[i].id, status.waiting[i].id);
    for (size_t i = 1; i < count; i++)
        assert_true(all[i - 1].ended <= all[i].ended && strcmp(all[i - 1].id, all[i].id) != 0);
    free(all);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_nothing),
        TEST(each_state_counts),
        TEST(only_the_oldest_are_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
