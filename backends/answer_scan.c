/* A push-down scanner that takes any piece of JSON at any point, and knows the meaning ("place") of the few values that
 * matter. */
#include "backends/answer_scan.h"

#include <string.h>

#include "backends/answer_meaning.h"

enum state {
    STATE_VALUE,
    STATE_VALUE_OR_END,
    STATE_KEY,
    STATE_KEY_OR_END,
    STATE_COLON,
    STATE_COMMA_OR_END,
    STATE_DONE,
    STATE_STRING,
    STATE_ESCAPE,
    STATE_UNIT,
    STATE_NUMBER,
    STATE_LITERAL
};

enum { STACK_OBJECT = 0x80 }; /* beside the place, in @_stack */

enum string_kind { STRING_OTHER, STRING_KEY, STRING_CONTENT };

enum number_state {
    NUMBER_MINUS,
    NUMBER_ZERO,
    NUMBER_DIGITS,
    NUMBER_POINT,
    NUMBER_FRACTION,
    NUMBER_E,
    NUMBER_SIGN,
    NUMBER_EXPONENT,
    NUMBER_STOP /* the byte is no part of this number */
};

void answer_begin(struct answer_scan *scan)
{
    memset(scan, 0, sizeof(*scan));
    scan->_place = PLACE_ROOT;
    scan->_state = STATE_VALUE;
}

static bool is_white_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static enum place top_place(const struct answer_scan *scan)
{
    return (enum place)(scan->_stack[scan->_depth - 1] & ~STACK_OBJECT);
}

static bool in_object(const struct answer_scan *scan)
{
    return (scan->_stack[scan->_depth - 1] & STACK_OBJECT) != 0;
}

/* A name that does not fit has the length ANSWER_NAME_BYTES_MAX + 1 from then on, and equals nothing. */
static void add_to_name(struct answer_scan *scan, struct text piece)
{
    size_t length = scan->_name_length;
    if (length > ANSWER_NAME_BYTES_MAX || piece.length > ANSWER_NAME_BYTES_MAX - length) {
        scan->_name_length = ANSWER_NAME_BYTES_MAX + 1;
        return;
    }
    if (piece.length > 0)
        memcpy(scan->_name + length, piece.at, piece.length);
    scan->_name_length = (uint8_t) (length + piece.length);
}

/* The value at @place ended; the next byte is at @_offset. */
static void end_value(struct answer_scan *scan, enum place place)
{
    if (place == PLACE_USAGE)
        scan->usage_member_end = scan->_offset;
    if (scan->_depth == 0)
        scan->complete = true;
    scan->_state = scan->_depth == 0 ? STATE_DONE : STATE_COMMA_OR_END;
}

static void open_container(struct answer_scan *scan, bool object)
{
    if (scan->_depth == ANSWER_DEPTH_MAX) {
        scan->broken = true;
        return;
    }
    enum place place = (enum place) scan->_place;
    scan->_stack[scan->_depth++] = (uint8_t) ((unsigned) place | (object ? STACK_OBJECT : 0u));
    scan->_state = object ? STATE_KEY_OR_END : STATE_VALUE_OR_END;
    if (!object)
        scan->_place = (uint8_t) answer_element_place(top_place(scan));
    scan->_offset++;
}

static void close_container(struct answer_scan *scan)
{
    enum place place = top_place(scan);
    bool object = in_object(scan);
    scan->_depth--;
    scan->_offset++;
    if (object)
        answer_end_object(scan, place);
    end_value(scan, place);
}

static void begin_string(struct answer_scan *scan, enum string_kind kind)
{
    scan->_string_kind = (uint8_t) kind;
    scan->_string_begin = scan->_offset;
    scan->_name_length = 0;
    scan->_state = STATE_STRING;
    scan->_offset++;
}

static void begin_value(struct answer_scan *scan, char c)
{
    answer_begin_value(scan, (enum place) scan->_place, c);
    if (c == '{' || c == '[') {
        open_container(scan, c == '{');
    } else if (c == '"') {
        begin_string(scan, scan->_place == PLACE_CONTENT ? STRING_CONTENT : STRING_OTHER);
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        scan->_state = STATE_NUMBER;
        scan->_negative = c == '-';
        scan->_number = c == '-' ? 0 : (uint64_t) (c - '0');
        scan->_number_state = c == '-' ? NUMBER_MINUS : c == '0' ? NUMBER_ZERO : NUMBER_DIGITS;
        scan->_offset++;
    } else if (c == 't' || c == 'f' || c == 'n') {
        scan->_state = STATE_LITERAL;
        scan->_literal = c;
        scan->_progress = 1;
        scan->_offset++;
    } else {
        scan->broken = true;
    }
}

static void after_comma(struct answer_scan *scan)
{
    scan->_offset++;
    scan->_state = in_object(scan) ? STATE_KEY : STATE_VALUE;
    if (!in_object(scan))
        scan->_place = (uint8_t) answer_element_place(top_place(scan));
}

