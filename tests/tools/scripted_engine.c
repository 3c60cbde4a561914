/* A fake OpenAI engine whose behaviour is scripted by its command line and by words in the prompts: see
 * scripted_options.h. One thread, one epoll. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "scripted_record.h"
#include "scripted_session.h"

enum { EVENTS_MAX = 256, READ_BYTES = 65536, SLOW_READ_BYTES = 4096, SLOW_READ_MS = 10, OUT_HIGH_BYTES = 256 * 1024 };

static long long clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void fail(const char *what)
{
    fprintf(stderr, "scripted_engine: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        fail(path);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *) &address, sizeof address) != 0)
        fail(path);
    fprintf(stderr, "listening on %s\n", path);
    return fd;
}

static int listen_tcp(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t) port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, (struct sockaddr *) &address, sizeof address) != 0 ||
        getsockname(fd, (struct sockaddr *) &address, &length) != 0)
        fail("cannot listen");
    fprintf(stderr, "listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    return fd;
}

/* ---- the loop ---- */

static struct engine engine;
static int epoll_fd, listen_fd;

/* Sends what it can; true when all is out. */
static bool flush(struct session *session)
{
    while (session->out.length > 0) {
        ssize_t sent = send(session->fd, session->out.bytes, session->out.length, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        string_drop(&session->out, (size_t) sent);
    }
    return true;
}

static bool reads_slowly(const struct session *session)
{
    static const char word[] = "[[fault=slow_reader]]";
    return engine.options.script.fault.kind == FAULT_slow_reader ||
           (session->in.length > 0 && memmem(session->in.bytes, session->in.length, word, sizeof word - 1) != NULL);
}

static void receive(struct session *session)
{
    static char bytes[READ_BYTES];
    for (;;) {
        bool slow = reads_slowly(session);
        ssize_t count = recv(session->fd, bytes, slow ? SLOW_READ_BYTES : READ_BYTES, 0);
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (count <= 0) {
            session_gone(&engine, session);
            return;
        }
        string_add(&session->in, bytes, (size_t) count);
        if (slow)
            nanosleep(&(struct timespec){.tv_nsec = SLOW_READ_MS * 1000000L}, NULL);
        if (slow || count < READ_BYTES)
            break;
    }
    session_read(&engine, session);
}

/* After anything happened: send, tell the kernel what to wait for. */
static void settle(struct session *session)
{
    if (session->state == SESSION_CLOSED)
        return;
    if (flush(session))
        session_flushed(&engine, session);
    uint32_t wanted = EPOLLIN | EPOLLRDHUP | (session->out.length > 0 ? (uint32_t) EPOLLOUT : 0);
    struct epoll_event event = {.events = wanted, .data.ptr = session};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, session->fd, &event);
}

static void accept_all(void)
{
    int fd;
    while ((fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct session *session = session_create(&engine, fd);
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = session};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

static void on_event(struct session *session, uint32_t events)
{
    if (session->state == SESSION_CLOSED)
        return;
    /* Whoever sends a request and leaves at once has sent it: it is read before the leaving is seen. */
    if ((events & (EPOLLIN | EPOLLRDHUP)) != 0)
        receive(session);
    else if ((events & (EPOLLHUP | EPOLLERR)) != 0)
        session_gone(&engine, session);
    settle(session);
}

/* Runs what is due and returns how long to wait for the next, -1 = nothing is planned. */
static int run_due(void)
{
    long long next = 0;
    for (struct session *each = engine.sessions; each != NULL; each = each->next) {
        bool full = each->out.length > OUT_HIGH_BYTES; /* a client that does not read stops the generation */
        bool due = (each->due_ms != 0 && each->due_ms <= engine.now_ms) ||
                   (each->comment_due_ms != 0 && each->comment_due_ms <= engine.now_ms);
        if (due && !full && each->state != SESSION_CLOSED)
            session_due(&engine, each);
        if (each->state == SESSION_CLOSED || full)
            continue;
        if (each->due_ms != 0 && (next == 0 || each->due_ms < next))
            next = each->due_ms;
        if (each->comment_due_ms != 0 && (next == 0 || each->comment_due_ms < next))
            next = each->comment_due_ms;
    }
    if (next == 0)
        return -1;
    return next <= engine.now_ms ? 0 : (int) (next - engine.now_ms);
}

static void settle_all(void)
{
    struct session **link = &engine.sessions;
    for (struct session *each = engine.sessions; each != NULL; each = each->next)
        if (each->out.length > 0 || each->close_when_flushed)
            settle(each);
    while (*link != NULL) {
        struct session *each = *link;
        if (each->state == SESSION_CLOSED) {
            *link = each->next;
            session_destroy(each);
        } else {
            link = &each->next;
        }
    }
}

static void loop(void)
{
    struct epoll_event events[EVENTS_MAX];
    int wait_ms = -1;
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS_MAX, wait_ms);
        engine.now_ms = clock_ms();
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL)
                accept_all();
            else
                on_event(events[i].data.ptr, events[i].events);
        }
        run_due();
        settle_all();
        wait_ms = run_due();
        settle_all();
        if (engine.options.exit_after_ms > 0) {
            long long left = engine.started_ms + engine.options.exit_after_ms - engine.now_ms;
            if (left <= 0)
                exit(3);
            if (wait_ms < 0 || wait_ms > left)
                wait_ms = (int) left;
        }
    }
}

/* A process that a kill of our process group does not reach. */
static void leave_grandchild(void)
{
    if (fork() != 0)
        return;
    setsid();
    prctl(PR_SET_NAME, "scripted_grand");
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    options_read(argc, argv, &engine.options);
    count_open(engine.options.count_file);
    signal(SIGPIPE, SIG_IGN);
    if (engine.options.ignore_sigterm)
        signal(SIGTERM, SIG_IGN);
    if (engine.options.grandchild)
        leave_grandchild();
    engine.started_ms = engine.now_ms = clock_ms();
    listen_fd =
        engine.options.socket_path != NULL ? listen_unix(engine.options.socket_path) : listen_tcp(engine.options.port);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    if (listen(listen_fd, 4096) != 0 || epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &event) != 0)
        fail("cannot listen");
    loop();
}
