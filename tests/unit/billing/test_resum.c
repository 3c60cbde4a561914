/* billing/resum: epochs as their writer made them, requests that are open, and journals that cannot be read. */
#include "billing/resum.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "tests/lib/journal_room.h"

enum { EPOCHS_MAX = 64 };

static struct room room;

/* What the visitor was told. */
struct seen {
    size_t epochs;
    struct {
        struct ledger_head head;
        bool is_sealed, is_whole;
        int64_t requests, output;
    } epoch[EPOCHS_MAX];
    size_t open_requests;
    wall_ms last_sign;
    size_t damaged;
    size_t stop_after; /* epochs; 0 = never */
};

static int set_up(void **state)
{
    (void) state;
    room_init(&room);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    room_finish(&room);
    return 0;
}

static bool see_epoch(void *owner, const struct resum_epoch *epoch)
{
    struct seen *seen = owner;
    assert_true(seen->epochs < EPOCHS_MAX);
    struct cell *cells = cells_sorted(epoch->cells);
    assert_non_null(cells);
    assert_int_equal(epoch->head.cell_count, cells_count(epoch->cells));
    seen->epoch[seen->epochs].head = epoch->head;
    seen->epoch[seen->epochs].is_sealed = epoch->is_sealed;
    seen->epoch[seen->epochs].is_whole = epoch->is_whole;
    for (size_t i = 0; i < cells_count(epoch->cells); i++) {
        seen->epoch[seen->epochs].requests += cells[i].measure == MEASURE_REQUESTS ? cells[i].quantity : 0;
        seen->epoch[seen->epochs].output += cells[i].measure == MEASURE_OUTPUT_TOKENS ? cells[i].quantity : 0;
    }
    free(cells);
    seen->epochs++;
    errno = ECANCELED;
    return seen->epochs != seen->stop_after;
}

static bool see_request(void *owner, const char *writer, wall_ms last_sign)
{
    struct seen *seen = owner;
    assert_int_equal(strlen(writer), WRITER_ID_CHARACTERS);
    seen->open_requests++;
    seen->last_sign = last_sign;
    return true;
}

static bool see_damage(void *owner, const char *writer)
{
    struct seen *seen = owner;
    assert_int_equal(strlen(writer), WRITER_ID_CHARACTERS);
    seen->damaged++;
    return true;
}

static bool look(struct seen *seen)
{
    size_t stop_after = seen->stop_after;
    *seen = (struct seen){.stop_after = stop_after};
    const struct resum_visitor visitor = {
        .owner = seen, .epoch = see_epoch, .open_request = see_request, .damaged = see_damage};
    return resum(room.directory, &visitor);
}

static void request(unsigned number, wall_ms when)
{
    assert_true(room_open(&room, number, when, NULL));
    room_close(&room, number, when, NULL);
    room_turn(&room);
}

static void test_epochs_come_in_order_and_the_last_is_open(void **state)
{
    (void) state;
    static struct seen seen;
    room_begin(&room);
    request(1, ROOM_HOUR);
    request(2, ROOM_HOUR + 1000);
    request(3, ROOM_HOUR + ROOM_EPOCH_MS); /* the next one */
    assert_true(look(&seen));
    assert_int_equal(seen.epochs, 2);
    assert_int_equal(seen.epoch[0].head.name.epoch, 1);
    assert_string_equal(seen.epoch[0].head.name.writer, journal_writer_id(room.journal));
    assert_true(seen.epoch[0].is_sealed && seen.epoch[0].is_whole);
    assert_int_equal(seen.epoch[0].head.began, ROOM_HOUR);
    assert_int_equal(seen.epoch[0].head.ended, ROOM_HOUR + 1000);
    assert_int_equal(seen.epoch[0].requests, 2);
    assert_int_equal(seen.epoch[0].output, 44);
    assert_int_equal(seen.epoch[1].head.name.epoch, 2);
    assert_false(seen.epoch[1].is_sealed);
    assert_int_equal(seen.epoch[1].requests, 1);
    assert_int_equal(seen.open_requests + seen.damaged, 0);
}

static void test_unbilled_requests_are_in_no_cell(void **state)
{
    (void) state;
    static struct seen seen;
    room_begin(&room);
    struct record close = room_close_record(1, ROOM_HOUR);
    close.billed = false;
    assert_true(room_open(&room, 1, ROOM_HOUR, NULL));
    journal_close(room.journal, &close, NULL);
    room_turn(&room);
    assert_true(look(&seen));
    assert_int_equal(seen.epochs, 1);
    assert_int_equal(seen.epoch[0].head.cell_count, 0);
}

