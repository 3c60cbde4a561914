/* The tokenizer. One table classifies string bytes, one switch says what may come next. */
#include "base/json.h"

#include <string.h>

#include "base/panic.h"

/* What the grammar allows next; EXPECT_NOTHING and EXPECT_FAILED are final. */
enum expectation {
    EXPECT_VALUE,
    EXPECT_VALUE_OR_END, /* just inside '[' */
    EXPECT_KEY_OR_END,   /* just inside '{' */
    EXPECT_COMMA_OR_END,
    EXPECT_NOTHING,
    EXPECT_FAILED
};

enum string_class { PLAIN, QUOTE, BACKSLASH, CONTROL, MULTIBYTE };

#define REPEAT_8(class)   class, class, class, class, class, class, class, class
#define REPEAT_32(class)  REPEAT_8(class), REPEAT_8(class), REPEAT_8(class), REPEAT_8(class)
#define REPEAT_128(class) REPEAT_32(class), REPEAT_32(class), REPEAT_32(class), REPEAT_32(class)

static const uint8_t string_classes[256] = {
    REPEAT_32(CONTROL), /* 0x00 */
    PLAIN,
    PLAIN,
    QUOTE,
    PLAIN,
    PLAIN,
    PLAIN,
    PLAIN,
    PLAIN,
    REPEAT_8(PLAIN),
    REPEAT_8(PLAIN),
    REPEAT_8(PLAIN), /* 0x20 */
    REPEAT_8(PLAIN),
    REPEAT_8(PLAIN),
    REPEAT_8(PLAIN),
    PLAIN,
    PLAIN,
    PLAIN,
    PLAIN,
    BACKSLASH,
    PLAIN,
    PLAIN,
    PLAIN,
    REPEAT_32(PLAIN),      /* 0x60 */
    REPEAT_128(MULTIBYTE), /* 0x80 */
};

void json_begin(struct json_scan *scan, struct text whole)
{
    memset(scan, 0, sizeof(*scan));
    scan->whole = whole;
    scan->span = (struct text){whole.at, 0};
    scan->_expect = EXPECT_VALUE;
}

static enum json_token fail(struct json_scan *scan, const char *error)
{
    scan->error = error;
    scan->_expect = EXPECT_FAILED;
    scan->token = JSON_ERROR;
    scan->span = (struct text){scan->whole.at, 0};
    return JSON_ERROR;
}

static unsigned char byte_at(const struct json_scan *scan, size_t position)
{
    return (unsigned char) scan->whole.at[position];
}

static void skip_white_space(struct json_scan *scan)
{
    size_t at = scan->position;
    while (at < scan->whole.length) {
        char c = scan->whole.at[at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            break;
        at++;
    }
    scan->position = at;
}

/* A token from @begin to the current position is complete. */
static enum json_token give(struct json_scan *scan, enum json_token token, size_t begin)
{
    if (++scan->_nodes > JSON_NODES_MAX)
        return fail(scan, "it has more than 200000 tokens");
    scan->token = token;
    scan->depth = scan->_open;
    scan->span = (struct text){scan->whole.at + begin, scan->position - begin};
    return token;
}

/* After a complete value at the current level. */
static void expect_after_value(struct json_scan *scan)
{
    scan->_expect = scan->_open == 0 ? EXPECT_NOTHING : EXPECT_COMMA_OR_END;
}

/* How many of the bytes from @at are plain: eight at a time while none is a quote, a backslash, a control character or
 * part of a multi-byte sequence. */
static size_t plain_run(const char *at, size_t length)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = ones * 0x80;
    size_t count = 0;
    while (length - count >= 8) {
        uint64_t word;
        memcpy(&word, at + count, 8);
        uint64_t quote = word ^ (ones * '"'), backslash = word ^ (ones * '\\');
        uint64_t special =
            ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | ((word - ones * 0x20) & ~word) | word;
        if ((special & highs) != 0)
            break;
        count += 8;
    }
    while (count < length && string_classes[(unsigned char) at[count]] == PLAIN)
        count++;
    return count;
}

static bool is_continuation(unsigned char byte)
{
    return (byte & 0xC0) == 0x80;
}

/* Length of the valid UTF-8 sequence at @at (a lead byte >= 0x80), or 0: no overlong forms, no surrogates, nothing
 * above U+10FFFF. */
