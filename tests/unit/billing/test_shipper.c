/* billing/shipper and its script: whatever happens to Redis, its sums are the journal's. */
#include "base/redis.h"

/* How many of a hundred answers get lost on their way back. */
static unsigned lost_percent;
static enum redis_result lossy_run(struct redis *redis, const struct redis_script *script, const struct text *words,
                                   size_t count, const struct redis_reply **ret);
#define redis_run lossy_run
#include "billing/ship.c"
#undef redis_run

#include "billing/shipper.h"
#include "tests/lib/ledger_room.h"

enum { RETENTION_S = 20 * 365 * 24 * 3600, KILLS = 6, APART_MS = 400 };

static struct room room;
static struct redis_room store;
static struct redis *connection;
static struct ship_batch *batch;
static struct shipper *shipper;
static unsigned number; /* of requests written */

static enum redis_result lossy_run(struct redis *redis, const struct redis_script *script, const struct text *words,
                                   size_t count, const struct redis_reply **ret)
{
    enum redis_result result = redis_run(redis, script, words, count, ret);
    return result == REDIS_DONE && unit_random_below(100) < lost_percent ? REDIS_DOWN : result;
}

/* Without ledger files: what they put back is test_restore's. */
static struct shipper *make_shipper(void)
{
    struct shipper_options options = {.writer_directory = room.writer,
                                      .ledger_directory = room.directory,
                                      .writer_id = strrchr(room.writer, '-') + 1,
                                      .retention_s = RETENTION_S};
    return shipper_create(&options);
}

