/* The memory of request bodies. */
#include "gateway/body.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic int64_t held_bytes;

int64_t bodies_bytes(void)
{
    return atomic_load_explicit(&held_bytes, memory_order_relaxed);
}

/* Counted before it is allocated, so that all workers together never exceed the bound. */
static enum body_result grow(struct body *body, size_t capacity)
{
    int64_t more = (int64_t) (capacity - body->capacity);
    if (atomic_fetch_add_explicit(&held_bytes, more, memory_order_relaxed) + more > BODIES_BYTES_MAX) {
        atomic_fetch_sub_explicit(&held_bytes, more, memory_order_relaxed);
        return BODY_NO_MEMORY;
    }
    char *at = realloc(body->at, capacity);
    if (at == NULL) {
        atomic_fetch_sub_explicit(&held_bytes, more, memory_order_relaxed);
        return BODY_NO_MEMORY;
    }
    body->at = at;
    body->capacity = capacity;
    return BODY_OK;
}

enum body_result body_expect(struct body *body, int64_t expected)
{
    if (expected > BODY_BYTES_MAX)
        return BODY_LARGE;
    /* What is only announced takes little: memory is for those who send. */
    size_t wanted = expected >= 0 && expected < BODY_AHEAD_BYTES ? (size_t) expected : BODY_FIRST_BYTES;
    return wanted > body->capacity ? grow(body, wanted) : BODY_OK;
}

enum body_result body_add(struct body *body, struct text piece)
{
    if (piece.length > BODY_BYTES_MAX - body->length)
        return BODY_LARGE;
    size_t needed = body->length + piece.length;
    if (needed > body->capacity) {
        size_t doubled = body->capacity * 2 < BODY_BYTES_MAX ? body->capacity * 2 : BODY_BYTES_MAX;
        enum body_result result = grow(body, needed > doubled ? needed : doubled);
        if (result != BODY_OK)
            return result;
    }
    if (piece.length > 0)
        memcpy(body->at + body->length, piece.at, piece.length);
    body->length = needed;
    return BODY_OK;
}

struct text body_text(const struct body *body)
{
    return (struct text){body->at, body->length};
}

void body_finish(struct body *body)
{
    atomic_fetch_sub_explicit(&held_bytes, (int64_t) body->capacity, memory_order_relaxed);
    free(body->at);
    *body = (struct body){0};
}
