/* Engines: started, watched, stopped with everything they started in turn, and their last words kept. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "backends/master_private.h"
#include "backends/process_tree.h"
#include "base/panic.h"

enum {
    OUTPUT_READ_BYTES = 8 * 1024,
    OUTPUT_READS_AT_EXIT = 2 * MASTER_RING_BYTES / OUTPUT_READ_BYTES, /* a survivor may write faster than we read */
    ORPHANS_WINDOW_MS = 2000
};

/* ---- records ---- */

struct child *child_find(struct master *master, struct text name)
{
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        struct child *child = master->children[i];
        if (child != NULL && text_equal(text_of(child->name), name))
            return child;
    }
    return NULL;
}

struct child *child_of_pid(struct master *master, int pid)
{
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        struct child *child = master->children[i];
        if (child != NULL && child->pid == pid && pid != 0)
            return child;
    }
    return NULL;
}

int children_running(const struct master *master)
{
    int count = 0;
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++)
        count += master->children[i] != NULL && master->children[i]->pid != 0;
    return count;
}

static void watch_close(struct master *master, struct loop_watch *watch)
{
    if (watch->fd < 0)
        return;
    loop_unwatch(master->loop, watch);
    close(watch->fd);
    watch->fd = -1;
}

static void child_forget(struct child **slot)
{
    struct child *child = *slot;
    if (child == NULL)
        return;
    loop_timer_cancel(child->master->loop, &child->grace);
    watch_close(child->master, &child->output);
    watch_close(child->master, &child->exec_status);
    free(child);
    *slot = NULL;
}

void children_forget(struct master *master)
{
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++)
        child_forget(&master->children[i]);
}

/* A slot for a new child: the ended one of that name, a free one, or that of the child that ended longest ago; NULL
 * when as many run as may. */
static struct child **slot_for(struct master *master, struct text name)
{
    struct child **free_slot = NULL;
    struct child **oldest = NULL;
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        struct child **slot = &master->children[i];
        if (*slot == NULL)
            free_slot = slot;
        else if (text_equal(text_of((*slot)->name), name))
            return slot;
        else if ((*slot)->pid == 0 && (oldest == NULL || (*slot)->ended < (*oldest)->ended))
            oldest = slot;
    }
    return free_slot != NULL ? free_slot : oldest;
}

/* ---- what comes through its pipes ---- */

/* False when nothing more can come. */
static bool output_read(struct child *child)
{
    char bytes[OUTPUT_READ_BYTES];
    ssize_t length = read(child->output.fd, bytes, sizeof(bytes));
    if (length > 0)
        log_ring_add(&child->log, (struct text){bytes, (size_t) length});
    return length > 0 || (length < 0 && (errno == EAGAIN || errno == EINTR));
}

static void output_ready(struct loop_watch *watch, uint32_t events)
{
    (void) events;
    struct child *child = watch->owner;
    if (!output_read(child))
        watch_close(child->master, watch);
}

/* What is in the pipe when the child is dead; survivors that hold the other end are not waited for. */
static void output_drain(struct child *child)
{
    for (int i = 0; i < OUTPUT_READS_AT_EXIT && child->output.fd >= 0; i++) {
        errno = 0;
        if (!output_read(child) || errno == EAGAIN)
            break;
    }
    watch_close(child->master, &child->output);
}

static void exec_status_ready(struct loop_watch *watch, uint32_t events)
{
    (void) events;
    struct child *child = watch->owner;
    ssize_t length = read(watch->fd, child->reason, sizeof(child->reason) - 1);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    watch_close(child->master, watch);
    child->reason[length > 0 ? length : 0] = '\0';
    if (length == 0)
        protocol_tell_started(child->master, child);
}

/* ---- start ---- */

static void grace_is_over(struct loop_timer *timer)
{
    child_kill(timer->owner);
}

static struct child *child_create(struct master *master, struct text name, struct text note)
{
    struct child *child = calloc(1, sizeof(*child));
    if (child == NULL)
        return NULL;
    child->master = master;
    text_copy(child->name, sizeof(child->name), name);
    text_copy(child->note, sizeof(child->note), note);
    child->output = (struct loop_watch){.fd = -1, .ready = output_ready, .owner = child};
    child->exec_status = (struct loop_watch){.fd = -1, .ready = exec_status_ready, .owner = child};
    child->grace = (struct loop_timer){.fire = grace_is_over, .owner = child};
    return child;
}

