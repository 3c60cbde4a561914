/* billing/journal_sync, under a journal at level `group`: told after the disk, one sync for many, refusals. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

/* The disk: how long it takes, whether it refuses, and what it has been told to keep. */
static _Atomic int sync_ms, sync_error, sync_calls, rewritten_calls;
static _Atomic int sync_permits;   /* so many syncs may end, the next one waits; below 0 = any number */
static _Atomic int64_t kept_bytes; /* of the only segment of the test that looks */

/* Up to the last byte that is not zero. */
static int64_t content_bytes(int fd)
{
    static _Thread_local char bytes[16384];
    ssize_t length = pread(fd, bytes, sizeof bytes, 0);
    while (length > 0 && bytes[length - 1] == 0)
        length--;
    return length;
}

static int fake_fdatasync(int fd)
{
    int64_t written = content_bytes(fd);
    sync_calls++;
    usleep((useconds_t) sync_ms * 1000);
    while (sync_permits == 0)
        usleep(1000);
    sync_permits -= sync_permits > 0;
    errno = sync_error;
    if (sync_error != 0)
        return -1;
    kept_bytes = written;
    return fdatasync(fd);
}

static ssize_t fake_pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    rewritten_calls++;
    return pwrite(fd, bytes, count, at);
}

#define fdatasync fake_fdatasync
#define pwrite    fake_pwrite
#include "billing/journal_sync.c"
#undef fdatasync
#undef pwrite

#include "tests/lib/journal_room.h"

static struct room room;

static int set_up(void **state)
{
    (void) state;
    sync_ms = sync_error = sync_calls = rewritten_calls = 0;
    sync_permits = -1;
    kept_bytes = 0;
    room_init(&room);
    room.options.sync = JOURNAL_GROUP;
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    sync_error = 0;
    room_finish(&room);
    return 0;
}

static int64_t end_of_records(void)
{
    struct record record;
    struct journal_reader *reader = journal_reader_create(room.writer, NULL);
    while (journal_read_next(reader, &record) == JOURNAL_RECORD) {
    }
    int64_t end = (int64_t) journal_reader_position(reader).offset;
    journal_reader_destroy(&reader);
    return end;
}

static void turn_until_told(const struct room_wait *wait)
{
    for (mono_ms until = clock_mono_ms() + 10000; wait->calls == 0 && clock_mono_ms() < until;)
        loop_run_once(room.loop, 50);
    assert_int_equal(wait->calls, 1);
}

struct kept_wait {
    struct journal_wait wait;
    int64_t begin; /* of its record in the segment */
    int calls;
};

static void on_kept(struct journal_wait *wait, bool ok)
{
    struct kept_wait *told = wait->owner;
    assert_true(ok);
    assert_true(kept_bytes > told->begin + RECORD_HEAD_BYTES);
    told->calls++;
}

static void test_told_when_the_disk_has_it(void **state)
{
    static struct kept_wait waits[40];
    (void) state;
    sync_ms = 5;
    room_begin(&room);
    for (unsigned i = 0; i < 40; i++) {
        struct record record = room_open_record(i, ROOM_HOUR);
        waits[i] = (struct kept_wait){.wait = {.durable = on_kept, .owner = &waits[i]}, .begin = end_of_records()};
        assert_true(journal_open(room.journal, &record, &waits[i].wait));
        room_turn(&room);
        assert_true(end_of_records() > waits[i].begin);
        usleep(1000);
    }
    for (mono_ms until = clock_mono_ms() + 10000; waits[39].calls == 0 && clock_mono_ms() < until;)
        loop_run_once(room.loop, 50);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(waits[i].calls, 1);
    for (unsigned i = 0; i < 40; i++)
        room_close(&room, i, ROOM_HOUR, NULL);
}

/* Many requests, each in a turn of its own, on a disk that takes its time: the syncs are shared. */
static void test_syncs_are_shared(void **state)
{
    static struct room_wait waits[200];
    (void) state;
    sync_ms = 30;
    room_begin(&room);
    for (unsigned i = 0; i < 200; i++) {
        assert_true(room_open(&room, i, ROOM_HOUR, &waits[i]));
        room_turn(&room);
    }
    turn_until_told(&waits[199]);
    for (unsigned i = 0; i < 200; i++)
        assert_true(waits[i].calls == 1 && waits[i].ok);
    assert_true(sync_calls <= 100); /* some 2; far more when the machine is busy */
    for (unsigned i = 0; i < 200; i++)
        room_close(&room, i, ROOM_HOUR, NULL);
}

