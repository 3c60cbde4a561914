/* Leases of remote engines: taken, waited for, refused, given back. */
#include "backends/fleet.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "backends/random.h"
#include "tests/lib/fleet_room.h"
#include "tests/lib/unit.h"

enum { HANG_SECONDS = 240 };

struct house {
    struct fleet_room room;
    struct stub_engine engines[3];
};

static int set_up(void **state)
{
    struct house *house = calloc(1, sizeof(*house));
    alarm(HANG_SECONDS);
    fleet_room_open(&house->room);
    for (int i = 0; i < 3; i++)
        stub_engine_start(&house->engines[i], NULL);
    *state = house;
    return 0;
}

static int tear_down(void **state)
{
    struct house *house = *state;
    fleet_room_close(&house->room);
    for (int i = 0; i < 3; i++)
        stub_engine_stop(&house->engines[i]);
    free(house);
    return 0;
}

/* The first @count stubs are the engines, all READY. */
static void serve_with(struct house *house, int count)
{
    for (int i = 0; i < count; i++)
        fleet_room_add(&house->room, http_stub_url(house->engines[i].stub));
    fleet_room_apply(&house->room);
    fleet_room_until_ready(&house->room, count);
}

static void until_told(struct house *house, struct noted_waiter *noted)
{
    while (noted->granted + noted->refused == 0)
        loop_run_once(house->room.control, 100);
    assert_int_equal(noted->granted + noted->refused, 1);
}

static void give_back(struct noted_waiter *noted, enum lease_outcome outcome)
{
    assert_non_null(noted->lease);
    lease_end(&noted->lease, outcome);
    assert_null(noted->lease);
}

static void test_lease_names_the_engine_and_its_address(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted;
    serve_with(house, 1);
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_TAKEN);
    const struct lease_target *target = lease_target(noted.lease);
    assert_string_equal(target->engine, "m/1");
    assert_string_equal(target->base_url, http_stub_url(house->engines[0].stub));
    assert_null(target->socket_path);
    assert_null(target->api_key);
    assert_int_equal(target->dialect, DIALECT_LLAMACPP);
    assert_int_equal(target->timeouts.first_token_ms, 1000);
    assert_int_equal(fleet_room_status(&house->room).in_flight, 1);
    give_back(&noted, LEASE_OK);
    lease_end(&noted.lease, LEASE_OK);
    assert_int_equal(fleet_room_status(&house->room).in_flight, 0);
}

static void test_slots_and_context_are_what_the_engine_says(void **state)
{
    struct house *house = *state;
    serve_with(house, 1);
    assert_int_equal(fleet_room_status(&house->room).slots, 2);
    assert_int_equal(fleet_context_tokens(house->room.fleet, "m"), 512);
    assert_int_equal(fleet_context_tokens(house->room.fleet, "unknown"), 0);
}

static void test_unknown_model_is_refused_at_once(void **state)
{
    struct house *house = *state;
    struct lease_waiter waiter = {.loop = house->room.control};
    struct lease *lease = NULL;
    assert_int_equal(lease_take(house->room.fleet, "m", NULL, &waiter, &lease), LEASE_ALL_FAILED);
    fleet_room_apply(&house->room); /* "m" has no engine */
    assert_int_equal(lease_take(house->room.fleet, "m", NULL, &waiter, &lease), LEASE_ALL_FAILED);
    assert_int_equal(lease_take(house->room.fleet, "x", NULL, &waiter, &lease), LEASE_ALL_FAILED);
    lease_abandon(house->room.fleet, &waiter);
    assert_false(fleet_retry_allowed(house->room.fleet, "x"));
}

