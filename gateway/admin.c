/* The admin listener. Without the token it answers GET only, to this machine only, and only under a local name, so that
 * no web page can read it by a DNS name of its own. */
#include "gateway/admin.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/metrics.h"
#include "conf/reload.h"
#include "gateway/admin_limits.h"
#include "gateway/admin_usage.h"
#include "gateway/body.h"
#include "gateway/gateway.h"
#include "gateway/process_metrics.h"
#include "gateway/recent.h"
#include "gateway/server.h"

enum {
    ANSWER_BYTES_MAX = 16 * 1024 * 1024,
    ACCEPTS_PER_TURN_MAX = 16,
    CONNECTIONS_MAX = 256,
    FULL_PAUSE_MS = 100,
    BODY_MAX = 64 * 1024
};

struct admin {
    struct gateway *gateway;
    struct server *server;
    struct loop_watch watch;
    struct loop_timer again; /* the listener is not watched until then: no room */
};

struct admin_request {
    struct admin *admin;
    struct connection *connection;
    const struct http_head *head;
    struct buffer body;
    struct buffer answer;
    int status;
    bool replied;
    struct admin_change *change; /* what the answer waits for; it forgets us when we go first */
};

/* ---- answers ---- */

static void reply(struct admin_request *request, const char *content_type)
{
    struct reply answer = {.status = request->status, .kind = REPLY_WHOLE, .body = buffer_text(&request->answer)};
    answer.close = request->head->verdict != GUARD_OK;
    answer.headers[answer.header_count++] = (struct reply_header){"Content-Type", content_type};
    answer.headers[answer.header_count++] = (struct reply_header){"Cache-Control", "no-store"};
    if (request->status == 401)
        answer.headers[answer.header_count++] = (struct reply_header){"WWW-Authenticate", "Bearer"};
    request->replied = true;
    server_reply(request->connection, &answer);
}

static void reply_error(struct admin_request *request, int status, const char *message)
{
    request->status = status;
    buffer_clear(&request->answer);
    (void) buffer_format(&request->answer, "{\"error\":{\"message\":\"%s\"}}\n", message);
    reply(request, "application/json");
}

static void get_livez(struct admin_request *request)
{
    (void) buffer_add(&request->answer, TEXT("ok\n"));
    reply(request, "text/plain; charset=utf-8");
}

static void get_readyz(struct admin_request *request)
{
    struct buffer lines;
    buffer_init(&lines, ANSWER_BYTES_MAX);
    bool is_ready = gateway_is_ready(request->admin->gateway, &lines);
    request->status = is_ready ? 200 : 503;
    struct text query = request->head->query;
    if (query.at != NULL && text_starts_with(query, TEXT("verbose")))
        (void) buffer_add(&request->answer, buffer_text(&lines));
    (void) buffer_format(&request->answer, "%s\n", is_ready ? "ready" : "not ready");
    buffer_finish(&lines);
    reply(request, "text/plain; charset=utf-8");
}

static void get_metrics(struct admin_request *request)
{
    process_metrics_update();
    money_update_metrics(&request->admin->gateway->money);
    if (!metrics_write(&request->answer)) {
        reply_error(request, 500, "The metrics do not fit.");
        return;
    }
    reply(request, "text/plain; version=0.0.4; charset=utf-8");
}

static void get_engines(struct admin_request *request)
{
    if (fleet_write_json(request->admin->gateway->fleet, &request->answer))
        reply(request, "application/json");
    else
        reply_error(request, 500, "The list does not fit.");
}

static void get_requests(struct admin_request *request)
{
    if (recent_write_json(&request->answer))
        reply(request, "application/json");
    else
        reply_error(request, 500, "The list does not fit.");
}

static void get_limits(struct admin_request *request)
{
    char message[ADMIN_LIMITS_MESSAGE_BYTES];
    const struct policy *policy = reload_current();
    int status =
        admin_limits_write(request->admin->gateway->limiter, policy, request->head->query, &request->answer, message);
    policy_drop(&policy);
    if (status == 200)
        reply(request, "application/json");
    else
        reply_error(request, status, message);
}

static void get_usage(struct admin_request *request)
{
    if (admin_usage_write(request->admin->gateway, &request->answer))
        reply(request, "application/json");
    else
        reply_error(request, 500, "The answer does not fit.");
}

static void on_changed(void *owner, int status, struct text body)
{
    struct admin_request *request = owner;
    bool is_ending = request->admin->gateway->draining && status == 404;
    request->change = NULL;
    request->status = is_ending ? 503 : status;
    (void) buffer_add(&request->answer, body);
    reply(request, "application/json");
}

