/* libmicrohttpd 0.9.75 as a parser and framer on our own loop; everything it cannot do is in connection.c and guard.c.
 */
#include "gateway/server.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "gateway/connection.h"

enum {
    POOL_BYTES = 32 * 1024,   /* a connection's head and send buffer inside the library */
    CONNECTIONS_MAX = 100000, /* of one server; the listener's own caps come first */
    READER_BLOCK_BYTES = 16 * 1024,
    RUNS_PER_TURN_MAX = 8
};

struct server {
    struct loop *loop;
    struct server_handlers handlers;
    void *owner;
    struct MHD_Daemon *daemon;
    struct loop_watch watch; /* the library's own epoll */
    struct loop_timer again; /* it has work left */
    struct loop_turn_end turn_end;
    struct connection *resumes;
    struct connection *open;
    unsigned connections;
};

const struct server_handlers *server_handlers_of(const struct server *server)
{
    return &server->handlers;
}

struct loop *server_loop(const struct server *server)
{
    return server->loop;
}

const char *server_status_text(int status)
{
    return MHD_get_reason_phrase_for((unsigned) status);
}

const char *server_client_address(const struct connection *connection)
{
    return connection->address;
}

unsigned server_connection_count(const struct server *server)
{
    return server->connections;
}

/* ---- the library's turn ---- */

void server_resume_later(struct connection *connection)
{
    struct server *server = connection->server;
    if (!connection->suspended || connection->resume_queued)
        return;
    connection->resume_queued = true;
    connection->resume_next = server->resumes;
    server->resumes = connection;
    loop_at_turn_end(server->loop, &server->turn_end);
}

/* One resume walks the library's whole list of suspended connections, so all of a turn's resumes come before one run.
 */
static void on_turn_end(struct loop_turn_end *end)
{
    struct server *server = end->owner;
    MHD_UNSIGNED_LONG_LONG wait_ms = 1;
    for (int run = 0; run < RUNS_PER_TURN_MAX; run++) {
        while (server->resumes != NULL) {
            struct connection *connection = server->resumes;
            server->resumes = connection->resume_next;
            connection->resume_queued = false;
            connection->suspended = false;
            MHD_resume_connection(connection->library);
        }
        MHD_run(server->daemon);
        bool has_more = MHD_get_timeout(server->daemon, &wait_ms) == MHD_YES && wait_ms == 0;
        if (!has_more && server->resumes == NULL)
            return;
    }
    loop_timer_set(server->loop, &server->again, loop_now(server->loop));
}

static void on_library_ready(struct loop_watch *watch, uint32_t events)
{
    struct server *server = watch->owner;
    (void) events;
    loop_at_turn_end(server->loop, &server->turn_end);
}

static void on_again(struct loop_timer *timer)
{
    struct server *server = timer->owner;
    loop_at_turn_end(server->loop, &server->turn_end);
}

/* ---- connections ---- */

static struct connection *connection_of(struct MHD_Connection *library)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(library, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info != NULL ? info->socket_context : NULL;
}

static void write_address(struct connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection->library, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info != NULL ? info->client_addr : NULL;
    union {
        const struct sockaddr *any;
        const struct sockaddr_in *ipv4;
        const struct sockaddr_in6 *ipv6;
    } as = {.any = address};
    const char *written = NULL;
    if (address != NULL && address->sa_family == AF_INET)
        written = inet_ntop(AF_INET, &as.ipv4->sin_addr, connection->address, sizeof connection->address);
    else if (address != NULL && address->sa_family == AF_INET6)
        written = inet_ntop(AF_INET6, &as.ipv6->sin6_addr, connection->address, sizeof connection->address);
    if (written == NULL)
        text_copy(connection->address, sizeof connection->address, TEXT("unix"));
}

