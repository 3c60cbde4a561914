/* The journal's records and how they stand in a file. Pure.
 * A record is: u32 length of the payload, u32 CRC-32C over everything after it, u64 sequence, u8 type, payload;
 * little-endian. Zero length, or the end of the file, ends a segment's content (segments are pre-allocated with zeros).
 */
#ifndef BILLING_RECORD_H
#define BILLING_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/text.h"

enum {
    RECORD_HEAD_BYTES = 17,
    RECORD_PAYLOAD_BYTES_MAX = 1024,
    RECORD_NAME_BYTES_MAX = 128, /* tenant, key, model */
    RECORD_ID_BYTES_MAX = 32,    /* request id */
    RECORD_BYTES_MAX = RECORD_HEAD_BYTES + RECORD_PAYLOAD_BYTES_MAX
};

enum record_type {
    RECORD_OPEN = 1, /* before dispatch: id, tenant, key, model, wall, input estimate */
    RECORD_PROGRESS, /* while it streams: id, wall, output so far */
    RECORD_CLOSE,    /* once: id, tenant, key, model, wall, usage, end */
    RECORD_SEAL,     /* the epoch is complete: epoch, begin and end wall times */
    RECORD_FINISH    /* the writer's last record: closed in order, or recovered */
};

/* By whose count; the values stand in files and in Redis and never change. */
enum count_source { COUNT_NONE = 0, COUNT_ENGINE = 1, COUNT_COUNTED = 2, COUNT_ESTIMATED = 3 };
extern const char *const COUNT_SOURCE_NAMES[4]; /* "none", "engine", "counted", "estimated" */

/* How a request ended, as far as money cares; the values never change. */
enum usage_end {
    END_COMPLETE = 1, /* [DONE] or the whole answer */
    END_CLIENT_GONE = 2,
    END_ENGINE_ERROR = 3,
    END_CUT = 4,  /* by us: limit, timer, drain */
    END_CRASH = 5 /* written at recovery */
};

/* Any record, decoded. Texts point into the bytes it was decoded from. */
struct record {
    enum record_type type;
    uint64_t sequence;
    struct text request_id;         /* OPEN, PROGRESS, CLOSE */
    struct text tenant, key, model; /* OPEN, CLOSE */
    wall_ms when;                   /* all; SEAL: the epoch's end */
    int64_t input_tokens, cached_input_tokens,
        output_tokens;                             /* OPEN: the input estimate; PROGRESS: output so far; CLOSE */
    enum count_source input_source, output_source; /* CLOSE */
    enum usage_end end;                            /* CLOSE */
    bool billed;         /* CLOSE: `billing.bill` says that it counts; unbilled ones are kept but stand in no cell */
    uint64_t epoch;      /* CLOSE: of which it is part; SEAL */
    wall_ms epoch_began; /* SEAL */
};

/* Write @record with its sequence into @to of RECORD_BYTES_MAX; returns the length. Names longer than allowed are a
 * bug. */
size_t record_encode(const struct record *record, char to[RECORD_BYTES_MAX]);

enum record_result {
    RECORD_DECODED,
    RECORD_END, /* zeros or nothing: the content ends here */
    RECORD_TORN /* bytes that are no whole record: the tail of a crash, or damage */
};
/* The record at the start of @bytes; @ret_length = its bytes. */
enum record_result record_decode(struct text bytes, struct record *ret, size_t *ret_length);

/* Where the first whole record whose sequence is above @after begins, at any byte: damage may have taken the lengths
 * that lead there. The length of @bytes when there is none. */
size_t record_find(struct text bytes, uint64_t after);

/* CRC-32C (Castagnoli, RFC 3720 B.4). */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t count);

#endif
