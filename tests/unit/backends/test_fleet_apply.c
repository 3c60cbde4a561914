/* Reload: what changes in place, what is replaced, what goes. */
#include "backends/fleet.h"

#include <string.h>
#include <unistd.h>

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

static void test_reload_changes_in_place_what_may_change(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted, waiter;
    house->engines[0].slots = 1;
    serve_with(house, 1);
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_TAKEN);
    assert_int_equal(noted_take(&house->room, &waiter, NULL), LEASE_WAITING);
    house->room.engines[0].max_in_flight = 3;
    house->room.models[0].timeouts.total_ms = 5;
    fleet_room_apply(&house->room);
    assert_int_equal(fleet_room_status(&house->room).ready, 1);
    assert_int_equal(fleet_room_status(&house->room).slots, 3);
    until_told(house, &waiter);
    assert_int_equal(lease_target(noted.lease)->timeouts.total_ms, 60 * 1000);
    assert_int_equal(lease_target(waiter.lease)->timeouts.total_ms, 5);
    give_back(&noted, LEASE_OK);
    give_back(&waiter, LEASE_OK);
}

static void test_changed_engine_is_replaced_and_drains(void **state)
{
    struct house *house = *state;
    struct noted_waiter old, new;
    serve_with(house, 1);
    assert_int_equal(noted_take(&house->room, &old, NULL), LEASE_TAKEN);
    house->room.engines[0].url = http_stub_url(house->engines[1].stub);
    fleet_room_apply(&house->room);
    assert_true(fleet_room_tells(&house->room, "DRAINING"));
    assert_int_equal(noted_take(&house->room, &new, NULL), LEASE_WAITING);
    until_told(house, &new);
    assert_string_equal(lease_target(new.lease)->base_url, http_stub_url(house->engines[1].stub));
    assert_string_equal(lease_target(old.lease)->base_url, http_stub_url(house->engines[0].stub));
    give_back(&old, LEASE_OK);
    give_back(&new, LEASE_OK);
    fleet_room_run(&house->room, 600);
    assert_false(fleet_room_tells(&house->room, "DRAINING"));
    assert_false(fleet_room_tells(&house->room, http_stub_url(house->engines[0].stub)));
}

static void test_reload_back_and_forth_keeps_the_draining_one(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted, again;
    const char *first = http_stub_url(house->engines[0].stub);
    serve_with(house, 1);
    int asked = house->engines[0].tokens_asked;
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_TAKEN);
    for (int i = 0; i < 5; i++) {
        house->room.engines[0].url = http_stub_url(house->engines[1].stub);
        fleet_room_apply(&house->room);
        house->room.engines[0].url = first;
        fleet_room_apply(&house->room);
        assert_int_equal(fleet_room_status(&house->room).ready, 1);
    }
    assert_int_equal(noted_take(&house->room, &again, NULL), LEASE_TAKEN);
    assert_string_equal(lease_target(again.lease)->base_url, first);
    give_back(&noted, LEASE_OK);
    give_back(&again, LEASE_OK);
    fleet_room_run(&house->room, 600);
    assert_int_equal(fleet_room_status(&house->room).instances, 1);
    assert_int_equal(house->engines[0].tokens_asked, asked);
}

static void test_removed_model_serves_who_waited_then_goes(void **state)
{
    struct house *house = *state;
    struct noted_waiter holders[2], waiter, late;
    serve_with(house, 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(noted_take(&house->room, &holders[i], NULL), LEASE_TAKEN);
    assert_int_equal(noted_take(&house->room, &waiter, NULL), LEASE_WAITING);
    house->room.policy.model_count = 0;
    fleet_room_apply(&house->room);
    fleet_room_run(&house->room, 600);
    give_back(&holders[0], LEASE_OK);
    until_told(house, &waiter);
    assert_int_equal(waiter.granted, 1);
    fleet_room_run(&house->room, 600);
    assert_int_equal(noted_take(&house->room, &late, NULL), LEASE_ALL_FAILED);
    give_back(&holders[1], LEASE_OK);
    give_back(&waiter, LEASE_OK);
    fleet_room_run(&house->room, 600);
    assert_false(fleet_room_tells(&house->room, "\"m\""));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reload_changes_in_place_what_may_change),
        TEST(test_changed_engine_is_replaced_and_drains),
        TEST(test_reload_back_and_forth_keeps_the_draining_one),
        TEST(test_removed_model_serves_who_waited_then_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
