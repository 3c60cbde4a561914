/* billing/biller: usage of real journals arrives at a provider exactly once, whatever is started, stopped or away
 * meanwhile. */
#include "tests/lib/biller_room.h"

static struct biller_room room;

static int set_up(void **state)
{
    (void) state;
    biller_room_init(&room);
    biller_room_policy_file(&room);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    biller_room_finish(&room);
    return 0;
}

/* An epoch that ended after the provider was there. */
static wall_ms now(void)
{
    return clock_wall_ms() + 1;
}

static void usage_arrives_once(void **state)
{
    (void) state;
    redis_room_start(&room.redis);
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    biller_room_begin(&room, 1);
    biller_room_requests(&room, 0, 200, now(), 50);
    biller_room_requests(&room, 1, 100, now(), 100);
    journal_destroy(&room.journals[0].journal);
    journal_destroy(&room.journals[1].journal);
    biller_room_wait_for_all(&room);
    size_t rows = biller_room_arrived(&room).rows;
    biller_room_stop(&room);
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 10, now(), 50);
    journal_destroy(&room.journals[0].journal);
    biller_room_wait_for_all(&room);
    assert_true(biller_room_arrived(&room).rows > rows);
}

/* ---- Redis first ---- */

static size_t count_files(const char *name)
{
    char path[PATH_MAX];
    size_t count = 0;
    biller_room_path(&room, name, path);
    DIR *listing = opendir(path);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;)
        count += entry->d_name[0] != '.';
    if (listing != NULL)
        closedir(listing);
    return count;
}

static bool has_ledger(const struct biller_room *which)
{
    (void) which;
    return count_files("ledger") >= 4;
}

/* While Redis is away epochs wait in the ledger; the oldest is told. */
static void no_row_before_redis_has_its_epoch(void **state)
{
    (void) state;
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    wall_ms first = now();
    biller_room_requests(&room, 0, 100, first, 50);
    journal_destroy(&room.journals[0].journal);
    biller_room_wait(&room, has_ledger);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(biller_room_status(&room)->providers[0].rows[ROW_PENDING], 0);
        usleep(20000);
    }
    assert_int_equal(biller_room_arrived(&room).rows, 0);
    assert_int_equal(biller_room_status(&room)->oldest_unflushed, first);
    redis_room_start(&room.redis);
    biller_room_wait_for_all(&room);
}

/* ---- dead writers ---- */

static bool has_recovered(const struct biller_room *which)
{
    return biller_room_status(which)->recovered_writers > 0 && biller_room_has_all(which);
}

/* What was open when the gateway died counts as its last PROGRESS said; what never began to be answered, as nothing. */
static void dead_writers_are_finished(void **state)
{
    (void) state;
    wall_ms when = now();
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 40, when, 50);
    assert_true(room_open(&room.journals[0], room.number, when, NULL));
    journal_progress(room.journals[0].journal, room_id(room.number), 64, when + 3000);
    assert_true(room_open(&room.journals[0], room.number + 1, when, NULL));
    room_turn(&room.journals[0]);
    journal_destroy(&room.journals[0].journal);
    room.expected.quantity[0][0][MEASURE_REQUESTS] += 1; /* one that no engine has answered is none */
    room.expected.quantity[0][0][MEASURE_INPUT_TOKENS] += 11;
    room.expected.quantity[0][0][MEASURE_OUTPUT_TOKENS] += 64;
    redis_room_start(&room.redis);
    biller_room_start(&room);
    biller_room_wait(&room, has_recovered);
    assert_int_equal(biller_room_status(&room)->recovered_writers, 1);
    assert_int_equal(biller_room_status(&room)->crashed_requests, 2);
    assert_true(journal_is_finished(room.journals[0].writer));
}

static bool says_damaged(const struct biller_room *which)
{
    return strstr(biller_room_status(which)->error, "damaged") != NULL;
}

/* One that cannot be read keeps nobody from being billed. */
static void a_damaged_journal_stops_no_other(void **state)
{
    (void) state;
    char path[PATH_MAX + 16];
    biller_room_begin(&room, 0);
    biller_room_begin(&room, 1);
    biller_room_requests(&room, 0, 20, now(), 50);
    struct biller_sums other = room.expected;
    room.expected = (struct biller_sums){0};
    biller_room_requests(&room, 1, 20, now(), 50);
    journal_destroy(&room.journals[0].journal);
    journal_destroy(&room.journals[1].journal);
    /* A second segment behind a torn one. */
    snprintf(path, sizeof path, "%s/00000001.seg", room.journals[0].writer);
    assert_int_equal(truncate(path, 40), 0);
    snprintf(path, sizeof path, "%s/00000002.seg", room.journals[0].writer);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    redis_room_start(&room.redis);
    biller_room_start(&room);
    biller_room_wait_for_all(&room);
    biller_room_wait(&room, says_damaged);
    assert_true(other.quantity[0][0][MEASURE_REQUESTS] >= 0);
}

