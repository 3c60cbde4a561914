/* billing/row_state: the last state of each row survives, whatever the file's tail looks like. */
#include "billing/row_state.h"

#include <errno.h>
#include <string.h>

#include "tests/lib/full_disk.h"
#include "tests/unit/conf/scratch.h"

static struct row row_number(unsigned number)
{
    struct row row = {
        .name = {.provider = PROVIDER_STRIPE,
                 .epoch = {"0123456789abcdef0123456789abcdef", 7},
                 .tenant = "acme",
                 .meter = "a \"meter\""},
        .metered = true,
        .measure = MEASURE_OUTPUT_TOKENS,
        .quantity = INT64_MAX - (int64_t) number,
        .began = 1,
        .ended = 2,
    };
    snprintf(row.id, sizeof row.id, "tg1-%040u", number);
    return row;
}

static void assert_same_row(const struct row *a, const struct row *b)
{
    assert_int_equal(a->name.provider, b->name.provider);
    assert_string_equal(a->name.epoch.writer, b->name.epoch.writer);
    assert_true(a->name.epoch.epoch == b->name.epoch.epoch);
    assert_string_equal(a->name.tenant, b->name.tenant);
    assert_string_equal(a->name.meter, b->name.meter);
    assert_string_equal(a->id, b->id);
    assert_string_equal(a->model, b->model);
    assert_true(a->metered == b->metered && a->measure == b->measure && a->quantity == b->quantity);
    assert_true(a->began == b->began && a->ended == b->ended);
}

static struct row_states *open_states(void)
{
    struct row_states *states = row_states_open(scratch_directory, PROVIDER_STRIPE);
    assert_non_null(states);
    return states;
}

static void test_the_moves_are_those_of_the_rules(void **state)
{
    (void) state;
    static const char *const ALLOWED[ROW_STATE_COUNT] = {
        [ROW_PENDING] = ".s...h",   [ROW_SENT] = "psadrh",     [ROW_ACKED] = "......",
        [ROW_DUPLICATE] = "......", [ROW_REJECTED] = "p.a..h", [ROW_HELD] = "p.a...",
    };
    for (int from = 0; from < ROW_STATE_COUNT; from++) {
        for (int to = 0; to < ROW_STATE_COUNT; to++)
            assert_int_equal(row_state_may_move((enum row_state) from, (enum row_state) to), ALLOWED[from][to] != '.');
    }
}

static void test_states_survive_opening_again(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row first = row_number(1), second = row_number(2);
    assert_true(row_states_add(states, &first, ROW_PENDING, 10, ""));
    assert_true(row_states_add(states, &second, ROW_HELD, 11, "tenant \"acme\" has no customer"));
    assert_true(row_states_add(states, &second, ROW_PENDING, 12, "")); /* known: stays held */
    assert_true(row_states_move(states, first.id, ROW_SENT, 20, ""));
    assert_true(row_states_move(states, first.id, ROW_SENT, 30, "timeout"));
    assert_true(row_states_sync(states));
    for (int round = 0; round < 3; round++) {
        row_states_close(&states);
        states = round == 0 ? row_states_read(scratch_directory, PROVIDER_STRIPE) : open_states();
        assert_int_equal(row_states_count(states), 2);
        const struct row_entry *entry = row_states_find(states, first.id);
        assert_same_row(&entry->row, &first);
        assert_int_equal(entry->state, ROW_SENT);
        assert_true(entry->when == 30 && entry->first_sent == 20);
        assert_string_equal(entry->reason, "timeout");
        assert_int_equal(row_states_at(states, 1)->state, ROW_HELD);
        assert_string_equal(row_states_at(states, 1)->reason, "tenant \"acme\" has no customer");
        assert_null(row_states_find(states, "tg1-unknown"));
    }
    row_states_close(&states);
}