static void on_connection_started(struct server *server, struct MHD_Connection *library, void **socket_context)
{
    struct connection *connection = calloc(1, sizeof *connection);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(library, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (connection == NULL)
        return; /* on_access finds no context and closes */
    connection->server = server;
    connection->library = library;
    write_address(connection);
    if (!connection_init(connection, server->loop, info->connect_fd)) {
        connection_finish(connection);
        free(connection);
        return;
    }
    connection->next = server->open;
    if (connection->next != NULL)
        connection->next->previous = connection;
    server->open = connection;
    server->connections++;
    metric_add(metric_series(METRIC_CONNECTIONS, (const char *const[METRIC_LABELS_MAX]){NULL}), 1);
    *socket_context = connection;
}

static void on_connection_notice(void *cls, struct MHD_Connection *library, void **socket_context,
                                 enum MHD_ConnectionNotificationCode code)
{
    struct server *server = cls;
    struct connection *connection = *socket_context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        on_connection_started(server, library, socket_context);
        return;
    }
    if (connection == NULL)
        return;
    connection_finish(connection);
    if (connection->previous != NULL)
        connection->previous->next = connection->next;
    else
        server->open = connection->next;
    if (connection->next != NULL)
        connection->next->previous = connection->previous;
    if (server->handlers.closed != NULL)
        server->handlers.closed(server->owner, connection->address);
    server->connections--;
    metric_add(metric_series(METRIC_CONNECTIONS, (const char *const[METRIC_LABELS_MAX]){NULL}), -1);
    free(connection);
    *socket_context = NULL;
}

void server_shut_all(struct server *server)
{
    for (struct connection *connection = server->open; connection != NULL; connection = connection->next)
        shutdown(connection->fd, SHUT_RDWR);
}

bool server_adopt(struct server *server, int fd, const struct sockaddr *address, socklen_t address_length)
{
    int on = 1;
    (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on,
                      sizeof on); /* fails on a unix socket, where it is not needed */
    bool added = MHD_add_connection(server->daemon, fd, address, address_length) == MHD_YES;
    loop_at_turn_end(server->loop, &server->turn_end);
    return added;
}

/* ---- answers ---- */

/* The client is gone, or has to see that something is missing. A reader that answers with an error just after a resume
 * makes the library forget the connection without closing it; a byte that cannot be sent any more ends it properly. */
static ssize_t cut_off(struct connection *connection, char *to)
{
    shutdown(connection->fd, SHUT_RDWR);
    to[0] = '\n';
    return 1;
}

/* The library asks for body bytes: hand over what is there, else sleep until server_write. */
static ssize_t on_reader(void *cls, uint64_t position, char *to, size_t capacity)
{
    struct connection *connection = cls;
    (void) position;
    if (connection->gone)
        return cut_off(connection, to);
    if (connection->reply.kind == REPLY_STREAM && !connection->stream_open) {
        connection->stream_open = true;
        connection_flush(connection);
        if (connection->gone)
            return cut_off(connection, to);
    }
    size_t pending = buffer_length(&connection->out);
    if (connection->reply.kind == REPLY_LENGTH && pending > 0) {
        size_t count = pending < capacity ? pending : capacity;
        memcpy(to, buffer_text(&connection->out).at, count);
        buffer_consume(&connection->out, count);
        if (connection->write_ended)
            connection_expect_reading(connection);
        if (connection->writable_due && pending - count <= CONNECTION_LOW_WATER_BYTES) {
            connection->writable_due = false;
            connection->server->handlers.writable(connection->request);
        }
        return (ssize_t) count;
    }
    if (connection->write_ended && pending == 0)
        return connection->write_whole ? MHD_CONTENT_READER_END_OF_STREAM : cut_off(connection, to);
    connection->suspended = true;
    MHD_suspend_connection(connection->library);
    return 0;
}

static struct MHD_Response *make_response(struct connection *connection)
{
    const struct reply *reply = &connection->reply;
    union {
        const char *in;
        void *out;
    } unconst = {.in = reply->body.at};
    if (reply->kind == REPLY_WHOLE)
        return MHD_create_response_from_buffer(reply->body.length, unconst.out, MHD_RESPMEM_PERSISTENT);
    uint64_t length = reply->kind == REPLY_LENGTH ? reply->content_length : MHD_SIZE_UNKNOWN;
    return MHD_create_response_from_callback(length, READER_BLOCK_BYTES, on_reader, connection, NULL);
}

static enum MHD_Result queue_reply(struct connection *connection)
{
    const struct reply *reply = &connection->reply;
    struct MHD_Response *response = make_response(connection);
    if (response == NULL)
        return MHD_NO;
    for (size_t i = 0; i < reply->header_count; i++)
        (void) MHD_add_response_header(response, reply->headers[i].name, reply->headers[i].value);
    if (reply->close)
        (void) MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    connection->reply_queued = true;
    if (reply->kind == REPLY_WHOLE)
        connection_expect_reading(connection);
    enum MHD_Result result = MHD_queue_response(connection->library, (unsigned) reply->status, response);
    MHD_destroy_response(response);
    return result;
}

