/* How a real master keeps its gateway process alive. The test speaks the gateway's part of the protocol. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/process_tree.h"
#include "base/clock.h"
#include "tests/lib/gateway_part.h"
#include "tests/lib/unit.h"

/* ---- the gateway process ---- */

static void the_gateway_has_its_socket_and_nothing_more(void **state)
{
    (void) state;
    char link[PART_LINK_BYTES];
    assert_memory_equal(part_descriptor(part_gateway.pid, MASTER_SOCKET_FD, link), "socket:", 7);
    assert_string_equal(part_descriptor(part_gateway.pid, STDIN_FILENO, link), "/dev/null");
    assert_int_equal(part_count_descriptors(part_gateway.pid), 6); /* and those it opened: control and signals */
    struct process_facts facts;
    assert_true(process_facts_read(part_gateway.pid, &facts));
    assert_int_equal(facts.group, part_gateway.pid);
    assert_int_equal(facts.parent, part_keeper.pid);
}

static void a_killed_gateway_is_replaced_and_finds_everything(void **state)
{
    (void) state;
    int kept[2];
    int forgotten[2];
    assert_int_equal(pipe(kept), 0);
    assert_int_equal(pipe(forgotten), 0);
    int pid = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    uint64_t start_time = process_start_time(pid);
    part_send(part_gateway.socket, MASTER_MARK, "m/0", &(int64_t){1}, -1);
    part_send(part_gateway.socket, MASTER_KEEP_FD, "listener", NULL, forgotten[1]);
    part_send(part_gateway.socket, MASTER_KEEP_FD, "listener", NULL, kept[1]);
    part_send(part_gateway.socket, MASTER_KEEP_FD, "policy", NULL, forgotten[1]);
    part_send(part_gateway.socket, MASTER_KEEP_FD, "policy", NULL, -1);
    close(kept[1]);
    close(forgotten[1]);

    mono_ms killed = clock_mono_ms();
    part_replace_gateway();
    assert_true(clock_mono_ms() - killed < 4 * 1000); /* the rule is 1 s */

    part_send(part_gateway.socket, MASTER_LIST, NULL, NULL, -1);
    struct frame_reader frame = part_hear(part_gateway.socket, MASTER_CHILD);
    assert_string_equal(part_heard_name(&frame), "m/0");
    frame_read_text(&frame);
    assert_int_equal(frame_read_int(&frame), pid);
    assert_int_equal(frame_read_int(&frame), start_time);
    assert_int_equal(frame_read_int(&frame), 1);
    assert_true(keeper_is_alive(pid));

    frame = part_hear(part_gateway.socket, MASTER_KEPT);
    assert_string_equal(part_heard_name(&frame), "listener");
    assert_true(frame.fd >= 0);
    assert_int_equal(write(frame.fd, "x", 1), 1);
    char byte;
    assert_int_equal(read(kept[0], &byte, 1), 1);
    close(frame.fd);
    part_hear(part_gateway.socket, MASTER_LISTED);

    /* What was replaced or forgotten is closed. */
    struct pollfd ended = {.fd = forgotten[0], .events = POLLIN};
    assert_int_equal(poll(&ended, 1, KEEPER_WAIT_MS), 1);
    assert_int_equal(read(forgotten[0], &byte, 1), 0);
    close(kept[0]);
    close(forgotten[0]);
}

static void a_child_that_ended_meanwhile_is_not_listed(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    keeper_gateway_kill(&part_gateway);
    keeper_gateway_close(&part_gateway);
    kill(pid, SIGKILL);
    assert_true(keeper_accept(&part_keeper, &part_gateway));
    assert_true(keeper_is_gone(pid, KEEPER_WAIT_MS));
    part_send(part_gateway.socket, MASTER_LIST, NULL, NULL, -1);
    struct frame_reader frame = part_hear_any(part_gateway.socket);
    if (frame.type == MASTER_EXITED) /* reaped after the successor came */
        frame = part_hear(part_gateway.socket, MASTER_LISTED);
    assert_int_equal(frame.type, MASTER_LISTED);
}

static void kept_descriptors_are_bounded(void **state)
{
    (void) state;
    int null = open("/dev/null", O_RDONLY);
    char name[16];
    for (int i = 0; i < MASTER_KEPT_FDS_MAX + 3; i++) {
        snprintf(name, sizeof(name), "fd %d", i);
        part_send(part_gateway.socket, MASTER_KEEP_FD, name, NULL, null);
    }
    part_send(part_gateway.socket, MASTER_KEEP_FD, "unknown", NULL, -1);
    close(null);
    part_send(part_gateway.socket, MASTER_LIST, NULL, NULL, -1);
    for (int i = 0; i < MASTER_KEPT_FDS_MAX; i++)
        close(part_hear(part_gateway.socket, MASTER_KEPT).fd);
    part_hear(part_gateway.socket, MASTER_LISTED);
}

