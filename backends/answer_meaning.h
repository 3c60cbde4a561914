/* What the values of an answer mean, by the path to them: the part of answer_scan that knows OpenAI's shapes. Private
 * to answer_scan.c. */
#ifndef BACKENDS_ANSWER_MEANING_H
#define BACKENDS_ANSWER_MEANING_H

#include "backends/answer_scan.h"

/* The largest integer that every JSON reader keeps exactly. */
#define ANSWER_COUNT_MAX (UINT64_C(1) << 53)
/* More tokens than any request has: a count above it is not believed. All choices of a request together stay below what
 * the billing's sums take, so that one engine's lie stops nobody else's. */
#define ANSWER_TOKENS_MAX (INT64_C(1) << 33)

/* What a value means, by the path to it. */
enum place {
    PLACE_OTHER,
    PLACE_ROOT,
    PLACE_USAGE,
    PLACE_DETAILS,
    PLACE_TIMINGS,
    PLACE_ERROR,
    PLACE_CHOICES,
    PLACE_CHOICE,
    PLACE_DELTA,
    PLACE_CONTENT, /* all strings in it are generated text */
    PLACE_FINISH,
    PLACE_INDEX,
    PLACE_INPUT, /* from here on: counts, in the order of @_counts */
    PLACE_OUTPUT,
    PLACE_CACHED,
    PLACE_PROMPT_N,
    PLACE_CACHE_N,
    PLACE_PREDICTED_N
};

/* What an element of an array that stands at @parent means. */
enum place answer_element_place(enum place parent);
/* What the member @name (decoded) of an object that stands at @parent means. */
enum place answer_member_place(enum place parent, struct text name);

/* A value at @place begins at the scan's offset, with byte @c. */
void answer_begin_value(struct answer_scan *scan, enum place place, char c);
/* The value at @place is the integer @number, 0 to ANSWER_COUNT_MAX. */
void answer_note_number(struct answer_scan *scan, enum place place, int64_t number);
/* The object that stands at @place was closed. */
void answer_end_object(struct answer_scan *scan, enum place place);

#endif