void server_reply(struct connection *connection, const struct reply *reply)
{
    ENSURE(!connection->reply_ready);
    connection->reply = *reply;
    connection->reply_ready = true;
    server_resume_later(connection);
}

bool server_write(struct connection *connection, struct text bytes)
{
    ENSURE(connection->reply_ready && !connection->write_ended);
    if (connection->gone)
        return true;
    bool kept = connection->reply.kind == REPLY_STREAM ? connection_write_frame(connection, bytes)
                                                       : buffer_add(&connection->out, bytes);
    if (connection->reply.kind == REPLY_LENGTH)
        server_resume_later(connection);
    if (buffer_length(&connection->out) > CONNECTION_LOW_WATER_BYTES)
        connection->writable_due = true;
    return kept;
}

void server_write_end(struct connection *connection, bool whole)
{
    ENSURE(!connection->write_ended);
    connection->write_ended = true;
    connection->write_whole = whole;
    connection_expect_reading(connection);
    if (buffer_length(&connection->out) == 0 || connection->reply.kind == REPLY_LENGTH)
        server_resume_later(connection);
}

size_t server_pending(const struct connection *connection)
{
    return buffer_length(&connection->out);
}

/* ---- requests ---- */

static enum MHD_Result add_header(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_length,
                                  const char *value, size_t value_length)
{
    (void) kind;
    guard_header(cls, (struct text){name, name_length}, (struct text){value, value_length});
    return MHD_YES;
}

/* The raw target, before the library cuts it at '?'. A path that does not fit is still longer than the guard allows; of
 * a long query, which no route needs, the start is kept. */
static void *on_uri(void *cls, const char *uri, struct MHD_Connection *library)
{
    struct connection *connection = connection_of(library);
    (void) cls;
    if (connection != NULL)
        connection->uri_length = text_copy(connection->uri, sizeof connection->uri, text_of(uri));
    return NULL;
}

/* Targets are compared as they were sent. */
static size_t keep_escapes(void *cls, struct MHD_Connection *library, char *text)
{
    (void) cls;
    (void) library;
    return strlen(text);
}

static void reset_request(struct connection *connection)
{
    connection->request = NULL;
    connection->gone_told = false;
    connection->body_done = false;
    connection->discarded_bytes = 0;
    connection->reply_ready = false;
    connection->reply_queued = false;
    connection->stream_open = false;
    connection->write_ended = false;
    connection->write_whole = false;
    connection->writable_due = false;
    connection->input_seen = false;
    buffer_clear(&connection->out);
}

/* The answer is known. The rest of the body is dropped first, so that the client reads it; unless it must not be read
 * at all, or was not sent yet. (The library closes the connection after an answer queued in this first call.) */
static enum MHD_Result answer_or_discard(struct connection *connection)
{
    bool has_body = guard_has_body(&connection->head);
    if (connection->reply.close || (has_body && connection->head.expects_continue)) {
        connection->reply.close = true;
        connection_set_phase(connection, CONNECTION_ANSWER);
        return queue_reply(connection);
    }
    connection_set_phase(connection, has_body ? CONNECTION_DISCARD : CONNECTION_ANSWER);
    return MHD_YES;
}

/* So that bytes beyond them are known to be another head's. */
static void note_used_bytes(struct connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection->library, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    int64_t length = connection->head.content_length;
    connection->used_unknown |= info == NULL || connection->head.is_chunked;
    connection->used_bytes += (info != NULL ? info->header_size : 0) + (length > 0 ? (uint64_t) length : 0);
}

static enum MHD_Result on_head(struct connection *connection, const char *method, const char *version)
{
    struct server *server = connection->server;
    struct http_head *head = &connection->head;
    reset_request(connection);
    guard_begin(head, text_of(method), (struct text){connection->uri, connection->uri_length}, text_of(version));
    MHD_get_connection_values_n(connection->library, MHD_HEADER_KIND, add_header, head);
    guard_end(head);
    note_used_bytes(connection);

    connection_set_phase(connection, guard_has_body(head) ? CONNECTION_BODY : CONNECTION_ANSWER);
    enum server_verdict verdict = server->handlers.head(server->owner, connection, head, &connection->request);
    if (connection->request == NULL)
        return MHD_NO;
    return verdict == SERVER_REPLY ? answer_or_discard(connection) : MHD_YES;
}