/* One byte between values, no white space. */
static void feed_structure(struct answer_scan *scan, char c)
{
    switch ((enum state) scan->_state) {
    case STATE_VALUE_OR_END:
        if (c == ']')
            close_container(scan);
        else
            begin_value(scan, c);
        return;
    case STATE_VALUE:
        begin_value(scan, c);
        return;
    case STATE_KEY_OR_END:
    case STATE_KEY:
        if (c == '"')
            begin_string(scan, STRING_KEY);
        else if (c == '}' && scan->_state == STATE_KEY_OR_END)
            close_container(scan);
        else
            scan->broken = true;
        return;
    case STATE_COLON:
        scan->broken = c != ':';
        scan->_state = STATE_VALUE;
        scan->_offset++;
        return;
    case STATE_COMMA_OR_END:
        if (c == ',')
            after_comma(scan);
        else if (c == (in_object(scan) ? '}' : ']'))
            close_container(scan);
        else
            scan->broken = true;
        return;
    case STATE_DONE:
    case STATE_STRING:
    case STATE_ESCAPE:
    case STATE_UNIT:
    case STATE_NUMBER:
    case STATE_LITERAL:
    default:
        scan->broken = true;
        return;
    }
}

/* The closing quote is behind us. */
static void end_string(struct answer_scan *scan)
{
    if (scan->_string_kind != STRING_KEY) {
        end_value(scan, (enum place) scan->_place);
        return;
    }
    scan->_place = (uint8_t) answer_member_place(top_place(scan), (struct text){scan->_name, scan->_name_length});
    scan->_state = STATE_COLON;
    if (scan->_place == PLACE_USAGE) {
        scan->has_usage_member = true;
        scan->usage_is_null = false;
        scan->usage_member_begin = scan->_string_begin;
        scan->usage_value_begin = scan->usage_member_end = 0;
    }
}

/* @count bytes of a string's source passed; @name is what they add to a key. */
static void pass_string_bytes(struct answer_scan *scan, size_t count, struct text name)
{
    scan->_offset += count;
    if (count == 0)
        return;
    if (scan->_string_kind == STRING_KEY)
        add_to_name(scan, name);
    if (scan->_string_kind == STRING_CONTENT) {
        scan->content_bytes += count;
        scan->_choice_has_content = true;
    }
}

/* As much of a string as @bytes have, up to an escape; returns the bytes used. */
static size_t feed_string(struct answer_scan *scan, struct text bytes)
{
    size_t count = 0;
    while (count < bytes.length && bytes.at[count] != '"' && bytes.at[count] != '\\')
        count++;
    pass_string_bytes(scan, count, (struct text){bytes.at, count});
    if (count == bytes.length)
        return count;
    if (bytes.at[count] == '"') {
        scan->_offset++;
        end_string(scan);
    } else {
        pass_string_bytes(scan, 1, (struct text){NULL, 0});
        scan->_state = STATE_ESCAPE;
    }
    return count + 1;
}

/* The byte after a backslash. */
static void feed_escape(struct answer_scan *scan, char c)
{
    static const char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (c == 'u') {
        pass_string_bytes(scan, 1, (struct text){NULL, 0});
        scan->_state = STATE_UNIT;
        scan->_progress = 0;
        scan->_unit = 0;
        return;
    }
    const char *name = c == '\0' ? NULL : strchr(names, c);
    if (name == NULL) {
        scan->broken = true;
        return;
    }
    pass_string_bytes(scan, 1, (struct text){meanings + (name - names), 1});
    scan->_state = STATE_STRING;
}

/* One of the four digits of \u0000. No name of ours has a character beyond ASCII: any such one becomes \xFF. */
static void feed_unit(struct answer_scan *scan, char c)
{
    char lower = (char) (c | 0x20), meaning;
    if (!(c >= '0' && c <= '9') && !(lower >= 'a' && lower <= 'f')) {
        scan->broken = true;
        return;
    }
    unsigned digit = (unsigned) (c <= '9' ? c - '0' : lower - 'a' + 10);
    scan->_unit = (uint16_t) ((unsigned) scan->_unit << 4 | digit);
    bool last = ++scan->_progress == 4;
    meaning = scan->_unit < 0x80 ? (char) scan->_unit : '\xFF';
    pass_string_bytes(scan, 1, (struct text){&meaning, last ? 1 : 0});
    if (last)
        scan->_state = STATE_STRING;
}

static void feed_literal(struct answer_scan *scan, char c)
{
    const char *word = scan->_literal == 't' ? "true" : scan->_literal == 'f' ? "false" : "null";
    if (c != word[scan->_progress]) {
        scan->broken = true;
        return;
    }
    scan->_offset++;
    if (word[++scan->_progress] != '\0')
        return;
    if (scan->_place == PLACE_USAGE && scan->_literal == 'n')
        scan->usage_is_null = true;
    end_value(scan, (enum place) scan->_place);
}

