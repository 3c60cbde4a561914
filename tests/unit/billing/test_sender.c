/* billing/sender: whatever happens on the way, each row is taken exactly once. */
#include "tests/lib/full_disk.h"
#include "tests/unit/billing/sender_room.h"

#include <fcntl.h>

#include "base/metrics.h"
#include "billing/deliver.h"

static off_t file_length(void)
{
    struct stat status;
    assert_int_equal(stat(scratch_path("stripe.states"), &status), 0);
    return status.st_size;
}

static bool is_over(const struct room *room)
{
    for (size_t i = 0; i < row_states_count(room->states); i++) {
        enum row_state at = row_states_at(room->states, i)->state;
        if (at == ROW_PENDING || at == ROW_SENT)
            return false;
    }
    return true;
}

static void test_a_row_goes_and_is_acknowledged(void **state)
{
    struct room *room = *state;
    const char *const labels[METRIC_LABELS_MAX] = {"stripe", "acked"};
    const struct metric_series *acked = metric_series(METRIC_BILLING_EVENTS, labels);
    int64_t acked_before = metric_value(acked);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until(room, &row, ROW_ACKED);
    assert_true(metric_value(acked) == acked_before + 1);
    const struct provider *provider = &room->provider;
    assert_int_equal(taken(room, row.id), 1);
    assert_string_equal(provider->events[0].customer, "cus_a");
    assert_string_equal(provider->events[0].event_name, "tokens_out");
    assert_int_equal(provider->events[0].value, 101);
    assert_true(provider->events[0].timestamp_s == row.ended / 1000);
    assert_string_equal(provider->calls[0].key, row.id);
    assert_non_null(strstr(provider->last_head, "\r\nAuthorization: Bearer sk_test_secret\r\n"));
    assert_non_null(strstr(provider->last_head, "\r\nStripe-Version: 20"));
    assert_non_null(strstr(provider->last_head, "\r\nContent-Type: application/x-www-form-urlencoded\r\n"));
    assert_string_equal(sender_trouble(room->sender), "");
    assert_false(provider->was_unsynced);
}

static void test_what_was_there_is_a_duplicate(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_CLOSE);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    assert_int_equal(entry_of(room, &row)->state, ROW_SENT);
    assert_string_equal(entry_of(room, &row)->customer, "cus_a");
    assert_non_null(strstr(sender_trouble(room->sender), "no answer"));
    clock_shift_ms += 10000;
    run_until(room, &row, ROW_DUPLICATE);
    assert_int_equal(taken(room, row.id), 1);
    assert_string_equal(room->provider.calls[0].key, room->provider.calls[1].key);
    assert_string_equal(sender_trouble(room->sender), "");
}

static void test_a_refused_row_waits_and_goes_as_the_next_revision(void **state)
{
    struct room *room = *state;
    char second[ROW_ID_CHARACTERS + 1];
    SCRIPT(room, REFUSE);
    struct row row = add_row(room, 1, "acme", "tokens_out"), other = add_row(room, 2, "acme", "tokens_out");
    run_until(room, &row, ROW_REJECTED);
    assert_string_equal(entry_of(room, &row)->reason, "400: no such meter");
    run_until(room, &other, ROW_ACKED); /* it does not stand in the way */
    assert_true(row_change(room->states, room->policy, row.id, ROW_RETRY, clock_wall_ms()).changed);
    run_until(room, &row, ROW_ACKED);
    row_identifier(&row.name, INSTALL, 1, second);
    assert_int_equal(taken(room, second), 1);
    assert_int_equal(taken(room, row.id), 0);
}

/* As another revision it could be there twice. */
static void test_refused_after_a_try_without_answer_is_for_a_person(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_CLOSE, REFUSE);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    clock_shift_ms += 10000;
    run_until(room, &row, ROW_HELD);
    assert_non_null(strstr(entry_of(room, &row)->reason, "may have arrived"));
    assert_true(row_change(room->states, room->policy, row.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &row, ROW_DUPLICATE);
    assert_int_equal(taken(room, row.id), 1);
}

