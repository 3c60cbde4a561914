/* The last bytes a child wrote, in a fixed piece of memory. Pure. */
#ifndef BACKENDS_LOG_RING_H
#define BACKENDS_LOG_RING_H

#include <stddef.h>

#include "backends/master.h"
#include "base/text.h"

/* Zeroed memory is an empty ring. */
struct log_ring {
    size_t begin;
    size_t length;
    char bytes[MASTER_RING_BYTES];
};

/* What no longer fits drops the oldest bytes. */
void log_ring_add(struct log_ring *ring, struct text bytes);
/* Everything, oldest first, into @to of MASTER_RING_BYTES; returns how many bytes. */
size_t log_ring_copy(const struct log_ring *ring, char *to);

#endif