/* Other states may have had it: it is as if it had been sent when its epoch ended. */
static void test_a_doubtful_row_may_have_arrived(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row first = row_number(1), second = row_number(2);
    assert_true(row_states_add_doubtful(states, &first, ROW_PENDING, 10, ""));
    assert_true(row_states_add_doubtful(states, &second, ROW_HELD, 11, "no customer"));
    assert_true(row_states_add_doubtful(states, &second, ROW_PENDING, 12, "")); /* known: stays held */
    row_states_close(&states);
    states = open_states();
    const struct row_entry *sent = row_states_at(states, 0), *held = row_states_at(states, 1);
    assert_true(sent->state == ROW_SENT && sent->when == 10 && sent->first_sent == first.ended);
    assert_true(held->state == ROW_HELD && held->when == 11 && held->first_sent == second.ended && !held->undecided);
    assert_string_equal(held->reason, "no customer");
    assert_true(row_states_move(states, second.id, ROW_PENDING, 13, "")); /* released: still in doubt */
    assert_true(row_states_find(states, second.id)->first_sent == second.ended);
    row_states_close(&states);
}

static void test_they_know_until_when_they_were_in_use(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct ledger_name epoch = {.epoch = 7, .writer = "00000000000000000000000000000001"};
    assert_int_equal(row_states_alive(states), 0);
    assert_true(row_states_live(states, 5));
    assert_true(row_states_make_none(states, &epoch));
    assert_true(row_states_live(states, 9));
    for (int round = 0; round < 2; round++) {
        assert_int_equal(row_states_alive(states), 9);
        assert_int_equal(row_states_made(states, epoch.writer), 7);
        row_states_close(&states);
        states = open_states();
    }
    row_states_close(&states);
}

static void test_a_rejected_row_goes_again_as_its_next_revision(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = row_number(1);
    assert_true(row_states_add(states, &row, ROW_PENDING, 1, ""));
    assert_true(row_states_move(states, row.id, ROW_SENT, 2, ""));
    assert_true(row_states_move(states, row.id, ROW_REJECTED, 3, "no such meter"));
    assert_true(row_states_move(states, row.id, ROW_PENDING, 4, ""));
    const struct row_entry *entry = row_states_find(states, row.id);
    assert_int_equal(entry->revision, 1);
    assert_true(entry->first_sent == 0);
    assert_string_equal(entry->reason, "");
    row_states_close(&states);
}

/* How often it is rejected and tried again has an end; not that a person closes it. */
static void test_a_rejected_row_that_is_held_goes_again_as_its_next_revision(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = row_number(1);
    assert_true(row_states_add(states, &row, ROW_PENDING, 1, ""));
    for (unsigned revision = 0; revision < ROW_REVISION_MAX; revision++) {
        assert_true(row_states_mark_sent(states, row.id, 2, "cus_a"));
        assert_true(row_states_move(states, row.id, ROW_REJECTED, 3, "no such customer"));
        assert_int_equal(row_states_find(states, row.id)->revision, revision);
        assert_true(row_states_move(states, row.id, ROW_HELD, 4, "by a person"));
        assert_true(row_states_move(states, row.id, ROW_PENDING, 5, ""));
        const struct row_entry *entry = row_states_find(states, row.id);
        assert_int_equal(entry->revision, revision + 1);
        assert_true(entry->first_sent == 0 && entry->customer[0] == '\0');
    }
    assert_true(row_states_mark_sent(states, row.id, 6, "cus_a"));
    assert_true(row_states_move(states, row.id, ROW_REJECTED, 7, ""));
    assert_false(row_states_move(states, row.id, ROW_HELD, 8, ""));
    assert_int_equal(errno, EOVERFLOW);
    assert_true(row_states_move(states, row.id, ROW_ACKED, 9, ""));
    assert_int_equal(row_states_find(states, row.id)->revision, ROW_REVISION_MAX);
    row_states_close(&states);
}

