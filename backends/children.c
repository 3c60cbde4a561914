/* The gateway's picture of the master's children, and the wires to change it. */
#include "backends/children.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "backends/master.h"
#include "backends/process_tree.h"
#include "base/frame.h"
#include "base/panic.h"

enum {
    CONNECT_WAIT_MS = 5 * 1000,
    SEND_WAIT_MS = 1000,
    /* Processes of a child outside its process group, remembered for the day when their parents are gone. */
    ESCAPEES_MAX = 32,
    ANCESTRY_DEPTH_MAX = 256,
    LOOK_EVERY_MS = 5 * 1000,
    LOOK_AFTER_START_MS = 500
};

struct known_child {
    char name[MASTER_NAME_BYTES_MAX + 1]; /* "" = free slot */
    char note[MASTER_NOTE_BYTES_MAX + 1];
    int pid;
    uint64_t start_time;
    int64_t mark;
    int64_t running_ms;
    struct process_facts escapees[ESCAPEES_MAX];
    size_t escapee_count;
};

struct kept {
    char name[MASTER_NAME_BYTES_MAX + 1];
    int fd; /* -1 = free slot */
};

struct listener {
    const char *name; /* of the one child it is for; NULL = of all others */
    const struct children_events *events;
    void *owner;
};

struct children {
    int socket;
    struct loop *loop; /* NULL before children_attach */
    struct loop_watch watch;
    struct loop_timer look;
    bool listed; /* the answer to LIST is complete */
    bool shut_down_asked;
    void (*shut_down)(void *owner);
    void (*master_gone)(void *owner);
    void *owner;
    struct listener listener; /* its events are NULL when there is none */
    struct listener apart[CHILDREN_APART_MAX];
    size_t apart_count;
    struct known_child known[MASTER_CHILDREN_MAX];
    struct kept kept[MASTER_KEPT_FDS_MAX];
    char frame_in[FRAME_BYTES_MAX];
    char frame_out[FRAME_BYTES_MAX];
};

/* ---- what is known ---- */

static struct known_child *known_find(struct children *children, struct text name)
{
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        if (text_equal(text_of(children->known[i].name), name))
            return &children->known[i];
    }
    return NULL;
}

/* The child of that name, made if need be; NULL when the table is full, which the master's own bound excludes. */
static struct known_child *known_add(struct children *children, struct text name)
{
    struct known_child *child = known_find(children, name);
    if (child == NULL)
        child = known_find(children, TEXT(""));
    if (child == NULL)
        return NULL;
    *child = (struct known_child){0};
    text_copy(child->name, sizeof(child->name), name);
    return child;
}

static struct child_info known_info(const struct known_child *child)
{
    return (struct child_info){.name = child->name,
                               .note = child->note,
                               .pid = child->pid,
                               .start_time = child->start_time,
                               .mark = child->mark,
                               .running_ms = child->running_ms};
}

/* Who hears of the child called @name. */
static const struct listener *listener_of(const struct children *children, const char *name)
{
    for (size_t i = 0; i < children->apart_count; i++) {
        if (strcmp(children->apart[i].name, name) == 0)
            return &children->apart[i];
    }
    return &children->listener;
}

void children_each(struct children *children, void (*receive)(void *owner, const struct child_info *info), void *owner)
{
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        const struct known_child *child = &children->known[i];
        const struct child_info info = known_info(child);
        if (child->name[0] != '\0' && listener_of(children, child->name) == &children->listener)
            receive(owner, &info);
    }
}

bool children_find(struct children *children, const char *name, struct child_info *ret)
{
    const struct known_child *child = *name != '\0' ? known_find(children, text_of(name)) : NULL;
    if (child == NULL)
        return false;
    *ret = known_info(child);
    return true;
}

int children_take_fd(struct children *children, const char *name)
{
    for (size_t i = 0; i < MASTER_KEPT_FDS_MAX; i++) {
        struct kept *kept = &children->kept[i];
        if (kept->fd < 0 || strcmp(kept->name, name) != 0)
            continue;
        int fd = kept->fd;
        kept->fd = -1;
        return fd;
    }
    return -1;
}

/* ---- the day the master is gone ---- */

static struct known_child *known_of_pid(struct children *children, int pid)
{
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        if (children->known[i].name[0] != '\0' && children->known[i].pid == pid)
            return &children->known[i];
    }
    return NULL;
}