static void test_a_refusing_disk(void **state)
{
    struct room_wait first, opened, closed, late;
    (void) state;
    room_begin(&room);
    assert_true(room_open(&room, 0, ROOM_HOUR, &first));
    room_turn(&room);
    turn_until_told(&first);
    assert_true(first.ok);

    sync_error = EIO;
    assert_true(room_open(&room, 1, ROOM_HOUR, &opened));
    room_close(&room, 0, ROOM_HOUR, &closed);
    room_turn(&room);
    turn_until_told(&opened);
    turn_until_told(&closed);
    assert_false(opened.ok);
    assert_false(closed.ok);
    room_close(&room, 1, ROOM_HOUR, NULL); /* the OPEN is in the file */
    assert_string_equal(journal_trouble(room.journal), "the disk of state_dir refuses to sync");
    assert_false(room_open(&room, 2, ROOM_HOUR, &late));
    assert_int_equal(rewritten_calls, 0);

    sync_error = 0; /* noticed although nobody comes; what was refused is written once more before it counts */
    for (mono_ms until = clock_mono_ms() + 10000; journal_trouble(room.journal)[0] != '\0' && clock_mono_ms() < until;)
        loop_run_once(room.loop, 50);
    assert_string_equal(journal_trouble(room.journal), "");
    assert_true(rewritten_calls > 0);
    assert_true(room_open(&room, 2, ROOM_HOUR, &late));
    room_close(&room, 2, ROOM_HOUR, NULL); /* not told yet; harmless here */
    room_turn(&room);
    turn_until_told(&late);
    assert_true(late.ok);
    journal_destroy(&room.journal);
    struct room_sum sum = room_read(room.writer);
    assert_int_equal(sum.opens, 3);
    assert_int_equal(sum.closes, 3);
    assert_int_equal(sum.finishes, 1);
}

/* How often it was refused before. */
static unsigned turn_until_open(unsigned number)
{
    unsigned refused = 0;
    for (mono_ms until = clock_mono_ms() + 10000; !room_open(&room, number, ROOM_HOUR, NULL); refused++) {
        assert_string_equal(journal_trouble(room.journal), "the journal has no room for more open requests");
        assert_true(clock_mono_ms() < until);
        loop_run_once(room.loop, 50);
    }
    return refused;
}

/* More segments than the thread may hold while the disk works: OPENs are refused, until the disk comes along. */
static void test_segments_outrun_the_disk(void **state)
{
    static struct room_wait waits[600];
    unsigned refused = 0;
    (void) state;
    sync_ms = 300;
    room.options.segment_bytes = 8192;
    room_begin(&room);
    for (unsigned i = 0; i < 600; i++) {
        refused += turn_until_open(i);
        room_turn(&room);
        room_close(&room, i, ROOM_HOUR, &waits[i]);
        room_turn(&room);
    }
    assert_true(refused > 0);
    sync_ms = 1;
    turn_until_told(&waits[599]);
    for (unsigned i = 0; i < 600; i++)
        assert_true(waits[i].calls == 1 && waits[i].ok);
    journal_destroy(&room.journal);
    assert_int_equal(room_read(room.writer).closes, 600);
}

static bool has_file(const char *name)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/%s", room.writer, name);
    return access(path, F_OK) == 0;
}

static void wait_for_calls(int calls)
{
    for (mono_ms until = clock_mono_ms() + 10000; sync_calls < calls && clock_mono_ms() < until;)
        usleep(1000);
    assert_int_equal(sync_calls, calls);
}

/* Else a power cut could leave a torn segment with others after it, which nobody could tell from damage. */
static void test_named_when_the_one_before_is_kept(void **state)
{
    struct room_wait wait;
    (void) state;
    room.options.segment_bytes = 8192;
    room_begin(&room);
    sync_permits = 0;
    for (unsigned i = 0; !has_file("00000003.next"); i++) {
        assert_true(room_open(&room, i, ROOM_HOUR, NULL));
        if (i > 0)
            journal_forget(room.journal, &wait.wait);
        room_close(&room, i, ROOM_HOUR, &wait);
        room_turn(&room);
        wait_for_calls(1);
    }
    sync_permits = 1; /* the first segment's first sync ends, the one of its rest waits */
    wait_for_calls(2);
    assert_true(has_file("00000002.next") && !has_file("00000002.seg"));
    assert_int_equal(wait.calls, 0);
    sync_permits = -1;
    turn_until_told(&wait);
    assert_true(has_file("00000002.seg") && !has_file("00000002.next"));
}

/* While a sync is under way; the loop then ends without a word of it. */
static void test_destroyed_while_it_syncs(void **state)
{
    (void) state;
    for (unsigned round = 0; round < 20; round++) {
        sync_ms = (int) round % 3;
        room_begin(&room);
        assert_true(room_open(&room, 0, ROOM_HOUR, NULL));
        room_turn(&room);
        room_close(&room, 0, ROOM_HOUR, NULL);
        if (round % 2 == 0)
            room_turn(&room);
        journal_destroy(&room.journal);
        assert_true(journal_is_finished(room.writer));
    }
}

static void test_last_words_are_synced(void **state)
{
    struct stat status;
    char path[PATH_MAX + 16];
    (void) state;
    room_begin(&room);
    assert_true(room_open(&room, 0, ROOM_HOUR, NULL));
    room_close(&room, 0, ROOM_HOUR, NULL);
    int before = sync_calls;
    journal_destroy(&room.journal);
    assert_true(sync_calls > before);
    snprintf(path, sizeof path, "%s/00000001.seg", room.writer);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(room_read(room.writer).finishes, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_told_when_the_disk_has_it),
        TEST(test_syncs_are_shared),
        TEST(test_a_refusing_disk),
        TEST(test_segments_outrun_the_disk),
        TEST(test_named_when_the_one_before_is_kept),
        TEST(test_destroyed_while_it_syncs),
        TEST(test_last_words_are_synced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
