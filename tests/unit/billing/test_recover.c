/* billing/recover: whatever a dead writer left, every OPEN gets one CLOSE, and repeating it changes nothing. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The process dies inside the write after so many, a part of it done; below 0 = never. */
static int writes_left = -1;

static ssize_t fake_pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    if (writes_left == 0) {
        (void) !pwrite(fd, bytes, count / 2, at);
        _exit(0);
    }
    writes_left -= writes_left > 0;
    return pwrite(fd, bytes, count, at);
}

#define pwrite fake_pwrite
#include "billing/recover.c"
#undef pwrite

#include "tests/lib/journal_room.h"

enum { KILLS = 200, SEGMENT_BYTES = 16384, SHARED_REQUESTS = 4096, MANY_REQUESTS = 9000, WINDOW_BYTES = 256 * 1024 };

static struct room room;

static int set_up(void **state)
{
    (void) state;
    writes_left = -1;
    room_init(&room);
    room.options.segment_bytes = SEGMENT_BYTES;
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    room_finish(&room);
    return 0;
}

/* ---- files by hand ---- */

static void segment_name(char to[PATH_MAX], unsigned number)
{
    assert_true(snprintf(to, PATH_MAX, "%.200s/%08u.seg", room.writer, number) < PATH_MAX);
}

/* CRC over the bytes of all segments, and how many there are. */
static uint32_t content(const char *writer)
{
    char path[PATH_MAX], bytes[4096];
    uint32_t crc = 0;
    (void) writer;
    for (unsigned number = 1;; number++) {
        segment_name(path, number);
        int fd = open(path, O_RDONLY);
        if (fd < 0)
            return crc + number;
        for (ssize_t length; (length = read(fd, bytes, sizeof bytes)) > 0;)
            crc = crc32c(crc, bytes, (size_t) length);
        close(fd);
    }
}

static void overwrite(unsigned segment, off_t at, const void *bytes, size_t count)
{
    char path[PATH_MAX];
    segment_name(path, segment);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, count, at), count);
    close(fd);
}

static struct journal_position end_of(const char *writer)
{
    struct record record;
    struct journal_reader *reader = journal_reader_create(writer, NULL);
    while (journal_read_next(reader, &record) == JOURNAL_RECORD) {
    }
    struct journal_position position = journal_reader_position(reader);
    journal_reader_destroy(&reader);
    return position;
}

static off_t size_of(unsigned segment)
{
    char path[PATH_MAX];
    struct stat status;
    segment_name(path, segment);
    assert_int_equal(stat(path, &status), 0);
    return status.st_size;
}

/* Recover, look, and recover once more: nothing changes. */
static struct recovery recover_and_check(void)
{
    struct recovery found, again;
    assert_true(journal_recover(room.writer, true, &found));
    uint32_t before = content(room.writer);
    struct room_sum sum = room_read(room.writer);
    assert_int_equal(sum.opens, sum.closes);
    assert_int_equal(sum.finishes, 1);
    assert_int_equal(sum.end, JOURNAL_NO_MORE_YET);
    assert_true(journal_is_finished(room.writer));
    assert_int_equal(size_of(end_of(room.writer).segment), end_of(room.writer).offset);
    assert_true(journal_recover(room.writer, true, &again));
    assert_int_equal(again.crashed_requests, 0);
    assert_int_equal(content(room.writer), before);
    return found;
}

/* ---- kill -9 ---- */

/* What the child was told is durable, in memory that outlives it. */
struct shared {
    _Atomic uint8_t opened[SHARED_REQUESTS], closed[SHARED_REQUESTS];
};
static struct shared *shared;

static void on_opened(struct journal_wait *wait, bool ok)
{
    shared->opened[(uintptr_t) wait->owner] = ok;
}

static void on_closed(struct journal_wait *wait, bool ok)
{
    shared->closed[(uintptr_t) wait->owner] = ok;
}

/* Requests of some turns each, until the parent kills it. */
_Noreturn static void write_for_ever(void)
{
    static struct journal_wait opens[SHARED_REQUESTS], closes[SHARED_REQUESTS];
    for (unsigned i = 0; i < SHARED_REQUESTS; i++) {
        wall_ms when = ROOM_HOUR + ROOM_HOUR_MS - 20 + i;
        struct record open_record = room_open_record(i, when);
        opens[i] = (struct journal_wait){.durable = on_opened, .owner = (void *) (uintptr_t) i};
        closes[i] = (struct journal_wait){.durable = on_closed, .owner = (void *) (uintptr_t) i};
        while (!journal_open(room.journal, &open_record, &opens[i]))
            loop_run_once(room.loop, 10); /* faster than the disk */
        journal_progress(room.journal, room_id(i), i, when);
        if (i % 3 == 0)
            room_turn(&room);
        if (i < 10)
            continue;
        struct record close_record = room_close_record(i - 10, when);
        journal_close(room.journal, &close_record, &closes[i - 10]);
    }
    for (;;)
        pause();
}