/* ---- providers come and go ---- */

static bool has_since(const struct biller_room *which)
{
    char path[PATH_MAX];
    biller_room_path(which, "billing/file.since", path);
    return access(path, F_OK) == 0;
}

static void a_provider_that_comes_later_begins_there(void **state)
{
    (void) state;
    biller_room_policy("{}");
    redis_room_start(&room.redis);
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 100, clock_wall_ms() - 20000, 50);
    biller_room_wait(&room, has_ledger);
    room.expected = (struct biller_sums){0}; /* nobody was there */
    assert_false(has_since(&room));
    usleep(5000);
    biller_room_policy_file(&room);
    biller_room_wait(&room, has_since);
    biller_room_requests(&room, 0, 100, now() + 1000, 50);
    journal_destroy(&room.journals[0].journal);
    biller_room_wait_for_all(&room);
    biller_room_stop(&room);
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 30, now() + 1000, 50);
    journal_destroy(&room.journals[0].journal);
    biller_room_wait_for_all(&room);
}

/* What ended while a policy did not name it is made up for when one does again. */
static void a_provider_that_was_taken_out_goes_on_where_it_was(void **state)
{
    (void) state;
    redis_room_start(&room.redis);
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 100, now(), 50);
    biller_room_wait(&room, has_ledger);
    biller_room_policy("{}");
    usleep(1200000);
    struct biller_arrived before = biller_room_arrived(&room);
    biller_room_requests(&room, 0, 100, now() + 6000, 50);
    journal_destroy(&room.journals[0].journal);
    usleep(1500000);
    assert_int_equal(biller_room_arrived(&room).rows, before.rows);
    assert_int_equal(biller_room_status(&room)->provider_count, 1);
    biller_room_policy_file(&room);
    biller_room_wait_for_all(&room);
}

static bool says_directory(const struct biller_room *which)
{
    return strstr(biller_room_status(which)->error, "provider file") != NULL;
}

static bool is_well(const struct biller_room *which)
{
    const struct biller_status *status = biller_room_status(which);
    return status->error[0] == '\0' && status->oldest_unflushed == 0 && status->providers[0].oldest == 0;
}

static void a_directory_that_refuses_is_tried_again(void **state)
{
    (void) state;
    char path[PATH_MAX];
    snprintf(room.out, sizeof room.out, "%.60s/mount/out", room.state_dir);
    biller_room_policy_file(&room);
    redis_room_start(&room.redis);
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 100, now(), 50);
    journal_destroy(&room.journals[0].journal);
    biller_room_wait(&room, says_directory);
    assert_int_not_equal(biller_room_status(&room)->oldest_unflushed, 0);
    biller_room_path(&room, "mount", path);
    assert_int_equal(mkdir(path, 0700), 0);
    biller_room_wait_for_all(&room);
    biller_room_wait(&room, is_well);
    assert_int_equal(biller_room_status(&room)->providers[0].rows[ROW_PENDING], 0);
    assert_true(biller_room_status(&room)->providers[0].last_acked > 0);
}

static bool says_ledger(const struct biller_room *which)
{
    return strstr(biller_room_status(which)->error, "ledger file") != NULL;
}

static void a_ledger_that_refuses_loses_nothing(void **state)
{
    (void) state;
    char ledger[PATH_MAX], away[PATH_MAX];
    biller_room_path(&room, "ledger", ledger);
    biller_room_path(&room, "ledger.away", away);
    redis_room_start(&room.redis);
    biller_room_start(&room);
    assert_int_equal(rename(ledger, away), 0);
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 100, now(), 50);
    journal_destroy(&room.journals[0].journal);
    biller_room_wait(&room, says_ledger);
    assert_int_equal(biller_room_arrived(&room).rows, 0);
    assert_int_equal(rename(away, ledger), 0);
    biller_room_wait_for_all(&room);
}

/* ---- what a person wants ---- */

struct asked {
    struct biller_change change;
    struct loop *loop;
    bool is_done;
};

static void on_done(struct biller_change *change)
{
    ((struct asked *) change->owner)->is_done = true;
}

static struct row_change_result ask(struct asked *asked, enum row_verb verb, const char *id)
{
    asked->is_done = false;
    asked->change = (struct biller_change){.verb = verb, .loop = asked->loop, .done = on_done, .owner = asked};
    text_copy(asked->change.id, sizeof asked->change.id, text_of(id));
    if (room.biller != NULL)
        biller_post(room.biller, &asked->change);
    mono_ms until = clock_mono_ms() + BILLER_WAIT_MS;
    while (!asked->is_done && clock_mono_ms() < until)
        loop_run_once(asked->loop, 20);
    assert_true(asked->is_done);
    return asked->change.result;
}

