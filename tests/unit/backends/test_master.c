/* Against a real master with real children; the test speaks the gateway's part of the protocol itself. */
#include "backends/master.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/process_tree.h"
#include "base/clock.h"
#include "base/frame.h"
#include "tests/lib/keeper.h"
#include "tests/lib/unit.h"

enum { LONG_DRAIN_MS = 600 * 1000 };

/* ---- speaking the protocol ---- */

static char sent_memory[FRAME_BYTES_MAX];
static char received_memory[FRAME_BYTES_MAX];
static char name_memory[MASTER_NAME_BYTES_MAX + 1];
static char text_memory[MASTER_RING_BYTES + 1];

static void send_named(int socket, enum master_frame type, const char *name, const int64_t *value, int fd)
{
    struct frame_writer frame;
    frame_begin(&frame, sent_memory, sizeof(sent_memory), (uint8_t) type);
    if (name != NULL)
        frame_add_text(&frame, text_of(name));
    if (value != NULL)
        frame_add_int(&frame, *value);
    assert_true(frame_send(socket, &frame, fd, KEEPER_WAIT_MS));
}

static void say_ready(int socket)
{
    send_named(socket, MASTER_MARK, "", &(int64_t){1}, -1);
}

static void say_stop(int socket, const char *name, int64_t grace_ms)
{
    send_named(socket, MASTER_STOP, name, &grace_ms, -1);
}

static void add_strings(struct frame_writer *frame, const char *const *strings)
{
    int64_t count = 0;
    while (strings[count] != NULL)
        count++;
    frame_add_int(frame, count);
    for (int64_t i = 0; i < count; i++)
        frame_add_text(frame, text_of(strings[i]));
}

static const char *const plain_environment[] = {"PATH=/usr/bin:/bin", NULL};

static void say_start_in(int socket, const char *name, const char *directory, const char *const *arguments,
                         const char *const *environment)
{
    struct frame_writer frame;
    frame_begin(&frame, sent_memory, sizeof(sent_memory), MASTER_START);
    frame_add_text(&frame, text_of(name));
    frame_add_text(&frame, TEXT("a note"));
    frame_add_text(&frame, text_of(directory));
    add_strings(&frame, arguments);
    add_strings(&frame, environment);
    assert_true(frame_send(socket, &frame, -1, KEEPER_WAIT_MS));
}

static void say_start(int socket, const char *name, const char *script)
{
    const char *const arguments[] = {"/bin/sh", "-c", script, NULL};
    say_start_in(socket, name, "", arguments, plain_environment);
}

/* The next frame, which has to be of @type. */
static struct frame_reader hear(int socket, enum master_frame type)
{
    struct frame_reader frame;
    struct pollfd ready = {.fd = socket, .events = POLLIN};
    assert_int_equal(poll(&ready, 1, KEEPER_WAIT_MS), 1);
    assert_int_equal(frame_receive(socket, received_memory, sizeof(received_memory), &frame), FRAME_RECEIVED);
    assert_int_equal(frame.type, type);
    return frame;
}

static const char *heard_name(struct frame_reader *frame)
{
    text_copy(name_memory, sizeof(name_memory), frame_read_text(frame));
    return name_memory;
}

static const char *heard_text(struct frame_reader *frame)
{
    text_copy(text_memory, sizeof(text_memory), frame_read_text(frame));
    return text_memory;
}

static int hear_started(int socket, const char *name)
{
    struct frame_reader frame = hear(socket, MASTER_STARTED);
    assert_string_equal(heard_name(&frame), name);
    int pid = (int) frame_read_int(&frame);
    uint64_t start_time = (uint64_t) frame_read_int(&frame);
    assert_true(pid > 0);
    assert_true(start_time > 0);
    return pid;
}

struct heard_exit {
    int pid;
    int wait_status;
    bool was_asked;
    const char *reason; /* in text_memory */
};

static struct heard_exit hear_exited(int socket, const char *name)
{
    struct frame_reader frame = hear(socket, MASTER_EXITED);
    assert_string_equal(heard_name(&frame), name);
    struct heard_exit exit = {0};
    exit.pid = (int) frame_read_int(&frame);
    exit.wait_status = (int) frame_read_int(&frame);
    exit.was_asked = frame_read_int(&frame) != 0;
    exit.reason = heard_text(&frame);
    assert_false(frame.broken);
    return exit;
}

