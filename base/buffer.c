/* Growth by doubling up to the limit; consumed bytes at the front are reclaimed when that is cheap. */
#include "base/buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

enum { BUFFER_BYTES_LEAST = 256 };

void buffer_init(struct buffer *buffer, size_t limit)
{
    *buffer = (struct buffer){.limit = limit};
}

void buffer_finish(struct buffer *buffer)
{
    free(buffer->at);
    buffer_init(buffer, buffer->limit);
}

struct text buffer_text(const struct buffer *buffer)
{
    if (buffer->at == NULL)
        return (struct text){NULL, 0};
    return (struct text){buffer->at + buffer->start, buffer->end - buffer->start};
}

size_t buffer_length(const struct buffer *buffer)
{
    return buffer->end - buffer->start;
}

/* Never more than the limit and the NUL that vsnprintf writes. */
static size_t capacity_for(const struct buffer *buffer, size_t least)
{
    size_t most = buffer->limit < SIZE_MAX ? buffer->limit + 1 : SIZE_MAX;
    size_t capacity = buffer->capacity < BUFFER_BYTES_LEAST ? BUFFER_BYTES_LEAST : buffer->capacity;
    while (capacity < least)
        capacity = capacity > most / 2 ? most : capacity * 2;
    return capacity < most ? capacity : most;
}

/* Make room for @count more bytes of content and one for a NUL. */
static bool make_room(struct buffer *buffer, size_t count)
{
    size_t length = buffer_length(buffer);
    if (count > buffer->limit - length)
        return false;
    size_t needed = length + count + 1;
    if (needed <= buffer->capacity - buffer->start)
        return true;

    /* Moving fewer bytes than were consumed costs constant time per byte in the long run. */
    if (needed <= buffer->capacity && length <= buffer->start) {
        memmove(buffer->at, buffer->at + buffer->start, length);
    } else {
        size_t capacity = capacity_for(buffer, needed);
        char *larger = malloc(capacity);
        if (larger == NULL)
            return false;
        if (length > 0)
            memcpy(larger, buffer->at + buffer->start, length);
        free(buffer->at);
        buffer->at = larger;
        buffer->capacity = capacity;
    }
    buffer->start = 0;
    buffer->end = length;
    return true;
}

bool buffer_add(struct buffer *buffer, struct text piece)
{
    if (piece.length == 0)
        return true;
    if (!make_room(buffer, piece.length))
        return false;
    memcpy(buffer->at + buffer->end, piece.at, piece.length);
    buffer->end += piece.length;
    return true;
}

bool buffer_format(struct buffer *buffer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (wanted < 0 || !make_room(buffer, (size_t) wanted))
        return false;
    va_start(arguments, format);
    vsnprintf(buffer->at + buffer->end, (size_t) wanted + 1, format, arguments);
    va_end(arguments);
    buffer->end += (size_t) wanted;
    return true;
}

void buffer_consume(struct buffer *buffer, size_t count)
{
    ENSURE(count <= buffer_length(buffer));
    buffer->start += count;
    if (buffer->start == buffer->end)
        buffer_clear(buffer);
}

void buffer_clear(struct buffer *buffer)
{
    buffer->start = 0;
    buffer->end = 0;
}
