/* billing/journal at level `os`: what is told is written, whatever the disk does; epochs, segments, readers. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the disk does; 0 = as it can. */
static int write_error, allocate_error;
static useconds_t allocate_us, rename_us;
static size_t write_most; /* bytes a write takes; 0 = all */

static ssize_t fake_pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    errno = write_error;
    return write_error != 0 ? -1 : pwrite(fd, bytes, write_most > 0 && write_most < count ? write_most : count, at);
}

static int fake_posix_fallocate(int fd, off_t from, off_t count)
{
    usleep(allocate_us);
    return allocate_error != 0 ? allocate_error : posix_fallocate(fd, from, count);
}

static int fake_rename(const char *from, const char *to)
{
    usleep(rename_us);
    return rename(from, to);
}

#define pwrite          fake_pwrite
#define posix_fallocate fake_posix_fallocate
#define rename          fake_rename
#include "billing/journal.c"
#undef pwrite
#undef posix_fallocate
#undef rename

#include "tests/lib/full_disk.h"
#include "tests/lib/journal_room.h"

static struct room room;

static int set_up(void **state)
{
    (void) state;
    write_error = allocate_error = 0;
    allocate_us = rename_us = 0;
    write_most = 0;
    room_init(&room);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    room_finish(&room);
    return 0;
}

/* ---- told after it is written, in order ---- */

static unsigned told_count;

/* Inside the call: as many records are in the file as were told, or more. */
static void on_written(struct journal_wait *wait, bool ok)
{
    unsigned number = (unsigned) (uintptr_t) wait->owner;
    assert_true(ok);
    assert_int_equal(number, told_count);
    told_count++;
    assert_true(room_read(room.writer).records >= told_count);
}

static void test_told_when_written_and_in_order(void **state)
{
    struct journal_wait waits[20];
    (void) state;
    room_begin(&room);
    told_count = 0;
    for (unsigned i = 0; i < 20; i++) {
        struct record record = room_open_record(i, ROOM_HOUR);
        waits[i] = (struct journal_wait){.durable = on_written, .owner = (void *) (uintptr_t) i};
        assert_true(journal_open(room.journal, &record, &waits[i]));
        assert_int_equal(told_count, i - i % 7);
        if (i % 7 == 6)
            room_turn(&room);
    }
    room_turn(&room);
    assert_int_equal(told_count, 20);
}

static void test_forgotten_is_not_called_and_owes_its_close(void **state)
{
    struct room_wait waits[3];
    (void) state;
    room_begin(&room);
    for (unsigned i = 0; i < 3; i++)
        assert_true(room_open(&room, i, ROOM_HOUR, &waits[i]));
    journal_forget(room.journal, &waits[2].wait);
    journal_forget(room.journal, &waits[2].wait);
    journal_forget(room.journal, &waits[0].wait);
    room_turn(&room);
    assert_int_equal(waits[0].calls, 0);
    assert_int_equal(waits[1].calls, 1);
    assert_int_equal(waits[2].calls, 0);
    journal_forget(room.journal, &waits[1].wait); /* was told: nothing to forget */
    assert_int_equal(room.journal->open_count, 3);
    for (unsigned i = 0; i < 3; i++)
        room_close(&room, i, ROOM_HOUR, NULL);
    journal_destroy(&room.journal);
    assert_true(journal_is_finished(room.writer));
    assert_int_equal(room_read(room.writer).closes, 3);
}

/* A call may append and wait again, in the same turn. */
static void close_at_once(struct journal_wait *wait, bool ok)
{
    assert_true(ok);
    room_close(&room, 1, ROOM_HOUR, wait->owner);
}

static void test_a_call_may_append(void **state)
{
    struct room_wait closed;
    struct journal_wait opened = {.durable = close_at_once, .owner = &closed};
    struct record record = room_open_record(1, ROOM_HOUR);
    (void) state;
    room_begin(&room);
    assert_true(journal_open(room.journal, &record, &opened));
    room_turn(&room);
    assert_int_equal(closed.calls, 1);
    assert_true(closed.ok);
    assert_int_equal(room_read(room.writer).closes, 1);
}