static void check_against_shared(void)
{
    struct record record;
    uint8_t opened[SHARED_REQUESTS] = {0}, closed[SHARED_REQUESTS] = {0};
    struct journal_reader *reader = journal_reader_create(room.writer, NULL);
    while (journal_read_next(reader, &record) == JOURNAL_RECORD) {
        size_t number = record.request_id.length > 0 ? strtoul(record.request_id.at + 4, NULL, 10) : 0;
        if (record.type == RECORD_OPEN)
            opened[number] = 1;
        if (record.type == RECORD_CLOSE && record.end == END_COMPLETE)
            closed[number] = 1;
    }
    journal_reader_destroy(&reader);
    for (unsigned i = 0; i < SHARED_REQUESTS; i++)
        assert_true(opened[i] >= shared->opened[i] && closed[i] >= shared->closed[i]);
}

static void test_kill_9(void **state)
{
    uint64_t crashed = 0;
    (void) state;
    for (unsigned round = 0; round < KILLS; round++) {
        memset(shared, 0, sizeof *shared);
        room.options.sync = round % 10 == 0 ? JOURNAL_GROUP : JOURNAL_OS;
        room.options.slot = (int) round;
        int ready[2];
        assert_int_equal(pipe(ready), 0);
        pid_t child = fork();
        if (child == 0) {
            room.loop = loop_create();
            room.journal = journal_create(room.loop, &room.options);
            if (room.journal == NULL || write(ready[1], journal_writer_id(room.journal), WRITER_ID_CHARACTERS) < 0)
                _exit(1);
            write_for_ever();
        }
        char id[WRITER_ID_CHARACTERS + 1] = "";
        assert_int_equal(read(ready[0], id, WRITER_ID_CHARACTERS), WRITER_ID_CHARACTERS);
        usleep((useconds_t) unit_random_below(3000));
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        close(ready[0]);
        close(ready[1]);
        snprintf(room.writer, sizeof room.writer, "%s/%u-%s", room.directory, round, id);
        crashed += recover_and_check().crashed_requests;
        check_against_shared();
    }
    assert_true(crashed > KILLS); /* it was not always too early */
}

/* ---- what a crash left ---- */

/* Some requests, of which the last @open stay open, and the files as a crash leaves them. */
static void write_and_leave(unsigned count, unsigned open)
{
    room_begin(&room);
    for (unsigned i = 0; i < count; i++)
        assert_true(room_open(&room, i, ROOM_HOUR + i, NULL));
    for (unsigned i = 0; i < count - open; i++)
        room_close(&room, i, ROOM_HOUR + i, NULL);
    for (unsigned i = count - open; i < count; i += 2)
        journal_progress(room.journal, room_id(i), 64, ROOM_HOUR + i + 1000);
    journal_destroy(&room.journal);
}

static void test_torn_tail_is_cut(void **state)
{
    (void) state;
    for (unsigned torn = 1; torn < 40; torn += 3) {
        write_and_leave(10, 4);
        char bytes[RECORD_BYTES_MAX];
        struct journal_position end = end_of(room.writer);
        struct record record = room_close_record(9, ROOM_HOUR);
        record.sequence = end.sequence + 1;
        record_encode(&record, bytes);
        overwrite(end.segment, (off_t) end.offset, bytes, torn);
        overwrite(end.segment, (off_t) end.offset + 600, "\1", 1); /* a hole before it */
        record.sequence = end.sequence;
        overwrite(end.segment, (off_t) end.offset + 100, bytes, record_encode(&record, bytes)); /* none that is later */
        struct recovery found = recover_and_check();
        assert_int_equal(found.crashed_requests, 4);
        assert_int_equal(found.torn_bytes, 601);
    }
}

