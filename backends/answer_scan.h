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

enum { ANSWER_NAME_BYTES_MAX = 24, ANSWER_DEPTH_MAX = 64, ANSWER_CHOICES_MAX = 128, ANSWER_COUNTS = 6 };

/* A scan in progress; zeroed by answer_begin. Public fields are the findings so far. */
struct answer_scan {
    /* The last top-level `usage` object that counts something. Accepted names: prompt_tokens/input_tokens,
     * completion_tokens/output_tokens (the larger, if an engine writes both), prompt_tokens_details.cached_tokens or
     * input_tokens_details.cached_tokens. A count that is no integer of 0 to 2^53 was not seen. */
    struct engine_usage usage;
    bool has_usage_member;     /* a top-level "usage" key was seen, null or not; of several, the last is meant below */
    bool usage_is_null;        /* its value is null */
    size_t usage_member_begin; /* byte offset in this scan of the quote before `usage` */
    size_t usage_value_begin;  /* of its value */
    size_t usage_member_end;   /* just after its value; 0 while that is not complete */
    bool has_error;            /* top-level "error" that is neither null nor false */
    bool has_choices;          /* top-level "choices" is an array */
    unsigned choice_count;     /* its elements */
    unsigned content_choices;  /* closed elements with content: non-empty text; in delta or message: content,
                                  reasoning_content, reasoning, refusal, tool_calls, function_call */
    unsigned finish_count;     /* elements whose finish_reason is a string */
    uint64_t content_bytes;    /* bytes of all that content, as written in JSON */
    uint64_t content_bits[ANSWER_CHOICES_MAX / 64]; /* which choices[].index had content (absent = position) */
    bool complete;                                  /* the top-level value was closed */
    bool broken; /* not JSON (or nested deeper than ANSWER_DEPTH_MAX): findings so far stand */
    /* private */
    size_t _offset; /* of the next byte */
    uint8_t _state;
    uint8_t _place;       /* what the value at hand, or the next one, means */
    uint8_t _string_kind; /* key, content, or neither */
    uint8_t _progress;    /* within a literal or an escape */
    uint8_t _number_state;
    bool _negative;
    char _literal; /* its first letter */
    uint8_t _name_length;
    uint8_t _depth;
    uint8_t _stack[ANSWER_DEPTH_MAX]; /* the place of each open container, and whether it is an object */
    char _name[ANSWER_NAME_BYTES_MAX + 1];
    uint16_t _unit; /* of an escape */
    size_t _string_begin;
    uint64_t _number;
    int64_t _counts[ANSWER_COUNTS]; /* of the object being read, -1 = not seen */
    struct engine_usage _timings;
    unsigned _choice_index;
    bool _choice_has_content;
};

void answer_begin(struct answer_scan *scan);
/* Any number of calls; after @broken nothing is looked at any more. */
void answer_feed(struct answer_scan *scan, struct text bytes);
/* The usage to believe after the last byte: `usage`, else llama.cpp's `timings` {prompt_n, cache_n, predicted_n} when
 * all three are there (input = prompt_n + cache_n: prompt_n alone leaves out what was cached). */
struct engine_usage answer_usage(const struct answer_scan *scan);
/* Cut the top-level usage member, with one comma beside it, out of @whole, the bytes of this scan: the two slices
 * joined are the same JSON without it. False when no complete usage member was seen. */
bool answer_usage_cut(const struct answer_scan *scan, struct text whole, struct text *ret_before,
                      struct text *ret_after);

#endif
