/* billing/outbox: each epoch of the ledger makes its rows once, whole, in order, from the time the provider is there.
 */
#include "tests/lib/full_disk.h"
#include "tests/unit/billing/outbox_room.h"

static size_t rows_after(const struct policy *now)
{
    return rows_at(now, 5000);
}

/* ---- which epochs ---- */

static void each_epoch_makes_its_rows_once(void **state)
{
    (void) state;
    seal_quietly(WRITER_A, 1, 1000);
    assert_int_equal(rows_after(policy), 4);
    seal(WRITER_A, 1, 1000);
    seal(WRITER_A, 2, 2000);
    seal(WRITER_B, 1, 1500);
    assert_int_equal(rows_after(policy), 12);
    again();
    assert_int_equal(rows_after(policy), 12);
    seal(WRITER_A, 1, 1000);
    assert_int_equal(rows_after(policy), 12);
    assert_string_equal(outbox_trouble(outbox), "");
}

/* Whatever the configuration says meanwhile, an epoch that has rows makes no others. */
static void another_configuration_changes_nothing(void **state)
{
    (void) state;
    seal_quietly(WRITER_A, 1, 1000);
    assert_int_equal(rows_after(policy), 4);
    again();
    assert_int_equal(rows_after(later), 4);
    seal(WRITER_A, 2, 2000);
    assert_int_equal(rows_after(later), 8);
    assert_string_equal(row_states_at(outbox_states(outbox), 4)->row.name.meter, "other");
}

/* Nor after a start. */
static void a_new_meter_makes_no_rows_of_what_was(void **state)
{
    (void) state;
    const struct policy *other = load_stripe(TENANTS, "{ event_name: requests, measure: requests }");
    seal_quietly(WRITER_A, 1, 1000);
    assert_int_equal(rows_after(other), 0);
    assert_int_equal(rows_after(policy), 0);
    again();
    assert_int_equal(rows_after(policy), 0);
    seal(WRITER_A, 2, 1001);
    assert_int_equal(rows_after(policy), 4);
    policy_drop(&other);
}

static void what_ended_before_the_provider_makes_none(void **state)
{
    (void) state;
    seal_quietly(WRITER_A, 1, 999);
    seal_quietly(WRITER_A, 2, 1000);
    assert_int_equal(rows_after(policy), 4);
    assert_int_equal(row_states_at(outbox_states(outbox), 0)->row.name.epoch.epoch, 2);
}

static void the_first_policy_that_names_it_is_remembered(void **state)
{
    (void) state;
    wall_ms since = 0;
    assert_int_equal(unlink(scratch_path("billing/stripe.since")), 0);
    seal_quietly(WRITER_A, 1, policy->loaded_wall_ms - 1);
    assert_int_equal(rows_after(without), 0);
    assert_false(outbox_since(scratch_path("billing"), PROVIDER_STRIPE, &since));
    assert_int_equal(errno, ENOENT);
    assert_int_equal(rows_after(policy), 0);
    assert_true(outbox_since(scratch_path("billing"), PROVIDER_STRIPE, &since));
    assert_int_equal(since, policy->loaded_wall_ms);
    seal(WRITER_A, 2, since);
    assert_int_equal(rows_after(policy), 4);
    /* What ended while it was not named is made when it is again. */
    assert_int_equal(rows_after(without), 4);
    seal(WRITER_A, 3, since + 1);
    assert_int_equal(rows_after(without), 4);
    assert_false(outbox_is_active(outbox));
    again();
    assert_int_equal(rows_after(later), 8);
    assert_true(outbox_since(scratch_path("billing"), PROVIDER_STRIPE, &since));
    assert_int_equal(since, policy->loaded_wall_ms);
}

