/* Input tokens from bytes: what a byte, a message and an image cost, learned from engines' own counts. Pure. */
#ifndef RATELIMIT_ESTIMATE_INPUT_H
#define RATELIMIT_ESTIMATE_INPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "ratelimit/estimate.h"

enum {
    INPUT_SAMPLES_MIN = 8,      /* below it the next level is asked */
    INPUT_SAMPLES_WEIGHED = 64, /* a new sample never weighs less than one of so many */
    INPUT_MESSAGE_TOKENS = 4,   /* what a chat template adds to a message, until learned */
    INPUT_MESSAGE_TOKENS_MAX = 64,
    INPUT_IMAGE_TOKENS_MAX = 65536, /* ESTIMATOR_IMAGE_TOKENS until learned */
    INPUT_RATIO_BYTES_MAX = 32      /* of one token; one byte is the least: every tokenizer can fall back to bytes */
};

/* A moving average and how far samples are from it. Integers, so that it is the same after a restart. */
struct moving_average {
    int64_t mean_micro;
    int64_t deviation_micro; /* mean absolute, >= 0 */
    int64_t samples;         /* stays at INPUT_SAMPLES_WEIGHED */
};

/* What is known of one (tenant, model), or of one model. Zeroed memory has learned nothing. */
struct input_costs {
    struct moving_average token_bytes; /* natural logarithm of the bytes a token has */
    struct moving_average message_tokens;
    struct moving_average image_tokens;
};

/* The tokens of @question's input, never negative. @levels are asked in order, NULL among them = nothing known; then
 * 3.5 bytes a token. What was learned is reserved for 1.3 deviations on the expensive side. */
int64_t input_costs_estimate(const struct input_costs *const levels[2], const struct estimate_question *question);
/* An engine counted @tokens, >= 0. Only what @question can teach is changed: a prompt of token ids teaches nothing. */
void input_costs_learn(struct input_costs *costs, const struct estimate_question *question, int64_t tokens);
/* The values lie where learning can bring them; for what was read from a file. */
bool input_costs_valid(const struct input_costs *costs);

#endif
