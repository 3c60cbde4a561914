/* billing/retention: each thing that needs a segment or a ledger file keeps it, alone; without any it goes. */
#include "billing/retention.h"

#include "billing/file_sender.h"
#include "tests/lib/biller_room.h"

enum { SEGMENT_BYTES = 48 * 1024, HOURS_AGO = 5, REQUESTS = 1500, APART_MS = 50 };

static struct biller_room room;
static struct writers *writers;
static struct outbox *outbox;
static struct file_sender *sender;
static atomic_bool stop;
static char journal_directory[PATH_MAX], ledger_directory[PATH_MAX], billing_directory[PATH_MAX];
static wall_ms began; /* of the first request */

static void on_sealed(void *owner, const struct ledger_name *epoch)
{
    (void) owner;
    outbox_sealed(outbox, epoch);
}

static void begin(void)
{
    char error[OUTBOX_TROUBLE_BYTES];
    struct writers_options options = {.journal_directory = journal_directory,
                                      .ledger_directory = ledger_directory,
                                      .store = room.store,
                                      .sealed = on_sealed,
                                      .stop = &stop};
    struct outbox_options outbox_options = {.billing_directory = billing_directory,
                                            .ledger_directory = ledger_directory,
                                            .install_id = "00112233445566778899aabbccddeeff",
                                            .provider = PROVIDER_FILE};
    outbox = outbox_open(&outbox_options, error);
    assert_non_null(outbox);
    sender = file_sender_create(outbox_states(outbox));
    writers = writers_create(&options);
    assert_true(writers != NULL && sender != NULL);
}

static void end(void)
{
    writers_destroy(&writers);
    file_sender_destroy(&sender);
    outbox_close(&outbox);
}

/* Since five hours ago. */
static void write_since(void)
{
    char path[PATH_MAX];
    biller_room_path(&room, "billing/file.since", path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "%lld\n", (long long) began);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state)
{
    (void) state;
    biller_room_init(&room);
    biller_room_policy_file(&room);
    biller_room_path(&room, "journal", journal_directory);
    biller_room_path(&room, "ledger", ledger_directory);
    biller_room_path(&room, "billing", billing_directory);
    assert_true(mkdir(ledger_directory, 0700) == 0 && mkdir(billing_directory, 0700) == 0);
    began = clock_wall_ms() - (wall_ms) HOURS_AGO * ROOM_HOUR_MS;
    began -= began % ROOM_HOUR_MS; /* the requests' time is within one hour */
    write_since();
    room.store_options.journal_directory = journal_directory;
    room.store = store_start(&room.store_options);
    assert_non_null(room.store);
    begin();
    biller_room_begin_sized(&room, 0, SEGMENT_BYTES);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    end();
    biller_room_finish(&room);
    return 0;
}

/* ---- steps ---- */

static bool may_go(void *owner, const struct ledger_name *epoch)
{
    (void) owner;
    return writers_is_shipped(writers, epoch);
}

static void harvest_all(void)
{
    writers_look(writers);
    (void) writers_turn(writers, true, clock_mono_ms() + BILLER_WAIT_MS);
}

static void bill_all(void)
{
    const struct policy *policy = reload_current();
    mono_ms until = clock_mono_ms() + BILLER_WAIT_MS;
    struct outbox_turn turn = {policy, may_go, NULL, clock_wall_ms(), until, true};
    outbox_follow(outbox, policy);
    (void) outbox_turn(outbox, &turn);
    (void) file_sender_turn(sender, policy, until);
    policy_drop(&policy);
}

static void wait_for_redis(void)
{
    struct store_status status;
    mono_ms until = clock_mono_ms() + BILLER_WAIT_MS;
    usleep(600000); /* it has looked for writers */
    for (store_status(room.store, &status); status.oldest_unshipped != 0 || !status.is_up;
         store_status(room.store, &status)) {
        assert_true(clock_mono_ms() < until);
        usleep(20000);
    }
}

