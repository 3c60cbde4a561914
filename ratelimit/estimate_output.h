/* How long answers are: a decayed histogram of output tokens and its quantiles. Pure; integers only. */
#ifndef RATELIMIT_ESTIMATE_OUTPUT_H
#define RATELIMIT_ESTIMATE_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

enum {
    OUTPUT_BUCKETS = 161, /* 0, then 8 in each of 20 octaves: what is longer falls into the last */
    OUTPUT_BUCKETS_PER_OCTAVE = 8,
    OUTPUT_HALF_LIFE_SAMPLES = 500,
    OUTPUT_SAMPLE_WEIGHT = 1000 /* of a sample right after a halving; twice that right before the next */
};

/* Zeroed memory is an empty histogram. */
struct output_histogram {
    uint32_t weights[OUTPUT_BUCKETS];
    uint32_t samples;      /* stays at UINT32_MAX */
    uint32_t since_halved; /* 0 to OUTPUT_HALF_LIFE_SAMPLES - 1 */
};

/* @tokens >= 0. New samples weigh more and more; the weights are halved every OUTPUT_HALF_LIFE_SAMPLES. */
void output_histogram_add(struct output_histogram *histogram, int64_t tokens);
/* The least length that @percent of the samples, 1 to 100, do not exceed: the upper end of its bucket. 0 when empty. */
int64_t output_histogram_quantile(const struct output_histogram *histogram, int percent);

/* Where @tokens >= 0 falls, and the largest length that falls into @bucket; the last bucket has no
 * end, this is where one more would begin. */
int output_bucket(int64_t tokens);
int64_t output_bucket_end(int bucket);

/* The values lie where adding can bring them; for what was read from a file. */
bool output_histogram_valid(const struct output_histogram *histogram);

#endif
