#include "backends/fleet.h"

#include <stdlib.h>
#include <string.h>

#include "backends/children.h"
#include "backends/fleet_private.h"
#include "backends/upkeep.h"
#include "base/fetch.h"
#include "base/log.h"
#include "base/panic.h"

/* ---- lines ---- */

static struct line *find_line(struct fleet *fleet, const char *model)
{
    struct line *line = fleet->lines;

    while (line != NULL && strcmp(line->model, model) != 0)
        line = line->next;
    return line;
}

struct line *fleet_lock_line(struct fleet *fleet, const char *model)
{
    struct line *line;

    pthread_rwlock_rdlock(&fleet->lines_lock);
    line = find_line(fleet, model);
    if (line != NULL)
        pthread_mutex_lock(&line->lock);
    pthread_rwlock_unlock(&fleet->lines_lock);
    return line;
}

struct line *fleet_find_or_make_line(struct fleet *fleet, const char *model)
{
    struct line *line = find_line(fleet, model);

    if (line != NULL)
        return line;
    line = line_create(model);
    if (line == NULL)
        return NULL;
    line->refusing = atomic_load(&fleet->refusing);
    pthread_rwlock_wrlock(&fleet->lines_lock);
    line->next = fleet->lines;
    fleet->lines = line;
    pthread_rwlock_unlock(&fleet->lines_lock);
    return line;
}

/* Destroy the lines of models that are gone and hold nothing any more. With the list locked for writing nobody can be
 * between finding a line and locking it. */
static void drop_empty_lines(struct fleet *fleet)
{
    struct line **at = &fleet->lines;

    pthread_rwlock_wrlock(&fleet->lines_lock);
    while (*at != NULL) {
        struct line *line = *at;

        if (line->wanted || !line_is_empty(line)) {
            at = &line->next;
            continue;
        }
        *at = line->next;
        line_destroy(&line);
    }
    pthread_rwlock_unlock(&fleet->lines_lock);
}

bool fleet_let_go(struct fleet *fleet, struct instance *instance)
{
    struct line *line = instance->line;

    ENSURE(instance->leaving && instance->state == INSTANCE_STOPPED);
    for (size_t i = 0; i < line->count; i++) {
        struct instance *successor = line->instances[i];

        if (successor->predecessor == instance) {
            successor->predecessor = NULL;
            upkeep_begin(successor);
        }
    }
    if (!line_remove(line, instance)) {
        fleet_want_sweep(fleet);
        return false;
    }
    instance_destroy(&instance);
    line_serve(line);
    return true;
}

/* ---- the sweep ---- */

static bool line_needs_sweep(struct line *line)
{
    if (!line->wanted)
        return true;
    for (size_t i = 0; i < line->count; i++) {
        if (line->instances[i]->leaving)
            return true;
    }
    return line_has_waiters(line);
}

static bool needs_sweep(struct fleet *fleet)
{
    for (struct line *line = fleet->lines; line != NULL; line = line->next) {
        if (line_needs_sweep(line))
            return true;
    }
    return false;
}

static void set_sweep_timer(struct fleet *fleet)
{
    loop_timer_set(fleet->control, &fleet->sweep_timer, clock_mono_ms() + FLEET_SWEEP_MS);
}

static void on_sweep_task(struct loop_task *task)
{
    set_sweep_timer(task->owner);
}

void fleet_want_sweep(struct fleet *fleet)
{
    /* The read comes first: while many wait, the flag's cache line is not written by all of them. */
    if (!atomic_load(&fleet->sweeping) && !atomic_exchange(&fleet->sweeping, true))
        loop_post(fleet->control, &fleet->sweep_task);
}

/* A model that is gone: its instances leave once nobody waits for them. */
static void leave_instances(struct line *line)
{
    if (line_has_waiters(line))
        return;
    for (size_t i = line->count; i > 0; i--) {
        if (!line->instances[i - 1]->leaving)
            upkeep_leave(line->instances[i - 1]);
    }
}