static int set_up(void **state)
{
    (void) state;
    unit_random_seed();
    lost_percent = number = 0;
    redis_room_init(&store);
    redis_room_start(&store);
    room_init(&room);
    room.options.segment_bytes = 512 * 1024;
    room_begin(&room);
    connection = redis_create(&store.options);
    batch = ship_batch_create();
    shipper = make_shipper();
    assert_true(connection != NULL && batch != NULL && shipper != NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    shipper_destroy(&shipper);
    ship_batch_destroy(&batch);
    redis_destroy(&connection);
    room_finish(&room);
    redis_room_finish(&store);
    return 0;
}

static bool is_exact(void)
{
    return ledger_is_exact(&store, room.writer, shipper_writer_id(shipper));
}

/* Until Redis has everything; Redis may be away for a while. */
static void ship_all(struct shipper *which)
{
    enum shipper_result result;
    mono_ms until = clock_mono_ms() + 60000;
    do {
        result = shipper_turn(which, batch, connection);
        if (result == SHIPPER_DOWN || result == SHIPPER_REFUSED)
            usleep(2000);
        if (clock_mono_ms() > until)
            fail_msg("%s %s", redis_error(connection), shipper_trouble(which));
    } while (result != SHIPPER_IDLE);
}

static void check_and_ship(void)
{
    while (shipper_check(shipper, batch, connection) != SHIPPER_IDLE)
        usleep(2000);
    ship_all(shipper);
}

static void be_another_process(void)
{
    shipper_destroy(&shipper);
    shipper = make_shipper();
}

static void sums_and_seals_are_the_journals(void **state)
{
    char key[128];
    int64_t seconds = 0;
    (void) state;
    for (int i = 0; i < 5; i++) {
        ledger_room_write(&room, &number, 1 + (unsigned) unit_random_below(900), APART_MS);
        ship_all(shipper);
        assert_true(is_exact());
        assert_int_equal(shipper_oldest_unshipped(shipper), 0);
    }
    assert_false(shipper_is_finished(shipper));
    journal_destroy(&room.journal);
    ship_all(shipper);
    assert_true(is_exact());
    assert_true(shipper_is_finished(shipper));
    assert_int_equal(shipper_regressions(shipper), 0);
    assert_int_equal(redis_reply_count(REDIS_ROOM_ASK(&store, "SMEMBERS", "tg:writers")), 1);
    snprintf(key, sizeof key, "tg:{%s}:cells:1", shipper_writer_id(shipper));
    assert_true(redis_reply_integer(REDIS_ROOM_ASK(&store, "TTL", key), &seconds));
    assert_in_range(seconds, RETENTION_S + SHIP_MARGIN_S - 100, RETENTION_S + SHIP_MARGIN_S);
}

static void unshipped_is_known_while_redis_is_away(void **state)
{
    (void) state;
    redis_room_kill(&store);
    ledger_room_write(&room, &number, 10, APART_MS);
    assert_int_equal(shipper_turn(shipper, batch, connection), SHIPPER_DOWN);
    assert_int_equal(shipper_oldest_unshipped(shipper), ROOM_HOUR);
    redis_room_start(&store);
    ship_all(shipper);
    assert_true(is_exact());
    assert_int_equal(shipper_oldest_unshipped(shipper), 0);
}

/* Somebody who kills Redis in a moment that nobody knows. */
static pid_t killer_start(useconds_t within_us)
{
    useconds_t wait_us = (useconds_t) unit_random_below(within_us);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    usleep(wait_us);
    kill(store.pid, SIGKILL);
    _exit(0);
}

static void killed_redis_that_lost_its_tail_gets_it_again(void **state)
{
    (void) state;
    for (int i = 0; i < KILLS; i++) {
        ledger_room_write(&room, &number, 1000, APART_MS);
        pid_t killer = killer_start(40000);
        while (shipper_turn(shipper, batch, connection) == SHIPPER_MORE)
            usleep(500);
        assert_int_equal(waitpid(killer, NULL, 0), killer);
        redis_room_kill(&store);
        redis_room_lose_tail(&store);
        redis_room_start(&store);
        ledger_room_write(&room, &number, 100, APART_MS);
        check_and_ship();
        assert_true(is_exact());
    }
    assert_true(shipper_regressions(shipper) > 0);
    print_message("%u requests, %llu regressions\n", number, (unsigned long long) shipper_regressions(shipper));
}

static void wiped_redis_gets_everything_again(void **state)
{
    (void) state;
    ledger_room_write(&room, &number, 2000, APART_MS);
    ship_all(shipper);
    (void) REDIS_ROOM_ASK(&store, "FLUSHALL");
    ledger_room_write(&room, &number, 10, APART_MS);
    ship_all(shipper); /* the next batch notices */
    assert_true(is_exact());
    assert_int_equal(shipper_regressions(shipper), 1);
    (void) REDIS_ROOM_ASK(&store, "FLUSHALL");
    ship_all(shipper);
    assert_false(is_exact()); /* nothing to ship, nothing noticed */
    check_and_ship();         /* but by the check */
    assert_true(is_exact());
    assert_int_equal(redis_reply_count(REDIS_ROOM_ASK(&store, "SMEMBERS", "tg:writers")), 1);
}

static void old_backup_gets_what_came_after_it(void **state)
{
    char backup[128], data[PATH_MAX + 32];
    (void) state;
    snprintf(backup, sizeof backup, "%s/backup", store.directory);
    snprintf(data, sizeof data, "%s/appendonlydir", store.redis.directory);
    ledger_room_write(&room, &number, 1500, APART_MS);
    ship_all(shipper);
    redis_room_kill(&store);
    redis_room_copy(data, backup);
    redis_room_start(&store);
    ledger_room_write(&room, &number, 1500, APART_MS);
    ship_all(shipper);
    assert_true(is_exact());
    redis_room_kill(&store);
    assert_int_equal(nftw(data, redis_room_remove, 8, FTW_DEPTH | FTW_PHYS), 0);
    redis_room_copy(backup, data);
    redis_room_start(&store);
    ledger_room_write(&room, &number, 300, APART_MS);
    ship_all(shipper);
    assert_true(is_exact());
    assert_true(shipper_regressions(shipper) > 0);
}

static void lost_answers_count_nothing_twice(void **state)
{
    (void) state;
    lost_percent = 40;
    for (int i = 0; i < 10; i++) {
        ledger_room_write(&room, &number, 400, APART_MS);
        ship_all(shipper);
        assert_true(is_exact());
    }
}

static void two_shippers_of_one_writer_count_once(void **state)
{
    struct shipper *other = make_shipper();
    (void) state;
    lost_percent = 20;
    for (int i = 0; i < 60; i++) {
        ledger_room_write(&room, &number, (unsigned) unit_random_below(100), APART_MS);
        struct shipper *which = unit_random_below(2) == 0 ? shipper : other;
        for (size_t turns = unit_random_below(4); turns > 0; turns--)
            (void) shipper_turn(which, batch, connection);
    }
    ship_all(shipper);
    assert_true(is_exact());
    ship_all(other);
    assert_true(is_exact());
    shipper_destroy(&other);
}

static void another_process_goes_on_where_redis_is(void **state)
{
    (void) state;
    ledger_room_write(&room, &number, 1000, APART_MS);
    ship_all(shipper);
    shipper_destroy(&shipper);
    shipper = make_shipper();
    ship_all(shipper);
    assert_true(is_exact());
    assert_int_equal(shipper_regressions(shipper), 0);
    ledger_room_write(&room, &number, 1000, APART_MS);
    ship_all(shipper);
    assert_true(is_exact());
}

/* Longer than it is kept, and the margin, nothing is in Redis: neither cells nor what is noted of a SEAL. */
static void what_is_old_goes(void **state)
{
    enum { KEPT_S = 3600, SLOW_MS = 60 * 1000, REQUESTS = 900, OWN_KEYS = 3 };
    char key[128], number_text[32];
    struct shipper_options options = {.writer_directory = room.writer,
                                      .ledger_directory = room.directory,
                                      .writer_id = strrchr(room.writer, '-') + 1,
                                      .retention_s = KEPT_S};
    (void) state;
    shipper_destroy(&shipper);
    shipper = shipper_create(&options);
    ledger_room_write(&room, &number, REQUESTS, SLOW_MS);
    ship_all(shipper);
    struct ledger *ledger = ledger_room_read(room.writer);
    size_t there = 0;
    for (uint64_t i = 1; i <= ledger->last_epoch; i++) {
        bool is_kept = (ledger->last_epoch - i + 1) * ROOM_EPOCH_MS <= KEPT_S * 1000;
        bool is_long_gone = (ledger->last_epoch - i) * ROOM_EPOCH_MS > 2 * (KEPT_S + SHIP_MARGIN_S) * 1000;
        snprintf(number_text, sizeof number_text, "%llu", (unsigned long long) i);
        snprintf(key, sizeof key, "tg:{%s}:sealed", shipper_writer_id(shipper));
        struct text times = redis_reply_text(REDIS_ROOM_ASK(&store, "HGET", key, number_text));
        bool is_sealed = times.length > 0;
        there += is_sealed;
        assert_true(!is_kept || text_equal(times, text_of(ledger->epochs[i].sealed)));
        assert_false(is_long_gone && is_sealed);
        snprintf(key, sizeof key, "tg:{%s}:cells:%s", shipper_writer_id(shipper), number_text);
        bool has_cells = redis_reply_count(REDIS_ROOM_ASK(&store, "HGETALL", key)) > 0;
        assert_true(has_cells == (is_sealed || i == ledger->last_epoch));
    }
    assert_in_range(there, KEPT_S * 1000 / ROOM_EPOCH_MS, (KEPT_S + SHIP_MARGIN_S) * 1000 / ROOM_EPOCH_MS + 2);
    free(ledger);
}

/* What was noted of earlier epochs has gone: forgetting still finds the one that is open. */
static void open_epoch_without_earlier_ones_is_forgotten(void **state)
{
    char key[128];
    (void) state;
    ledger_room_write(&room, &number, 2000, APART_MS);
    ship_all(shipper);
    snprintf(key, sizeof key, "tg:{%s}:hw", shipper_writer_id(shipper));
    char mark[32];
    struct text text = redis_reply_text(REDIS_ROOM_ASK(&store, "GET", key));
    text_copy(mark, sizeof mark, text);
    (void) REDIS_ROOM_ASK(&store, "FLUSHALL");
    (void) REDIS_ROOM_ASK(&store, "SET", key, mark);
    ledger_room_write(&room, &number, 1, APART_MS);
    ship_all(shipper);
    assert_int_equal(redis_reply_count(REDIS_ROOM_ASK(&store, "KEYS", "tg:*:cells:*")), 1);
    ship_begin(batch, shipper_writer_id(shipper), 0, RETENTION_S);
    assert_int_equal(ship_forget(batch, connection), REDIS_DONE);
    assert_int_equal(redis_reply_count(REDIS_ROOM_ASK(&store, "KEYS", "tg:{*")), 0);
}

/* Beyond what the script's own numbers hold, with carries. */
static void great_sums_are_exact(void **state)
{
    static const char field[] = "acme\x1fkey-1\x1fgemma\x1foutput_tokens\x1f"
                                "engine";
    static const int64_t starts[] = {0, 1, 999999999, 9007199254740993, 998999999999999999, 99999999999};
    char cells[128], start[32];
    (void) state;
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        int64_t wanted = starts[i], sum = 0;
        wall_ms when = ROOM_HOUR + (wall_ms) i * ROOM_HOUR_MS;
        snprintf(cells, sizeof cells, "tg:{%s}:cells:%zu", shipper_writer_id(shipper), i + 1);
        snprintf(start, sizeof start, "%lld", (long long) starts[i]);
        (void) REDIS_ROOM_ASK(&store, "HSET", cells, field, start);
        for (unsigned j = 0; j < 5; j++, number++) {
            struct record close = room_close_record(number, when);
            close.output_tokens =
                j == 0 ? 1 : (int64_t) (unit_random() % (uint64_t) SHIP_QUANTITY_MAX) / (i == 4 ? 10 : 1);
            wanted += close.output_tokens;
            assert_true(room_open(&room, number, when, NULL));
            journal_close(room.journal, &close, NULL);
        }
        room_turn(&room);
        ship_all(shipper);
        assert_true(text_to_int64(redis_reply_text(REDIS_ROOM_ASK(&store, "HGET", cells, field)), &sum));
        assert_int_equal(sum, wanted);
    }
}