static bool is_escapee(const struct process_facts *remembered)
{
    return process_start_time(remembered->pid) == remembered->start_time;
}

static void remember_escapee(struct known_child *child, const struct process_facts *facts)
{
    size_t lived_on = 0;
    for (size_t i = 0; i < child->escapee_count; i++) {
        const struct process_facts remembered = child->escapees[i];
        if (remembered.pid != facts->pid && is_escapee(&remembered))
            child->escapees[lived_on++] = remembered;
    }
    child->escapee_count = lived_on;
    if (child->escapee_count < ESCAPEES_MAX)
        child->escapees[child->escapee_count++] = *facts;
}

/* Remember the process for the child it descends from, if a signal to that child's group would not reach it: once its
 * parents are dead nobody can tell whose it was. */
static void look_at(void *owner, const struct process_facts *facts)
{
    struct children *children = owner;
    if (known_of_pid(children, facts->group) != NULL)
        return;
    struct process_facts above = *facts;
    for (int depth = 0; depth < ANCESTRY_DEPTH_MAX && above.parent > 1; depth++) {
        struct known_child *child = known_of_pid(children, above.parent);
        if (child != NULL) {
            remember_escapee(child, facts);
            return;
        }
        if (!process_facts_read(above.parent, &above))
            return;
    }
}

static void look_is_due(struct loop_timer *timer)
{
    struct children *children = timer->owner;
    process_each(look_at, children);
    loop_timer_set(children->loop, timer, clock_mono_ms() + LOOK_EVERY_MS);
}

static void known_kill(const struct known_child *child)
{
    uint64_t start_time = process_start_time(child->pid);
    /* No leader any more is fine: its group keeps the number as long as it has members. Another leader is not. */
    if (start_time == 0 || start_time == child->start_time)
        kill(-child->pid, SIGKILL);
    for (size_t i = 0; i < child->escapee_count; i++) {
        if (is_escapee(&child->escapees[i]))
            kill(child->escapees[i].pid, SIGKILL);
    }
}

/* Before anybody is told, so that "the master is gone" also means that nothing of it runs. */
static void end_with_master(struct children *children)
{
    loop_unwatch(children->loop, &children->watch);
    loop_timer_cancel(children->loop, &children->look);
    close(children->socket);
    children->socket = -1;
    process_each(look_at, children);
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        if (children->known[i].name[0] != '\0')
            known_kill(&children->known[i]);
        children->known[i] = (struct known_child){0};
    }
    children->master_gone(children->owner);
}

/* ---- what the master says ---- */

/* A name of the master's as a C string into @to of MASTER_NAME_BYTES_MAX + 1. */
static const char *read_name(struct frame_reader *frame, char *to)
{
    text_copy(to, MASTER_NAME_BYTES_MAX + 1, frame_read_text(frame));
    return to;
}

static void hear_child(struct children *children, struct frame_reader *frame)
{
    struct text name = frame_read_text(frame);
    struct text note = frame_read_text(frame);
    struct known_child *child = known_add(children, name);
    if (child == NULL)
        return;
    text_copy(child->note, sizeof(child->note), note);
    child->pid = (int) frame_read_int(frame);
    child->start_time = (uint64_t) frame_read_int(frame);
    child->mark = frame_read_int(frame);
    child->running_ms = frame_read_int(frame);
}

static void hear_kept(struct children *children, struct frame_reader *frame)
{
    struct text name = frame_read_text(frame);
    for (size_t i = 0; i < MASTER_KEPT_FDS_MAX && frame->fd >= 0; i++) {
        struct kept *kept = &children->kept[i];
        if (kept->fd >= 0)
            continue;
        text_copy(kept->name, sizeof(kept->name), name);
        kept->fd = frame->fd;
        frame->fd = -1;
    }
}

static void hear_listed(struct children *children, struct frame_reader *frame)
{
    (void) frame;
    children->listed = true;
}

static void hear_started(struct children *children, struct frame_reader *frame)
{
    char name[MASTER_NAME_BYTES_MAX + 1];
    read_name(frame, name);
    struct known_child *child = known_add(children, text_of(name));
    if (child == NULL)
        return;
    child->pid = (int) frame_read_int(frame);
    child->start_time = (uint64_t) frame_read_int(frame);
    if (children->loop != NULL)
        loop_timer_set(children->loop, &children->look, clock_mono_ms() + LOOK_AFTER_START_MS);
    const struct listener *listener = listener_of(children, name);
    if (listener->events != NULL)
        listener->events->started(listener->owner, name, child->pid, child->start_time);
}