static size_t count_segments(void)
{
    size_t count = 0;
    DIR *listing = opendir(room.journals[0].writer);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;)
        count += strstr(entry->d_name, ".seg") != NULL;
    if (listing != NULL)
        closedir(listing);
    return count;
}

static size_t count_ledger(void)
{
    struct ledger_name *names;
    size_t count;
    assert_true(ledger_list(ledger_directory, &names, &count));
    free(names);
    return count;
}

static struct retention retention_at(wall_ms now)
{
    static struct outbox *outboxes[1];
    outboxes[0] = outbox;
    return (struct retention){.writers = writers,
                              .store = room.store,
                              .outboxes = outboxes,
                              .outbox_count = 1,
                              .ledger_directory = ledger_directory,
                              .now = now};
}

static size_t segments_after(wall_ms now)
{
    struct retention retention = retention_at(now);
    assert_true(retention_of_segments(&retention));
    return count_segments();
}

static size_t ledger_after(wall_ms now)
{
    struct retention retention = retention_at(now);
    retention_of_ledger(&retention, ROOM_HOUR_MS);
    return count_ledger();
}

/* More than a minute of requests, in several segments. */
static size_t write_requests(void)
{
    biller_room_requests(&room, 0, REQUESTS, began, APART_MS);
    size_t count = count_segments();
    assert_true(count >= 5);
    return count;
}

/* ---- segments ---- */

static void what_everybody_has_goes_but_for_the_last(void **state)
{
    (void) state;
    write_requests();
    redis_room_start(&room.redis);
    wait_for_redis();
    harvest_all();
    bill_all();
    size_t files = biller_room_arrived(&room).files;
    assert_int_equal(segments_after(clock_wall_ms()), 1);
    /* A later start reads what is left, and a part of an epoch changes nothing. */
    end();
    biller_room_requests(&room, 0, 100, began + 1000000, 500);
    wait_for_redis();
    begin();
    harvest_all();
    bill_all();
    journal_destroy(&room.journals[0].journal);
    wait_for_redis();
    harvest_all();
    bill_all();
    assert_true(biller_room_has_all(&room));
    assert_true(biller_room_arrived(&room).files > files);
    assert_int_equal(segments_after(clock_wall_ms()), 0);
    assert_int_equal(access(room.journals[0].writer, F_OK), -1);
}

static void what_is_young_stays(void **state)
{
    (void) state;
    size_t count = write_requests();
    redis_room_start(&room.redis);
    wait_for_redis();
    harvest_all();
    bill_all();
    assert_int_equal(segments_after(began + JOURNAL_KEPT_MS), count);
    assert_int_equal(segments_after(began + REQUESTS * APART_MS - JOURNAL_KEPT_MS), count); /* the clock went back */
    size_t left = segments_after(began + JOURNAL_KEPT_MS + REQUESTS * APART_MS / 2);
    assert_true(left < count && left > 1);
}

static void a_clock_that_was_ahead_keeps_nothing(void **state)
{
    (void) state;
    began += 3 * 24 * (wall_ms) ROOM_HOUR_MS;
    write_requests();
    redis_room_start(&room.redis);
    wait_for_redis();
    harvest_all();
    bill_all();
    assert_int_equal(segments_after(clock_wall_ms()), 1);
}

/* A request so long that a segment has no CLOSE at all. */
static void write_long_request(void)
{
    unsigned number = room.number++;
    struct record close = room_close_record(number, began);
    assert_true(room_open(&room.journals[0], number, began, NULL));
    for (int64_t i = 0; i < SEGMENT_BYTES / 32; i++)
        journal_progress(room.journals[0].journal, close.request_id, i, began);
    journal_close(room.journals[0].journal, &close, NULL);
    biller_room_expect(&room, 0, 0, &close);
    room_turn(&room.journals[0]);
}

static void what_redis_has_not_stays(void **state)
{
    (void) state;
    biller_room_policy("{}");
    write_long_request();
    size_t count = write_requests();
    harvest_all();
    bill_all();
    assert_int_equal(segments_after(clock_wall_ms()), count);
    redis_room_start(&room.redis);
    wait_for_redis();
    assert_int_equal(segments_after(clock_wall_ms()), 1);
}

