#include <string.h>
#include <sys/stat.h>

#include "gateway/worker.h"
#include "tests/lib/journal_room.h"

static struct worker_journal status_of(struct worker *worker)
{
    struct worker_journal status;
    worker_journal(worker, &status);
    return status;
}

/* A disk that is full at the start: the worker is there all the same, and begins to record when it can. */
static void a_journal_is_made_when_it_can_be(void **state)
{
    struct room room;
    char missing[PATH_MAX];
    (void) state;
    room_init(&room);
    struct worker worker = {.loop = room.loop, .index = 3};
    snprintf(missing, sizeof missing, "%s/not-there-yet", room.directory);
    room.options.directory = missing;
    assert_true(worker_journal_begin(&worker, &room.options));
    assert_null(worker.journal);
    assert_non_null(strstr(status_of(&worker).trouble, "No such file"));

    assert_int_equal(mkdir(missing, 0700), 0);
    missing[0] = '\0'; /* the options were the caller's */
    while (worker.journal == NULL)
        loop_run_once(room.loop, -1);
    assert_string_equal(status_of(&worker).trouble, "");
    snprintf(room.writer, sizeof room.writer, "%s/not-there-yet/3-%s", room.directory,
             journal_writer_id(worker.journal));
    worker_journal_end(&worker);
    assert_int_equal(room_read(room.writer).finishes, 1);
    room_finish(&room);
}

static void the_slowest_write_is_told(void **state)
{
    struct room room;
    (void) state;
    room_init(&room);
    struct worker worker = {.loop = room.loop};
    assert_true(worker_journal_begin(&worker, &room.options));
    assert_int_equal(status_of(&worker).slowest_write_us, 0);
    journal_progress(worker.journal, room_id(1), 64, ROOM_HOUR);
    room_turn(&room);
    int64_t slowest_us = journal_slowest_write_us(worker.journal);
    worker_journal_look(&worker);
    assert_int_equal(status_of(&worker).slowest_write_us, slowest_us);
    worker_journal_end(&worker);
    room_finish(&room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_journal_is_made_when_it_can_be),
        cmocka_unit_test(the_slowest_write_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
