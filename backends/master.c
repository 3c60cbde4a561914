/* The keeper's own life: signals in, dead processes out, and the three steps of ending. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/master_private.h"
#include "base/panic.h"

enum {
    DRAIN_EXTRA_MS = 5 * 1000, /* for the gateway to write its last records after the drain */
    CLEARING_MS_MAX = 2 * 1000 /* processes that SIGKILL cannot end (in the kernel) are left behind then */
};

/* ---- saying things ---- */

void master_say(enum log_level level, const char *format, ...)
{
    /* The log writes from this thread, and a master that waits for a reader of its log keeps nothing alive. */
    struct pollfd standard_error = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&standard_error, 1, 0) != 1 || (standard_error.revents & POLLOUT) == 0)
        return;
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    log_event(level, "master", "%s", message);
}

const char *wait_status_text(int wait_status, char *to, size_t capacity)
{
    if (WIFSIGNALED(wait_status))
        snprintf(to, capacity, "was killed by signal %d (%s)", WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status)));
    else
        snprintf(to, capacity, "exited with status %d", WEXITSTATUS(wait_status));
    return to;
}

/* ---- ending ---- */

static void set_stage(struct master *master, enum master_stage stage)
{
    ENSURE(stage > master->stage);
    master->stage = stage;
    loop_timer_cancel(master->loop, &master->stage_timer);
}

/* Nothing of ours is left, or it cannot be ended. */
static void leave(struct master *master)
{
    loop_timer_cancel(master->loop, &master->stage_timer);
    loop_stop(master->loop);
}

/* Go on with ending when what the stage waits for has come. Called after every change. */
static void stage_advance(struct master *master)
{
    if (master->stage == STAGE_STOPPING && children_running(master) == 0) {
        set_stage(master, STAGE_CLEARING);
        loop_timer_set(master->loop, &master->stage_timer, clock_mono_ms() + CLEARING_MS_MAX);
    }
    if (master->stage == STAGE_CLEARING && orphans_kill(master) == 0)
        leave(master);
}

static void stage_is_over(struct loop_timer *timer)
{
    struct master *master = timer->owner;
    if (master->stage == STAGE_DRAINING) {
        master_say(LOG_WARNING, "the gateway process did not finish within its drain limit; killing it");
        gateway_kill(master);
        return;
    }
    master_say(LOG_ERROR, "some processes cannot be ended; leaving them");
    leave(master);
}

void master_end(struct master *master, int exit_status)
{
    master->exit_status = exit_status;
    if (master->stage >= STAGE_STOPPING)
        return;
    set_stage(master, STAGE_STOPPING);
    loop_timer_cancel(master->loop, &master->gateway.restart);
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        if (master->children[i] != NULL && master->children[i]->pid != 0)
            child_stop(master->children[i], MASTER_STOP_GRACE_MS);
    }
    /* The graces end before this does. */
    loop_timer_set(master->loop, &master->stage_timer, clock_mono_ms() + MASTER_STOP_GRACE_MS + CLEARING_MS_MAX);
    stage_advance(master);
}

/* The first SIGTERM or SIGINT. */
static void begin_to_end(struct master *master)
{
    if (master->gateway.pid == 0) {
        master_end(master, EXIT_SUCCESS);
        return;
    }
    set_stage(master, STAGE_DRAINING);
    loop_timer_set(master->loop, &master->stage_timer, clock_mono_ms() + master->drain_ms + DRAIN_EXTRA_MS);
    gateway_shut_down(master);
}

/* Any further one. */
static void end_at_once(struct master *master)
{
    gateway_kill(master);
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        if (master->children[i] != NULL && master->children[i]->pid != 0)
            child_kill(master->children[i]);
    }
}

/* ---- signals ---- */

