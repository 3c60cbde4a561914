/* Reservations over all levels: what is admitted, what comes back, what a reload and a crowd of users do. */
#include "ratelimit/bucket.h"
#include "ratelimit/limiter.h"

#include <string.h>

#include "tests/lib/unit.h"

enum { SECOND = 1000000, ROWS_MAX = 64 };

/* A policy of one tenant, one key and one model, to be filled in, and a limiter. */
struct room {
    struct tenant_model share;
    struct tenant tenant;
    struct key key;
    struct model model;
    struct policy policy;
    struct limiter *limiter;
    mono_us now;
};

static const struct limit_subject SUBJECT = {"acme", "ci", "", "gemma"};
static const struct limit_subject ALICE = {"acme", "ci", "alice", "gemma"};

static void apply(struct room *room)
{
    assert_true(limiter_apply(room->limiter, &room->policy, room->now));
}

static void room_open(struct room *room)
{
    *room = (struct room){.share = {.model = "gemma", .limits.origin = "t.yaml:4:1"},
                          .tenant = {.name = "acme", .limits.origin = "t.yaml:2:1"},
                          .key = {.name = "ci", .limits.origin = "t.yaml:3:1"},
                          .model = {.name = "gemma", .limits.origin = "t.yaml:1:1"},
                          .now = SECOND};
    room->tenant.models = &room->share;
    room->tenant.model_count = 1;
    room->key.tenant = &room->tenant;
    room->policy = (struct policy){.model_count = 1,
                                   .models = &room->model,
                                   .tenant_count = 1,
                                   .tenants = &room->tenant,
                                   .key_count = 1,
                                   .keys = &room->key,
                                   .user_limits.origin = "t.yaml:5:1"};
    room->limiter = limiter_create();
    assert_non_null(room->limiter);
}

static void room_close(struct room *room)
{
    limiter_destroy(&room->limiter);
    assert_null(room->limiter);
}

static enum limit_verdict reserve_as(struct room *room, const struct limit_subject *subject, int64_t tokens,
                                     struct reservation *reservation, struct limit_answer *answer)
{
    const struct limit_demand demand = {.tokens = tokens, .tokens_cap = 2 * tokens};
    enum limit_verdict verdict = limiter_reserve(room->limiter, subject, &demand, room->now, reservation, answer);
    assert_int_equal(verdict, answer->verdict);
    assert_int_equal(verdict == LIMIT_ADMITTED, reservation->open);
    return verdict;
}

static enum limit_verdict reserve(struct room *room, int64_t tokens, struct reservation *reservation)
{
    struct limit_answer answer;
    return reserve_as(room, &SUBJECT, tokens, reservation, &answer);
}

/* All buckets there are, in a form that can be compared. */
struct dump {
    size_t count;
    struct dump_row {
        enum limit_kind kind;
        enum limit_scope scope;
        char name[48];
        double balance, held;
        int64_t capacity, full_in_ms;
    } rows[ROWS_MAX];
};

static void dump_row(void *owner, const struct limit_status *status)
{
    struct dump *dump = owner;
    assert_true(dump->count < ROWS_MAX);
    struct dump_row *row = &dump->rows[dump->count++];
    row->kind = status->kind;
    row->scope = status->scope;
    strncpy(row->name, status->name, sizeof row->name - 1);
    row->balance = status->balance;
    row->held = status->held;
    row->capacity = status->capacity;
    row->full_in_ms = status->full_in_ms;
}

static void dump_fill(struct room *room, const struct limit_subject *subject, struct dump *dump)
{
    memset(dump, 0, sizeof *dump);
    limiter_each(room->limiter, subject, ROWS_MAX, room->now, dump_row, dump);
}

static struct dump_row bucket_row(struct room *room, const struct limit_subject *subject, enum limit_scope scope,
                                  enum limit_kind kind)
{
    struct dump dump;
    dump_fill(room, subject, &dump);
    for (size_t row = 0; row < dump.count; row++) {
        if (dump.rows[row].scope == scope && dump.rows[row].kind == kind)
            return dump.rows[row];
    }
    fail_msg("no such bucket");
    return dump.rows[0];
}