/* ---- epochs ---- */

static void one_request(unsigned number, wall_ms when)
{
    assert_true(room_open(&room, number, when, NULL));
    room_close(&room, number, when, NULL);
    room_turn(&room);
}

static void test_epochs_are_cut(void **state)
{
    static const struct {
        wall_ms when;
        unsigned seals; /* after it */
    } steps[] = {
        {ROOM_HOUR_MS - ROOM_EPOCH_MS - 20000, 0},
        {ROOM_HOUR_MS - 30000, 0},
        {ROOM_HOUR_MS - 20000, 1}, /* by its length */
        {ROOM_HOUR_MS - 10000, 1},
        {ROOM_HOUR_MS, 2}, /* by the hour */
        {ROOM_HOUR_MS + 50000, 2},
        {ROOM_HOUR_MS + 10000, 2}, /* back, but not before it began */
        {ROOM_HOUR_MS - 10000, 3}, /* the clock stepped back into the hour before */
        {ROOM_HOUR_MS, 4},
    };
    (void) state;
    room_begin(&room);
    for (unsigned i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        one_request(i, ROOM_HOUR + steps[i].when);
        assert_int_equal(room_read(room.writer).seals, steps[i].seals);
    }
    journal_destroy(&room.journal);
    struct room_sum sum = room_read(room.writer);
    assert_int_equal(sum.seals, 5);
    assert_int_equal(sum.finishes, 1);
    assert_true(journal_is_finished(room.writer));
}

/* Nothing need come for an epoch to end, and none that nobody used is sealed. */
static void test_epoch_ends_by_its_timer(void **state)
{
    (void) state;
    room.options.epoch_ms = 20;
    room_begin(&room);
    one_request(1, ROOM_HOUR);
    for (mono_ms until = clock_mono_ms() + 5000; room_read(room.writer).seals == 0 && clock_mono_ms() < until;)
        loop_run_once(room.loop, 100);
    loop_run_once(room.loop, 100);
    assert_int_equal(room_read(room.writer).seals, 1);
}

/* ---- segments ---- */

enum { SEAL_AND_FINISH_BYTES = 2 * RECORD_HEAD_BYTES + 4 * 8 };

static void test_segments(void **state)
{
    char path[PATH_MAX];
    struct stat status;
    (void) state;
    room.options.segment_bytes = 8192;
    room_begin(&room);
    for (unsigned i = 0; i < 500; i++)
        one_request(i, ROOM_HOUR + i * 2000);
    assert_true(room.journal->segment > 8);
    for (unsigned number = 1; number <= room.journal->segment; number++) {
        assert_true(segment_path(room.journal, number, ".seg", path));
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_size, 8192);
        assert_int_equal(status.st_mode & 0777, 0600);
    }
    char last[PATH_MAX];
    assert_true(segment_path(room.journal, room.journal->segment, ".seg", last));
    assert_true(segment_path(room.journal, room.journal->segment + 1, ".next", path));
    assert_int_equal(access(path, F_OK), 0);
    off_t end = room.journal->offset + SEAL_AND_FINISH_BYTES;
    journal_destroy(&room.journal);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(stat(last, &status), 0);
    assert_int_equal(status.st_size, end); /* nothing is kept behind it */
    struct room_sum sum = room_read(room.writer);
    assert_int_equal(sum.opens, 500);
    assert_int_equal(sum.closes, 500);
    assert_int_equal(sum.end, JOURNAL_NO_MORE_YET);
}

/* ---- a reader in another thread ---- */

enum { TAILED_REQUESTS = 2000 };

static void *tail(void *writer)
{
    struct journal_reader *reader = journal_reader_create(writer, NULL);
    struct record record = {.type = RECORD_OPEN};
    uintptr_t closes = 0;
    while (record.type != RECORD_FINISH) {
        enum journal_read result = journal_read_next(reader, &record);
        if (result == JOURNAL_DAMAGED)
            break;
        if (result == JOURNAL_NO_MORE_YET)
            sched_yield();
        else
            closes += record.type == RECORD_CLOSE;
        if (closes % 100 == 99) { /* from its position, as a shipper after a restart */
            struct journal_position position = journal_reader_position(reader);
            journal_reader_destroy(&reader);
            reader = journal_reader_create(writer, &position);
        }
    }
    journal_reader_destroy(&reader);
    return (void *) closes;
}

