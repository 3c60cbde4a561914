/* What a request will probably cost in tokens, learned from the engines' own counts. Pure but for one lock; bounded. */
#ifndef RATELIMIT_ESTIMATE_H
#define RATELIMIT_ESTIMATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/text.h"
#include "ratelimit/estimate_content.h"

/* Learned ratios and histograms of every (tenant, model), (model); shared by all workers. */
struct estimator;

enum {
    ESTIMATOR_PAIRS_MAX = 20000,      /* (tenant, model) and (model); the least recently used one goes */
    ESTIMATOR_HISTOGRAMS_MAX = 40000, /* of all of them, 650 bytes each; then too the least recently used pair goes */
    ESTIMATOR_SAMPLES_MIN = 30,       /* of output, below which the next level is asked */
    ESTIMATOR_OUTPUT_PERCENT = 90,    /* so many answers are not longer than expected */
    ESTIMATOR_OUTPUT_UNLEARNED = 1024,
    ESTIMATOR_OUTPUT_UNCAPPED = 1024 * 1024, /* the most of a choice that has no cap */
    ESTIMATOR_IMAGE_TOKENS = 600,
    ESTIMATOR_FILE_BYTES_MAX = 64 * 1024 * 1024
};
/* No estimate is above it. */
#define ESTIMATE_TOKENS_MAX INT64_C(1000000000000)

/* NULL when memory is exhausted. */
struct estimator *estimator_create(void);
/* Nobody may use it any more. NULLs. */
void estimator_destroy(struct estimator **estimator);

/* What is known of a request before it is sent. */
struct estimate_question {
    const char *tenant;        /* this and the model are names as conf/schema.h has them, */
    const char *model;         /* or nothing is learned */
    uint64_t input_text_bytes; /* decoded text: no JSON syntax, escapes unfolded */
    int64_t input_token_ids;   /* of integer-array prompts: exact */
    int64_t messages, images;
    int64_t prompts;    /* a list of prompts multiplies the output */
    int64_t choices;    /* the larger of n and best_of */
    int64_t cap_tokens; /* of one choice; -1 = none */
    bool has_output;    /* false for embeddings */
};

struct estimate {
    int64_t input_tokens;
    int64_t output_tokens;     /* expected, all choices; never above output_cap */
    int64_t output_cap_tokens; /* the most, all choices */
};

/* Sensible also before anything is learned: input 3.5 bytes a token, output min(cap, 1024). Any thread. */
void estimator_ask(struct estimator *estimator, const struct estimate_question *question, struct estimate *ret);
/* What an engine counted for that question, all choices; input or output -1 = not told. Any thread. Where memory is
 * exhausted nothing is learned. */
void estimator_learn(struct estimator *estimator, const struct estimate_question *question, int64_t input_tokens,
                     int64_t output_tokens);

/* What content that no engine counts holds in tokens; zeroed while nothing is known of @model. Any thread. */
void estimator_content_rates(struct estimator *estimator, const char *model, struct content_rates *ret);
/* How often something was learned of a model's content of which nothing was known: worth saving soon, because usage is
 * counted by it. Any thread. */
uint64_t estimator_first_contents(struct estimator *estimator);
/* A finished answer of @model whose tokens an engine counted. Any thread. */
void estimator_learn_content(struct estimator *estimator, const char *model, const struct content_sample *sample);

/* Everything learned, as lines of text, and back; so that a restart does not start from nothing. Writing never holds
 * the others up for long: what is learned meanwhile may or may not be in it. False when @to is full or memory is
 * exhausted: what was added is of no use then. */
bool estimator_write(struct estimator *estimator, struct buffer *to);
/* Replaces everything learned. False, changing nothing, on bytes that estimator_write did not make: cut off, another
 * version, any byte changed. */
bool estimator_read(struct estimator *estimator, struct text from);

#endif