static double balance(struct room *room, enum limit_scope scope, enum limit_kind kind)
{
    return bucket_row(room, &SUBJECT, scope, kind).balance;
}

static double held(struct room *room, enum limit_scope scope, enum limit_kind kind)
{
    return bucket_row(room, &SUBJECT, scope, kind).held;
}

static void without_limits_everything_is_admitted(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(reserve_as(&room, &ALICE, INT64_MAX, &reservation, &answer), LIMIT_ADMITTED); /* nothing applied */
    limiter_settle(room.limiter, &reservation, 5, room.now);
    apply(&room);
    assert_int_equal(reserve_as(&room, &ALICE, 1000, &reservation, &answer), LIMIT_ADMITTED);
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
    apply(&room);
    int admitted = 0;
    struct reservation reservation;
    struct limit_answer answer;
    for (int request = 0; request < 50; request++) {
        if (reserve_as(&room, &SUBJECT, 1, &reservation, &answer) == LIMIT_ADMITTED)
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
    assert_int_equal(reserve(&room, 1, &reservation), LIMIT_REFUSED);
    room.now += 1;
    assert_int_equal(reserve(&room, 1, &reservation), LIMIT_ADMITTED);
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
    apply(&room);
    struct reservation first, second;
    struct limit_answer answer;
    assert_int_equal(reserve_as(&room, &ALICE, 10, &first, &answer), LIMIT_ADMITTED);
    struct dump before, after;
    dump_fill(&room, NULL, &before);
    assert_int_equal(before.count, 8);
    const struct limit_subject bob = {"acme", "ci", "bob", "gemma"};
    assert_int_equal(reserve_as(&room, &bob, 10, &second, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.kind, LIMIT_SEATS);
    assert_int_equal(answer.scope, SCOPE_MODEL);
    assert_true(answer.retry_after_ms >= 1);
    assert_int_equal(reserve_as(&room, &ALICE, 501, &second, &answer), LIMIT_TOO_LARGE);
    assert_int_equal(answer.scope, SCOPE_TENANT_MODEL);
    dump_fill(&room, NULL, &after);
    assert_memory_equal(&before, &after, sizeof before);
    limiter_cancel(room.limiter, &second, room.now); /* not open: nothing happens */
    limiter_settle(room.limiter, &second, 100, room.now);
    dump_fill(&room, NULL, &after);
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
    apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(reserve(&room, 1, &reservation), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 1, room.now);
    assert_int_equal(reserve_as(&room, &SUBJECT, 1, &reservation, &answer), LIMIT_REFUSED);
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
    apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(reserve_as(&room, &SUBJECT, 100, &reservation, &answer), LIMIT_ADMITTED);
    assert_false(answer.nearest[LIMIT_REQUESTS].present);
    assert_int_equal(answer.nearest[LIMIT_TOKENS].scope, SCOPE_TENANT);
    assert_int_equal(answer.nearest[LIMIT_TOKENS].limit, 300);
    assert_int_equal(answer.nearest[LIMIT_TOKENS].remaining, 200);
    assert_true(answer.nearest[LIMIT_TOKENS].reset_us == 20 * SECOND);
    assert_int_equal(answer.nearest[LIMIT_SEATS].remaining, 3);
    assert_true(answer.nearest[LIMIT_SEATS].reset_us == 0);
    limiter_settle(room.limiter, &reservation, 5000, room.now); /* debt shows as nothing left, never as less */
    assert_int_equal(reserve_as(&room, &SUBJECT, 100, &reservation, &answer), LIMIT_REFUSED);
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
    apply(&room);
    struct reservation first, second, third;
    struct limit_answer answer;
    assert_int_equal(reserve(&room, 1, &first), LIMIT_ADMITTED);
    assert_int_equal(reserve(&room, 1, &second), LIMIT_ADMITTED);
    room.now += (mono_us) 3600 * SECOND; /* no time-out frees a seat that is taken */
    assert_int_equal(reserve_as(&room, &SUBJECT, 1, &third, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.kind, LIMIT_SEATS);
    assert_int_equal(answer.used, 2);
    struct reservation moved = first; /* a plain value */
    memset(&first, 0xee, sizeof first);
    limiter_settle(room.limiter, &moved, 1, room.now);
    limiter_settle(room.limiter, &moved, 1, room.now);
    limiter_cancel(room.limiter, &moved, room.now);
    assert_int_equal(reserve(&room, 1, &third), LIMIT_ADMITTED);
    assert_int_equal(reserve(&room, 1, &first), LIMIT_REFUSED);
    limiter_cancel(room.limiter, &second, room.now);
    limiter_cancel(room.limiter, &third, room.now);
    assert_int_equal(reserve(&room, 1, &first), LIMIT_ADMITTED);
    limiter_cancel(room.limiter, &first, room.now);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_SEATS) == 2);
    room_close(&room);
}

static void cancel_gives_everything_back_and_settle_keeps_the_request(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.requests_per_minute = 10, .tokens_per_minute = 100, .concurrent_requests = 3};
    apply(&room);
    struct reservation reservation;
    assert_int_equal(reserve(&room, 60, &reservation), LIMIT_ADMITTED);
    assert_true(held(&room, SCOPE_KEY, LIMIT_TOKENS) == 60);
    assert_int_equal(reservation.tokens, 60);
    limiter_cancel(room.limiter, &reservation, room.now);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 10);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    assert_int_equal(reserve(&room, 60, &reservation), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 25, room.now);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 9);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 75);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_SEATS) == 3);
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++)
        assert_true(held(&room, SCOPE_KEY, (enum limit_kind) kind) == 0);
    room_close(&room);
}

