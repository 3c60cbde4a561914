/* Reservations over all levels: what is admitted, refused, told and given back. */
#include "ratelimit/limiter.h"

#include <string.h>

#include "tests/lib/limiter_room.h"
#include "tests/lib/unit.h"

static void without_limits_everything_is_admitted(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(room_reserve_as(&room, &ALICE, INT64_MAX, &reservation, &answer),
                     LIMIT_ADMITTED); /* nothing applied */
    limiter_settle(room.limiter, &reservation, 5, room.now);
    room_apply(&room);
    assert_int_equal(room_reserve_as(&room, &ALICE, 1000, &reservation, &answer), LIMIT_ADMITTED);
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++)
        assert_false(answer.nearest[kind].present);
    assert_true(limiter_top_up(room.limiter, &reservation, 1000000, room.now));
    limiter_settle(room.limiter, &reservation, INT64_MAX, room.now);
    assert_false(reservation.open);
    room_close(&room);
}

static void one_minute_of_requests_at_once_then_one_by_one(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits.requests_per_minute = 10;
    room_apply(&room);
    int admitted = 0;
    struct reservation reservation;
    struct limit_answer answer;
    for (int request = 0; request < 50; request++) {
        if (room_reserve_as(&room, &SUBJECT, 1, &reservation, &answer) == LIMIT_ADMITTED)
            admitted++;
        limiter_settle(room.limiter, &reservation, 1, room.now);
    }
    assert_int_equal(admitted, 10);
    assert_int_equal(answer.kind, LIMIT_REQUESTS);
    assert_int_equal(answer.scope, SCOPE_KEY);
    assert_int_equal(answer.limit, 10);
    assert_int_equal(answer.used, 10);
    assert_int_equal(answer.requested, 1);
    assert_int_equal(answer.retry_after_ms, 6000);
    assert_int_equal(answer.nearest[LIMIT_REQUESTS].remaining, 0);
    assert_true(answer.nearest[LIMIT_REQUESTS].reset_us == 60 * SECOND);
    room.now += 6 * SECOND - 1;
    assert_int_equal(room_reserve(&room, 1, &reservation), LIMIT_REFUSED);
    room.now += 1;
    assert_int_equal(room_reserve(&room, 1, &reservation), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 1, room.now);
    room_close(&room);
}

static void refused_request_takes_nothing_from_the_others(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.requests_per_minute = 100, .tokens_per_minute = 1000, .concurrent_requests = 9};
    room.tenant.limits = (struct limits){.requests_per_minute = 200, .tokens_per_minute = 2000};
    room.model.limits = (struct limits){.concurrent_requests = 1};
    room.share.limits = (struct limits){.tokens_per_minute = 500};
    room.policy.user_limits = (struct limits){.requests_per_minute = 30};
    room_apply(&room);
    struct reservation first, second;
    struct limit_answer answer;
    assert_int_equal(room_reserve_as(&room, &ALICE, 10, &first, &answer), LIMIT_ADMITTED);
    struct dump before, after;
    room_dump(&room, NULL, &before);
    assert_int_equal(before.count, 8);
    const struct limit_subject bob = {"acme", "ci", "bob", "gemma"};
    assert_int_equal(room_reserve_as(&room, &bob, 10, &second, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.kind, LIMIT_SEATS);
    assert_int_equal(answer.scope, SCOPE_MODEL);
    assert_true(answer.retry_after_ms >= 1);
    assert_int_equal(room_reserve_as(&room, &ALICE, 501, &second, &answer), LIMIT_TOO_LARGE);
    assert_int_equal(answer.scope, SCOPE_TENANT_MODEL);
    room_dump(&room, NULL, &after);
    assert_memory_equal(&before, &after, sizeof before);
    limiter_cancel(room.limiter, &second, room.now); /* not open: nothing happens */
    limiter_settle(room.limiter, &second, 100, room.now);
    room_dump(&room, NULL, &after);
    assert_memory_equal(&before, &after, sizeof before);
    limiter_cancel(room.limiter, &first, room.now);
    room_close(&room);
}

static void longest_wait_is_the_one_told(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.requests_per_minute = 60, .request_burst = 1};
    room.tenant.limits = (struct limits){.requests_per_minute = 6, .request_burst = 1};
    room.model.limits = (struct limits){.requests_per_minute = 600, .request_burst = 1};
    room_apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(room_reserve(&room, 1, &reservation), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 1, room.now);
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 1, &reservation, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.scope, SCOPE_TENANT);
    assert_int_equal(answer.limit, 6);
    assert_int_equal(answer.capacity, 1);
    assert_int_equal(answer.retry_after_ms, 10000);
    room_close(&room);
}

