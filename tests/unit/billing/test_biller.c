/* billing/biller: usage of real journals arrives at a provider exactly once, whatever is started, stopped or away
 * meanwhile. */
#include "tests/lib/biller_room.h"

static struct biller_room room;

static int set_up(void **state)
{
    (void) state;
    biller_room_init(&room);
    biller_room_policy_file(&room);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    biller_room_finish(&room);
    return 0;
}

/* An epoch that ended after the provider was there. */
static wall_ms now(void)
{
    return clock_wall_ms() + 1;
}

static void usage_arrives_once(void **state)
{
    (void) state;
    redis_room_start(&room.redis);
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    biller_room_begin(&room, 1);
    biller_room_requests(&room, 0, 200, now(), 50);
    biller_room_requests(&room, 1, 100, now(), 100);
    journal_destroy(&room.journals[0].journal);
    journal_destroy(&room.journals[1].journal);
    biller_room_wait_for_all(&room);
    size_t rows = biller_room_arrived(&room).rows;
    biller_room_stop(&room);
    biller_room_start(&room);
    biller_room_begin(&room, 0);
    biller_room_requests(&room, 0, 10, now(), 50);
    journal_destroy(&room.journals[0].journal);
    biller_room_wait_for_all(&room);
    assert_true(biller_room_arrived(&room).rows > rows);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(usage_arrives_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