static int start(int socket, const char *name, const char *script)
{
    say_start(socket, name, script);
    return hear_started(socket, name);
}

static const char *logs(int socket, const char *name)
{
    send_named(socket, MASTER_LOGS, name, NULL, -1);
    struct frame_reader frame = hear(socket, MASTER_LOG_TAIL);
    assert_string_equal(heard_name(&frame), name);
    return heard_text(&frame);
}

/* The log once it has @lines lines. */
static const char *logs_of_lines(int socket, const char *name, int lines)
{
    mono_ms deadline = clock_mono_ms() + KEEPER_WAIT_MS;
    for (;;) {
        const char *text = logs(socket, name);
        int seen = 0;
        for (const char *at = text; *at != '\0'; at++)
            seen += *at == '\n';
        if (seen >= lines)
            return text;
        assert_true(clock_mono_ms() < deadline);
        poll(NULL, 0, 5);
    }
}

/* Numbers that the script wrote, one a line. */
static void logged_pids(int socket, const char *name, int *pids, int count)
{
    const char *at = logs_of_lines(socket, name, count);
    for (int i = 0; i < count; i++) {
        char *end;
        pids[i] = (int) strtol(at, &end, 10);
        assert_true(pids[i] > 1);
        assert_int_equal(*end, '\n');
        at = end + 1;
    }
}

/* ---- fixture: a master whose first gateway is ready ---- */

static struct keeper keeper;
static struct keeper_gateway gateway;

static int set_up(void **state)
{
    (void) state;
    keeper_start(&keeper, "obey", LONG_DRAIN_MS);
    assert_true(keeper_accept(&keeper, &gateway));
    say_ready(gateway.socket);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    keeper_finish(&keeper); /* first: or it would start a successor */
    keeper_gateway_close(&gateway);
    return 0;
}

/* kill -9 the gateway and take on its successor. */
static void replace_gateway(void)
{
    keeper_gateway_kill(&gateway);
    keeper_gateway_close(&gateway);
    assert_true(keeper_accept(&keeper, &gateway));
}

static char *read_proc(int pid, const char *file)
{
    static char content[16 * 1024];
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t length = read(fd, content, sizeof(content) - 1);
    close(fd);
    assert_true(length > 0);
    content[length] = '\0';
    return content;
}

struct zombie_count {
    int parent;
    int zombies;
};

static void count_zombie(void *owner, const struct process_facts *facts)
{
    struct zombie_count *count = owner;
    count->zombies += facts->parent == count->parent && facts->zombie;
}

/* ---- starting ---- */

static void a_started_child_is_told_and_listed(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "exec sleep 60");
    send_named(gateway.socket, MASTER_MARK, "m/0", &(int64_t){42}, -1);
    send_named(gateway.socket, MASTER_LIST, NULL, NULL, -1);
    struct frame_reader frame = hear(gateway.socket, MASTER_CHILD);
    assert_string_equal(heard_name(&frame), "m/0");
    assert_string_equal(heard_text(&frame), "a note");
    assert_int_equal(frame_read_int(&frame), pid);
    assert_int_equal(frame_read_int(&frame), process_start_time(pid));
    assert_int_equal(frame_read_int(&frame), 42);
    assert_in_range(frame_read_int(&frame), 0, KEEPER_WAIT_MS);
    assert_false(frame.broken);
    hear(gateway.socket, MASTER_LISTED);
}

static void an_exit_is_told_with_its_status(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "exit 3");
    struct heard_exit exit = hear_exited(gateway.socket, "m/0");
    assert_int_equal(exit.pid, pid);
    assert_true(WIFEXITED(exit.wait_status));
    assert_int_equal(WEXITSTATUS(exit.wait_status), 3);
    assert_false(exit.was_asked);
    assert_string_equal(exit.reason, "");
    send_named(gateway.socket, MASTER_LIST, NULL, NULL, -1);
    hear(gateway.socket, MASTER_LISTED);
}