static void a_damaged_since_is_said(void **state)
{
    (void) state;
    wall_ms since;
    static const char *const damaged[] = {"", "17", "x\n", "-1\n", "12 \n"};
    seal_quietly(WRITER_A, 1, 2000);
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        scratch_write("billing/stripe.since", damaged[i]);
        assert_false(outbox_since(scratch_path("billing"), PROVIDER_STRIPE, &since));
        assert_int_equal(rows_after(policy), 0);
        assert_non_null(strstr(outbox_trouble(outbox), ".since in state_dir: it is damaged"));
    }
    write_since(1000);
    assert_int_equal(rows_after(policy), 4);
    assert_string_equal(outbox_trouble(outbox), "");
}

/* The clock was wrong when the provider came: nothing passes by until a person has put it right. */
static void a_since_that_is_ahead_is_said(void **state)
{
    (void) state;
    seal_quietly(WRITER_A, 1, 2000);
    write_since(clock_wall_ms() + 24 * 3600 * 1000);
    assert_int_equal(rows_after(policy), 0);
    assert_int_equal(outbox_first_waiting(outbox, WRITER_A), 1);
    assert_non_null(strstr(outbox_trouble(outbox), "billing/stripe.since in state_dir: it is ahead of the clock"));
    write_since(1000);
    assert_int_equal(rows_after(policy), 4);
    assert_string_equal(outbox_trouble(outbox), "");
}

/* Everything in the ledger would be made once more, and what the provider has forgotten be taken twice. */
static void states_that_are_gone_are_said(void **state)
{
    char error[OUTBOX_TROUBLE_BYTES] = "", billing[SCRATCH_PATH_BYTES], ledger[SCRATCH_PATH_BYTES];
    (void) state;
    seal_quietly(WRITER_A, 1, 2000);
    assert_int_equal(rows_after(policy), 4);
    outbox_close(&outbox);
    assert_int_equal(unlink(scratch_path("billing/stripe.states")), 0);
    snprintf(billing, sizeof billing, "%.200s/billing", scratch_directory);
    snprintf(ledger, sizeof ledger, "%.200s/ledger", scratch_directory);
    struct outbox_options options = {billing, ledger, "00112233445566778899aabbccddeeff", PROVIDER_STRIPE};
    assert_null(outbox_open(&options, error));
    assert_non_null(strstr(error, "stripe.states in state_dir is gone: restore it"));
    assert_non_null(strstr(error, "remove billing/stripe.since too"));
    assert_int_equal(unlink(scratch_path("billing/stripe.since")), 0);
    open_outbox();
    assert_int_equal(rows_after(policy), 0); /* it begins with what comes now */
}

/* ---- order ---- */

/* The last epoch with rows says which have them: none overtakes one of its writer. */
static void epochs_of_a_writer_go_in_order(void **state)
{
    (void) state;
    shipped[0] = 1;
    shipped[1] = 0;
    assert_int_equal(rows_after(policy), 0);
    for (uint64_t i = 1; i <= 3; i++) {
        seal(WRITER_A, i, 1000 + (wall_ms) i);
        seal(WRITER_B, i, 1000 + (wall_ms) i);
    }
    assert_int_equal(rows_after(policy), 4);
    assert_int_equal(outbox_first_waiting(outbox, WRITER_A), 2);
    assert_int_equal(outbox_first_waiting(outbox, WRITER_B), 1);
    assert_int_equal(outbox_first_waiting(outbox, "none"), 0);
    assert_int_equal(outbox_oldest_waiting(outbox), 1000);
    shipped[1] = 3;
    assert_int_equal(rows_after(policy), 16);
    assert_int_equal(outbox_first_waiting(outbox, WRITER_B), 0);
    again();
    shipped[0] = 3;
    assert_int_equal(rows_after(policy), 24);
    assert_int_equal(outbox_oldest_waiting(outbox), 0);
}

/* The rows of an hour are all there before those of a later one. */
static void the_oldest_epoch_of_all_writers_goes_first(void **state)
{
    (void) state;
    static const char *const writers[] = {WRITER_A, WRITER_B, WRITER_B, WRITER_A};
    seal_quietly(WRITER_A, 1, 1000);
    seal_quietly(WRITER_A, 2, 4000);
    seal_quietly(WRITER_B, 1, 2000);
    seal_quietly(WRITER_B, 2, 3000);
    assert_int_equal(rows_after(policy), 16);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(row_states_at(outbox_states(outbox), i * 4)->row.name.epoch.writer, writers[i]);
}

