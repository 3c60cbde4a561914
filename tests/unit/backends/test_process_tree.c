#include "backends/process_tree.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/keeper.h"
#include "tests/lib/unit.h"

/* ---- helpers: small families of processes ---- */

static void pass_on(int fd, int value)
{
    if (write(fd, &value, sizeof(value)) != (ssize_t) sizeof(value))
        _exit(1);
}

static int taken_from(int fd)
{
    int value = 0;
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&ready, 1, KEEPER_WAIT_MS), 1);
    assert_int_equal(read(fd, &value, sizeof(value)), sizeof(value));
    return value;
}

static _Noreturn void sleep_until_killed(void)
{
    alarm(60);
    for (;;)
        pause();
}

/* A child in its own group that runs @life(@fd) and stays; what it passes on is read from *@ret_fd. */
static int family_start(void (*life)(int fd), int *ret_fd)
{
    int pipe_ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    fflush(NULL);
    int pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, (unsigned long) SIGKILL);
        life(pipe_ends[1]);
        sleep_until_killed();
    }
    setpgid(pid, pid);
    close(pipe_ends[1]);
    *ret_fd = pipe_ends[0];
    return pid;
}

static void family_end(int pid, int fd)
{
    process_tree_kill(pid);
    waitpid(pid, NULL, 0);
    close(fd);
}

/* ---- stat ---- */

static const char tail[] = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 777 18 19\n";

static void names_with_parentheses_are_no_fields(void **state)
{
    (void) state;
    static const char *const names[] = {"sh", ") R 1 1 (", "a) Z 9 9 9", "", "))))", " ", "\n) S 1"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char stat[256];
        snprintf(stat, sizeof(stat), "4711 (%s) S 12 34%s", names[i], tail);
        struct process_facts facts;
        assert_true(process_facts_parse(stat, &facts));
        assert_int_equal(facts.pid, 4711);
        assert_int_equal(facts.parent, 12);
        assert_int_equal(facts.group, 34);
        assert_int_equal(facts.start_time, 777);
        assert_false(facts.zombie);
    }
}

static void what_is_no_stat_is_refused(void **state)
{
    (void) state;
    static const char *const stats[] = {"", "4711", "4711 (sh", "4711 (sh)", "4711 (sh) S 1", "x (sh) S 1 2 3", ")("};
    for (size_t i = 0; i < sizeof(stats) / sizeof(stats[0]); i++) {
        struct process_facts facts = {.pid = -5};
        assert_false(process_facts_parse(stats[i], &facts));
        assert_int_equal(facts.pid, -5);
    }
}

static void take_evil_name(int fd)
{
    prctl(PR_SET_NAME, ") R 1 1 (");
    pass_on(fd, 1);
}

static void a_process_with_an_evil_name_is_read(void **state)
{
    (void) state;
    int fd;
    int pid = family_start(take_evil_name, &fd);
    taken_from(fd);
    struct process_facts facts;
    assert_true(process_facts_read(pid, &facts));
    assert_int_equal(facts.pid, pid);
    assert_int_equal(facts.parent, getpid());
    assert_int_equal(facts.group, pid);
    assert_true(facts.start_time >= process_start_time(getpid()));
    assert_int_equal(facts.start_time, process_start_time(pid));
    family_end(pid, fd);
    assert_int_equal(process_start_time(pid), 0);
    assert_int_equal(process_start_time(0), 0);
    assert_int_equal(process_start_time(-1), 0);
}

/* ---- belonging ---- */

/* Passes on a grandchild, and one that left group and session. */
static void raise_grandchildren(int fd)
{
    for (int leaves = 0; leaves < 2; leaves++) {
        int pid = fork();
        if (pid == 0) {
            if (leaves)
                setsid();
            signal(SIGTERM, SIG_IGN);
            pass_on(fd, getpid());
            sleep_until_killed();
        }
    }
}

static void descendants_and_group_members_belong(void **state)
{
    (void) state;
    int fd;
    int pid = family_start(raise_grandchildren, &fd);
    int first = taken_from(fd);
    int second = taken_from(fd);
    assert_true(process_belongs_to(pid, pid));
    assert_true(process_belongs_to(first, pid));
    assert_true(process_belongs_to(second, pid));
    assert_true(process_belongs_to(first, getpid()));
    assert_false(process_belongs_to(getpid(), pid));
    assert_false(process_belongs_to(getppid(), pid));
    assert_false(process_belongs_to(1, pid));
    assert_false(process_belongs_to(first, second));
    assert_false(process_belongs_to(pid, 0));
    assert_false(process_belongs_to(0, pid));

    /* The leader dies: who stayed in the group still belongs, who left does not. */
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    struct process_facts facts;
    assert_true(process_facts_read(first, &facts));
    bool first_stayed = facts.group == pid;
    assert_true(process_belongs_to(first_stayed ? first : second, pid));
    assert_false(process_belongs_to(first_stayed ? second : first, pid));
    kill(first, SIGKILL);
    kill(second, SIGKILL);
    close(fd);
}

