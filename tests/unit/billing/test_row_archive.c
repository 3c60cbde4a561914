/* billing/row_archive: what was delivered leaves memory and the file of states, and is there once, whatever happens. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "billing/row_state.h"
#include "tests/lib/full_disk.h"
#include "tests/unit/conf/scratch.h"

enum { HOUR_MS = 3600 * 1000, ROWS = 1500, WAITING = 3, BY_HAND = 3 };

static const wall_ms BEGIN = (wall_ms) 490000 * HOUR_MS, LATER = BEGIN + 100 * (wall_ms) HOUR_MS;
static const char WRITER[] = "0123456789abcdef0123456789abcdef";

/* Ten rows an epoch, a hundred epochs an hour. */
static struct row row_number(enum provider_kind provider, unsigned number)
{
    struct row row = {
        .name = {.provider = provider, .epoch = {.epoch = 1 + number / 10}, .tenant = "acme", .meter = "tokens"},
        .metered = true,
        .quantity = 1 + (int64_t) number,
        .began = BEGIN,
        .ended = BEGIN + number / 1000 * (wall_ms) HOUR_MS + number % 1000,
    };
    memcpy(row.name.epoch.writer, WRITER, sizeof row.name.epoch.writer);
    snprintf(row.id, sizeof row.id, "tg1-%040u", number);
    return row;
}

static struct row_states *open_states(enum provider_kind provider)
{
    struct row_states *states = row_states_open(scratch_directory, provider);
    assert_non_null(states);
    return states;
}

static void deliver(struct row_states *states, const struct row *row, enum row_state as)
{
    assert_true(row_states_mark_sent(states, row->id, row->ended, "cus_a"));
    assert_true(row_states_move(states, row->id, as, row->ended + 1, ""));
}

/* The first three wait: one each pending, sent, held. The fourth was billed by hand. Each tenth was there before. */
static struct row_states *make_rows(enum provider_kind provider)
{
    struct row_states *states = open_states(provider);
    for (unsigned number = 0; number < ROWS; number++) {
        struct row row = row_number(provider, number);
        bool is_held = number == 2 || number == BY_HAND;
        assert_true(row_states_add(states, &row, is_held ? ROW_HELD : ROW_PENDING, row.ended, "why"));
        if (number == BY_HAND)
            assert_true(row_states_move(states, row.id, ROW_ACKED, row.ended + 1, ""));
        if (number == 1)
            assert_true(row_states_mark_sent(states, row.id, row.ended, "cus_a"));
        if (number > BY_HAND)
            deliver(states, &row, number % 10 == 0 ? ROW_DUPLICATE : ROW_ACKED);
    }
    return states;
}

/* Every row is known exactly once, as it was. */
static void assert_all_there(struct row_states *states)
{
    assert_int_equal(row_states_count_of(states, ROW_PENDING), 1);
    assert_int_equal(row_states_count_of(states, ROW_SENT), 1);
    assert_int_equal(row_states_count_of(states, ROW_HELD), 1);
    assert_int_equal(row_states_count_of(states, ROW_ACKED), ROWS - WAITING - ROWS / 10 + 1);
    assert_int_equal(row_states_count_of(states, ROW_DUPLICATE), ROWS / 10 - 1);
    assert_true(row_states_made(states, WRITER) == ROWS / 10);
    assert_true(row_states_recall(states, BEGIN, LATER));
    assert_int_equal(row_states_count(states), ROWS);
    for (unsigned number = 0; number < ROWS; number++) {
        struct row row = row_number(PROVIDER_STRIPE, number);
        const struct row_entry *entry = row_states_find(states, row.id);
        assert_non_null(entry);
        assert_true(entry->row.quantity == row.quantity && entry->row.ended == row.ended);
        assert_true(entry->row.name.epoch.epoch == row.name.epoch.epoch);
        assert_int_equal(entry->state, number == 0        ? ROW_PENDING
                                       : number == 1      ? ROW_SENT
                                       : number == 2      ? ROW_HELD
                                       : number % 10 == 0 ? ROW_DUPLICATE
                                                          : ROW_ACKED);
        assert_string_equal(entry->customer, number == 0 || number == 2 || number == BY_HAND ? "" : "cus_a");
        assert_int_equal(row_entry_is_by_hand(entry), number == BY_HAND);
    }
}

static size_t undelivered_count(const struct row_states *states)
{
    size_t count = 0;
    for (size_t at = row_states_next_undelivered(states, ROW_STATES_BEGIN); at != ROW_STATES_END;
         at = row_states_next_undelivered(states, at))
        count++;
    return count;
}

static off_t size_of(const char *name)
{
    struct stat status;
    return stat(scratch_path(name), &status) == 0 ? status.st_size : -1;
}