static void test_queue_is_first_come_first_served_and_bounded(void **state)
{
    struct house *house = *state;
    struct noted_waiter holders[2], waiters[4], extra;
    serve_with(house, 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(noted_take(&house->room, &holders[i], NULL), LEASE_TAKEN);
    for (int i = 0; i < 4; i++)
        assert_int_equal(noted_take(&house->room, &waiters[i], NULL), LEASE_WAITING);
    assert_int_equal(noted_take(&house->room, &extra, NULL), LEASE_QUEUE_FULL);
    assert_int_equal(fleet_room_status(&house->room).waiting, 4);
    fleet_room_run(&house->room, 600);
    for (int i = 0; i < 4; i++)
        assert_int_equal(waiters[i].granted + waiters[i].refused, 0);
    give_back(&holders[0], LEASE_OK);
    for (int i = 0; i < 4; i++) {
        until_told(house, &waiters[i]);
        assert_int_equal(waiters[i].granted, 1);
        for (int j = i + 1; j < 4; j++)
            assert_int_equal(waiters[j].granted, 0);
        assert_int_equal(fleet_room_status(&house->room).in_flight, 2);
        give_back(&waiters[i], LEASE_OK);
    }
    give_back(&holders[1], LEASE_OK);
    assert_int_equal(fleet_room_status(&house->room).in_flight, 0);
}

static void test_waiting_ends_with_the_model_s_time(void **state)
{
    struct house *house = *state;
    struct noted_waiter holders[2], waiter;
    house->room.models[0].queue_wait_ms = 300;
    serve_with(house, 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(noted_take(&house->room, &holders[i], NULL), LEASE_TAKEN);
    mono_ms begun = clock_mono_ms();
    assert_int_equal(noted_take(&house->room, &waiter, NULL), LEASE_WAITING);
    until_told(house, &waiter);
    assert_int_equal(waiter.refused, 1);
    assert_int_equal(waiter.why, LEASE_TIMED_OUT);
    assert_true(clock_mono_ms() - begun >= 299);
    lease_abandon(house->room.fleet, &waiter.waiter);
    for (int i = 0; i < 2; i++)
        give_back(&holders[i], LEASE_OK);
}

static void test_abandoned_waiter_hears_nothing_and_keeps_no_slot(void **state)
{
    struct house *house = *state;
    struct noted_waiter holders[2], waiting, told;
    serve_with(house, 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(noted_take(&house->room, &holders[i], NULL), LEASE_TAKEN);
    assert_int_equal(noted_take(&house->room, &waiting, NULL), LEASE_WAITING);
    assert_int_equal(noted_take(&house->room, &told, NULL), LEASE_WAITING);
    lease_abandon(house->room.fleet, &waiting.waiter);
    lease_abandon(house->room.fleet, &waiting.waiter);
    assert_int_equal(fleet_room_status(&house->room).waiting, 1);
    give_back(&holders[0], LEASE_OK); /* @told has the slot now, but has not heard of it */
    assert_int_equal(fleet_room_status(&house->room).waiting, 0);
    assert_int_equal(fleet_room_status(&house->room).in_flight, 2);
    lease_abandon(house->room.fleet, &told.waiter);
    memset(&told.waiter, 0xff, sizeof(told.waiter)); /* its memory is no longer the fleet's */
    fleet_room_run(&house->room, 50);
    assert_int_equal(waiting.granted + waiting.refused + told.granted + told.refused, 0);
    assert_int_equal(fleet_room_status(&house->room).in_flight, 1);
    give_back(&holders[1], LEASE_OK);
}

static void test_least_loaded_by_weight_is_taken(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted[6];
    int of_second = 0;
    house->engines[0].slots = house->engines[1].slots = 10;
    serve_with(house, 2);
    house->room.engines[1].weight = 2;
    fleet_room_apply(&house->room);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(noted_take(&house->room, &noted[i], NULL), LEASE_TAKEN);
        of_second += strcmp(lease_target(noted[i].lease)->engine, "m/2") == 0;
    }
    assert_int_equal(of_second, 4);
    for (int i = 0; i < 6; i++)
        give_back(&noted[i], LEASE_OK);
}

static void test_excepted_instance_is_last_resort(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted, waiter, others[2];
    serve_with(house, 2);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(noted_take(&house->room, &noted, "m/1"), LEASE_TAKEN);
        assert_string_equal(lease_target(noted.lease)->engine, "m/2");
        give_back(&noted, LEASE_UNUSED);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(noted_take(&house->room, &others[i], "m/1"), LEASE_TAKEN);
    /* m/2 is full and m/1 excepted: wait, but let those pass who may use m/1. */
    assert_int_equal(noted_take(&house->room, &waiter, "m/1"), LEASE_WAITING);
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_WAITING);
    until_told(house, &noted);
    assert_string_equal(lease_target(noted.lease)->engine, "m/1");
    give_back(&noted, LEASE_OK);
    fleet_room_run(&house->room, 300);
    assert_int_equal(waiter.granted, 0);
    give_back(&others[0], LEASE_OK);
    until_told(house, &waiter);
    assert_string_equal(lease_target(waiter.lease)->engine, "m/2");
    give_back(&waiter, LEASE_OK);
    give_back(&others[1], LEASE_OK);
    house->room.models[0].engine_count = 1;
    fleet_room_apply(&house->room);
    assert_int_equal(noted_take(&house->room, &noted, "m/1"), LEASE_TAKEN);
    give_back(&noted, LEASE_OK);
}

static void test_failing_instance_is_left_alone_but_never_the_last(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted;
    serve_with(house, 2);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(noted_take(&house->room, &noted, "m/2"), LEASE_TAKEN);
        give_back(&noted, LEASE_SERVER_ERROR);
    }
    assert_true(fleet_room_tells(&house->room, "\"breaker\": \"open\""));
    for (int i = 0; i < 20; i++) {
        assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_TAKEN);
        assert_string_equal(lease_target(noted.lease)->engine, "m/2");
        give_back(&noted, LEASE_SERVER_ERROR);
    }
    house->room.models[0].engine_count = 1;
    fleet_room_apply(&house->room);
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_TAKEN);
    give_back(&noted, LEASE_OK);
}