static void test_damage_inside_is_no_tail(void **state)
{
    struct recovery found;
    (void) state;
    room.options.segment_bytes = 8192;
    room_begin(&room);
    for (unsigned i = 0; i < 200; i++) {
        assert_true(room_open(&room, i, ROOM_HOUR, NULL));
        room_close(&room, i, ROOM_HOUR, NULL);
    }
    journal_destroy(&room.journal);
    uint32_t before = content(room.writer);
    overwrite(2, 4000, "\377\377\377\377", 4);
    assert_int_equal(room_read(room.writer).end, JOURNAL_DAMAGED);
    assert_false(journal_recover(room.writer, true, &found));
    assert_int_equal(errno, EBADMSG);
    assert_false(journal_is_finished(room.writer));
    assert_int_not_equal(content(room.writer), before); /* nothing but what was done to it here */
    char path[PATH_MAX];
    segment_name(path, 3);
    assert_int_equal(unlink(path), 0); /* now a gap, too */
    assert_false(journal_recover(room.writer, true, &found) && found.records > 200);
}

/* Records stand behind it: nothing of the file may change, and nobody takes what comes before it for everything. */
static void refuse_and_check(unsigned segment, off_t at, const char *bytes, size_t count)
{
    struct recovery found;
    overwrite(segment, at, bytes, count);
    uint32_t before = content(room.writer);
    errno = 0;
    assert_false(journal_recover(room.writer, true, &found));
    assert_int_equal(errno, EBADMSG);
    assert_int_equal(content(room.writer), before);
    assert_int_equal(room_read(room.writer).end, JOURNAL_DAMAGED);
    assert_false(journal_is_finished(room.writer));
}

/* Where record @number, from 1, begins. */
static struct journal_position place_of(uint64_t number)
{
    struct record record;
    struct journal_reader *reader = journal_reader_create(room.writer, NULL);
    while (--number > 0)
        assert_int_equal(journal_read_next(reader, &record), JOURNAL_RECORD);
    struct journal_position position = journal_reader_position(reader);
    journal_reader_destroy(&reader);
    return position;
}

static void test_damage_in_the_last_segment(void **state)
{
    static const char zeros[SEGMENT_BYTES];
    (void) state;
    for (uint64_t number = 1; number < 18; number++) {
        char bit;
        write_and_leave(10, 4); /* 10 OPENs, 6 CLOSEs, 2 PROGRESSes, a SEAL */
        off_t at = (off_t) place_of(number).offset, length = (off_t) place_of(number + 1).offset - at;
        for (off_t byte = at; byte < at + length; byte += 7) {
            char path[PATH_MAX];
            segment_name(path, 1);
            int fd = open(path, O_RDONLY);
            assert_int_equal(pread(fd, &bit, 1, byte), 1);
            close(fd);
            bit ^= 4;
            refuse_and_check(1, byte, &bit, 1);
            bit ^= 4;
            overwrite(1, byte, &bit, 1);
        }
        refuse_and_check(1, at, zeros, (size_t) length);
        refuse_and_check(1, 0, zeros, (size_t) (at + length));
    }
    write_and_leave(10, 4);
    struct journal_position end = end_of(room.writer), last = place_of(end.sequence);
    overwrite(1, (off_t) last.offset + 20, "\377\377", 2); /* nothing stands behind it */
    assert_in_range(recover_and_check().torn_bytes, 22, end.offset - last.offset);
}

static void write_many(void)
{
    room_begin(&room);
    for (unsigned i = 0; i < MANY_REQUESTS; i++) {
        assert_true(room_open(&room, i, ROOM_HOUR, NULL));
        if (i > 2)
            room_close(&room, i, ROOM_HOUR, NULL);
        room_turn(&room);
    }
    journal_destroy(&room.journal);
}

/* Longer than what a reader holds at once. */
static void test_long_damage(void **state)
{
    static char bytes[700 * 1024];
    (void) state;
    room.options.segment_bytes = 4 * 1024 * 1024;
    for (int round = 0; round < 4; round++) {
        memset(bytes, round % 2 == 0 ? 0 : 0x5a, sizeof bytes);
        write_many();
        refuse_and_check(1, round < 2 ? 1000 : 0, bytes, sizeof bytes);
    }
    write_many();
    struct journal_position middle = place_of(5000);
    for (unsigned i = 0; i < 3; i++)
        overwrite(1, (off_t) (middle.offset + i * sizeof bytes), bytes, sizeof bytes);
    assert_int_equal(room_read(room.writer).records, 4999);
    struct record late = room_open_record(1, ROOM_HOUR);
    late.sequence = 6000;
    char alone[RECORD_BYTES_MAX];
    size_t length = record_encode(&late, alone);
    off_t at = (off_t) middle.offset + WINDOW_BYTES - 30; /* half of it is in the next window */
    refuse_and_check(1, at, alone, length);
    overwrite(1, at, bytes, length);
    assert_int_equal(recover_and_check().torn_bytes, 3 * sizeof bytes);
}