static void what_was_delivered_leaves(void **state)
{
    (void) state;
    struct row_states *states = make_rows(PROVIDER_STRIPE);
    wall_ms last = row_states_last_delivered(states);
    uint64_t shifts = row_states_shifts(states);
    off_t before = size_of("stripe.states");
    assert_int_equal(undelivered_count(states), WAITING);
    assert_true(row_states_tidy(states, LATER));
    assert_true(row_states_shifts(states) != shifts);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(row_states_count(states), WAITING);
        assert_int_equal(undelivered_count(states), WAITING);
        assert_true(size_of("stripe.states") < before / 100);
        assert_null(row_states_find(states, row_number(PROVIDER_STRIPE, 7).id));
        assert_true(row_states_last_delivered(states) == last);
        assert_all_there(states);
        assert_true(row_states_tidy(states, LATER)); /* forgets what was recalled */
        assert_int_equal(row_states_count(states), WAITING);
        row_states_close(&states);
        states = open_states(PROVIDER_STRIPE);
    }
    assert_true(row_states_recall(states, BEGIN + HOUR_MS, BEGIN + 2 * HOUR_MS));
    assert_int_equal(row_states_count(states), WAITING + ROWS - 1000);
    /* What comes later comes behind. */
    struct row row = row_number(PROVIDER_STRIPE, ROWS);
    assert_true(row_states_move(states, row_number(PROVIDER_STRIPE, 1).id, ROW_ACKED, LATER, ""));
    assert_true(row_states_add(states, &row, ROW_PENDING, LATER, ""));
    row_states_close(&states);
    states = row_states_read(scratch_directory, PROVIDER_STRIPE);
    assert_int_equal(row_states_count(states), WAITING + 1);
    assert_true(row_states_made(states, WRITER) == ROWS / 10 + 1);
    assert_true(row_states_recall(states, -HOUR_MS, INT64_MAX)); /* as who asks for all of time */
    assert_int_equal(row_states_count(states), ROWS + 1);
    row_states_close(&states);
}

static void what_is_young_stays(void **state)
{
    (void) state;
    struct row_states *states = make_rows(PROVIDER_STRIPE);
    off_t before = size_of("stripe.states");
    assert_true(row_states_tidy(states, BEGIN + ROW_KEPT_MS));
    assert_int_equal(row_states_count(states), ROWS);
    assert_true(size_of("stripe.states") < before / 2); /* lines that count no more go */
    before = size_of("stripe.states");
    assert_true(row_states_tidy(states, BEGIN + ROW_KEPT_MS));
    assert_int_equal(size_of("stripe.states"), before);
    assert_all_there(states);
    /* The pending row, the sent one and the held one go on as before. */
    struct row row = row_number(PROVIDER_STRIPE, 2);
    assert_true(row_states_move(states, row.id, ROW_PENDING, LATER, ""));
    deliver(states, &row, ROW_ACKED);
    assert_int_equal(undelivered_count(states), WAITING - 1);
    assert_int_equal(row_states_find(states, row.id)->state, ROW_ACKED);
    row_states_close(&states);
}

static void what_is_not_worth_it_stays(void **state)
{
    (void) state;
    struct row_states *states = open_states(PROVIDER_STRIPE);
    for (unsigned number = 0; number < ROW_TIDY_MIN / 3; number++) {
        struct row row = row_number(PROVIDER_STRIPE, number);
        assert_true(row_states_add(states, &row, ROW_PENDING, row.ended, ""));
        deliver(states, &row, ROW_ACKED);
    }
    off_t size = size_of("stripe.states");
    assert_true(row_states_tidy(states, LATER));
    assert_int_equal(row_states_count(states), ROW_TIDY_MIN / 3);
    assert_int_equal(size_of("stripe.states"), size);
    row_states_close(&states);
}

/* Between the files of the hours and the name of the new one: rows stand in both. */
static void a_crash_between_two_steps_changes_nothing(void **state)
{
    (void) state;
    struct row_states *states = make_rows(PROVIDER_STRIPE);
    char copy[600], path[600];
    snprintf(path, sizeof path, "%s", scratch_path("stripe.states"));
    snprintf(copy, sizeof copy, "%s", scratch_path("copy"));
    assert_int_equal(link(path, copy), 0); /* the file as it was: a new one gets its name */
    assert_true(row_states_tidy(states, LATER));
    row_states_close(&states);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(unlink(path), 0);
        assert_int_equal(link(copy, path), 0);
        states = open_states(PROVIDER_STRIPE);
        assert_all_there(states);
        assert_true(row_states_tidy(states, LATER));
        assert_int_equal(row_states_count(states), WAITING);
        assert_all_there(states);
        row_states_close(&states);
    }
}