static void nearest_limit_is_the_one_with_least_left(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 1000};
    room.tenant.limits = (struct limits){.tokens_per_minute = 300, .concurrent_requests = 4};
    room_apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 100, &reservation, &answer), LIMIT_ADMITTED);
    assert_false(answer.nearest[LIMIT_REQUESTS].present);
    assert_int_equal(answer.nearest[LIMIT_TOKENS].scope, SCOPE_TENANT);
    assert_int_equal(answer.nearest[LIMIT_TOKENS].limit, 300);
    assert_int_equal(answer.nearest[LIMIT_TOKENS].remaining, 200);
    assert_true(answer.nearest[LIMIT_TOKENS].reset_us == 20 * SECOND);
    assert_int_equal(answer.nearest[LIMIT_SEATS].remaining, 3);
    assert_true(answer.nearest[LIMIT_SEATS].reset_us == 0);
    limiter_settle(room.limiter, &reservation, 5000, room.now); /* debt shows as nothing left, never as less */
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 100, &reservation, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.nearest[LIMIT_TOKENS].remaining, 0);
    assert_int_equal(answer.scope, SCOPE_TENANT);
    assert_int_equal(answer.used, 5000);
    room_close(&room);
}

static void seats_come_back_at_the_end_once(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits.concurrent_requests = 2;
    room_apply(&room);
    struct reservation first, second, third;
    struct limit_answer answer;
    assert_int_equal(room_reserve(&room, 1, &first), LIMIT_ADMITTED);
    assert_int_equal(room_reserve(&room, 1, &second), LIMIT_ADMITTED);
    room.now += (mono_us) 3600 * SECOND; /* no time-out frees a seat that is taken */
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 1, &third, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.kind, LIMIT_SEATS);
    assert_int_equal(answer.used, 2);
    struct reservation moved = first; /* a plain value */
    memset(&first, 0xee, sizeof first);
    limiter_settle(room.limiter, &moved, 1, room.now);
    limiter_settle(room.limiter, &moved, 1, room.now);
    limiter_cancel(room.limiter, &moved, room.now);
    assert_int_equal(room_reserve(&room, 1, &third), LIMIT_ADMITTED);
    assert_int_equal(room_reserve(&room, 1, &first), LIMIT_REFUSED);
    limiter_cancel(room.limiter, &second, room.now);
    limiter_cancel(room.limiter, &third, room.now);
    assert_int_equal(room_reserve(&room, 1, &first), LIMIT_ADMITTED);
    limiter_cancel(room.limiter, &first, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_SEATS) == 2);
    room_close(&room);
}

static void cancel_gives_everything_back_and_settle_keeps_the_request(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.requests_per_minute = 10, .tokens_per_minute = 100, .concurrent_requests = 3};
    room_apply(&room);
    struct reservation reservation;
    assert_int_equal(room_reserve(&room, 60, &reservation), LIMIT_ADMITTED);
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 60);
    assert_int_equal(reservation.tokens, 60);
    limiter_cancel(room.limiter, &reservation, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 10);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    assert_int_equal(room_reserve(&room, 60, &reservation), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 25, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 9);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 75);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_SEATS) == 3);
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++)
        assert_true(room_held(&room, SCOPE_KEY, (enum limit_kind) kind) == 0);
    room_close(&room);
}

static void excess_is_charged_also_when_the_balance_is_less(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 100};
    room.tenant.limits = (struct limits){.tokens_per_minute = 10000};
    room_apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(room_reserve(&room, 90, &reservation), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 250, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == -150);
    assert_true(room_balance(&room, SCOPE_TENANT, LIMIT_TOKENS) == 9750);
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 0, &reservation, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.used, 250);
    assert_int_equal(answer.retry_after_ms, 90000);
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 100, &reservation, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.retry_after_ms, 150000);
    room.now += (mono_us) 150 * SECOND;
    assert_int_equal(room_reserve(&room, 100, &reservation), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, -7, room.now); /* nonsense is nothing, not a gift */
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    room_close(&room);
}

