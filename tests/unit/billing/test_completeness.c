/* billing/completeness: an hour is complete when nothing can come any more, and not a moment before. */
#include "billing/completeness.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "billing/resum.h"
#include "tests/lib/journal_room.h"

static struct room room;
static char ledger[128];
static const wall_ms TO = ROOM_HOUR + ROOM_HOUR_MS;

static int set_up(void **state)
{
    (void) state;
    room_init(&room);
    snprintf(ledger, sizeof ledger, "%s/ledger", room.directory);
    room_begin(&room);
    return mkdir(ledger, 0700);
}

static int tear_down(void **state)
{
    (void) state;
    room_finish(&room);
    return 0;
}

static struct completeness ask_at(wall_ms now)
{
    struct completeness found;
    const struct completeness_question question = {.journal_directory = room.directory,
                                                   .ledger_directory = ledger,
                                                   .from = ROOM_HOUR,
                                                   .to = TO,
                                                   .now = now,
                                                   .retention_ms = (int64_t) 24 * ROOM_HOUR_MS};
    assert_true(completeness_read(&question, &found));
    return found;
}

static bool keep_epoch(void *owner, const struct resum_epoch *epoch)
{
    (void) owner;
    return !epoch->is_sealed || ledger_write(ledger, &epoch->head, epoch->cells);
}

static bool pass_over(void *owner, const char *writer, wall_ms when)
{
    (void) owner, (void) writer, (void) when;
    return true;
}

/* What the billing thread does: sealed epochs become files. */
static void write_ledger(void)
{
    const struct resum_visitor visitor = {.epoch = keep_epoch, .open_request = pass_over};
    assert_true(resum(room.directory, &visitor));
}

static void request(unsigned number, wall_ms when)
{
    assert_true(room_open(&room, number, when, NULL));
    room_close(&room, number, when, NULL);
    room_turn(&room);
}

static void test_an_hour_that_is_not_over_is_not_complete(void **state)
{
    (void) state;
    assert_true(ask_at(TO - 1).is_future);
    assert_false(ask_at(TO - 1).is_complete);
    assert_true(ask_at(TO).is_complete);
}

static void test_it_is_complete_when_the_last_epoch_is_in_the_ledger(void **state)
{
    (void) state;
    request(1, TO - 1);
    struct completeness found = ask_at(TO);
    assert_int_equal(found.open_epochs, 1);
    assert_false(found.is_complete);
    request(2, TO); /* seals it */
    found = ask_at(TO);
    assert_int_equal(found.open_epochs, 0);
    assert_int_equal(found.missing_epochs, 1);
    assert_false(found.is_complete);
    write_ledger();
    assert_true(ask_at(TO).is_complete);
}

static void test_what_is_not_billed_is_not_waited_for(void **state)
{
    (void) state;
    struct record close = room_close_record(1, TO - 1);
    close.billed = false;
    assert_true(room_open(&room, 1, TO - 1, NULL));
    journal_close(room.journal, &close, NULL);
    room_turn(&room);
    assert_true(ask_at(TO).is_complete);
}

/* It could end with the time of its last sign, when its gateway dies. */
static void test_a_running_request_is_waited_for_until_it_shows_a_sign_behind_the_hour(void **state)
{
    (void) state;
    assert_true(room_open(&room, 1, TO - 5, NULL));
    room_turn(&room);
    assert_int_equal(ask_at(TO + 10).open_requests, 1);
    journal_progress(room.journal, room_id(1), 1, TO - 1);
    room_turn(&room);
    assert_int_equal(ask_at(TO + 10).open_requests, 1);
    assert_false(ask_at(TO + 10).is_complete);
    journal_progress(room.journal, room_id(1), 2, TO);
    room_turn(&room);
    assert_int_equal(ask_at(TO + 10).open_requests, 0);
    assert_true(ask_at(TO + 10).is_complete);
}

static void test_damage_is_not_complete(void **state)
{
    (void) state;
    char path[PATH_MAX];
    request(1, ROOM_HOUR - 1);
    for (unsigned segment = 2; segment <= 3; segment++) { /* the last one may be torn, the others not */
        snprintf(path, sizeof path, "%.200s/%08u.seg", room.writer, segment);
        int fd = open(path, O_WRONLY | O_CREAT, 0600);
        assert_int_equal(write(fd, "nothing", 7), 7);
        close(fd);
    }
    struct completeness found = ask_at(TO);
    assert_int_equal(found.damaged_journals, 1);
    assert_string_equal(found.damaged_writer, journal_writer_id(room.journal));
    assert_false(found.is_complete);
}

static void test_a_damaged_ledger_file_is_an_error(void **state)
{
    (void) state;
    struct completeness found;
    char path[PATH_MAX];
    request(1, ROOM_HOUR);
    snprintf(path, sizeof path, "%s/%s-00000001.jsonl", ledger, journal_writer_id(room.journal));
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "{}\n", 3), 3);
    close(fd);
    const struct completeness_question question = {
        .journal_directory = room.directory, .ledger_directory = ledger, .from = ROOM_HOUR, .to = TO, .now = TO};
    assert_false(completeness_read(&question, &found));
    assert_int_equal(errno, EBADMSG);
}

static void test_what_may_have_been_removed_is_not_complete(void **state)
{
    (void) state;
    struct completeness found = ask_at(ROOM_HOUR + (wall_ms) 24 * ROOM_HOUR_MS);
    assert_true(found.is_complete);
    found = ask_at(ROOM_HOUR + (wall_ms) 24 * ROOM_HOUR_MS + 1);
    assert_true(found.is_too_old);
    assert_false(found.is_complete);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_an_hour_that_is_not_over_is_not_complete, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_it_is_complete_when_the_last_epoch_is_in_the_ledger, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_not_billed_is_not_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_running_request_is_waited_for_until_it_shows_a_sign_behind_the_hour,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage_is_not_complete, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_damaged_ledger_file_is_an_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_may_have_been_removed_is_not_complete, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