static void on_sweep_timer(struct loop_timer *timer)
{
    struct fleet *fleet = timer->owner;
    mono_ms now = clock_mono_ms();

    for (struct line *line = fleet->lines; line != NULL; line = line->next) {
        line_sweep(line, now);
        if (!line->wanted)
            leave_instances(line);
        /* From the end: an instance may be taken out. */
        for (size_t i = line->count; i > 0; i--)
            upkeep_sweep(line->instances[i - 1], now);
    }
    drop_empty_lines(fleet);
    /* First the flag, then the look: who comes between them posts a sweep of its own. */
    atomic_store(&fleet->sweeping, false);
    if (needs_sweep(fleet) && !atomic_exchange(&fleet->sweeping, true))
        set_sweep_timer(fleet);
}

/* ---- the master's events ---- */

static struct instance *find_child(struct fleet *fleet, const char *name)
{
    for (struct line *line = fleet->lines; line != NULL; line = line->next) {
        for (size_t i = 0; i < line->count; i++) {
            if (line->instances[i]->has_child && strcmp(line->instances[i]->name, name) == 0)
                return line->instances[i];
        }
    }
    return NULL;
}

static struct instance *find_instance(struct fleet *fleet, const char *name)
{
    for (struct line *line = fleet->lines; line != NULL; line = line->next) {
        for (size_t i = 0; i < line->count; i++) {
            if (strcmp(line->instances[i]->name, name) == 0)
                return line->instances[i];
        }
    }
    return NULL;
}

static void on_started(void *owner, const char *name, int pid, uint64_t start_time)
{
    struct instance *instance = find_child(owner, name);

    (void) start_time;
    if (instance != NULL)
        upkeep_started(instance, pid);
}

static void on_exited(void *owner, const struct child_exit *exit)
{
    struct instance *instance = find_child(owner, exit->name);

    if (instance != NULL)
        upkeep_exited(instance, exit);
}

static void on_log_tail(void *owner, const char *name, struct text bytes)
{
    struct instance *instance = find_child(owner, name);

    if (instance == NULL)
        instance = find_instance(owner, name);
    if (instance != NULL)
        upkeep_logged(instance, bytes);
}

static const struct children_events CHILDREN_EVENTS = {
    .started = on_started, .exited = on_exited, .log_tail = on_log_tail};

/* ---- life ---- */

struct fleet *fleet_create(struct loop *control, struct children *children)
{
    struct fleet *fleet = calloc(1, sizeof(*fleet));

    if (fleet == NULL)
        return NULL;
    fleet->fetcher = fetcher_create(control);
    if (fleet->fetcher == NULL) {
        free(fleet);
        return NULL;
    }
    fleet->control = control;
    fleet->children = children;
    pthread_rwlock_init(&fleet->lines_lock, NULL);
    fleet->random_state = (uint64_t) clock_mono_us();
    fleet->sweep_task = (struct loop_task){.run = on_sweep_task, .owner = fleet};
    fleet->sweep_timer = (struct loop_timer){.fire = on_sweep_timer, .owner = fleet};
    if (children != NULL)
        children_listen(children, &CHILDREN_EVENTS, fleet);
    return fleet;
}

void fleet_refuse_new(struct fleet *fleet)
{
    atomic_store(&fleet->refusing, true);
    for (struct line *line = fleet->lines; line != NULL; line = line->next)
        line_refuse(line);
}

static void destroy_line(struct line *line)
{
    while (line->count > 0) {
        struct instance *instance = line->instances[line->count - 1];

        upkeep_abandon(instance);
        ENSURE(line_remove(line, instance));
        instance_destroy(&instance);
    }
    line_destroy(&line);
}

void fleet_destroy(struct fleet **fleet)
{
    struct fleet *dying = *fleet;

    if (dying == NULL)
        return;
    *fleet = NULL;
    loop_timer_cancel(dying->control, &dying->sweep_timer);
    while (dying->lines != NULL) {
        struct line *line = dying->lines;

        dying->lines = line->next;
        destroy_line(line);
    }
    fetcher_destroy(&dying->fetcher);
    pthread_rwlock_destroy(&dying->lines_lock);
    free(dying->runtime_dir);
    free(dying);
}
