/* The memory of request bodies: bounded for one and for all together. */
#ifndef GATEWAY_BODY_H
#define GATEWAY_BODY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum { BODY_BYTES_MAX = 10 * 1024 * 1024, BODY_FIRST_BYTES = 16 * 1024, BODY_AHEAD_BYTES = 256 * 1024 };
#define BODIES_BYTES_MAX ((int64_t) 512 * 1024 * 1024) /* of all workers */

/* One body, being received or whole. Zeroed memory is an empty one. */
struct body {
    char *at;
    size_t length;
    size_t capacity;
};

enum body_result { BODY_OK, BODY_LARGE, BODY_NO_MEMORY };

/* Make room for @expected bytes (-1 = unknown); a large body gets its room as it comes. */
enum body_result body_expect(struct body *body, int64_t expected);
enum body_result body_add(struct body *body, struct text piece);
struct text body_text(const struct body *body);
/* Give the memory back. No-op on an empty one. */
void body_finish(struct body *body);
/* Bytes held by all bodies now. */
int64_t bodies_bytes(void);

#endif
