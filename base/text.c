/* Slices, the bounded builder, and the few conversions everybody needs. */
#include "base/text.h"

#include <stdio.h>
#include <string.h>

#include "base/panic.h"

struct text text_of(const char *string)
{
    return string != NULL ? (struct text){string, strlen(string)} : (struct text){NULL, 0};
}

bool text_equal(struct text a, struct text b)
{
    return a.length == b.length && (a.length == 0 || memcmp(a.at, b.at, a.length) == 0);
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char) (c + ('a' - 'A')) : c;
}

bool text_equal_ignoring_case(struct text a, struct text b)
{
    if (a.length != b.length)
        return false;
    for (size_t i = 0; i < a.length; i++) {
        if (lower(a.at[i]) != lower(b.at[i]))
            return false;
    }
    return true;
}

bool text_starts_with(struct text whole, struct text prefix)
{
    return whole.length >= prefix.length && text_equal((struct text){whole.at, prefix.length}, prefix);
}

static bool text_ends_with(struct text whole, struct text suffix)
{
    if (whole.length < suffix.length)
        return false;
    if (suffix.length == 0)
        return true;
    return text_equal((struct text){whole.at + (whole.length - suffix.length), suffix.length}, suffix);
}

static struct text without_first(struct text whole, size_t count)
{
    return count == 0 ? whole : (struct text){whole.at + count, whole.length - count};
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

struct text text_trimmed(struct text whole)
{
    while (whole.length > 0 && is_blank(whole.at[0]))
        whole = without_first(whole, 1);
    while (whole.length > 0 && is_blank(whole.at[whole.length - 1]))
        whole.length--;
    return whole;
}

bool text_to_int64(struct text whole, int64_t *ret)
{
    bool negative = whole.length > 0 && whole.at[0] == '-';
    if (negative)
        whole = without_first(whole, 1);
    if (whole.length == 0)
        return false;

    /* Built downwards: the negative range is one larger, so that the least integer needs no case of its own. */
    int64_t value = 0;
    for (size_t i = 0; i < whole.length; i++) {
        if (whole.at[i] < '0' || whole.at[i] > '9')
            return false;
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_sub_overflow(value, whole.at[i] - '0', &value))
            return false;
    }
    if (!negative && value == INT64_MIN)
        return false;
    *ret = negative ? value : -value;
    return true;
}

/* The bytes of @pattern up to its first '*', or all of them. */
static struct text up_to_star(struct text pattern)
{
    const char *star = pattern.length > 0 ? memchr(pattern.at, '*', pattern.length) : NULL;
    return star != NULL ? (struct text){pattern.at, (size_t) (star - pattern.at)} : pattern;
}

bool text_matches_glob(struct text whole, struct text pattern)
{
    struct text piece = up_to_star(pattern);
    if (piece.length == pattern.length)
        return text_equal(whole, pattern);
    if (!text_starts_with(whole, piece))
        return false;

    /* The leftmost place for each piece between two stars leaves most room for the rest, so nothing is tried twice. */
    whole = without_first(whole, piece.length);
    pattern = without_first(pattern, piece.length + 1);
    for (piece = up_to_star(pattern); piece.length < pattern.length; piece = up_to_star(pattern)) {
        const char *found = piece.length <= whole.length ? whole.at : NULL;
        if (piece.length > 0 && found != NULL)
            found = memmem(whole.at, whole.length, piece.at, piece.length);
        if (piece.length > 0 && found == NULL)
            return false;
        if (piece.length > 0)
            whole = without_first(whole, (size_t) (found - whole.at) + piece.length);
        pattern = without_first(pattern, piece.length + 1);
    }
    return text_ends_with(whole, pattern);
}

void builder_init(struct builder *to, char *memory, size_t capacity)
{
    ENSURE(capacity > 0);
    *to = (struct builder){.at = memory, .capacity = capacity};
    memory[0] = '\0';
}

void builder_add(struct builder *to, struct text piece)
{
    /* One byte stays free for the NUL. */
    if (piece.length >= to->capacity - to->length) {
        to->overflowed = true;
        return;
    }
    if (piece.length == 0)
        return;
    memcpy(to->at + to->length, piece.at, piece.length);
    to->length += piece.length;
}

void builder_add_string(struct builder *to, const char *piece)
{
    builder_add(to, text_of(piece));
}

void builder_add_int(struct builder *to, int64_t value, unsigned width)
{
    char digits[40];
    size_t at = sizeof digits;
    uint64_t rest = value < 0 ? 0 - (uint64_t) value : (uint64_t) value;
    unsigned count = 0;
    do {
        digits[--at] = (char) ('0' + rest % 10);
        rest /= 10;
        count++;
    } while ((rest > 0 || count < width) && at > 1);
    if (value < 0)
        digits[--at] = '-';
    builder_add(to, (struct text){digits + at, sizeof digits - at});
}

void builder_format_list(struct builder *to, const char *format, va_list arguments)
{
    size_t room = to->capacity - to->length;
    int wanted = vsnprintf(to->at + to->length, room, format, arguments);
    if (wanted < 0 || (size_t) wanted >= room) {
        to->overflowed = true;
        to->at[to->length] = '\0';
        return;
    }
    to->length += (size_t) wanted;
}