/* Fork it and watch its pipes. False with errno; a process that cannot be watched is killed, and reaped as one that
 * nobody knows. */
static bool child_launch(struct child *child, const struct spawn_order *order)
{
    struct spawned spawned;
    if (!spawn_engine(order, &spawned))
        return false;
    child->pid = spawned.pid;
    child->start_time = process_start_time(spawned.pid);
    child->started = clock_mono_ms();
    child->output.fd = spawned.output;
    child->exec_status.fd = spawned.exec_status;
    if (loop_watch(child->master->loop, &child->output, EPOLLIN) &&
        loop_watch(child->master->loop, &child->exec_status, EPOLLIN))
        return true;
    int error = errno;
    child_kill(child);
    errno = error;
    return false;
}

/* Why @name cannot be started, or NULL. */
static const char *refusal(struct master *master, struct text name)
{
    const struct child *child = child_find(master, name);
    if (master->stage != STAGE_SERVING)
        return "the master is shutting down";
    if (child != NULL && child->pid != 0)
        return "already running";
    if (slot_for(master, name) == NULL)
        return "too many children";
    return NULL;
}

void child_start(struct master *master, struct text name, struct text note, const struct spawn_order *order)
{
    const char *why_not = refusal(master, name);
    if (why_not != NULL) {
        protocol_tell_refused(master, name, why_not);
        return;
    }
    struct child *child = child_create(master, name, note);
    if (child == NULL || !child_launch(child, order)) {
        char reason[MASTER_REASON_BYTES_MAX];
        snprintf(reason, sizeof(reason), "cannot start a process: %s", strerror(errno));
        protocol_tell_refused(master, name, reason);
        child_forget(&child);
        return;
    }
    struct child **slot = slot_for(master, name);
    child_forget(slot);
    *slot = child;
}

/* ---- stop ---- */

void child_stop(struct child *child, int64_t grace_ms)
{
    mono_ms kill_at = clock_mono_ms() + grace_ms;
    child->was_asked = true;
    kill(-child->pid, SIGTERM);
    /* Asked again: the earlier end holds. */
    if (loop_timer_is_set(&child->grace) && child->kill_at <= kill_at)
        return;
    child->kill_at = kill_at;
    loop_timer_set(child->master->loop, &child->grace, kill_at);
}

void child_kill(struct child *child)
{
    ENSURE(child->pid != 0);
    process_tree_kill(child->pid);
}

void child_exited(struct child *child, int wait_status)
{
    if (child->exec_status.fd >= 0)
        exec_status_ready(&child->exec_status, EPOLLHUP);
    watch_close(child->master, &child->exec_status);
    output_drain(child);
    loop_timer_cancel(child->master->loop, &child->grace);

    int pid = child->pid;
    child->pid = 0;
    child->ended = clock_mono_ms();
    child->master->orphans_until = child->ended + ORPHANS_WINDOW_MS;
    protocol_tell_exited(child->master, child, pid, wait_status);
}

/* ---- what engines leave behind ---- */

struct orphan_hunt {
    struct master *master;
    int self;
    int found;
};

static void kill_orphan(void *owner, const struct process_facts *facts)
{
    struct orphan_hunt *hunt = owner;
    const struct master *master = hunt->master;
    if (facts->parent != hunt->self || facts->start_time < master->began)
        return;
    if (facts->pid == master->gateway.pid || child_of_pid(hunt->master, facts->pid) != NULL)
        return;
    /* The living own their groups: a worker that forked twice to lose its parent is no escapee. */
    if (facts->group == master->gateway.pid || child_of_pid(hunt->master, facts->group) != NULL)
        return;
    hunt->found++;
    if (!facts->zombie)
        kill(facts->pid, SIGKILL);
}

int orphans_kill(struct master *master)
{
    struct orphan_hunt hunt = {.master = master, .self = getpid()};
    process_each(kill_orphan, &hunt);
    return hunt.found;
}