static void what_cannot_be_executed_is_told_with_the_reason(void **state)
{
    (void) state;
    const char *const missing[] = {"./llama_engine", NULL};
    say_start_in(gateway.socket, "m/0", keeper.directory, missing, plain_environment);
    struct heard_exit exit = hear_exited(gateway.socket, "m/0");
    assert_string_equal(exit.reason, "cannot execute ./llama_engine: No such file or directory");
    assert_false(exit.was_asked);
    assert_true(WIFEXITED(exit.wait_status));

    const char *const directory[] = {"/", NULL};
    say_start_in(gateway.socket, "m/0", "", directory, plain_environment);
    exit = hear_exited(gateway.socket, "m/0");
    assert_string_equal(exit.reason, "cannot execute /: Permission denied");

    const char *const fine[] = {"true", NULL};
    say_start_in(gateway.socket, "m/0", "/nowhere/at all", fine, plain_environment);
    exit = hear_exited(gateway.socket, "m/0");
    assert_string_equal(exit.reason, "cannot enter /nowhere/at all: No such file or directory");
}

static void a_relative_path_starts_at_the_directory(void **state)
{
    (void) state;
    char path[sizeof(keeper.directory) + 16];
    snprintf(path, sizeof(path), "%s/engine", keeper.directory);
    FILE *script = fopen(path, "w");
    assert_non_null(script);
    fputs("#!/bin/sh\necho here: $1; pwd\n", script);
    fclose(script);
    assert_int_equal(chmod(path, 0700), 0);
    const char *const arguments[] = {"./engine", "two words; $HOME", NULL};
    say_start_in(gateway.socket, "m/0", keeper.directory, arguments, plain_environment);
    hear_started(gateway.socket, "m/0");
    hear_exited(gateway.socket, "m/0");
    char expected[256];
    snprintf(expected, sizeof(expected), "here: two words; $HOME\n%s\n", keeper.directory);
    assert_string_equal(logs(gateway.socket, "m/0"), expected);
    unlink(path);
}

static void a_name_without_a_slash_is_looked_up(void **state)
{
    (void) state;
    const char *const arguments[] = {"true", NULL};
    say_start_in(gateway.socket, "m/0", "", arguments, plain_environment);
    hear_started(gateway.socket, "m/0");
    assert_int_equal(hear_exited(gateway.socket, "m/0").wait_status, 0);
}

static void the_environment_is_what_was_given(void **state)
{
    (void) state;
    setenv("TEST_SECRET", "never seen", 1); /* the master below was forked before; its own children must not have */
    const char *const arguments[] = {"/usr/bin/env", NULL};
    const char *const environment[] = {"ONE=1", "TWO=two words=2", "EMPTY=", NULL};
    say_start_in(gateway.socket, "m/0", "", arguments, environment);
    hear_started(gateway.socket, "m/0");
    hear_exited(gateway.socket, "m/0");
    assert_string_equal(logs(gateway.socket, "m/0"), "ONE=1\nTWO=two words=2\nEMPTY=\n");
    const char *const nothing[] = {NULL};
    say_start_in(gateway.socket, "m/0", "", arguments, nothing);
    hear_started(gateway.socket, "m/0");
    hear_exited(gateway.socket, "m/0");
    assert_string_equal(logs(gateway.socket, "m/0"), "");
}

/* What descriptor @fd of @pid is, into @to; "" = not open. */
static const char *descriptor(int pid, int fd, char to[128])
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
    ssize_t length = readlink(path, to, 127);
    to[length > 0 ? length : 0] = '\0';
    return to;
}

static int count_descriptors(int pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *descriptors = opendir(path);
    assert_non_null(descriptors);
    int count = 0;
    for (struct dirent *entry = readdir(descriptors); entry != NULL; entry = readdir(descriptors))
        count += entry->d_name[0] != '.';
    closedir(descriptors);
    return count;
}

static void a_child_inherits_no_descriptor(void **state)
{
    (void) state;
    int kept[2];
    assert_int_equal(pipe(kept), 0);
    send_named(gateway.socket, MASTER_KEEP_FD, "kept", NULL, kept[0]);
    int first = start(gateway.socket, "m/0", "exec sleep 60");
    int pid = start(gateway.socket, "m/1", "exec sleep 60");
    char one[128];
    char two[128];
    assert_int_equal(count_descriptors(pid), 3);
    assert_int_equal(count_descriptors(first), 3);
    assert_string_equal(descriptor(pid, STDIN_FILENO, one), "/dev/null");
    assert_memory_equal(descriptor(pid, STDOUT_FILENO, one), "pipe:", 5);
    assert_string_equal(one, descriptor(pid, STDERR_FILENO, two));
    assert_string_not_equal(one, descriptor(first, STDERR_FILENO, two));
    close(kept[0]);
    close(kept[1]);
}

