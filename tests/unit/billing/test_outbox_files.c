/* What billing/outbox.h says of files, to whoever reads them: what is gone, what has no rows yet. */
#include "tests/unit/billing/outbox_room.h"

static char billing[SCRATCH_PATH_BYTES], ledger[SCRATCH_PATH_BYTES];

static int set_up_files(void **state)
{
    if (set_up(state) != 0)
        return -1;
    snprintf(billing, sizeof billing, "%.200s/billing", scratch_directory);
    snprintf(ledger, sizeof ledger, "%.200s/ledger", scratch_directory);
    return 0;
}

static void states_are_gone_where_they_were(void **state)
{
    char error[OUTBOX_TROUBLE_BYTES] = "";
    (void) state;
    assert_false(outbox_are_states_gone(billing, PROVIDER_STRIPE, error));
    assert_int_equal(unlink(scratch_path("billing/stripe.states")), 0);
    assert_true(outbox_are_states_gone(billing, PROVIDER_STRIPE, error));
    assert_non_null(strstr(error, "billing/stripe.states in state_dir is gone: restore it"));
    scratch_write("billing/stripe.since", "damaged"); /* it was there all the same */
    assert_true(outbox_are_states_gone(billing, PROVIDER_STRIPE, error));
    assert_int_equal(unlink(scratch_path("billing/stripe.since")), 0);
    assert_false(outbox_are_states_gone(billing, PROVIDER_STRIPE, error));
    scratch_write("billing/file.since", "1000\n");
    assert_false(outbox_are_states_gone(billing, PROVIDER_FILE, error)); /* its names are for ever */
}

static void a_directory_is_gone_where_there_is_a_ledger(void **state)
{
    char moved[SCRATCH_PATH_BYTES];
    (void) state;
    snprintf(moved, sizeof moved, "%.200s/moved", scratch_directory);
    assert_int_equal(rename(billing, moved), 0);
    assert_false(outbox_is_directory_gone(billing, ledger));
    seal_quietly(WRITER_A, 1, 2000);
    assert_true(outbox_is_directory_gone(billing, ledger));
    assert_false(outbox_is_directory_gone(billing, moved));
    assert_int_equal(rename(moved, billing), 0);
    assert_false(outbox_is_directory_gone(billing, ledger));
}

static size_t to_come(void)
{
    struct outbox_options options = {billing, ledger, "", PROVIDER_STRIPE};
    size_t count = 99;
    assert_true(outbox_count_to_come(&options, outbox_states(outbox), &count));
    return count;
}

static void epochs_without_rows_are_counted(void **state)
{
    (void) state;
    assert_int_equal(to_come(), 0);
    seal_quietly(WRITER_A, 1, 999); /* before the provider came */
    assert_int_equal(to_come(), 0);
    seal_quietly(WRITER_A, 2, 1000);
    seal_quietly(WRITER_B, 1, 2000);
    assert_int_equal(to_come(), 2);
    assert_true(rows_at(policy, clock_wall_ms()) > 0);
    assert_int_equal(to_come(), 0);
    again();
    assert_int_equal(to_come(), 0);
    seal(WRITER_B, 2, 3000);
    char damaged[SCRATCH_PATH_BYTES];
    snprintf(damaged, sizeof damaged, "ledger/%s-00000003.jsonl", WRITER_B);
    scratch_write(damaged, "x\n"); /* its rows come when it is put back */
    assert_int_equal(to_come(), 2);
    assert_int_equal(unlink(scratch_path("billing/stripe.since")), 0);
    assert_int_equal(to_come(), 0); /* the provider is new: it begins with what comes now */
}

static size_t count_lines(const char *content, const char *what)
{
    size_t count = 0;
    for (const char *found = strstr(content, what); found != NULL; found = strstr(found + 1, what))
        count++;
    return count;
}

static void rows_that_are_held_are_said_once_a_reason(void **state)
{
    char content[8192] = "";
    (void) state;
    int saved = dup(STDERR_FILENO);
    FILE *log = tmpfile();
    assert_true(saved >= 0 && log != NULL);
    log_configure(LOG_FORMAT_TEXT, LOG_WARNING);
    seal_quietly(WRITER_A, 1, clock_wall_ms());
    assert_int_equal(dup2(fileno(log), STDERR_FILENO), STDERR_FILENO);
    size_t rows = rows_at(policy, clock_wall_ms()); /* neither tenant has a customer */
    assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
    close(saved);
    log_configure(LOG_FORMAT_TEXT, LOG_ERROR);
    rewind(log);
    content[fread(content, 1, sizeof content - 1, log)] = '\0';
    fclose(log);
    assert_int_equal(rows, 4);
    assert_int_equal(count_lines(content, "are held"), 2);
    assert_non_null(strstr(content, "stripe: 2 rows of epoch 1 of writer aaaa"));
    assert_non_null(strstr(content, "are held: the tenant t has no customer"));
    assert_non_null(strstr(content, "are held: the tenant u has no customer"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_files, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(states_are_gone_where_they_were),
        TEST(a_directory_is_gone_where_there_is_a_ledger),
        TEST(epochs_without_rows_are_counted),
        TEST(rows_that_are_held_are_said_once_a_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