static void hear_exited(struct children *children, struct frame_reader *frame)
{
    char name[MASTER_NAME_BYTES_MAX + 1];
    char reason[MASTER_REASON_BYTES_MAX + 1];
    struct child_exit exit = {.name = read_name(frame, name), .reason = reason};
    exit.pid = (int) frame_read_int(frame);
    exit.wait_status = (int) frame_read_int(frame);
    exit.was_asked = frame_read_int(frame) != 0;
    text_copy(reason, sizeof(reason), frame_read_text(frame));

    /* A refused START of a child that runs is no end of that child. */
    struct known_child *child = known_find(children, text_of(name));
    if (child != NULL && name[0] != '\0' && child->pid == exit.pid)
        *child = (struct known_child){0};
    const struct listener *listener = listener_of(children, name);
    if (listener->events != NULL)
        listener->events->exited(listener->owner, &exit);
}

static void hear_log_tail(struct children *children, struct frame_reader *frame)
{
    char name[MASTER_NAME_BYTES_MAX + 1];
    read_name(frame, name);
    struct text bytes = frame_read_text(frame);
    const struct listener *listener = listener_of(children, name);
    if (listener->events != NULL)
        listener->events->log_tail(listener->owner, name, bytes);
}

static void hear_shut_down(struct children *children, struct frame_reader *frame)
{
    (void) frame;
    children->shut_down_asked = true;
    if (children->loop != NULL)
        children->shut_down(children->owner);
}

static void (*const hearers[])(struct children *children, struct frame_reader *frame) = {
    [MASTER_CHILD] = hear_child,         [MASTER_KEPT] = hear_kept,     [MASTER_LISTED] = hear_listed,
    [MASTER_STARTED] = hear_started,     [MASTER_EXITED] = hear_exited, [MASTER_LOG_TAIL] = hear_log_tail,
    [MASTER_SHUT_DOWN] = hear_shut_down,
};

/* One frame, if there is one. */
static enum frame_result hear_one(struct children *children)
{
    struct frame_reader frame;
    enum frame_result result = frame_receive(children->socket, children->frame_in, sizeof(children->frame_in), &frame);
    if (result != FRAME_RECEIVED)
        return result;
    if (frame.type < sizeof(hearers) / sizeof(hearers[0]) && hearers[frame.type] != NULL)
        hearers[frame.type](children, &frame);
    if (frame.fd >= 0)
        close(frame.fd);
    return FRAME_RECEIVED;
}

/* ---- connecting ---- */

static void begin(struct children *children, struct frame_writer *frame, enum master_frame type)
{
    frame_begin(frame, children->frame_out, sizeof(children->frame_out), (uint8_t) type);
}

static bool tell(struct children *children, const struct frame_writer *frame, int fd)
{
    return children->socket >= 0 && frame_send(children->socket, frame, fd, SEND_WAIT_MS);
}

/* LIST, and hear everything up to LISTED. */
static bool ask_list(struct children *children)
{
    struct frame_writer frame;
    begin(children, &frame, MASTER_LIST);
    if (!tell(children, &frame, -1))
        return false;
    mono_ms deadline = clock_mono_ms() + CONNECT_WAIT_MS;
    while (!children->listed) {
        enum frame_result result = hear_one(children);
        mono_ms left_ms = deadline - clock_mono_ms();
        if (result == FRAME_CLOSED || left_ms <= 0)
            return false;
        struct pollfd more = {.fd = children->socket, .events = POLLIN};
        if (result == FRAME_NOTHING_YET)
            poll(&more, 1, (int) left_ms);
    }
    return true;
}

struct children *children_connect(int socket)
{
    struct children *children = calloc(1, sizeof(*children));
    if (children == NULL)
        return NULL;
    for (size_t i = 0; i < MASTER_KEPT_FDS_MAX; i++)
        children->kept[i].fd = -1;
    children->socket = socket;
    if (fcntl(socket, F_SETFD, FD_CLOEXEC) == 0 && ask_list(children))
        return children;
    children->socket = -1; /* it stays the caller's */
    children_destroy(&children);
    return NULL;
}

