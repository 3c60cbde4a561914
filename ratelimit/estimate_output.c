#include "ratelimit/estimate_output.h"

#include <math.h>

#include "base/panic.h"

/* A half-life of samples at their heaviest, of which each older one weighs half as much: the sum of 1/2, 1/4, … is 1;
 * rounding up adds less than one in each bucket. */
static const uint64_t WEIGHTS_MAX = UINT64_C(4) * OUTPUT_SAMPLE_WEIGHT * OUTPUT_HALF_LIFE_SAMPLES;

int output_bucket(int64_t tokens)
{
    ENSURE(tokens >= 0);
    if (tokens == 0) {
        return 0;
    }
    int bucket = (int) (log2((double) tokens) * OUTPUT_BUCKETS_PER_OCTAVE) + 1;
    return bucket < OUTPUT_BUCKETS ? bucket : OUTPUT_BUCKETS - 1;
}

int64_t output_bucket_end(int bucket)
{
    ENSURE(bucket >= 0 && bucket < OUTPUT_BUCKETS);
    return (int64_t) ceil(exp2((double) bucket / OUTPUT_BUCKETS_PER_OCTAVE)) - 1;
}

static void halve(struct output_histogram *histogram)
{
    for (int i = 0; i < OUTPUT_BUCKETS; i++) {
        histogram->weights[i] /= 2;
    }
    histogram->since_halved = 0;
}

void output_histogram_add(struct output_histogram *histogram, int64_t tokens)
{
    double growth = exp2((double) histogram->since_halved / OUTPUT_HALF_LIFE_SAMPLES);
    histogram->weights[output_bucket(tokens)] += (uint32_t) lrint(OUTPUT_SAMPLE_WEIGHT * growth);
    if (histogram->samples < UINT32_MAX) {
        histogram->samples++;
    }
    if (++histogram->since_halved == OUTPUT_HALF_LIFE_SAMPLES) {
        halve(histogram);
    }
}

static uint64_t total_weight(const struct output_histogram *histogram)
{
    uint64_t total = 0;
    for (int i = 0; i < OUTPUT_BUCKETS; i++) {
        total += histogram->weights[i];
    }
    return total;
}

int64_t output_histogram_quantile(const struct output_histogram *histogram, int percent)
{
    ENSURE(percent >= 1 && percent <= 100);
    uint64_t total = total_weight(histogram);
    if (total == 0) {
        return 0;
    }
    uint64_t passed = 0;
    int bucket = 0;
    for (; bucket < OUTPUT_BUCKETS - 1; bucket++) {
        passed += histogram->weights[bucket];
        if (passed * 100 >= total * (uint64_t) percent) {
            break;
        }
    }
    return output_bucket_end(bucket);
}

bool output_histogram_valid(const struct output_histogram *histogram)
{
    return histogram->since_halved < OUTPUT_HALF_LIFE_SAMPLES && histogram->since_halved <= histogram->samples &&
           total_weight(histogram) <= WEIGHTS_MAX;
}
