/* billing/journal_reader: whatever the writer does between two looks at a segment, each record is read once. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <unistd.h>

/* What the writer does while the reader looks into the file, or just after it has looked for the next segment. */
static void (*meanwhile)(void);
static int reads_left = -1; /* then one fails; below 0 = none does */

/* A page after the other: a reader may see what was written last and not what was written before it. */
static ssize_t watched_pread(int fd, void *bytes, size_t count, off_t at)
{
    enum { PAGE_BYTES = 512 };
    if (reads_left-- == 0) {
        errno = EIO;
        return -1;
    }
    ssize_t length = pread(fd, bytes, count, at);
    meanwhile();
    if (length <= PAGE_BYTES)
        return length;
    return PAGE_BYTES + pread(fd, (char *) bytes + PAGE_BYTES, (size_t) length - PAGE_BYTES, at + PAGE_BYTES);
}

static int watched_access(const char *path, int how)
{
    int found = access(path, how);
    meanwhile();
    return found;
}

#define pread  watched_pread
#define access watched_access
#include "billing/journal_reader.c"
#undef pread
#undef access

#include "tests/lib/journal_room.h"

enum { REQUESTS = 3000 };

static struct room room;
static unsigned written;
static size_t most_at_once;

static int set_up(void **state)
{
    (void) state;
    room_init(&room);
    room.options.segment_bytes = 8192;
    room_begin(&room);
    written = 0;
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    room_finish(&room);
    return 0;
}

static struct journal_reader *read_from(const struct journal_position *from)
{
    struct journal_reader *reader = journal_reader_create(room.writer, from);
    if (reader == NULL)
        abort();
    return reader;
}

static void write_some(void)
{
    bool is_quiet = unit_random_below(4) != 0; /* or no look would ever find nothing new */
    for (size_t more = is_quiet ? 0 : unit_random_below(most_at_once); more > 0 && written < REQUESTS; more--) {
        assert_true(room_open(&room, written, ROOM_HOUR, NULL));
        room_turn(&room);
        room_close(&room, written++, ROOM_HOUR, NULL);
        room_turn(&room);
    }
    if (written == REQUESTS)
        journal_destroy(&room.journal);
}

static void test_writer_between_two_looks(void **state)
{
    static const size_t MOST[] = {2, 5, 60, 400};
    (void) state;
    for (size_t i = 0; i < sizeof MOST / sizeof MOST[0]; i++) {
        struct journal_reader *reader = read_from(NULL);
        struct record record = {.type = RECORD_OPEN};
        enum journal_read result = JOURNAL_NO_MORE_YET;
        uint64_t closes = 0;
        most_at_once = MOST[i];
        meanwhile = write_some;
        while (record.type != RECORD_FINISH && result != JOURNAL_DAMAGED) {
            result = journal_read_next(reader, &record);
            closes += result == JOURNAL_RECORD && record.type == RECORD_CLOSE;
        }
        assert_int_not_equal(result, JOURNAL_DAMAGED);
        assert_int_equal(closes, REQUESTS);
        assert_int_equal(journal_read_next(reader, &record), JOURNAL_NO_MORE_YET);
        journal_reader_destroy(&reader);
        room_begin(&room);
        written = 0;
    }
}

static void write_nothing(void)
{
}

/* A position goes on where it was taken, also at the end of a segment that was not the last any more. */
static void test_positions(void **state)
{
    struct record record;
    (void) state;
    meanwhile = write_nothing;
    most_at_once = REQUESTS;
    while (written < 200)
        write_some();
    struct journal_position position = {.segment = 1};
    uint64_t sequence = 0;
    for (;;) {
        struct journal_reader *reader = read_from(&position);
        enum journal_read result = journal_read_next(reader, &record);
        position = journal_reader_position(reader);
        journal_reader_destroy(&reader);
        if (result != JOURNAL_RECORD)
            break;
        assert_int_equal(record.sequence, ++sequence);
        assert_int_equal(position.sequence, sequence);
    }
    assert_true(sequence >= 400 && position.segment > 2);
}

/* While its writer lives: torn until there is a record behind it, which a writer that is in the middle of it has not.
 */
static void test_damage_at_the_end(void **state)
{
    struct record record;
    (void) state;
    meanwhile = write_nothing;
    struct journal_reader *reader = read_from(NULL);
    assert_true(room_open(&room, 0, ROOM_HOUR, NULL) && room_open(&room, 1, ROOM_HOUR, NULL));
    room_turn(&room);
    assert_int_equal(journal_read_next(reader, &record), JOURNAL_RECORD);
    assert_int_equal(journal_read_next(reader, &record), JOURNAL_RECORD);
    assert_int_equal(journal_read_next(reader, &record), JOURNAL_NO_MORE_YET);
    struct journal_position end = journal_reader_position(reader);
    assert_true(room_open(&room, 2, ROOM_HOUR, NULL));
    room_turn(&room);
    char path[PATH_MAX];
    assert_true(segment_path(reader, end.segment, path));
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "\377", 1, (off_t) end.offset + 20), 1);
    close(fd);
    assert_int_equal(journal_read_next(reader, &record), JOURNAL_NO_MORE_YET);
    room_close(&room, 1, ROOM_HOUR, NULL);
    room_turn(&room);
    assert_int_equal(journal_read_next(reader, &record), JOURNAL_DAMAGED);
    assert_int_equal(journal_reader_position(reader).offset, end.offset);
    journal_reader_destroy(&reader);
}

/* What a failing disk does not show may be a record. */
static void test_disk_that_fails_behind_the_end(void **state)
{
    struct record record;
    (void) state;
    meanwhile = write_nothing;
    assert_true(room_open(&room, 0, ROOM_HOUR, NULL));
    room_turn(&room);
    struct journal_reader *reader = read_from(NULL);
    assert_int_equal(journal_read_next(reader, &record), JOURNAL_RECORD);
    reads_left = 1;
    assert_int_equal(journal_read_next(reader, &record), JOURNAL_DAMAGED);
    reads_left = -1;
    journal_reader_destroy(&reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_writer_between_two_looks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_positions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage_at_the_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_disk_that_fails_behind_the_end, set_up, tear_down),
    };
    unit_random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
