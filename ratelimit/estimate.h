/* What a request will probably cost in tokens, learned from the engines' own counts. Pure but for one lock; bounded. */
#ifndef RATELIMIT_ESTIMATE_H
#define RATELIMIT_ESTIMATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/text.h"

/* Learned ratios and histograms of every (tenant, model), (model); shared by all workers. */
struct estimator;

enum { ESTIMATOR_PAIRS_MAX = 20000, ESTIMATOR_SAMPLES_MIN = 30, ESTIMATOR_FILE_BYTES_MAX = 64 * 1024 * 1024 };

struct estimator *estimator_create(void);
void estimator_destroy(struct estimator **estimator);

/* What is known of a request before it is sent. */
struct estimate_question {
    const char *tenant;
    const char *model;
    uint64_t input_text_bytes;  /* decoded text: no JSON syntax, escapes unfolded */
    int64_t input_token_ids;    /* of integer-array prompts: exact */
    int64_t messages, images;
    int64_t prompts;            /* a list of prompts multiplies the output */
    int64_t choices;            /* the larger of n and best_of */
    int64_t cap_tokens;         /* of one choice; -1 = none */
    bool has_output;            /* false for embeddings */
};

struct estimate {
    int64_t input_tokens;
    int64_t output_tokens;     /* expected, all choices; never above output_cap */
    int64_t output_cap_tokens; /* the most, all choices */
};

/* Sensible also before anything is learned: input 3.5 bytes a token, output min(cap, 1024). */
void estimator_ask(struct estimator *estimator, const struct estimate_question *question, struct estimate *ret);
/* What an engine counted for that question; input or output -1 = not told. */
void estimator_learn(struct estimator *estimator, const struct estimate_question *question, int64_t input_tokens,
                     int64_t output_tokens);

/* Everything learned, as text, and back; so that a restart does not start from nothing. False on malformed bytes (nothing
 * is changed then) or when @to is full. */
bool estimator_write(struct estimator *estimator, struct buffer *to);
bool estimator_read(struct estimator *estimator, struct text from);

#endif