static void each_bucket_is_settled_by_what_it_held(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 1000, .on_exceed = ON_EXCEED_HARD};
    room.tenant.limits = (struct limits){.tokens_per_minute = 1000};
    room_apply(&room);
    struct reservation reservation;
    assert_int_equal(room_reserve(&room, 300, &reservation), LIMIT_ADMITTED);
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 600); /* the cap */
    assert_true(room_held(&room, SCOPE_TENANT, LIMIT_TOKENS) == 300);
    assert_true(limiter_top_up(room.limiter, &reservation, 100, room.now));
    assert_int_equal(reservation.tokens, 400);
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 600); /* the cap is there already */
    assert_true(room_held(&room, SCOPE_TENANT, LIMIT_TOKENS) == 400);
    limiter_settle(room.limiter, &reservation, 450, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 550);
    assert_true(room_balance(&room, SCOPE_TENANT, LIMIT_TOKENS) == 550);
    struct limit_answer answer;
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 501, &reservation, &answer), LIMIT_TOO_LARGE);
    assert_int_equal(answer.scope, SCOPE_KEY);
    assert_int_equal(answer.requested, 1002);
    room_close(&room);
}

static void top_up_goes_into_debt_unless_a_limit_cuts(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 1000};
    room_apply(&room);
    struct reservation reservation;
    assert_int_equal(room_reserve(&room, 900, &reservation), LIMIT_ADMITTED);
    assert_true(limiter_top_up(room.limiter, &reservation, 300, room.now));
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == -200);
    limiter_settle(room.limiter, &reservation, 1100, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == -100);
    room.now += (mono_us) 60 * SECOND;

    room.tenant.limits = (struct limits){.tokens_per_minute = 1000, .on_exceed = ON_EXCEED_CUT};
    room_apply(&room);
    assert_int_equal(room_reserve(&room, 800, &reservation), LIMIT_ADMITTED);
    assert_true(limiter_top_up(room.limiter, &reservation, 200, room.now));
    struct dump before, after;
    room_dump(&room, NULL, &before);
    assert_false(limiter_top_up(room.limiter, &reservation, 1, room.now));
    room_dump(&room, NULL, &after);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(reservation.tokens, 1000);
    room.now += SECOND;
    assert_false(limiter_top_up(room.limiter, &reservation, 1, room.now)); /* all of it may still come back */
    limiter_spend(room.limiter, &reservation, 900, room.now);
    room.now += SECOND;
    assert_true(limiter_top_up(room.limiter, &reservation, 16, room.now));
    limiter_settle(room.limiter, &reservation, 1016, room.now);
    room_close(&room);
}

static void guess_above_the_capacity_is_cut_at_the_capacity(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 500, .on_exceed = ON_EXCEED_CUT};
    room.tenant.limits = (struct limits){.tokens_per_minute = 5000};
    room_apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    struct limit_demand demand = {.tokens = 1100, .tokens_cap = 1100, .tokens_least = 100};
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer), LIMIT_ADMITTED);
    assert_int_equal(reservation.tokens, 500);
    assert_true(room_held(&room, SCOPE_TENANT, LIMIT_TOKENS) == 1100);
    assert_false(limiter_top_up(room.limiter, &reservation, 1, room.now));
    limiter_settle(room.limiter, &reservation, 500, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 0);
    assert_true(room_balance(&room, SCOPE_TENANT, LIMIT_TOKENS) == 4500);
    room_close(&room);
}

static void guess_above_the_capacity_waits_for_a_full_bucket(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 500};
    room_apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    struct limit_demand demand = {.tokens = 1100, .tokens_cap = 1100, .tokens_least = 100};
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer), LIMIT_ADMITTED);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 0);
    assert_int_equal(reservation.tokens, 500); /* so that whoever uses more asks for more */
    limiter_settle(room.limiter, &reservation, 120, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 380);
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.retry_after_ms, 14400);
    demand.tokens_least = 501;
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer),
                     LIMIT_TOO_LARGE);
    demand.tokens_least = 0;
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer),
                     LIMIT_TOO_LARGE);
    room.key.limits.on_exceed = ON_EXCEED_HARD;
    room_apply(&room);
    demand.tokens_least = 100;
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer),
                     LIMIT_TOO_LARGE);
    room_close(&room);
}