/* One dead process. It is still a zombie, so its pid and group cannot mean anybody else. False when it stays one. */
static bool reap_one(struct master *master, int pid)
{
    struct child *child = child_of_pid(master, pid);
    bool is_gateway = pid == master->gateway.pid;
    if (child != NULL || is_gateway)
        kill(-pid, SIGKILL); /* what is left of its group */
    int wait_status = 0;
    if (waitpid(pid, &wait_status, 0) != pid)
        return false;
    if (child != NULL)
        child_exited(child, wait_status);
    if (is_gateway)
        gateway_died(master, wait_status);
    return true;
}

static void reap(struct master *master)
{
    siginfo_t dead;
    do {
        dead = (siginfo_t){0};
    } while (waitid(P_ALL, 0, &dead, WEXITED | WNOHANG | WNOWAIT) == 0 && dead.si_pid != 0 &&
             reap_one(master, dead.si_pid));
    if (clock_mono_ms() < master->orphans_until)
        orphans_kill(master);
    stage_advance(master);
}

static void act_on_signal(struct master *master, uint32_t number)
{
    if (number == SIGCHLD)
        reap(master);
    else if (number == SIGHUP)
        gateway_reload(master);
    else if (master->stage == STAGE_SERVING)
        begin_to_end(master);
    else
        end_at_once(master);
}

static void signals_ready(struct loop_watch *watch, uint32_t events)
{
    (void) events;
    struct signalfd_siginfo signal;
    while (read(watch->fd, &signal, sizeof(signal)) == (ssize_t) sizeof(signal))
        act_on_signal(watch->owner, signal.ssi_signo);
}

static const int handled_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD};

/* Handled ones are read from a descriptor. A shell may have left some ignored: SIGCHLD would then never come. */
static bool signals_open(struct master *master)
{
    sigset_t handled;
    sigemptyset(&handled);
    for (size_t i = 0; i < sizeof(handled_signals) / sizeof(handled_signals[0]); i++) {
        sigaddset(&handled, handled_signals[i]);
        signal(handled_signals[i], SIG_DFL);
    }
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &handled, NULL);
    int fd = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
    master->signals = (struct loop_watch){.fd = fd, .ready = signals_ready, .owner = master};
    return fd >= 0 && loop_watch(master->loop, &master->signals, EPOLLIN);
}

/* ---- life ---- */

static void master_destroy(struct master *master)
{
    gateway_forget(master);
    children_forget(master);
    kept_fds_close(master);
    loop_unwatch(master->loop, &master->signals);
    if (master->signals.fd >= 0)
        close(master->signals.fd);
    loop_destroy(master->loop);
    free(master);
}

/* NULL with errno. */
static struct master *master_create(const struct master_options *options)
{
    struct master *master = calloc(1, sizeof(*master));
    if (master == NULL)
        return NULL;
    master->loop = loop_create();
    if (master->loop == NULL) {
        free(master);
        return NULL;
    }
    master->options = options;
    master->drain_ms = options->drain_ms;
    master->stage_timer = (struct loop_timer){.fire = stage_is_over, .owner = master};
    master->gateway.socket.fd = -1;
    for (size_t i = 0; i < MASTER_KEPT_FDS_MAX; i++)
        master->kept[i].fd = -1;
    return master;
}

/* Descriptors 0 to 2 exist, so that no pipe of ours is taken for one of them. */
static void fill_standard_descriptors(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO)
        fd = fcntl(fd, F_DUPFD, 0);
    if (fd >= 0)
        close(fd);
}

int master_run(const struct master_options *options)
{
    fill_standard_descriptors();
    struct master *master = master_create(options);
    if (master == NULL) {
        master_say(LOG_ERROR, "cannot start: %s", strerror(errno));
        return EXIT_FAILURE;
    }
    /* Engines' children whose parent died become ours, so that we can end them. */
    prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL);
    int exit_status = EXIT_FAILURE;
    if (signals_open(master) && gateway_start_first(master)) {
        loop_run(master->loop);
        exit_status = master->exit_status;
    } else {
        master_say(LOG_ERROR, "cannot start: %s", strerror(errno));
    }
    master_destroy(master);
    return exit_status;
}