#define STRIPE                                                                                                         \
    "{ providers: [ { stripe: { api_key_file: %s, api_base: 'http://127.0.0.1:1', meters: [ "                          \
    "{ event_name: in, measure: input_tokens } ] } } ] }"

static void policy_stripe(const char *tenants)
{
    char key[BILLER_ROOM_PATH_BYTES], billing[512], yaml[2048];
    biller_room_path(&room, "stripe.key", key);
    FILE *file = fopen(key, "w");
    assert_true(file != NULL && fputs("rk_test_1", file) >= 0 && fclose(file) == 0);
    assert_int_equal(chmod(key, 0600), 0);
    snprintf(billing, sizeof billing, STRIPE, key);
    snprintf(yaml, sizeof yaml, BILLER_ROOM_MODELS "tenants: { %s }\nbilling: %s\n", tenants, billing);
    biller_room_policy_text(yaml);
}

static bool is_held(const struct biller_room *which)
{
    const struct biller_status *status = biller_room_status(which);
    return status->provider_count == 1 && status->providers[0].rows[ROW_HELD] >= 1;
}

static bool is_released(const struct biller_room *which)
{
    const struct biller_status *status = biller_room_status(which);
    return status->provider_count == 1 && status->providers[0].rows[ROW_HELD] == 0;
}

static void held_rows_go_when_they_are_released(void **state)
{
    (void) state;
    struct asked asked = {.loop = loop_create()};
    policy_stripe("acme: {}");
    redis_room_start(&room.redis);
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 1, now(), 1);
    assert_true(room_open(&room.journals[0], room.number, now(), NULL));
    room_close(&room.journals[0], room.number, now(), NULL); /* acme's */
    journal_destroy(&room.journals[0].journal);
    biller_room_wait(&room, is_held);
    const struct biller_status *status = biller_room_status(&room);
    char id[ROW_ID_CHARACTERS + 1] = "";
    for (size_t i = 0; i < status->providers[0].waiting_count; i++) {
        const struct usage_waiting *waiting = &status->providers[0].waiting[i];
        if (strcmp(waiting->tenant, "acme") != 0)
            continue;
        assert_non_null(strstr(waiting->reason, "no customer"));
        memcpy(id, waiting->id, sizeof id);
    }
    assert_string_not_equal(id, "");
    assert_int_equal(status->oldest_unflushed, 0);
    struct row_change_result result = ask(&asked, ROW_RELEASE, id);
    assert_false(result.changed);
    assert_true(result.is_known);
    result = ask(&asked, ROW_RELEASE, "tg1-nobody");
    assert_false(result.changed || result.is_known);
    assert_string_not_equal(result.reason, "");
    policy_stripe("acme: { customer: cus_1 }, beta: { customer: cus_2 }, 'tenant-of-many-words': { customer: cus_3 }");
    result = ask(&asked, ROW_RELEASE, id);
    assert_true(result.changed && result.is_known);
    assert_int_equal(result.state, ROW_PENDING);
    if (biller_room_status(&room)->providers[0].rows[ROW_HELD] == 0)
        biller_room_wait(&room, is_released);
    loop_destroy(asked.loop);
}

/* A question that comes while it ends is answered. */
static void every_question_is_answered(void **state)
{
    (void) state;
    enum { QUESTIONS = 100 };
    static struct asked asked[QUESTIONS];
    struct loop *loop = loop_create();
    biller_room_start(&room);
    for (size_t i = 0; i < QUESTIONS; i++) {
        asked[i].change =
            (struct biller_change){.verb = ROW_RETRY, .id = "tg1-x", .loop = loop, .done = on_done, .owner = &asked[i]};
        biller_post(room.biller, &asked[i].change);
    }
    biller_room_stop(&room);
    for (int i = 0; i < 10; i++)
        loop_run_once(loop, 0);
    for (size_t i = 0; i < QUESTIONS; i++) {
        assert_true(asked[i].is_done);
        assert_false(asked[i].change.result.changed);
    }
    loop_destroy(loop);
}

/* ---- starts ---- */

static void refuses(const char *words)
{
    char error[BILLER_ERROR_BYTES] = "", journal[PATH_MAX];
    biller_room_path(&room, "journal", journal);
    room.store_options.journal_directory = journal;
    struct store *store = store_start(&room.store_options);
    struct biller_options options = {.state_dir = room.state_dir, .store = store};
    assert_null(biller_start(&options, error));
    assert_non_null(strstr(error, words));
    store_stop(&store);
}

