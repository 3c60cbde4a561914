/* Tokens of answers that no engine counted: what a chunk and a byte of content hold, learned from finished answers
 * whose engine did count. Pure; integers only. */
#ifndef RATELIMIT_ESTIMATE_CONTENT_H
#define RATELIMIT_ESTIMATE_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

enum {
    CONTENT_ANSWERS_WEIGHED = 64,   /* a new answer never weighs less than one of so many of its length */
    CONTENT_COUNT_MAX = 10000000,   /* tokens, chunks or bytes of an answer to learn from */
    CONTENT_UNLEARNED_BYTES = 4,    /* of a token */
    CONTENT_CHUNK_TOKENS_MAX = 1000 /* of a chunk, on the average */
};

/* A finished answer, all choices. */
struct content_sample {
    int64_t tokens;           /* by the engine's count */
    int64_t chunks;           /* with content; 0 = it came whole */
    int64_t bytes;            /* of content */
    int64_t last_chunk_bytes; /* of the chunk that came last */
    int64_t choices;          /* >= 1 */
};

/* Tokens in millionths of one chunk and of one byte. A value; zeroed = nothing learned. */
struct content_rates {
    int64_t chunk_micro;
    int64_t byte_micro;
};

/* Both decay alike, so that equal counts stay equal sums. Thousandths. */
struct decayed_sums {
    int64_t tokens;
    int64_t pieces;
};

/* What is known of one model. Zeroed memory has learned nothing. */
struct content_costs {
    struct decayed_sums chunks;
    struct decayed_sums bytes;
};

void content_costs_learn(struct content_costs *costs, const struct content_sample *sample);
struct content_rates content_costs_rates(const struct content_costs *costs);
/* The values lie where learning can bring them; for what was read from a file. */
bool content_costs_valid(const struct content_costs *costs);

/* The tokens of so many chunks or bytes; at least 1 of any. Both >= 0. */
int64_t content_tokens_of_chunks(const struct content_rates *rates, int64_t chunks);
int64_t content_tokens_of_bytes(const struct content_rates *rates, int64_t bytes);

#endif
