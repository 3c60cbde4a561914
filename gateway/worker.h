/* One worker thread: an event loop with an HTTP server, the connections to engines, and the requests between them. */
#ifndef GATEWAY_WORKER_H
#define GATEWAY_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "backends/fleet.h"
#include "backends/upstream.h"
#include "base/buffer.h"
#include "base/loop.h"
#include "billing/journal.h"
#include "gateway/server.h"

struct request;
struct limiter;
struct estimator;

/* How the worker's journal is, for /readyz. */
enum { WORKER_TROUBLE_BYTES = 160 };
struct worker_journal {
    char trouble[WORKER_TROUBLE_BYTES]; /* why new requests are refused; "" = they are not */
    int64_t slowest_write_us;           /* of the last minute */
};

struct worker {
    int index;
    struct loop *loop;
    struct server *server;
    struct upstream *upstream;
    struct fleet *fleet; /* shared, as are the next two */
    struct limiter *limiter;
    struct estimator *estimator;
    struct journal *journal; /* NULL when it could not be made: tried again every second */
    struct journal_options journal_options;
    char *journal_directory;
    bool close_refused; /* the disk refused the last CLOSE: said once */
    struct loop_timer journal_look;
    pthread_mutex_t journal_lock;
    struct worker_journal journal_status; /* under the lock */
    bool ending;                          /* the loop has stopped: nothing may linger */
    struct request *active;
    struct request *spare; /* ended ones, kept for the next */
    int spare_count;
    struct buffer scratch;    /* what one engine callback writes to its client; empty between callbacks */
    uint64_t random_state[2]; /* request ids; not for secrets */
    pthread_t thread;
    atomic_int connections;     /* dealt and not yet closed, for the listener */
    atomic_int active_requests; /* for the drain */
};

/* What all workers share; outlives them. */
struct worker_shared {
    struct fleet *fleet;
    struct limiter *limiter;
    struct estimator *estimator;
    const struct journal_options *journal; /* of every worker's journal, but for the slot; copied */
};
/* NULL when a resource is missing. The thread starts with worker_start. */
struct worker *worker_create(int index, const struct worker_shared *shared);
bool worker_start(struct worker *worker);
/* Serve an accepted socket; it is the worker's from now on. Any thread. */
void worker_deal(struct worker *worker, int fd, const struct sockaddr_storage *address, socklen_t address_length);
/* End every request: streams with an error event, the others with 503. Any thread; returns at once. */
void worker_cut_all(struct worker *worker);
/* Close every connection, also in the middle of a request. Any thread; returns at once. */
void worker_shut_all(struct worker *worker);
/* Stop the loop after the current turn, join, close what is left. No request may be active. NULLs. */
void worker_destroy(struct worker **worker);

/* Any thread; at most about a second old. */
void worker_journal(struct worker *worker, struct worker_journal *ret);

/* worker_journal.c, for worker.c: make the journal and keep an eye on it; false only when memory is exhausted. */
bool worker_journal_begin(struct worker *worker, const struct journal_options *options);
/* Every request has ended. No-op when it was not begun. */
void worker_journal_end(struct worker *worker);
/* The journal has just refused something. The worker's thread. */
void worker_journal_look(struct worker *worker);

/* 128 random bits for a request id. The worker's thread. */
void worker_random(struct worker *worker, uint64_t ret[2]);

#endif