/* What nobody but a person says, whether it was sent or not; for whom it went is still known. */
static void test_what_a_person_says_is_by_hand(void **state)
{
    (void) state;
    enum { NEVER_SENT, REJECTED, HELD, UNDECIDED, SENT, COUNT };
    struct row_states *states = open_states();
    struct row rows[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        rows[i] = row_number(i);
        assert_true(row_states_add(states, &rows[i], i == NEVER_SENT ? ROW_HELD : ROW_PENDING, 1, ""));
        if (i != NEVER_SENT)
            assert_true(row_states_mark_sent(states, rows[i].id, 2, "cus_a"));
    }
    assert_true(row_states_move(states, rows[REJECTED].id, ROW_REJECTED, 3, "no such customer"));
    assert_true(row_states_move(states, rows[HELD].id, ROW_HELD, 3, "by a person; it may have arrived"));
    assert_true(row_states_hold_undecided(states, rows[UNDECIDED].id, 3, "unclear"));
    for (unsigned i = 0; i < COUNT; i++) {
        assert_false(row_entry_is_by_hand(row_states_find(states, rows[i].id)));
        assert_true(row_states_move(states, rows[i].id, ROW_ACKED, 4, ""));
    }
    for (unsigned i = 0; i < COUNT; i++) {
        const struct row_entry *entry = row_states_find(states, rows[i].id);
        assert_int_equal(row_entry_is_by_hand(entry), i != SENT);
        assert_string_equal(entry->customer, i == NEVER_SENT || i == REJECTED ? "" : "cus_a");
        assert_false(entry->undecided);
    }
    row_states_close(&states);
}

/* While it may have arrived, a row keeps for whom it went; a person decides what the provider cannot tell. */
static void test_what_may_have_arrived_is_kept(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = row_number(1);
    const struct row_entry *entry;
    assert_true(row_states_add(states, &row, ROW_PENDING, 1, ""));
    assert_true(row_states_moves(states) == 0);
    assert_true(row_states_mark_sent(states, row.id, 2, "cus_\"a\""));
    assert_true(row_states_mark_sent(states, row.id, 3, "cus_b"));
    row_states_close(&states);
    states = open_states();
    entry = row_states_find(states, row.id);
    assert_true(entry->state == ROW_SENT && entry->first_sent == 2 && entry->when == 3);
    assert_string_equal(entry->customer, "cus_\"a\"");
    assert_true(row_states_move(states, row.id, ROW_HELD, 4, "by a person"));
    assert_true(row_states_move(states, row.id, ROW_PENDING, 5, ""));
    assert_true(row_states_find(states, row.id)->first_sent == 2);
    assert_true(row_states_mark_sent(states, row.id, 6, "cus_b"));
    assert_true(row_states_hold_undecided(states, row.id, 7, "unclear"));
    assert_true(row_states_moves(states) == 4);
    row_states_close(&states);
    states = open_states();
    entry = row_states_find(states, row.id);
    assert_true(entry->undecided && entry->state == ROW_HELD && entry->first_sent == 2);
    assert_true(row_states_move(states, row.id, ROW_PENDING, 8, ""));
    entry = row_states_find(states, row.id);
    assert_true(!entry->undecided && entry->first_sent == 0 && entry->customer[0] == '\0');
    assert_true(row_states_mark_sent(states, row.id, 9, "cus_c"));
    assert_true(row_states_move(states, row.id, ROW_PENDING, 10, "surely not taken"));
    assert_true(entry->first_sent == 0 && entry->customer[0] == '\0');
    row_states_close(&states);
}

static void test_a_held_row_gets_its_meter_for_ever(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = row_number(1);
    row.metered = false;
    assert_true(row_states_add(states, &row, ROW_HELD, 1, "no meter"));
    assert_string_equal(row_event_name(&row_states_find(states, row.id)->row), "a \"meter\"");
    assert_true(row_states_give_meter(states, row.id, 2, "tokens \"out\""));
    for (int round = 0; round < 2; round++) {
        const struct row_entry *entry = row_states_find(states, row.id);
        assert_int_equal(entry->state, ROW_HELD);
        assert_string_equal(entry->row.name.meter, row.name.meter);
        assert_string_equal(row_event_name(&entry->row), "tokens \"out\"");
        assert_true(entry->row.metered);
        row_states_close(&states);
        states = open_states();
    }
    row_states_close(&states);
}

static size_t read_whole(char *to, size_t capacity)
{
    FILE *file = fopen(scratch_path("stripe.states"), "r");
    size_t length = fread(to, 1, capacity, file);
    fclose(file);
    return length;
}

