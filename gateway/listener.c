/* The thread that accepts. */
#include "gateway/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "gateway/worker.h"

enum {
    NO_DESCRIPTOR_PAUSE_MS = 100,
    RESERVED_DESCRIPTORS = 256, /* for engines' sockets, logs and files */
    ADDRESS_BUCKETS = 4096,
    ADDRESS_SHARE_DIVISOR = 4 /* one remote address may hold a quarter of all connections */
};

struct listener {
    int fd;
    int stop_fd;
    struct worker *const *workers;
    int worker_count;
    int connections_max;
    pthread_t thread;
};

/* Connections by a hash of their address: bounded memory, and a collision only makes the cap a little stricter. */
static atomic_int held_by_address[ADDRESS_BUCKETS];

static atomic_int *bucket_of(const char *address)
{
    uint32_t hash = 2166136261u;
    for (const char *at = address; *at != '\0'; at++)
        hash = (hash ^ (uint8_t) *at) * 16777619u;
    return &held_by_address[hash % ADDRESS_BUCKETS];
}

void listener_forget(const char *address)
{
    atomic_fetch_sub_explicit(bucket_of(address), 1, memory_order_relaxed);
}

/* ---- bind ---- */

static int fail(char error[LISTENER_ERROR_BYTES], int fd, const char *what, const char *where)
{
    const char *advice = errno == EADDRINUSE ? " (another process listens there: stop it, or change the address)"
                         : errno == EACCES   ? " (not permitted: use a port above 1023, or a directory you may write)"
                                             : "";
    snprintf(error, LISTENER_ERROR_BYTES, "cannot %s %s: %s%s", what, where, strerror(errno), advice);
    if (fd >= 0)
        close(fd);
    return -1;
}

/* A socket that was left behind: only such a file is ever removed. */
static bool nobody_listens(const struct sockaddr_un *address)
{
    union {
        const struct sockaddr_un *local;
        const struct sockaddr *any;
    } as = {.local = address};
    struct stat file;
    if (lstat(address->sun_path, &file) != 0 || !S_ISSOCK(file.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool refused = fd >= 0 && connect(fd, as.any, sizeof *address) != 0 && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return refused;
}

static int bind_unix(const struct listen_address *where, char error[LISTENER_ERROR_BYTES])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    union {
        const struct sockaddr_un *local;
        const struct sockaddr *any;
    } as = {.local = &address};
    text_copy(address.sun_path, sizeof address.sun_path, text_of(where->path));
    if (nobody_listens(&address))
        (void) unlink(where->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, as.any, sizeof address) != 0)
        return fail(error, fd, "listen on", where->text);
    (void) chmod(where->path, 0660);
    return listen(fd, LISTENER_BACKLOG) == 0 ? fd : fail(error, fd, "listen on", where->text);
}

static int bind_tcp(const struct listen_address *where, char error[LISTENER_ERROR_BYTES])
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICHOST};
    struct addrinfo *found = NULL;
    char port[12];
    int on = 1;
    snprintf(port, sizeof port, "%d", where->port);
    if (getaddrinfo(where->host, port, &hints, &found) != 0) {
        errno = EINVAL;
        return fail(error, -1, "listen on", where->text);
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool bound = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                 bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, LISTENER_BACKLOG) == 0;
    freeaddrinfo(found);
    return bound ? fd : fail(error, fd, "listen on", where->text);
}

int listener_bind(const struct listen_address *address, char error[LISTENER_ERROR_BYTES])
{
    return address->kind == LISTEN_UNIX ? bind_unix(address, error) : bind_tcp(address, error);
}

/* ---- accept ---- */

