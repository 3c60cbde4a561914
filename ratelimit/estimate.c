#include "ratelimit/estimate.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/panic.h"
#include "ratelimit/estimate_private.h"

struct estimator *estimator_create(void)
{
    struct estimator *estimator = calloc(1, sizeof(*estimator));
    if (estimator == NULL) {
        return NULL;
    }
    estimator->table = estimate_table_create(ESTIMATOR_PAIRS_MAX, ESTIMATOR_HISTOGRAMS_MAX);
    if (estimator->table == NULL) {
        free(estimator);
        return NULL;
    }
    ENSURE(pthread_mutex_init(&estimator->lock, NULL) == 0);
    return estimator;
}

void estimator_destroy(struct estimator **estimator)
{
    if (*estimator == NULL) {
        return;
    }
    estimate_table_destroy(&(*estimator)->table);
    pthread_mutex_destroy(&(*estimator)->lock);
    free(*estimator);
    *estimator = NULL;
}

static int64_t at_least(int64_t least, int64_t value)
{
    return value > least ? value : least;
}

static int64_t at_most(int64_t most, int64_t value)
{
    return value < most ? value : most;
}

/* Both >= 0. */
static int64_t multiplied(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? ESTIMATE_TOKENS_MAX : at_most(ESTIMATE_TOKENS_MAX, product);
}

static int64_t answers_of(const struct estimate_question *question)
{
    return multiplied(at_least(1, question->choices), at_least(1, question->prompts));
}

/* By a length that what is learned does not move, so that a question is learned where it is asked. */
static size_t octave_of(const struct estimate_question *question)
{
    static const struct input_costs *const nothing[2];
    int64_t tokens = input_costs_estimate(nothing, question);
    size_t octave = tokens > 0 ? 64 - (size_t) __builtin_clzll((unsigned long long) tokens) : 0;
    return octave < ESTIMATE_OCTAVES ? octave : ESTIMATE_OCTAVES - 1;
}

static size_t histogram_of(size_t octave)
{
    return HISTOGRAM_OF_ALL + 1 + octave;
}

static bool has_learned(const struct output_histogram *histogram)
{
    return histogram != NULL && histogram->samples >= ESTIMATOR_SAMPLES_MIN;
}

/* Of one answer, without its cap. Under the lock. */
static int64_t expected_output(const struct estimate_entry *pair, const struct estimate_entry *model, size_t octave)
{
    const struct output_histogram *const levels[] = {
        pair != NULL ? pair->histograms[histogram_of(octave)] : NULL,
        pair != NULL ? pair->histograms[HISTOGRAM_OF_ALL] : NULL,
        model != NULL ? model->histograms[HISTOGRAM_OF_ALL] : NULL,
    };
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        if (has_learned(levels[i])) {
            return output_histogram_quantile(levels[i], ESTIMATOR_OUTPUT_PERCENT);
        }
    }
    return ESTIMATOR_OUTPUT_UNLEARNED;
}

void estimator_ask(struct estimator *estimator, const struct estimate_question *question, struct estimate *ret)
{
    size_t octave = octave_of(question);
    struct text model_name = text_of(question->model);
    pthread_mutex_lock(&estimator->lock);
    struct estimate_entry *model = estimate_table_find(estimator->table, TEXT(""), model_name);
    struct estimate_entry *pair = estimate_table_find(estimator->table, text_of(question->tenant), model_name);
    const struct input_costs *const levels[2] = {pair != NULL ? &pair->input : NULL,
                                                 model != NULL ? &model->input : NULL};
    int64_t input = input_costs_estimate(levels, question);
    int64_t expected = question->has_output ? expected_output(pair, model, octave) : 0;
    pthread_mutex_unlock(&estimator->lock);

    int64_t cap = question->cap_tokens >= 0 ? question->cap_tokens : ESTIMATOR_OUTPUT_UNCAPPED;
    int64_t answers = answers_of(question);
    *ret = (struct estimate){
        .input_tokens = input,
        .output_tokens = multiplied(at_most(cap, expected), answers),
        .output_cap_tokens = question->has_output ? multiplied(cap, answers) : 0,
    };
}

/* Under the lock. */
static void learn_output(struct estimate_table *table, struct estimate_entry *entry, size_t index, int64_t tokens)
{
    struct output_histogram *histogram = estimate_table_histogram(table, entry, index);
    if (histogram != NULL) {
        output_histogram_add(histogram, tokens);
    }
}

/* At the level of @tenant; "" = of the model. Under the lock. */
static void learn_at(struct estimate_table *table, struct text tenant, const struct estimate_question *question,
                     int64_t input_tokens, int64_t output_tokens)
{
    struct estimate_entry *entry = estimate_table_find_or_add(table, tenant, text_of(question->model));
    if (entry == NULL) {
        return;
    }
    if (input_tokens >= 0) {
        input_costs_learn(&entry->input, question, input_tokens);
    }
    if (output_tokens < 0) {
        return;
    }
    learn_output(table, entry, HISTOGRAM_OF_ALL, output_tokens);
    if (tenant.length > 0) {
        learn_output(table, entry, histogram_of(octave_of(question)), output_tokens);
    }
}

void estimator_learn(struct estimator *estimator, const struct estimate_question *question, int64_t input_tokens,
                     int64_t output_tokens)
{
    int64_t answers = answers_of(question);
    int64_t each = -1;
    if (question->has_output && output_tokens >= 0) {
        each = output_tokens / answers + (output_tokens % answers != 0);
    }
    pthread_mutex_lock(&estimator->lock);
    learn_at(estimator->table, TEXT(""), question, input_tokens, each);
    learn_at(estimator->table, text_of(question->tenant), question, input_tokens, each);
    pthread_mutex_unlock(&estimator->lock);
}

void estimator_content_rates(struct estimator *estimator, const char *model, struct content_rates *ret)
{
    pthread_mutex_lock(&estimator->lock);
    const struct estimate_entry *entry = estimate_table_find(estimator->table, TEXT(""), text_of(model));
    *ret = entry != NULL ? content_costs_rates(&entry->content) : (struct content_rates){0};
    pthread_mutex_unlock(&estimator->lock);
}

void estimator_learn_content(struct estimator *estimator, const char *model, const struct content_sample *sample)
{
    pthread_mutex_lock(&estimator->lock);
    struct estimate_entry *entry = estimate_table_find_or_add(estimator->table, TEXT(""), text_of(model));
    if (entry != NULL) {
        struct content_rates before = content_costs_rates(&entry->content);
        content_costs_learn(&entry->content, sample);
        struct content_rates after = content_costs_rates(&entry->content);
        estimator->first_contents +=
            (before.chunk_micro == 0 && after.chunk_micro > 0) || (before.byte_micro == 0 && after.byte_micro > 0);
    }
    pthread_mutex_unlock(&estimator->lock);
}

uint64_t estimator_first_contents(struct estimator *estimator)
{
    pthread_mutex_lock(&estimator->lock);
    uint64_t count = estimator->first_contents;
    pthread_mutex_unlock(&estimator->lock);
    return count;
}
