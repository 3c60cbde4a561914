/* A slice of bytes and a bounded builder; no other file copies or formats strings by hand. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes owned by somebody else, not NUL-terminated. Empty is {any, 0}. A plain value. */
struct text {
    const char *at;
    size_t length;
};

/* The slice of a string literal. */
#define TEXT(literal) ((struct text){(literal), sizeof(literal) - 1})
/* For printf's "%.*s". */
#define TEXT_ARGUMENTS(slice) ((int) (slice).length), ((slice).at != NULL ? (slice).at : "")

/* The slice of a C string; NULL gives an empty slice. */
struct text text_of(const char *string);
bool text_equal(struct text a, struct text b);
/* ASCII letters only. */
bool text_equal_ignoring_case(struct text a, struct text b);
bool text_starts_with(struct text whole, struct text prefix);
/* Without leading and trailing spaces and tabs. */
struct text text_trimmed(struct text whole);
/* Parse an optional '-' and decimal digits filling all of @whole. False, leaving @ret alone, on anything else or
 * overflow. */
bool text_to_int64(struct text whole, int64_t *ret);
/* '*' in @pattern matches any run of bytes, also an empty one; everything else matches itself. Linear in both lengths.
 */
bool text_matches_glob(struct text whole, struct text pattern);

/* Writes into the caller's memory, always leaves room for a NUL; what does not fit sets @overflowed and is dropped
 * whole. */
struct builder {
    char *at;
    size_t length;
    size_t capacity;
    bool overflowed;
};

/* @capacity includes the NUL that builder_string needs; at least 1. */
void builder_init(struct builder *to, char *memory, size_t capacity);
void builder_add(struct builder *to, struct text piece);
void builder_add_string(struct builder *to, const char *piece);
__attribute__((format(printf, 2, 3))) void builder_format(struct builder *to, const char *format, ...);
/* As builder_format, for a caller with its own "...". */
__attribute__((format(printf, 2, 0))) void builder_format_list(struct builder *to, const char *format,
                                                               va_list arguments);
/* @value in decimal, with zeros in front up to @width digits; much cheaper than a format. */
void builder_add_int(struct builder *to, int64_t value, unsigned width);
/* @piece as a JSON string with its quotes; control characters escaped, other bytes as they are. */
void builder_add_json(struct builder *to, struct text piece);
/* As builder_add_json for bytes of unknown origin: what is no UTF-8 becomes U+FFFD, and the control characters that
 * JSON lets pass but terminals obey (U+007F to U+009F) are escaped. */
void builder_add_json_repaired(struct builder *to, struct text piece);
struct text builder_text(const struct builder *from);
/* NUL-terminated; valid until the next add. */
const char *builder_string(struct builder *from);

/* Copy @from into @to of @capacity bytes with a NUL; cut to fit. Returns the length copied. */
size_t text_copy(char *to, size_t capacity, struct text from);

/* How many bytes the UTF-8 character at the start of @from has; 0 when @from is empty or starts with none. */
size_t text_utf8_length(struct text from);

/* Lower-case hexadecimal of @count bytes and a NUL into @to, which holds 2 * @count + 1. */
void text_hex(char *to, const void *bytes, size_t count);
/* The reverse, accepting both cases; false unless @from is exactly 2 * @count hexadecimal digits. */
bool text_from_hex(struct text from, void *bytes, size_t count);

#endif
