/* Two steps: a scan that finds where events end, over pieces; then the data lines of one whole event. */
#include "backends/sse.h"

#include <string.h>

static const struct text byte_order_mark = {"\xEF\xBB\xBF", 3};
enum { BOM_DONE = 4 };

enum line {
    LINE_EMPTY,    /* nothing of it yet */
    LINE_FILLED,   /* some bytes */
    LINE_RETURNED, /* some bytes, then CR: the LF of a CRLF may follow */
    LINE_CLOSING   /* an empty line's CR, in a stream that ends lines in CRLF: its LF should follow */
};
enum line_end { END_NONE, END_LF, END_CR, END_CRLF };

void sse_begin(struct sse_parser *parser)
{
    memset(parser, 0, sizeof(*parser));
    buffer_init(&parser->_pending, SSE_EVENT_BYTES_MAX);
    buffer_init(&parser->_joined, SSE_EVENT_BYTES_MAX);
}

void sse_finish(struct sse_parser *parser)
{
    buffer_finish(&parser->_pending);
    buffer_finish(&parser->_joined);
}

bool sse_has_rest(const struct sse_parser *parser)
{
    return buffer_length(&parser->_pending) > 0 || (parser->_bom_length > 0 && parser->_bom_length < BOM_DONE);
}

/* Split the first line off @rest, without its end. */
static struct text take_line(struct text *rest)
{
    size_t length = 0;
    while (length < rest->length && rest->at[length] != '\n' && rest->at[length] != '\r')
        length++;
    struct text line = {rest->at, length};
    size_t past = length;
    if (past < rest->length && rest->at[past++] == '\r' && past < rest->length && rest->at[past] == '\n')
        past++;
    *rest = (struct text){rest->at + past, rest->length - past};
    return line;
}

/* The value of a `data` field; false when @line is another field, a comment or empty. */
static bool data_of_line(struct text line, struct text *ret)
{
    if (!text_starts_with(line, TEXT("data")) || (line.length > 4 && line.at[4] != ':'))
        return false;
    size_t skip = line.length < 5 ? 4 : line.length > 5 && line.at[5] == ' ' ? 6 : 5;
    *ret = (struct text){line.at + skip, line.length - skip};
    return true;
}

/* Join the data lines of @raw. One line, the usual case, stays where it is. Returns how many there were; -1 when memory
 * is exhausted. */
static int join_data(struct sse_parser *parser, struct text raw, struct text *ret)
{
    struct text rest = raw, piece;
    int count = 0;
    while (rest.length > 0) {
        if (!data_of_line(take_line(&rest), &piece))
            continue;
        if (count == 0) {
            *ret = piece;
            count = 1;
            continue;
        }
        if (count == 1) {
            buffer_clear(&parser->_joined);
            if (!buffer_add(&parser->_joined, *ret))
                return -1;
            count = 2;
        }
        if (!buffer_add(&parser->_joined, TEXT("\n")) || !buffer_add(&parser->_joined, piece))
            return -1;
    }
    if (count == 2)
        *ret = buffer_text(&parser->_joined);
    return count;
}

/* Take the next byte of the event into account; true when the event ends with it. */
static bool ends_with(struct sse_parser *parser, char c)
{
    enum line line = (enum line) parser->_line;
    if (line == LINE_RETURNED) {
        parser->_line_end = c == '\n' ? END_CRLF : END_CR;
        parser->_line = LINE_EMPTY;
        if (c == '\n')
            return false;
        line = LINE_EMPTY;
    }
    if (line == LINE_CLOSING)
        return true;
    if (c != '\n' && c != '\r') {
        parser->_line = LINE_FILLED;
        return false;
    }
    if (line == LINE_EMPTY) {
        parser->_line = c == '\r' && parser->_line_end == END_CRLF ? LINE_CLOSING : LINE_EMPTY;
        return parser->_line == LINE_EMPTY;
    }
    parser->_line = c == '\r' ? LINE_RETURNED : LINE_EMPTY;
    parser->_line_end = c == '\r' ? END_CR : END_LF;
    return false;
}

/* How many of @bytes belong to the current event; *ret_ended says whether it ends there. */
static size_t scan_event(struct sse_parser *parser, struct text bytes, bool *ret_ended)
{
    *ret_ended = false;
    for (size_t i = 0; i < bytes.length; i++) {
        char c = bytes.at[i];
        if (parser->_line == LINE_FILLED && c != '\n' && c != '\r')
            continue;
        bool closing = parser->_line == LINE_CLOSING;
        if (!ends_with(parser, c))
            continue;
        *ret_ended = true;
        parser->_line = LINE_EMPTY;
        /* After the CR of an empty line anything but LF is the next event's. */
        return closing && c != '\n' ? i : i + 1;
    }
    return bytes.length;
}

static bool give_event(struct sse_parser *parser, struct text raw, sse_receiver *receive, void *owner)
{
    struct sse_event event = {.raw = raw};
    int data_lines = join_data(parser, raw, &event.data);
    if (data_lines < 0) {
        parser->too_long = true;
        return false;
    }
    return data_lines == 0 || receive(owner, &event);
}

/* The event's last bytes are @tail; the ones before it, if any, are pending. */
static bool end_event(struct sse_parser *parser, struct text tail, sse_receiver *receive, void *owner)
{
    if (buffer_length(&parser->_pending) == 0)
        return give_event(parser, tail, receive, owner);
    if (!buffer_add(&parser->_pending, tail)) {
        parser->too_long = true;
        return false;
    }
    bool on = give_event(parser, buffer_text(&parser->_pending), receive, owner);
    buffer_clear(&parser->_pending);
    return on;
}

static bool feed(struct sse_parser *parser, struct text bytes, sse_receiver *receive, void *owner)
{
    while (bytes.length > 0) {
        bool ended;
        size_t length = scan_event(parser, bytes, &ended);
        struct text part = {bytes.at, length};
        bytes = (struct text){bytes.at + length, bytes.length - length};
        if (buffer_length(&parser->_pending) + length > SSE_EVENT_BYTES_MAX) {
            parser->too_long = true;
            return false;
        }
        if (ended && !end_event(parser, part, receive, owner))
            return false;
        if (!ended && !buffer_add(&parser->_pending, part)) {
            parser->too_long = true;
            return false;
        }
    }
    return true;
}

/* Drop a byte order mark at the start. What only began like one is fed as the bytes it was. */
static bool pass_byte_order_mark(struct sse_parser *parser, struct text *bytes, sse_receiver *receive, void *owner)
{
    while (bytes->length > 0 && parser->_bom_length < byte_order_mark.length) {
        if (bytes->at[0] != byte_order_mark.at[parser->_bom_length]) {
            struct text begun = {byte_order_mark.at, parser->_bom_length};
            parser->_bom_length = BOM_DONE;
            return feed(parser, begun, receive, owner);
        }
        parser->_bom_length++;
        *bytes = (struct text){bytes->at + 1, bytes->length - 1};
    }
    if (parser->_bom_length == byte_order_mark.length)
        parser->_bom_length = BOM_DONE;
    return true;
}

bool sse_feed(struct sse_parser *parser, struct text bytes, sse_receiver *receive, void *owner)
{
    if (parser->too_long)
        return false;
    if (parser->_bom_length < BOM_DONE && !pass_byte_order_mark(parser, &bytes, receive, owner))
        return false;
    return feed(parser, bytes, receive, owner);
}
