#include "ratelimit/estimate_input.h"

#include <math.h>
#include <stddef.h>

static const double MICRO = 1e6;
static const double TOKEN_BYTES_UNLEARNED = 3.5;
static const double DEVIATIONS_RESERVED = 1.3;
/* What a chat template adds after the last message, so that the engine answers; and a tokenizer before a prompt. */
static const double CHAT_START_TOKENS = 3;
static const double PROMPT_START_TOKENS = 1;

static double mean_of(const struct moving_average *average)
{
    return (double) average->mean_micro / MICRO;
}

/* The first samples are averaged; a first deviation is assumed, as one sample has none. */
static void add_sample(struct moving_average *average, double sample, double first_deviation)
{
    if (average->samples == 0) {
        *average = (struct moving_average){llrint(sample * MICRO), llrint(first_deviation * MICRO), 1};
        return;
    }
    if (average->samples < INPUT_SAMPLES_WEIGHED) {
        average->samples++;
    }
    double weight = 1.0 / (double) average->samples;
    double distance = sample - mean_of(average);
    double deviation = (double) average->deviation_micro / MICRO;
    average->mean_micro = llrint((mean_of(average) + distance * weight) * MICRO);
    average->deviation_micro = llrint((deviation + (fabs(distance) - deviation) * weight) * MICRO);
}

/* The first level that has seen enough, or NULL. */
static const struct moving_average *find_learned(const struct input_costs *const levels[2], size_t offset)
{
    for (size_t i = 0; i < 2; i++) {
        if (levels[i] == NULL) {
            continue;
        }
        const void *at = (const char *) levels[i] + offset;
        const struct moving_average *average = at;
        if (average->samples >= INPUT_SAMPLES_MIN) {
            return average;
        }
    }
    return NULL;
}

static double learned_or(const struct input_costs *const levels[2], size_t offset, double otherwise)
{
    const struct moving_average *average = find_learned(levels, offset);
    return average != NULL ? mean_of(average) : otherwise;
}

static double careful_token_bytes(const struct input_costs *const levels[2])
{
    const struct moving_average *average = find_learned(levels, offsetof(struct input_costs, token_bytes));
    if (average == NULL) {
        return TOKEN_BYTES_UNLEARNED;
    }
    double deviation = (double) average->deviation_micro / MICRO;
    return fmax(1, exp(mean_of(average) - DEVIATIONS_RESERVED * deviation));
}

static double at_least_zero(int64_t value)
{
    return value > 0 ? (double) value : 0;
}

/* Token ids alone are sent to the model as they are. */
static double start_tokens(const struct estimate_question *question)
{
    if (question->messages > 0) {
        return CHAT_START_TOKENS;
    }
    return question->input_text_bytes > 0 ? PROMPT_START_TOKENS * fmax(1, at_least_zero(question->prompts)) : 0;
}

int64_t input_costs_estimate(const struct input_costs *const levels[2], const struct estimate_question *question)
{
    double tokens = start_tokens(question) + at_least_zero(question->input_token_ids);
    tokens += at_least_zero(question->messages) *
              learned_or(levels, offsetof(struct input_costs, message_tokens), INPUT_MESSAGE_TOKENS);
    tokens += at_least_zero(question->images) *
              learned_or(levels, offsetof(struct input_costs, image_tokens), ESTIMATOR_IMAGE_TOKENS);
    tokens += (double) question->input_text_bytes / careful_token_bytes(levels);
    return tokens < ESTIMATE_TOKENS_MAX ? (int64_t) ceil(tokens) : ESTIMATE_TOKENS_MAX;
}

static double bounded(double value, double least, double most)
{
    return fmin(fmax(value, least), most);
}

/* Each question teaches one thing only, the one that makes up most of it; so the three cannot chase one another. */
void input_costs_learn(struct input_costs *costs, const struct estimate_question *question, int64_t tokens)
{
    const struct input_costs *const levels[2] = {costs, NULL};
    double per_message = learned_or(levels, offsetof(struct input_costs, message_tokens), INPUT_MESSAGE_TOKENS);
    double template = start_tokens(question) + at_least_zero(question->messages) * per_message;
    double bytes = (double) question->input_text_bytes;
    double token_bytes = costs->token_bytes.samples > 0 ? exp(mean_of(&costs->token_bytes)) : TOKEN_BYTES_UNLEARNED;
    double text = bytes / token_bytes;
    double others = (double) tokens - at_least_zero(question->input_token_ids);
    if (question->images > 0) {
        double each = (others - text - template) / (double) question->images;
        add_sample(&costs->image_tokens, bounded(each, 1, INPUT_IMAGE_TOKENS_MAX), 0);
    } else if (text >= 2 * template && bytes > 0) {
        double counted = fmax(others - template, 1);
        add_sample(&costs->token_bytes, log(bounded(bytes / counted, 1, INPUT_RATIO_BYTES_MAX)), 0.1);
    } else if (question->messages > 0) {
        double each = (others - text - CHAT_START_TOKENS) / (double) question->messages;
        add_sample(&costs->message_tokens, bounded(each, 0, INPUT_MESSAGE_TOKENS_MAX), 0);
    }
}

static bool average_valid(const struct moving_average *average, double most)
{
    int64_t most_micro = llrint(most * MICRO);
    return average->mean_micro >= 0 && average->mean_micro <= most_micro && average->deviation_micro >= 0 &&
           average->deviation_micro <= most_micro && average->samples >= 0 && average->samples <= INPUT_SAMPLES_WEIGHED;
}

bool input_costs_valid(const struct input_costs *costs)
{
    return average_valid(&costs->token_bytes, log(INPUT_RATIO_BYTES_MAX)) &&
           average_valid(&costs->message_tokens, INPUT_MESSAGE_TOKENS_MAX) &&
           average_valid(&costs->image_tokens, INPUT_IMAGE_TOKENS_MAX);
}
