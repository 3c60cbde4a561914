/* Many threads on one limiter: exactly as many are admitted as there is room for, and nothing gets lost between them.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/lib/limiter_room.h"
#include "tests/lib/unit.h"

enum { THREADS = 8, ATTEMPTS = 50, ROUNDS = 20, STEPS = 3000, HELD_AT_ONCE = 8 };

struct crew {
    struct room *room;
    atomic_int admitted;
    atomic_bool stop;
    pthread_barrier_t start;
};

static void run(struct crew *crew, void *(*work)(void *) )
{
    pthread_t threads[THREADS];
    assert_int_equal(pthread_barrier_init(&crew->start, NULL, THREADS), 0);
    for (int thread = 0; thread < THREADS; thread++)
        assert_int_equal(pthread_create(&threads[thread], NULL, work, crew), 0);
    for (int thread = 0; thread < THREADS; thread++)
        pthread_join(threads[thread], NULL);
    pthread_barrier_destroy(&crew->start);
}

static enum limit_verdict ask(struct crew *crew, const struct limit_subject *subject, struct reservation *reservation)
{
    const struct limit_demand demand = {.tokens = 10, .tokens_cap = 20};
    struct limit_answer answer;
    return limiter_reserve(crew->room->limiter, subject, &demand, crew->room->now, reservation, &answer);
}

static void *grab(void *argument)
{
    struct crew *crew = argument;
    static _Thread_local struct reservation reservations[ATTEMPTS];
    pthread_barrier_wait(&crew->start);
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        if (ask(crew, &ALICE, &reservations[attempt]) == LIMIT_ADMITTED)
            crew->admitted++;
    }
    pthread_barrier_wait(&crew->start); /* nobody gives back before all have asked */
    for (int attempt = 0; attempt < ATTEMPTS; attempt++)
        limiter_cancel(crew->room->limiter, &reservations[attempt], crew->room->now);
    return NULL;
}

static void exactly_as_many_as_there_is_room_for(void **state)
{
    (void) state;
    static const struct limits LIMITS[] = {
        {.requests_per_minute = 100}, {.concurrent_requests = 100}, {.tokens_per_minute = 1009}};
    for (size_t row = 0; row < sizeof LIMITS / sizeof LIMITS[0]; row++) {
        struct room room;
        room_open(&room);
        room.tenant.limits = LIMITS[row];
        room.key.limits = (struct limits){.requests_per_minute = 5000, .concurrent_requests = 5000};
        room.policy.user_limits = (struct limits){.requests_per_minute = 5000};
        room_apply(&room);
        for (int round = 0; round < ROUNDS; round++) { /* all came back each time */
            struct crew crew = {.room = &room};
            run(&crew, grab);
            assert_int_equal(crew.admitted, 100);
        }
        assert_true(room_balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 5000);
        room_close(&room);
    }
}

static bool is_spent(const struct reservation *reservation)
{
    for (size_t at = 0; at < reservation->_count; at++) {
        if (reservation->_holds[at].spent_milli > 0)
            return true;
    }
    return false;
}

/* Random requests of its own, some of them held, until all are ended. */
static void *live(void *argument)
{
    struct crew *crew = argument;
    static atomic_uint numbers;
    unsigned random = 7919 * (numbers++ + 1);
    struct reservation held[HELD_AT_ONCE] = {{.open = false}};
    struct limiter *limiter = crew->room->limiter;
    pthread_barrier_wait(&crew->start);
    for (int step = 0; step < STEPS; step++) {
        random = random * 1103515245 + 12345;
        struct reservation *reservation = &held[random >> 16 & (HELD_AT_ONCE - 1)];
        char user[16];
        snprintf(user, sizeof user, "user-%u", random >> 20 & 63);
        struct limit_subject subject = {"acme", "ci", user, "gemma"};
        if (!reservation->open)
            ask(crew, &subject, reservation);
        else if ((random >> 8 & 3) == 0)
            limiter_top_up(limiter, reservation, 5, crew->room->now);
        else if ((random >> 8 & 7) == 1)
            limiter_spend(limiter, reservation, random >> 29, crew->room->now);
        else if ((random >> 8 & 7) == 5 && !is_spent(reservation))
            limiter_cancel(limiter, reservation, crew->room->now);
        else
            limiter_settle(limiter, reservation, random >> 28, crew->room->now);
    }
    for (int at = 0; at < HELD_AT_ONCE; at++)
        limiter_settle(limiter, &held[at], 1, crew->room->now);
    return NULL;
}

static void add_held(void *owner, const struct limit_status *status)
{
    *(double *) owner += status->held;
}

static void *reload(void *argument)
{
    struct crew *crew = argument;
    for (int version = 0; !crew->stop; version++) {
        struct room next = *crew->room; /* another policy, the same limiter */
        next.key.tenant = &next.tenant;
        next.tenant.models = &next.share;
        next.policy.models = &next.model;
        next.policy.tenants = &next.tenant;
        next.policy.keys = &next.key;
        next.key.limits.requests_per_minute = version % 3 == 0 ? 0 : 1000 * version;
        next.model.limits.concurrent_requests = version % 4 == 0 ? 0 : 10;
        next.policy.user_limits.requests_per_minute = version % 5 == 0 ? 0 : 1000;
        room_apply(&next);
        double held = 0;
        limiter_each(next.limiter, NULL, SIZE_MAX, next.now, add_held, &held);
        assert_true(held >= 0);
    }
    return NULL;
}

static void nothing_stays_held_after_a_storm_of_reloads(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.tenant.limits = (struct limits){.tokens_per_minute = 100000000, .concurrent_requests = 40};
    room.share.limits = (struct limits){.tokens_per_minute = 100000000, .on_exceed = ON_EXCEED_CUT};
    room_apply(&room);
    struct crew crew = {.room = &room};
    pthread_t reloader;
    assert_int_equal(pthread_create(&reloader, NULL, reload, &crew), 0);
    run(&crew, live);
    crew.stop = true;
    pthread_join(reloader, NULL);
    double held = 0;
    limiter_each(room.limiter, NULL, SIZE_MAX, room.now, add_held, &held);
    assert_true(held == 0);
    assert_true(room_balance(&room, SCOPE_TENANT, LIMIT_SEATS) == 40);
    assert_true(room_balance(&room, SCOPE_TENANT, LIMIT_TOKENS) ==
                room_balance(&room, SCOPE_TENANT_MODEL, LIMIT_TOKENS)); /* the same requests, the same sum */
    room_close(&room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exactly_as_many_as_there_is_room_for),
        cmocka_unit_test(nothing_stays_held_after_a_storm_of_reloads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