static void test_busy_and_unused_are_no_failures(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted;
    serve_with(house, 2);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(noted_take(&house->room, &noted, "m/2"), LEASE_TAKEN);
        give_back(&noted, i % 3 == 0 ? LEASE_BUSY : i % 3 == 1 ? LEASE_UNUSED : LEASE_OK);
    }
    assert_false(fleet_room_tells(&house->room, "\"breaker\": \"open\""));
}

static void test_shutting_down_refuses_waiters_and_newcomers(void **state)
{
    struct house *house = *state;
    struct noted_waiter holders[2], waiter, late;
    serve_with(house, 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(noted_take(&house->room, &holders[i], NULL), LEASE_TAKEN);
    assert_int_equal(noted_take(&house->room, &waiter, NULL), LEASE_WAITING);
    fleet_refuse_new(house->room.fleet);
    until_told(house, &waiter);
    assert_int_equal(waiter.why, LEASE_DRAINING);
    assert_int_equal(noted_take(&house->room, &late, NULL), LEASE_DRAINING);
    for (int i = 0; i < 2; i++)
        give_back(&holders[i], LEASE_OK);
}

static void test_retries_have_a_budget(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted;
    serve_with(house, 1);
    int allowed = 0;
    for (int i = 0; i < 100; i++)
        allowed += fleet_retry_allowed(house->room.fleet, "m");
    assert_true(allowed >= 10 && allowed <= 13);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_TAKEN);
        give_back(&noted, LEASE_OK);
    }
    allowed = 0;
    for (int i = 0; i < 100; i++)
        allowed += fleet_retry_allowed(house->room.fleet, "m");
    assert_true(allowed >= 2 && allowed <= 5);
}

/* ---- many threads ---- */

enum { THREADS = 4, REQUESTS = 24, ROUNDS_PER_REQUEST = 40, SLOTS = 3 };