/* An epoch without its SEAL, and then one whose SEAL Redis has not. */
static void an_epoch_that_is_not_whole_stays(void **state)
{
    (void) state;
    biller_room_policy("{}");
    redis_room_start(&room.redis);
    biller_room_requests(&room, 0, REQUESTS, began, 0);
    size_t count = count_segments();
    wait_for_redis();
    harvest_all();
    assert_int_equal(segments_after(clock_wall_ms()), count);
    redis_room_kill(&room.redis);
    journal_destroy(&room.journals[0].journal);
    harvest_all();
    assert_int_equal(count_ledger(), 1);
    assert_int_equal(segments_after(clock_wall_ms()), count);
    redis_room_start(&room.redis);
    wait_for_redis();
    assert_int_equal(segments_after(clock_wall_ms()), 0);
}

static void what_is_not_in_the_ledger_stays(void **state)
{
    (void) state;
    biller_room_policy("{}");
    size_t count = write_requests();
    redis_room_start(&room.redis);
    wait_for_redis();
    assert_int_equal(rmdir(ledger_directory), 0);
    harvest_all();
    assert_int_equal(segments_after(clock_wall_ms()), count);
}

static void what_has_no_rows_yet_stays(void **state)
{
    (void) state;
    size_t count = write_requests();
    const struct policy *policy = reload_current();
    redis_room_start(&room.redis);
    wait_for_redis();
    outbox_follow(outbox, policy);
    policy_drop(&policy);
    harvest_all();
    assert_int_equal(segments_after(clock_wall_ms()), count);
}

static void what_a_provider_has_not_stays(void **state)
{
    (void) state;
    char away[PATH_MAX];
    snprintf(room.out, sizeof room.out, "%s/mount/out", room.state_dir);
    biller_room_policy_file(&room);
    size_t count = write_requests();
    redis_room_start(&room.redis);
    wait_for_redis();
    harvest_all();
    bill_all();
    assert_int_equal(segments_after(clock_wall_ms()), count);
    biller_room_path(&room, "mount", away);
    assert_int_equal(mkdir(away, 0700), 0);
    file_sender_look_again(sender);
    bill_all();
    assert_int_equal(segments_after(clock_wall_ms()), 1);
}

static void an_open_request_keeps_its_segment(void **state)
{
    (void) state;
    biller_room_requests(&room, 0, 1, began, 1);
    unsigned number = room.number++;
    assert_true(room_open(&room.journals[0], number, began, NULL));
    size_t count = write_requests();
    redis_room_start(&room.redis);
    wait_for_redis();
    harvest_all();
    bill_all();
    assert_int_equal(segments_after(clock_wall_ms()), count);
    room_close(&room.journals[0], number, began + 900000, NULL);
    struct record close = room_close_record(number, 0);
    biller_room_expect(&room, 0, 0, &close);
    room_turn(&room.journals[0]);
    harvest_all();
    assert_int_equal(segments_after(clock_wall_ms()), 1);
}

/* ---- ledger files ---- */

/* Somebody else has an epoch that ended then. */
static void write_other(wall_ms ended)
{
    struct ledger_head head = {
        .name = {.writer = "ffffffffffffffffffffffffffffffff", .epoch = 7}, .began = ended, .ended = ended};
    struct cells *cells = cells_create();
    assert_true(cells != NULL && ledger_write(ledger_directory, &head, cells));
    cells_destroy(&cells);
}

