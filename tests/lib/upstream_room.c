#include "tests/lib/upstream_room.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/unit.h"

enum { HANG_SECONDS = 120 };

static size_t read_body(void *owner, size_t offset, char *to, size_t capacity);
static void on_head(void *owner, const struct exchange_head *head);
static enum body_verdict on_body(void *owner, struct text bytes);
static void on_end(void *owner, enum exchange_end end, const char *detail);
static const struct exchange_events events = {.head = on_head, .body = on_body, .end = on_end};

void asker_start(struct upstream_room *room, struct asker *asker)
{
    asker->room = room;
    if (asker->text == NULL)
        asker->text = calloc(1, UPSTREAM_ROOM_TEXT_BYTES);
    asker->exchange = exchange_start(room->upstream, &room->request, &events, asker);
    assert_non_null(asker->exchange);
    assert_int_equal(asker->reads + asker->bodies, 0);
}

static void act(struct asker *asker, enum then then)
{
    if (then == CANCEL)
        exchange_cancel(&asker->exchange);
    if (then == RELEASE)
        exchange_release(&asker->exchange);
    if (then == START_ANOTHER)
        asker_start(asker->room, asker->another);
    assert_true(then == NOTHING || then == START_ANOTHER || asker->exchange == NULL);
}

static size_t read_body(void *owner, size_t offset, char *to, size_t capacity)
{
    struct asker *asker = owner;
    size_t left = sizeof(ASKED_BODY) - 1 - offset;
    asker->reads++;
    if (asker->read_most > 0 && capacity > asker->read_most)
        capacity = asker->read_most;
    size_t count = left < capacity ? left : capacity;
    memcpy(to, &ASKED_BODY[offset], count);
    act(asker, asker->on_read);
    return count;
}

static void on_head(void *owner, const struct exchange_head *head)
{
    struct asker *asker = owner;
    assert_int_equal(asker->ends, 0);
    asker->heads++;
    asker->head = *head;
    act(asker, asker->on_head);
}

static enum body_verdict on_body(void *owner, struct text bytes)
{
    struct asker *asker = owner;
    assert_int_equal(asker->heads, 1);
    assert_int_equal(asker->ends, 0);
    if (asker->pausing)
        return BODY_PAUSE;
    asker->bodies++;
    assert_true(asker->length + bytes.length < UPSTREAM_ROOM_TEXT_BYTES);
    memcpy(asker->text + asker->length, bytes.at, bytes.length);
    asker->length += bytes.length;
    act(asker, asker->on_body);
    return BODY_TAKEN;
}

static void on_end(void *owner, enum exchange_end end, const char *detail)
{
    struct asker *asker = owner;
    asker->ends++;
    asker->end = end;
    snprintf(asker->detail, sizeof(asker->detail), "%s", detail);
    act(asker, asker->on_end);
    asker->exchange = NULL;
}

/* ---- the room ---- */

static void listen_on(struct upstream_room *room, const struct sockaddr *address, socklen_t length)
{
    room->listener = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(room->listener, address, length), 0);
    assert_int_equal(listen(room->listener, 16), 0);
}

int upstream_room_set_up(void **state)
{
    struct upstream_room *room = calloc(1, sizeof(*room));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    alarm(HANG_SECONDS);
    room->loop = loop_create();
    room->upstream = upstream_create(room->loop);
    assert_non_null(room->upstream);
    listen_on(room, (struct sockaddr *) &address, length);
    assert_int_equal(getsockname(room->listener, (struct sockaddr *) &address, &length), 0);
    snprintf(room->base_url, sizeof(room->base_url), "http://127.0.0.1:%d", ntohs(address.sin_port));
    room->target = (struct lease_target){.engine = "m/0",
                                         .base_url = room->base_url,
                                         .timeouts = {.connect_ms = UPSTREAM_ROOM_LONG_MS,
                                                      .first_token_ms = UPSTREAM_ROOM_LONG_MS,
                                                      .inter_chunk_ms = UPSTREAM_ROOM_LONG_MS,
                                                      .total_ms = UPSTREAM_ROOM_LONG_MS}};
    room->request = (struct exchange_request){.target = &room->target,
                                              .path = "/v1/completions",
                                              .request_id = "req_1",
                                              .body_length = sizeof(ASKED_BODY) - 1,
                                              .read_body = read_body};
    *state = room;
    return 0;
}

