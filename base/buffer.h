/* A growing run of bytes with a hard limit: what waits to be written, or a document being made. */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"

/* Bytes [start, end) of the heap block @at are the content. Zeroed memory with @limit set is an empty buffer. */
struct buffer {
    char *at;
    size_t start;
    size_t end;
    size_t capacity;
    size_t limit; /* bytes of content never exceeded */
};

void buffer_init(struct buffer *buffer, size_t limit);
void buffer_finish(struct buffer *buffer);
/* False, changing nothing, when the limit or memory is exhausted. */
bool buffer_add(struct buffer *buffer, struct text piece);
__attribute__((format(printf, 2, 3))) bool buffer_format(struct buffer *buffer, const char *format, ...);
/* The content; valid until the next call that changes the buffer. */
struct text buffer_text(const struct buffer *buffer);
size_t buffer_length(const struct buffer *buffer);
/* Forget the first @count bytes of content. */
void buffer_consume(struct buffer *buffer, size_t count);
/* Forget all content but keep the memory. */
void buffer_clear(struct buffer *buffer);

#endif