static void test_reader_while_it_is_written(void **state)
{
    pthread_t thread;
    void *closes;
    (void) state;
    room.options.segment_bytes = 16384;
    room_begin(&room);
    assert_int_equal(pthread_create(&thread, NULL, tail, room.writer), 0);
    for (unsigned i = 0; i < TAILED_REQUESTS; i++) {
        write_most = i % 3 == 0 ? 1 + i % 50 : 0; /* torn for a moment */
        one_request(i, ROOM_HOUR + i);
    }
    journal_destroy(&room.journal);
    assert_int_equal(pthread_join(thread, &closes), 0);
    assert_int_equal((uintptr_t) closes, TAILED_REQUESTS);
}

/* ---- the disk is full ---- */

/* As many requests as are let in, until none is. */
static unsigned open_until_refused(unsigned from)
{
    unsigned number = from;
    while (number < ROOM_REQUESTS_MAX && room_open(&room, number, ROOM_HOUR, NULL)) {
        number++;
        room_turn(&room);
    }
    return number;
}

static void check_full_disk(void)
{
    allocate_error = ENOSPC;
    unsigned count = open_until_refused(0);
    assert_true(count > 2);
    /* The second segment may be begun, and then there is no third. */
    bool is_last = room.journal->segment == 2;
    assert_string_equal(journal_trouble(room.journal),
                        is_last ? "the disk of state_dir is full" : "the journal has no room for more open requests");
    journal_progress(room.journal, room_id(0), 5, ROOM_HOUR);
    for (unsigned i = 0; i < count; i++) {
        struct room_wait wait;
        room_close(&room, i, ROOM_HOUR + i * ROOM_EPOCH_MS, &wait); /* each with a SEAL before it */
        room_turn(&room);
        assert_true(wait.calls == 1 && wait.ok);
    }
    assert_true(room.journal->segment <= 2 && room.journal->offset <= room.journal->segment_bytes);
    journal_destroy(&room.journal);
    struct room_sum sum = room_read(room.writer);
    assert_int_equal(sum.closes, count);
    assert_int_equal(sum.seals, count);
    assert_int_equal(sum.finishes, 1);
}

static void test_full_disk_keeps_room_for_the_open(void **state)
{
    (void) state;
    room.options.segment_bytes = 32768;
    room_begin(&room);
    check_full_disk();
    allocate_error = 0;
    room.options.segment_bytes = 9000;
    room_begin(&room);
    check_full_disk();
}

static void test_space_again_is_noticed(void **state)
{
    (void) state;
    room.options.segment_bytes = 8192;
    allocate_error = 0;
    room_begin(&room);
    unsigned count = open_until_refused(0);
    allocate_error = ENOSPC;
    for (unsigned i = 0; i < count; i++)
        room_close(&room, i, ROOM_HOUR, NULL);
    room_turn(&room);
    while (room_open(&room, count, ROOM_HOUR, NULL)) {
        room_close(&room, count, ROOM_HOUR, NULL);
        room_turn(&room);
        count++;
    }
    assert_string_equal(journal_trouble(room.journal), "the disk of state_dir is full");
    allocate_error = 0; /* nobody comes, and still */
    for (mono_ms until = clock_mono_ms() + 5000; journal_trouble(room.journal)[0] != '\0' && clock_mono_ms() < until;)
        loop_run_once(room.loop, 100);
    assert_string_equal(journal_trouble(room.journal), "");
    assert_true(room_open(&room, count, ROOM_HOUR, NULL));
    room_close(&room, count, ROOM_HOUR, NULL);
}

static void test_no_journal_on_a_full_disk(void **state)
{
    (void) state;
    allocate_error = ENOSPC;
    assert_null(journal_create(room.loop, &room.options));
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(rmdir(room.directory), 0); /* nothing was left there */
}

