/* Against a real master with real children, and against a false one where only that can be arranged. */
#include "backends/children.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/master.h"
#include "backends/process_tree.h"
#include "base/frame.h"
#include "tests/lib/keeper.h"
#include "tests/lib/unit.h"

enum { LONG_DRAIN_MS = 600 * 1000, NEVER_MS = 200 };

/* ---- what was heard ---- */

static struct heard {
    int started;
    int exited;
    int log_tails;
    int shut_downs;
    int masters_gone;
    char name[MASTER_NAME_BYTES_MAX + 1]; /* of the last event */
    int pid;
    uint64_t start_time;
    int wait_status;
    bool was_asked;
    char reason[MASTER_REASON_BYTES_MAX + 1];
    char log[MASTER_RING_BYTES + 1];
} heard;

static void hear_started(void *owner, const char *name, int pid, uint64_t start_time)
{
    assert_ptr_equal(owner, &heard);
    heard.started++;
    text_copy(heard.name, sizeof(heard.name), text_of(name));
    heard.pid = pid;
    heard.start_time = start_time;
}

static void hear_exited(void *owner, const struct child_exit *exit)
{
    assert_ptr_equal(owner, &heard);
    heard.exited++;
    text_copy(heard.name, sizeof(heard.name), text_of(exit->name));
    text_copy(heard.reason, sizeof(heard.reason), text_of(exit->reason));
    heard.pid = exit->pid;
    heard.wait_status = exit->wait_status;
    heard.was_asked = exit->was_asked;
}

static void hear_log_tail(void *owner, const char *name, struct text bytes)
{
    assert_ptr_equal(owner, &heard);
    heard.log_tails++;
    text_copy(heard.name, sizeof(heard.name), text_of(name));
    text_copy(heard.log, sizeof(heard.log), bytes);
}

static const struct children_events events = {hear_started, hear_exited, hear_log_tail};

/* Of the child that somebody else than the others' listener hears of. */
static struct heard_apart {
    int started;
    int exited;
    int log_tails;
} apart;

static void hear_apart_started(void *owner, const char *name, int pid, uint64_t start_time)
{
    assert_ptr_equal(owner, &apart);
    assert_string_equal(name, "apart");
    assert_int_equal(start_time, process_start_time(pid));
    apart.started++;
}

static void hear_apart_exited(void *owner, const struct child_exit *exit)
{
    assert_ptr_equal(owner, &apart);
    assert_string_equal(exit->name, "apart");
    apart.exited++;
}

static void hear_apart_log_tail(void *owner, const char *name, struct text bytes)
{
    assert_ptr_equal(owner, &apart);
    assert_string_equal(name, "apart");
    apart.log_tails += bytes.length > 0;
}

static const struct children_events apart_events = {hear_apart_started, hear_apart_exited, hear_apart_log_tail};

static void hear_shut_down(void *owner)
{
    assert_ptr_equal(owner, &heard);
    heard.shut_downs++;
}

static void hear_master_gone(void *owner)
{
    assert_ptr_equal(owner, &heard);
    heard.masters_gone++;
}

/* ---- fixture ---- */

static struct keeper keeper;
static struct keeper_gateway gateway;
static struct loop *loop;
static struct children *children;

static void attach(int socket)
{
    heard = (struct heard){0};
    apart = (struct heard_apart){0};
    loop = loop_create();
    children = children_connect(socket);
    assert_non_null(children);
    children_listen(children, &events, &heard);
    children_listen_to(children, "apart", &apart_events, &apart);
    assert_true(children_attach(children, loop, hear_shut_down, hear_master_gone, &heard));
}

static void detach(void)
{
    children_destroy(&children);
    assert_null(children);
    loop_destroy(loop);
    loop = NULL;
}

static int set_up(void **state)
{
    (void) state;
    keeper_start(&keeper, "obey", LONG_DRAIN_MS);
    assert_true(keeper_accept(&keeper, &gateway));
    attach(gateway.socket);
    gateway.socket = -1; /* the children's now */
    assert_true(children_gateway_ready(children));
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    detach();
    keeper_finish(&keeper);
    keeper_gateway_close(&gateway);
    return 0;
}

/* Turn the loop until *@count is @expected. */
static void await(const int *count, int expected)
{
    for (mono_ms deadline = clock_mono_ms() + KEEPER_WAIT_MS; *count < expected; loop_run_once(loop, 20))
        assert_true(clock_mono_ms() < deadline);
    assert_int_equal(*count, expected);
}

static const char *const plain_environment[] = {"PATH=/usr/bin:/bin", NULL};