/* The whole of a recovery, killed in each of its writes, any number of times. */
static void test_crash_while_recovering(void **state)
{
    (void) state;
    for (int kill_at = 0; kill_at < 12; kill_at++) {
        write_and_leave(12, 7);
        struct journal_position end = end_of(room.writer);
        overwrite(end.segment, (off_t) end.offset, "\7\0\0\0torn", 8);
        for (int again = 0; again < 3; again++) {
            pid_t child = fork();
            if (child == 0) {
                struct recovery found;
                writes_left = kill_at;
                _exit(!journal_recover(room.writer, true, &found));
            }
            int status;
            assert_int_equal(waitpid(child, &status, 0), child);
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        }
        recover_and_check();
        struct room_sum sum = room_read(room.writer);
        assert_int_equal(sum.crashed, 7);
        assert_int_equal(sum.seals, 2); /* one in order, one by the recovery */
    }
}

static void test_crashed_requests_are_billed_by_progress(void **state)
{
    struct record record;
    struct recovery found;
    (void) state;
    for (int bill_crash = 0; bill_crash < 2; bill_crash++) {
        write_and_leave(2, 2); /* of which the first had a PROGRESS */
        assert_true(journal_recover(room.writer, bill_crash, &found));
        struct journal_reader *reader = journal_reader_create(room.writer, NULL);
        unsigned closes = 0;
        while (journal_read_next(reader, &record) == JOURNAL_RECORD) {
            if (record.type != RECORD_CLOSE)
                continue;
            bool has_progress = text_equal(record.request_id, room_id(0));
            closes++;
            assert_int_equal(record.end, END_CRASH);
            assert_int_equal(record.billed, bill_crash && has_progress);
            assert_int_equal(record.when, has_progress ? ROOM_HOUR + 1000 : ROOM_HOUR + 1);
            assert_int_equal(record.input_tokens, has_progress ? 11 : 0);
            assert_int_equal(record.output_tokens, has_progress ? 64 : 0);
            assert_int_equal(record.input_source, has_progress ? COUNT_ESTIMATED : COUNT_NONE);
            assert_int_equal(record.output_source, has_progress ? COUNT_COUNTED : COUNT_NONE);
            assert_true(text_equal(record.tenant, TEXT("acme")) && text_equal(record.key, TEXT("key-1")));
            assert_true(text_equal(record.model, TEXT("gemma")));
        }
        assert_int_equal(closes, 2);
        journal_reader_destroy(&reader);
    }
}

/* The open epoch is of one hour, the PROGRESSes are of three: room_read sees that no epoch spans an hour. */
static void test_usage_stands_in_its_hour(void **state)
{
    static const wall_ms HOURS[] = {-1, 1, 0, 2, -1, 0};
    (void) state;
    room_begin(&room);
    for (unsigned i = 0; i < 7; i++)
        assert_true(room_open(&room, i, ROOM_HOUR - ROOM_HOUR_MS, NULL));
    room_close(&room, 6, ROOM_HOUR + 100, NULL);
    for (unsigned i = 0; i < 6; i++)
        journal_progress(room.journal, room_id(i), 1, ROOM_HOUR + HOURS[i] * ROOM_HOUR_MS + 50);
    journal_destroy(&room.journal);
    recover_and_check();
    assert_int_equal(room_read(room.writer).last_epoch, 1 + 4);
}

/* Segments whose work is done go, and the epochs' numbers with them: what is left is closed in an epoch that nobody
 * can have used. */
