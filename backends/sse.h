/* Incremental parser of server-sent events (WHATWG HTML, 9.2.6): bytes in, whole events out. Pure, linear. */
#ifndef BACKENDS_SSE_H
#define BACKENDS_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/text.h"

enum { SSE_EVENT_BYTES_MAX = 1024 * 1024 };

/* One event as the engine wrote it. Slices are valid during the call only. */
struct sse_event {
    struct text data; /* the data lines joined by LF, without "data:" and one optional space; empty = no data line */
    struct text raw;  /* every byte of the event with its closing blank line, comments inside included */
};

struct sse_parser {
    bool too_long; /* sticky: one event exceeded SSE_EVENT_BYTES_MAX, or memory was exhausted */
    /* private */
    struct buffer _pending; /* the bytes of the event that is not complete yet */
    struct buffer _joined;  /* the data of an event with several data lines */
    uint8_t _bom_length;    /* bytes of a byte order mark met at the very start; BOM_DONE once past it */
    uint8_t _line;          /* what the current line is so far */
    uint8_t _line_end;      /* how the line before it ended */
};

void sse_begin(struct sse_parser *parser);
void sse_finish(struct sse_parser *parser);

/* What the receiver says: go on, or stop (the rest of the bytes is dropped). */
typedef bool sse_receiver(void *owner, const struct sse_event *event);
/* Feed @bytes, in any pieces; @receive is called once for each complete event that has a data line. Events of comments
 * only are dropped, and so is a byte order mark at the start. Lines may end in LF, CRLF or CR; the LF of a CRLF that
 * closes an event is waited for, so that @raw is the same however the bytes were cut. False when an event is too long
 * or the receiver said stop. */
bool sse_feed(struct sse_parser *parser, struct text bytes, sse_receiver *receive, void *owner);
/* At the end of the stream: bytes of an unfinished event are left over (it never counts as an event). */
bool sse_has_rest(const struct sse_parser *parser);

#endif