static void a_clock_that_is_ahead_makes_nothing_old(void **state)
{
    (void) state;
    write_requests();
    redis_room_start(&room.redis);
    journal_destroy(&room.journals[0].journal);
    wait_for_redis();
    harvest_all();
    bill_all();
    assert_int_equal(segments_after(clock_wall_ms()), 0);
    size_t count = count_ledger();
    wall_ms ahead = clock_wall_ms() + 400 * 24 * (wall_ms) ROOM_HOUR_MS;
    assert_int_equal(ledger_after(ahead), count);
    /* Nor with usage of that time, as long as its journal is there. */
    biller_room_begin_sized(&room, 0, SEGMENT_BYTES);
    biller_room_requests(&room, 0, 40, ahead, APART_MS);
    wait_for_redis();
    harvest_all();
    assert_true(count_ledger() > count);
    count = count_ledger();
    assert_int_equal(ledger_after(ahead + 10000), count);
    write_other(began + REQUESTS * APART_MS / 2 + ROOM_HOUR_MS); /* by that, one half is old */
    assert_in_range(ledger_after(ahead), count / 3, 2 * count / 3);
}

static void a_writer_that_goes_on_keeps_no_old_files(void **state)
{
    (void) state;
    write_requests();
    redis_room_start(&room.redis);
    wait_for_redis();
    harvest_all();
    bill_all();
    size_t count = count_ledger();
    assert_int_equal(segments_after(clock_wall_ms()), 1);
    struct retention retention = retention_at(clock_wall_ms());
    retention_of_ledger(&retention, REQUESTS * APART_MS / 2);
    assert_in_range(count_ledger(), count / 2, count - 5);
}

static void ledger_files_outlive_their_journal(void **state)
{
    (void) state;
    write_requests();
    redis_room_start(&room.redis);
    journal_destroy(&room.journals[0].journal);
    wait_for_redis();
    harvest_all();
    bill_all();
    assert_true(biller_room_has_all(&room));
    size_t count = count_ledger();
    assert_true(count > 10);
    write_other(clock_wall_ms() + ROOM_HOUR_MS); /* ahead, which is nothing to the others */
    assert_int_equal(ledger_after(clock_wall_ms()), count + 1);
    assert_int_equal(segments_after(clock_wall_ms()), 0);
    assert_int_equal(ledger_after(began), count + 1);
    assert_int_equal(ledger_after(began + ROOM_HOUR_MS - 1), count + 1);
    assert_int_equal(ledger_after(clock_wall_ms()), 1);
    end();
    begin();
    bill_all();
    assert_true(biller_room_has_all(&room));
}

static void ledger_files_wait_for_a_held_row(void **state)
{
    (void) state;
    write_requests();
    redis_room_start(&room.redis);
    journal_destroy(&room.journals[0].journal);
    wait_for_redis();
    harvest_all();
    snprintf(room.out, sizeof room.out, "%s/mount/out", room.state_dir);
    biller_room_policy_file(&room);
    bill_all(); /* pending */
    struct row_states *states = outbox_states(outbox);
    for (size_t i = 0; i < row_states_count(states); i++) {
        const struct row_entry *entry = row_states_at(states, i);
        bool is_last = i + 1 == row_states_count(states);
        if (entry->state == ROW_PENDING)
            assert_true(row_states_move(states, entry->row.id, is_last ? ROW_HELD : ROW_SENT, 1, ""));
        if (!is_last)
            assert_true(row_states_move(states, entry->row.id, ROW_ACKED, 1, ""));
    }
    assert_int_equal(segments_after(clock_wall_ms()), 0);
    write_other(clock_wall_ms());
    assert_int_equal(ledger_after(clock_wall_ms()), 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_everybody_has_goes_but_for_the_last),
        TEST(what_is_young_stays),
        TEST(a_clock_that_was_ahead_keeps_nothing),
        TEST(what_redis_has_not_stays),
        TEST(an_epoch_that_is_not_whole_stays),
        TEST(what_is_not_in_the_ledger_stays),
        TEST(what_has_no_rows_yet_stays),
        TEST(what_a_provider_has_not_stays),
        TEST(an_open_request_keeps_its_segment),
        TEST(a_clock_that_is_ahead_makes_nothing_old),
        TEST(a_writer_that_goes_on_keeps_no_old_files),
        TEST(ledger_files_outlive_their_journal),
        TEST(ledger_files_wait_for_a_held_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