static enum number_state number_after_digit(enum number_state state, char c)
{
    switch (state) {
    case NUMBER_MINUS:
        return c == '0' ? NUMBER_ZERO : NUMBER_DIGITS;
    case NUMBER_DIGITS:
        return NUMBER_DIGITS;
    case NUMBER_POINT:
    case NUMBER_FRACTION:
        return NUMBER_FRACTION;
    case NUMBER_E:
    case NUMBER_SIGN:
    case NUMBER_EXPONENT:
        return NUMBER_EXPONENT;
    case NUMBER_ZERO:
    case NUMBER_STOP:
    default:
        return NUMBER_STOP;
    }
}

static enum number_state number_after(enum number_state state, char c)
{
    if (c >= '0' && c <= '9')
        return number_after_digit(state, c);
    bool whole = state == NUMBER_ZERO || state == NUMBER_DIGITS;
    if (c == '.' && whole)
        return NUMBER_POINT;
    if ((c == 'e' || c == 'E') && (whole || state == NUMBER_FRACTION))
        return NUMBER_E;
    if ((c == '+' || c == '-') && state == NUMBER_E)
        return NUMBER_SIGN;
    return NUMBER_STOP;
}

/* The number at hand ended before the next byte. */
static void end_number(struct answer_scan *scan)
{
    enum number_state state = (enum number_state) scan->_number_state;
    bool whole = state == NUMBER_ZERO || state == NUMBER_DIGITS;
    enum place place = (enum place) scan->_place;
    if (!whole && state != NUMBER_FRACTION && state != NUMBER_EXPONENT) {
        scan->broken = true;
        return;
    }
    if (whole && !scan->_negative && scan->_number <= ANSWER_COUNT_MAX)
        answer_note_number(scan, place, (int64_t) scan->_number);
    end_value(scan, place);
}

/* As much of a number as @bytes have; returns the bytes used. */
static size_t feed_number(struct answer_scan *scan, struct text bytes)
{
    enum number_state state = (enum number_state) scan->_number_state, next;
    uint64_t number = scan->_number;
    size_t count = 0;
    for (; count < bytes.length; count++) {
        char c = bytes.at[count];
        next = number_after(state, c);
        if (next == NUMBER_STOP)
            break;
        state = next;
        if (state == NUMBER_DIGITS && number <= ANSWER_COUNT_MAX)
            number = number * 10 + (uint64_t) (c - '0');
    }
    scan->_number = number;
    scan->_number_state = (uint8_t) state;
    scan->_offset += count;
    if (count < bytes.length)
        end_number(scan);
    return count;
}

/* Returns the bytes used; none only when the state changed or the scan broke. */
static size_t feed_some(struct answer_scan *scan, struct text bytes)
{
    size_t before = scan->_offset;
    char c = bytes.at[0];
    switch ((enum state) scan->_state) {
    case STATE_STRING:
        return feed_string(scan, bytes);
    case STATE_NUMBER:
        return feed_number(scan, bytes);
    case STATE_ESCAPE:
        feed_escape(scan, c);
        break;
    case STATE_UNIT:
        feed_unit(scan, c);
        break;
    case STATE_LITERAL:
        feed_literal(scan, c);
        break;
    case STATE_VALUE:
    case STATE_VALUE_OR_END:
    case STATE_KEY:
    case STATE_KEY_OR_END:
    case STATE_COLON:
    case STATE_COMMA_OR_END:
    case STATE_DONE:
    default:
        if (is_white_space(c))
            scan->_offset++;
        else
            feed_structure(scan, c);
        break;
    }
    return scan->_offset - before;
}

void answer_feed(struct answer_scan *scan, struct text bytes)
{
    while (bytes.length > 0 && !scan->broken) {
        size_t used = feed_some(scan, bytes);
        bytes = (struct text){bytes.at + used, bytes.length - used};
    }
}

struct engine_usage answer_usage(const struct answer_scan *scan)
{
    return scan->usage.seen ? scan->usage : scan->_timings;
}

bool answer_usage_cut(const struct answer_scan *scan, struct text whole, struct text *ret_before,
                      struct text *ret_after)
{
    if (!scan->has_usage_member || scan->usage_member_end == 0 || scan->usage_member_end > whole.length)
        return false;
    size_t begin = scan->usage_member_begin, end = scan->usage_member_end, next = end;
    while (next < whole.length && is_white_space(whole.at[next]))
        next++;
    if (next < whole.length && whole.at[next] == ',') {
        end = next + 1;
        while (end < whole.length && is_white_space(whole.at[end]))
            end++;
    } else {
        size_t comma = begin;
        while (comma > 0 && is_white_space(whole.at[comma - 1]))
            comma--;
        if (comma > 0 && whole.at[comma - 1] == ',')
            begin = comma - 1;
    }
    *ret_before = (struct text){whole.at, begin};
    *ret_after = (struct text){whole.at + end, whole.length - end};
    return true;
}