static void a_child_has_no_powers_and_plain_signals(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "exec sleep 60");
    const char *status = read_proc(pid, "status");
    assert_non_null(strstr(status, "\nNoNewPrivs:\t1\n"));
    assert_non_null(strstr(status, "\nUmask:\t0077\n"));
    assert_non_null(strstr(status, "\nSigBlk:\t0000000000000000\n"));
    assert_non_null(strstr(status, "\nSigIgn:\t0000000000000000\n"));
    const char *core = strstr(read_proc(pid, "limits"), "Max core file size");
    assert_non_null(core);
    int soft = -1;
    int hard = -1;
    assert_int_equal(sscanf(core, "Max core file size %d %d", &soft, &hard), 2);
    assert_int_equal(soft, 0);
    assert_int_equal(hard, 0);
    struct process_facts facts;
    assert_true(process_facts_read(pid, &facts));
    assert_int_equal(facts.group, pid);
    assert_int_equal(facts.parent, keeper.pid);
}

static void a_name_that_runs_is_refused(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "exec sleep 60");
    say_start(gateway.socket, "m/0", "exec sleep 60");
    struct heard_exit exit = hear_exited(gateway.socket, "m/0");
    assert_int_equal(exit.pid, 0);
    assert_string_equal(exit.reason, "already running");
    assert_true(keeper_is_alive(pid));
}

static void more_children_than_the_limit_are_refused(void **state)
{
    (void) state;
    char name[16];
    for (int i = 0; i < MASTER_CHILDREN_MAX; i++) {
        snprintf(name, sizeof(name), "m/%d", i);
        start(gateway.socket, name, "exec sleep 60");
    }
    say_start(gateway.socket, "one-more", "exec sleep 60");
    assert_string_equal(hear_exited(gateway.socket, "one-more").reason, "too many children");
    /* A dead one makes room. */
    say_stop(gateway.socket, "m/0", KEEPER_WAIT_MS);
    hear_exited(gateway.socket, "m/0");
    start(gateway.socket, "one-more", "exec sleep 60");
}

/* ---- logs ---- */

static void a_child_that_writes_a_lot_is_not_held_up(void **state)
{
    (void) state;
    start(gateway.socket, "m/0", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo line $i; done; echo end >&2");
    assert_int_equal(hear_exited(gateway.socket, "m/0").wait_status, 0);
    const char *text = logs(gateway.socket, "m/0");
    assert_int_equal(strlen(text), MASTER_RING_BYTES);
    assert_string_equal(text + MASTER_RING_BYTES - 15, "line 30000\nend\n");
}

static void the_log_of_an_ended_child_stays_until_it_starts_again(void **state)
{
    (void) state;
    start(gateway.socket, "m/0", "echo last words; exit 1");
    hear_exited(gateway.socket, "m/0");
    assert_string_equal(logs(gateway.socket, "m/0"), "last words\n");
    start(gateway.socket, "m/0", "exit 0");
    hear_exited(gateway.socket, "m/0");
    assert_string_equal(logs(gateway.socket, "m/0"), "");
    assert_string_equal(logs(gateway.socket, "unknown"), "");
}

static void a_survivor_that_holds_the_pipe_holds_up_nothing(void **state)
{
    (void) state;
    start(gateway.socket, "m/0", "setsid sleep 60 & echo started; exit 4");
    assert_int_equal(WEXITSTATUS(hear_exited(gateway.socket, "m/0").wait_status), 4);
    assert_string_equal(logs(gateway.socket, "m/0"), "started\n");
}

/* ---- stopping ---- */

static void a_polite_child_stops_at_once(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "exec sleep 60");
    say_stop(gateway.socket, "m/0", LONG_DRAIN_MS);
    struct heard_exit exit = hear_exited(gateway.socket, "m/0");
    assert_int_equal(exit.pid, pid);
    assert_true(WIFSIGNALED(exit.wait_status));
    assert_int_equal(WTERMSIG(exit.wait_status), SIGTERM);
    assert_true(exit.was_asked);
    say_stop(gateway.socket, "m/0", 0); /* too late: no answer */
    assert_string_equal(logs(gateway.socket, "m/0"), "");
}