struct crowd;

/* One request of a worker's loop: takes, waits, gives back or gives up, again and again. */
struct visitor {
    struct crowd *crowd;
    struct lease_waiter waiter;
    struct loop_timer timer;
    struct lease *lease;
    int rounds_left;
    bool waiting;
    int taken, granted, refused, abandoned, full;
};

struct crowd {
    struct fleet *fleet;
    struct loop *loop;
    pthread_t thread;
    uint64_t random_state;
    int running;
    struct visitor visitors[REQUESTS];
};

/* Leases held of the engine behind each port. */
static atomic_int held_of_port[65536];
static atomic_int held_most;

static atomic_int *held_of(const struct lease *lease)
{
    return &held_of_port[atoi(strrchr(lease_target(lease)->base_url, ':') + 1)];
}

static void note_held(const struct lease *lease)
{
    int held = ++*held_of(lease);
    int most = held_most;
    while (held > most && !atomic_compare_exchange_weak(&held_most, &most, held))
        ;
}

static void pause_visitor(struct visitor *visitor)
{
    mono_ms delay = (mono_ms) (random_next(&visitor->crowd->random_state) % 20);
    loop_timer_set(visitor->crowd->loop, &visitor->timer, clock_mono_ms() + delay);
}

static void hold(struct visitor *visitor, struct lease *lease)
{
    note_held(lease);
    visitor->lease = lease;
    lease_progress(lease);
    pause_visitor(visitor);
}

static void on_granted(struct lease_waiter *waiter, struct lease *lease)
{
    struct visitor *visitor = waiter->owner;
    assert_true(visitor->waiting);
    visitor->waiting = false;
    visitor->granted++;
    loop_timer_cancel(visitor->crowd->loop, &visitor->timer);
    hold(visitor, lease);
}

static void on_refused(struct lease_waiter *waiter, enum lease_verdict why)
{
    struct visitor *visitor = waiter->owner;
    assert_true(visitor->waiting);
    assert_int_equal(why, LEASE_TIMED_OUT);
    visitor->waiting = false;
    visitor->refused++;
    loop_timer_cancel(visitor->crowd->loop, &visitor->timer);
    pause_visitor(visitor);
}

static void take(struct visitor *visitor)
{
    struct lease *lease = NULL;
    if (visitor->rounds_left-- == 0) {
        if (--visitor->crowd->running == 0)
            loop_stop(visitor->crowd->loop);
        return;
    }
    visitor->waiter = (struct lease_waiter){
        .loop = visitor->crowd->loop, .granted = on_granted, .refused = on_refused, .owner = visitor};
    enum lease_verdict verdict = lease_take(visitor->crowd->fleet, "m", NULL, &visitor->waiter, &lease);
    visitor->taken += verdict == LEASE_TAKEN;
    visitor->waiting = verdict == LEASE_WAITING;
    visitor->full += verdict == LEASE_QUEUE_FULL;
    if (verdict == LEASE_TAKEN)
        hold(visitor, lease);
    else if (verdict == LEASE_QUEUE_FULL || random_next(&visitor->crowd->random_state) % 2)
        pause_visitor(visitor); /* who waits gives up after it */
}

static void on_visitor_timer(struct loop_timer *timer)
{
    struct visitor *visitor = timer->owner;
    if (visitor->waiting) {
        visitor->waiting = false;
        visitor->abandoned++;
        lease_abandon(visitor->crowd->fleet, &visitor->waiter);
        memset(&visitor->waiter, 0xa5, sizeof(visitor->waiter));
        pause_visitor(visitor);
        return;
    }
    if (visitor->lease != NULL) {
        --*held_of(visitor->lease);
        lease_end(&visitor->lease, (enum lease_outcome)(random_next(&visitor->crowd->random_state) % 3));
    }
    take(visitor);
}

