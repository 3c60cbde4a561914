/* One strict linear pass over a JSON text (RFC 8259): tokens in order, nothing copied, bounded depth. Pure. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum { JSON_DEPTH_MAX = 64, JSON_NODES_MAX = 200000 };

/* STRING, TRUE, FALSE and NULL are names of jansson's too: no file includes both headers. */
enum json_token {
    JSON_OBJECT_BEGIN,
    JSON_OBJECT_END,
    JSON_ARRAY_BEGIN,
    JSON_ARRAY_END,
    JSON_KEY, /* its value's token follows */
    JSON_STRING,
    JSON_NUMBER,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL,
    JSON_END,  /* the one value was complete, only white space followed */
    JSON_ERROR /* sticky; @error says why, as a clause: "it ends too early" */
};

/* A pass in progress. Public fields describe the last token. */
struct json_scan {
    struct text whole;
    size_t position; /* of the next unread byte */
    enum json_token token;
    struct text span; /* the token's bytes in @whole; strings and keys with their quotes */
    unsigned depth;   /* containers around the token; a BEGIN and its END have the depth outside them */
    const char *error;
    size_t _nodes;
    uint64_t _in_object; /* bit per open container */
    unsigned _open;      /* containers that are open */
    uint8_t _expect;
};

/* @whole must outlive the scan. Invalid UTF-8, raw NUL, lone surrogate escapes, depth > JSON_DEPTH_MAX and more than
 * JSON_NODES_MAX tokens are errors; \u0000 in a string is legal. Duplicate keys are the caller's affair. */
void json_begin(struct json_scan *scan, struct text whole);
enum json_token json_next(struct json_scan *scan);
/* After KEY, or before an array element: pass over the next whole value, ret_span (may be NULL) = its bytes. False on
 * error, and when there was no value to pass (@token is then ARRAY_END, OBJECT_END, KEY or END, and is consumed). */
bool json_skip_value(struct json_scan *scan, struct text *ret_span);

/* @span is a STRING or KEY span. The decoded bytes equal @plain. Allocates nothing. */
bool json_string_equals(struct text span, struct text plain);
/* As above, ASCII letters in either case. */
bool json_string_equals_ignoring_case(struct text span, struct text plain);
/* Decode into @to (of at least span.length bytes); returns the length. Never fails on a span the scan returned. */
size_t json_string_decode(struct text span, char *to);
/* How many bytes the decoded string has. (json_string_length is a function of jansson's, which would call ours.) */
size_t json_decoded_length(struct text span);
/* A NUMBER span that is an integer literal (no fraction, no exponent) within int64. */
bool json_number_to_int64(struct text span, int64_t *ret);

#endif