static enum MHD_Result on_body(struct connection *connection, struct text piece)
{
    if (connection->phase == CONNECTION_CUT)
        return MHD_YES;
    if (!connection->reply_ready) {
        if (connection->server->handlers.body(connection->request, piece) == SERVER_REPLY)
            connection_set_phase(connection, CONNECTION_DISCARD);
        return MHD_YES;
    }
    connection->discarded_bytes += piece.length;
    if (connection->discarded_bytes > SERVER_DISCARD_BYTES_MAX)
        connection_cut_with_answer(connection, &connection->reply);
    return MHD_YES;
}

/* After the body's end, and again after every resume. */
static enum MHD_Result on_answer_due(struct connection *connection)
{
    if (connection->phase == CONNECTION_CUT)
        return MHD_NO;
    if (!connection->body_done) {
        connection->body_done = true;
        connection->input_seen = false; /* that was the body */
        connection_set_phase(connection, CONNECTION_ANSWER);
        if (!connection->reply_ready && !connection->gone)
            (void) connection->server->handlers.body_end(connection->request);
    }
    if (connection->reply_ready)
        return queue_reply(connection);
    if (connection->gone)
        return MHD_NO;
    connection->suspended = true;
    MHD_suspend_connection(connection->library);
    return MHD_YES;
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *library, const char *url, const char *method,
                                 const char *version, const char *upload, size_t *upload_size, void **request_context)
{
    struct connection *connection = connection_of(library);
    (void) cls;
    (void) url;
    if (connection == NULL)
        return MHD_NO;
    if (*request_context == NULL) {
        *request_context = connection;
        return on_head(connection, method, version);
    }
    if (*upload_size > 0) {
        struct text piece = {upload, *upload_size};
        *upload_size = 0;
        return on_body(connection, piece);
    }
    return on_answer_due(connection);
}

static void on_completed(void *cls, struct MHD_Connection *library, void **request_context,
                         enum MHD_RequestTerminationCode code)
{
    struct connection *connection = *request_context;
    (void) cls;
    (void) library;
    *request_context = NULL;
    if (connection == NULL)
        return;
    if (connection->request != NULL) {
        bool sent = code == MHD_REQUEST_TERMINATED_COMPLETED_OK && connection->reply_queued && !connection->gone;
        void *request = connection->request;
        if (!sent && !connection->gone_told)
            connection->server->handlers.gone(request);
        connection->request = NULL;
        connection->server->handlers.end(request, sent);
    }
    /* Input seen meanwhile may be the next head's first bytes. */
    connection_set_phase(connection, connection->input_seen ? CONNECTION_HEAD : CONNECTION_IDLE);
    connection->input_seen = false;
}

/* ---- life ---- */

static bool start_daemon(struct server *server)
{
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_access, server,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) POOL_BYTES, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned) CONNECTIONS_MAX, MHD_OPTION_NOTIFY_CONNECTION, on_connection_notice, server,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_URI_LOG_CALLBACK, on_uri, server,
        MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    return server->daemon != NULL;
}

struct server *server_create(struct loop *loop, const struct server_handlers *handlers, void *owner)
{
    struct server *server = calloc(1, sizeof *server);
    if (server == NULL)
        return NULL;
    server->loop = loop;
    server->handlers = *handlers;
    server->owner = owner;
    server->again = (struct loop_timer){.fire = on_again, .owner = server};
    server->turn_end = (struct loop_turn_end){.run = on_turn_end, .owner = server};
    if (!start_daemon(server)) {
        free(server);
        return NULL;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    server->watch = (struct loop_watch){.fd = info->epoll_fd, .ready = on_library_ready, .owner = server};
    if (!loop_watch(loop, &server->watch, EPOLLIN)) {
        MHD_stop_daemon(server->daemon);
        free(server);
        return NULL;
    }
    return server;
}

void server_destroy(struct server **server_pointer)
{
    struct server *server = *server_pointer;
    *server_pointer = NULL;
    if (server == NULL)
        return;
    loop_unwatch(server->loop, &server->watch);
    loop_timer_cancel(server->loop, &server->again);
    loop_turn_end_cancel(server->loop, &server->turn_end);
    MHD_stop_daemon(server->daemon);
    free(server);
}