static bool say_start(const char *name, const char *script)
{
    const char *const arguments[] = {"/bin/sh", "-c", script, NULL};
    const struct child_start start = {.name = name,
                                      .note = "hash of its settings",
                                      .working_directory = "",
                                      .arguments = arguments,
                                      .environment = plain_environment};
    return children_start(children, &start);
}

static int start(const char *name, const char *script)
{
    int started = heard.started;
    assert_true(say_start(name, script));
    await(&heard.started, started + 1);
    assert_string_equal(heard.name, name);
    return heard.pid;
}

struct listed {
    int count;
    int pid;
    int64_t mark;
    int64_t running_ms;
    char name[MASTER_NAME_BYTES_MAX + 1];
    char note[MASTER_NOTE_BYTES_MAX + 1];
};

static void receive_listed(void *owner, const struct child_info *info)
{
    struct listed *listed = owner;
    listed->count++;
    listed->pid = info->pid;
    listed->mark = info->mark;
    listed->running_ms = info->running_ms;
    text_copy(listed->name, sizeof(listed->name), text_of(info->name));
    text_copy(listed->note, sizeof(listed->note), text_of(info->note));
    assert_int_equal(info->start_time, process_start_time(info->pid));
}

static struct listed list(void)
{
    struct listed listed = {0};
    children_each(children, receive_listed, &listed);
    return listed;
}

/* ---- events ---- */

static void a_child_is_heard_from_start_to_exit(void **state)
{
    (void) state;
    assert_int_equal(list().count, 0);
    int pid = start("m/0", "echo hello; exec sleep 60");
    assert_int_equal(heard.start_time, process_start_time(pid));
    do {
        int before = heard.log_tails;
        assert_true(children_ask_logs(children, "m/0"));
        await(&heard.log_tails, before + 1);
    } while (heard.log[0] == '\0');
    assert_string_equal(heard.log, "hello\n");
    assert_true(children_stop(children, "m/0", LONG_DRAIN_MS));
    await(&heard.exited, 1);
    assert_string_equal(heard.name, "m/0");
    assert_int_equal(heard.pid, pid);
    assert_int_equal(WTERMSIG(heard.wait_status), SIGTERM);
    assert_true(heard.was_asked);
    assert_string_equal(heard.reason, "");
    assert_int_equal(list().count, 0);
}

static void a_child_that_never_ran_is_heard_with_the_reason(void **state)
{
    (void) state;
    const char *const arguments[] = {"./llama_engine", "--model", "m.gguf", NULL};
    const struct child_start start = {
        .name = "m/0", .note = "", .working_directory = "/", .arguments = arguments, .environment = plain_environment};
    assert_true(children_start(children, &start));
    await(&heard.exited, 1);
    assert_int_equal(heard.started, 0);
    assert_false(heard.was_asked);
    assert_string_equal(heard.reason, "cannot execute ./llama_engine: No such file or directory");
}

static void a_refused_second_start_ends_nothing(void **state)
{
    (void) state;
    int pid = start("m/0", "exec sleep 60");
    assert_true(say_start("m/0", "exec sleep 60"));
    await(&heard.exited, 1);
    assert_string_equal(heard.reason, "already running");
    assert_int_equal(list().count, 1);
    assert_true(keeper_is_alive(pid));
}

static void what_the_master_would_not_take_is_not_sent(void **state)
{
    (void) state;
    static char long_text[FRAME_FIELD_BYTES_MAX + 2];
    memset(long_text, 'x', sizeof(long_text) - 1);
    static const char *many[MASTER_STRINGS_MAX + 2];
    for (size_t i = 0; i < MASTER_STRINGS_MAX + 1; i++)
        many[i] = "x";
    const char *const one[] = {"true", NULL};
    const char *const huge[] = {"true", long_text, NULL};
    const char *const none[] = {NULL};
    const struct child_start starts[] = {
        {"", "", "", one, none},   {long_text, "", "", one, none}, {"m", long_text, "", one, none},
        {"m", "", "", none, none}, {"m", "", "", many, none},      {"m", "", "", one, many},
        {"m", "", "", huge, none},
    };
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
        assert_false(children_start(children, &starts[i]));
    start("m/0", "exec sleep 60"); /* the master is still content with us */
}

/* ---- a new gateway ---- */

static void succeed(void)
{
    keeper_gateway_kill(&gateway);
    keeper_gateway_close(&gateway);
    detach();
    assert_true(keeper_accept(&keeper, &gateway));
    attach(gateway.socket);
    gateway.socket = -1;
}