/* The billing thread answers, at its leisure. */
static void post_billing(struct admin_request *request)
{
    struct gateway *gateway = request->admin->gateway;
    struct admin_change *change = calloc(1, sizeof *change);
    if (change == NULL) {
        reply_error(request, 500, "Out of memory.");
        return;
    }
    const char *complaint = admin_change_parse(buffer_text(&request->body), change);
    if (complaint != NULL) {
        free(change);
        reply_error(request, 400, complaint);
        return;
    }
    change->answer = on_changed;
    change->owner = request;
    request->change = change;
    admin_change_begin(gateway->money.biller, gateway->loop, change);
}

static void forget_change(struct admin_request *request)
{
    if (request->change != NULL)
        request->change->answer = NULL;
    request->change = NULL;
}

static void post_reload(struct admin_request *request)
{
    struct buffer problems;
    buffer_init(&problems, ANSWER_BYTES_MAX / 4);
    bool accepted = gateway_reload_config(request->admin->gateway, &problems);
    struct text text = buffer_text(&problems);
    size_t capacity = text.length * 6 + 64;
    char *memory = malloc(capacity);
    if (memory == NULL) {
        buffer_finish(&problems);
        reply_error(request, 500, "Out of memory.");
        return;
    }
    struct builder json;
    builder_init(&json, memory, capacity);
    builder_format(&json, "{\"result\":\"%s\",\"problems\":", accepted ? "accepted" : "refused");
    builder_add_json(&json, text);
    builder_add_string(&json, "}\n");
    (void) buffer_add(&request->answer, builder_text(&json));
    free(memory);
    buffer_finish(&problems);
    request->status = accepted ? 200 : 422;
    reply(request, "application/json");
}

/* ---- who may ask, and what ---- */

static const struct {
    struct text path;
    enum http_method method;
    void (*run)(struct admin_request *request);
} routes[] = {
    {{"/livez", 6}, HTTP_GET, get_livez},
    {{"/health", 7}, HTTP_GET, get_livez},
    {{"/readyz", 7}, HTTP_GET, get_readyz},
    {{"/metrics", 8}, HTTP_GET, get_metrics},
    {{"/admin/v1/engines", 17}, HTTP_GET, get_engines},
    {{"/admin/v1/requests", 18}, HTTP_GET, get_requests},
    {{"/admin/v1/limits", 16}, HTTP_GET, get_limits},
    {{"/admin/v1/usage", 15}, HTTP_GET, get_usage},
    {{"/admin/v1/reload", 16}, HTTP_POST, post_reload},
    {{"/admin/v1/billing", 17}, HTTP_POST, post_billing},
};

static bool has_token(const struct admin_request *request)
{
    static const char scheme[] = "Bearer ";
    const char *token = request->admin->gateway->admin_token;
    struct text given = request->head->authorization;
    struct text prefix = {given.at, given.length < sizeof scheme - 1 ? given.length : sizeof scheme - 1};
    if (!text_equal_ignoring_case(prefix, TEXT("Bearer ")))
        return false;
    struct text rest = {given.at + prefix.length, given.length - prefix.length};
    size_t length = strlen(token);
    return length > 0 && rest.length == length && CRYPTO_memcmp(rest.at, token, length) == 0;
}

static bool is_local_name(struct text host)
{
    static const struct text names[] = {{"localhost", 9}, {"127.0.0.1", 9}, {"[::1]", 5}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t length = names[i].length;
        struct text start = {host.at, host.length < length ? host.length : length};
        if (text_equal_ignoring_case(start, names[i]) && (host.length == length || host.at[length] == ':'))
            return true;
    }
    return false;
}

static bool may_ask(struct admin_request *request)
{
    const char *address = server_client_address(request->connection);
    bool is_near = strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0 || strcmp(address, "unix") == 0;
    if (request->head->authorization.at != NULL) {
        if (has_token(request))
            return true;
        reply_error(request, 401, "Wrong admin token. It stands in the admin.token file of the state directory.");
        return false;
    }
    if (request->head->method != HTTP_GET || !is_near) {
        reply_error(request, 401, "This needs the admin token, as 'Authorization: Bearer <token>'.");
        return false;
    }
    if (!is_local_name(request->head->host) && strcmp(address, "unix") != 0) {
        reply_error(request, 403, "Without the admin token the Host must be localhost, 127.0.0.1 or [::1].");
        return false;
    }
    return true;
}

