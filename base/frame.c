/* Fields are a tag byte and native bytes: both ends are one binary on one machine. */
#include "base/frame.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/panic.h"

/* Descriptors beyond the one a frame may carry are taken too, only to be closed. */
enum { FDS_TAKEN_MAX = 8 };

static const char integer_tag = 'i', text_tag = 't';

void frame_begin(struct frame_writer *frame, char *memory, size_t capacity, uint8_t type)
{
    builder_init(&frame->builder, memory, capacity < FRAME_BYTES_MAX ? capacity : FRAME_BYTES_MAX);
    builder_add(&frame->builder, (struct text){(const char *) &type, sizeof(type)});
}

static void add_bytes(struct frame_writer *frame, const void *bytes, size_t count)
{
    builder_add(&frame->builder, (struct text){bytes, count});
}

void frame_add_int(struct frame_writer *frame, int64_t value)
{
    add_bytes(frame, &integer_tag, sizeof(integer_tag));
    add_bytes(frame, &value, sizeof(value));
}

void frame_add_text(struct frame_writer *frame, struct text value)
{
    if (value.length > FRAME_FIELD_BYTES_MAX) {
        frame->builder.overflowed = true;
        return;
    }
    uint32_t length = (uint32_t) value.length;
    add_bytes(frame, &text_tag, sizeof(text_tag));
    add_bytes(frame, &length, sizeof(length));
    builder_add(&frame->builder, value);
}

/* Memory for control messages, aligned as the macros want it. */
union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * FDS_TAKEN_MAX)];
};

static void attach_fd(struct msghdr *message, union control *control, int fd)
{
    memset(control, 0, sizeof(*control));
    message->msg_control = control->bytes;
    message->msg_controllen = CMSG_SPACE(sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(fd));
}

/* False when @deadline has passed without room. */
static bool wait_for_room(int socket, mono_ms deadline)
{
    mono_ms left_ms = deadline - clock_mono_ms();
    if (left_ms <= 0)
        return false;
    struct pollfd room = {.fd = socket, .events = POLLOUT};
    return poll(&room, 1, (int) left_ms) != 0;
}

bool frame_send(int socket, const struct frame_writer *frame, int fd, int wait_ms)
{
    if (frame->builder.overflowed)
        return false;
    struct iovec bytes = {.iov_base = frame->builder.at, .iov_len = frame->builder.length};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    union control control;
    if (fd >= 0)
        attach_fd(&message, &control, fd);

    mono_ms deadline = clock_mono_ms() + wait_ms;
    for (;;) {
        ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0)
            return true;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN || !wait_for_room(socket, deadline))
            return false;
    }
}

/* The descriptors that came with @message: @fds holds FDS_TAKEN_MAX. The kernel closes those it had no room for. */
static size_t fds_of(struct msghdr *message, int *fds)
{
    size_t count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t bytes = header->cmsg_len - CMSG_LEN(0);
        ENSURE(count + bytes / sizeof(int) <= FDS_TAKEN_MAX);
        memcpy(fds + count, CMSG_DATA(header), bytes);
        count += bytes / sizeof(int);
    }
    return count;
}

static void close_all(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
}

enum frame_result frame_receive(int socket, char *memory, size_t capacity, struct frame_reader *ret)
{
    struct iovec bytes = {.iov_base = memory, .iov_len = capacity};
    union control control;
    struct msghdr message = {
        .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t received;
    do {
        received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (received < 0 && errno == EINTR);
    if (received < 0)
        return errno == EAGAIN ? FRAME_NOTHING_YET : FRAME_CLOSED;

    int fds[FDS_TAKEN_MAX];
    size_t fd_count = fds_of(&message, fds);
    if (received == 0 || fd_count > 1 || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
        close_all(fds, fd_count);
        return FRAME_CLOSED;
    }
    *ret = (struct frame_reader){
        .type = (uint8_t) memory[0],
        .fd = fd_count == 1 ? fds[0] : -1,
        .rest = {memory + 1, (size_t) received - 1},
    };
    return FRAME_RECEIVED;
}

/* Take @count bytes off the front into @to (or only pass over them). False, and broken, when they are not there. */
static bool take_bytes(struct frame_reader *frame, void *to, size_t count)
{
    if (frame->broken || frame->rest.length < count) {
        frame->broken = true;
        return false;
    }
    if (to != NULL)
        memcpy(to, frame->rest.at, count);
    frame->rest = (struct text){frame->rest.at + count, frame->rest.length - count};
    return true;
}

static bool take_tag(struct frame_reader *frame, char wanted)
{
    char tag;
    if (take_bytes(frame, &tag, sizeof(tag)) && tag != wanted)
        frame->broken = true;
    return !frame->broken;
}

int64_t frame_read_int(struct frame_reader *frame)
{
    int64_t value;
    if (!take_tag(frame, integer_tag) || !take_bytes(frame, &value, sizeof(value)))
        return 0;
    return value;
}

struct text frame_read_text(struct frame_reader *frame)
{
    uint32_t length;
    struct text none = {NULL, 0};
    if (!take_tag(frame, text_tag) || !take_bytes(frame, &length, sizeof(length)))
        return none;
    if (length > FRAME_FIELD_BYTES_MAX)
        frame->broken = true;
    struct text value = {frame->rest.at, length};
    return take_bytes(frame, NULL, length) ? value : none;
}
