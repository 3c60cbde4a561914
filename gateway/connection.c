/* One client's socket beside libmicrohttpd. */
#include "gateway/connection.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "base/panic.h"

/* IDLE is looked at first when a head could be overdue: see may_stay_idle. */
static const int64_t phase_limits_ms[CONNECTION_PHASE_COUNT] = {
    [CONNECTION_IDLE] = SERVER_HEAD_MS,
    [CONNECTION_HEAD] = SERVER_HEAD_MS,
    [CONNECTION_BODY] = SERVER_BODY_MS,
    [CONNECTION_DISCARD] = SERVER_DISCARD_MS,
    [CONNECTION_ANSWER] = 0,
    [CONNECTION_CUT] = SERVER_DISCARD_MS,
};

void connection_set_phase(struct connection *connection, enum connection_phase phase)
{
    struct loop *loop = server_loop(connection->server);
    connection->phase = phase;
    connection->idle_checked = false;
    if (phase_limits_ms[phase] == 0)
        loop_timer_cancel(loop, &connection->deadline);
    else
        loop_timer_set(loop, &connection->deadline, loop_now(loop) + phase_limits_ms[phase]);
}

void connection_expect_reading(struct connection *connection)
{
    struct loop *loop = server_loop(connection->server);
    loop_timer_set(loop, &connection->deadline, loop_now(loop) + SERVER_SEND_MS);
}

void connection_lost(struct connection *connection)
{
    connection->gone = true;
    if (connection->phase != CONNECTION_ANSWER)
        return; /* the library is reading and sees the end by itself */
    if (!connection->gone_told && connection->request != NULL) {
        connection->gone_told = true;
        server_handlers_of(connection->server)->gone(connection->request);
    }
    if (connection->suspended)
        server_resume_later(connection);
    else if (connection->reply_queued && connection->reply.kind != REPLY_WHOLE)
        shutdown(connection->fd, SHUT_RDWR); /* the library waits for a client that may never read */
}

/* The kernel has received bytes that belong to no request so far: a head was begun. The library may have read them
 * before we saw them come. */
static bool has_begun_head(const struct connection *connection)
{
    struct tcp_info info;
    socklen_t length = sizeof info;
    bool is_told = getsockopt(connection->fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
                   length >= offsetof(struct tcp_info, tcpi_bytes_received) + sizeof info.tcpi_bytes_received;
    return is_told && !connection->used_unknown && info.tcpi_bytes_received > connection->used_bytes;
}

/* After as long as a head may take, an idle connection is looked at; if nothing was begun it may stay idle for the
 * rest. */
static bool may_stay_idle(struct connection *connection)
{
    struct loop *loop = server_loop(connection->server);
    if (connection->phase != CONNECTION_IDLE || connection->idle_checked || has_begun_head(connection))
        return false;
    connection->idle_checked = true;
    loop_timer_set(loop, &connection->deadline, loop_now(loop) + SERVER_IDLE_MS - SERVER_HEAD_MS);
    return true;
}

/* A shut socket makes the library see the end and close it. */
static void on_deadline(struct loop_timer *timer)
{
    struct connection *connection = timer->owner;
    if (connection->phase == CONNECTION_DISCARD && connection->reply_ready) {
        connection_cut_with_answer(connection, &connection->reply);
        return;
    }
    if (connection->phase == CONNECTION_BODY) {
        struct reply late = {.status = 408,
                             .close = true,
                             .body =
                                 TEXT("{\"error\":{\"message\":\"The request's body did not arrive in time.\",\"type\":"
                                      "\"invalid_request_error\",\"param\":null,\"code\":\"request_timeout\"}}\n"),
                             .header_count = 1,
                             .headers = {{"Content-Type", "application/json"}}};
        connection_cut_with_answer(connection, &late);
        return;
    }
    if (may_stay_idle(connection))
        return;
    connection->gone = true;
    shutdown(connection->fd, SHUT_RDWR);
}

static void on_ready(struct loop_watch *watch, uint32_t events)
{
    struct connection *connection = watch->owner;
    if (events & EPOLLIN) {
        connection->input_seen = true;
    }
    bool has_begun = (events & EPOLLIN) != 0 || (connection->phase == CONNECTION_IDLE && has_begun_head(connection));
    if (connection->phase == CONNECTION_IDLE && has_begun)
        connection_set_phase(connection, CONNECTION_HEAD);
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        connection_lost(connection);
        return;
    }
    if ((events & EPOLLOUT) && connection->stream_open && buffer_length(&connection->out) > 0)
        connection_flush(connection);
}