static void what_a_person_must_mend_keeps_it_from_starting(void **state)
{
    (void) state;
    char path[PATH_MAX];
    biller_room_start(&room);
    biller_room_stop(&room);
    biller_room_path(&room, "billing/file.states", path);
    FILE *file = fopen(path, "w");
    assert_true(file != NULL && fputs("nonsense\nmore of it\n", file) >= 0 && fclose(file) == 0);
    refuses("file.states");
    assert_int_equal(truncate(path, 0), 0);
    biller_room_path(&room, "billing/file.since", path);
    assert_int_equal(truncate(path, 5), 0);
    refuses("file.since in state_dir: it is damaged");
    assert_int_equal(unlink(path), 0);
    biller_room_path(&room, "billing/file.states", path);
    file = fopen(path, "w");
    assert_true(file != NULL && fputs("x", file) >= 0 && fclose(file) == 0);
    biller_room_path(&room, "install_id", path);
    assert_int_equal(truncate(path, 10), 0);
    refuses("install_id");
    assert_int_equal(unlink(path), 0);
    refuses("install_id");
    biller_room_path(&room, "billing/file.states", path);
    assert_int_equal(truncate(path, 0), 0);
    biller_room_start(&room);
}

/* It ends soon, however much there is to read; four times the promised second. */
static void ends_when_told(void **state)
{
    (void) state;
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 20000, now(), 2);
    room_open(&room.journals[0], room.number, now(), NULL);
    room_turn(&room.journals[0]);
    journal_destroy(&room.journals[0].journal);
    for (useconds_t wait_us = 1000; wait_us < 100000; wait_us *= 4) {
        biller_room_start(&room);
        usleep(wait_us);
        mono_ms began = clock_mono_ms();
        biller_stop(&room.biller);
        assert_true(clock_mono_ms() - began < 4000);
        store_stop(&room.store);
    }
}

/* ---- random schedules ---- */

static void toggle_out(bool *is_away)
{
    char away[PATH_MAX];
    biller_room_path(&room, "out.away", away);
    /* A file in its place: nothing can be written there. */
    if (*is_away) {
        assert_int_equal(unlink(room.out), 0);
        (void) !rename(away, room.out);
    } else {
        (void) !rename(room.out, away);
        FILE *file = fopen(room.out, "w");
        assert_true(file != NULL && fclose(file) == 0);
    }
    *is_away = !*is_away;
}

static void toggle_journal(size_t place)
{
    if (room.journals[place].journal != NULL)
        journal_destroy(&room.journals[place].journal);
    else
        biller_room_begin(&room, place);
}

static void toggle_biller(void)
{
    if (room.biller != NULL)
        biller_room_stop(&room);
    else
        biller_room_start(&room);
}

static void toggle_redis(void)
{
    if (room.redis.pid != 0)
        redis_room_kill(&room.redis);
    else
        redis_room_start(&room.redis);
}

/* A worker makes its journal while the billing thread runs, or before it started: never is it there twice. */
static void random_step(bool *is_away)
{
    size_t place = unit_random_below(BILLER_JOURNALS);
    switch (unit_random_below(8)) {
    case 0:
        toggle_biller();
        return;
    case 1:
        toggle_redis();
        return;
    case 2:
        toggle_out(is_away);
        return;
    case 3:
        if (room.biller != NULL)
            toggle_journal(place);
        return;
    default:
        if (room.journals[place].journal != NULL)
            biller_room_requests(&room, place, (unsigned) unit_random_below(60) + 1, now(),
                                 (wall_ms) unit_random_below(200));
        usleep((useconds_t) unit_random_below(50000));
    }
}

/* The sums of what was closed, of what the ledger has and of what was delivered are the same, each row once. */
static void sums_are_the_same_whatever_happens(void **state)
{
    (void) state;
    bool is_away = false;
    for (int step = 0; step < 150; step++)
        random_step(&is_away);
    if (is_away)
        toggle_out(&is_away);
    if (room.redis.pid == 0)
        redis_room_start(&room.redis);
    if (room.biller == NULL)
        biller_room_start(&room);
    for (size_t i = 0; i < BILLER_JOURNALS; i++)
        journal_destroy(&room.journals[i].journal);
    biller_room_wait_for_all(&room);
    biller_room_wait(&room, is_well);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(usage_arrives_once),
        TEST(no_row_before_redis_has_its_epoch),
        TEST(dead_writers_are_finished),
        TEST(a_damaged_journal_stops_no_other),
        TEST(a_provider_that_comes_later_begins_there),
        TEST(a_provider_that_was_taken_out_goes_on_where_it_was),
        TEST(a_directory_that_refuses_is_tried_again),
        TEST(a_ledger_that_refuses_loses_nothing),
        TEST(held_rows_go_when_they_are_released),
        TEST(every_question_is_answered),
        TEST(what_a_person_must_mend_keeps_it_from_starting),
        TEST(ends_when_told),
        TEST(sums_are_the_same_whatever_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