static void test_a_wrong_key_holds_all_back_but_a_probe(void **state)
{
    struct room *room = *state;
    SCRIPT(room, WRONG_KEY, WRONG_KEY, WRONG_KEY);
    struct row rows[3] = {add_row(room, 1, "acme", "tokens_out"), add_row(room, 2, "acme", "tokens_in"),
                          add_row(room, 3, "beta", "tokens_in")};
    run_until_calls(room, 3);
    run_a_while(room);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(entry_of(room, &rows[i])->state, ROW_PENDING);
        assert_true(entry_of(room, &rows[i])->first_sent == 0);
    }
    assert_int_equal(calls_of(room), 3);
    assert_string_equal(sender_trouble(room->sender), "401: the API key is not accepted");
    SCRIPT(room, WRONG_KEY, WRONG_KEY, WRONG_KEY);
    clock_shift_ms += HOUR;
    run_a_while(room);
    assert_int_equal(calls_of(room), 4); /* one probe */
    SCRIPT(room, TAKE);
    const struct policy *old = room->policy;
    room->policy = make_policy(room, "sk_test_repaired");
    for (int i = 0; i < 3; i++)
        run_until(room, &rows[i], ROW_ACKED);
    policy_drop(&old);
    assert_non_null(strstr(room->provider.last_head, "sk_test_repaired"));
}

static void test_too_many_waits_as_long_as_it_was_told(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TOO_MANY);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    assert_int_equal(entry_of(room, &row)->state, ROW_PENDING);
    clock_shift_ms += 60 * 1000;
    run_a_while(room);
    assert_int_equal(calls_of(room), 1);
    clock_shift_ms += 61 * 1000;
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(calls_of(room), 2);
}

/* The provider says that this machine's clock is ahead. */
static void test_a_clock_that_is_ahead_loses_no_row(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TOO_EARLY);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    assert_int_equal(entry_of(room, &row)->state, ROW_PENDING);
    assert_non_null(strstr(sender_trouble(room->sender), "clock of this machine is more than 5 minutes ahead"));
    clock_shift_ms += 10000;
    run_until(room, &row, ROW_ACKED);
    assert_string_equal(room->provider.events[0].identifier, row.id);
    assert_string_not_equal(room->provider.calls[0].key, room->provider.calls[1].key); /* it may be stored under that */
}

/* It was set back: what ended by the old time waits for the new one, and nothing else does. */
static void test_what_ended_ahead_of_the_clock_waits(void **state)
{
    struct room *room = *state;
    struct row early = make_row(1, "acme", "tokens_out", clock_wall_ms() + 7 * 60 * 1000);
    assert_true(row_states_add(room->states, &early, ROW_PENDING, clock_wall_ms(), ""));
    run_a_while(room);
    assert_non_null(strstr(sender_trouble(room->sender), "wait for the clock"));
    struct row row = add_row(room, 2, "acme", "tokens_out");
    run_until(room, &row, ROW_ACKED);
    clock_shift_ms += 61 * 1000;
    run_a_while(room);
    assert_int_equal(calls_of(room), 1);
    assert_int_equal(entry_of(room, &early)->state, ROW_PENDING);
    assert_true(entry_of(room, &early)->first_sent == 0);
    clock_shift_ms += 61 * 1000;
    run_until(room, &early, ROW_ACKED);
}

static void test_a_stored_failure_gets_another_key(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_FAIL, FAIL);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    for (size_t calls = 1; calls <= 2; calls++) {
        run_until_calls(room, calls);
        run_a_while(room);
        clock_shift_ms += 10000;
    }
    run_until(room, &row, ROW_DUPLICATE);
    const struct call *calls = room->provider.calls;
    assert_string_equal(calls[0].identifier, calls[2].identifier);
    assert_string_not_equal(calls[0].key, calls[1].key);
    assert_string_not_equal(calls[1].key, calls[2].key);
    assert_int_equal(taken(room, row.id), 1);
}

/* Also when the failure was stored before a restart. */
static void test_a_restart_does_not_meet_a_stored_failure(void **state)
{
    struct room *room = *state;
    SCRIPT(room, FAIL);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    close_sender(room);
    open_sender(room);
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(calls_of(room), 2);
    assert_string_equal(room->provider.calls[0].identifier, room->provider.calls[1].identifier);
    assert_string_not_equal(room->provider.calls[0].key, room->provider.calls[1].key);
}