static void excess_is_charged_also_when_the_balance_is_less(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 100};
    room.tenant.limits = (struct limits){.tokens_per_minute = 10000};
    apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(reserve(&room, 90, &reservation), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 250, room.now);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == -150);
    assert_true(balance(&room, SCOPE_TENANT, LIMIT_TOKENS) == 9750);
    assert_int_equal(reserve_as(&room, &SUBJECT, 0, &reservation, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.used, 250);
    assert_int_equal(answer.retry_after_ms, 90000);
    assert_int_equal(reserve_as(&room, &SUBJECT, 100, &reservation, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.retry_after_ms, 150000);
    room.now += (mono_us) 150 * SECOND;
    assert_int_equal(reserve(&room, 100, &reservation), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, -7, room.now); /* nonsense is nothing, not a gift */
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    room_close(&room);
}

static void each_bucket_is_settled_by_what_it_held(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 1000, .on_exceed = ON_EXCEED_HARD};
    room.tenant.limits = (struct limits){.tokens_per_minute = 1000};
    apply(&room);
    struct reservation reservation;
    assert_int_equal(reserve(&room, 300, &reservation), LIMIT_ADMITTED);
    assert_true(held(&room, SCOPE_KEY, LIMIT_TOKENS) == 600); /* the cap */
    assert_true(held(&room, SCOPE_TENANT, LIMIT_TOKENS) == 300);
    assert_true(limiter_top_up(room.limiter, &reservation, 100, room.now));
    assert_int_equal(reservation.tokens, 400);
    assert_true(held(&room, SCOPE_KEY, LIMIT_TOKENS) == 600); /* the cap is there already */
    assert_true(held(&room, SCOPE_TENANT, LIMIT_TOKENS) == 400);
    limiter_settle(room.limiter, &reservation, 450, room.now);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 550);
    assert_true(balance(&room, SCOPE_TENANT, LIMIT_TOKENS) == 550);
    struct limit_answer answer;
    assert_int_equal(reserve_as(&room, &SUBJECT, 501, &reservation, &answer), LIMIT_TOO_LARGE);
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
    apply(&room);
    struct reservation reservation;
    assert_int_equal(reserve(&room, 900, &reservation), LIMIT_ADMITTED);
    assert_true(limiter_top_up(room.limiter, &reservation, 300, room.now));
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == -200);
    limiter_settle(room.limiter, &reservation, 1100, room.now);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == -100);
    room.now += (mono_us) 60 * SECOND;

    room.tenant.limits = (struct limits){.tokens_per_minute = 1000, .on_exceed = ON_EXCEED_CUT};
    apply(&room);
    assert_int_equal(reserve(&room, 800, &reservation), LIMIT_ADMITTED);
    assert_true(limiter_top_up(room.limiter, &reservation, 200, room.now));
    struct dump before, after;
    dump_fill(&room, NULL, &before);
    assert_false(limiter_top_up(room.limiter, &reservation, 1, room.now));
    dump_fill(&room, NULL, &after);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(reservation.tokens, 1000);
    room.now += SECOND;
    assert_true(limiter_top_up(room.limiter, &reservation, 16, room.now));
    limiter_settle(room.limiter, &reservation, 1016, room.now);
    room_close(&room);
}

