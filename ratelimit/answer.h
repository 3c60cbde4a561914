/* The 429 body and the x-ratelimit headers of an answer. Pure. */
#ifndef RATELIMIT_ANSWER_H
#define RATELIMIT_ANSWER_H

#include "base/text.h"
#include "ratelimit/limiter.h"

enum { LIMIT_HEADERS_MAX = 9, LIMIT_HEADER_BYTES = 32, LIMIT_MESSAGE_BYTES = 400 };

/* x-ratelimit-{limit,remaining,reset}-{requests,tokens}, and -seats without reset; only for kinds that are limited. */
struct limit_headers {
    size_t count;
    struct {
        const char *name;
        char value[LIMIT_HEADER_BYTES]; /* resets are Go durations: "12ms", "6m0s" */
    } rows[LIMIT_HEADERS_MAX];
};
void limit_headers_fill(const struct limit_answer *answer, struct limit_headers *ret);

/* "Rate limit reached for gemma-3-270m by key acme/ci on tokens per min (TPM): Limit 30000, Used 14567, Requested
 * 24754. Please try again in 18.642s." or "Request too large for … : Limit 30000, Requested 30601. …". Names limit,
 * scope, used, requested and retry time. */
void limit_message(const struct limit_answer *answer, const struct limit_subject *subject,
                   char to[LIMIT_MESSAGE_BYTES]);
/* A Go duration of @microseconds, rounded up to whole ms: "1ms", "1.5s", "6m0s", "1h0m0s". */
void limit_duration(int64_t microseconds, char to[LIMIT_HEADER_BYTES]);

#endif
