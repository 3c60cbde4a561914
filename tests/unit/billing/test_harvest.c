/* billing/harvest: ledger files are what the journal says: in slices, on a disk that refuses, and read again from any
 * segment on. */
#include "billing/harvest.h"

#include <errno.h>
#include <sys/syscall.h>

#include "billing/cells.h"
#include "tests/lib/journal_room.h"

static struct room room;
static char ledger_directory[128];
static struct harvest *harvest;
static unsigned sealed_count;

/* Instead of the library's: what was synced, and whether the disk refuses. */
static struct {
    unsigned count, last_segment;
    bool refuses;
} syncs;

int fdatasync(int fd)
{
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const char *name = readlink(link, path, sizeof path - 1) > 0 ? strrchr(path, '/') : NULL;
    if (name != NULL && strstr(name, ".seg") != NULL) {
        syncs.count++;
        syncs.last_segment = (unsigned) strtoul(name + 1, NULL, 10);
    }
    if (!syncs.refuses)
        return (int) syscall(SYS_fdatasync, fd);
    errno = EIO;
    return -1;
}

static int set_up(void **state)
{
    (void) state;
    unit_random_seed();
    room_init(&room);
    (void) snprintf(ledger_directory, sizeof ledger_directory, "%s.ledger", room.directory);
    if (mkdir(ledger_directory, 0700) != 0)
        return -1;
    room.options.epoch_ms = 1000;
    room.options.segment_bytes = 64 * 1024;
    room_begin(&room);
    harvest = harvest_create(room.writer, journal_writer_id(room.journal), ledger_directory);
    sealed_count = 0;
    memset(&syncs, 0, sizeof syncs);
    return harvest != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    (void) state;
    harvest_destroy(&harvest);
    room_finish(&room);
    return nftw(ledger_directory, room_remove, 8, FTW_DEPTH | FTW_PHYS);
}

static void on_sealed(void *owner, const struct ledger_name *name)
{
    (void) owner;
    (void) name;
    sealed_count++;
}

static size_t ledger_count(void)
{
    struct ledger_name *names;
    size_t count;
    assert_true(ledger_list(ledger_directory, &names, &count));
    free(names);
    return count;
}

static enum harvest_result harvest_all(void)
{
    return harvest_turn(harvest, INT64_MAX, on_sealed, NULL);
}

/* @count requests, one each 100 ms. */
static void write_requests(unsigned first, unsigned count)
{
    for (unsigned i = first; i < first + count; i++) {
        assert_true(room_open(&room, i, ROOM_HOUR, NULL));
        room_close(&room, i, ROOM_HOUR + (wall_ms) i * 100, NULL);
        if (i % 16 == 15)
            room_turn(&room);
    }
    room_turn(&room);
}

/* What all ledger files say of @measure. */
static int64_t ledger_sum(enum measure measure)
{
    struct ledger_name *names;
    size_t count;
    int64_t sum = 0;
    assert_true(ledger_list(ledger_directory, &names, &count));
    for (size_t i = 0; i < count; i++) {
        struct ledger_head head;
        struct cells *cells;
        assert_true(ledger_read(ledger_directory, &names[i], &head, &cells));
        assert_int_equal(head.name.epoch, i + 1);
        struct cell *sorted = cells_sorted(cells);
        for (size_t j = 0; j < cells_count(cells); j++)
            sum += sorted[j].measure == measure ? sorted[j].quantity : 0;
        free(sorted);
        cells_destroy(&cells);
    }
    free(names);
    return sum;
}

static void everything_that_was_closed_is_in_the_ledger(void **state)
{
    (void) state;
    uint64_t sequence = 0;
    assert_int_equal(harvest_all(), HARVEST_IDLE);
    assert_int_equal(harvest_oldest(harvest), 0);
    write_requests(0, 105);
    assert_int_equal(harvest_all(), HARVEST_IDLE);
    assert_int_equal(sealed_count, 10);
    assert_int_equal(ledger_sum(MEASURE_REQUESTS), 100);
    assert_int_equal(harvest_oldest(harvest), ROOM_HOUR + 10000);
    assert_true(harvest_seal_of(harvest, 1, &sequence));
    assert_int_equal(sequence, 22); /* ten OPENs and CLOSEs, and the next OPEN */
    assert_false(harvest_seal_of(harvest, 11, &sequence));
    assert_false(harvest_is_finished(harvest));
    journal_destroy(&room.journal);
    assert_int_equal(harvest_all(), HARVEST_IDLE);
    assert_true(harvest_is_finished(harvest));
    assert_int_equal(harvest_oldest(harvest), 0);
    assert_int_equal(ledger_sum(MEASURE_REQUESTS), 105);
    assert_int_equal(ledger_sum(MEASURE_OUTPUT_TOKENS), 105 * 22);
}

/* A turn that is over at once still goes on, a little at a time. */
static void a_long_journal_is_read_in_slices(void **state)
{
    (void) state;
    unsigned turns = 0;
    write_requests(0, 2000);
    journal_destroy(&room.journal);
    while (harvest_turn(harvest, 0, on_sealed, NULL) == HARVEST_MORE) {
        assert_int_not_equal(harvest_oldest(harvest), 0);
        assert_true(++turns < 10000);
    }
    assert_true(turns > 10);
    assert_int_equal(ledger_sum(MEASURE_REQUESTS), 2000);
}