static void guess_above_the_capacity_waits_for_a_full_bucket(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 500};
    apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    struct limit_demand demand = {.tokens = 1100, .tokens_cap = 1100, .tokens_least = 100};
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer), LIMIT_ADMITTED);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 0);
    limiter_settle(room.limiter, &reservation, 120, room.now);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 380);
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.retry_after_ms, 14400);
    demand.tokens_least = 501;
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer),
                     LIMIT_TOO_LARGE);
    demand.tokens_least = 0;
    assert_int_equal(limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer),
                     LIMIT_TOO_LARGE);
    room.key.limits.on_exceed = ON_EXCEED_HARD;
    apply(&room);
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
        apply(&room);
        mono_us admitted[1000];
        size_t count = 0;
        mono_us end = room.now + (mono_us) 600 * SECOND;
        while (room.now < end) {
            struct reservation reservation;
            struct limit_answer answer;
            if (reserve_as(&room, &SUBJECT, 1, &reservation, &answer) == LIMIT_ADMITTED) {
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
    apply(&room);
    for (int request = 0; request < 20000; request++) {
        struct reservation reservation;
        int64_t tokens = 1 + (int64_t) unit_random_below(100);
        assert_int_equal(reserve(&room, tokens, &reservation), LIMIT_ADMITTED);
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
        apply(&room);
        for (int request = 0; request < 100; request++) {
            struct reservation reservation;
            struct limit_answer answer;
            int64_t tokens = (int64_t) unit_random_below(200);
            if (reserve_as(&room, &SUBJECT, tokens, &reservation, &answer) == LIMIT_REFUSED) {
                assert_true(answer.retry_after_ms >= 1);
                room.now += (answer.retry_after_ms - 1) * 1000;
                assert_int_equal(reserve(&room, tokens, &reservation), LIMIT_REFUSED);
                room.now += 1000;
                assert_int_equal(reserve(&room, tokens, &reservation), LIMIT_ADMITTED);
            }
            limiter_settle(room.limiter, &reservation, (int64_t) unit_random_below(500), room.now);
            room.now -= (mono_us) unit_random_below(50) * 1000; /* and the clock is no help */
        }
        room_close(&room);
    }
}

static void extreme_limits_and_usages_do_not_wrap(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.now = INT64_MIN;
    room.key.limits = (struct limits){.requests_per_minute = INT64_MAX,
                                      .tokens_per_minute = INT64_MAX,
                                      .concurrent_requests = INT64_MAX,
                                      .request_burst = INT64_MAX,
                                      .token_burst = BUCKET_UNITS_MAX};
    room.tenant.limits = (struct limits){.tokens_per_minute = INT64_MAX, .strict_window = true};
    apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(reserve_as(&room, &SUBJECT, INT64_MAX / 2, &reservation, &answer), LIMIT_TOO_LARGE);
    assert_true(answer.requested == INT64_MAX / 2);
    for (int request = 0; request < 20000; request++) {
        struct limit_demand demand = {.tokens = -5, .tokens_cap = INT64_MIN};
        enum limit_verdict verdict = limiter_reserve(room.limiter, &SUBJECT, &demand, room.now, &reservation, &answer);
        assert_true(answer.used >= 0 && answer.retry_after_ms >= 0);
        if (verdict == LIMIT_ADMITTED) {
            assert_true(limiter_top_up(room.limiter, &reservation, INT64_MAX, room.now));
            assert_true(limiter_top_up(room.limiter, &reservation, INT64_MAX, room.now));
        }
        limiter_settle(room.limiter, &reservation, INT64_MAX, room.now);
        assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) <= (double) BUCKET_UNITS_MAX);
        room.now = request % 3 == 0 ? INT64_MIN : INT64_MAX - 20000 + request;
    }
    assert_true(held(&room, SCOPE_KEY, LIMIT_TOKENS) == 0);
    room_close(&room);
}