/* A cell that cannot be added to refuses the whole batch, not its second half. */
static void refused_batch_has_no_effect(void **state)
{
    static const char *const spoilt[] = {"word", "9223372036854775000", "-1", "1.5"};
    char cells[128], mark[128], field[] = "acme\x1fkey-1\x1fgemma\x1frequests\x1fnone";
    (void) state;
    snprintf(cells, sizeof cells, "tg:{%s}:cells:1", shipper_writer_id(shipper));
    snprintf(mark, sizeof mark, "tg:{%s}:hw", shipper_writer_id(shipper));
    ledger_room_write(&room, &number, 90, 1);
    for (size_t i = 0; i < sizeof spoilt / sizeof *spoilt; i++) {
        (void) REDIS_ROOM_ASK(&store, "HSET", cells, field, spoilt[i]);
        assert_int_equal(shipper_turn(shipper, batch, connection), SHIPPER_REFUSED);
        assert_non_null(strstr(redis_error(connection), "a cell holds no number"));
        assert_int_equal(redis_reply_count(REDIS_ROOM_ASK(&store, "HGETALL", cells)), 2);
        assert_int_equal(redis_reply_text(REDIS_ROOM_ASK(&store, "GET", mark)).length, 0);
    }
    (void) REDIS_ROOM_ASK(&store, "DEL", cells);
    (void) REDIS_ROOM_ASK(&store, "SET", cells, "a string");
    assert_int_equal(shipper_turn(shipper, batch, connection), SHIPPER_REFUSED);
    (void) REDIS_ROOM_ASK(&store, "DEL", cells);
    (void) REDIS_ROOM_ASK(&store, "SET", mark, "word");
    assert_int_equal(shipper_turn(shipper, batch, connection), SHIPPER_REFUSED);
    (void) REDIS_ROOM_ASK(&store, "DEL", mark);
    ship_all(shipper);
    assert_true(is_exact());
}

