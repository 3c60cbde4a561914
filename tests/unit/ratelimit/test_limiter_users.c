/* The bounded table of users: whoever finds no room is counted all the same, and nobody is forgotten with a debt. */
#include <string.h>

#include "tests/lib/limiter_room.h"
#include "tests/lib/unit.h"

struct crowd {
    char name[32];
    struct limit_subject subject;
};

static const struct limit_subject *member(struct crowd *crowd, size_t number)
{
    snprintf(crowd->name, sizeof crowd->name, "user-%zu", number);
    crowd->subject = (struct limit_subject){"acme", "ci", crowd->name, "gemma"};
    return &crowd->subject;
}

static void count_row(void *owner, const struct limit_status *status)
{
    (void) status;
    ++*(size_t *) owner;
}

static size_t rows(struct room *room)
{
    size_t count = 0;
    limiter_each(room->limiter, NULL, SIZE_MAX, room->now, count_row, &count);
    return count;
}

static enum limit_verdict one_request(struct room *room, const struct limit_subject *subject)
{
    struct reservation reservation;
    struct limit_answer answer;
    enum limit_verdict verdict = room_reserve_as(room, subject, 1, &reservation, &answer);
    limiter_settle(room->limiter, &reservation, 1, room->now);
    return verdict;
}

static void fill(struct room *room, struct crowd *crowd)
{
    room_open(room);
    room->policy.user_limits.requests_per_minute = 2;
    room_apply(room);
    for (size_t number = 0; number < LIMITER_USERS_MAX; number++)
        assert_int_equal(one_request(room, member(crowd, number)), LIMIT_ADMITTED);
    assert_int_equal(rows(room), LIMITER_USERS_MAX);
}

static void each_user_has_buckets_of_his_own(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.policy.user_limits.requests_per_minute = 2;
    room_apply(&room);
    struct limit_subject bob = ALICE, other_alice = ALICE;
    bob.user = "bob";
    other_alice.tenant = "b";
    for (int request = 0; request < 2; request++)
        assert_int_equal(one_request(&room, &ALICE), LIMIT_ADMITTED);
    assert_int_equal(one_request(&room, &ALICE), LIMIT_REFUSED);
    assert_int_equal(one_request(&room, &bob), LIMIT_ADMITTED);
    assert_int_equal(one_request(&room, &other_alice), LIMIT_ADMITTED);
    assert_int_equal(one_request(&room, &SUBJECT), LIMIT_ADMITTED); /* nobody in particular */
    assert_int_equal(rows(&room), 3);
    room.policy.user_limits.requests_per_minute = 3; /* a reload reaches those who are there */
    room_apply(&room);
    assert_int_equal(one_request(&room, &ALICE), LIMIT_REFUSED);
    room.now += (mono_us) 20 * SECOND;
    assert_int_equal(one_request(&room, &ALICE), LIMIT_ADMITTED);
    room.policy.user_limits.requests_per_minute = 0;
    room_apply(&room);
    assert_int_equal(one_request(&room, &ALICE), LIMIT_ADMITTED);
    assert_int_equal(rows(&room), 0);
    room_close(&room);
}

static void full_table_counts_newcomers_together(void **state)
{
    (void) state;
    struct room room;
    struct crowd crowd;
    fill(&room, &crowd);
    assert_int_equal(one_request(&room, member(&crowd, LIMITER_USERS_MAX)), LIMIT_ADMITTED);
    assert_int_equal(one_request(&room, member(&crowd, LIMITER_USERS_MAX + 1)), LIMIT_ADMITTED);
    for (size_t number = 2; number < 1000; number++)
        assert_int_equal(one_request(&room, member(&crowd, LIMITER_USERS_MAX + number)), LIMIT_REFUSED);
    struct limit_subject elsewhere = *member(&crowd, 7);
    elsewhere.tenant = "b"; /* each tenant's crowd is his own */
    assert_int_equal(one_request(&room, &elsewhere), LIMIT_ADMITTED);
    assert_int_equal(rows(&room), LIMITER_USERS_MAX + 2);
    assert_int_equal(one_request(&room, member(&crowd, 5)), LIMIT_ADMITTED); /* who was there keeps what he has */
    assert_int_equal(one_request(&room, member(&crowd, 5)), LIMIT_REFUSED);
    room_close(&room);
}

static void only_full_buckets_without_holds_are_forgotten(void **state)
{
    (void) state;
    struct room room;
    struct crowd crowd;
    room_open(&room);
    room.policy.user_limits.requests_per_minute = 60;
    room.policy.user_limits.tokens_per_minute = 60;
    room_apply(&room);
    struct reservation open, debt;
    struct limit_answer answer;
    assert_int_equal(room_reserve_as(&room, member(&crowd, 0), 1, &open, &answer), LIMIT_ADMITTED);
    assert_int_equal(room_reserve_as(&room, member(&crowd, 1), 1, &debt, &answer), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &debt, 1000000, room.now);
    for (size_t number = 2; number < LIMITER_USERS_MAX; number++)
        assert_int_equal(one_request(&room, member(&crowd, number)), LIMIT_ADMITTED);
    room.now += (mono_us) 61 * SECOND; /* all are full again but for the two */
    for (size_t number = 0; number < 2 * LIMITER_USERS_MAX; number++) {
        assert_int_equal(one_request(&room, member(&crowd, LIMITER_USERS_MAX + number % 150000)), LIMIT_ADMITTED);
        room.now += 100; /* ten thousand of them at a time are not full again yet */
    }
    assert_true(rows(&room) <= 2 * (LIMITER_USERS_MAX + 1)); /* two rows a user */
    assert_int_equal(one_request(&room, member(&crowd, 1)), LIMIT_REFUSED);
    limiter_settle(room.limiter, &open, 500, room.now);
    assert_int_equal(one_request(&room, member(&crowd, 0)), LIMIT_REFUSED);
    room_close(&room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_user_has_buckets_of_his_own),
        cmocka_unit_test(full_table_counts_newcomers_together),
        cmocka_unit_test(only_full_buckets_without_holds_are_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
