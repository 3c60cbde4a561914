#include "tests/lib/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/master.h"
#include "backends/process_tree.h"
#include "base/clock.h"
#include "base/frame.h"
#include "tests/lib/unit.h"

enum { POLL_MS = 5, REPORT_BYTES = 256, INHERITED_FD = 50 };
enum report { REPORT_HERE = 1, REPORT_SIGNAL, ORDER_EXIT };

static const char role[] = "act-as-gateway";

/* Frames of one integer, and perhaps a descriptor. */
static bool report(int socket, enum report type, int64_t value, int fd)
{
    char memory[REPORT_BYTES];
    struct frame_writer frame;
    frame_begin(&frame, memory, sizeof(memory), (uint8_t) type);
    frame_add_int(&frame, value);
    return frame_send(socket, &frame, fd, KEEPER_WAIT_MS);
}

static bool hear(int socket, int wait_ms, struct frame_reader *ret)
{
    static char memory[REPORT_BYTES];
    struct pollfd ready = {.fd = socket, .events = POLLIN};
    return poll(&ready, 1, wait_ms) == 1 && frame_receive(socket, memory, sizeof(memory), ret) == FRAME_RECEIVED;
}

/* ---- the gateway process ---- */

static int open_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    return signalfd(-1, &signals, SFD_CLOEXEC);
}

static _Noreturn void obey(int control)
{
    struct pollfd ready[] = {{.fd = control, .events = POLLIN}, {.fd = open_signals(), .events = POLLIN}};
    report(control, REPORT_HERE, getpid(), MASTER_SOCKET_FD);
    for (;;) {
        poll(ready, 2, -1);
        struct signalfd_siginfo signal;
        if (ready[1].revents != 0 && read(ready[1].fd, &signal, sizeof(signal)) == (ssize_t) sizeof(signal))
            report(control, REPORT_SIGNAL, signal.ssi_signo, -1);
        if (ready[0].revents == 0)
            continue;
        struct frame_reader order;
        bool told = hear(control, 0, &order); /* else the test is gone */
        _exit(told ? (int) frame_read_int(&order) : 0);
    }
}

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    return address;
}

void keeper_become_gateway(int argc, char **argv)
{
    if (argc != 4 || strcmp(argv[1], role) != 0)
        return;
    const char *behaviour = argv[2];
    if (strncmp(behaviour, "exit-", 5) == 0)
        _exit(atoi(behaviour + 5));
    if (strcmp(behaviour, "crash") == 0)
        kill(getpid(), SIGKILL);
    struct sockaddr_un address = address_of(argv[3]);
    int control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connect(control, (const struct sockaddr *) &address, sizeof(address)) != 0)
        _exit(EXIT_FAILURE);
    obey(control);
}

/* ---- the master ---- */

static _Noreturn void be_master(const struct keeper *keeper, const char *executable, const char *behaviour,
                                int64_t drain_ms)
{
    prctl(PR_SET_PDEATHSIG, (unsigned long) SIGKILL); /* a failing test leaves nothing */
    close(keeper->listener);
    /* As some shells leave them: ignored signals, a secret, descriptors that survive exec. */
    signal(SIGCHLD, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    setenv("TEST_SECRET", "not for children", 1);
    int zero = open("/dev/zero", O_RDONLY);
    if (dup2(zero, STDIN_FILENO) < 0 || dup2(zero, INHERITED_FD) < 0 || close(zero) != 0)
        _exit(EXIT_FAILURE);
    const char *const arguments[] = {executable, role, behaviour, keeper->path, NULL};
    const struct master_options options = {.executable = executable, .arguments = arguments, .drain_ms = drain_ms};
    exit(master_run(&options)); /* not _exit: leaks are looked for on the way out */
}

static void start(struct keeper *keeper, const char *executable, const char *behaviour, int64_t drain_ms)
{
    snprintf(keeper->directory, sizeof(keeper->directory), "/tmp/tollgate-test-XXXXXX");
    assert_non_null(mkdtemp(keeper->directory));
    snprintf(keeper->path, sizeof(keeper->path), "%s/reports", keeper->directory);
    struct sockaddr_un address = address_of(keeper->path);
    keeper->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(keeper->listener, (const struct sockaddr *) &address, sizeof(address)), 0);
    assert_int_equal(listen(keeper->listener, 8), 0);
    fflush(NULL);
    keeper->pid = fork();
    assert_true(keeper->pid >= 0);
    if (keeper->pid == 0)
        be_master(keeper, executable, behaviour, drain_ms);
}

void keeper_start(struct keeper *keeper, const char *behaviour, int64_t drain_ms)
{
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    assert_true(length > 0);
    self[length] = '\0';
    start(keeper, self, behaviour, drain_ms);
}

void keeper_start_executable(struct keeper *keeper, const char *executable)
{
    start(keeper, executable, "obey", 0);
}

bool keeper_accept(struct keeper *keeper, struct keeper_gateway *ret)
{
    struct pollfd ready = {.fd = keeper->listener, .events = POLLIN};
    if (poll(&ready, 1, KEEPER_WAIT_MS) != 1)
        return false;
    int control = accept4(keeper->listener, NULL, NULL, SOCK_CLOEXEC);
    struct frame_reader here;
    if (control < 0 || !hear(control, KEEPER_WAIT_MS, &here))
        return false;
    *ret = (struct keeper_gateway){.pid = (int) frame_read_int(&here), .control = control, .socket = here.fd};
    return here.fd >= 0;
}

int keeper_wait(struct keeper *keeper)
{
    mono_ms deadline = clock_mono_ms() + 2 * KEEPER_WAIT_MS;
    int wait_status = 0;
    while (waitpid(keeper->pid, &wait_status, WNOHANG) == 0) {
        assert_true(clock_mono_ms() < deadline);
        poll(NULL, 0, POLL_MS);
    }
    keeper->pid = 0;
    return wait_status;
}

void keeper_finish(struct keeper *keeper)
{
    if (keeper->pid != 0) {
        kill(keeper->pid, SIGKILL);
        keeper_wait(keeper);
    }
    close(keeper->listener);
    unlink(keeper->path);
    rmdir(keeper->directory);
}

/* ---- one gateway process ---- */

void keeper_gateway_exit(struct keeper_gateway *gateway, int status)
{
    assert_true(report(gateway->control, ORDER_EXIT, status, -1));
}

int keeper_gateway_heard(struct keeper_gateway *gateway, int wait_ms)
{
    struct frame_reader frame;
    if (!hear(gateway->control, wait_ms, &frame) || frame.type != REPORT_SIGNAL)
        return 0;
    return (int) frame_read_int(&frame);
}

void keeper_gateway_kill(struct keeper_gateway *gateway)
{
    assert_int_equal(kill(gateway->pid, SIGKILL), 0);
}

void keeper_gateway_close(struct keeper_gateway *gateway)
{
    close(gateway->control);
    if (gateway->socket >= 0)
        close(gateway->socket);
    gateway->control = -1;
    gateway->socket = -1;
}

/* ---- other processes ---- */

bool keeper_is_alive(int pid)
{
    struct process_facts facts;
    return process_facts_read(pid, &facts) && !facts.zombie;
}

bool keeper_is_gone(int pid, int wait_ms)
{
    for (mono_ms deadline = clock_mono_ms() + wait_ms; keeper_is_alive(pid); poll(NULL, 0, POLL_MS)) {
        if (clock_mono_ms() > deadline)
            return false;
    }
    return true;
}