/* Ignores SIGTERM, with a grandchild in its group and one in a session of its own, which ignore it too. */
static const char stubborn_family[] =
    "trap '' TERM; sleep 60 & echo $!; setsid sleep 60 & echo $!; echo $$; wait; wait";

static void a_stubborn_family_is_killed_after_the_grace(void **state)
{
    (void) state;
    start(gateway.socket, "m/0", stubborn_family);
    int pids[3];
    logged_pids(gateway.socket, "m/0", pids, 3);
    mono_ms asked = clock_mono_ms();
    say_stop(gateway.socket, "m/0", 300);
    struct heard_exit exit = hear_exited(gateway.socket, "m/0");
    assert_true(clock_mono_ms() - asked >= 300);
    assert_int_equal(WTERMSIG(exit.wait_status), SIGKILL);
    for (int i = 0; i < 3; i++)
        assert_true(keeper_is_gone(pids[i], KEEPER_WAIT_MS));
}

static void a_second_stop_can_only_shorten_the_grace(void **state)
{
    (void) state;
    start(gateway.socket, "m/0", stubborn_family);
    int pids[3];
    logged_pids(gateway.socket, "m/0", pids, 3);
    say_stop(gateway.socket, "m/0", 0);
    say_stop(gateway.socket, "m/0", LONG_DRAIN_MS);
    assert_int_equal(WTERMSIG(hear_exited(gateway.socket, "m/0").wait_status), SIGKILL);
}

static void what_a_dead_child_leaves_behind_is_killed(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", stubborn_family);
    int pids[3];
    logged_pids(gateway.socket, "m/0", pids, 3);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_false(hear_exited(gateway.socket, "m/0").was_asked);
    for (int i = 0; i < 3; i++)
        assert_true(keeper_is_gone(pids[i], KEEPER_WAIT_MS));
}

/* It left its parent, not its group: it belongs to an engine that lives. */
static void a_worker_that_forked_twice_outlives_other_engines(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "(sleep 60 & echo $!); exec sleep 60");
    int worker;
    logged_pids(gateway.socket, "m/0", &worker, 1);
    struct process_facts facts;
    assert_true(process_facts_read(worker, &facts));
    assert_int_equal(facts.parent, keeper.pid);
    start(gateway.socket, "m/1", "exit 0");
    hear_exited(gateway.socket, "m/1");
    start(gateway.socket, "m/2", "exit 0"); /* the master has looked for orphans by then */
    hear_exited(gateway.socket, "m/2");
    assert_true(keeper_is_alive(worker));
    kill(pid, SIGKILL);
    hear_exited(gateway.socket, "m/0");
    assert_true(keeper_is_gone(worker, KEEPER_WAIT_MS));
}

static void no_zombie_stays(void **state)
{
    (void) state;
    for (int i = 0; i < 20; i++) {
        start(gateway.socket, "m/0", "(exit 1) & (setsid sleep 60 &) ; exit 0");
        hear_exited(gateway.socket, "m/0");
    }
    struct zombie_count count;
    mono_ms deadline = clock_mono_ms() + KEEPER_WAIT_MS;
    do {
        count = (struct zombie_count){.parent = keeper.pid};
        process_each(count_zombie, &count);
    } while (count.zombies != 0 && clock_mono_ms() < deadline);
    assert_int_equal(count.zombies, 0);
}

/* ---- the gateway process ---- */

static void the_gateway_has_its_socket_and_nothing_more(void **state)
{
    (void) state;
    char link[128];
    assert_memory_equal(descriptor(gateway.pid, MASTER_SOCKET_FD, link), "socket:", 7);
    assert_string_equal(descriptor(gateway.pid, STDIN_FILENO, link), "/dev/null");
    assert_int_equal(count_descriptors(gateway.pid), 6); /* and those it opened: control and signals */
    struct process_facts facts;
    assert_true(process_facts_read(gateway.pid, &facts));
    assert_int_equal(facts.group, gateway.pid);
    assert_int_equal(facts.parent, keeper.pid);
}