static void reload_never_refills(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.requests_per_minute = 10, .tokens_per_minute = 600, .concurrent_requests = 2};
    apply(&room);
    struct reservation first, second;
    assert_int_equal(reserve(&room, 500, &first), LIMIT_ADMITTED);
    apply(&room);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 9);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    room.key.limits = (struct limits){.requests_per_minute = 100, .tokens_per_minute = 6000, .concurrent_requests = 5};
    room.now += SECOND;
    apply(&room);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 110); /* a second at the old rate */
    assert_int_equal(reserve(&room, 111, &second), LIMIT_REFUSED);
    room.now += SECOND;
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 210);
    room.key.limits = (struct limits){.requests_per_minute = 4, .tokens_per_minute = 60, .concurrent_requests = 1};
    apply(&room);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 4);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 60);
    assert_true(held(&room, SCOPE_KEY, LIMIT_TOKENS) == 500);
    assert_int_equal(reserve(&room, 1, &second), LIMIT_REFUSED); /* one seat is left, and it is taken */
    limiter_settle(room.limiter, &first, 700, room.now);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == -140);
    room_close(&room);
}

static void changed_seats_hold_from_the_next_request_on(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits.concurrent_requests = 3;
    apply(&room);
    struct reservation open[4], other;
    for (int seat = 0; seat < 3; seat++)
        assert_int_equal(reserve(&room, 1, &open[seat]), LIMIT_ADMITTED);
    room.key.limits.concurrent_requests = 2;
    apply(&room);
    limiter_settle(room.limiter, &open[0], 1, room.now);
    assert_int_equal(reserve(&room, 1, &other), LIMIT_REFUSED);
    limiter_settle(room.limiter, &open[1], 1, room.now);
    assert_int_equal(reserve(&room, 1, &open[0]), LIMIT_ADMITTED);
    room.key.limits.concurrent_requests = 4;
    apply(&room);
    assert_int_equal(reserve(&room, 1, &open[1]), LIMIT_ADMITTED);
    assert_int_equal(reserve(&room, 1, &open[3]), LIMIT_ADMITTED);
    assert_int_equal(reserve(&room, 1, &other), LIMIT_REFUSED);
    for (int seat = 0; seat < 4; seat++)
        limiter_settle(room.limiter, &open[seat], 1, room.now);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_SEATS) == 4);
    room_close(&room);
}