static void killing_a_tree_reaches_those_who_left_the_group(void **state)
{
    (void) state;
    int fd;
    int pid = family_start(raise_grandchildren, &fd);
    int first = taken_from(fd);
    int second = taken_from(fd);
    process_tree_kill(pid);
    assert_true(keeper_is_gone(pid, KEEPER_WAIT_MS));
    assert_true(keeper_is_gone(first, KEEPER_WAIT_MS));
    assert_true(keeper_is_gone(second, KEEPER_WAIT_MS));
    waitpid(pid, NULL, 0);
    close(fd);
}

/* ---- TCP ---- */

static int listen_on(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const void *address = family == AF_INET ? (const void *) &v4 : (const void *) &v6;
    socklen_t length = family == AF_INET ? sizeof(v4) : sizeof(v6);
    if (fd < 0 || bind(fd, address, length) != 0 || listen(fd, 1) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int port_of(int fd)
{
    struct sockaddr_in6 address; /* the port is at the same place in both families */
    socklen_t length = sizeof(address);
    return getsockname(fd, (struct sockaddr *) &address, &length) == 0 ? ntohs(address.sin6_port) : 0;
}

static void listen_v4(int fd)
{
    pass_on(fd, port_of(listen_on(AF_INET)));
}

static void listen_v6(int fd)
{
    int listener = listen_on(AF_INET6);
    pass_on(fd, listener < 0 ? 0 : port_of(listener));
}

static void let_a_grandchild_listen(int fd)
{
    if (fork() == 0) {
        setsid();
        listen_v4(fd);
        sleep_until_killed();
    }
}

static void a_listener_in_the_tree_is_found(void **state)
{
    (void) state;
    void (*const lives[])(int) = {listen_v4, listen_v6, let_a_grandchild_listen};
    for (size_t i = 0; i < sizeof(lives) / sizeof(lives[0]); i++) {
        int fd;
        int pid = family_start(lives[i], &fd);
        int port = taken_from(fd);
        if (port != 0) { /* a machine without IPv6 */
            assert_true(process_tree_listens(pid, port));
            assert_true(process_tree_listens(getpid(), port));
            assert_false(process_tree_listens(pid, port == 65535 ? 1 : port + 1));
        }
        family_end(pid, fd);
        assert_false(process_tree_listens(pid, port));
    }
}

/* Passes on the port of a listener that only its parent has, and of a connection of its own to it. */
static int stranger_listener = -1;
static void connect_to_the_stranger(int fd)
{
    int port = port_of(stranger_listener);
    close(stranger_listener);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t) port)};
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (const struct sockaddr *) &address, sizeof(address)) != 0)
        _exit(1);
    pass_on(fd, port_of(connection));
}

static void an_impostor_is_not_the_tree(void **state)
{
    (void) state;
    stranger_listener = listen_on(AF_INET);
    assert_true(stranger_listener >= 0);
    int fd;
    int pid = family_start(connect_to_the_stranger, &fd);
    int own_port = taken_from(fd);
    assert_false(process_tree_listens(pid, port_of(stranger_listener)));
    assert_false(process_tree_listens(pid, own_port)); /* connected is not listening */
    family_end(pid, fd);
    close(stranger_listener);
}

/* ---- unix sockets ---- */

static char socket_path[64];

static void listen_at_path(int fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, socket_path, sizeof(address.sun_path) - 1);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (const struct sockaddr *) &address, sizeof(address)) != 0 || listen(listener, 0) != 0)
        _exit(1);
    pass_on(fd, listener);
}

static void the_process_behind_a_socket_is_known(void **state)
{
    (void) state;
    snprintf(socket_path, sizeof(socket_path), "/tmp/tollgate-test-%d.sock", getpid());
    unlink(socket_path);
    assert_int_equal(process_behind_socket(socket_path), 0);
    int fd;
    int pid = family_start(listen_at_path, &fd);
    taken_from(fd);
    assert_int_equal(process_behind_socket(socket_path), pid);

    /* Nobody accepts: when the backlog is full the answer is "unknown", at once. */
    alarm(KEEPER_WAIT_MS / 1000);
    int answer = pid;
    for (int i = 0; i < 8 && answer != 0; i++)
        answer = process_behind_socket(socket_path);
    alarm(0);
    assert_int_equal(answer, 0);

    family_end(pid, fd);
    assert_int_equal(process_behind_socket(socket_path), 0); /* a file nobody listens on */
    unlink(socket_path);
    char long_path[200];
    memset(long_path, 'x', sizeof(long_path));
    long_path[sizeof(long_path) - 1] = '\0';
    assert_int_equal(process_behind_socket(long_path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_with_parentheses_are_no_fields),
        cmocka_unit_test(what_is_no_stat_is_refused),
        cmocka_unit_test(a_process_with_an_evil_name_is_read),
        cmocka_unit_test(descendants_and_group_members_belong),
        cmocka_unit_test(killing_a_tree_reaches_those_who_left_the_group),
        cmocka_unit_test(a_listener_in_the_tree_is_found),
        cmocka_unit_test(an_impostor_is_not_the_tree),
        cmocka_unit_test(the_process_behind_a_socket_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