static void a_frame_that_is_none_costs_the_gateway_its_life(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    struct frame_writer frame;
    char memory[512];
    char long_name[MASTER_NAME_BYTES_MAX + 2];
    memset(long_name, 'n', sizeof(long_name));
    long_name[sizeof(long_name) - 1] = '\0';
    for (int i = 0; i < 3; i++) {
        frame_begin(&frame, memory, sizeof(memory), i == 0 ? 200 : MASTER_STOP);
        frame_add_text(&frame, text_of(i == 1 ? long_name : "m/0"));
        if (i != 2)
            frame_add_int(&frame, 0);
        assert_true(frame_send(part_gateway.socket, &frame, -1, KEEPER_WAIT_MS));
        assert_true(keeper_is_gone(part_gateway.pid, KEEPER_WAIT_MS));
        keeper_gateway_close(&part_gateway);
        assert_true(keeper_accept(&part_keeper, &part_gateway));
    }
    assert_true(keeper_is_alive(pid));
}

static void a_crash_loop_ends_everything(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    for (int deaths = 1; deaths < 5; deaths++) {
        part_replace_gateway();
        if (deaths % 2 == 0) /* ready or not: it is the death that counts */
            part_say_ready(part_gateway.socket);
    }
    keeper_gateway_kill(&part_gateway);
    int wait_status = keeper_wait(&part_keeper);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 1);
    assert_false(keeper_is_alive(pid));
}

static void hang_ups_are_passed_on_when_the_gateway_can_hear(void **state)
{
    (void) state;
    assert_int_equal(kill(part_keeper.pid, SIGHUP), 0);
    assert_int_equal(keeper_gateway_heard(&part_gateway, KEEPER_WAIT_MS), SIGHUP);
    part_replace_gateway();
    assert_int_equal(kill(part_keeper.pid, SIGHUP), 0);
    assert_int_equal(keeper_gateway_heard(&part_gateway, 200), 0);
    part_say_ready(part_gateway.socket);
    assert_int_equal(keeper_gateway_heard(&part_gateway, KEEPER_WAIT_MS), SIGHUP);
    assert_int_equal(keeper_gateway_heard(&part_gateway, 200), 0);
}

/* ---- a gateway that never was ready ---- */

static void a_first_gateway_that_fails_gives_its_status(void **state)
{
    (void) state;
    struct keeper failing;
    keeper_start(&failing, "exit-7", PART_LONG_MS);
    int wait_status = keeper_wait(&failing);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 7);
    keeper_finish(&failing);

    keeper_start(&failing, "crash", PART_LONG_MS);
    assert_int_equal(WEXITSTATUS(keeper_wait(&failing)), 1);
    keeper_finish(&failing);

    keeper_start_executable(&failing, "/nowhere/tollgate");
    assert_int_equal(WEXITSTATUS(keeper_wait(&failing)), 1);
    keeper_finish(&failing);
}

static void its_children_are_stopped_first(void **state)
{
    (void) state;
    struct keeper failing;
    struct keeper_gateway first;
    keeper_start(&failing, "obey", PART_LONG_MS);
    assert_true(keeper_accept(&failing, &first));
    int pid = part_start(first.socket, "m/0", "exec sleep 60");
    keeper_gateway_exit(&first, 5);
    assert_int_equal(WEXITSTATUS(keeper_wait(&failing)), 5);
    assert_false(keeper_is_alive(pid));
    keeper_gateway_close(&first);
    keeper_finish(&failing);
}

/* Its death is heard before its last frame is read. */
static void a_gateway_that_dies_right_after_it_was_ready_is_replaced(void **state)
{
    (void) state;
    struct keeper keeper;
    struct keeper_gateway gateway;
    keeper_start(&keeper, "obey", PART_LONG_MS);
    assert_true(keeper_accept(&keeper, &gateway));
    kill(keeper.pid, SIGSTOP);
    keeper_gateway_kill(&gateway);
    assert_true(keeper_is_gone(gateway.pid, KEEPER_WAIT_MS));
    part_say_ready(gateway.socket);
    kill(keeper.pid, SIGCONT);
    keeper_gateway_close(&gateway);
    assert_true(keeper_accept(&keeper, &gateway));
    keeper_finish(&keeper);
    keeper_gateway_close(&gateway);
}

int main(int argc, char **argv)
{
    keeper_become_gateway(argc, argv);
    const struct CMUnitTest tests[] = {
        MASTER_TEST(the_gateway_has_its_socket_and_nothing_more),
        MASTER_TEST(a_killed_gateway_is_replaced_and_finds_everything),
        MASTER_TEST(a_child_that_ended_meanwhile_is_not_listed),
        MASTER_TEST(kept_descriptors_are_bounded),
        MASTER_TEST(a_frame_that_is_none_costs_the_gateway_its_life),
        MASTER_TEST(a_crash_loop_ends_everything),
        MASTER_TEST(hang_ups_are_passed_on_when_the_gateway_can_hear),
        cmocka_unit_test(a_first_gateway_that_fails_gives_its_status),
        cmocka_unit_test(its_children_are_stopped_first),
        cmocka_unit_test(a_gateway_that_dies_right_after_it_was_ready_is_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
