/* Incremental parser of server-sent events (WHATWG HTML, 9.2.6): bytes in, whole events out. Pure. */
#ifndef BACKENDS_SSE_H
#define BACKENDS_SSE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/text.h"

enum { SSE_EVENT_BYTES_MAX = 1024 * 1024 };

/* One event as the engine wrote it. Slices are valid during the call only. */
struct sse_event {
    struct text data; /* the data lines joined by LF, without "data:" and one optional space; empty = no data line */
    struct text raw;  /* every byte of the event with its closing blank line, comments inside included */
};

struct sse_parser {
    struct buffer pending; /* the bytes of the event that is not complete yet */
    size_t scanned;
    bool at_start; /* nothing read yet: a byte order mark is skipped */
    bool too_long; /* sticky: one event exceeded SSE_EVENT_BYTES_MAX */
};

void sse_begin(struct sse_parser *parser);
void sse_finish(struct sse_parser *parser);

/* What the receiver says: go on, or stop (the rest of the bytes is dropped). */
typedef bool sse_receiver(void *owner, const struct sse_event *event);
/* Feed @bytes, in any pieces; @receive is called once for each complete event that has a data line. Events of comments
 * only are dropped. Lines may end in LF, CRLF or CR. False when an event is too long or the receiver said stop. */
bool sse_feed(struct sse_parser *parser, struct text bytes, sse_receiver *receive, void *owner);
/* At the end of the stream: bytes of an unfinished event are left over (it never counts as an event). */
bool sse_has_rest(const struct sse_parser *parser);

#endif