static void run_route(struct admin_request *request)
{
    const struct http_head *head = request->head;
    if (request->admin->gateway->money.biller == NULL) { /* it has ended: what is asked about is gone */
        reply_error(request, 503, "The gateway ends.");
        return;
    }
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (!text_equal(head->path, routes[i].path))
            continue;
        if (head->method != routes[i].method) {
            reply_error(request, 405, "Wrong method for this path.");
            return;
        }
        request->status = 200;
        routes[i].run(request);
        return;
    }
    reply_error(request, 404,
                "Unknown path. Here are /livez, /readyz, /metrics, /admin/v1/engines, /admin/v1/requests, "
                "/admin/v1/limits, /admin/v1/usage, POST /admin/v1/reload and POST /admin/v1/billing.");
}

/* ---- the server's calls ---- */

static enum server_verdict on_head(void *owner, struct connection *connection, const struct http_head *head,
                                   void **ret_request)
{
    struct admin_request *request = calloc(1, sizeof *request);
    *ret_request = request;
    if (request == NULL)
        return SERVER_REPLY;
    *request = (struct admin_request){.admin = owner, .connection = connection, .head = head};
    buffer_init(&request->answer, ANSWER_BYTES_MAX);
    buffer_init(&request->body, BODY_MAX);
    if (head->verdict != GUARD_OK) {
        reply_error(request, GUARD_ANSWERS[head->verdict].status, GUARD_ANSWERS[head->verdict].message);
        return SERVER_REPLY;
    }
    return may_ask(request) ? SERVER_GO_ON : SERVER_REPLY;
}

/* Few routes read a body; some clients always send one. */
static enum server_verdict on_body(void *context, struct text piece)
{
    struct admin_request *request = context;
    if (buffer_add(&request->body, piece))
        return SERVER_GO_ON;
    reply_error(request, 413, "No body of this size is needed here.");
    return SERVER_REPLY;
}

static enum server_verdict on_body_end(void *context)
{
    struct admin_request *request = context;
    run_route(request);
    return request->replied ? SERVER_REPLY : SERVER_GO_ON;
}

static void on_writable(void *request)
{
    (void) request;
}

static void on_gone(void *request)
{
    forget_change(request);
}

static void on_end(void *context, bool sent)
{
    struct admin_request *request = context;
    (void) sent;
    forget_change(request);
    buffer_finish(&request->body);
    buffer_finish(&request->answer);
    free(request);
}

static const struct server_handlers handlers = {
    .head = on_head, .body = on_body, .body_end = on_body_end, .writable = on_writable, .gone = on_gone, .end = on_end};

/* ---- life ---- */

static void on_again(struct loop_timer *timer)
{
    struct admin *admin = timer->owner;
    if (!loop_watch(admin->gateway->loop, &admin->watch, EPOLLIN))
        loop_timer_set(admin->gateway->loop, timer, loop_now(admin->gateway->loop) + FULL_PAUSE_MS);
}

/* No room for who waits: looking at once again would only burn the control thread's time. */
static void pause_accepting(struct admin *admin)
{
    struct loop *loop = admin->gateway->loop;
    loop_unwatch(loop, &admin->watch);
    loop_timer_set(loop, &admin->again, loop_now(loop) + FULL_PAUSE_MS);
}

static void on_ready(struct loop_watch *watch, uint32_t events)
{
    struct admin *admin = watch->owner;
    (void) events;
    for (int i = 0; i < ACCEPTS_PER_TURN_MAX; i++) {
        if (server_connection_count(admin->server) >= CONNECTIONS_MAX) {
            pause_accepting(admin);
            return;
        }
        struct sockaddr_storage address = {0};
        socklen_t length = sizeof address;
        union {
            struct sockaddr_storage *storage;
            struct sockaddr *any;
        } as = {.storage = &address};
        int fd = accept4(watch->fd, as.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            pause_accepting(admin);
        if (fd < 0)
            return;
        (void) server_adopt(admin->server, fd, as.any, length);
    }
}

struct admin *admin_create(struct gateway *gateway, int listen_fd)
{
    struct admin *admin = calloc(1, sizeof *admin);
    if (admin == NULL)
        return NULL;
    admin->gateway = gateway;
    admin->server = server_create(gateway->loop, &handlers, admin);
    admin->again = (struct loop_timer){.fire = on_again, .owner = admin};
    admin->watch = (struct loop_watch){.fd = listen_fd, .ready = on_ready, .owner = admin};
    if (admin->server == NULL || !loop_watch(gateway->loop, &admin->watch, EPOLLIN)) {
        server_destroy(&admin->server);
        free(admin);
        return NULL;
    }
    return admin;
}

void admin_destroy(struct admin **admin_pointer)
{
    struct admin *admin = *admin_pointer;
    *admin_pointer = NULL;
    if (admin == NULL)
        return;
    loop_unwatch(admin->gateway->loop, &admin->watch);
    loop_timer_cancel(admin->gateway->loop, &admin->again);
    server_destroy(&admin->server);
    free(admin);
}