static void a_damaged_ledger_file_stops_its_writer_only(void **state)
{
    (void) state;
    char path[SCRATCH_PATH_BYTES];
    seal_quietly(WRITER_A, 1, 1000);
    seal_quietly(WRITER_A, 2, 1001);
    seal_quietly(WRITER_B, 1, 1000);
    snprintf(path, sizeof path, "%s", scratch_path("ledger/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00000001.jsonl"));
    assert_int_equal(truncate(path, 200), 0);
    assert_int_equal(rows_after(policy), 4);
    assert_non_null(strstr(outbox_trouble(outbox), "-00000001.jsonl: it is damaged: restore it"));
    assert_string_equal(row_states_at(outbox_states(outbox), 0)->row.name.epoch.writer, WRITER_B);
    assert_int_equal(outbox_first_waiting(outbox, WRITER_A), 1);
}

/* Restored, or made again from the journal. */
static void a_ledger_file_that_is_gone_is_waited_for(void **state)
{
    (void) state;
    seal_quietly(WRITER_A, 1, 1000);
    seal_quietly(WRITER_A, 2, 1001);
    shipped[0] = 0;
    assert_int_equal(rows_after(policy), 0);
    assert_int_equal(unlink(scratch_path("ledger/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00000001.jsonl")), 0);
    shipped[0] = 2;
    assert_int_equal(rows_after(policy), 0);
    assert_non_null(strstr(outbox_trouble(outbox), "-00000001.jsonl: it is gone: restore it"));
    again();
    shipped[0] = 0;
    assert_int_equal(rows_after(policy), 0);
    seal(WRITER_A, 1, 1000); /* told behind the second */
    shipped[0] = 2;
    assert_int_equal(rows_after(policy), 8);
    assert_int_equal(row_states_at(outbox_states(outbox), 0)->row.name.epoch.epoch, 1);
    assert_string_equal(outbox_trouble(outbox), "");
}

static void time_that_runs_out_is_told(void **state)
{
    (void) state;
    struct outbox_turn turn = {policy, may_go, NULL, 5000, 0, true};
    seal_quietly(WRITER_A, 1, 1000);
    outbox_follow(outbox, policy);
    assert_true(outbox_turn(outbox, &turn));
    assert_int_equal(row_states_count(outbox_states(outbox)), 0);
}

/* ---- whole or not at all ---- */

/* As the gateway leaves it when it dies after @count of the epoch's rows. */
static void die_after(size_t count)
{
    struct row_states *states = outbox_states(outbox);
    struct row_states *adding;
    struct row rows[4];
    assert_int_equal(row_states_count(states), 4);
    for (size_t i = 0; i < 4; i++)
        rows[i] = row_states_at(states, i)->row;
    outbox_close(&outbox);
    assert_int_equal(unlink(scratch_path("billing/stripe.states")), 0);
    (void) mkdir(scratch_path("billing/adding"), 0700);
    adding = row_states_open(scratch_path("billing/adding"), PROVIDER_STRIPE);
    states = row_states_open(scratch_path("billing"), PROVIDER_STRIPE);
    for (size_t i = 0; i < 4; i++) {
        assert_true(row_states_add(adding, &rows[i], ROW_HELD, 77, "because"));
        assert_true(i >= count || row_states_add(states, &rows[i], ROW_HELD, 77, "because"));
    }
    row_states_close(&adding);
    row_states_close(&states);
}

/* Also when the configuration is another one when it starts again. */
static void an_epoch_that_was_being_added_is_made_whole(void **state)
{
    (void) state;
    for (size_t count = 0; count <= 4; count++) {
        assert_int_equal(truncate(scratch_path("billing/stripe.states"), 0), 0);
        again();
        seal_quietly(WRITER_A, 1, 1000);
        assert_int_equal(rows_after(policy), 4);
        die_after(count);
        open_outbox();
        assert_int_equal(rows_after(later), 4);
        assert_string_equal(row_states_at(outbox_states(outbox), 0)->row.name.meter, "in");
        assert_int_equal(row_states_at(outbox_states(outbox), 3)->when, 77);
        assert_int_equal(access(scratch_path("billing/adding/stripe.states"), F_OK), -1);
        outbox_close(&outbox);
        open_outbox();
        assert_int_equal(rows_after(later), 4);
    }
}