static void *run_crowd(void *argument)
{
    struct crowd *crowd = argument;
    crowd->running = REQUESTS;
    for (int i = 0; i < REQUESTS; i++) {
        struct visitor *visitor = &crowd->visitors[i];
        visitor->crowd = crowd;
        visitor->rounds_left = ROUNDS_PER_REQUEST;
        visitor->timer = (struct loop_timer){.fire = on_visitor_timer, .owner = visitor};
        take(visitor);
    }
    loop_run(crowd->loop);
    loop_run_once(crowd->loop, 300); /* what was told to those who gave up */
    return NULL;
}

/* Every round ends in exactly one way, no slot is lost, and never are there more leases than slots. */
static void test_many_threads_lose_nothing(void **state)
{
    struct house *house = *state;
    static struct crowd crowds[THREADS];
    int ways[5] = {0};
    house->engines[0].slots = house->engines[1].slots = SLOTS;
    house->room.models[0].queue_length = THREADS * REQUESTS / 2;
    house->room.models[0].queue_wait_ms = 20;
    serve_with(house, 2);
    for (int i = 0; i < THREADS; i++) {
        crowds[i] = (struct crowd){.fleet = house->room.fleet, .loop = loop_create(), .random_state = unit_random()};
        assert_int_equal(pthread_create(&crowds[i].thread, NULL, run_crowd, &crowds[i]), 0);
    }
    mono_ms end = clock_mono_ms() + 1500;
    for (int reload = 0; clock_mono_ms() < end; reload++) {
        fleet_room_run(&house->room, 20);
        house->room.engines[0].weight = 1 + reload % 3;
        house->room.engines[1].url = http_stub_url(house->engines[1 + reload / 8 % 2].stub);
        fleet_room_apply(&house->room);
        assert_true(fleet_room_status(&house->room).waiting <= house->room.models[0].queue_length);
        fleet_retry_allowed(house->room.fleet, "m");
    }
    for (int i = 0; i < THREADS; i++) {
        while (pthread_tryjoin_np(crowds[i].thread, NULL) != 0)
            loop_run_once(house->room.control, 10);
        for (int j = 0; j < REQUESTS; j++) {
            const struct visitor *visitor = &crowds[i].visitors[j];
            assert_int_equal(visitor->taken + visitor->granted + visitor->refused + visitor->abandoned + visitor->full,
                             ROUNDS_PER_REQUEST);
            ways[0] += visitor->taken;
            ways[1] += visitor->granted;
            ways[2] += visitor->refused;
            ways[3] += visitor->abandoned;
            ways[4] += visitor->full;
        }
        loop_destroy(crowds[i].loop);
    }
    print_message("taken %d, granted %d, refused %d, abandoned %d, full %d, at most %d of %d slots\n", ways[0], ways[1],
                  ways[2], ways[3], ways[4], (int) held_most, SLOTS);
    assert_in_range(held_most, 1, SLOTS);
    assert_int_equal(fleet_room_status(&house->room).in_flight, 0);
    assert_int_equal(fleet_room_status(&house->room).waiting, 0);
    assert_true(ways[0] > 0 && ways[1] > 0 && ways[2] > 0 && ways[3] > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_lease_names_the_engine_and_its_address),
        TEST(test_slots_and_context_are_what_the_engine_says),
        TEST(test_unknown_model_is_refused_at_once),
        TEST(test_queue_is_first_come_first_served_and_bounded),
        TEST(test_waiting_ends_with_the_model_s_time),
        TEST(test_abandoned_waiter_hears_nothing_and_keeps_no_slot),
        TEST(test_least_loaded_by_weight_is_taken),
        TEST(test_excepted_instance_is_last_resort),
        TEST(test_failing_instance_is_left_alone_but_never_the_last),
        TEST(test_busy_and_unused_are_no_failures),
        TEST(test_shutting_down_refuses_waiters_and_newcomers),
        TEST(test_retries_have_a_budget),
        TEST(test_many_threads_lose_nothing),
    };
    unit_random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