static void a_killed_gateway_is_replaced_and_finds_everything(void **state)
{
    (void) state;
    int kept[2];
    int forgotten[2];
    assert_int_equal(pipe(kept), 0);
    assert_int_equal(pipe(forgotten), 0);
    int pid = start(gateway.socket, "m/0", "exec sleep 60");
    uint64_t start_time = process_start_time(pid);
    send_named(gateway.socket, MASTER_MARK, "m/0", &(int64_t){1}, -1);
    send_named(gateway.socket, MASTER_KEEP_FD, "listener", NULL, forgotten[1]);
    send_named(gateway.socket, MASTER_KEEP_FD, "listener", NULL, kept[1]);
    send_named(gateway.socket, MASTER_KEEP_FD, "policy", NULL, forgotten[1]);
    send_named(gateway.socket, MASTER_KEEP_FD, "policy", NULL, -1);
    close(kept[1]);
    close(forgotten[1]);

    mono_ms killed = clock_mono_ms();
    replace_gateway();
    assert_true(clock_mono_ms() - killed < 4 * 1000); /* the rule is 1 s */

    send_named(gateway.socket, MASTER_LIST, NULL, NULL, -1);
    struct frame_reader frame = hear(gateway.socket, MASTER_CHILD);
    assert_string_equal(heard_name(&frame), "m/0");
    frame_read_text(&frame);
    assert_int_equal(frame_read_int(&frame), pid);
    assert_int_equal(frame_read_int(&frame), start_time);
    assert_int_equal(frame_read_int(&frame), 1);
    assert_true(keeper_is_alive(pid));

    frame = hear(gateway.socket, MASTER_KEPT);
    assert_string_equal(heard_name(&frame), "listener");
    assert_true(frame.fd >= 0);
    assert_int_equal(write(frame.fd, "x", 1), 1);
    char byte;
    assert_int_equal(read(kept[0], &byte, 1), 1);
    close(frame.fd);
    hear(gateway.socket, MASTER_LISTED);

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
    int pid = start(gateway.socket, "m/0", "exec sleep 60");
    keeper_gateway_kill(&gateway);
    keeper_gateway_close(&gateway);
    kill(pid, SIGKILL);
    assert_true(keeper_accept(&keeper, &gateway));
    assert_true(keeper_is_gone(pid, KEEPER_WAIT_MS));
    send_named(gateway.socket, MASTER_LIST, NULL, NULL, -1);
    struct pollfd ready = {.fd = gateway.socket, .events = POLLIN};
    assert_int_equal(poll(&ready, 1, KEEPER_WAIT_MS), 1);
    struct frame_reader frame;
    assert_int_equal(frame_receive(gateway.socket, received_memory, sizeof(received_memory), &frame), FRAME_RECEIVED);
    if (frame.type == MASTER_EXITED) /* reaped after the successor came */
        frame = hear(gateway.socket, MASTER_LISTED);
    assert_int_equal(frame.type, MASTER_LISTED);
}

static void kept_descriptors_are_bounded(void **state)
{
    (void) state;
    int null = open("/dev/null", O_RDONLY);
    char name[16];
    for (int i = 0; i < MASTER_KEPT_FDS_MAX + 3; i++) {
        snprintf(name, sizeof(name), "fd %d", i);
        send_named(gateway.socket, MASTER_KEEP_FD, name, NULL, null);
    }
    send_named(gateway.socket, MASTER_KEEP_FD, "unknown", NULL, -1);
    close(null);
    send_named(gateway.socket, MASTER_LIST, NULL, NULL, -1);
    for (int i = 0; i < MASTER_KEPT_FDS_MAX; i++)
        close(hear(gateway.socket, MASTER_KEPT).fd);
    hear(gateway.socket, MASTER_LISTED);
}

static void a_frame_that_is_none_costs_the_gateway_its_life(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "exec sleep 60");
    struct frame_writer frame;
    char long_name[MASTER_NAME_BYTES_MAX + 2];
    memset(long_name, 'n', sizeof(long_name));
    long_name[sizeof(long_name) - 1] = '\0';
    for (int i = 0; i < 3; i++) {
        frame_begin(&frame, sent_memory, sizeof(sent_memory), i == 0 ? 200 : MASTER_STOP);
        frame_add_text(&frame, text_of(i == 1 ? long_name : "m/0"));
        if (i != 2)
            frame_add_int(&frame, 0);
        assert_true(frame_send(gateway.socket, &frame, -1, KEEPER_WAIT_MS));
        assert_true(keeper_is_gone(gateway.pid, KEEPER_WAIT_MS));
        keeper_gateway_close(&gateway);
        assert_true(keeper_accept(&keeper, &gateway));
    }
    assert_true(keeper_is_alive(pid));
}

