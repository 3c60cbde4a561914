/* billing/outbox: states that come back from a backup do not know what was sent after them. */
#include "tests/unit/billing/outbox_room.h"

/* The tenant u has no customer: its rows are held. */
static const struct policy *sell_to_t(void)
{
    return load_stripe("tenants: { t: { customer: cus_t }, u: {} }\n", IN ", " OUT);
}

static void assert_four(size_t first, enum row_state state, wall_ms first_sent)
{
    size_t held = 0;
    for (size_t i = first; i < first + 4; i++) {
        const struct row_entry *entry = row_states_at(outbox_states(outbox), i);
        held += entry->state == ROW_HELD;
        assert_true(entry->state == (entry->row.name.tenant[0] == 'u' ? ROW_HELD : state));
        assert_int_equal(entry->first_sent, first_sent);
    }
    assert_int_equal(held, 2);
}

static void set_alive(wall_ms when)
{
    assert_true(row_states_live(outbox_states(outbox), when));
    again();
}

/* Of states that never were in use nobody knows what was before them. */
static void rows_of_what_ended_before_may_have_arrived(void **state)
{
    (void) state;
    const wall_ms ended = clock_wall_ms() - 5, now = ended + 10000;
    const struct policy *selling = sell_to_t();
    seal_quietly(WRITER_A, 1, ended);
    seal_quietly(WRITER_B, 1, ended);
    shipped[1] = 0;
    assert_int_equal(rows_at(selling, now), 4);
    assert_four(0, ROW_SENT, ended);
    assert_int_equal(row_states_alive(outbox_states(outbox)), 0);
    again(); /* B's were not made yet */
    shipped[1] = 1;
    is_reading = true;
    assert_int_equal(rows_at(selling, now), 8);
    assert_four(4, ROW_SENT, ended);
    assert_int_equal(row_states_alive(outbox_states(outbox)), 0); /* a journal may have more of them */
    is_reading = false;
    assert_int_equal(rows_at(selling, now), 8);
    assert_int_equal(row_states_alive(outbox_states(outbox)), now);
    seal(WRITER_A, 2, ended);
    assert_int_equal(rows_at(selling, now + OUTBOX_ALIVE_MS - 1), 12);
    assert_int_equal(row_states_alive(outbox_states(outbox)), now);
    assert_int_equal(rows_at(selling, now + OUTBOX_ALIVE_MS), 12);
    assert_int_equal(row_states_alive(outbox_states(outbox)), now + OUTBOX_ALIVE_MS);
    again();
    assert_four(0, ROW_SENT, ended);
    assert_four(8, ROW_PENDING, 0);
    policy_drop(&selling);
}

static void rows_that_are_pending_in_old_states_may_have_arrived(void **state)
{
    (void) state;
    const wall_ms now = clock_wall_ms(), old = now - 2 * OUTBOX_STALE_MS;
    const struct policy *selling = sell_to_t();
    set_alive(now);
    seal_quietly(WRITER_A, 1, old);
    assert_int_equal(rows_at(selling, old), 4);
    set_alive(now - OUTBOX_STALE_MS + 60000);
    assert_four(0, ROW_PENDING, 0);
    set_alive(now - OUTBOX_STALE_MS - 1);
    for (size_t i = 0; i < 4; i++) {
        const struct row_entry *entry = row_states_at(outbox_states(outbox), i);
        bool is_held = entry->row.name.tenant[0] == 'u';
        assert_int_equal(entry->state, is_held ? ROW_HELD : ROW_SENT);
        assert_int_equal(entry->when, old);
        assert_int_equal(entry->first_sent, old);
    }
    policy_drop(&selling);
}

/* A file's name is its identifier for ever. */
static void a_file_is_never_in_doubt(void **state)
{
    (void) state;
    char error[OUTBOX_TROUBLE_BYTES] = "", billing[SCRATCH_PATH_BYTES], ledger[SCRATCH_PATH_BYTES];
    struct row row = {.name = {.provider = PROVIDER_FILE, .epoch = name_of(WRITER_B, 1)}, .id = "a", .quantity = 1};
    snprintf(billing, sizeof billing, "%.200s/billing", scratch_directory);
    snprintf(ledger, sizeof ledger, "%.200s/ledger", scratch_directory);
    struct row_states *states = row_states_open(billing, PROVIDER_FILE);
    assert_true(row_states_add(states, &row, ROW_PENDING, 1, ""));
    row_states_close(&states);
    outbox_close(&outbox);
    struct outbox_options options = {billing, ledger, "00112233445566778899aabbccddeeff", PROVIDER_FILE};
    outbox = outbox_open(&options, error);
    assert_int_equal(row_states_at(outbox_states(outbox), 0)->state, ROW_PENDING);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rows_of_what_ended_before_may_have_arrived),
        TEST(rows_that_are_pending_in_old_states_may_have_arrived),
        TEST(a_file_is_never_in_doubt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
