/* How a real master ends. The test speaks the gateway's part of the protocol. */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/lib/gateway_part.h"
#include "tests/lib/unit.h"

/* ---- the end ---- */

static void a_stop_drains_the_gateway_then_ends_the_engines(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    part_start(part_gateway.socket, "m/1", PART_STUBBORN_FAMILY);
    int pids[3];
    part_logged_pids(part_gateway.socket, "m/1", pids, 3);
    assert_int_equal(kill(part_keeper.pid, SIGTERM), 0);
    part_hear(part_gateway.socket, MASTER_SHUT_DOWN);
    assert_true(keeper_is_alive(pid)); /* streams still need it */
    part_say_start(part_gateway.socket, "m/2", "exec sleep 60");
    assert_string_equal(part_hear_exited(part_gateway.socket, "m/2").reason, "the master is shutting down");
    keeper_gateway_exit(&part_gateway, 0);
    int wait_status = keeper_wait(&part_keeper);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
    assert_false(keeper_is_alive(pid));
    for (int i = 0; i < 3; i++)
        assert_false(keeper_is_alive(pids[i]));
}

static void a_gateway_that_dies_while_draining_is_not_replaced(void **state)
{
    (void) state;
    assert_int_equal(kill(part_keeper.pid, SIGINT), 0);
    part_hear(part_gateway.socket, MASTER_SHUT_DOWN);
    keeper_gateway_kill(&part_gateway);
    assert_int_equal(keeper_wait(&part_keeper), 0);
}

static void a_gateway_that_does_not_drain_is_killed(void **state)
{
    (void) state;
    part_send(part_gateway.socket, MASTER_DRAIN, NULL, &(int64_t){0}, -1);
    part_logs(part_gateway.socket, "any"); /* the master has read the frame before */
    assert_int_equal(kill(part_keeper.pid, SIGTERM), 0);
    part_hear(part_gateway.socket, MASTER_SHUT_DOWN);
    assert_int_equal(keeper_wait(&part_keeper), 0); /* 5 s later; the fixture's own drain is 10 minutes */
    assert_true(keeper_is_gone(part_gateway.pid, 0));
}

static void a_second_signal_ends_everything_at_once(void **state)
{
    (void) state;
    part_start(part_gateway.socket, "m/0", PART_STUBBORN_FAMILY);
    int pids[3];
    part_logged_pids(part_gateway.socket, "m/0", pids, 3);
    assert_int_equal(kill(part_keeper.pid, SIGINT), 0);
    part_hear(part_gateway.socket, MASTER_SHUT_DOWN);
    mono_ms hurried = clock_mono_ms();
    assert_int_equal(kill(part_keeper.pid, SIGINT), 0);
    int wait_status = keeper_wait(&part_keeper);
    assert_true(clock_mono_ms() - hurried < 4 * 1000); /* the engines' grace would be 5 s */
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
    assert_false(keeper_is_alive(part_gateway.pid));
    for (int i = 0; i < 3; i++)
        assert_false(keeper_is_alive(pids[i]));
}

static void a_stop_between_two_gateways_is_heard(void **state)
{
    (void) state;
    /* From the second quick death on there is a pause in which no gateway runs. */
    part_replace_gateway();
    part_replace_gateway();
    keeper_gateway_kill(&part_gateway);
    assert_true(keeper_is_gone(part_gateway.pid, KEEPER_WAIT_MS));
    assert_int_equal(kill(part_keeper.pid, SIGTERM), 0);
    keeper_gateway_close(&part_gateway);
    int wait_status = keeper_wait(&part_keeper);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
}

static void engines_die_with_a_killed_master(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "trap '' TERM; while :; do sleep 1; done");
    kill(part_keeper.pid, SIGKILL);
    keeper_wait(&part_keeper);
    assert_true(keeper_is_gone(pid, KEEPER_WAIT_MS));
    assert_true(keeper_is_alive(part_gateway.pid)); /* it has records to write */
}

int main(int argc, char **argv)
{
    keeper_become_gateway(argc, argv);
    const struct CMUnitTest tests[] = {
        MASTER_TEST(a_stop_drains_the_gateway_then_ends_the_engines),
        MASTER_TEST(a_gateway_that_dies_while_draining_is_not_replaced),
        MASTER_TEST(a_gateway_that_does_not_drain_is_killed),
        MASTER_TEST(a_second_signal_ends_everything_at_once),
        MASTER_TEST(a_stop_between_two_gateways_is_heard),
        MASTER_TEST(engines_die_with_a_killed_master),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
