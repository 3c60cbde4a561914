/* What the fuzz targets share: a check that stays in every build, and cutting the input into pieces by its own bytes.
 */
#ifndef TESTS_FUZZ_PIECES_H
#define TESTS_FUZZ_PIECES_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition) ((condition) ? (void) 0 : abort())

/* A copy of just that size, so that AddressSanitizer sees a read past its end. Freed by text_drop. */
static inline struct text text_exact(const void *at, size_t length)
{
    char *copy = malloc(length > 0 ? length : 1);
    MUST(copy != NULL);
    if (length > 0)
        memcpy(copy, at, length);
    return (struct text){copy, length};
}

static inline void text_drop(struct text copy)
{
    free((void *) (uintptr_t) copy.at);
}

/* The next piece of @rest, 1 to 16 bytes, as @seed says. */
static inline struct text take_piece(struct text *rest, uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    size_t length = 1 + (*seed >> 28);
    if (length > rest->length)
        length = rest->length;
    struct text piece = {rest->at, length};
    *rest = (struct text){rest->at + length, rest->length - length};
    return piece;
}

#endif
