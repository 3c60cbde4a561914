/* Who waits for a slot of a model: tickets in the order they came, bounded. No locks: the model's line has one. */
#ifndef BACKENDS_QUEUE_H
#define BACKENDS_QUEUE_H

#include <stdbool.h>

#include "backends/fleet.h"
#include "base/clock.h"
#include "base/loop.h"

enum { TICKET_EXCEPT_BYTES = 136 };

/* One waiting request. On the heap and not in the waiter's memory, because a task that was posted to its loop cannot be
 * taken back when the waiter goes: the ticket stays until that task has run. */
struct ticket {
    struct lease_waiter *waiter; /* NULL: gave up after it was told */
    struct line *line;
    struct lease *lease;              /* made in advance, so that handing over a slot cannot fail; told with @granted */
    char except[TICKET_EXCEPT_BYTES]; /* instance name, "" = none */
    mono_ms since;
    mono_ms deadline;
    bool told; /* out of the queue, @task is posted */
    bool granted;
    enum lease_verdict why; /* when told and not granted */
    struct loop_task task;
    struct ticket *next;
    struct ticket *previous;
};

/* Zeroed memory with @length_max set is an empty queue. */
struct queue {
    struct ticket *first;
    struct ticket *last;
    int length;
    int length_max;
};

bool queue_is_full(const struct queue *queue);
/* At the end. The queue must not be full. */
void queue_push(struct queue *queue, struct ticket *ticket);
/* @ticket must be in it. */
void queue_remove(struct queue *queue, struct ticket *ticket);

#endif
