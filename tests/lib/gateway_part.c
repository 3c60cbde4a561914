#include "tests/lib/gateway_part.h"

#include <dirent.h>
#include <poll.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/lib/unit.h"

const char *const PART_ENVIRONMENT[] = {"PATH=/usr/bin:/bin", NULL};

const char PART_STUBBORN_FAMILY[] =
    "trap '' TERM; sleep 60 & echo $!; setsid sh -c 'echo $$; exec sleep 60' & echo $$; wait; wait";

static char sent_memory[FRAME_BYTES_MAX];
static char received_memory[FRAME_BYTES_MAX];
static char name_memory[MASTER_NAME_BYTES_MAX + 1];
static char text_memory[MASTER_RING_BYTES + 1];

void part_send(int socket, enum master_frame type, const char *name, const int64_t *value, int fd)
{
    struct frame_writer frame;
    frame_begin(&frame, sent_memory, sizeof(sent_memory), (uint8_t) type);
    if (name != NULL)
        frame_add_text(&frame, text_of(name));
    if (value != NULL)
        frame_add_int(&frame, *value);
    assert_true(frame_send(socket, &frame, fd, KEEPER_WAIT_MS));
}

void part_say_ready(int socket)
{
    part_send(socket, MASTER_MARK, "", &(int64_t){1}, -1);
}

void part_say_stop(int socket, const char *name, int64_t grace_ms)
{
    part_send(socket, MASTER_STOP, name, &grace_ms, -1);
}

static void add_strings(struct frame_writer *frame, const char *const *strings)
{
    int64_t count = 0;
    while (strings[count] != NULL)
        count++;
    frame_add_int(frame, count);
    for (int64_t i = 0; i < count; i++)
        frame_add_text(frame, text_of(strings[i]));
}

void part_say_start_in(int socket, const char *name, const char *directory, const char *const *arguments,
                       const char *const *environment)
{
    struct frame_writer frame;
    frame_begin(&frame, sent_memory, sizeof(sent_memory), MASTER_START);
    frame_add_text(&frame, text_of(name));
    frame_add_text(&frame, TEXT("a note"));
    frame_add_text(&frame, text_of(directory));
    add_strings(&frame, arguments);
    add_strings(&frame, environment);
    assert_true(frame_send(socket, &frame, -1, KEEPER_WAIT_MS));
}

void part_say_start(int socket, const char *name, const char *script)
{
    const char *const arguments[] = {"/bin/sh", "-c", script, NULL};
    part_say_start_in(socket, name, "", arguments, PART_ENVIRONMENT);
}

struct frame_reader part_hear_any(int socket)
{
    struct frame_reader frame;
    struct pollfd ready = {.fd = socket, .events = POLLIN};
    assert_int_equal(poll(&ready, 1, KEEPER_WAIT_MS), 1);
    assert_int_equal(frame_receive(socket, received_memory, sizeof(received_memory), &frame), FRAME_RECEIVED);
    return frame;
}

struct frame_reader part_hear(int socket, enum master_frame type)
{
    struct frame_reader frame = part_hear_any(socket);
    assert_int_equal(frame.type, type);
    return frame;
}

const char *part_heard_name(struct frame_reader *frame)
{
    text_copy(name_memory, sizeof(name_memory), frame_read_text(frame));
    return name_memory;
}

const char *part_heard_text(struct frame_reader *frame)
{
    text_copy(text_memory, sizeof(text_memory), frame_read_text(frame));
    return text_memory;
}

int part_hear_started(int socket, const char *name)
{
    struct frame_reader frame = part_hear(socket, MASTER_STARTED);
    assert_string_equal(part_heard_name(&frame), name);
    int pid = (int) frame_read_int(&frame);
    uint64_t start_time = (uint64_t) frame_read_int(&frame);
    assert_true(pid > 0);
    assert_true(start_time > 0);
    return pid;
}

struct part_exit part_hear_exited(int socket, const char *name)
{
    struct frame_reader frame = part_hear(socket, MASTER_EXITED);
    assert_string_equal(part_heard_name(&frame), name);
    struct part_exit exit = {0};
    exit.pid = (int) frame_read_int(&frame);
    exit.wait_status = (int) frame_read_int(&frame);
    exit.was_asked = frame_read_int(&frame) != 0;
    exit.reason = part_heard_text(&frame);
    assert_false(frame.broken);
    return exit;
}

int part_start(int socket, const char *name, const char *script)
{
    part_say_start(socket, name, script);
    return part_hear_started(socket, name);
}

const char *part_logs(int socket, const char *name)
{
    part_send(socket, MASTER_LOGS, name, NULL, -1);
    struct frame_reader frame = part_hear(socket, MASTER_LOG_TAIL);
    assert_string_equal(part_heard_name(&frame), name);
    return part_heard_text(&frame);
}

/* The log once it has @lines lines. */
static const char *logs_of_lines(int socket, const char *name, int lines)
{
    mono_ms deadline = clock_mono_ms() + KEEPER_WAIT_MS;
    for (;;) {
        const char *text = part_logs(socket, name);
        int seen = 0;
        for (const char *at = text; *at != '\0'; at++)
            seen += *at == '\n';
        if (seen >= lines)
            return text;
        assert_true(clock_mono_ms() < deadline);
        poll(NULL, 0, 5);
    }
}

void part_logged_pids(int socket, const char *name, int *pids, int count)
{
    const char *at = logs_of_lines(socket, name, count);
    for (int i = 0; i < count; i++) {
        char *end;
        pids[i] = (int) strtol(at, &end, 10);
        assert_true(pids[i] > 1);
        assert_int_equal(*end, '\n');
        at = end + 1;
    }
}

/* ---- fixture ---- */

struct keeper part_keeper;
struct keeper_gateway part_gateway;

int part_set_up(void **state)
{
    (void) state;
    keeper_start(&part_keeper, "obey", PART_LONG_MS);
    assert_true(keeper_accept(&part_keeper, &part_gateway));
    part_say_ready(part_gateway.socket);
    return 0;
}

int part_tear_down(void **state)
{
    (void) state;
    keeper_finish(&part_keeper); /* first: or it would start a successor */
    keeper_gateway_close(&part_gateway);
    return 0;
}

void part_replace_gateway(void)
{
    keeper_gateway_kill(&part_gateway);
    keeper_gateway_close(&part_gateway);
    assert_true(keeper_accept(&part_keeper, &part_gateway));
}

const char *part_descriptor(int pid, int fd, char to[PART_LINK_BYTES])
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
    ssize_t length = readlink(path, to, PART_LINK_BYTES - 1);
    to[length > 0 ? length : 0] = '\0';
    return to;
}

int part_count_descriptors(int pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *descriptors = opendir(path);
    assert_non_null(descriptors);
    int count = 0;
    for (struct dirent *entry = readdir(descriptors); entry != NULL; entry = readdir(descriptors))
        count += entry->d_name[0] != '.';
    closedir(descriptors);
    return count;
}
