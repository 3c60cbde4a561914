/* Frames from and to the gateway, and the descriptors kept for it. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "backends/master_private.h"
#include "base/panic.h"

/* ---- to the gateway ---- */

static void begin(struct master *master, struct frame_writer *frame, enum master_frame type)
{
    frame_begin(frame, master->frame_out, sizeof(master->frame_out), (uint8_t) type);
}

static bool tell(struct master *master, const struct frame_writer *frame, int fd)
{
    int socket = master->gateway.socket.fd;
    return socket >= 0 && frame_send(socket, frame, fd, MASTER_SEND_WAIT_MS);
}

/* For what the gateway must not miss. */
static void tell_surely(struct master *master, const struct frame_writer *frame, int fd)
{
    if (master->gateway.pid == 0 || tell(master, frame, fd))
        return;
    if (master->stage == STAGE_SERVING) {
        master_say(LOG_ERROR, "the gateway process does not listen to the master; killing it");
        gateway_kill(master);
    }
}

void protocol_tell_started(struct master *master, const struct child *child)
{
    struct frame_writer frame;
    begin(master, &frame, MASTER_STARTED);
    frame_add_text(&frame, text_of(child->name));
    frame_add_int(&frame, child->pid);
    frame_add_int(&frame, (int64_t) child->start_time);
    tell_surely(master, &frame, -1);
}

static void tell_exited(struct master *master, struct text name, const int64_t facts[3], const char *reason)
{
    struct frame_writer frame;
    begin(master, &frame, MASTER_EXITED);
    frame_add_text(&frame, name);
    for (int i = 0; i < 3; i++)
        frame_add_int(&frame, facts[i]);
    frame_add_text(&frame, text_of(reason));
    tell_surely(master, &frame, -1);
}

void protocol_tell_exited(struct master *master, const struct child *child, int pid, int wait_status)
{
    tell_exited(master, text_of(child->name), (const int64_t[]){pid, wait_status, child->was_asked}, child->reason);
}

void protocol_tell_refused(struct master *master, struct text name, const char *reason)
{
    tell_exited(master, name, (const int64_t[]){0, 0, false}, reason);
}

bool protocol_tell_shut_down(struct master *master)
{
    struct frame_writer frame;
    begin(master, &frame, MASTER_SHUT_DOWN);
    return tell(master, &frame, -1);
}

/* ---- from the gateway ---- */

/* A name or note: bounded, and a C string. */
static struct text read_bounded(struct frame_reader *frame, size_t length_max)
{
    struct text value = frame_read_text(frame);
    if (value.length > length_max || (value.length != 0 && memchr(value.at, '\0', value.length) != NULL))
        frame->broken = true;
    return value;
}

static struct text read_name(struct frame_reader *frame)
{
    return read_bounded(frame, MASTER_NAME_BYTES_MAX);
}

static int64_t clamp(int64_t value, int64_t greatest)
{
    return value < 0 ? 0 : value > greatest ? greatest : value;
}

static void tell_child(struct master *master, const struct child *child)
{
    struct frame_writer frame;
    begin(master, &frame, MASTER_CHILD);
    frame_add_text(&frame, text_of(child->name));
    frame_add_text(&frame, text_of(child->note));
    frame_add_int(&frame, child->pid);
    frame_add_int(&frame, (int64_t) child->start_time);
    frame_add_int(&frame, child->mark);
    frame_add_int(&frame, clock_mono_ms() - child->started);
    tell_surely(master, &frame, -1);
}

static void list(struct master *master, struct frame_reader *request)
{
    (void) request;
    struct frame_writer frame;
    for (size_t i = 0; i < MASTER_CHILDREN_MAX; i++) {
        if (master->children[i] != NULL && master->children[i]->pid != 0)
            tell_child(master, master->children[i]);
    }
    for (size_t i = 0; i < MASTER_KEPT_FDS_MAX; i++) {
        if (master->kept[i].fd < 0)
            continue;
        begin(master, &frame, MASTER_KEPT);
        frame_add_text(&frame, text_of(master->kept[i].name));
        tell_surely(master, &frame, master->kept[i].fd);
    }
    begin(master, &frame, MASTER_LISTED);
    tell_surely(master, &frame, -1);
}

/* The next string of the frame as a C string in the master's scratch memory. */
static char *read_string(struct frame_reader *frame, struct builder *strings)
{
    struct text value = read_bounded(frame, FRAME_FIELD_BYTES_MAX);
    char *at = strings->at + strings->length;
    builder_add(strings, value);
    builder_add(strings, (struct text){"", 1});
    if (strings->overflowed)
        frame->broken = true;
    return at;
}

/* A count and that many strings into @vector of MASTER_STRINGS_MAX + 1. */
static void read_strings(struct frame_reader *frame, struct builder *strings, char **vector)
{
    int64_t count = frame_read_int(frame);
    if (count < 0 || count > MASTER_STRINGS_MAX)
        frame->broken = true;
    size_t filled = 0;
    while (!frame->broken && filled < (size_t) count)
        vector[filled++] = read_string(frame, strings);
    vector[filled] = NULL;
}