static void test_first_segments_are_gone(void **state)
{
    char path[PATH_MAX], bytes[2 * RECORD_BYTES_MAX] = {0};
    struct recovery found;
    struct record record = room_open_record(1, ROOM_HOUR), progress = {.type = RECORD_PROGRESS, .when = ROOM_HOUR};
    (void) state;
    snprintf(room.writer, sizeof room.writer, "%s/0-late", room.directory);
    assert_int_equal(mkdir(room.writer, 0700), 0);
    segment_name(path, 4);
    record.sequence = 1000;
    progress.sequence = 1001;
    progress.request_id = room_id(1);
    size_t length = record_encode(&record, bytes);
    record_encode(&progress, bytes + length);
    assert_int_equal(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    overwrite(4, 0, bytes, sizeof bytes);
    assert_true(journal_recover(room.writer, true, &found));
    assert_int_equal(found.crashed_requests, 1);
    assert_true(journal_is_finished(room.writer));
    struct journal_reader *reader = journal_reader_create(room.writer, NULL);
    for (uint64_t sequence = 1000; journal_read_next(reader, &record) == JOURNAL_RECORD; sequence++) {
        assert_int_equal(record.sequence, sequence);
        assert_true(record.type != RECORD_CLOSE || record.epoch == 1002);
    }
    assert_int_equal(record.type, RECORD_FINISH);
    journal_reader_destroy(&reader);
}

static void test_nothing_was_written(void **state)
{
    struct recovery found;
    char path[PATH_MAX];
    (void) state;
    snprintf(room.writer, sizeof room.writer, "%s/7-empty", room.directory);
    assert_int_equal(mkdir(room.writer, 0700), 0);
    snprintf(path, sizeof path, "%.200s/00000001.next", room.writer);
    assert_int_equal(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    recover_and_check();
    snprintf(path, sizeof path, "%.200s/not there", room.directory);
    assert_false(journal_recover(path, true, &found));
    assert_false(journal_is_finished(path));
}

/* Level GROUP names a segment late: what a kill left there counts, what follows a power cut's gap does not. */
static void test_segments_without_their_names(void **state)
{
    char path[PATH_MAX], unnamed[PATH_MAX];
    (void) state;
    room.options.segment_bytes = 8192;
    for (int power_cut = 0; power_cut < 2; power_cut++) {
        room_begin(&room);
        for (unsigned i = 0; i < 300; i++) {
            assert_true(room_open(&room, i, ROOM_HOUR, NULL));
            room_close(&room, i, ROOM_HOUR, NULL);
        }
        assert_true(room_open(&room, 300, ROOM_HOUR, NULL)); /* else it would be finished */
        journal_destroy(&room.journal);
        struct room_sum whole = room_read(room.writer);
        unsigned last = end_of(room.writer).segment;
        for (unsigned number = last - 1; number <= last; number++) {
            segment_name(path, number);
            snprintf(unnamed, sizeof unnamed, "%.200s/%08u.next", room.writer, number);
            assert_int_equal(rename(path, unnamed), 0);
        }
        struct journal_position end = end_of(room.writer);
        if (power_cut)
            overwrite(end.segment, (off_t) end.offset - 20, "\377\377", 2);
        recover_and_check();
        struct room_sum found = room_read(room.writer);
        assert_true(power_cut ? found.closes < whole.closes : found.closes == whole.closes + 1);
        assert_int_equal(end_of(room.writer).segment, power_cut ? last - 2 : last);
        assert_int_equal(access(unnamed, F_OK), -1);
    }
}

static void test_allocated_segment_goes(void **state)
{
    char path[PATH_MAX];
    (void) state;
    write_and_leave(3, 2);
    snprintf(path, sizeof path, "%.200s/00000002.next", room.writer);
    assert_int_equal(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    recover_and_check();
    assert_int_equal(access(path, F_OK), -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static void test_names_of_writers(void **state)
{
    (void) state;
    static const char id[] = "0123456789abcdef0123456789abcdef";
    static const char *const others[] = {"",
                                         "-",
                                         "1",
                                         "1-",
                                         "x-0123456789abcdef0123456789abcdef",
                                         "1-0123456789abcdef0123456789abcde",
                                         "1-0123456789ABCDEF0123456789abcdef",
                                         "1-0123456789abcdef0123456789abcdef0",
                                         "-0123456789abcdef0123456789abcdef"};
    assert_string_equal(journal_writer_in("17-0123456789abcdef0123456789abcdef"), id);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        assert_null(journal_writer_in(others[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_kill_9),
        TEST(test_torn_tail_is_cut),
        TEST(test_damage_inside_is_no_tail),
        TEST(test_damage_in_the_last_segment),
        TEST(test_long_damage),
        TEST(test_crash_while_recovering),
        TEST(test_crashed_requests_are_billed_by_progress),
        TEST(test_usage_stands_in_its_hour),
        TEST(test_first_segments_are_gone),
        TEST(test_nothing_was_written),
        TEST(test_allocated_segment_goes),
        TEST(test_segments_without_their_names),
        TEST(test_names_of_writers),
    };
    unit_random_seed();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