void children_destroy(struct children **children_pointer)
{
    struct children *children = *children_pointer;
    *children_pointer = NULL;
    if (children == NULL)
        return;
    if (children->loop != NULL) {
        loop_unwatch(children->loop, &children->watch);
        loop_timer_cancel(children->loop, &children->look);
    }
    for (size_t i = 0; i < MASTER_KEPT_FDS_MAX; i++) {
        if (children->kept[i].fd >= 0)
            close(children->kept[i].fd);
    }
    if (children->socket >= 0)
        close(children->socket);
    free(children);
}

static void socket_ready(struct loop_watch *watch, uint32_t events)
{
    (void) events;
    struct children *children = watch->owner;
    /* One frame a turn: what it sets off may destroy what we stand on. */
    if (hear_one(children) == FRAME_CLOSED)
        end_with_master(children);
}

void children_listen(struct children *children, const struct children_events *events, void *owner)
{
    ENSURE(children->loop == NULL);
    children->listener = (struct listener){.events = events, .owner = owner};
}

void children_listen_to(struct children *children, const char *name, const struct children_events *events, void *owner)
{
    ENSURE(children->loop == NULL && children->apart_count < CHILDREN_APART_MAX);
    children->apart[children->apart_count++] = (struct listener){name, events, owner};
}

bool children_attach(struct children *children, struct loop *loop, void (*shut_down)(void *owner),
                     void (*master_gone)(void *owner), void *owner)
{
    ENSURE(children->loop == NULL);
    children->watch = (struct loop_watch){.fd = children->socket, .ready = socket_ready, .owner = children};
    if (!loop_watch(loop, &children->watch, EPOLLIN))
        return false;
    children->loop = loop;
    children->shut_down = shut_down;
    children->master_gone = master_gone;
    children->owner = owner;
    children->look = (struct loop_timer){.fire = look_is_due, .owner = children};
    loop_timer_set(loop, &children->look, clock_mono_ms() + LOOK_AFTER_START_MS);
    if (children->shut_down_asked)
        shut_down(owner);
    return true;
}

/* ---- what should run ---- */

bool children_keep_fd(struct children *children, const char *name, int fd)
{
    struct frame_writer frame;
    begin(children, &frame, MASTER_KEEP_FD);
    frame_add_text(&frame, text_of(name));
    return tell(children, &frame, fd);
}

/* The count, then the strings. False when there are more than the master takes. */
static bool add_strings(struct frame_writer *frame, const char *const *strings)
{
    int64_t count = 0;
    while (strings[count] != NULL)
        count++;
    frame_add_int(frame, count);
    for (int64_t i = 0; i < count; i++)
        frame_add_text(frame, text_of(strings[i]));
    return count <= MASTER_STRINGS_MAX;
}

bool children_start(struct children *children, const struct child_start *start)
{
    struct frame_writer frame;
    if (strlen(start->name) > MASTER_NAME_BYTES_MAX || strlen(start->note) > MASTER_NOTE_BYTES_MAX ||
        start->name[0] == '\0' || start->arguments[0] == NULL)
        return false;
    begin(children, &frame, MASTER_START);
    frame_add_text(&frame, text_of(start->name));
    frame_add_text(&frame, text_of(start->note));
    frame_add_text(&frame, text_of(start->working_directory));
    return add_strings(&frame, start->arguments) && add_strings(&frame, start->environment) &&
           tell(children, &frame, -1);
}

bool children_stop(struct children *children, const char *name, int64_t grace_ms)
{
    struct frame_writer frame;
    begin(children, &frame, MASTER_STOP);
    frame_add_text(&frame, text_of(name));
    frame_add_int(&frame, grace_ms);
    return tell(children, &frame, -1);
}

bool children_mark(struct children *children, const char *name, int64_t mark)
{
    struct frame_writer frame;
    begin(children, &frame, MASTER_MARK);
    frame_add_text(&frame, text_of(name));
    frame_add_int(&frame, mark);
    return tell(children, &frame, -1);
}

bool children_ask_logs(struct children *children, const char *name)
{
    struct frame_writer frame;
    begin(children, &frame, MASTER_LOGS);
    frame_add_text(&frame, text_of(name));
    return tell(children, &frame, -1);
}

bool children_gateway_ready(struct children *children)
{
    return children_mark(children, "", 1);
}

bool children_set_drain(struct children *children, int64_t drain_ms)
{
    struct frame_writer frame;
    begin(children, &frame, MASTER_DRAIN);
    frame_add_int(&frame, drain_ms);
    return tell(children, &frame, -1);
}
