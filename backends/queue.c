#include "backends/queue.h"

#include <stddef.h>

#include "base/panic.h"

bool queue_is_full(const struct queue *queue)
{
    return queue->length >= queue->length_max;
}

void queue_push(struct queue *queue, struct ticket *ticket)
{
    ENSURE(!queue_is_full(queue));
    ticket->next = NULL;
    ticket->previous = queue->last;
    if (queue->last != NULL)
        queue->last->next = ticket;
    else
        queue->first = ticket;
    queue->last = ticket;
    queue->length++;
}

void queue_remove(struct queue *queue, struct ticket *ticket)
{
    ENSURE(queue->length > 0);
    if (ticket->previous != NULL)
        ticket->previous->next = ticket->next;
    else
        queue->first = ticket->next;
    if (ticket->next != NULL)
        ticket->next->previous = ticket->previous;
    else
        queue->last = ticket->previous;
    ticket->next = NULL;
    ticket->previous = NULL;
    queue->length--;
}