int upstream_room_tear_down(void **state)
{
    struct upstream_room *room = *state;
    upstream_destroy(&room->upstream);
    assert_null(room->upstream);
    upstream_destroy(&room->upstream);
    loop_destroy(room->loop);
    close(room->listener);
    free(room);
    return 0;
}

void room_run_for(struct upstream_room *room, int ms)
{
    mono_ms end = clock_mono_ms() + ms;
    while (clock_mono_ms() < end)
        loop_run_once(room->loop, 5);
}

void asker_until_end(struct asker *asker)
{
    while (asker->ends == 0)
        loop_run_once(asker->room->loop, 1000);
    assert_int_equal(asker->ends, 1);
}

void asker_forget(struct asker *asker)
{
    free(asker->text);
    *asker = (struct asker){0};
}

/* ---- the engine ---- */

bool engine_may_accept(struct upstream_room *room, int *ret_fd)
{
    *ret_fd = accept4(room->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    room->accepted += *ret_fd >= 0;
    return *ret_fd >= 0;
}

int engine_accept(struct upstream_room *room)
{
    int fd;
    while (!engine_may_accept(room, &fd))
        loop_run_once(room->loop, 5);
    return fd;
}

/* The next request, whole, into got. */
void engine_read(struct upstream_room *room, int fd)
{
    size_t length = 0;
    for (;;) {
        ssize_t count = recv(fd, room->got + length, sizeof(room->got) - 1 - length, 0);
        assert_true(count > 0 || (count < 0 && errno == EAGAIN));
        length += count > 0 ? (size_t) count : 0;
        room->got[length] = '\0';
        if (length > sizeof(ASKED_BODY) - 1 && strcmp(room->got + length - (sizeof(ASKED_BODY) - 1), ASKED_BODY) == 0)
            return;
        loop_run_once(room->loop, 5);
    }
}

void engine_write(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* The gateway closed this connection, having sent nothing more. */
void engine_sees_close(struct upstream_room *room, int fd)
{
    char byte;
    ssize_t count;
    while ((count = recv(fd, &byte, 1, 0)) < 0 && errno == EAGAIN)
        loop_run_once(room->loop, 5);
    assert_true(count == 0 || (count < 0 && errno == ECONNRESET));
    close(fd);
}

/* It is open, and nothing more was sent. */
void engine_sees_quiet(struct upstream_room *room, int fd)
{
    char byte;
    room_run_for(room, 50);
    assert_int_equal(recv(fd, &byte, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

void engine_reset(int fd)
{
    struct linger now = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(fd);
}

/* One whole exchange on @fd (-1 = a new connection); the connection. */
int engine_serve(struct upstream_room *room, int fd, struct asker *asker, const char *answer)
{
    asker_start(room, asker);
    if (fd < 0)
        fd = engine_accept(room);
    engine_read(room, fd);
    engine_write(fd, answer);
    asker_until_end(asker);
    return fd;
}

/* A stream that has begun: its head and five bytes have come. */
int engine_begin_stream(struct upstream_room *room, struct asker *asker)
{
    room->request.streaming = true;
    asker_start(room, asker);
    int fd = engine_accept(room);
    engine_read(room, fd);
    engine_write(fd, STREAM_HEAD STREAM_HELLO);
    while (asker->bodies == 0 && asker->exchange != NULL && !asker->pausing)
        loop_run_once(room->loop, 1000);
    return fd;
}
