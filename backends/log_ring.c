/* A ring of bytes: the newest win. */
#include "backends/log_ring.h"

#include <string.h>

void log_ring_add(struct log_ring *ring, struct text bytes)
{
    if (bytes.length > sizeof(ring->bytes)) {
        bytes.at += bytes.length - sizeof(ring->bytes);
        bytes.length = sizeof(ring->bytes);
    }
    if (bytes.length == 0) {
        return;
    }
    size_t end = (ring->begin + ring->length) % sizeof(ring->bytes);
    size_t until_wrap = sizeof(ring->bytes) - end;
    size_t first = bytes.length < until_wrap ? bytes.length : until_wrap;
    memcpy(ring->bytes + end, bytes.at, first);
    memcpy(ring->bytes, bytes.at + first, bytes.length - first);

    size_t total = ring->length + bytes.length;
    size_t dropped = total > sizeof(ring->bytes) ? total - sizeof(ring->bytes) : 0;
    ring->begin = (ring->begin + dropped) % sizeof(ring->bytes);
    ring->length = total - dropped;
}

size_t log_ring_copy(const struct log_ring *ring, char *to)
{
    size_t until_wrap = sizeof(ring->bytes) - ring->begin;
    size_t first = ring->length < until_wrap ? ring->length : until_wrap;
    memcpy(to, ring->bytes + ring->begin, first);
    memcpy(to + first, ring->bytes, ring->length - first);
    return ring->length;
}