static void a_crash_loop_ends_everything(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "exec sleep 60");
    for (int deaths = 1; deaths < 5; deaths++) {
        replace_gateway();
        if (deaths % 2 == 0) /* ready or not: it is the death that counts */
            say_ready(gateway.socket);
    }
    keeper_gateway_kill(&gateway);
    int wait_status = keeper_wait(&keeper);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 1);
    assert_false(keeper_is_alive(pid));
}

static void hang_ups_are_passed_on_when_the_gateway_can_hear(void **state)
{
    (void) state;
    assert_int_equal(kill(keeper.pid, SIGHUP), 0);
    assert_int_equal(keeper_gateway_heard(&gateway, KEEPER_WAIT_MS), SIGHUP);
    replace_gateway();
    assert_int_equal(kill(keeper.pid, SIGHUP), 0);
    assert_int_equal(keeper_gateway_heard(&gateway, 200), 0);
    say_ready(gateway.socket);
    assert_int_equal(keeper_gateway_heard(&gateway, KEEPER_WAIT_MS), SIGHUP);
    assert_int_equal(keeper_gateway_heard(&gateway, 200), 0);
}

/* ---- a gateway that never was ready ---- */

static void a_first_gateway_that_fails_gives_its_status(void **state)
{
    (void) state;
    struct keeper failing;
    keeper_start(&failing, "exit-7", LONG_DRAIN_MS);
    int wait_status = keeper_wait(&failing);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 7);
    keeper_finish(&failing);

    keeper_start(&failing, "crash", LONG_DRAIN_MS);
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
    keeper_start(&failing, "obey", LONG_DRAIN_MS);
    assert_true(keeper_accept(&failing, &first));
    int pid = start(first.socket, "m/0", "exec sleep 60");
    keeper_gateway_exit(&first, 5);
    assert_int_equal(WEXITSTATUS(keeper_wait(&failing)), 5);
    assert_false(keeper_is_alive(pid));
    keeper_gateway_close(&first);
    keeper_finish(&failing);
}

/* ---- the end ---- */

static void a_stop_drains_the_gateway_then_ends_the_engines(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "exec sleep 60");
    start(gateway.socket, "m/1", stubborn_family);
    int pids[3];
    logged_pids(gateway.socket, "m/1", pids, 3);
    assert_int_equal(kill(keeper.pid, SIGTERM), 0);
    hear(gateway.socket, MASTER_SHUT_DOWN);
    assert_true(keeper_is_alive(pid)); /* streams still need it */
    say_start(gateway.socket, "m/2", "exec sleep 60");
    assert_string_equal(hear_exited(gateway.socket, "m/2").reason, "the master is shutting down");
    keeper_gateway_exit(&gateway, 0);
    int wait_status = keeper_wait(&keeper);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
    assert_false(keeper_is_alive(pid));
    for (int i = 0; i < 3; i++)
        assert_false(keeper_is_alive(pids[i]));
}

static void a_gateway_that_dies_while_draining_is_not_replaced(void **state)
{
    (void) state;
    assert_int_equal(kill(keeper.pid, SIGINT), 0);
    hear(gateway.socket, MASTER_SHUT_DOWN);
    keeper_gateway_kill(&gateway);
    assert_int_equal(keeper_wait(&keeper), 0);
}

static void a_gateway_that_does_not_drain_is_killed(void **state)
{
    (void) state;
    send_named(gateway.socket, MASTER_DRAIN, NULL, &(int64_t){0}, -1);
    logs(gateway.socket, "any"); /* the master has read the frame before */
    assert_int_equal(kill(keeper.pid, SIGTERM), 0);
    hear(gateway.socket, MASTER_SHUT_DOWN);
    assert_int_equal(keeper_wait(&keeper), 0); /* 5 s later; the fixture's own drain is 10 minutes */
    assert_true(keeper_is_gone(gateway.pid, 0));
}