/* A greedy client for ten minutes; every window of 60 s, by brute force. */
static void strict_windows_hold(void **state)
{
    (void) state;
    static const struct limits LIMITS[] = {{.requests_per_minute = 1, .strict_window = true},
                                           {.requests_per_minute = 2, .strict_window = true},
                                           {.requests_per_minute = 5, .strict_window = true, .request_burst = 5},
                                           {.requests_per_minute = 5, .strict_window = true, .request_burst = 50},
                                           {.requests_per_minute = 25, .strict_window = true},
                                           {.requests_per_minute = 60, .strict_window = true, .request_burst = 30}};
    for (size_t row = 0; row < sizeof LIMITS / sizeof LIMITS[0]; row++) {
        struct room room;
        room_open(&room);
        room.key.limits = LIMITS[row];
        room_apply(&room);
        mono_us admitted[1000];
        size_t count = 0;
        mono_us end = room.now + (mono_us) 600 * SECOND;
        while (room.now < end) {
            struct reservation reservation;
            struct limit_answer answer;
            if (room_reserve_as(&room, &SUBJECT, 1, &reservation, &answer) == LIMIT_ADMITTED) {
                admitted[count++] = room.now;
                limiter_settle(room.limiter, &reservation, 1, room.now);
            } else {
                assert_int_equal(answer.verdict, LIMIT_REFUSED);
                room.now += answer.retry_after_ms * 1000;
            }
        }
        size_t limit = (size_t) LIMITS[row].requests_per_minute;
        assert_true(count >= 5); /* it does flow back */
        for (size_t at = limit; at < count; at++)
            assert_true(admitted[at] - admitted[at - limit] >= (mono_us) 60 * SECOND);
        room_close(&room);
    }
}

/* With less than the rate nothing is ever refused, however uneven. */
static void less_than_the_rate_is_never_refused(void **state)
{
    (void) state;
    unit_random_seed();
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.requests_per_minute = 60, .tokens_per_minute = 6000};
    room_apply(&room);
    for (int request = 0; request < 20000; request++) {
        struct reservation reservation;
        int64_t tokens = 1 + (int64_t) unit_random_below(100);
        assert_int_equal(room_reserve(&room, tokens, &reservation), LIMIT_ADMITTED);
        room.now += 1000 * (mono_us) unit_random_below(100);
        limiter_settle(room.limiter, &reservation, (int64_t) unit_random_below((size_t) tokens + 1), room.now);
        room.now += SECOND;
    }
    room_close(&room);
}

/* Whoever waits as told, alone, is admitted, and would not have been a millisecond before. */
static void waiting_as_told_is_enough(void **state)
{
    (void) state;
    unit_random_seed();
    for (int round = 0; round < 300; round++) {
        struct room room;
        room_open(&room);
        room.key.limits.requests_per_minute = 1 + (int64_t) unit_random_below(100);
        room.key.limits.strict_window = unit_random_below(2) == 0;
        room.tenant.limits.tokens_per_minute = 200 + (int64_t) unit_random_below(10000);
        room.share.limits.tokens_per_minute = 200 + (int64_t) unit_random_below(3000);
        room_apply(&room);
        for (int request = 0; request < 100; request++) {
            struct reservation reservation;
            struct limit_answer answer;
            int64_t tokens = (int64_t) unit_random_below(200);
            if (room_reserve_as(&room, &SUBJECT, tokens, &reservation, &answer) == LIMIT_REFUSED) {
                assert_true(answer.retry_after_ms >= 1);
                room.now += (answer.retry_after_ms - 1) * 1000;
                assert_int_equal(room_reserve(&room, tokens, &reservation), LIMIT_REFUSED);
                room.now += 1000;
                assert_int_equal(room_reserve(&room, tokens, &reservation), LIMIT_ADMITTED);
            }
            limiter_settle(room.limiter, &reservation, (int64_t) unit_random_below(500), room.now);
            room.now -= (mono_us) unit_random_below(50) * 1000; /* and the clock is no help */
        }
        room_close(&room);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_limits_everything_is_admitted),
        cmocka_unit_test(one_minute_of_requests_at_once_then_one_by_one),
        cmocka_unit_test(refused_request_takes_nothing_from_the_others),
        cmocka_unit_test(longest_wait_is_the_one_told),
        cmocka_unit_test(nearest_limit_is_the_one_with_least_left),
        cmocka_unit_test(seats_come_back_at_the_end_once),
        cmocka_unit_test(cancel_gives_everything_back_and_settle_keeps_the_request),
        cmocka_unit_test(excess_is_charged_also_when_the_balance_is_less),
        cmocka_unit_test(each_bucket_is_settled_by_what_it_held),
        cmocka_unit_test(top_up_goes_into_debt_unless_a_limit_cuts),
        cmocka_unit_test(guess_above_the_capacity_waits_for_a_full_bucket),
        cmocka_unit_test(guess_above_the_capacity_is_cut_at_the_capacity),
        cmocka_unit_test(strict_windows_hold),
        cmocka_unit_test(less_than_the_rate_is_never_refused),
        cmocka_unit_test(waiting_as_told_is_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
