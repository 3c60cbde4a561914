/* billing/store: the thread ships every writer, outlives every Redis, tells how it stands, and ends when told. */
#include "billing/store.h"

#include "base/log.h"
#include "billing/ledger.h"
#include "tests/lib/ledger_room.h"

enum { WAIT_MS = 40000, APART_MS = 400 };

/* The rooms' hour is long ago one day. */
static const int64_t KEPT_MS = (int64_t) 20 * 365 * 24 * ROOM_HOUR_MS;

static struct room room, other_room;
static struct redis_room redis;
static struct store *store;
static struct store_options options;
static unsigned number, other_number;
static char files[128]; /* the ledger's */

static int set_up(void **state)
{
    (void) state;
    unit_random_seed();
    number = other_number = 0;
    redis_room_init(&redis);
    room_init(&room);
    snprintf(files, sizeof files, "%s/ledger", room.directory);
    assert_int_equal(mkdir(files, 0700), 0);
    room_begin(&room);
    /* Another worker's journal in the same directory. */
    other_room = room;
    other_room.options.slot = 1;
    other_room.loop = loop_create();
    room_begin(&other_room);
    struct redis_address address = {.kind = REDIS_UNIX, .path = redis.redis.socket};
    options =
        (struct store_options){.journal_directory = room.directory, .ledger_directory = files, .kept_ms = KEPT_MS};
    options.redis = store_redis_options(&address, NULL);
    options.redis.back_off_max_ms = 200;
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    store_stop(&store);
    journal_destroy(&other_room.journal);
    loop_destroy(other_room.loop);
    room_finish(&room);
    redis_room_finish(&redis);
    return 0;
}

static bool is_exact(const struct room *which)
{
    return ledger_is_exact(&redis, which->writer, strrchr(which->writer, '-') + 1);
}

static void wait_until_exact(void)
{
    mono_ms until = clock_mono_ms() + WAIT_MS;
    while (!is_exact(&room) || !is_exact(&other_room)) {
        struct store_status status;
        store_status(store, &status);
        if (clock_mono_ms() > until)
            fail_msg("up %d: %s", status.is_up, status.error);
        usleep(20000);
    }
}

static struct store_status wait_for_status(bool (*is_wanted)(const struct store_status *status))
{
    struct store_status status;
    mono_ms until = clock_mono_ms() + WAIT_MS;
    for (store_status(store, &status); !is_wanted(&status); store_status(store, &status)) {
        if (clock_mono_ms() > until)
            fail_msg("up %d, %zu writers: %s", status.is_up, status.writers, status.error);
        usleep(10000);
    }
    return status;
}

static bool is_waiting(const struct store_status *status)
{
    return !status->is_up && status->oldest_unshipped != 0 && status->writers == 2;
}

static bool is_well(const struct store_status *status)
{
    return status->is_up && status->oldest_unshipped == 0 && status->error[0] == '\0' && status->writers == 2 &&
           status->is_durability_known;
}

/* As the thread itself says: both have more than the first records of a test. */
static bool has_shipped_more(const struct store_status *status)
{
    struct store_writer writers[2] = {0};
    (void) store_writers(store, writers, 2);
    return is_well(status) && writers[0].shipped >= 800 && writers[1].shipped >= 800;
}

static void write_both(unsigned count)
{
    ledger_room_write(&room, &number, count, APART_MS);
    ledger_room_write(&other_room, &other_number, count, APART_MS);
}