static void rows_that_cannot_be_written_come_later(void **state)
{
    (void) state;
    seal_quietly(WRITER_A, 1, 1000);
    scratch_write("billing/making", "a file where a directory should be");
    assert_int_equal(rows_after(policy), 0);
    assert_non_null(strstr(outbox_trouble(outbox), "epoch 1"));
    assert_int_equal(unlink(scratch_path("billing/making")), 0);
    again();
    assert_int_equal(rows_after(policy), 4);
}

/* The disk is full after the second of four rows; until it has room again somebody changes the configuration. */
static void rows_that_were_begun_are_finished_as_they_were(void **state)
{
    (void) state;
    struct stat status;
    for (uint64_t i = 1; i <= 3; i++)
        seal_quietly(WRITER_A, i, 1000 + (wall_ms) i);
    assert_int_equal(rows_after(policy), 12);
    assert_int_equal(stat(scratch_path("billing/stripe.states"), &status), 0);
    off_t line = status.st_size / 12;
    seal(WRITER_A, 4, 2000);
    full_disk_at((rlim_t) (status.st_size + line * 5 / 2));
    assert_int_equal(rows_after(policy), 14);
    assert_int_equal(rows_after(later), 14);
    assert_string_not_equal(outbox_trouble(outbox), "");
    full_disk_end();
    usleep(1100 * 1000); /* its back-off */
    seal(WRITER_A, 5, 3000);
    assert_int_equal(rows_after(later), 20);
    assert_string_equal(outbox_trouble(outbox), "");
    for (size_t i = 12; i < 16; i++)
        assert_string_not_equal(row_states_at(outbox_states(outbox), i)->row.name.meter, "other");
    again();
    assert_int_equal(rows_after(later), 20);
}

/* ---- what went ---- */

static void deliver_all(struct row_states *states)
{
    for (size_t i = 0; i < row_states_count(states); i++) {
        char id[ROW_ID_CHARACTERS + 1];
        memcpy(id, row_states_at(states, i)->row.id, sizeof id);
        if (row_states_at(states, i)->state == ROW_HELD)
            assert_true(row_states_move(states, id, ROW_ACKED, 6000, ""));
    }
}

/* Rows that left memory are not made again: after a start, with another configuration, or told by a harvest. */
static void what_went_is_not_made_again(void **state)
{
    (void) state;
    const wall_ms far = (wall_ms) 1000 * ROW_KEPT_MS;
    for (uint64_t i = 1; i <= ROW_TIDY_MIN / 4 + 1; i++)
        seal_quietly(WRITER_A, i, 2000);
    seal_quietly(WRITER_B, 1, 999); /* makes none */
    assert_int_equal(rows_after(policy), ROW_TIDY_MIN + 4);
    deliver_all(outbox_states(outbox));
    assert_true(outbox_tidy(outbox, far));
    assert_int_equal(rows_after(policy), 0);
    again();
    assert_int_equal(row_states_made(outbox_states(outbox), WRITER_B), 1);
    assert_int_equal(rows_after(later), 0);
    seal(WRITER_A, 1, 2000);
    seal(WRITER_A, ROW_TIDY_MIN / 4 + 1, 2000);
    assert_int_equal(rows_after(later), 0);
    seal(WRITER_A, ROW_TIDY_MIN / 4 + 2, 2000);
    seal(WRITER_B, 2, 2000);
    assert_int_equal(rows_after(policy), 8);
}