static void impossible_quantity_stops_this_writer_only_there(void **state)
{
    struct record close = room_close_record(1, ROOM_HOUR);
    char cells[128];
    (void) state;
    assert_true(room_open(&room, 0, ROOM_HOUR, NULL));
    room_close(&room, 0, ROOM_HOUR, NULL);
    assert_true(room_open(&room, 1, ROOM_HOUR, NULL));
    close.output_tokens = SHIP_QUANTITY_MAX + 1;
    journal_close(room.journal, &close, NULL);
    room_turn(&room);
    assert_int_equal(shipper_turn(shipper, batch, connection), SHIPPER_MORE);
    assert_int_equal(shipper_turn(shipper, batch, connection), SHIPPER_STUCK);
    assert_int_equal(shipper_shipped(shipper), 3);
    assert_non_null(strstr(shipper_trouble(shipper), "quantity"));
    snprintf(cells, sizeof cells, "tg:{%s}:cells:1", shipper_writer_id(shipper));
    assert_int_equal(redis_reply_count(REDIS_ROOM_ASK(&store, "HGETALL", cells)), 2 * 3);
}

static void journal_without_its_beginning(void **state)
{
    char path[PATH_MAX + 16];
    (void) state;
    ledger_room_write(&room, &number, 6000, APART_MS);
    ship_all(shipper);
    assert_true(is_exact());
    snprintf(path, sizeof path, "%s/00000001.seg", room.writer);
    assert_int_equal(unlink(path), 0);
    shipper_destroy(&shipper);
    shipper = make_shipper();
    ship_all(shipper); /* Redis has what is gone */
    assert_true(shipper_shipped(shipper) > 2 * (uint64_t) number);
    assert_int_equal(shipper_restored(shipper), 0);
}

