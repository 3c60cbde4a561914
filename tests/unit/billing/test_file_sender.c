/* billing/file_sender: one file an epoch with all that was taken, also when a person held a row back meanwhile. */
#include "billing/file_sender.h"

#include "billing/provider.h"
#include "tests/lib/full_disk.h"
#include "tests/unit/conf/scratch_policy.h"

static struct row_states *states;
static struct file_sender *sender;
static const struct policy *policy, *without;

static const struct policy *load(const char *billing)
{
    char yaml[1024];
    snprintf(yaml, sizeof yaml, "models: { m: { engines: [ { url: 'http://127.0.0.1:8000' } ] } }\n%s", billing);
    return scratch_policy_good(yaml);
}

static int set_up(void **state)
{
    if (scratch_create(state) != 0)
        return -1;
    policy = load("billing: { providers: [ { file: { dir: out } } ] }\n");
    without = load("");
    states = row_states_open(scratch_directory, PROVIDER_FILE);
    sender = file_sender_create(states);
    return states != NULL && sender != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    file_sender_destroy(&sender);
    row_states_close(&states);
    policy_drop(&policy);
    policy_drop(&without);
    return scratch_destroy(state);
}

static void add(uint64_t epoch, unsigned number)
{
    struct row row = {.name = {.provider = PROVIDER_FILE,
                               .epoch = {"0123456789abcdef0123456789abcdef", epoch},
                               .tenant = "acme",
                               .meter = "requests/m"},
                      .model = "m",
                      .measure = MEASURE_REQUESTS,
                      .quantity = number,
                      .began = 1000,
                      .ended = 2000};
    snprintf(row.id, sizeof row.id, "row-%u", number);
    assert_true(row_states_add(states, &row, ROW_PENDING, 5, ""));
}

/* The numbers of the rows in the file of @epoch, one digit each; "none" when there is no such file. */
static const char *content(unsigned epoch)
{
    static char numbers[64];
    char name[128], line[1024];
    size_t count = 0;
    snprintf(name, sizeof name, "out/usage-0123456789abcdef0123456789abcdef-%08u.jsonl", epoch);
    FILE *file = fopen(scratch_path(name), "r");
    if (file == NULL)
        return "none";
    while (fgets(line, sizeof line, file) != NULL) {
        const char *id = strstr(line, "row-");
        assert_non_null(id);
        numbers[count++] = id[4];
    }
    fclose(file);
    numbers[count] = '\0';
    return numbers;
}

static enum row_state state_of(const char *id)
{
    return row_states_find(states, id)->state;
}

static void an_epoch_is_a_file(void **state)
{
    (void) state;
    add(1, 1);
    add(1, 2);
    add(2, 3);
    assert_false(file_sender_turn(sender, policy, INT64_MAX));
    assert_string_equal(content(1), "12");
    assert_string_equal(content(2), "3");
    assert_int_equal(state_of("row-1"), ROW_ACKED);
    assert_int_equal(state_of("row-3"), ROW_ACKED);
    assert_int_equal(row_states_find(states, "row-1")->row.quantity, 1);
    add(3, 4);
    assert_false(file_sender_turn(sender, policy, INT64_MAX));
    assert_string_equal(content(3), "4");
}

/* It died between the file and the states: the same file once more. */
static void what_was_sent_is_sent_again(void **state)
{
    (void) state;
    add(1, 1);
    add(1, 2);
    assert_true(row_states_move(states, "row-1", ROW_SENT, 6, ""));
    assert_false(file_sender_turn(sender, policy, INT64_MAX));
    assert_string_equal(content(1), "12");
    assert_int_equal(state_of("row-1"), ROW_ACKED);
}

static void a_row_that_was_held_comes_into_its_file(void **state)
{
    (void) state;
    add(1, 1);
    add(1, 2);
    add(1, 3);
    add(2, 4);
    assert_true(row_states_move(states, "row-2", ROW_HELD, 6, "wait"));
    assert_false(file_sender_turn(sender, policy, INT64_MAX));
    assert_string_equal(content(1), "13");
    assert_int_equal(state_of("row-2"), ROW_HELD);
    assert_true(row_states_move(states, "row-2", ROW_PENDING, 7, ""));
    file_sender_look_again(sender);
    assert_false(file_sender_turn(sender, policy, INT64_MAX));
    assert_string_equal(content(1), "123");
    assert_int_equal(state_of("row-2"), ROW_ACKED);
}

static void nothing_goes_when_it_is_not_named_or_time_is_up(void **state)
{
    (void) state;
    add(1, 1);
    assert_false(file_sender_turn(sender, without, INT64_MAX));
    assert_true(file_sender_turn(sender, policy, 0));
    assert_string_equal(content(1), "none");
    assert_int_equal(state_of("row-1"), ROW_PENDING);
}

/* What may be in the file never looks as if it were not. */
static void a_full_disk_is_tried_again(void **state)
{
    (void) state;
    add(1, 1);
    scratch_write("out", "a file where a directory should be");
    assert_false(file_sender_turn(sender, policy, INT64_MAX));
    assert_int_equal(state_of("row-1"), ROW_SENT);
    assert_non_null(strstr(file_sender_trouble(sender), "provider file"));
    assert_int_equal(unlink(scratch_path("out")), 0);
    assert_false(file_sender_turn(sender, policy, INT64_MAX)); /* it rests */
    assert_int_equal(state_of("row-1"), ROW_SENT);
    usleep(1100 * 1000);
    assert_false(file_sender_turn(sender, policy, INT64_MAX));
    assert_int_equal(state_of("row-1"), ROW_ACKED);
    assert_string_equal(file_sender_trouble(sender), "");
    assert_string_equal(content(1), "1");
}

/* Its states cannot be written: nothing is delivered that would not be known. */
static void without_its_states_nothing_is_written(void **state)
{
    (void) state;
    struct stat status;
    add(1, 1);
    assert_int_equal(stat(scratch_path("file.states"), &status), 0);
    full_disk_at((rlim_t) status.st_size + 10);
    assert_false(file_sender_turn(sender, policy, INT64_MAX));
    full_disk_end();
    assert_string_equal(content(1), "none");
    assert_non_null(strstr(file_sender_trouble(sender), "the states of the provider file"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_epoch_is_a_file),
        TEST(what_was_sent_is_sent_again),
        TEST(a_row_that_was_held_comes_into_its_file),
        TEST(nothing_goes_when_it_is_not_named_or_time_is_up),
        TEST(a_full_disk_is_tried_again),
        TEST(without_its_states_nothing_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
