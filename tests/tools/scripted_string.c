#include "scripted_string.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void reserve(struct string *to, size_t more)
{
    size_t wanted = to->length + more + 1;
    if (wanted <= to->capacity)
        return;
    size_t capacity = to->capacity < 256 ? 256 : to->capacity;
    while (capacity < wanted)
        capacity *= 2;
    char *bytes = realloc(to->bytes, capacity);
    if (bytes == NULL)
        abort();
    to->bytes = bytes;
    to->capacity = capacity;
}

void string_add(struct string *to, const char *bytes, size_t length)
{
    reserve(to, length);
    if (length > 0)
        memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
    to->bytes[to->length] = '\0';
}

void string_add_string(struct string *to, const char *string)
{
    string_add(to, string, strlen(string));
}

void string_print(struct string *to, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    char probe[1];
    int length = vsnprintf(probe, sizeof probe, format, arguments);
    va_end(arguments);
    if (length > 0) {
        reserve(to, (size_t) length);
        vsnprintf(to->bytes + to->length, (size_t) length + 1, format, again);
        to->length += (size_t) length;
    }
    va_end(again);
}

void string_add_json(struct string *to, const char *bytes, size_t length)
{
    string_add(to, "\"", 1);
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char) bytes[i];
        if (byte == '"' || byte == '\\')
            string_print(to, "\\%c", byte);
        else if (byte < 0x20 || byte > 0x7e)
            string_print(to, "\\u%04x", byte);
        else
            string_add(to, &bytes[i], 1);
    }
    string_add(to, "\"", 1);
}

void string_drop(struct string *from, size_t count)
{
    if (count == 0)
        return;
    from->length -= count;
    memmove(from->bytes, from->bytes + count, from->length);
    from->bytes[from->length] = '\0';
}

void string_clear(struct string *text)
{
    text->length = 0;
    if (text->bytes != NULL)
        text->bytes[0] = '\0';
}

void string_free(struct string *text)
{
    free(text->bytes);
    *text = (struct string){0};
}