static void write_address(const struct sockaddr_storage *address, char to[INET6_ADDRSTRLEN])
{
    union {
        const struct sockaddr_storage *storage;
        const struct sockaddr_in *ipv4;
        const struct sockaddr_in6 *ipv6;
    } as = {.storage = address};
    const char *written = NULL;
    if (address->ss_family == AF_INET)
        written = inet_ntop(AF_INET, &as.ipv4->sin_addr, to, INET6_ADDRSTRLEN);
    else if (address->ss_family == AF_INET6)
        written = inet_ntop(AF_INET6, &as.ipv6->sin6_addr, to, INET6_ADDRSTRLEN);
    if (written == NULL)
        text_copy(to, INET6_ADDRSTRLEN, TEXT("unix"));
}

/* Loopback and unix sockets are front proxies and the box itself: only the total bounds them. */
static bool is_local(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0 || strcmp(address, "unix") == 0;
}

static struct worker *least_loaded(const struct listener *listener, int *ret_total)
{
    struct worker *best = listener->workers[0];
    int total = 0, least = INT_MAX;
    for (int i = 0; i < listener->worker_count; i++) {
        int held = atomic_load_explicit(&listener->workers[i]->connections, memory_order_relaxed);
        total += held;
        if (held < least) {
            least = held;
            best = listener->workers[i];
        }
    }
    *ret_total = total;
    return best;
}

static void deal(const struct listener *listener, int fd, const struct sockaddr_storage *address, socklen_t length)
{
    char text[INET6_ADDRSTRLEN];
    int total = 0;
    struct worker *worker = least_loaded(listener, &total);
    write_address(address, text);
    int held = atomic_fetch_add_explicit(bucket_of(text), 1, memory_order_relaxed);
    bool over_share = !is_local(text) && held >= listener->connections_max / ADDRESS_SHARE_DIVISOR;
    if (total >= listener->connections_max || over_share) {
        metric_count(METRIC_CONNECTIONS_REFUSED, over_share ? "address_cap" : "total_cap", NULL);
        listener_forget(text);
        close(fd);
        return;
    }
    worker_deal(worker, fd, address, length);
}

static void accept_all(const struct listener *listener)
{
    for (;;) {
        struct sockaddr_storage address = {0};
        socklen_t length = sizeof address;
        union {
            struct sockaddr_storage *storage;
            struct sockaddr *any;
        } as = {.storage = &address};
        int fd = accept4(listener->fd, as.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            deal(listener, fd, &address, length);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            metric_count(METRIC_CONNECTIONS_REFUSED, "no_descriptors", NULL);
            poll(NULL, 0, NO_DESCRIPTOR_PAUSE_MS);
        }
        return;
    }
}

static void *run(void *context)
{
    struct listener *listener = context;
    struct pollfd watched[2] = {{.fd = listener->fd, .events = POLLIN}, {.fd = listener->stop_fd, .events = POLLIN}};
    for (;;) {
        if (poll(watched, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (watched[1].revents != 0)
            return NULL;
        if (watched[0].revents != 0)
            accept_all(listener);
    }
}

/* Each connection may need a second descriptor for its engine. */
static int connections_allowed(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > INT_MAX)
        return INT_MAX / 2;
    int allowed = ((int) limit.rlim_cur - RESERVED_DESCRIPTORS) / 2;
    return allowed > 16 ? allowed : 16;
}

struct listener *listener_create(int fd, struct worker *const *workers, int worker_count)
{
    struct listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL)
        return NULL;
    *listener = (struct listener){.fd = fd,
                                  .stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                                  .workers = workers,
                                  .worker_count = worker_count,
                                  .connections_max = connections_allowed()};
    /* A descriptor kept by the master over a restart has lost nothing but maybe this flag. */
    (void) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (listener->stop_fd < 0 || pthread_create(&listener->thread, NULL, run, listener) != 0) {
        if (listener->stop_fd >= 0)
            close(listener->stop_fd);
        free(listener);
        return NULL;
    }
    return listener;
}

void listener_destroy(struct listener **listener_pointer)
{
    struct listener *listener = *listener_pointer;
    *listener_pointer = NULL;
    if (listener == NULL)
        return;
    (void) eventfd_write(listener->stop_fd, 1);
    pthread_join(listener->thread, NULL);
    close(listener->stop_fd);
    free(listener);
}