void builder_format(struct builder *to, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    builder_format_list(to, format, arguments);
    va_end(arguments);
}

/* The escape of one control character, '"' or '\\'; empty when @c needs none. */
static struct text json_escape_of(unsigned char c, char memory[8])
{
    static const char *const named[0x20] = {
        ['\b'] = "\\b", ['\f'] = "\\f", ['\n'] = "\\n", ['\r'] = "\\r", ['\t'] = "\\t"};
    if (c == '"')
        return TEXT("\\\"");
    if (c == '\\')
        return TEXT("\\\\");
    if (c >= 0x20)
        return (struct text){NULL, 0};
    if (named[c] != NULL)
        return text_of(named[c]);
    snprintf(memory, 8, "\\u%04x", c);
    return (struct text){memory, 6};
}

/* How many bytes at the start stand in JSON as they are: printable ASCII but the quote and the backslash. */
static size_t plain_length(struct text piece)
{
    size_t length = 0;
    while (length < piece.length && piece.at[length] >= ' ' && piece.at[length] != 0x7f && piece.at[length] != '"' &&
           piece.at[length] != '\\')
        length++;
    return length;
}

static void add_json_escaped(struct builder *to, struct text piece)
{
    while (piece.length > 0) {
        char memory[8];
        size_t plain = plain_length(piece);
        builder_add(to, (struct text){piece.at, plain});
        piece = without_first(piece, plain);
        if (piece.length == 0)
            return;
        struct text escape = json_escape_of((unsigned char) piece.at[0], memory);
        builder_add(to, escape.length > 0 ? escape : (struct text){piece.at, 1});
        piece = without_first(piece, 1);
    }
}

static void add_json_repaired(struct builder *to, struct text piece)
{
    while (piece.length > 0) {
        size_t plain = plain_length(piece);
        if (plain > 0) {
            builder_add(to, (struct text){piece.at, plain});
            piece = without_first(piece, plain);
            continue;
        }
        size_t length = text_utf8_length(piece);
        struct text character = {piece.at, length > 0 ? length : 1};
        unsigned char last = (unsigned char) piece.at[character.length - 1];
        if (length == 0)
            builder_add(to, TEXT("\xef\xbf\xbd"));
        else if (last == 0x7f || (length == 2 && (unsigned char) piece.at[0] == 0xc2 && last < 0xa0))
            builder_format(to, "\\u%04x", last);
        else
            add_json_escaped(to, character);
        piece = without_first(piece, character.length);
    }
}

static void add_json(struct builder *to, struct text piece, void (*add_content)(struct builder *, struct text))
{
    bool overflowed_before = to->overflowed;
    size_t length_before = to->length;
    to->overflowed = false;
    builder_add(to, TEXT("\""));
    add_content(to, piece);
    builder_add(to, TEXT("\""));
    if (to->overflowed)
        to->length = length_before;
    to->overflowed |= overflowed_before;
}

void builder_add_json(struct builder *to, struct text piece)
{
    add_json(to, piece, add_json_escaped);
}

void builder_add_json_repaired(struct builder *to, struct text piece)
{
    add_json(to, piece, add_json_repaired);
}

struct text builder_text(const struct builder *from)
{
    return (struct text){from->at, from->length};
}

const char *builder_string(struct builder *from)
{
    from->at[from->length] = '\0';
    return from->at;
}

size_t text_copy(char *to, size_t capacity, struct text from)
{
    ENSURE(capacity > 0);
    size_t length = from.length < capacity ? from.length : capacity - 1;
    if (length > 0)
        memcpy(to, from.at, length);
    to[length] = '\0';
    return length;
}

/* RFC 3629: the first byte says how long the character is; the second one's range excludes overlong forms, surrogates
 * and what is above U+10FFFF. */
size_t text_utf8_length(struct text from)
{
    if (from.length == 0)
        return 0;
    const unsigned char *at = (const unsigned char *) from.at;
    if (at[0] < 0x80)
        return 1;
    if (at[0] < 0xc2 || at[0] > 0xf4)
        return 0;

    size_t length = at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
    if (from.length < length)
        return 0;
    unsigned char least = at[0] == 0xe0 ? 0xa0 : at[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char most = at[0] == 0xed ? 0x9f : at[0] == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < least || at[1] > most)
        return 0;
    for (size_t i = 2; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    }
    return length;
}

void text_hex(char *to, const void *bytes, size_t count)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *from = bytes;
    for (size_t i = 0; i < count; i++) {
        to[2 * i] = digits[from[i] >> 4];
        to[2 * i + 1] = digits[from[i] & 0xf];
    }
    to[2 * count] = '\0';
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    char small = lower(digit);
    return small >= 'a' && small <= 'f' ? small - 'a' + 10 : -1;
}

bool text_from_hex(struct text from, void *bytes, size_t count)
{
    if (from.length % 2 != 0 || from.length / 2 != count)
        return false;
    for (size_t i = 0; i < from.length; i++) {
        if (hex_value(from.at[i]) < 0)
            return false;
    }
    unsigned char *to = bytes;
    for (size_t i = 0; i < count; i++)
        to[i] = (unsigned char) (hex_value(from.at[2 * i]) << 4 | hex_value(from.at[2 * i + 1]));
    return true;
}