bool connection_init(struct connection *connection, struct loop *loop, int fd)
{
    connection->fd = fd;
    connection->watch = (struct loop_watch){.fd = fd, .ready = on_ready, .owner = connection};
    connection->deadline = (struct loop_timer){.fire = on_deadline, .owner = connection};
    buffer_init(&connection->out, CONNECTION_PENDING_BYTES_MAX);
    /* Edge-triggered: the library reads and writes too, and a level would wake us for its bytes over and over. */
    if (!loop_watch(loop, &connection->watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET))
        return false;
    connection_set_phase(connection, CONNECTION_IDLE);
    return true;
}

void connection_finish(struct connection *connection)
{
    struct loop *loop = server_loop(connection->server);
    loop_unwatch(loop, &connection->watch);
    loop_timer_cancel(loop, &connection->deadline);
    buffer_finish(&connection->out);
}

/* After the pending bytes shrank: end the answer, or ask for more. */
static void after_send(struct connection *connection)
{
    size_t pending = buffer_length(&connection->out);
    if (pending == 0 && connection->write_ended) {
        server_resume_later(connection);
        return;
    }
    if (connection->writable_due && pending <= CONNECTION_LOW_WATER_BYTES) {
        connection->writable_due = false;
        server_handlers_of(connection->server)->writable(connection->request);
    }
}

void connection_flush(struct connection *connection)
{
    while (buffer_length(&connection->out) > 0) {
        struct text pending = buffer_text(&connection->out);
        ssize_t sent = send(connection->fd, pending.at, pending.length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EAGAIN))
            break;
        if (sent < 0) {
            connection_lost(connection);
            return;
        }
        buffer_consume(&connection->out, (size_t) sent);
        if (connection->write_ended)
            connection_expect_reading(connection);
    }
    after_send(connection);
}

/* Send the parts now as far as the kernel takes them; the count taken, or -1 when the client is gone. */
static ssize_t send_now(struct connection *connection, const struct iovec parts[3])
{
    struct iovec copy[3] = {parts[0], parts[1], parts[2]};
    struct msghdr message = {.msg_iov = copy, .msg_iovlen = 3};
    ssize_t sent;
    do {
        sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0 && (errno == EAGAIN))
        return 0;
    return sent;
}

/* What the kernel did not take of the parts, after the first @sent bytes; all of it or nothing, so that a frame that
 * does not fit leaves none of it behind. */
static bool keep_rest(struct connection *connection, const struct iovec parts[3], size_t sent)
{
    size_t rest_length = parts[0].iov_len + parts[1].iov_len + parts[2].iov_len - sent;
    if (buffer_length(&connection->out) + rest_length > CONNECTION_PENDING_BYTES_MAX)
        return false;
    for (size_t i = 0; i < 3; i++) {
        size_t skip = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        struct text rest = {(const char *) parts[i].iov_base + skip, parts[i].iov_len - skip};
        sent -= skip;
        if (rest.length > 0 && !buffer_add(&connection->out, rest))
            return false;
    }
    return true;
}

bool connection_write_frame(struct connection *connection, struct text bytes)
{
    char size_line[24];
    union {
        const char *in;
        char *out;
    } unconst = {.in = bytes.at};
    char line_end[3] = "\r\n";
    if (bytes.length == 0)
        return true; /* an empty chunk would end the body */

    struct iovec parts[3] = {{size_line, 0}, {unconst.out, bytes.length}, {line_end, 0}};
    if (!connection->head.is_http_1_0) {
        parts[0].iov_len = (size_t) snprintf(size_line, sizeof size_line, "%zx\r\n", bytes.length);
        parts[2].iov_len = 2;
    }
    ssize_t sent = 0;
    if (connection->stream_open && buffer_length(&connection->out) == 0)
        sent = send_now(connection, parts);
    if (sent < 0) {
        connection_lost(connection);
        return true;
    }
    return keep_rest(connection, parts, (size_t) sent);
}

void connection_cut_with_answer(struct connection *connection, const struct reply *reply)
{
    char memory[8192];
    struct builder answer;
    builder_init(&answer, memory, sizeof memory);
    builder_format(&answer, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %zu\r\n", reply->status,
                   server_status_text(reply->status), reply->body.length);
    for (size_t i = 0; i < reply->header_count; i++)
        builder_format(&answer, "%s: %s\r\n", reply->headers[i].name, reply->headers[i].value);
    builder_add_string(&answer, "\r\n");
    builder_add(&answer, reply->body);
    struct text bytes = builder_text(&answer);
    /* A fresh answer of some hundred bytes into an empty send buffer: taken whole or the client is gone anyway. */
    if (!answer.overflowed)
        (void) !send(connection->fd, bytes.at, bytes.length, MSG_NOSIGNAL | MSG_DONTWAIT);
    shutdown(connection->fd, SHUT_WR);
    connection_set_phase(connection, CONNECTION_CUT);
}
