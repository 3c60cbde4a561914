/* Memory that runs out at any allocation: a policy is applied whole or not at all, and no user goes uncounted. */
#include "tests/lib/fault.h"

#include "ratelimit/limiter_apply.c"
#include "ratelimit/limiter_table.c"

#include "tests/lib/limiter_room.h"
#include "tests/lib/unit.h"

static void policy_is_applied_whole_or_not_at_all(void **state)
{
    (void) state;
    enum { KEYS = 600 };
    static char names[KEYS][8];
    static struct key keys[KEYS];
    struct room room;
    room_open(&room);
    room.key.limits.requests_per_minute = 5;
    room_apply(&room);
    struct reservation reservation;
    assert_int_equal(room_reserve(&room, 1, &reservation), LIMIT_ADMITTED);
    struct dump before, after;
    room_dump(&room, NULL, &before);
    for (size_t key = 0; key < KEYS; key++) {
        snprintf(names[key], sizeof names[key], "%zu", key);
        keys[key] = (struct key){.name = names[key], .tenant = &room.tenant, .limits.concurrent_requests = 1};
    }
    struct policy next = room.policy;
    next.keys = keys;
    next.key_count = KEYS;
    long failing = 0;
    for (;; failing++) {
        fault_countdown = failing;
        bool applied = limiter_apply(room.limiter, &next, room.now);
        fault_countdown = -1;
        if (applied)
            break;
        room_dump(&room, NULL, &after);
        assert_memory_equal(&before, &after, sizeof before);
    }
    assert_true(failing >= KEYS);
    limiter_settle(room.limiter, &reservation, 1, room.now);
    room_close(&room);
}

static void user_who_cannot_be_counted_is_refused(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits.requests_per_minute = 5;
    room.policy.user_limits.requests_per_minute = 5;
    room_apply(&room);
    struct reservation reservation;
    struct limit_answer answer;
    struct dump before, after;
    room_dump(&room, NULL, &before);
    fault_countdown = 0;
    assert_int_equal(room_reserve_as(&room, &ALICE, 1, &reservation, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.scope, SCOPE_USER);
    assert_true(answer.retry_after_ms >= 1);
    fault_countdown = -1;
    room_dump(&room, NULL, &after);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(room_reserve_as(&room, &ALICE, 1, &reservation, &answer), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &reservation, 1, room.now);
    room_close(&room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(policy_is_applied_whole_or_not_at_all),
        cmocka_unit_test(user_who_cannot_be_counted_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