static void ships_all_when_redis_comes(void **state)
{
    struct store_writer writers[2];
    (void) state;
    write_both(300);
    store = store_start(&options);
    assert_non_null(store);
    struct store_status status = wait_for_status(is_waiting);
    assert_int_equal(status.oldest_unshipped, ROOM_HOUR);
    assert_non_null(strstr(status.error, "no connection to Redis"));
    redis_room_start(&redis);
    wait_until_exact();
    status = wait_for_status(is_well);
    assert_false(status.may_evict);
    assert_non_null(strstr(status.durability, "everysec"));
    write_both(100);
    wait_until_exact();
    (void) wait_for_status(has_shipped_more);
    assert_int_equal(store_writers(store, writers, 2), 2);
    assert_true(strcmp(writers[0].id, writers[1].id) < 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(store_shipped(store, writers[i].id), writers[i].shipped);
    assert_int_equal(store_shipped(store, "0123456789abcdef0123456789abcdef"), 0);
    assert_int_equal(store_writers(store, NULL, 0), 2);
}

static void outlives_killed_and_wiped_redis(void **state)
{
    (void) state;
    redis_room_start(&redis);
    store = store_start(&options);
    for (int i = 0; i < 3; i++) {
        write_both(500);
        usleep((useconds_t) unit_random_below(100000));
        redis_room_kill(&redis);
        redis_room_lose_tail(&redis);
        redis_room_start(&redis);
        wait_until_exact();
    }
    (void) REDIS_ROOM_ASK(&redis, "FLUSHALL");
    wait_until_exact(); /* without a new record: it asks by itself */
    struct store_status status = wait_for_status(is_well);
    assert_true(status.regressions > 0);
}

/* A writer that ended is still there for a Redis that forgets. */
static void finished_writers_are_shipped_again(void **state)
{
    (void) state;
    redis_room_start(&redis);
    store = store_start(&options);
    write_both(50);
    journal_destroy(&other_room.journal);
    wait_until_exact();
    (void) REDIS_ROOM_ASK(&redis, "FLUSHALL");
    wait_until_exact();
    (void) wait_for_status(is_well);
}

/* A writer's sealed epochs into ledger files. */
static void harvest(const struct room *which)
{
    struct journal_reader *reader = journal_reader_create(which->writer, NULL);
    struct cells *cells = cells_create();
    struct record record;
    while (journal_read_next(reader, &record) == JOURNAL_RECORD) {
        if (record.type == RECORD_CLOSE)
            assert_true(cells_add_close(cells, &record));
        if (record.type != RECORD_SEAL)
            continue;
        struct ledger_head head = {.name.epoch = record.epoch, .began = record.epoch_began, .ended = record.when};
        text_copy(head.name.writer, sizeof head.name.writer, text_of(strrchr(which->writer, '-') + 1));
        assert_true(ledger_write(files, &head, cells));
        cells_destroy(&cells);
        cells = cells_create();
    }
    cells_destroy(&cells);
    journal_reader_destroy(&reader);
}

static void wait_until_it_has(const struct ledger *ledger, const char *writer_id)
{
    mono_ms until = clock_mono_ms() + WAIT_MS;
    while (!ledger_has_epochs(&redis, ledger, writer_id)) {
        if (clock_mono_ms() > until)
            fail_msg("Redis lacks epochs of %s", writer_id);
        usleep(20000);
    }
}

/* A writer of which only ledger files are left, in a Redis that forgets: while the store runs, and before it does. */
static void writers_without_journal_are_put_back(void **state)
{
    (void) state;
    redis_room_start(&redis);
    store = store_start(&options);
    write_both(2500);
    journal_destroy(&other_room.journal);
    wait_until_exact();
    harvest(&other_room);
    struct ledger *ledger = ledger_room_read(other_room.writer);
    const char *gone = strrchr(other_room.writer, '-') + 1;
    nftw(other_room.writer, room_remove, 8, FTW_DEPTH | FTW_PHYS);
    (void) REDIS_ROOM_ASK(&redis, "FLUSHALL");
    wait_until_it_has(ledger, gone);
    /* Nobody but the one without a journal can tell that something is lost. */
    journal_destroy(&room.journal);
    nftw(room.writer, room_remove, 8, FTW_DEPTH | FTW_PHYS);
    for (int i = 0; i < 2; i++) {
        usleep(700000);
        (void) REDIS_ROOM_ASK(&redis, "FLUSHALL");
        wait_until_it_has(ledger, gone);
    }
    store_stop(&store);
    (void) REDIS_ROOM_ASK(&redis, "FLUSHALL");
    store = store_start(&options);
    wait_until_it_has(ledger, gone);
    struct store_status status;
    store_status(store, &status);
    assert_true(status.restored_epochs >= ledger->last_epoch);
    free(ledger);
}

/* Ledger files of what ended longer ago than Redis keeps it: their absence is no loss, and no trouble. */
static void old_ledger_files_stay_where_they_are(void **state)
{
    char key[128];
    int64_t there = 1;
    (void) state;
    redis_room_start(&redis);
    write_both(2500);
    journal_destroy(&other_room.journal);
    harvest(&other_room);
    const char *gone = strrchr(other_room.writer, '-') + 1;
    nftw(other_room.writer, room_remove, 8, FTW_DEPTH | FTW_PHYS);
    options.kept_ms = 1000;
    store = store_start(&options);
    usleep(1500000);
    struct store_status status;
    store_status(store, &status);
    assert_true(status.is_up);
    assert_string_equal(status.error, "");
    assert_int_equal(status.restored_epochs, 0);
    snprintf(key, sizeof key, "tg:{%s}:sealed", gone);
    assert_true(redis_reply_integer(REDIS_ROOM_ASK(&redis, "EXISTS", key), &there));
    assert_int_equal(there, 0);
}

static void kept_no_longer_than_a_week(void **state)
{
    (void) state;
    assert_int_equal(store_kept_ms((int64_t) 400 * 24 * ROOM_HOUR_MS), (int64_t) 7 * 24 * ROOM_HOUR_MS);
    assert_int_equal(store_kept_ms(ROOM_HOUR_MS), ROOM_HOUR_MS);
}

/* A wipe also finds journals without their beginning, and both at once. */
static void journals_without_beginning_are_put_back(void **state)
{
    char path[PATH_MAX + 16];
    (void) state;
    redis_room_start(&redis);
    journal_destroy(&room.journal);
    assert_int_equal(nftw(room.writer, room_remove, 8, FTW_DEPTH | FTW_PHYS), 0);
    room.options.segment_bytes = 64 * 1024;
    room_begin(&room);
    store = store_start(&options);
    write_both(3000);
    wait_until_exact();
    harvest(&room);
    struct ledger *ledger = ledger_room_read(room.writer);
    for (int i = 1; i <= 3; i++) {
        snprintf(path, sizeof path, "%s/%08d.seg", room.writer, i);
        assert_int_equal(unlink(path), 0);
    }
    (void) REDIS_ROOM_ASK(&redis, "FLUSHALL");
    mono_ms until = clock_mono_ms() + WAIT_MS;
    while (!ledger_equals(&redis, ledger, strrchr(room.writer, '-') + 1) || !is_exact(&other_room)) {
        struct store_status status;
        store_status(store, &status);
        if (clock_mono_ms() > until)
            fail_msg("up %d: %s", status.is_up, status.error);
        usleep(20000);
    }
    free(ledger);
}

static void two_stores_count_once(void **state)
{
    struct store *second = NULL;
    (void) state;
    redis_room_start(&redis);
    store = store_start(&options);
    second = store_start(&options);
    assert_true(store != NULL && second != NULL);
    for (int i = 0; i < 10; i++) {
        write_both(150);
        usleep(20000);
    }
    wait_until_exact();
    store_stop(&second);
    write_both(10);
    wait_until_exact();
}

static void one_stuck_writer_stops_no_other(void **state)
{
    struct record close = room_close_record(other_number, ROOM_HOUR);
    struct store_status status;
    mono_ms until = clock_mono_ms() + WAIT_MS;
    (void) state;
    redis_room_start(&redis);
    assert_true(room_open(&other_room, 0, ROOM_HOUR, NULL));
    close.input_tokens = INT64_MAX;
    journal_close(other_room.journal, &close, NULL);
    room_turn(&other_room);
    store = store_start(&options);
    ledger_room_write(&room, &number, 200, APART_MS);
    do {
        store_status(store, &status);
        usleep(10000);
    } while ((status.stuck_writers != 1 || !is_exact(&room)) && clock_mono_ms() < until);
    assert_int_equal(status.stuck_writers, 1);
    assert_true(status.is_up);
    assert_non_null(strstr(status.error, "quantity"));
    assert_true(is_exact(&room));
}

/* It ends soon, also while it waits for a Redis that hangs; four times the promised second. */
static void ends_when_told(void **state)
{
    (void) state;
    redis_room_start(&redis);
    store = store_start(&options);
    write_both(10);
    wait_until_exact();
    redis_room_signal(&redis, SIGSTOP);
    write_both(10);
    usleep(200000);
    mono_ms began = clock_mono_ms();
    store_stop(&store);
    assert_null(store);
    assert_true(clock_mono_ms() - began < 4000);
    redis_room_signal(&redis, SIGCONT);
    redis_room_kill(&redis);
    store = store_start(&options);
    usleep(50000);
    began = clock_mono_ms();
    store_stop(&store);
    assert_true(clock_mono_ms() - began < 4000);
    store_stop(&store);
}

static void redis_is_where_the_configuration_says(void **state)
{
    struct redis_address tcp = {.kind = REDIS_TCP, .host = "::1", .port = 7000, .database = 3}, none = {0};
    (void) state;
    struct redis_options made = store_redis_options(&tcp, "/run/private");
    assert_null(made.path);
    assert_string_equal(made.host, "::1");
    assert_int_equal(made.port, 7000);
    assert_int_equal(made.database, 3);
    made = store_redis_options(&none, "/run/private");
    assert_string_equal(made.path, "/run/private");
    assert_int_equal(made.database, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    log_configure(LOG_FORMAT_TEXT, LOG_ERROR);
    const struct CMUnitTest tests[] = {
        TEST(ships_all_when_redis_comes),
        TEST(outlives_killed_and_wiped_redis),
        TEST(finished_writers_are_shipped_again),
        TEST(writers_without_journal_are_put_back),
        TEST(journals_without_beginning_are_put_back),
        TEST(two_stores_count_once),
        TEST(one_stuck_writer_stops_no_other),
        TEST(old_ledger_files_stay_where_they_are),
        TEST(kept_no_longer_than_a_week),
        TEST(ends_when_told),
        cmocka_unit_test(redis_is_where_the_configuration_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
