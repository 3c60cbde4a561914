#include "tests/lib/http_stub.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/unit.h"

enum { CONNECTIONS_MAX = 4096, HEAD_BYTES_MAX = 8 * 1024, LISTEN_BACKLOG = 256 };

struct connection {
    struct http_stub *stub;
    int fd;
    pthread_t thread;
};

struct http_stub {
    http_stub_handler *handler;
    void *owner;
    int listener;
    int port;
    char url[64];
    pthread_t acceptor;
    pthread_mutex_t lock;
    struct connection connections[CONNECTIONS_MAX];
    atomic_int connection_count, request_count, open_count;
    atomic_bool stopping;
};

static bool read_head(int fd, char *head, size_t *length, char **ret_body)
{
    for (;;) {
        head[*length] = '\0';
        *ret_body = strstr(head, "\r\n\r\n");
        if (*ret_body != NULL) {
            *ret_body += 4;
            return true;
        }
        ssize_t count = *length < HEAD_BYTES_MAX - 1 ? read(fd, head + *length, HEAD_BYTES_MAX - 1 - *length) : 0;
        if (count <= 0)
            return false;
        *length += (size_t) count;
    }
}

static void copy_header(char *to, size_t capacity, const char *head, const char *name)
{
    const char *line = strcasestr(head, name);
    to[0] = '\0';
    if (line != NULL)
        snprintf(to, capacity, "%.*s", (int) strcspn(line + strlen(name), "\r"), line + strlen(name));
}

static bool read_request(int fd, struct http_stub_request *request)
{
    char head[HEAD_BYTES_MAX];
    char length_text[32];
    char *body;
    size_t length = 0;
    memset(request, 0, sizeof(*request));
    if (!read_head(fd, head, &length, &body))
        return false;
    size_t have = length - (size_t) (body - head);
    snprintf(request->head, sizeof(request->head), "%.*s", (int) (body - head), head);
    sscanf(head, "%15s %255s", request->method, request->path);
    copy_header(length_text, sizeof(length_text), head, "\r\ncontent-length: ");
    copy_header(request->authorization, sizeof(request->authorization), head, "\r\nauthorization: ");
    size_t wanted = strtoul(length_text, NULL, 10);
    if (wanted >= sizeof(request->body) || have > wanted)
        return false;
    memcpy(request->body, body, have);
    while (have < wanted) {
        ssize_t count = read(fd, request->body + have, wanted - have);
        if (count <= 0)
            return false;
        have += (size_t) count;
    }
    return true;
}

static bool write_all(int fd, const char *from, size_t length)
{
    while (length > 0) {
        ssize_t count = send(fd, from, length, MSG_NOSIGNAL);
        if (count <= 0)
            return false;
        from += count;
        length -= (size_t) count;
    }
    return true;
}

static bool write_answer(int fd, const struct http_stub_answer *answer)
{
    char head[1024];
    size_t length = answer->body_bytes > 0 ? answer->body_bytes : strlen(answer->body);
    int head_length =
        snprintf(head, sizeof(head), "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n%s%s\r\n", answer->status, length,
                 answer->header != NULL ? answer->header : "", answer->header != NULL ? "\r\n" : "");
    if (!write_all(fd, head, (size_t) head_length))
        return false;
    if (answer->body_bytes == 0)
        return write_all(fd, answer->body, length);
    for (size_t i = 0; i < length; i++) {
        if (!write_all(fd, "x", 1))
            return false;
    }
    return true;
}

static void *serve(void *argument)
{
    struct connection *connection = argument;
    struct http_stub *stub = connection->stub;
    struct http_stub_request *request = malloc(sizeof(*request));
    while (read_request(connection->fd, request)) {
        struct http_stub_answer answer = {.status = 200, .body = "{}"};
        stub->request_count++;
        pthread_mutex_lock(&stub->lock);
        stub->handler(stub->owner, request, &answer);
        pthread_mutex_unlock(&stub->lock);
        if (answer.hang) {
            char byte;
            while (read(connection->fd, &byte, 1) > 0)
                ;
            break;
        }
        if (answer.status == 0 || !write_answer(connection->fd, &answer))
            break;
    }
    free(request);
    pthread_mutex_lock(&stub->lock);
    close(connection->fd);
    connection->fd = -1;
    pthread_mutex_unlock(&stub->lock);
    stub->open_count--;
    return NULL;
}

static void *accept_all(void *argument)
{
    struct http_stub *stub = argument;
    for (;;) {
        int fd = accept4(stub->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 || stub->stopping) {
            if (fd >= 0)
                close(fd);
            return NULL;
        }
        if (stub->connection_count == CONNECTIONS_MAX)
            abort(); /* a test that waits for an answer would wait for ever */
        struct connection *connection = &stub->connections[stub->connection_count];
        connection->stub = stub;
        connection->fd = fd;
        stub->open_count++;
        stub->connection_count++; /* before its thread can answer, and the test look */
        if (pthread_create(&connection->thread, NULL, serve, connection) != 0)
            abort();
    }
}

static void listen_tcp(struct http_stub *stub, int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t) port)};
    socklen_t length = sizeof(address);
    stub->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(stub->listener, (struct sockaddr *) &address, length), 0);
    assert_int_equal(getsockname(stub->listener, (struct sockaddr *) &address, &length), 0);
    stub->port = ntohs(address.sin_port);
    snprintf(stub->url, sizeof(stub->url), "http://127.0.0.1:%d", stub->port);
}

static void listen_unix(struct http_stub *stub, const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    stub->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
    assert_int_equal(bind(stub->listener, (struct sockaddr *) &address, sizeof(address)), 0);
    snprintf(stub->url, sizeof(stub->url), "http://localhost");
}

struct http_stub *http_stub_start(const char *address, http_stub_handler *handler, void *owner)
{
    struct http_stub *stub = calloc(1, sizeof(*stub));
    assert_non_null(stub);
    stub->handler = handler;
    stub->owner = owner;
    pthread_mutex_init(&stub->lock, NULL);
    if (address != NULL && address[0] != ':')
        listen_unix(stub, address);
    else
        listen_tcp(stub, address != NULL ? atoi(address + 1) : 0);
    assert_int_equal(listen(stub->listener, LISTEN_BACKLOG), 0);
    assert_int_equal(pthread_create(&stub->acceptor, NULL, accept_all, stub), 0);
    return stub;
}

void http_stub_stop(struct http_stub **stub_pointer)
{
    struct http_stub *stub = *stub_pointer;
    if (stub == NULL)
        return;
    *stub_pointer = NULL;
    stub->stopping = true;
    shutdown(stub->listener, SHUT_RDWR);
    pthread_join(stub->acceptor, NULL);
    close(stub->listener);
    pthread_mutex_lock(&stub->lock);
    for (int i = 0; i < stub->connection_count; i++) {
        if (stub->connections[i].fd >= 0)
            shutdown(stub->connections[i].fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&stub->lock);
    for (int i = 0; i < stub->connection_count; i++)
        pthread_join(stub->connections[i].thread, NULL);
    pthread_mutex_destroy(&stub->lock);
    free(stub);
}

int http_stub_port(const struct http_stub *stub)
{
    return stub->port;
}

const char *http_stub_url(const struct http_stub *stub)
{
    return stub->url;
}

int http_stub_connections(const struct http_stub *stub)
{
    return stub->connection_count;
}

int http_stub_requests(const struct http_stub *stub)
{
    return stub->request_count;
}

int http_stub_open(const struct http_stub *stub)
{
    return stub->open_count;
}
