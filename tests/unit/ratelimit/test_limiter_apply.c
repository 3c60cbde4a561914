/* What a reload does to buckets, extreme limits among them, and what people are shown. */
#include "ratelimit/limiter.h"

#include <string.h>

#include "ratelimit/bucket.h"
#include "tests/lib/limiter_room.h"
#include "tests/lib/unit.h"

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
    room_apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    assert_int_equal(room_reserve_as(&room, &SUBJECT, INT64_MAX / 2, &reservation, &answer), LIMIT_TOO_LARGE);
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
        assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) <= (double) BUCKET_UNITS_MAX);
        room.now = request % 3 == 0 ? INT64_MIN : INT64_MAX - 20000 + request;
    }
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 0);
    room_close(&room);
}

static void reload_never_refills(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.requests_per_minute = 10, .tokens_per_minute = 600, .concurrent_requests = 2};
    room_apply(&room);
    struct reservation first, second;
    assert_int_equal(room_reserve(&room, 500, &first), LIMIT_ADMITTED);
    limiter_spend(room.limiter, &first, 300, room.now);
    room_apply(&room);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 9);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    room.key.limits = (struct limits){.requests_per_minute = 100, .tokens_per_minute = 6000, .concurrent_requests = 5};
    room.now += SECOND;
    room_apply(&room);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 110); /* a second at the old rate */
    assert_int_equal(room_reserve(&room, 111, &second), LIMIT_REFUSED);
    room.now += SECOND;
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 210);
    room.key.limits = (struct limits){.requests_per_minute = 4, .tokens_per_minute = 60, .concurrent_requests = 1};
    room_apply(&room);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 4);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 0); /* what is held may come back: more than 60 */
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 200);
    assert_int_equal(room_reserve(&room, 1, &second), LIMIT_REFUSED); /* one seat is left, and it is taken */
    limiter_settle(room.limiter, &first, 700, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == -200);
    room_close(&room);
}

/* What was held before a cut comes back after it, piece by piece: no more than the new capacity of it. */
static void cut_capacity_is_not_given_twice(void **state)
{
    (void) state;
    enum { HOLDS = 12 };
    struct room room;
    room_open(&room);
    room.key.limits.tokens_per_minute = 700;
    room_apply(&room);
    struct reservation holds[HOLDS], other;
    for (int hold = 0; hold < HOLDS; hold++)
        assert_int_equal(room_reserve(&room, 50, &holds[hold]), LIMIT_ADMITTED);
    room.key.limits.tokens_per_minute = 60;
    room_apply(&room);
    room.now += (mono_us) 3600 * SECOND; /* nothing flows in while so much is held */
    int64_t used = 0;
    for (int hold = 0; hold < HOLDS; hold++) {
        limiter_cancel(room.limiter, &holds[hold], room.now);
        for (int token = 0; token < 100; token++) {
            used += room_reserve(&room, 1, &other) == LIMIT_ADMITTED;
            limiter_settle(room.limiter, &other, 1, room.now);
        }
    }
    assert_int_equal(used, 60);
    room_close(&room);
}

static void changed_seats_hold_from_the_next_request_on(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits.concurrent_requests = 3;
    room_apply(&room);
    struct reservation open[4], other;
    for (int seat = 0; seat < 3; seat++)
        assert_int_equal(room_reserve(&room, 1, &open[seat]), LIMIT_ADMITTED);
    room.key.limits.concurrent_requests = 2;
    room_apply(&room);
    limiter_settle(room.limiter, &open[0], 1, room.now);
    assert_int_equal(room_reserve(&room, 1, &other), LIMIT_REFUSED);
    limiter_settle(room.limiter, &open[1], 1, room.now);
    assert_int_equal(room_reserve(&room, 1, &open[0]), LIMIT_ADMITTED);
    room.key.limits.concurrent_requests = 4;
    room_apply(&room);
    assert_int_equal(room_reserve(&room, 1, &open[1]), LIMIT_ADMITTED);
    assert_int_equal(room_reserve(&room, 1, &open[3]), LIMIT_ADMITTED);
    assert_int_equal(room_reserve(&room, 1, &other), LIMIT_REFUSED);
    for (int seat = 0; seat < 4; seat++)
        limiter_settle(room.limiter, &open[seat], 1, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_SEATS) == 4);
    room_close(&room);
}

static void removed_limits_live_until_they_are_settled(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 600, .concurrent_requests = 1};
    room_apply(&room);
    struct reservation first, second;
    assert_int_equal(room_reserve(&room, 500, &first), LIMIT_ADMITTED);
    struct limits kept = room.key.limits;
    room.key.limits = (struct limits){0};
    room_apply(&room);
    struct dump dump;
    room_dump(&room, NULL, &dump);
    assert_int_equal(dump.count, 0); /* nothing limits */
    assert_int_equal(room_reserve(&room, 1000000, &second), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &second, 1000000, room.now);
    room.key.limits = kept; /* and it is back before it was settled: the same bucket */
    room_apply(&room);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 500);
    assert_int_equal(room_reserve(&room, 1, &second), LIMIT_REFUSED); /* the seat is taken */
    room.policy.key_count = 0;
    room_apply(&room);
    assert_true(limiter_top_up(room.limiter, &first, 1000, room.now));
    limiter_settle(room.limiter, &first, 10, room.now);
    room.policy.key_count = 1;
    room_apply(&room);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 600); /* gone with its last hold: a new one */
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
    room_apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    const struct limit_subject one = {"a", "b/c", "", "m"}, other = {"a/b", "c", "", "m"};
    assert_int_equal(room_reserve_as(&room, &one, 1, &reservation, &answer), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 1, room.now);
    assert_int_equal(room_reserve_as(&room, &other, 1, &reservation, &answer), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 1, room.now);
    assert_int_equal(room_reserve_as(&room, &one, 1, &reservation, &answer), LIMIT_REFUSED);
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
    room_apply(&room);
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
    room_dump(&room, NULL, &dump);
    assert_int_equal(dump.count, 4); /* looking at a user makes none */
    room_close(&room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extreme_limits_and_usages_do_not_wrap),
        cmocka_unit_test(reload_never_refills),
        cmocka_unit_test(cut_capacity_is_not_given_twice),
        cmocka_unit_test(changed_seats_hold_from_the_next_request_on),
        cmocka_unit_test(removed_limits_live_until_they_are_settled),
        cmocka_unit_test(names_that_look_alike_are_different),
        cmocka_unit_test(every_bucket_that_applies_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