static void a_ledger_that_refuses_is_asked_again(void **state)
{
    (void) state;
    write_requests(0, 55);
    assert_int_equal(rmdir(ledger_directory), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(harvest_all(), HARVEST_FAILED);
        assert_non_null(strstr(harvest_trouble(harvest), "the ledger file"));
    }
    assert_int_equal(mkdir(ledger_directory, 0700), 0);
    assert_int_equal(harvest_all(), HARVEST_IDLE);
    assert_string_equal(harvest_trouble(harvest), "");
    assert_int_equal(ledger_sum(MEASURE_REQUESTS), 50);
}

/* A sum that does not fit: the epoch is read anew each time, and the ledger never has a part of it. */
static void an_epoch_that_cannot_be_summed_is_never_half_there(void **state)
{
    (void) state;
    struct record huge = room_close_record(10, ROOM_HOUR + 1000);
    write_requests(0, 10);
    for (unsigned i = 10; i < 12; i++) {
        assert_true(room_open(&room, i, ROOM_HOUR, NULL));
        huge.request_id = room_id(i);
        huge.output_tokens = INT64_MAX - 5;
        journal_close(room.journal, &huge, NULL);
    }
    write_requests(30, 20);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(harvest_all(), HARVEST_FAILED);
        assert_non_null(strstr(harvest_trouble(harvest), "an epoch"));
        assert_int_equal(ledger_sum(MEASURE_REQUESTS), 10);
    }
}

/* A new reader after the oldest segments went: the epoch of which it sees a part stays as it was. */
static void what_is_left_is_read_again(void **state)
{
    (void) state;
    struct harvest_segment segment;
    uint64_t sequence = 1;
    write_requests(0, 1005);
    assert_int_equal(harvest_all(), HARVEST_IDLE);
    assert_int_equal(ledger_sum(MEASURE_REQUESTS), 1000);
    assert_true(harvest_oldest_segment(harvest, &segment));
    assert_int_equal(segment.number, 1);
    assert_int_equal(segment.first_epoch, 1);
    assert_true(segment.last_epoch > 1);
    assert_int_equal(segment.open_count, 0);
    uint64_t gone = segment.last_epoch - 1;
    assert_true(harvest_may_hold(harvest, 1));
    assert_true(harvest_remove_segment(harvest));
    assert_false(harvest_may_hold(harvest, gone));
    harvest_destroy(&harvest);
    harvest = harvest_create(room.writer, journal_writer_id(room.journal), ledger_directory);
    assert_false(harvest_seal_of(harvest, gone, &sequence)); /* nothing was read yet */
    assert_int_equal(harvest_all(), HARVEST_IDLE);
    assert_true(harvest_seal_of(harvest, gone, &sequence));
    assert_int_equal(sequence, 0);
    assert_true(harvest_seal_of(harvest, gone + 1, &sequence));
    assert_int_not_equal(sequence, 0);
    journal_destroy(&room.journal);
    assert_int_equal(harvest_all(), HARVEST_IDLE);
    assert_int_equal(ledger_sum(MEASURE_REQUESTS), 1005);
    while (harvest_oldest_segment(harvest, &segment))
        assert_true(harvest_remove_segment(harvest));
    assert_int_equal(rmdir(room.writer), 0);
}

static void a_segment_that_is_missing_is_said(void **state)
{
    (void) state;
    char path[PATH_MAX + 16];
    write_requests(0, 1005);
    snprintf(path, sizeof path, "%s/00000002.seg", room.writer);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(harvest_all(), HARVEST_FAILED);
    assert_non_null(strstr(harvest_trouble(harvest), "damaged"));
    assert_int_equal(harvest_all(), HARVEST_FAILED);
}

/* After a power cut the ledger never knows an epoch that the journal does not. */
static void the_journal_is_on_the_disk_before_the_ledger_says_so(void **state)
{
    (void) state;
    write_requests(0, 1005);
    syncs.refuses = true;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(harvest_all(), HARVEST_FAILED);
        assert_non_null(strstr(harvest_trouble(harvest), "the journal"));
        assert_int_equal(ledger_count(), 0);
    }
    assert_int_equal(syncs.last_segment, 1);
    syncs.refuses = false;
    syncs.count = 0;
    assert_int_equal(harvest_all(), HARVEST_IDLE);
    assert_int_equal(ledger_count(), 100);
    /* Each epoch its own segment, and each segment once more when it is full. */
    assert_true(syncs.last_segment > 1);
    assert_int_equal(syncs.count, 100 + syncs.last_segment - 1);
    syncs.refuses = true;
    write_requests(1005, 10);
    assert_int_equal(harvest_all(), HARVEST_FAILED);
    assert_int_equal(ledger_count(), 100);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(everything_that_was_closed_is_in_the_ledger),
        TEST(a_long_journal_is_read_in_slices),
        TEST(a_ledger_that_refuses_is_asked_again),
        TEST(an_epoch_that_cannot_be_summed_is_never_half_there),
        TEST(what_is_left_is_read_again),
        TEST(a_segment_that_is_missing_is_said),
        TEST(the_journal_is_on_the_disk_before_the_ledger_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