static void start(struct master *master, struct frame_reader *frame)
{
    struct builder strings;
    builder_init(&strings, master->strings, sizeof(master->strings));
    struct text name = read_name(frame);
    struct text note = read_bounded(frame, MASTER_NOTE_BYTES_MAX);
    const char *working_directory = read_string(frame, &strings);
    read_strings(frame, &strings, master->arguments);
    read_strings(frame, &strings, master->environment);
    if (name.length == 0 || master->arguments[0] == NULL)
        frame->broken = true;
    if (frame->broken)
        return;
    const struct spawn_order order = {working_directory, master->arguments, master->environment};
    child_start(master, name, note, &order);
}

static void stop(struct master *master, struct frame_reader *frame)
{
    struct text name = read_name(frame);
    int64_t grace_ms = clamp(frame_read_int(frame), MASTER_GRACE_MS_MAX);
    struct child *child = child_find(master, name);
    if (!frame->broken && child != NULL && child->pid != 0)
        child_stop(child, grace_ms);
}

static void mark(struct master *master, struct frame_reader *frame)
{
    struct text name = read_name(frame);
    int64_t value = frame_read_int(frame);
    struct child *child = child_find(master, name);
    if (frame->broken)
        return;
    if (name.length == 0)
        gateway_ready(master);
    else if (child != NULL && child->pid != 0)
        child->mark = value;
}

static void tell_logs(struct master *master, struct frame_reader *frame)
{
    struct text name = read_name(frame);
    if (frame->broken)
        return;
    const struct child *child = child_find(master, name);
    size_t length = child != NULL ? log_ring_copy(&child->log, master->strings) : 0;
    struct frame_writer answer;
    begin(master, &answer, MASTER_LOG_TAIL);
    frame_add_text(&answer, name);
    frame_add_text(&answer, (struct text){master->strings, length});
    tell_surely(master, &answer, -1);
}

/* The slot of that name, else a free one, else NULL. */
static struct kept_fd *kept_slot(struct master *master, struct text name)
{
    struct kept_fd *free_slot = NULL;
    for (size_t i = 0; i < MASTER_KEPT_FDS_MAX; i++) {
        struct kept_fd *slot = &master->kept[i];
        if (slot->fd < 0)
            free_slot = slot;
        else if (text_equal(text_of(slot->name), name))
            return slot;
    }
    return free_slot;
}

static void keep_fd(struct master *master, struct frame_reader *frame)
{
    struct text name = read_name(frame);
    struct kept_fd *slot = kept_slot(master, name);
    if (frame->broken)
        return;
    if (slot == NULL && frame->fd < 0)
        return;
    if (slot == NULL) {
        master_say(LOG_ERROR, "no room to keep one more descriptor of the gateway process");
        return;
    }
    if (slot->fd >= 0)
        close(slot->fd);
    text_copy(slot->name, sizeof(slot->name), name);
    slot->fd = frame->fd;
    frame->fd = -1;
}

static void set_drain(struct master *master, struct frame_reader *frame)
{
    int64_t drain_ms = clamp(frame_read_int(frame), MASTER_DRAIN_MS_MAX);
    if (!frame->broken)
        master->drain_ms = drain_ms;
}

static void (*const actions[])(struct master *master, struct frame_reader *frame) = {
    [MASTER_LIST] = list,      [MASTER_START] = start,     [MASTER_STOP] = stop,       [MASTER_MARK] = mark,
    [MASTER_LOGS] = tell_logs, [MASTER_KEEP_FD] = keep_fd, [MASTER_DRAIN] = set_drain,
};

static void act(struct master *master, struct frame_reader *frame)
{
    if (frame->type < sizeof(actions) / sizeof(actions[0]) && actions[frame->type] != NULL)
        actions[frame->type](master, frame);
    else
        frame->broken = true;
    if (frame->fd >= 0)
        close(frame->fd);
    if (frame->broken) {
        master_say(LOG_ERROR, "the gateway process sent a frame that is none; killing it");
        gateway_kill(master);
    }
}

bool protocol_receive(struct master *master)
{
    for (;;) {
        struct frame_reader frame;
        enum frame_result result =
            frame_receive(master->gateway.socket.fd, master->frame_in, sizeof(master->frame_in), &frame);
        if (result != FRAME_RECEIVED)
            return result == FRAME_NOTHING_YET;
        act(master, &frame);
    }
}

void kept_fds_close(struct master *master)
{
    for (size_t i = 0; i < MASTER_KEPT_FDS_MAX; i++) {
        if (master->kept[i].fd >= 0)
            close(master->kept[i].fd);
        master->kept[i].fd = -1;
    }
}
