/* The engine's answer on its way to the client: events or a whole body, spliced where the wire form needs it, its usage
 * found. */
#ifndef GATEWAY_RELAY_H
#define GATEWAY_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/answer_scan.h"
#include "backends/dialect.h"
#include "backends/sse.h"
#include "base/buffer.h"
#include "base/clock.h"
#include "ratelimit/estimate_content.h"

/* By whose count. */
enum usage_source { USAGE_NONE, USAGE_ENGINE, USAGE_COUNTED, USAGE_ESTIMATED };
extern const char *const USAGE_SOURCE_NAMES[];

/* What was generated. A value. */
struct usage {
    int64_t input_tokens;
    int64_t cached_input_tokens; /* part of input_tokens */
    int64_t output_tokens;
    enum usage_source input_source;
    enum usage_source output_source;
};

enum {
    RELAY_HELD_BYTES = 64 * 1024, /* of a whole answer's end, held back until its usage is recorded */
    RELAY_ERROR_BYTES_MAX = 64 * 1024,
    RELAY_HIGH_WATER_BYTES = 256 * 1024, /* unsent: the engine is paused */
    RELAY_PING_MS = 15000,
    RELAY_USAGE_BYTES_MAX = 2048
};

enum relay_kind {
    RELAY_NONE,
    RELAY_EVENTS, /* server-sent events */
    RELAY_WHOLE,  /* one JSON body */
    RELAY_ERROR   /* the engine's error body, to be put into OpenAI's form */
};

/* How one request's events have to be changed. */
struct relay_rules {
    const struct dialect *dialect;
    bool is_chat;
    bool wants_usage_chunk;      /* the client asked for include_usage */
    bool wants_continuous_usage; /* the client asked for usage on every chunk */
    bool may_be_cut;             /* a limit may end it before the engine does */
    bool is_embeddings;          /* nothing is generated */
    int64_t choices;             /* n times prompts */
    struct content_rates rates;  /* of the model, for what no engine counts */
};

/* The state of one answer; zeroed by relay_begin. Pure: it turns bytes into bytes and findings. */
struct relay {
    enum relay_kind kind;
    struct relay_rules rules;
    struct sse_parser events;
    struct answer_scan scan;   /* WHOLE: all bytes */
    struct buffer held;        /* WHOLE: not yet written; ERROR: the body */
    struct engine_usage usage; /* the last that counted something */
    bool usage_is_final;       /* it came when every choice had its finish_reason, and is of all or of one of them */
    bool usage_chunk_sent;
    bool done_seen;              /* [DONE] */
    bool error_seen;             /* an error event inside a 200 */
    bool progressed;             /* the last feed held an event */
    unsigned finished;           /* choices whose finish_reason came */
    int64_t content_chunks;      /* of all choices */
    int64_t first_choice_chunks; /* of choice 0 */
    int64_t chunks_told;         /* of content_chunks, those that @usage includes */
    uint64_t content_bytes;
    uint64_t last_chunk_bytes; /* of content, in the last event that had any */
    uint64_t written_bytes;
    char template_chunk[512]; /* `"id":…,"object":…,"created":…,"model":…` of the first chunk, for a usage chunk of ours
                               */
    size_t template_length;
    char usage_json[RELAY_USAGE_BYTES_MAX]; /* the last usage object as the engine wrote it */
    size_t usage_json_length;
};

void relay_begin(struct relay *relay, enum relay_kind kind, const struct relay_rules *rules);
void relay_finish(struct relay *relay);

/* EVENTS: feed the engine's bytes; what the client is to get is appended to @out, whole events only. After done_seen or
 * error_seen the rest is ignored; the closing event is not in @out: relay_closing makes it. False: an event too long.
 */
bool relay_feed_events(struct relay *relay, struct text bytes, struct buffer *out);
/* EVENTS: every choice had its finish_reason. */
bool relay_has_finished(const struct relay *relay);
/* EVENTS: the stream may be called complete: [DONE], or its end after every choice had its finish_reason. */
bool relay_is_complete(const struct relay *relay);
/* EVENTS, complete: the usage chunk if it is owed, and `data: [DONE]`. */
bool relay_closing(struct relay *relay, struct buffer *out);
/* EVENTS, ended by a limit: a chunk with finish_reason "length", the usage chunk with @usage if it is owed, `data:
 * [DONE]`. */
bool relay_cut(struct relay *relay, const struct usage *usage, struct buffer *out);
/* EVENTS, broken: one error event. */
bool relay_error_event(struct buffer *out, const char *message, const char *type, const char *code);

/* What was generated so far, by the table of DESIGN section 5: the engine's usage, else counted, else estimated.
 * @complete: the answer came whole. */
struct usage relay_usage(const struct relay *relay, bool complete, int64_t input_estimate_tokens);

/* What the answer teaches about content when the engine counted it; tokens is 0 when it teaches nothing. Once it is
 * complete. */
struct content_sample relay_content_sample(const struct relay *relay);

/* The message inside an engine's error body, whatever its shape; at == NULL when there is none. Copied to @to. */
struct text relay_engine_message(struct text body, char *to, size_t capacity);

#endif