static void removed_limits_live_until_they_are_settled(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 600, .concurrent_requests = 1};
    apply(&room);
    struct reservation first, second;
    assert_int_equal(reserve(&room, 500, &first), LIMIT_ADMITTED);
    struct limits kept = room.key.limits;
    room.key.limits = (struct limits){0};
    apply(&room);
    struct dump dump;
    dump_fill(&room, NULL, &dump);
    assert_int_equal(dump.count, 0); /* nothing limits */
    assert_int_equal(reserve(&room, 1000000, &second), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &second, 1000000, room.now);
    room.key.limits = kept; /* and it is back before it was settled: the same bucket */
    apply(&room);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    assert_true(held(&room, SCOPE_KEY, LIMIT_TOKENS) == 500);
    assert_int_equal(reserve(&room, 1, &second), LIMIT_REFUSED); /* the seat is taken */
    room.policy.key_count = 0;
    apply(&room);
    assert_true(limiter_top_up(room.limiter, &first, 1000, room.now));
    limiter_settle(room.limiter, &first, 10, room.now);
    room.policy.key_count = 1;
    apply(&room);
    assert_true(balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 600); /* gone with its last hold: a new one */
    room_close(&room);
}

static void names_that_look_alike_are_different(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    struct tenant tenants[2] = {{.name = "a"}, {.name = "a/b"}};
    struct key keys[2] = {{.name = "b/c", .tenant = &tenants[0]}, {.name = "c", .tenant = &tenants[1]}};
    keys[0].limits.requests_per_minute = keys[1].limits.requests_per_minute = 1;
    room.policy = (struct policy){.tenant_count = 2, .tenants = tenants, .key_count = 2, .keys = keys};
    apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    const struct limit_subject one = {"a", "b/c", "", "m"}, other = {"a/b", "c", "", "m"};
    assert_int_equal(reserve_as(&room, &one, 1, &reservation, &answer), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 1, room.now);
    assert_int_equal(reserve_as(&room, &other, 1, &reservation, &answer), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 1, room.now);
    assert_int_equal(reserve_as(&room, &one, 1, &reservation, &answer), LIMIT_REFUSED);
    room_close(&room);
}

static void explain(void *owner, const struct limit_status *status)
{
    char *line = owner;
    snprintf(line + strlen(line), 512 - strlen(line), "%s %s %s %s %lld;", LIMIT_SCOPE_NAMES[status->scope],
             LIMIT_KIND_NAMES[status->kind], status->name, status->origin, (long long) status->limit);
}

static void every_bucket_that_applies_is_told(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits.requests_per_minute = 1;
    room.tenant.limits.tokens_per_minute = 2;
    room.model.limits.concurrent_requests = 3;
    room.share.limits.tokens_per_minute = 4;
    room.policy.user_limits.requests_per_minute = 5;
    apply(&room);
    char told[512] = "";
    limiter_each(room.limiter, &ALICE, 100, room.now, explain, told);
    assert_string_equal(told, "key requests acme/ci t.yaml:3:1 1;tenant tokens acme t.yaml:2:1 2;"
                              "model seats gemma t.yaml:1:1 3;tenant and model tokens acme/gemma t.yaml:4:1 4;"
                              "user requests acme/user/alice t.yaml:5:1 5;");
    told[0] = '\0';
    limiter_each(room.limiter, NULL, 2, room.now, explain, told);
    assert_int_equal(strlen(told) - strcspn(told, ";"), strlen(strchr(told, ';'))); /* something, and */
    size_t rows = 0;
    for (const char *at = told; (at = strchr(at, ';')) != NULL; at++)
        rows++;
    assert_int_equal(rows, 2);
    struct dump dump;
    dump_fill(&room, NULL, &dump);
    assert_int_equal(dump.count, 4); /* looking at a user makes none */
    room_close(&room);
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
        cmocka_unit_test(strict_windows_hold),
        cmocka_unit_test(less_than_the_rate_is_never_refused),
        cmocka_unit_test(waiting_as_told_is_enough),
        cmocka_unit_test(extreme_limits_and_usages_do_not_wrap),
        cmocka_unit_test(reload_never_refills),
        cmocka_unit_test(changed_seats_hold_from_the_next_request_on),
        cmocka_unit_test(removed_limits_live_until_they_are_settled),
        cmocka_unit_test(names_that_look_alike_are_different),
        cmocka_unit_test(every_bucket_that_applies_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