static void a_successor_hears_of_children_and_descriptors(void **state)
{
    (void) state;
    int pid = start("m/0", "exec sleep 60");
    assert_true(children_mark(children, "m/0", 7));
    int kept[2];
    assert_int_equal(pipe(kept), 0);
    assert_true(children_keep_fd(children, "listener", kept[1]));
    assert_true(children_keep_fd(children, "policy", kept[1]));
    assert_true(children_keep_fd(children, "policy", -1));
    close(kept[1]);
    succeed();

    struct listed listed = list();
    assert_int_equal(listed.count, 1);
    assert_string_equal(listed.name, "m/0");
    assert_string_equal(listed.note, "hash of its settings");
    assert_int_equal(listed.pid, pid);
    assert_int_equal(listed.mark, 7);
    assert_in_range(listed.running_ms, 0, KEEPER_WAIT_MS);

    int fd = children_take_fd(children, "listener");
    assert_true(fd >= 0);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(children_take_fd(children, "listener"), -1);
    assert_int_equal(children_take_fd(children, "policy"), -1);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    close(kept[0]);

    /* Its events go on. */
    kill(pid, SIGKILL);
    await(&heard.exited, 1);
    assert_false(heard.was_asked);
    assert_int_equal(WTERMSIG(heard.wait_status), SIGKILL);
}

static void a_child_apart_is_heard_by_its_own_listener_only(void **state)
{
    struct child_info info;
    (void) state;
    assert_false(children_find(children, "apart", &info));
    assert_false(children_find(children, "", &info));
    assert_true(say_start("apart", "echo hello; exec sleep 60"));
    await(&apart.started, 1);
    int pid = start("m/0", "exec sleep 60");
    assert_true(children_ask_logs(children, "apart"));
    assert_true(children_find(children, "apart", &info));
    int pid_apart = info.pid;
    assert_int_not_equal(pid_apart, pid);
    succeed();

    assert_int_equal(list().count, 1);
    assert_string_equal(list().name, "m/0");
    assert_true(children_find(children, "apart", &info));
    assert_int_equal(info.pid, pid_apart);
    assert_string_equal(info.note, "hash of its settings");
    do {
        assert_true(children_ask_logs(children, "apart"));
        loop_run_once(loop, 20);
    } while (apart.log_tails == 0);
    assert_true(children_stop(children, "apart", LONG_DRAIN_MS));
    await(&apart.exited, 1);
    assert_false(children_find(children, "apart", &info));
    assert_int_equal(heard.started + heard.exited + heard.log_tails, 0);
}

static void descriptors_nobody_took_are_closed(void **state)
{
    (void) state;
    int kept[2];
    assert_int_equal(pipe(kept), 0);
    assert_true(children_keep_fd(children, "listener", kept[1]));
    close(kept[1]);
    succeed();
    assert_true(children_keep_fd(children, "listener", -1));
    children_destroy(&children);
    struct pollfd ended = {.fd = kept[0], .events = POLLIN};
    assert_int_equal(poll(&ended, 1, KEEPER_WAIT_MS), 1);
    close(kept[0]);
}

static void a_socket_without_a_master_is_no_connection(void **state)
{
    (void) state;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    close(pair[1]);
    assert_null(children_connect(pair[0]));
    close(pair[0]);
    assert_null(children_connect(-1));

    /* Somebody is there and does not answer: bounded. */
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    alarm(4 * 5);
    assert_null(children_connect(pair[0]));
    alarm(0);
    assert_true(fcntl(pair[0], F_GETFD) >= 0); /* still the caller's */
    close(pair[0]);
    close(pair[1]);
}

/* ---- the end ---- */

static void a_shut_down_is_heard(void **state)
{
    (void) state;
    kill(keeper.pid, SIGTERM);
    await(&heard.shut_downs, 1);
    keeper_gateway_exit(&gateway, 0);
    assert_int_equal(keeper_wait(&keeper), 0);
}

static void a_shut_down_before_the_loop_runs_is_heard(void **state)
{
    (void) state;
    struct keeper early;
    struct keeper_gateway first;
    keeper_start(&early, "obey", LONG_DRAIN_MS);
    assert_true(keeper_accept(&early, &first));
    kill(early.pid, SIGTERM);
    struct pollfd ready = {.fd = first.socket, .events = POLLIN};
    assert_int_equal(poll(&ready, 1, KEEPER_WAIT_MS), 1);
    attach(first.socket); /* the frame comes before the answer to LIST */
    first.socket = -1;
    assert_int_equal(heard.shut_downs, 1);
    keeper_gateway_exit(&first, 0);
    assert_int_equal(keeper_wait(&early), 0);
    detach();
    keeper_gateway_close(&first);
    keeper_finish(&early);
}

