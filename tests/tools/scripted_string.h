/* A growing string for the scripted engine; running out of memory ends the process. */
#ifndef TESTS_TOOLS_SCRIPTED_STRING_H
#define TESTS_TOOLS_SCRIPTED_STRING_H

#include <stddef.h>

/* Zeroed memory is an empty string. @bytes is NUL-terminated once something was added. */
struct string {
    char *bytes;
    size_t length, capacity;
};

void string_add(struct string *to, const char *bytes, size_t length);
void string_add_string(struct string *to, const char *string);
__attribute__((format(printf, 2, 3), nonnull(2))) void string_print(struct string *to, const char *format, ...);
/* As a JSON string with its quotes; every byte above 0x7e becomes \u00XX, so that the exact bytes can be had back. */
void string_add_json(struct string *to, const char *bytes, size_t length);
/* Drop the first @count bytes. */
void string_drop(struct string *from, size_t count);
void string_clear(struct string *text);
void string_free(struct string *text);

#endif
