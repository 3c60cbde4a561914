/* billing/sender_ask: what may have arrived long ago is asked for, and what cannot be known is left to a person. */
#include "tests/unit/billing/sender_room.h"

/* A row that was sent @hours ago, without an answer. */
static struct row add_sent(struct room *room, unsigned number, const char *tenant, int64_t hours)
{
    wall_ms when = clock_wall_ms() - clock_wall_ms() % HOUR - hours * HOUR + HOUR / 2;
    struct row row = make_row(number, tenant, "tokens_out", when);
    const char *customer = provider_customer(room->policy, tenant);
    assert_true(row_states_add(room->states, &row, ROW_PENDING, when, ""));
    assert_true(row_states_mark_sent(room->states, row.id, when, customer));
    return row;
}

static void put_event(struct room *room, const struct row *row, const char *customer, wall_ms taken_at)
{
    struct event *event = &room->provider.events[room->provider.event_count++];
    *event = (struct event){.value = row->quantity, .timestamp_s = row->ended / 1000, .taken_at = taken_at};
    snprintf(event->identifier, sizeof event->identifier, "%s", row->id);
    snprintf(event->event_name, sizeof event->event_name, "%.60s", row->name.meter);
    snprintf(event->customer, sizeof event->customer, "%s", customer);
}

static void test_an_old_row_that_is_there_is_found(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26);
    put_event(room, &row, "cus_a", row.ended);
    run_until(room, &row, ROW_ACKED);
    assert_string_equal(entry_of(room, &row)->reason, "found at reconciling");
    assert_int_equal(calls_of(room), 0);
}

static void test_an_old_row_that_is_not_there_goes_again(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26), same_hour = add_sent(room, 2, "acme", 26);
    run_until(room, &row, ROW_ACKED);
    run_until(room, &same_hour, ROW_ACKED);
    assert_int_equal(taken(room, row.id), 1);
    assert_int_equal(room->provider.question_count, 1); /* one answer for both */
    assert_string_not_equal(room->provider.calls[0].key, row.id);
    assert_string_equal(room->provider.calls[0].identifier, row.id);
}

static void test_a_total_that_proves_nothing_is_for_a_person(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26), foreign = make_row(7, "acme", "tokens_out", row.ended);
    put_event(room, &foreign, "cus_a", row.ended);
    run_until(room, &row, ROW_HELD);
    assert_non_null(strstr(entry_of(room, &row)->reason, "107"));
    assert_int_equal(calls_of(room), 0);
    close_sender(room);
    open_sender(room); /* and stays so */
    assert_true(entry_of(room, &row)->undecided);
    assert_true(row_change(room->states, room->policy, row.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(room->provider.question_count, 1);
}

static void test_tenants_of_one_customer_are_counted_together(void **state)
{
    struct room *room = *state;
    room->tenants[1].customer = "cus_a";
    struct row row = add_sent(room, 1, "acme", 26), other = add_sent(room, 2, "beta", 26);
    put_event(room, &other, "cus_a", other.ended);
    assert_true(row_states_move(room->states, other.id, ROW_ACKED, other.ended, ""));
    room->tenants[1].customer = "cus_new"; /* what was sent stays where it went */
    run_until(room, &row, ROW_ACKED);
    assert_string_equal(entry_of(room, &row)->reason, "");
    assert_int_equal(taken(room, row.id), 1);
}

/* A person billed a row by hand that never went: the provider has it, or it was billed elsewhere. */
static void test_what_was_billed_by_hand_proves_nothing(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26), by_hand = make_row(2, "acme", "tokens_out", row.ended);
    by_hand.quantity = row.quantity;
    assert_true(row_states_add(room->states, &by_hand, ROW_HELD, by_hand.ended, "no customer"));
    assert_true(row_change(room->states, room->policy, by_hand.id, ROW_DELIVERED, clock_wall_ms()).changed);
    put_event(room, &row, "cus_a", row.ended);
    clock_shift_ms += 61 * 1000;
    run_until(room, &row, ROW_HELD);
    assert_non_null(strstr(entry_of(room, &row)->reason, "has 101 of this hour, known are 0, by hand 101"));
    assert_int_equal(calls_of(room), 0);
}

/* Rows of the hour that left memory are in the total too. */
static void test_what_went_is_counted_as_well(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26);
    for (unsigned number = 2; number < 2 + ROW_TIDY_MIN / 2; number++) {
        struct row other = add_sent(room, number, number == 2 ? "acme" : "beta", 26);
        assert_true(row_states_move(room->states, other.id, ROW_ACKED, other.ended, ""));
        if (number == 2) {
            other.quantity = row.quantity; /* as much as the one in question */
            put_event(room, &other, "cus_a", other.ended);
        }
    }
    assert_true(row_states_tidy(room->states, clock_wall_ms()));
    assert_int_equal(row_states_count(room->states), 1);
    for (mono_ms end = real_mono_ms() + WAIT_MS; entry_of(room, &row)->state != ROW_HELD; turn(room)) {
        assert_true(real_mono_ms() < end);
        assert_true(row_states_tidy(room->states, clock_wall_ms())); /* also between a question and its answer */
    }
    assert_non_null(strstr(entry_of(room, &row)->reason, "101"));
    assert_non_null(strstr(entry_of(room, &row)->reason, "known are 102"));
}

static void test_a_total_is_asked_for_after_a_quiet_time(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26), other = make_row(2, "acme", "tokens_out", row.ended);
    assert_true(row_states_add(room->states, &other, ROW_PENDING, row.ended, ""));
    assert_true(row_states_mark_sent(room->states, other.id, clock_wall_ms(), "cus_a"));
    assert_true(row_states_move(room->states, other.id, ROW_ACKED, clock_wall_ms(), ""));
    put_event(room, &other, "cus_a", clock_wall_ms());
    run_a_while(room);
    assert_int_equal(room->provider.question_count, 0);
    clock_shift_ms += 61 * 1000;
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(room->provider.question_count, 1);
    assert_int_equal(taken(room, row.id), 1);
}

static void test_without_a_total_nothing_old_goes(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26);
    room->provider.fails_totals = true;
    while (sender_trouble(room->sender)[0] == '\0')
        turn(room);
    run_a_while(room);
    assert_int_equal(calls_of(room), 0);
    assert_int_equal(entry_of(room, &row)->state, ROW_SENT);
    room->provider.fails_totals = false;
    clock_shift_ms += 10000;
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(taken(room, row.id), 1);
}

/* The machine slept, or the clock was set: what was sent before is too old all at once. */
static void test_a_jump_of_the_clock_is_seen(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_CLOSE);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    clock_shift_ms += 25 * HOUR;
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(calls_of(room), 1);
    assert_int_equal(taken(room, row.id), 1);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        TEST(test_an_old_row_that_is_there_is_found),
        TEST(test_an_old_row_that_is_not_there_goes_again),
        TEST(test_a_total_that_proves_nothing_is_for_a_person),
        TEST(test_tenants_of_one_customer_are_counted_together),
        TEST(test_what_was_billed_by_hand_proves_nothing),
        TEST(test_what_went_is_counted_as_well),
        TEST(test_a_total_is_asked_for_after_a_quiet_time),
        TEST(test_without_a_total_nothing_old_goes),
        TEST(test_a_jump_of_the_clock_is_seen),
    };
    if (!transfers_global_init())
        return 1;
    log_configure(LOG_FORMAT_JSON, LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
