/* From fork to exec: what a new process may keep of the master, which is next to nothing. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/master_private.h"

enum {
    EXEC_STATUS_FD = 3,              /* in the child, until exec closes it */
    EXEC_FAILED = 127,               /* as shells say it */
    SOCKET_BUFFER_BYTES = 512 * 1024 /* room for three log tails; the kernel may give less */
};

/* ---- in the new process ---- */

static void reset_signals(void)
{
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL); /* fails for the few that cannot be changed */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static bool open_null_as_input(void)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return null >= 0 && dup2(null, STDIN_FILENO) == STDIN_FILENO;
}

/* @fd becomes @number and everything above it is closed. */
static bool keep_up_to(int fd, int number, bool close_on_exec)
{
    if (fd != number && dup2(fd, number) != number)
        return false;
    return fcntl(number, F_SETFD, close_on_exec ? FD_CLOEXEC : 0) == 0 &&
           close_range((unsigned) number + 1, ~0U, 0) == 0;
}

/* Say why through exec_status: one write below PIPE_BUF, so whole or not at all. */
static _Noreturn void give_up(int exec_status, const char *what, const char *object)
{
    char reason[MASTER_REASON_BYTES_MAX];
    int error = errno;
    snprintf(reason, sizeof(reason), "cannot %s%s%.256s: %s", what, *object != '\0' ? " " : "", object,
             strerror(error));
    ssize_t written = write(exec_status, reason, strlen(reason));
    _exit(written > 0 ? EXEC_FAILED : EXEC_FAILED - 1);
}

static bool limit_powers(void)
{
    const struct rlimit no_core = {0, 0};
    umask(077);
    return setrlimit(RLIMIT_CORE, &no_core) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL) == 0;
}

static _Noreturn void become_engine(const struct spawn_order *order, int master_pid, int output, int exec_status)
{
    setpgid(0, 0); /* the parent does it too: neither may act before it is done */
    if (prctl(PR_SET_PDEATHSIG, (unsigned long) SIGKILL) != 0)
        give_up(exec_status, "tie it to the master", "");
    if (getppid() != master_pid)
        _exit(EXEC_FAILED); /* the master died before the tie was made */
    if (!limit_powers())
        give_up(exec_status, "limit its powers", "");

    if (!open_null_as_input() || dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0 ||
        !keep_up_to(exec_status, EXEC_STATUS_FD, true))
        give_up(exec_status, "prepare its descriptors", "");
    if (*order->working_directory != '\0' && chdir(order->working_directory) != 0)
        give_up(EXEC_STATUS_FD, "enter", order->working_directory);

    reset_signals();
    execvpe(order->arguments[0], order->arguments, order->environment);
    give_up(EXEC_STATUS_FD, "execute", order->arguments[0]);
}

static _Noreturn void become_gateway(const struct master_options *options, int socket)
{
    setpgid(0, 0);
    if (open_null_as_input() && keep_up_to(socket, MASTER_SOCKET_FD, false)) {
        reset_signals();
        execv(options->executable, (char *const *) (uintptr_t) options->arguments);
    }
    dprintf(STDERR_FILENO, "cannot execute %s: %s\n", options->executable, strerror(errno));
    _exit(EXIT_FAILURE);
}

/* ---- in the master ---- */

static void close_both(const int pair[2])
{
    int error = errno;
    close(pair[0]);
    close(pair[1]);
    errno = error;
}

bool spawn_engine(const struct spawn_order *order, struct spawned *ret)
{
    int output[2];
    int exec_status[2];
    if (pipe2(output, O_CLOEXEC) != 0)
        return false;
    if (pipe2(exec_status, O_CLOEXEC) != 0)
        goto err_after_output;

    int master_pid = getpid();
    int pid = fork();
    if (pid < 0)
        goto err_after_exec_status;
    if (pid == 0)
        become_engine(order, master_pid, output[1], exec_status[1]);

    setpgid(pid, pid); /* fails once it has been executed, having done it itself */
    close(output[1]);
    close(exec_status[1]);
    /* Only our ends: the engine's standard output must block as any other does. */
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    fcntl(exec_status[0], F_SETFL, O_NONBLOCK);
    *ret = (struct spawned){.pid = pid, .output = output[0], .exec_status = exec_status[0]};
    return true;

err_after_exec_status:
    close_both(exec_status);
err_after_output:
    close_both(output);
    return false;
}

int spawn_gateway(const struct master_options *options, int *ret_socket)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    const int bytes = SOCKET_BUFFER_BYTES;
    for (int i = 0; i < 2; i++)
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));

    int pid = fork();
    if (pid < 0) {
        close_both(pair);
        return -1;
    }
    if (pid == 0)
        become_gateway(options, pair[1]);

    setpgid(pid, pid);
    close(pair[1]);
    *ret_socket = pair[0];
    return pid;
}
