/* The gateway process: started, started again when it dies, asked to go when the master goes. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/master_private.h"
#include "backends/process_tree.h"
#include "base/panic.h"

enum {
    QUICK_DEATH_MS = 10 * 1000,
    QUICK_DEATHS_MAX = 5,
    /* The first restart comes at once, later ones of a row after this for each death. */
    RESTART_DELAY_MS = 100
};

static void socket_close(struct master *master)
{
    struct loop_watch *socket = &master->gateway.socket;
    if (socket->fd < 0)
        return;
    loop_unwatch(master->loop, socket);
    close(socket->fd);
    socket->fd = -1;
}

static void socket_ready(struct loop_watch *watch, uint32_t events)
{
    (void) events;
    struct master *master = watch->owner;
    if (!protocol_receive(master))
        socket_close(master);
}

static bool gateway_start(struct master *master)
{
    struct gateway *gateway = &master->gateway;
    ENSURE(gateway->pid == 0 && gateway->socket.fd < 0);
    gateway->started = clock_mono_ms();
    gateway->ready = false;
    int pid = spawn_gateway(master->options, &gateway->socket.fd);
    if (pid < 0)
        return false;
    gateway->pid = pid;
    if (loop_watch(master->loop, &gateway->socket, EPOLLIN))
        return true;
    /* Without its socket it is of no use: its death is handled as any other. */
    gateway_kill(master);
    return true;
}

/* The next start, after a death that was the @quick_deaths-th quick one in a row. */
static void gateway_start_later(struct master *master)
{
    struct gateway *gateway = &master->gateway;
    mono_ms delay = gateway->quick_deaths >= 2 ? RESTART_DELAY_MS * gateway->quick_deaths : 0;
    loop_timer_set(master->loop, &gateway->restart, clock_mono_ms() + delay);
}

/* A life ended, or could not begin, for the reason @how. */
static void count_death(struct master *master, const char *how)
{
    struct gateway *gateway = &master->gateway;
    bool quick = clock_mono_ms() - gateway->started < QUICK_DEATH_MS;
    gateway->quick_deaths = quick ? gateway->quick_deaths + 1 : 0;
    if (gateway->quick_deaths >= QUICK_DEATHS_MAX) {
        master_say(LOG_ERROR, "the gateway process died %d times in a row within %d s of its start, giving up: it %s",
                   QUICK_DEATHS_MAX, QUICK_DEATH_MS / 1000, how);
        master_end(master, EXIT_FAILURE);
        return;
    }
    master_say(LOG_WARNING, "the gateway process %s; starting it again", how);
    gateway_start_later(master);
}

static void restart_is_due(struct loop_timer *timer)
{
    struct master *master = timer->owner;
    if (!gateway_start(master))
        count_death(master, strerror(errno));
}

bool gateway_start_first(struct master *master)
{
    struct gateway *gateway = &master->gateway;
    gateway->socket = (struct loop_watch){.fd = -1, .ready = socket_ready, .owner = master};
    gateway->restart = (struct loop_timer){.fire = restart_is_due, .owner = master};
    if (!gateway_start(master))
        return false;
    master->began = process_start_time(gateway->pid);
    return true;
}

void gateway_ready(struct master *master)
{
    struct gateway *gateway = &master->gateway;
    gateway->ready = true;
    gateway->ever_ready = true;
    if (gateway->wants_reload)
        gateway_reload(master);
}

void gateway_reload(struct master *master)
{
    struct gateway *gateway = &master->gateway;
    /* Before it is ready it may not have a handler yet, and SIGHUP would kill it. */
    bool hears = gateway->ready && gateway->pid != 0;
    gateway->wants_reload = !hears;
    if (hears)
        kill(gateway->pid, SIGHUP);
}

void gateway_shut_down(struct master *master)
{
    if (master->gateway.pid != 0 && !protocol_tell_shut_down(master))
        kill(master->gateway.pid, SIGTERM);
}

void gateway_kill(struct master *master)
{
    if (master->gateway.pid != 0)
        kill(-master->gateway.pid, SIGKILL);
}

void gateway_died(struct master *master, int wait_status)
{
    struct gateway *gateway = &master->gateway;
    gateway->pid = 0;
    /* Its last words count: it may have said that it was ready. */
    if (gateway->socket.fd >= 0)
        protocol_receive(master);
    socket_close(master);
    gateway->ready = false;

    char how[64];
    wait_status_text(wait_status, how, sizeof(how));
    if (master->stage != STAGE_SERVING) {
        master_end(master, master->exit_status);
    } else if (!gateway->ever_ready) {
        if (WIFSIGNALED(wait_status))
            master_say(LOG_ERROR, "the gateway process %s before it was ready", how);
        master_end(master, WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : EXIT_FAILURE);
    } else {
        count_death(master, how);
    }
}

void gateway_forget(struct master *master)
{
    loop_timer_cancel(master->loop, &master->gateway.restart);
    socket_close(master);
}