static void the_drain_limit_reaches_the_master(void **state)
{
    (void) state;
    assert_true(children_set_drain(children, 0));
    assert_true(children_ask_logs(children, ""));
    await(&heard.log_tails, 1);
    kill(keeper.pid, SIGTERM);
    assert_int_equal(keeper_wait(&keeper), 0); /* or the fixture's 10 minutes */
}

/* The leader dies with its master; of the others, one is in its group and one in a session of its own, all deaf. */
static void nothing_is_left_of_a_killed_master(void **state)
{
    (void) state;
    int leader =
        start("m/0", "trap '' TERM HUP; sleep 60 & echo $!; setsid sh -c 'sleep 60 & echo $!; wait' & wait; wait");
    int group_member = 0;
    int escapee = 0;
    while (heard.log_tails == 0 || sscanf(heard.log, "%d %d", &group_member, &escapee) != 2) {
        int before = heard.log_tails;
        assert_true(children_ask_logs(children, "m/0"));
        await(&heard.log_tails, before + 1);
    }
    /* The first look at the tree is due. */
    for (mono_ms until = clock_mono_ms() + 1500; clock_mono_ms() < until;)
        loop_run_once(loop, 50);
    kill(keeper.pid, SIGKILL);
    await(&heard.masters_gone, 1);
    keeper_wait(&keeper);
    assert_true(keeper_is_gone(leader, 4 * 2000));
    assert_true(keeper_is_gone(group_member, 4 * 2000));
    assert_true(keeper_is_gone(escapee, 4 * 2000));
    assert_int_equal(list().count, 0);
    assert_false(say_start("m/1", "true"));
    assert_false(children_stop(children, "m/0", 0));
    assert_false(children_gateway_ready(children));
    for (int i = 0; i < 3; i++)
        loop_run_once(loop, 10);
    assert_int_equal(heard.masters_gone, 1);
}

/* A master of the test's own, which says that it runs @pid since @start_time and dies. */
static void die_as_a_master_of(int pid, uint64_t start_time)
{
    int pair[2];
    char memory[1024];
    struct frame_writer frame;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    frame_begin(&frame, memory, sizeof(memory), MASTER_CHILD);
    frame_add_text(&frame, TEXT("m/0"));
    frame_add_text(&frame, TEXT(""));
    frame_add_int(&frame, pid);
    frame_add_int(&frame, (int64_t) start_time);
    frame_add_int(&frame, 0);
    frame_add_int(&frame, 0);
    assert_true(frame_send(pair[1], &frame, -1, 0));
    frame_begin(&frame, memory, sizeof(memory), MASTER_LISTED);
    assert_true(frame_send(pair[1], &frame, -1, 0));
    attach(pair[0]);
    close(pair[1]);
    await(&heard.masters_gone, 1);
    detach();
}

static void a_stranger_with_the_pid_of_a_child_is_spared(void **state)
{
    (void) state;
    fflush(NULL);
    int stranger = fork();
    if (stranger == 0) {
        setpgid(0, 0);
        alarm(60);
        for (;;)
            pause();
    }
    setpgid(stranger, stranger);
    uint64_t start_time = process_start_time(stranger);
    die_as_a_master_of(stranger, start_time + 1);
    assert_false(keeper_is_gone(stranger, NEVER_MS));
    die_as_a_master_of(stranger, start_time);
    assert_true(keeper_is_gone(stranger, KEEPER_WAIT_MS));
    waitpid(stranger, NULL, 0);
}

#define WITH_MASTER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
    keeper_become_gateway(argc, argv);
    const struct CMUnitTest tests[] = {
        WITH_MASTER(a_child_is_heard_from_start_to_exit),
        WITH_MASTER(a_child_that_never_ran_is_heard_with_the_reason),
        WITH_MASTER(a_refused_second_start_ends_nothing),
        WITH_MASTER(what_the_master_would_not_take_is_not_sent),
        WITH_MASTER(a_successor_hears_of_children_and_descriptors),
        WITH_MASTER(a_child_apart_is_heard_by_its_own_listener_only),
        WITH_MASTER(descriptors_nobody_took_are_closed),
        cmocka_unit_test(a_socket_without_a_master_is_no_connection),
        WITH_MASTER(a_shut_down_is_heard),
        cmocka_unit_test(a_shut_down_before_the_loop_runs_is_heard),
        WITH_MASTER(the_drain_limit_reaches_the_master),
        WITH_MASTER(nothing_is_left_of_a_killed_master),
        cmocka_unit_test(a_stranger_with_the_pid_of_a_child_is_spared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