/* A power cut: the journal's last part is gone, which Redis has. */
static void journal_that_lost_its_tail_is_the_truth(void **state)
{
    char path[PATH_MAX + 16];
    struct recovery found;
    struct journal_position end = {0};
    struct record record;
    (void) state;
    ledger_room_write(&room, &number, 1000, APART_MS);
    ship_all(shipper);
    struct journal_reader *reader = journal_reader_create(room.writer, NULL);
    size_t kept = 1 + unit_random_below(1500);
    for (size_t i = 0; i < kept && journal_read_next(reader, &record) == JOURNAL_RECORD; i++)
        end = journal_reader_position(reader);
    journal_reader_destroy(&reader);
    snprintf(path, sizeof path, "%s/%08u.seg", room.writer, end.segment);
    assert_int_equal(truncate(path, (off_t) end.offset), 0);
    assert_true(journal_recover(room.writer, true, &found));
    be_another_process();
    ship_all(shipper);
    assert_true(is_exact());
    assert_true(shipper_was_behind(shipper) && shipper_is_finished(shipper));
    be_another_process();
    ship_all(shipper);
    assert_true(is_exact());
    assert_false(shipper_was_behind(shipper));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sums_and_seals_are_the_journals),
        TEST(unshipped_is_known_while_redis_is_away),
        TEST(killed_redis_that_lost_its_tail_gets_it_again),
        TEST(wiped_redis_gets_everything_again),
        TEST(old_backup_gets_what_came_after_it),
        TEST(lost_answers_count_nothing_twice),
        TEST(two_shippers_of_one_writer_count_once),
        TEST(another_process_goes_on_where_redis_is),
        TEST(what_is_old_goes),
        TEST(open_epoch_without_earlier_ones_is_forgotten),
        TEST(great_sums_are_exact),
        TEST(refused_batch_has_no_effect),
        TEST(impossible_quantity_stops_this_writer_only_there),
        TEST(journal_without_its_beginning),
        TEST(journal_that_lost_its_tail_is_the_truth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