/* While the rest of an epoch's rows cannot be written, those that are there do not go: they would be made again. */
static void what_is_being_added_does_not_go(void **state)
{
    (void) state;
    struct stat status;
    const wall_ms far = (wall_ms) 1000 * ROW_KEPT_MS;
    for (uint64_t i = 1; i <= ROW_TIDY_MIN / 4; i++)
        seal_quietly(WRITER_A, i, 2000);
    assert_int_equal(rows_after(policy), ROW_TIDY_MIN);
    deliver_all(outbox_states(outbox));
    assert_int_equal(stat(scratch_path("billing/stripe.states"), &status), 0);
    seal(WRITER_A, 5000, 2000);
    full_disk_at((rlim_t) status.st_size + 1000);
    size_t count = rows_after(policy);
    full_disk_end();
    assert_in_range(count, ROW_TIDY_MIN + 1, ROW_TIDY_MIN + 3);
    deliver_all(outbox_states(outbox));
    assert_true(outbox_tidy(outbox, far));
    assert_int_equal(row_states_count(outbox_states(outbox)), count);
    usleep(1100 * 1000); /* its back-off */
    assert_int_equal(rows_after(policy), ROW_TIDY_MIN + 4);
    assert_true(outbox_tidy(outbox, far));
    assert_int_equal(row_states_count(outbox_states(outbox)), ROW_TIDY_MIN + 4 - count);
}

/* What a provider does not take waits in the ledger. */
static void rows_that_are_due_are_bounded(void **state)
{
    (void) state;
    struct row row = {.name = {.provider = PROVIDER_STRIPE, .epoch = name_of(WRITER_B, 1), .tenant = "t"},
                      .quantity = 1};
    struct row_states *states = outbox_states(outbox);
    for (int i = 0; i < OUTBOX_DUE_MAX; i++) {
        snprintf(row.id, sizeof row.id, "row-%d", i);
        assert_true(row_states_add(states, &row, ROW_PENDING, 1, ""));
    }
    seal_quietly(WRITER_A, 1, 2000);
    assert_int_equal(rows_after(policy), OUTBOX_DUE_MAX);
    assert_int_equal(outbox_first_waiting(outbox, WRITER_A), 1);
    assert_int_equal(outbox_oldest_waiting(outbox), 1999);
    assert_true(row_states_mark_sent(states, row.id, 2, "cus_a"));
    assert_int_equal(rows_after(policy), OUTBOX_DUE_MAX);
    assert_true(row_states_move(states, row.id, ROW_ACKED, 2, ""));
    assert_int_equal(rows_after(policy), OUTBOX_DUE_MAX + 4);
}

/* ---- what holds a row ---- */

static void rows_without_a_customer_are_held(void **state)
{
    (void) state;
    seal_quietly(WRITER_A, 1, 1000);
    assert_int_equal(rows_after(policy), 4);
    for (size_t i = 0; i < 4; i++) {
        const struct row_entry *entry = row_states_at(outbox_states(outbox), i);
        assert_int_equal(entry->state, ROW_HELD);
        assert_non_null(strstr(entry->reason, "has no customer"));
        assert_int_equal(entry->when, 5000);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_epoch_makes_its_rows_once),
        TEST(another_configuration_changes_nothing),
        TEST(what_ended_before_the_provider_makes_none),
        TEST(the_first_policy_that_names_it_is_remembered),
        TEST(a_damaged_since_is_said),
        TEST(a_since_that_is_ahead_is_said),
        TEST(a_new_meter_makes_no_rows_of_what_was),
        TEST(states_that_are_gone_are_said),
        TEST(epochs_of_a_writer_go_in_order),
        TEST(the_oldest_epoch_of_all_writers_goes_first),
        TEST(a_damaged_ledger_file_stops_its_writer_only),
        TEST(a_ledger_file_that_is_gone_is_waited_for),
        TEST(time_that_runs_out_is_told),
        TEST(an_epoch_that_was_being_added_is_made_whole),
        TEST(rows_that_cannot_be_written_come_later),
        TEST(rows_that_were_begun_are_finished_as_they_were),
        TEST(what_went_is_not_made_again),
        TEST(what_is_being_added_does_not_go),
        TEST(rows_that_are_due_are_bounded),
        TEST(rows_without_a_customer_are_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