static void tidy_and_die(rlim_t limit)
{
    struct rlimit low = {limit, limit};
    struct row_states *states = row_states_open(scratch_directory, PROVIDER_STRIPE);
    (void) signal(SIGXFSZ, SIG_DFL);
    if (states == NULL || setrlimit(RLIMIT_FSIZE, &low) != 0)
        _exit(1);
    _exit(row_states_tidy(states, LATER) ? 0 : 2);
}

/* Killed by the write that makes any file longer than so many bytes; each time the file of an hour grows by what was
 * written in vain. */
static void killed_at_any_write_it_keeps_each_row_once(void **state)
{
    (void) state;
    struct row_states *states = make_rows(PROVIDER_STRIPE);
    char copy[600], path[600];
    unsigned kills = 0;
    int status = -1;
    snprintf(path, sizeof path, "%s", scratch_path("stripe.states"));
    snprintf(copy, sizeof copy, "%s", scratch_path("copy"));
    row_states_close(&states);
    assert_int_equal(link(path, copy), 0);
    for (rlim_t limit = 0; status != 0; limit += limit / 3 + 5003) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            tidy_and_die(limit);
        assert_int_equal(waitpid(child, &status, 0), child);
        kills += WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ;
        assert_true(status == 0 || WIFSIGNALED(status));
        states = open_states(PROVIDER_STRIPE);
        assert_all_there(states);
        row_states_close(&states);
    }
    assert_true(kills > 10);
    states = open_states(PROVIDER_STRIPE);
    assert_true(row_states_tidy(states, LATER));
    assert_all_there(states);
    row_states_close(&states);
}

static void a_full_disk_changes_nothing(void **state)
{
    (void) state;
    struct row_states *states = make_rows(PROVIDER_STRIPE);
    for (int round = 0; round < 3; round++) {
        full_disk_at(10000);
        bool good = row_states_tidy(states, LATER);
        full_disk_end();
        assert_false(good);
        assert_int_equal(row_states_count(states), ROWS);
    }
    assert_all_there(states);
    assert_true(row_states_tidy(states, LATER));
    assert_all_there(states);
    row_states_close(&states);
}

/* A file is written whole, with what was delivered before. */
static void rows_of_a_file_go_with_their_epoch(void **state)
{
    (void) state;
    struct row_states *states = make_rows(PROVIDER_FILE);
    assert_true(row_states_tidy(states, LATER));
    assert_int_equal(row_states_count(states), 10);
    for (size_t i = 0; i < 10; i++)
        assert_true(row_states_at(states, i)->row.name.epoch.epoch == 1);
    row_states_close(&states);
}

static void a_damaged_hour_is_told(void **state)
{
    (void) state;
    struct row_states *states = make_rows(PROVIDER_STRIPE);
    assert_true(row_states_tidy(states, LATER));
    char name[64];
    struct tm parts;
    time_t seconds = (time_t) (BEGIN / 1000);
    gmtime_r(&seconds, &parts);
    strftime(name, sizeof name, "delivered/stripe-%Y-%m-%dT%H.states", &parts);
    FILE *file = fopen(scratch_path(name), "r+");
    assert_non_null(file);
    assert_true(fseek(file, 100, SEEK_SET) == 0 && fputc('#', file) == '#' && fclose(file) == 0);
    assert_false(row_states_recall(states, BEGIN, BEGIN + 1));
    assert_int_equal(errno, EBADMSG);
    row_states_close(&states);
}

static void what_expired_is_removed(void **state)
{
    (void) state;
    struct row_states *states = make_rows(PROVIDER_STRIPE);
    assert_true(row_states_tidy(states, LATER));
    row_states_expire(states, BEGIN + HOUR_MS - 1);
    assert_all_there(states);
    assert_true(row_states_tidy(states, LATER));
    row_states_expire(states, BEGIN + HOUR_MS);
    assert_true(row_states_recall(states, BEGIN, LATER));
    assert_int_equal(row_states_count(states), WAITING + ROWS - 1000);
    assert_int_equal(row_states_count_of(states, ROW_DUPLICATE), ROWS / 10 - 1);
    row_states_close(&states);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_destroy)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_delivered_leaves),
        TEST(what_is_young_stays),
        TEST(what_is_not_worth_it_stays),
        TEST(a_crash_between_two_steps_changes_nothing),
        TEST(killed_at_any_write_it_keeps_each_row_once),
        TEST(a_full_disk_changes_nothing),
        TEST(rows_of_a_file_go_with_their_epoch),
        TEST(a_damaged_hour_is_told),
        TEST(what_expired_is_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
