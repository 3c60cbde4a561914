/* billing/restore, with shipper and scripts: whatever happens to Redis and whichever segments have gone, its sums are
 * those of ledger files and journal. */
#include "base/redis.h"

/* How many of a hundred answers get lost on their way back, and before how many Redis is wiped. */
static unsigned lost_percent, accident_percent;
/* After how many steps something happens once, and what. */
static unsigned accident_in;
static void (*accident)(void);
static enum redis_result lossy_run(struct redis *redis, const struct redis_script *script, const struct text *words,
                                   size_t count, const struct redis_reply **ret);
#define redis_run lossy_run
#include "billing/restore.c"
#undef redis_run

#include "base/log.h"
#include "billing/shipper.h"
#include "tests/lib/ledger_room.h"

enum {
    RETENTION_S = 20 * 365 * 24 * 3600,
    APART_MS = 400,
    SEGMENTS_MAX = 4096,
    STEPS = 400,
    SEGMENT_BYTES = 64 * 1024
};

static struct room room;
static struct redis_room store;
static struct redis *connection;
static struct ship_batch *batch;
static struct shipper *shipper;
static unsigned number; /* of requests written */
static char files[128], backup[128];
static bool has_backup;
/* What was ever in the journal. */
static struct ledger *truth;
static struct journal_reader *witness;
static uint64_t last_epoch_of[SEGMENTS_MAX];
/* What is in ledger files. */
static struct journal_reader *harvester;
static struct cells *harvest;
static uint64_t harvested;
static uint32_t oldest_segment;
static uint64_t restored_before; /* by other processes */

static enum redis_result lossy_run(struct redis *redis, const struct redis_script *script, const struct text *words,
                                   size_t count, const struct redis_reply **ret)
{
    if (unit_random_below(100) < accident_percent)
        (void) REDIS_ROOM_ASK(&store, "FLUSHALL");
    if (accident_in > 0 && --accident_in == 0)
        accident();
    enum redis_result result = redis_run(redis, script, words, count, ret);
    return result == REDIS_DONE && unit_random_below(100) < lost_percent ? REDIS_DOWN : result;
}

static struct shipper *make_shipper(void)
{
    struct shipper_options options = {.writer_directory = room.writer,
                                      .ledger_directory = files,
                                      .writer_id = strrchr(room.writer, '-') + 1,
                                      .retention_s = RETENTION_S};
    return shipper_create(&options);
}