static size_t multibyte_length(const char *at, size_t left)
{
    unsigned char bytes[4] = {0};
    memcpy(bytes, at, left < 4 ? left : 4);
    unsigned char lead = bytes[0], second = bytes[1];
    if (lead < 0xC2 || lead > 0xF4 || !is_continuation(second))
        return 0;
    if (lead < 0xE0)
        return 2;
    if (!is_continuation(bytes[2]))
        return 0;
    if (lead < 0xF0)
        return (lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ? 0 : 3;
    if (!is_continuation(bytes[3]) || (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F))
        return 0;
    return 4;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The four digits at @at, or -1. */
static int32_t hex_unit(const char *at, size_t left)
{
    int32_t unit = 0;
    if (left < 4)
        return -1;
    for (size_t i = 0; i < 4; i++) {
        int digit = hex_digit(at[i]);
        if (digit < 0)
            return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

static bool is_high_surrogate(int32_t unit)
{
    return unit >= 0xD800 && unit <= 0xDBFF;
}

static bool is_low_surrogate(int32_t unit)
{
    return unit >= 0xDC00 && unit <= 0xDFFF;
}

/* Length of the valid escape at @at (its backslash), with the second half of a surrogate pair; or 0. */
static size_t escape_length(const char *at, size_t left)
{
    if (left < 2 || at[1] == '\0')
        return 0;
    if (at[1] != 'u')
        return strchr("\"\\/bfnrt", at[1]) != NULL ? 2 : 0;
    int32_t unit = hex_unit(at + 2, left - 2);
    if (unit < 0 || is_low_surrogate(unit))
        return 0;
    if (!is_high_surrogate(unit))
        return 6;
    if (left < 12 || at[6] != '\\' || at[7] != 'u')
        return 0;
    return is_low_surrogate(hex_unit(at + 8, left - 8)) ? 12 : 0;
}

/* Pass over the string whose opening quote is at the current position; NULL, or what is wrong with it. */
static const char *pass_string(struct json_scan *scan)
{
    const char *at = scan->whole.at;
    size_t position = scan->position + 1, end = scan->whole.length, step;
    for (;;) {
        position += plain_run(at + position, end - position);
        if (position == end)
            return "a string is not closed";
        scan->position = position;
        switch ((enum string_class) string_classes[(unsigned char) at[position]]) {
        case QUOTE:
            scan->position++;
            return NULL;
        case BACKSLASH:
            step = escape_length(at + position, end - position);
            if (step == 0)
                return "a string has an invalid escape";
            break;
        case MULTIBYTE:
            step = multibyte_length(at + position, end - position);
            if (step == 0)
                return "it is not valid UTF-8";
            break;
        case CONTROL:
            return "a string has a raw control character";
        case PLAIN:
        default:
            UNREACHABLE("a plain byte ended a plain run");
        }
        position += step;
    }
}

static size_t pass_digits(const struct json_scan *scan, size_t at)
{
    while (at < scan->whole.length && byte_at(scan, at) >= '0' && byte_at(scan, at) <= '9')
        at++;
    return at;
}

static bool has_byte(const struct json_scan *scan, size_t at, const char *among)
{
    return at < scan->whole.length && scan->whole.at[at] != '\0' && strchr(among, scan->whole.at[at]) != NULL;
}

/* Pass over a number; false, wherever it stops, when the grammar is broken. */
static bool pass_number(struct json_scan *scan)
{
    size_t at = scan->position, begin;
    if (has_byte(scan, at, "-"))
        at++;
    begin = at;
    at = pass_digits(scan, at);
    if (at == begin || (at - begin > 1 && scan->whole.at[begin] == '0'))
        return false;
    if (has_byte(scan, at, ".")) {
        begin = at + 1;
        at = pass_digits(scan, begin);
        if (at == begin)
            return false;
    }
    if (has_byte(scan, at, "eE")) {
        begin = at + (has_byte(scan, at + 1, "+-") ? 2 : 1);
        at = pass_digits(scan, begin);
        if (at == begin)
            return false;
    }
    scan->position = at;
    return true;
}

static enum json_token literal(struct json_scan *scan, struct text word, enum json_token token)
{
    size_t begin = scan->position;
    if (scan->whole.length - begin < word.length || memcmp(scan->whole.at + begin, word.at, word.length) != 0)
        return fail(scan, "a value is expected");
    scan->position += word.length;
    expect_after_value(scan);
    return give(scan, token, begin);
}

static enum json_token open_container(struct json_scan *scan, bool object)
{
    if (scan->_open == JSON_DEPTH_MAX)
        return fail(scan, "it is nested deeper than 64 levels");
    scan->position++;
    enum json_token token = give(scan, object ? JSON_OBJECT_BEGIN : JSON_ARRAY_BEGIN, scan->position - 1);
    if (token == JSON_ERROR)
        return token;
    uint64_t bit = UINT64_C(1) << scan->_open;
    scan->_in_object = object ? scan->_in_object | bit : scan->_in_object & ~bit;
    scan->_open++;
    scan->_expect = object ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
    return token;
}

static bool in_object(const struct json_scan *scan)
{
    return scan->_open > 0 && (scan->_in_object >> (scan->_open - 1) & 1) != 0;
}

static enum json_token close_container(struct json_scan *scan)
{
    bool object = in_object(scan);
    scan->position++;
    scan->_open--;
    expect_after_value(scan);
    return give(scan, object ? JSON_OBJECT_END : JSON_ARRAY_END, scan->position - 1);
}

static enum json_token value(struct json_scan *scan)
{
    size_t begin = scan->position;
    const char *error;
    switch (scan->whole.at[begin]) {
    case '{':
        return open_container(scan, true);
    case '[':
        return open_container(scan, false);
    case '"':
        error = pass_string(scan);
        if (error != NULL)
            return fail(scan, error);
        expect_after_value(scan);
        return give(scan, JSON_STRING, begin);
    case 't':
        return literal(scan, TEXT("true"), JSON_TRUE);
    case 'f':
        return literal(scan, TEXT("false"), JSON_FALSE);
    case 'n':
        return literal(scan, TEXT("null"), JSON_NULL);
    default:
        break;
    }
    if (!has_byte(scan, begin, "-0123456789"))
        return fail(scan, "a value is expected");
    if (!pass_number(scan))
        return fail(scan, "a number is malformed");
    expect_after_value(scan);
    return give(scan, JSON_NUMBER, begin);
}

/* A key with its colon, so that whatever follows KEY is a value. */
static enum json_token key(struct json_scan *scan)
{
    size_t begin = scan->position;
    if (scan->whole.at[begin] != '"')
        return fail(scan, "a key in quotes is expected");
    const char *error = pass_string(scan);
    if (error != NULL)
        return fail(scan, error);
    enum json_token token = give(scan, JSON_KEY, begin);
    if (token == JSON_ERROR)
        return token;
    skip_white_space(scan);
    if (!has_byte(scan, scan->position, ":"))
        return fail(scan, "a colon is expected after a key");
    scan->position++;
    scan->_expect = EXPECT_VALUE;
    return token;
}

/* Between two members or elements: the closing bracket, or a comma and what has to follow it. */
static enum json_token after_value(struct json_scan *scan)
{
    bool object = in_object(scan);
    char c = scan->whole.at[scan->position];
    if (c == (object ? '}' : ']'))
        return close_container(scan);
    if (c != ',')
        return fail(scan, object ? "a comma or '}' is expected" : "a comma or ']' is expected");
    scan->position++;
    skip_white_space(scan);
    if (scan->position == scan->whole.length)
        return fail(scan, "it ends too early");
    return object ? key(scan) : value(scan);
}

enum json_token json_next(struct json_scan *scan)
{
    if (scan->_expect == EXPECT_FAILED)
        return JSON_ERROR;
    skip_white_space(scan);
    if (scan->position == scan->whole.length) {
        if (scan->_expect != EXPECT_NOTHING)
            return fail(scan, "it ends too early");
        scan->span = (struct text){scan->whole.at + scan->position, 0};
        scan->depth = 0;
        return scan->token = JSON_END;
    }
    char c = scan->whole.at[scan->position];
    switch ((enum expectation) scan->_expect) {
    case EXPECT_VALUE_OR_END:
        return c == ']' ? close_container(scan) : value(scan);
    case EXPECT_KEY_OR_END:
        return c == '}' ? close_container(scan) : key(scan);
    case EXPECT_COMMA_OR_END:
        return after_value(scan);
    case EXPECT_NOTHING:
        return fail(scan, "something follows the value");
    case EXPECT_VALUE:
    case EXPECT_FAILED:
    default:
        return value(scan);
    }
}

bool json_skip_value(struct json_scan *scan, struct text *ret_span)
{
    enum json_token token = json_next(scan);
    struct text first = scan->span;
    if (token == JSON_ERROR || token == JSON_END || token == JSON_OBJECT_END || token == JSON_ARRAY_END ||
        token == JSON_KEY)
        return false;
    if (token == JSON_OBJECT_BEGIN || token == JSON_ARRAY_BEGIN) {
        unsigned outside = scan->depth;
        do {
            token = json_next(scan);
            if (token == JSON_ERROR)
                return false;
        } while (scan->depth > outside);
    }
    if (ret_span != NULL)
        *ret_span = (struct text){first.at, (size_t) (scan->whole.at + scan->position - first.at)};
    return true;
}

static size_t encode_utf8(uint32_t point, char *to)
{
    if (point < 0x80) {
        to[0] = (char) point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (char) (0xC0 | point >> 6);
        to[1] = (char) (0x80 | (point & 0x3F));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (char) (0xE0 | point >> 12);
        to[1] = (char) (0x80 | (point >> 6 & 0x3F));
        to[2] = (char) (0x80 | (point & 0x3F));
        return 3;
    }
    to[0] = (char) (0xF0 | point >> 18);
    to[1] = (char) (0x80 | (point >> 12 & 0x3F));
    to[2] = (char) (0x80 | (point >> 6 & 0x3F));
    to[3] = (char) (0x80 | (point & 0x3F));
    return 4;
}

/* Decode the valid escape at the front of @rest into @to (4 bytes) and step over it; returns the bytes written. */
static size_t take_escape(struct text *rest, char *to)
{
    static const char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    ENSURE(rest->length >= 2);
    size_t length = rest->at[1] == 'u' ? 6 : 2;
    if (length == 2) {
        const char *name = strchr(names, rest->at[1]);
        ENSURE(name != NULL && *name != '\0');
        to[0] = meanings[name - names];
        *rest = (struct text){rest->at + 2, rest->length - 2};
        return 1;
    }
    int32_t unit = hex_unit(rest->at + 2, rest->length - 2);
    ENSURE(unit >= 0);
    uint32_t point = (uint32_t) unit;
    if (is_high_surrogate(unit)) {
        ENSURE(rest->length >= 12);
        int32_t low = hex_unit(rest->at + 8, rest->length - 8);
        ENSURE(is_low_surrogate(low));
        point = 0x10000 + ((uint32_t) (unit - 0xD800) << 10 | (uint32_t) (low - 0xDC00));
        length = 12;
    }
    *rest = (struct text){rest->at + length, rest->length - length};
    return encode_utf8(point, to);
}

static struct text without_quotes(struct text span)
{
    ENSURE(span.length >= 2);
    return (struct text){span.at + 1, span.length - 2};
}

/* Take the next run of decoded bytes of @rest, which stays as long as @piece does: a slice of the source, or @scratch
 * (4 bytes). False at the end. */
static bool take_piece(struct text *rest, char *scratch, struct text *piece)
{
    if (rest->length == 0)
        return false;
    if (rest->at[0] == '\\') {
        size_t length = take_escape(rest, scratch);
        *piece = (struct text){scratch, length};
        return true;
    }
    const char *escape = memchr(rest->at, '\\', rest->length);
    size_t length = escape != NULL ? (size_t) (escape - rest->at) : rest->length;
    *piece = (struct text){rest->at, length};
    *rest = (struct text){rest->at + length, rest->length - length};
    return true;
}

static bool equals(struct text span, struct text plain, bool (*equal)(struct text, struct text))
{
    struct text rest = without_quotes(span), piece;
    char scratch[4];
    while (take_piece(&rest, scratch, &piece)) {
        if (piece.length > plain.length || !equal(piece, (struct text){plain.at, piece.length}))
            return false;
        plain = (struct text){plain.at + piece.length, plain.length - piece.length};
    }
    return plain.length == 0;
}

bool json_string_equals(struct text span, struct text plain)
{
    return equals(span, plain, text_equal);
}

bool json_string_equals_ignoring_case(struct text span, struct text plain)
{
    return equals(span, plain, text_equal_ignoring_case);
}

size_t json_string_decode(struct text span, char *to)
{
    struct text rest = without_quotes(span), piece;
    char scratch[4];
    size_t length = 0;
    while (take_piece(&rest, scratch, &piece)) {
        memcpy(to + length, piece.at, piece.length);
        length += piece.length;
    }
    return length;
}

size_t json_decoded_length(struct text span)
{
    struct text rest = without_quotes(span), piece;
    char scratch[4];
    size_t length = 0;
    while (take_piece(&rest, scratch, &piece))
        length += piece.length;
    return length;
}

bool json_number_to_int64(struct text span, int64_t *ret)
{
    return text_to_int64(span, ret);
}