static void a_second_signal_ends_everything_at_once(void **state)
{
    (void) state;
    start(gateway.socket, "m/0", stubborn_family);
    int pids[3];
    logged_pids(gateway.socket, "m/0", pids, 3);
    assert_int_equal(kill(keeper.pid, SIGINT), 0);
    hear(gateway.socket, MASTER_SHUT_DOWN);
    assert_int_equal(kill(keeper.pid, SIGINT), 0);
    int wait_status = keeper_wait(&keeper);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
    assert_false(keeper_is_alive(gateway.pid));
    for (int i = 0; i < 3; i++)
        assert_false(keeper_is_alive(pids[i]));
}

static void a_stop_between_two_gateways_is_heard(void **state)
{
    (void) state;
    /* From the second quick death on there is a pause in which no gateway runs. */
    replace_gateway();
    replace_gateway();
    keeper_gateway_kill(&gateway);
    assert_true(keeper_is_gone(gateway.pid, KEEPER_WAIT_MS));
    assert_int_equal(kill(keeper.pid, SIGTERM), 0);
    keeper_gateway_close(&gateway);
    int wait_status = keeper_wait(&keeper);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
}

static void engines_die_with_a_killed_master(void **state)
{
    (void) state;
    int pid = start(gateway.socket, "m/0", "trap '' TERM; while :; do sleep 1; done");
    kill(keeper.pid, SIGKILL);
    keeper_wait(&keeper);
    assert_true(keeper_is_gone(pid, KEEPER_WAIT_MS));
    assert_true(keeper_is_alive(gateway.pid)); /* it has records to write */
}

#define WITH_MASTER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
    keeper_become_gateway(argc, argv);
    const struct CMUnitTest tests[] = {
        WITH_MASTER(a_started_child_is_told_and_listed),
        WITH_MASTER(an_exit_is_told_with_its_status),
        WITH_MASTER(what_cannot_be_executed_is_told_with_the_reason),
        WITH_MASTER(a_relative_path_starts_at_the_directory),
        WITH_MASTER(a_name_without_a_slash_is_looked_up),
        WITH_MASTER(the_environment_is_what_was_given),
        WITH_MASTER(a_child_inherits_no_descriptor),
        WITH_MASTER(a_child_has_no_powers_and_plain_signals),
        WITH_MASTER(a_name_that_runs_is_refused),
        WITH_MASTER(more_children_than_the_limit_are_refused),
        WITH_MASTER(a_child_that_writes_a_lot_is_not_held_up),
        WITH_MASTER(the_log_of_an_ended_child_stays_until_it_starts_again),
        WITH_MASTER(a_survivor_that_holds_the_pipe_holds_up_nothing),
        WITH_MASTER(a_polite_child_stops_at_once),
        WITH_MASTER(a_stubborn_family_is_killed_after_the_grace),
        WITH_MASTER(a_second_stop_can_only_shorten_the_grace),
        WITH_MASTER(what_a_dead_child_leaves_behind_is_killed),
        WITH_MASTER(a_worker_that_forked_twice_outlives_other_engines),
        WITH_MASTER(no_zombie_stays),
        WITH_MASTER(the_gateway_has_its_socket_and_nothing_more),
        WITH_MASTER(a_killed_gateway_is_replaced_and_finds_everything),
        WITH_MASTER(a_child_that_ended_meanwhile_is_not_listed),
        WITH_MASTER(kept_descriptors_are_bounded),
        WITH_MASTER(a_frame_that_is_none_costs_the_gateway_its_life),
        WITH_MASTER(a_crash_loop_ends_everything),
        WITH_MASTER(hang_ups_are_passed_on_when_the_gateway_can_hear),
        cmocka_unit_test(a_first_gateway_that_fails_gives_its_status),
        cmocka_unit_test(its_children_are_stopped_first),
        WITH_MASTER(a_stop_drains_the_gateway_then_ends_the_engines),
        WITH_MASTER(a_gateway_that_dies_while_draining_is_not_replaced),
        WITH_MASTER(a_gateway_that_does_not_drain_is_killed),
        WITH_MASTER(a_second_signal_ends_everything_at_once),
        WITH_MASTER(a_stop_between_two_gateways_is_heard),
        WITH_MASTER(engines_die_with_a_killed_master),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
