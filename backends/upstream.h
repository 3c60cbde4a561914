/* One request to one engine: a curl transfer with its own timers, streaming both ways. Worker thread only. */
#ifndef BACKENDS_UPSTREAM_H
#define BACKENDS_UPSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/fleet.h"
#include "base/loop.h"
#include "base/text.h"

/* One worker's connections to all engines. */
struct upstream;
/* One exchange in flight; its owner hears of it until exchange_cancel, exchange_release or `end`. */
struct exchange;

enum { EXCHANGE_HEAD_BYTES_MAX = 64 * 1024, EXCHANGE_REQUEST_ID_BYTES = 64, EXCHANGE_TRACEPARENT_BYTES = 64 };

struct exchange_head {
    int status;
    bool is_event_stream; /* Content-Type: text/event-stream */
    bool is_json;
    int64_t content_length; /* -1 = not given */
    int64_t retry_after_ms; /* -1 = not given; from retry-after-ms or whole seconds of Retry-After */
};

enum exchange_end {
    EXCHANGE_DONE,           /* the answer came whole by HTTP's rules */
    EXCHANGE_CONNECT_FAILED, /* nothing was sent */
    EXCHANGE_CLOSED_REUSED,  /* a reused connection was closed without a byte: the engine may never have seen it */
    EXCHANGE_CLOSED_EARLY,   /* closed or reset before the answer was whole */
    EXCHANGE_BROKEN,         /* not HTTP, or a head over EXCHANGE_HEAD_BYTES_MAX */
    EXCHANGE_NO_FIRST_BYTE,  /* timeouts.first_token */
    EXCHANGE_STALLED,        /* timeouts.inter_chunk */
    EXCHANGE_TOO_LONG,       /* timeouts.total */
    EXCHANGE_END_COUNT
};
extern const char *const EXCHANGE_END_NAMES[EXCHANGE_END_COUNT];

/* What the receiver of body bytes says. */
enum body_verdict {
    BODY_TAKEN,
    BODY_PAUSE /* not taken: hold them back until exchange_continue */
};

struct exchange_events {
    void (*head)(void *owner, const struct exchange_head *head);
    enum body_verdict (*body)(void *owner, struct text bytes);
    /* The last call; the exchange is gone when it returns. @detail is a constant or curl's text, valid during the call.
     */
    void (*end)(void *owner, enum exchange_end end, const char *detail);
};

/* Texts are copied, or valid until `end` where stated. */
struct exchange_request {
    const struct lease_target *target; /* read during exchange_start only */
    const char *path;                  /* a constant: "/v1/completions" */
    const char *request_id;
    struct text traceparent; /* at == NULL: none */
    bool streaming;          /* first_token applies, and then inter_chunk; otherwise only total */
    bool fresh_connection;   /* never a reused one */
    bool forget_connection;  /* never reuse it afterwards */
    size_t body_length;
    /* Part of the body, at most @capacity bytes from @offset; called until `end`. */
    size_t (*read_body)(void *owner, size_t offset, char *to, size_t capacity);
};

struct upstream *upstream_create(struct loop *loop);
/* No exchange may be in flight but released ones, which are dropped. NULLs. */
void upstream_destroy(struct upstream **upstream);

/* Start sending. No call is made from inside. NULL when memory or curl is exhausted. */
struct exchange *exchange_start(struct upstream *upstream, const struct exchange_request *request,
                                const struct exchange_events *events, void *owner);
/* Close the connection to the engine at once; no further call. May be called from any of the calls above. NULLs; no-op
 * on NULL. */
void exchange_cancel(struct exchange **exchange);
/* The owner has all it needs: the rest is read and dropped (1 s, 64 KiB at most) so that the connection can be used
 * again. As above. */
void exchange_release(struct exchange **exchange);
/* After BODY_PAUSE: bytes may come again. `body` may be called from inside. */
void exchange_continue(struct exchange *exchange);
/* The engine generated something: restarts inter_chunk. Comments of an engine are no progress. */
void exchange_progress(struct exchange *exchange);

#endif