static int set_up(void **state)
{
    (void) state;
    unit_random_seed();
    lost_percent = accident_percent = accident_in = number = 0;
    harvested = restored_before = 0;
    oldest_segment = 1;
    has_backup = false;
    redis_room_init(&store);
    redis_room_start(&store);
    room_init(&room);
    room.options.segment_bytes = SEGMENT_BYTES;
    room_begin(&room);
    snprintf(files, sizeof files, "%s/ledger", room.directory);
    snprintf(backup, sizeof backup, "%s/backup", store.directory);
    assert_int_equal(mkdir(files, 0700), 0);
    connection = redis_create(&store.options);
    batch = ship_batch_create();
    shipper = make_shipper();
    truth = calloc(1, sizeof *truth);
    harvest = cells_create();
    witness = journal_reader_create(room.writer, NULL);
    harvester = journal_reader_create(room.writer, NULL);
    assert_true(connection != NULL && batch != NULL && shipper != NULL && truth != NULL && harvest != NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    journal_reader_destroy(&witness);
    journal_reader_destroy(&harvester);
    cells_destroy(&harvest);
    free(truth);
    shipper_destroy(&shipper);
    ship_batch_destroy(&batch);
    redis_destroy(&connection);
    room_finish(&room);
    redis_room_finish(&store);
    return 0;
}

/* ---- what happens ---- */

static void see_all(void)
{
    struct record record;
    while (journal_read_next(witness, &record) == JOURNAL_RECORD) {
        uint32_t segment = journal_reader_position(witness).segment;
        ledger_add_record(truth, &record);
        assert_true(segment < SEGMENTS_MAX);
        last_epoch_of[segment] = truth->last_epoch;
    }
}

static void write_some(unsigned count)
{
    ledger_room_write(&room, &number, count, APART_MS);
    see_all();
}

static void harvest_all(void)
{
    struct record record;
    while (journal_read_next(harvester, &record) == JOURNAL_RECORD) {
        if (record.type == RECORD_CLOSE)
            assert_true(cells_add_close(harvest, &record));
        if (record.type != RECORD_SEAL)
            continue;
        struct ledger_head head = {.began = record.epoch_began, .ended = record.when};
        text_copy(head.name.writer, sizeof head.name.writer, text_of(shipper_writer_id(shipper)));
        head.name.epoch = harvested = record.epoch;
        assert_true(ledger_write(files, &head, harvest));
        cells_destroy(&harvest);
        harvest = cells_create();
    }
}

/* Up to @count of those of which all epochs have ledger files. */
static void remove_segments(size_t count)
{
    char path[PATH_MAX + 16];
    uint32_t last = journal_reader_position(harvester).segment;
    for (; count > 0 && oldest_segment < last && last_epoch_of[oldest_segment] <= harvested; count--) {
        snprintf(path, sizeof path, "%s/%08u.seg", room.writer, oldest_segment++);
        assert_int_equal(unlink(path), 0);
    }
}

static void copy_redis(void)
{
    char data[PATH_MAX + 32];
    snprintf(data, sizeof data, "%s/appendonlydir", store.redis.directory);
    redis_room_kill(&store);
    if (has_backup)
        assert_int_equal(nftw(backup, redis_room_remove, 8, FTW_DEPTH | FTW_PHYS), 0);
    redis_room_copy(data, backup);
    has_backup = true;
    redis_room_start(&store);
}

static void go_back(void)
{
    char data[PATH_MAX + 32];
    snprintf(data, sizeof data, "%s/appendonlydir", store.redis.directory);
    if (!has_backup)
        return;
    redis_room_kill(&store);
    assert_int_equal(nftw(data, redis_room_remove, 8, FTW_DEPTH | FTW_PHYS), 0);
    redis_room_copy(backup, data);
    redis_room_start(&store);
}

static void lose_tail(void)
{
    redis_room_kill(&store);
    redis_room_lose_tail(&store);
    redis_room_start(&store);
}

static void wipe(void)
{
    (void) REDIS_ROOM_ASK(&store, "FLUSHALL");
}

static void be_another_process(void)
{
    restored_before += shipper_restored(shipper);
    shipper_destroy(&shipper);
    shipper = make_shipper();
}

static void take_turns(size_t count)
{
    while (count-- > 0)
        if (shipper_turn(shipper, batch, connection) == SHIPPER_STUCK)
            fail_msg("%s", shipper_trouble(shipper));
}

/* Until Redis has what there is, and says so when it is asked again. */
static void settle(void)
{
    mono_ms until = clock_mono_ms() + 60000;
    unsigned idle = 0;
    while (idle < 2) {
        enum shipper_result result = shipper_turn(shipper, batch, connection);
        if (result == SHIPPER_STUCK || clock_mono_ms() > until)
            fail_msg("%s %s", redis_error(connection), shipper_trouble(shipper));
        if (result == SHIPPER_DOWN)
            usleep(2000);
        if (result == SHIPPER_IDLE)
            idle = shipper_check(shipper, batch, connection) == SHIPPER_IDLE ? idle + 1 : 0;
        else
            idle = 0;
    }
}

static bool is_exact(void)
{
    return ledger_equals(&store, truth, shipper_writer_id(shipper));
}

/* ---- tests ---- */

static void wiped_redis_gets_what_only_files_have(void **state)
{
    (void) state;
    write_some(4000);
    settle();
    harvest_all();
    remove_segments(SIZE_MAX);
    assert_true(oldest_segment > 3);
    wipe();
    settle();
    assert_true(is_exact());
    assert_true(shipper_restored(shipper) >= 3);
    /* Cells put back live as long as others, and nothing is left of the restoration. */
    char key[128];
    int64_t seconds = 0;
    snprintf(key, sizeof key, "tg:{%s}:cells:1", shipper_writer_id(shipper));
    assert_true(redis_reply_integer(REDIS_ROOM_ASK(&store, "TTL", key), &seconds));
    assert_in_range(seconds, RETENTION_S + SHIP_MARGIN_S - 100, RETENTION_S + SHIP_MARGIN_S);
    snprintf(key, sizeof key, "tg:{%s}:restoring", shipper_writer_id(shipper));
    assert_true(redis_reply_integer(REDIS_ROOM_ASK(&store, "EXISTS", key), &seconds));
    assert_int_equal(seconds, 0);
    /* And again in a new process, which knows nothing of before. */
    wipe();
    be_another_process();
    write_some(300);
    settle();
    assert_true(is_exact());
}

/* Of the epochs that have files: those that Redis has. */
static void assert_restored_since(uint64_t first)
{
    char key[128], epoch[32];
    for (uint64_t i = 1; i <= harvested; i++) {
        snprintf(epoch, sizeof epoch, "%llu", (unsigned long long) i);
        snprintf(key, sizeof key, "tg:{%s}:sealed", shipper_writer_id(shipper));
        struct text sealed = redis_reply_text(REDIS_ROOM_ASK(&store, "HGET", key, epoch));
        assert_true(text_equal(sealed, text_of(i >= first ? truth->epochs[i].sealed : "")));
        snprintf(key, sizeof key, "tg:{%s}:cells:%s", shipper_writer_id(shipper), epoch);
        size_t words = redis_reply_count(REDIS_ROOM_ASK(&store, "HGETALL", key));
        assert_int_equal(words, i >= first ? 2 * truth->epochs[i].cells : 0);
    }
}

/* What ended longer ago than Redis keeps anything is not put back, with any damage among it. */
static void old_epochs_are_passed_by(void **state)
{
    struct ledger_name *names = NULL;
    struct ledger_head head;
    char path[PATH_MAX];
    size_t count = 0;
    (void) state;
    write_some(8000);
    harvest_all();
    assert_true(harvested >= 8 && ledger_list(files, &names, &count) && count == harvested);
    for (size_t first = 0; first <= count; first++) {
        struct restore_options options = {.ledger_directory = files,
                                          .writer_id = shipper_writer_id(shipper),
                                          .names = names,
                                          .count = count,
                                          .since = INT64_MAX,
                                          .retention_s = RETENTION_S};
        if (first < count && ledger_read(files, &names[first], &head, NULL))
            options.since = head.ended;
        struct restore *restore = restore_create(&options);
        assert_non_null(restore);
        assert_int_equal(restore_is_empty(restore), first == count);
        wipe();
        while (restore_turn(restore, connection) != RESTORE_DONE)
            ;
        assert_int_equal(restore_count(restore), count - first);
        assert_restored_since(first + 1);
        restore_destroy(&restore);
    }
    /* The file in the middle cannot tell how old it is: nothing young is passed by for that. */
    struct restore_options options = {.ledger_directory = files,
                                      .writer_id = shipper_writer_id(shipper),
                                      .names = names,
                                      .count = count,
                                      .since = head.ended,
                                      .retention_s = RETENTION_S};
    snprintf(path, sizeof path, "%s/%s-%08zu.jsonl", files, shipper_writer_id(shipper), count / 2 + 1);
    assert_int_equal(truncate(path, 100), 0);
    struct restore *restore = restore_create(&options);
    enum restore_result result;
    wipe();
    while ((result = restore_turn(restore, connection)) != RESTORE_DONE)
        if (result == RESTORE_UNREADABLE)
            restore_skip(restore);
    assert_int_equal(restore_count(restore), 1);
    assert_restored_since(count);
    restore_destroy(&restore);
    free(names);
}

/* A journal without its beginning, of which only old files are left, goes on behind it. */
static void only_old_files_are_no_loss(void **state)
{
    struct shipper_options options = {.writer_directory = room.writer,
                                      .ledger_directory = files,
                                      .writer_id = strrchr(room.writer, '-') + 1,
                                      .retention_s = 1};
    char key[128];
    int64_t mark = 0;
    (void) state;
    write_some(4000);
    settle();
    harvest_all();
    remove_segments(SIZE_MAX);
    assert_true(oldest_segment > 3);
    wipe();
    shipper_destroy(&shipper);
    shipper = shipper_create(&options);
    settle();
    assert_int_equal(shipper_restored(shipper), 0);
    snprintf(key, sizeof key, "tg:{%s}:hw", shipper_writer_id(shipper));
    assert_true(text_to_int64(redis_reply_text(REDIS_ROOM_ASK(&store, "GET", key)), &mark));
    assert_int_equal(mark, truth->records);
}

/* The first segment left begins in the middle of an epoch, of which the file has all. */
static void epoch_across_the_gap_is_counted_once(void **state)
{
    (void) state;
    while (truth->last_epoch < 3 || last_epoch_of[journal_reader_position(witness).segment - 1] < 3)
        write_some(50);
    while (truth->last_epoch < 4)
        write_some(50);
    settle();
    harvest_all();
    while (last_epoch_of[oldest_segment] < 3)
        remove_segments(1);
    remove_segments(1);
    struct journal_reader *reader = journal_reader_create(room.writer, NULL);
    struct record record = {0};
    while (record.type != RECORD_CLOSE)
        assert_int_equal(journal_read_next(reader, &record), JOURNAL_RECORD);
    journal_reader_destroy(&reader);
    assert_true(record.epoch == 3 || record.epoch == 4);
    wipe();
    settle();
    assert_true(is_exact());
}

static void old_backup_gets_what_is_between(void **state)
{
    (void) state;
    write_some(1000);
    settle();
    copy_redis(); /* in the middle of an epoch */
    write_some(3000);
    settle();
    harvest_all();
    remove_segments(SIZE_MAX);
    go_back();
    settle();
    assert_true(is_exact());
    assert_true(shipper_regressions(shipper) > 0);
}

/* More cells than one call takes, and accidents between the calls. */
static void great_epoch_survives_accidents(void **state)
{
    enum { CELLS = 2 * STEP_CELLS_MAX + 7 };
    char name[32], key[128];
    struct cells *cells = cells_create();
    struct ledger_head head = {.name.epoch = 1, .began = ROOM_HOUR, .ended = ROOM_HOUR + 1};
    int64_t there = 0;
    (void) state;
    write_some(2000);
    settle();
    harvest_all();
    for (int i = 0; i < CELLS; i++) {
        snprintf(name, sizeof name, "key-%d", i);
        struct cell cell = {.tenant = TEXT("acme"), .key = text_of(name), .model = TEXT("gemma"), .quantity = i + 1};
        assert_true(cells_add(cells, &cell));
    }
    text_copy(head.name.writer, sizeof head.name.writer, text_of(shipper_writer_id(shipper)));
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s-00000001.jsonl", files, shipper_writer_id(shipper));
    assert_int_equal(unlink(path), 0);
    assert_true(ledger_write(files, &head, cells));
    cells_destroy(&cells);
    remove_segments(SIZE_MAX);
    assert_true(oldest_segment > 1);
    wipe();
    lost_percent = 10;
    accident_percent = 10;
    take_turns(200);
    lost_percent = accident_percent = 0;
    settle();
    snprintf(key, sizeof key, "tg:{%s}:cells:1", shipper_writer_id(shipper));
    assert_true(redis_reply_integer(REDIS_ROOM_ASK(&store, "HLEN", key), &there));
    assert_int_equal(there, CELLS);
    assert_non_null(strstr(
        redis_reply_text(REDIS_ROOM_ASK(&store, "HGET", key, "acme\x1fkey-1006\x1fgemma\x1finput_tokens\x1fnone")).at,
        "1007"));
}

/* A Redis that loses a part of a restoration, at any step of it, gets that part too. */
static void accident_at_any_step_loses_nothing(void **state)
{
    static void (*const accidents[])(void) = {wipe, lose_tail, go_back};
    (void) state;
    write_some(1500);
    settle();
    copy_redis();
    write_some(3500);
    settle();
    harvest_all();
    remove_segments(SIZE_MAX);
    for (size_t i = 0; i < sizeof accidents / sizeof *accidents; i++) {
        bool has_happened = true;
        for (unsigned step = 1; has_happened; step++) {
            accident = accidents[i];
            wipe();
            accident_in = step;
            be_another_process();
            settle();
            assert_true(is_exact());
            has_happened = accident_in == 0;
        }
        accident_in = 0;
    }
}

/* The segment that is being read goes away, and so does everything. */
static void what_vanishes_is_no_trouble(void **state)
{
    (void) state;
    write_some(5000);
    take_turns(3);
    harvest_all();
    remove_segments(SIZE_MAX);
    settle();
    assert_true(is_exact());
    nftw(room.writer, room_remove, 8, FTW_DEPTH | FTW_PHYS);
    wipe();
    for (int i = 0; i < 5; i++) {
        assert_int_equal(shipper_check(shipper, batch, connection), SHIPPER_IDLE);
        assert_int_equal(shipper_turn(shipper, batch, connection), SHIPPER_IDLE);
    }
    assert_int_equal(shipper_shipped(shipper), 0);
}

static void damaged_file_stops_until_it_is_mended(void **state)
{
    char path[PATH_MAX], kept[PATH_MAX];
    (void) state;
    write_some(2500);
    harvest_all();
    remove_segments(SIZE_MAX);
    snprintf(path, sizeof path, "%s/%s-00000001.jsonl", files, shipper_writer_id(shipper));
    snprintf(kept, sizeof kept, "%s/kept", files);
    redis_room_copy(path, kept);
    assert_int_equal(truncate(path, 100), 0);
    enum shipper_result result = SHIPPER_MORE;
    while (result == SHIPPER_MORE)
        result = shipper_turn(shipper, batch, connection);
    assert_int_equal(result, SHIPPER_STUCK);
    assert_non_null(strstr(shipper_trouble(shipper), "damaged"));
    assert_int_equal(rename(kept, path), 0);
    settle();
    assert_true(is_exact());
}

static void happen(size_t what)
{
    switch (what) {
    case 0:
        wipe();
        break;
    case 1:
        copy_redis();
        break;
    case 2:
        go_back();
        break;
    case 3:
        lose_tail();
        break;
    case 4:
        be_another_process();
        break;
    case 5:
    case 6:
        harvest_all();
        remove_segments(1 + unit_random_below(6));
        break;
    case 7:
        harvest_all();
        break;
    case 8:
    case 9:
    case 10:
        take_turns(unit_random_below(12));
        break;
    case 11:
        settle();
        assert_true(is_exact());
        break;
    default:
        write_some(1 + (unsigned) unit_random_below(700));
    }
}

static void any_history_is_exact(void **state)
{
    (void) state;
    write_some(10);
    for (int i = 0; i < STEPS; i++) {
        lost_percent = (unsigned) unit_random_below(2) * 20;
        accident_percent = unit_random_below(4) == 0 ? 5 : 0;
        happen(unit_random_below(15));
    }
    lost_percent = accident_percent = 0;
    settle();
    assert_true(is_exact());
    uint64_t restored = restored_before + shipper_restored(shipper);
    print_message("%u requests, %u segments removed, %llu epochs put back\n", number, oldest_segment - 1,
                  (unsigned long long) restored);
    assert_true(restored > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    log_configure(LOG_FORMAT_TEXT, LOG_ERROR);
    const struct CMUnitTest tests[] = {
        TEST(old_epochs_are_passed_by),
        TEST(only_old_files_are_no_loss),
        TEST(wiped_redis_gets_what_only_files_have),
        TEST(epoch_across_the_gap_is_counted_once),
        TEST(old_backup_gets_what_is_between),
        TEST(great_epoch_survives_accidents),
        TEST(accident_at_any_step_loses_nothing),
        TEST(what_vanishes_is_no_trouble),
        TEST(damaged_file_stops_until_it_is_mended),
        TEST(any_history_is_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