static void test_nobody_there_is_no_try(void **state)
{
    struct room *room = *state;
    char url[64];
    struct http_stub *gone = http_stub_start(NULL, serve_provider, room);
    snprintf(url, sizeof url, "%s", http_stub_url(gone));
    http_stub_stop(&gone);
    room->providers[0].api_base = url;
    struct row row = add_row(room, 1, "acme", "tokens_out");
    while (strstr(sender_trouble(room->sender), "not reached: ") == NULL)
        turn(room);
    run_until(room, &row, ROW_PENDING);
    assert_true(entry_of(room, &row)->first_sent == 0);
    clock_shift_ms += 30 * HOUR;
    room->providers[0].api_base = http_stub_url(room->stub);
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(room->provider.question_count, 0); /* it cannot be there */
}

static void test_a_lane_has_one_call(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_HANG);
    struct row first = add_row(room, 1, "acme", "tokens_out"), second = add_row(room, 2, "acme", "tokens_out");
    run_until_calls(room, 1);
    struct row other = add_row(room, 3, "beta", "tokens_out");
    run_until(room, &other, ROW_ACKED);
    run_a_while(room);
    assert_int_equal(calls_of(room), 2);
    assert_int_equal(entry_of(room, &second)->state, ROW_PENDING);
    close_sender(room);
    open_sender(room); /* the first is unclear: it is cleared up before the second goes */
    run_until(room, &second, ROW_ACKED);
    assert_int_equal(entry_of(room, &first)->state, ROW_DUPLICATE);
    assert_string_equal(room->provider.calls[2].identifier, first.id);
}

