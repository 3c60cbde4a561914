/* One worker thread. */
#include "gateway/worker.h"

#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/panic.h"
#include "gateway/listener.h"
#include "gateway/request.h"

enum { SCRATCH_BYTES_MAX = 4 * 1024 * 1024 };

/* ---- the server's calls ---- */

static enum server_verdict on_head(void *owner, struct connection *connection, const struct http_head *head,
                                   void **ret_request)
{
    struct request *request = request_begin(owner, connection, head);
    *ret_request = request;
    if (request == NULL)
        return SERVER_REPLY;
    request_run(request);
    return request->replied ? SERVER_REPLY : SERVER_GO_ON;
}

static enum server_verdict on_body(void *request, struct text piece)
{
    return request_add_body(request, piece) == STEP_REPLY ? SERVER_REPLY : SERVER_GO_ON;
}

static enum server_verdict on_body_end(void *context)
{
    struct request *request = context;
    request->body_whole = true;
    request_run(request);
    return request->replied ? SERVER_REPLY : SERVER_GO_ON;
}

static void on_writable(void *request)
{
    request_writable(request);
}

static void on_gone(void *request)
{
    request_gone(request);
}

static void on_end(void *request, bool sent)
{
    request_end(request, sent);
}

static void on_closed(void *owner, const char *address)
{
    struct worker *worker = owner;
    atomic_fetch_sub_explicit(&worker->connections, 1, memory_order_relaxed);
    listener_forget(address);
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

/* ---- from other threads ---- */

struct dealt_socket {
    struct loop_task task;
    struct worker *worker;
    int fd;
    struct sockaddr_storage address;
    socklen_t address_length;
};

static void adopt(struct loop_task *task)
{
    struct dealt_socket *dealt = task->owner;
    union {
        const struct sockaddr_storage *storage;
        const struct sockaddr *any;
    } address = {.storage = &dealt->address};
    if (!server_adopt(dealt->worker->server, dealt->fd, address.any, dealt->address_length))
        atomic_fetch_sub_explicit(&dealt->worker->connections, 1, memory_order_relaxed);
    free(dealt);
}

void worker_deal(struct worker *worker, int fd, const struct sockaddr_storage *address, socklen_t address_length)
{
    struct dealt_socket *dealt = calloc(1, sizeof *dealt);
    if (dealt == NULL) {
        close(fd);
        return;
    }
    *dealt = (struct dealt_socket){.task = {.run = adopt, .owner = dealt},
                                   .worker = worker,
                                   .fd = fd,
                                   .address = *address,
                                   .address_length = address_length};
    atomic_fetch_add_explicit(&worker->connections, 1, memory_order_relaxed);
    loop_post(worker->loop, &dealt->task);
}

static void cut_all(struct loop_task *task)
{
    struct worker *worker = task->owner;
    for (struct request *request = worker->active, *next; request != NULL; request = next) {
        next = request->next;
        request_cut(request);
    }
    free(task);
}

static void shut_all(struct loop_task *task)
{
    struct worker *worker = task->owner;
    server_shut_all(worker->server);
    free(task);
}

static void stop(struct loop_task *task)
{
    struct worker *worker = task->owner;
    loop_stop(worker->loop);
    free(task);
}

static void post(struct worker *worker, void (*run)(struct loop_task *task))
{
    struct loop_task *task = calloc(1, sizeof *task);
    ENSURE(task != NULL);
    *task = (struct loop_task){.run = run, .owner = worker};
    loop_post(worker->loop, task);
}

void worker_cut_all(struct worker *worker)
{
    post(worker, cut_all);
}

void worker_shut_all(struct worker *worker)
{
    post(worker, shut_all);
}

/* ---- life ---- */

void worker_random(struct worker *worker, uint64_t ret[2])
{
    /* xorshift128+ (Vigna 2014): ids need to be distinct, not secret. */
    for (int i = 0; i < 2; i++) {
        uint64_t a = worker->random_state[0], b = worker->random_state[1];
        worker->random_state[0] = b;
        a ^= a << 23;
        worker->random_state[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
        ret[i] = worker->random_state[1] + b;
    }
}

static void *run(void *context)
{
    struct worker *worker = context;
    loop_run(worker->loop);
    return NULL;
}

static bool prepare(struct worker *worker)
{
    if (getrandom(worker->random_state, sizeof worker->random_state, 0) != (ssize_t) sizeof worker->random_state)
        return false;
    worker->loop = loop_create();
    if (worker->loop == NULL)
        return false;
    worker->server = server_create(worker->loop, &handlers, worker);
    worker->upstream = upstream_create(worker->loop);
    return worker->server != NULL && worker->upstream != NULL;
}

static void release(struct worker *worker)
{
    worker->ending = true;
    server_destroy(&worker->server);
    requests_finish(worker);
    worker_journal_end(worker);
    upstream_destroy(&worker->upstream);
    loop_destroy(worker->loop);
    buffer_finish(&worker->scratch);
    free(worker);
}

struct worker *worker_create(int index, const struct worker_shared *shared)
{
    struct worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return NULL;
    worker->index = index;
    worker->fleet = shared->fleet;
    worker->limiter = shared->limiter;
    worker->estimator = shared->estimator;
    buffer_init(&worker->scratch, SCRATCH_BYTES_MAX);
    if (!prepare(worker) || !worker_journal_begin(worker, shared->journal)) {
        release(worker);
        return NULL;
    }
    return worker;
}

bool worker_start(struct worker *worker)
{
    return pthread_create(&worker->thread, NULL, run, worker) == 0;
}

void worker_destroy(struct worker **worker_pointer)
{
    struct worker *worker = *worker_pointer;
    *worker_pointer = NULL;
    if (worker == NULL)
        return;
    post(worker, stop);
    pthread_join(worker->thread, NULL);
    release(worker);
}