static void test_an_open_request_is_told_with_its_last_sign(void **state)
{
    (void) state;
    static struct seen seen;
    room_begin(&room);
    assert_true(room_open(&room, 1, ROOM_HOUR, NULL));
    room_turn(&room);
    assert_true(look(&seen));
    assert_int_equal(seen.open_requests, 1);
    assert_int_equal(seen.last_sign, ROOM_HOUR);
    journal_progress(room.journal, room_id(1), 5, ROOM_HOUR + 7);
    room_turn(&room);
    assert_true(look(&seen));
    assert_int_equal(seen.last_sign, ROOM_HOUR + 7);
    room_close(&room, 1, ROOM_HOUR + 9, NULL);
    room_turn(&room);
    assert_true(look(&seen));
    assert_int_equal(seen.open_requests, 0);
}

static void segment_path(char to[PATH_MAX], unsigned number, const char *ending)
{
    assert_true(snprintf(to, PATH_MAX, "%.200s/%08u.%s", room.writer, number, ending) < PATH_MAX);
}

/* An epoch whose beginning may be gone is not whole; the next ones are. */
static void test_what_follows_a_removed_segment_is_not_whole(void **state)
{
    (void) state;
    static struct seen seen;
    char path[PATH_MAX];
    room.options.segment_bytes = 16384;
    room_begin(&room);
    unsigned number = 0;
    segment_path(path, 3, "seg");
    while (access(path, F_OK) != 0) {
        number++;
        request(number, ROOM_HOUR + number * 2000);
    }
    assert_true(look(&seen));
    size_t all = seen.epochs;
    assert_true(all >= 2 && seen.epoch[0].is_whole);
    segment_path(path, 1, "seg");
    assert_int_equal(unlink(path), 0);
    assert_true(look(&seen));
    assert_int_equal(seen.damaged, 0);
    assert_true(seen.epochs >= 1 && seen.epochs <= all);
    assert_false(seen.epoch[0].is_whole);
    for (size_t i = 1; i < seen.epochs; i++)
        assert_true(seen.epoch[i].is_whole);
}

static void test_damage_is_told(void **state)
{
    (void) state;
    static struct seen seen;
    char path[PATH_MAX];
    room.options.segment_bytes = 16384;
    room_begin(&room);
    unsigned number = 0;
    segment_path(path, 2, "seg");
    while (access(path, F_OK) != 0)
        request(++number, ROOM_HOUR);
    segment_path(path, 1, "seg");
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "damage", 6, 40), 6);
    close(fd);
    assert_true(look(&seen));
    assert_int_equal(seen.damaged, 1);
}

/* A killed writer of level GROUP may have gone on in a segment without its name: there is more than can be read. */
static void test_a_nameless_segment_is_not_passed_over(void **state)
{
    (void) state;
    static struct seen seen;
    char path[PATH_MAX], bytes[RECORD_BYTES_MAX];
    room_begin(&room);
    request(1, ROOM_HOUR);
    struct record record = room_open_record(2, ROOM_HOUR);
    record.sequence = 3;
    size_t length = record_encode(&record, bytes);
    segment_path(path, 2, "next");
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(pwrite(fd, bytes, length, 0), length);
    close(fd);
    assert_true(look(&seen));
    assert_int_equal(seen.damaged, 1);
}

static void test_a_visitor_ends_it_and_without_journals_there_is_an_error(void **state)
{
    (void) state;
    static struct seen seen;
    room_begin(&room);
    for (unsigned number = 1; number < 5; number++)
        request(number, ROOM_HOUR + number * ROOM_EPOCH_MS);
    seen.stop_after = 2;
    assert_false(look(&seen));
    assert_int_equal(errno, ECANCELED);
    assert_int_equal(seen.epochs, 2);
    const struct resum_visitor visitor = {
        .owner = &seen, .epoch = see_epoch, .open_request = see_request, .damaged = see_damage};
    assert_false(resum("/nonexistent/journal", &visitor));
    assert_int_equal(errno, ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_epochs_come_in_order_and_the_last_is_open, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unbilled_requests_are_in_no_cell, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_open_request_is_told_with_its_last_sign, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_follows_a_removed_segment_is_not_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_nameless_segment_is_not_passed_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_visitor_ends_it_and_without_journals_there_is_an_error, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