static void test_what_lacks_something_is_held(void **state)
{
    struct room *room = *state;
    struct row row = add_row(room, 1, "none", "tokens_out");
    struct row old = make_row(2, "acme", "tokens_out", clock_wall_ms() - 36 * 24 * HOUR);
    assert_true(row_states_add(room->states, &old, ROW_PENDING, clock_wall_ms(), ""));
    run_until(room, &row, ROW_HELD);
    run_until(room, &old, ROW_HELD);
    assert_string_equal(entry_of(room, &row)->reason, "the tenant none has no customer: give it one, and reload");
    assert_non_null(strstr(entry_of(room, &old)->reason, "35 days"));
    assert_int_equal(calls_of(room), 0);
    room->tenants[2].customer = "cus_n";
    assert_true(row_change(room->states, room->policy, row.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &row, ROW_ACKED);
    assert_string_equal(room->provider.events[0].customer, "cus_n");
}

/* ---- people and crashes ---- */

static void test_a_person_may_change_a_row_in_flight(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_HANG, TAKE_AND_HANG);
    struct row held = add_row(room, 1, "acme", "tokens_out"), gone = add_row(room, 2, "beta", "tokens_out");
    run_until_calls(room, 2);
    assert_true(row_change(room->states, room->policy, held.id, ROW_HOLD, clock_wall_ms()).changed);
    assert_true(row_change(room->states, room->policy, gone.id, ROW_HOLD, clock_wall_ms()).changed);
    assert_true(row_change(room->states, room->policy, gone.id, ROW_DELIVERED, clock_wall_ms()).changed);
    close_sender(room);
    open_sender(room);
    run_a_while(room);
    assert_int_equal(calls_of(room), 2);
    assert_int_equal(entry_of(room, &held)->state, ROW_HELD);
    assert_int_equal(entry_of(room, &gone)->state, ROW_ACKED);
    assert_true(row_change(room->states, room->policy, held.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &held, ROW_DUPLICATE);
}

/* The provider says that it has it: nobody billed it by hand. */
static void test_a_row_that_is_held_too_late_is_delivered(void **state)
{
    struct room *room = *state;
    struct row row = add_row(room, 1, "acme", "tokens_out");
    turn(room);
    assert_int_equal(entry_of(room, &row)->state, ROW_SENT);
    assert_true(row_change(room->states, room->policy, row.id, ROW_HOLD, clock_wall_ms()).changed);
    run_until(room, &row, ROW_ACKED);
    assert_false(row_entry_is_by_hand(entry_of(room, &row)));
    assert_string_equal(entry_of(room, &row)->customer, "cus_a");
}

/* What cannot be marked as sent does not go; what was answered and cannot be kept goes again, as a duplicate. */
static void test_a_full_disk_delivers_once(void **state)
{
    struct room *room = *state;
    struct row row = add_row(room, 1, "acme", "tokens_out");
    full_disk_at((rlim_t) file_length() + 10);
    run_a_while(room);
    assert_int_equal(calls_of(room), 0);
    assert_non_null(strstr(sender_trouble(room->sender), "cannot be written"));
    full_disk_at((rlim_t) file_length() * 2 + 40); /* for the mark, not for the answer */
    clock_shift_ms += 10000;
    run_until_calls(room, 1);
    run_a_while(room);
    assert_int_equal(entry_of(room, &row)->state, ROW_SENT);
    full_disk_end();
    clock_shift_ms += 10000;
    run_until(room, &row, ROW_DUPLICATE);
    assert_int_equal(taken(room, row.id), 1);
}

/* A row that cannot be held now is held later. */
static void test_a_full_disk_forgets_no_row(void **state)
{
    struct room *room = *state;
    struct row row = add_row(room, 1, "none", "tokens_out");
    full_disk_at((rlim_t) file_length() + 10);
    run_a_while(room);
    full_disk_end();
    assert_int_equal(entry_of(room, &row)->state, ROW_PENDING);
    assert_non_null(strstr(sender_trouble(room->sender), "cannot be written"));
    room->tenants[2].customer = "cus_n"; /* while nobody could be told that it has none */
    clock_shift_ms += 10000;
    run_until(room, &row, ROW_ACKED);
}

/* What failed is over when nothing is to go any more. */
static void test_no_trouble_stays_without_rows(void **state)
{
    struct room *room = *state;
    SCRIPT(room, FAIL);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    assert_string_equal(sender_trouble(room->sender), "500");
    assert_true(row_change(room->states, room->policy, row.id, ROW_HOLD, clock_wall_ms()).changed);
    turn(room);
    assert_string_equal(sender_trouble(room->sender), "");
    assert_true(row_change(room->states, room->policy, row.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &row, ROW_ACKED);
}

/* A lane with more rows than are known of one, that does not move. */
static void test_a_stuck_lane_does_not_stand_in_the_way(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_HANG);
    for (unsigned i = 0; i < DELIVERY_ROWS_MAX + 1; i++)
        add_row(room, i, "acme", "tokens_out");
    run_until_calls(room, 1);
    struct row other = add_row(room, DELIVERY_ROWS_MAX + 1, "beta", "tokens_out");
    run_until(room, &other, ROW_ACKED);
    assert_int_equal(calls_of(room), 2);
}

/* More rows than are known at a time; none of them may go, so that none is called for. */
static void test_all_rows_get_their_turn(void **state)
{
    struct room *room = *state;
    enum { ROWS = DELIVERY_ROWS_MAX + 50 };
    int errors = dup(STDERR_FILENO), nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_true(dup2(nowhere, STDERR_FILENO) >= 0); /* each is an error for a person */
    for (unsigned i = 0; i < ROWS; i++) { /* in as many lanes as fill all places, and some rows of one that is full */
        char meter[32];
        snprintf(meter, sizeof meter, "m%u", i < DELIVERY_LANE_ROWS_MAX + 20 ? 0 : i % 64);
        add_row(room, i, "none", meter);
    }
    for (mono_ms end = real_mono_ms() + WAIT_MS; !is_over(room); turn(room))
        assert_true(real_mono_ms() < end);
    assert_true(dup2(errors, STDERR_FILENO) >= 0);
    close(errors);
    close(nowhere);
    for (size_t i = 0; i < ROWS; i++)
        assert_int_equal(row_states_at(room->states, i)->state, ROW_HELD);
    assert_int_equal(calls_of(room), 0);
}

static void test_nothing_goes_without_the_provider(void **state)
{
    struct room *room = *state;
    struct row row = add_row(room, 1, "acme", "tokens_out");
    struct snapshot *empty = snapshot_create();
    const struct policy *without = &empty->policy;
    for (int i = 0; i < 20; i++) {
        sender_turn(room->sender, without);
        loop_run_once(room->loop, 5);
    }
    assert_int_equal(calls_of(room), 0);
    assert_non_null(strstr(sender_trouble(room->sender), "does not name"));
    assert_true(row_change(room->states, room->policy, row.id, ROW_HOLD, clock_wall_ms()).changed);
    assert_string_equal(sender_trouble(room->sender), ""); /* nothing is to go */
    assert_true(row_change(room->states, room->policy, row.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &row, ROW_ACKED);
    assert_string_equal(sender_trouble(room->sender), "");
    policy_drop(&without);
}

enum { LIFE_ROWS = 40, AWAY_MAX = 30 }; /* days: no row becomes too old */

/* The process dies, and is @away for a day at times. What it had sent arrives before that, or never. */
static void crash(struct room *room, bool is_away)
{
    close_sender(room);
    if (is_away) {
        do
            usleep(20 * 1000); /* also what waits to be accepted */
        while (http_stub_open(room->stub) > 0);
        clock_shift_ms += 25 * HOUR;
    }
    open_sender(room);
    assert_true(row_states_tidy(room->states, 0)); /* as the biller does; nothing is old enough to leave */
}

/* Answers get lost before and after the event is taken, and the process dies at any moment. */
static void test_a_life_with_crashes_delivers_each_row_once(void **state)
{
    struct room *room = *state;
    char ids[LIFE_ROWS][ROW_ID_CHARACTERS + 1];
    unsigned crashes = 0, away = 0;
    room->provider.is_random = true;
    for (unsigned i = 0; i < LIFE_ROWS; i++) {
        struct row row = add_row(room, i, i % 2 == 0 ? "acme" : "beta", i % 4 < 2 ? "tokens_out" : "tokens_in");
        memcpy(ids[i], row.id, sizeof ids[i]);
    }
    while (!is_over(room)) {
        turn(room);
        clock_shift_ms += (int64_t) unit_random_below(2000);
        /* Lives become longer: on a slow machine a short one ends before any answer comes. */
        if (unit_random_below(5 + crashes / 30) > 0)
            continue;
        crashes++;
        crash(room, away < AWAY_MAX && unit_random_below(10) == 0 && ++away > 0);
    }
    for (unsigned i = 0; i < LIFE_ROWS; i++) {
        enum row_state at = row_states_find(room->states, ids[i])->state;
        assert_int_equal(taken(room, ids[i]), 1);
        assert_true(at == ROW_ACKED || at == ROW_DUPLICATE);
    }
    assert_int_equal(room->provider.event_count, LIFE_ROWS);
    assert_false(room->provider.was_unsynced);
    print_message("%zu calls, %zu questions, %u crashes\n", room->provider.call_count, room->provider.question_count,
                  crashes);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        TEST(test_a_row_goes_and_is_acknowledged),
        TEST(test_what_was_there_is_a_duplicate),
        TEST(test_a_refused_row_waits_and_goes_as_the_next_revision),
        TEST(test_refused_after_a_try_without_answer_is_for_a_person),
        TEST(test_a_wrong_key_holds_all_back_but_a_probe),
        TEST(test_too_many_waits_as_long_as_it_was_told),
        TEST(test_a_clock_that_is_ahead_loses_no_row),
        TEST(test_what_ended_ahead_of_the_clock_waits),
        TEST(test_a_stored_failure_gets_another_key),
        TEST(test_a_restart_does_not_meet_a_stored_failure),
        TEST(test_nobody_there_is_no_try),
        TEST(test_a_lane_has_one_call),
        TEST(test_what_lacks_something_is_held),
        TEST(test_a_person_may_change_a_row_in_flight),
        TEST(test_a_row_that_is_held_too_late_is_delivered),
        TEST(test_a_full_disk_delivers_once),
        TEST(test_a_full_disk_forgets_no_row),
        TEST(test_no_trouble_stays_without_rows),
        TEST(test_a_stuck_lane_does_not_stand_in_the_way),
        TEST(test_all_rows_get_their_turn),
        TEST(test_nothing_goes_without_the_provider),
        TEST(test_a_life_with_crashes_delivers_each_row_once),
    };
    if (!transfers_global_init())
        return 1;
    log_configure(LOG_FORMAT_JSON, LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
