/* What an answer says about itself: usage, finish reasons, content, errors; found by one scan of all bytes as they
 * pass, in any pieces. Pure. Used on each SSE event's data and on whole non-stream bodies. */
#ifndef BACKENDS_ANSWER_SCAN_H
#define BACKENDS_ANSWER_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

/* Tokens as an engine counted them. A value. */
struct engine_usage {
    bool seen; /* a usage object with at least prompt/input or completion/output tokens as integers >= 0 */
    int64_t input_tokens;
    int64_t cached_input_tokens; /* part of input_tokens */
    int64_t output_tokens;
};

enum { ANSWER_NAME_BYTES_MAX = 24, ANSWER_DEPTH_MAX = 64, ANSWER_CHOICES_MAX = 128 };

/* A scan in progress; zeroed by answer_begin. Public fields are the findings so far. */
struct answer_scan {
    struct engine_usage
        usage;             /* the last usage object that counts something; accepted names: prompt_tokens/input_tokens,
                              completion_tokens/output_tokens, prompt_tokens_details.cached_tokens or
                              input_tokens_details.cached_tokens; at `usage`, or llama.cpp's `timings` when `usage`
                              never comes (input = prompt_n + cache_n, output = predicted_n) */
    bool has_usage_member; /* a top-level "usage" key was seen, null or not */
    bool usage_is_null;
    size_t usage_member_begin; /* byte offsets in this scan of `"usage":…`, the key's quote to the value's end; */
    size_t usage_member_end;   /* valid when has_usage_member and the value is complete */
    size_t usage_value_begin;  /* of the value alone */
    bool has_error;            /* top-level "error" that is neither null nor false */
    bool has_choices;          /* top-level "choices" is an array */
    unsigned choice_count;     /* its elements */
    unsigned content_choices;  /* elements with content: non-empty text, delta.content,
                                  delta.reasoning_content/reasoning,  delta.refusal, message.content, or tool calls */
    unsigned finish_count;     /* elements whose finish_reason is a string */
    uint64_t content_bytes;    /* bytes of all that content, as written in JSON */
    uint64_t content_bits[ANSWER_CHOICES_MAX / 64]; /* which choices[].index had content (absent = position) */
    bool complete;                                  /* the top-level value was closed */
    bool broken; /* not JSON (or nested deeper than ANSWER_DEPTH_MAX): findings so far stand */
    /* private */
    uint64_t _offset;
    uint8_t _state, _depth, _name_length, _escape;
    uint8_t _stack[ANSWER_DEPTH_MAX];
    char _name[ANSWER_NAME_BYTES_MAX];
    uint8_t _path[8];
    int64_t _number;
    uint8_t _number_state;
    struct engine_usage _candidate;
    struct engine_usage _timings;
    int64_t _timings_prompt, _timings_cache;
    unsigned _choice_index;
    uint64_t _choice_content_bytes;
    bool _choice_has_content;
};

void answer_begin(struct answer_scan *scan);
void answer_feed(struct answer_scan *scan, struct text bytes);
/* The usage to believe after the last byte: `usage`, else timings. */
struct engine_usage answer_usage(const struct answer_scan *scan);

#endif