static void write_bytes(const char *bytes, size_t count)
{
    FILE *file = fopen(scratch_path("stripe.states"), "w");
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

/* Reasons come from elsewhere: bytes that are no text, and a cut in the middle of a character. */
static void test_any_reason_can_be_kept(void **state)
{
    (void) state;
    char noise[2 * ROW_REASON_BYTES_MAX], controls[2 * ROW_REASON_BYTES_MAX];
    memset(noise, 0xff, sizeof noise - 1);
    memset(controls, 1, sizeof controls - 1);
    noise[sizeof noise - 1] = controls[sizeof controls - 1] = '\0';
    struct row_states *states = open_states();
    struct row first = row_number(1), second = row_number(2);
    assert_true(row_states_add(states, &first, ROW_HELD, 1, noise));
    assert_true(row_states_add(states, &second, ROW_HELD, 1, controls));
    for (int round = 0; round < 3; round++) {
        row_states_close(&states);
        states = open_states();
        assert_int_equal(row_states_count(states), 2);
        assert_true(strlen(row_states_find(states, first.id)->reason) > ROW_REASON_BYTES_MAX - 4);
        assert_int_equal(strlen(row_states_find(states, second.id)->reason), ROW_REASON_BYTES_MAX);
    }
    row_states_close(&states);
}

/* A crash at any byte of the last line leaves the state before it; damage anywhere else is told. */
static void test_a_torn_tail_is_cut_and_damage_is_told(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = row_number(1);
    char bytes[4096];
    assert_true(row_states_add(states, &row, ROW_PENDING, 1, ""));
    size_t before = read_whole(bytes, sizeof bytes);
    assert_true(row_states_move(states, row.id, ROW_SENT, 2, ""));
    row_states_close(&states);
    size_t whole = read_whole(bytes, sizeof bytes);
    for (size_t length = before; length <= whole; length++) {
        write_bytes(bytes, length);
        states = open_states();
        enum row_state expected = length == whole ? ROW_SENT : ROW_PENDING;
        assert_int_equal(row_states_find(states, row.id)->state, expected);
        row_states_close(&states);
    }
    for (size_t at = 0; at < before; at += 7) {
        bytes[at] ^= 4;
        write_bytes(bytes, whole);
        assert_null(row_states_open(scratch_directory, PROVIDER_STRIPE));
        assert_int_equal(errno, EBADMSG);
        bytes[at] ^= 4;
    }
}

static void test_a_full_disk_changes_nothing(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = row_number(1);
    char bytes[4096];
    assert_true(row_states_add(states, &row, ROW_PENDING, 1, ""));
    size_t length = read_whole(bytes, sizeof bytes);
    full_disk_at(length + 10);
    bool moved = row_states_move(states, row.id, ROW_SENT, 2, "");
    int error = errno;
    full_disk_end();
    assert_false(moved);
    assert_int_equal(error, EFBIG);
    assert_int_equal(row_states_find(states, row.id)->state, ROW_PENDING);
    assert_int_equal(read_whole(bytes, sizeof bytes), length);
    assert_true(row_states_move(states, row.id, ROW_SENT, 3, ""));
    row_states_close(&states);
    states = open_states();
    assert_int_equal(row_states_find(states, row.id)->state, ROW_SENT);
    row_states_close(&states);
}

static void test_many_rows_are_found(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    for (unsigned number = 0; number < 1000; number++) {
        struct row row = row_number(number);
        assert_true(row_states_add(states, &row, ROW_PENDING, 1, ""));
    }
    row_states_close(&states);
    states = open_states();
    assert_int_equal(row_states_count(states), 1000);
    for (unsigned number = 0; number < 1000; number++) {
        struct row row = row_number(number);
        assert_same_row(&row_states_find(states, row.id)->row, &row);
    }
    row_states_close(&states);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_moves_are_those_of_the_rules),
        cmocka_unit_test_setup_teardown(test_states_survive_opening_again, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_a_doubtful_row_may_have_arrived, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_they_know_until_when_they_were_in_use, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_a_rejected_row_goes_again_as_its_next_revision, scratch_create,
                                        scratch_destroy),
        cmocka_unit_test_setup_teardown(test_a_rejected_row_that_is_held_goes_again_as_its_next_revision,
                                        scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_what_a_person_says_is_by_hand, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_what_may_have_arrived_is_kept, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_a_held_row_gets_its_meter_for_ever, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_any_reason_can_be_kept, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_a_torn_tail_is_cut_and_damage_is_told, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_a_full_disk_changes_nothing, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_many_rows_are_found, scratch_create, scratch_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
