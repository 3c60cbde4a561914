#include "tests/lib/server_room.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/lib/unit.h"

enum { HANG_SECONDS = 200, SEND_BUFFER_BYTES = 64 * 1024 };

/* ---- the owner of the requests ---- */

static void refuse(struct visit *visit, int status, bool close)
{
    struct reply reply = {.status = status,
                          .close = close,
                          .body = TEXT("refused"),
                          .header_count = 1,
                          .headers = {{"Content-Type", "text/plain"}}};
    server_reply(visit->connection, &reply);
}

static enum server_verdict on_head(void *owner, struct connection *connection, const struct http_head *head,
                                   void **ret_request)
{
    struct server_room *room = owner;
    assert_true(room->visit_count < SERVER_ROOM_VISITS);
    struct visit *visit = &room->visits[room->visit_count++];
    visit->connection = connection;
    text_copy(visit->path, sizeof(visit->path), head->path);
    *ret_request = strcmp(visit->path, "/none") == 0 ? NULL : visit;
    if (strcmp(visit->path, "/refuse") == 0 || strcmp(visit->path, "/close") == 0) {
        refuse(visit, 401, strcmp(visit->path, "/close") == 0);
        return SERVER_REPLY;
    }
    return SERVER_GO_ON;
}

static enum server_verdict on_body(void *request, struct text piece)
{
    struct visit *visit = request;
    assert_int_equal(visit->body_ends, 0);
    if (visit->body_bytes + piece.length < sizeof(visit->body))
        memcpy(visit->body + visit->body_bytes, piece.at, piece.length);
    visit->body_bytes += piece.length;
    if (strcmp(visit->path, "/large") != 0)
        return SERVER_GO_ON;
    refuse(visit, 413, false);
    return SERVER_REPLY;
}

static enum server_verdict on_body_end(void *request)
{
    struct visit *visit = request;
    assert_int_equal(++visit->body_ends, 1);
    if (strcmp(visit->path, "/later") == 0)
        return SERVER_GO_ON;
    struct reply reply = {.status = 200, .body = {visit->body, visit->body_bytes}};
    server_reply(visit->connection, &reply);
    return SERVER_REPLY;
}

static void on_writable(void *request)
{
    struct visit *visit = request;
    visit->writables++;
}

static void on_gone(void *request)
{
    struct visit *visit = request;
    assert_int_equal(visit->ends, 0);
    visit->gones++;
    visit->gone_at = clock_mono_ms();
}

static void on_end(void *request, bool sent)
{
    struct visit *visit = request;
    visit->ends++;
    visit->sent = sent;
    visit->connection = NULL;
}

static void on_closed(void *owner, const char *address)
{
    struct server_room *room = owner;
    room->closed++;
    text_copy(room->closed_address, sizeof(room->closed_address), text_of(address));
}

static const struct server_handlers handlers = {
    .head = on_head,
    .body = on_body,
    .body_end = on_body_end,
    .writable = on_writable,
    .gone = on_gone,
    .end = on_end,
    .closed = on_closed,
};

/* ---- the room ---- */

int server_room_set_up(void **state)
{
    struct server_room *room = calloc(1, sizeof(*room));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    alarm(HANG_SECONDS);
    room->got = malloc(SERVER_ROOM_GOT_BYTES);
    room->loop = loop_create();
    room->server = server_create(room->loop, &handlers, room);
    assert_non_null(room->server);
    room->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(room->listener, (struct sockaddr *) &address, sizeof(address)), 0);
    assert_int_equal(listen(room->listener, 16), 0);
    *state = room;
    return 0;
}

int server_room_tear_down(void **state)
{
    struct server_room *room = *state;
    if (room->server != NULL)
        server_shut_all(room->server);
    while (room->server != NULL && server_connection_count(room->server) > 0)
        loop_run_once(room->loop, 5);
    server_destroy(&room->server);
    server_destroy(&room->server);
    loop_destroy(room->loop);
    close(room->listener);
    free(room->got);
    free(room);
    return 0;
}

void server_room_run_for(struct server_room *room, int ms)
{
    mono_ms end = clock_mono_ms() + ms;
    while (clock_mono_ms() < end)
        loop_run_once(room->loop, 5);
}

struct visit *server_room_visit(struct server_room *room, int count)
{
    while (room->visit_count < count)
        loop_run_once(room->loop, 5);
    assert_int_equal(room->visit_count, count);
    return &room->visits[count - 1];
}

void server_room_until_end(struct server_room *room, struct visit *visit)
{
    while (visit->ends == 0)
        loop_run_once(room->loop, 5);
    server_room_run_for(room, 20);
    assert_int_equal(visit->ends, 1);
}

void server_room_reply(struct visit *visit, enum reply_kind kind, size_t content_length)
{
    struct reply reply = {.status = 200,
                          .kind = kind,
                          .content_length = content_length,
                          .header_count = 1,
                          .headers = {{"X-Test", "yes"}}};
    server_reply(visit->connection, &reply);
}

/* ---- clients ---- */

int client_connect(struct server_room *room, int receive_bytes)
{
    struct sockaddr_in address = {0};
    socklen_t length = sizeof(address);
    int send_bytes = SEND_BUFFER_BYTES;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_bytes > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
    getsockname(room->listener, (struct sockaddr *) &address, &length);
    assert_int_equal(connect(fd, (struct sockaddr *) &address, length), 0);
    int accepted = accept4(room->listener, (struct sockaddr *) &address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(accepted >= 0);
    if (receive_bytes > 0)
        setsockopt(accepted, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes));
    assert_true(server_adopt(room->server, accepted, (struct sockaddr *) &address, length));
    return fd;
}

bool client_send(struct server_room *room, int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t count = send(fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno != EAGAIN)
            return false;
        bytes += count > 0 ? count : 0;
        length -= count > 0 ? (size_t) count : 0;
        loop_run_once(room->loop, count > 0 ? 0 : 5);
    }
    return true;
}

void client_say(struct server_room *room, int fd, const char *text)
{
    assert_true(client_send(room, fd, text, strlen(text)));
}

/* False when nothing is there; 0 bytes = closed. */
static bool read_some(struct server_room *room, int fd, ssize_t *ret_count)
{
    size_t capacity = SERVER_ROOM_GOT_BYTES - 1 - room->got_bytes;
    ssize_t count = recv(fd, room->got + room->got_bytes, capacity, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN)
        return false;
    *ret_count = count > 0 ? count : 0;
    room->got_bytes += (size_t) *ret_count;
    room->got[room->got_bytes] = '\0';
    return true;
}

void client_read_until(struct server_room *room, int fd, const char *end)
{
    size_t end_length = strlen(end);
    room->got_bytes = 0;
    for (;;) {
        ssize_t count = 1;
        if (!read_some(room, fd, &count))
            loop_run_once(room->loop, 5);
        if (count == 0)
            fail_msg("closed after: %s", room->got);
        if (room->got_bytes >= end_length && strcmp(room->got + room->got_bytes - end_length, end) == 0)
            return;
    }
}

void client_read_to_close(struct server_room *room, int fd)
{
    ssize_t count = 1;
    room->got_bytes = 0;
    room->got[0] = '\0';
    while (count != 0) {
        if (!read_some(room, fd, &count))
            loop_run_once(room->loop, 5);
    }
    close(fd);
}

void client_sees_quiet(struct server_room *room, int fd, int ms)
{
    char byte;
    server_room_run_for(room, ms);
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
}

const char *client_body(const struct server_room *room)
{
    const char *end = strstr(room->got, "\r\n\r\n");
    return end != NULL ? end + 4 : "";
}