/* A child, as it may have to do without its parent's mounts and limits. Returns its exit status. */
static int in_child(int (*run)(void))
{
    pid_t child = fork();
    if (child == 0)
        _exit(run());
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

enum { CHILD_OK = 0, CHILD_CANNOT = 77 };

static int fill_small_disk(void)
{
    if ((geteuid() != 0 && unshare(CLONE_NEWUSER) != 0) || unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", room.directory, "tmpfs", 0, "size=80k") != 0)
        return CHILD_CANNOT;
    room.options.segment_bytes = 32768;
    room_begin(&room);
    unsigned count = open_until_refused(0);
    for (unsigned i = 0; i < count; i++)
        room_close(&room, i, ROOM_HOUR, NULL);
    room_turn(&room);
    while (room_open(&room, count, ROOM_HOUR, NULL)) {
        room_close(&room, count++, ROOM_HOUR, NULL);
        room_turn(&room);
    }
    bool is_full = strcmp(journal_trouble(room.journal), "the disk of state_dir is full") == 0;
    journal_destroy(&room.journal);
    struct room_sum sum = room_read(room.writer);
    return is_full && sum.closes == count && sum.finishes == 1 && sum.end == JOURNAL_NO_MORE_YET ? CHILD_OK : 1;
}

static void test_small_disk(void **state)
{
    (void) state;
    int status = in_child(fill_small_disk);
    if (status == CHILD_CANNOT)
        skip();
    assert_int_equal(status, CHILD_OK);
}

/* EFBIG where the file may not grow: also a disk that refuses. */
static int write_beyond_limit(void)
{
    struct room_wait wait;
    room_begin(&room);
    full_disk_at(2000);
    unsigned number = open_until_refused(0);
    bool said = strcmp(journal_trouble(room.journal), "the disk of state_dir refuses writes") == 0;
    room_close(&room, 0, ROOM_HOUR, &wait);
    room_turn(&room);
    said = said && wait.calls == 1 && !wait.ok;
    full_disk_end();
    for (int i = 0; i < 50 && journal_trouble(room.journal)[0] != '\0'; i++)
        loop_run_once(room.loop, 100);
    struct room_sum sum = room_read(room.writer);
    bool is_whole = sum.opens == number && sum.closes == 1 && sum.end == JOURNAL_NO_MORE_YET;
    return said && is_whole && number > 3 ? CHILD_OK : 1;
}

static void test_file_size_limit(void **state)
{
    (void) state;
    assert_int_equal(in_child(write_beyond_limit), CHILD_OK);
}

/* ---- the disk fails ---- */

static void test_write_errors(void **state)
{
    struct room_wait opened, refused, closed, late;
    (void) state;
    room_begin(&room);
    assert_true(room_open(&room, 0, ROOM_HOUR, &opened));
    room_turn(&room);
    assert_true(opened.calls == 1 && opened.ok);

    write_error = EIO;
    assert_true(room_open(&room, 1, ROOM_HOUR, &refused));
    room_close(&room, 0, ROOM_HOUR, &closed);
    room_turn(&room);
    assert_true(refused.calls == 1 && !refused.ok);
    assert_true(closed.calls == 1 && !closed.ok);
    assert_int_equal(room.journal->open_count, 1); /* the refused one: its OPEN gets to the disk with the next write */
    room_close(&room, 1, ROOM_HOUR, NULL);
    assert_string_equal(journal_trouble(room.journal), "the disk of state_dir refuses writes");
    assert_false(room_open(&room, 2, ROOM_HOUR, &late));

    write_error = 0;
    for (int i = 0; i < 50 && journal_trouble(room.journal)[0] != '\0'; i++)
        loop_run_once(room.loop, 100);
    assert_true(room_open(&room, 2, ROOM_HOUR, &late));
    room_turn(&room);
    assert_true(late.calls == 1 && late.ok);
    room_close(&room, 2, ROOM_HOUR, NULL);
    journal_destroy(&room.journal);
    struct room_sum sum = room_read(room.writer);
    assert_int_equal(sum.opens, 3);
    assert_int_equal(sum.closes, 3);
    assert_int_equal(sum.finishes, 1);
}

/* At every place of a segment, also where the next one begins: nothing is lost, nothing stands there twice. */
static void test_write_errors_anywhere(void **state)
{
    unsigned closed = 0;
    (void) state;
    room.options.segment_bytes = 16384;
    room_begin(&room);
    for (unsigned round = 0; round < 300; round++) {
        unsigned opened = closed;
        while (opened < closed + 5 && room_open(&room, opened, ROOM_HOUR, NULL))
            opened++;
        room_turn(&room);
        assert_true(opened > closed);
        write_error = unit_random_below(2) == 0 ? EIO : 0;
        write_most = unit_random_below(200);
        for (; closed < opened; closed++) {
            room_close(&room, closed, ROOM_HOUR, NULL);
            if (unit_random_below(3) == 0)
                room_turn(&room);
        }
        room_turn(&room);
        write_error = 0;
        on_retry(&room.journal->retry);
        assert_string_equal(journal_trouble(room.journal), "");
    }
    journal_destroy(&room.journal);
    struct room_sum sum = room_read(room.writer);
    assert_int_equal(sum.closes, closed);
    assert_int_equal(sum.finishes, 1);
    assert_int_equal(sum.end, JOURNAL_NO_MORE_YET);
}

static void test_open_requests_are_left_to_recovery(void **state)
{
    struct recovery found;
    (void) state;
    room_begin(&room);
    one_request(0, ROOM_HOUR);
    assert_true(room_open(&room, 1, ROOM_HOUR + 7, NULL));
    journal_destroy(&room.journal);
    assert_false(journal_is_finished(room.writer));
    char path[PATH_MAX];
    struct stat status;
    snprintf(path, sizeof path, "%.200s/00000001.seg", room.writer);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, JOURNAL_SEGMENT_BYTES); /* its room is kept for the CLOSE */
    assert_true(journal_recover(room.writer, true, &found));
    assert_int_equal(found.crashed_requests, 1);
    struct room_sum sum = room_read(room.writer);
    assert_int_equal(sum.closes, 2);
    assert_int_equal(sum.finishes, 1);
}

static void test_room_for_many_open(void **state)
{
    (void) state;
    room_begin(&room);
    unsigned count = open_until_refused(0);
    assert_true(count >= 15000 || count == ROOM_REQUESTS_MAX);
    assert_true(journal_slowest_write_us(room.journal) > 0);
    for (unsigned i = 0; i < count; i++)
        room_close(&room, i, ROOM_HOUR, NULL);
    journal_destroy(&room.journal);
    assert_int_equal(room_read(room.writer).closes, count);
}

/* What a new segment takes keeps requests waiting as a write does. */
static void test_slow_segments_are_told(void **state)
{
    enum { SLOW_US = 300000 };
    (void) state;
    room.options.segment_bytes = 8192;
    for (int is_rename = 0; is_rename < 2; is_rename++) {
        room_begin(&room);
        one_request(0, ROOM_HOUR);
        assert_true(journal_slowest_write_us(room.journal) < SLOW_US);
        *(is_rename ? &rename_us : &allocate_us) = SLOW_US;
        for (unsigned i = 1; room.journal->segment == 1; i++)
            one_request(i, ROOM_HOUR);
        assert_true(journal_slowest_write_us(room.journal) >= SLOW_US);
        allocate_us = rename_us = 0;
        journal_destroy(&room.journal);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_told_when_written_and_in_order),
        TEST(test_forgotten_is_not_called_and_owes_its_close),
        TEST(test_a_call_may_append),
        TEST(test_epochs_are_cut),
        TEST(test_epoch_ends_by_its_timer),
        TEST(test_segments),
        TEST(test_slow_segments_are_told),
        TEST(test_reader_while_it_is_written),
        TEST(test_full_disk_keeps_room_for_the_open),
        TEST(test_space_again_is_noticed),
        TEST(test_no_journal_on_a_full_disk),
        TEST(test_small_disk),
        TEST(test_file_size_limit),
        TEST(test_write_errors),
        TEST(test_write_errors_anywhere),
        TEST(test_open_requests_are_left_to_recovery),
        TEST(test_room_for_many_open),
    };
    unit_random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
