#include "ratelimit/estimate_output.h"

#include <string.h>

#include "tests/lib/unit.h"

static void add_many(struct output_histogram *histogram, int count, int64_t tokens)
{
    for (int i = 0; i < count; i++) {
        output_histogram_add(histogram, tokens);
    }
}

static void buckets_cover_every_length_once(void **state)
{
    (void) state;
    assert_int_equal(output_bucket(0), 0);
    assert_int_equal(output_bucket_end(0), 0);
    assert_int_equal(output_bucket(1), 1);
    int64_t last = (1 << 20) - 1;
    assert_int_equal(output_bucket_end(OUTPUT_BUCKETS - 1), last);
    for (int64_t tokens = 1; tokens <= last; tokens++) {
        int bucket = output_bucket(tokens);
        assert_true(tokens <= output_bucket_end(bucket) && tokens > output_bucket_end(bucket - 1));
    }
    assert_int_equal(output_bucket(last + 1), OUTPUT_BUCKETS - 1);
    assert_int_equal(output_bucket(INT64_MAX), OUTPUT_BUCKETS - 1);
}

static void a_bucket_is_an_eighth_of_an_octave(void **state)
{
    (void) state;
    for (int64_t tokens = 16; tokens < 1 << 19; tokens *= 2) {
        assert_int_equal(output_bucket(2 * tokens) - output_bucket(tokens), OUTPUT_BUCKETS_PER_OCTAVE);
        assert_true(output_bucket_end(output_bucket(tokens)) * 100 < tokens * 110);
    }
}

static void quantiles_are_those_of_the_samples(void **state)
{
    (void) state;
    struct output_histogram histogram = {0};
    assert_int_equal(output_histogram_quantile(&histogram, 90), 0);
    for (int i = 0; i < 100; i++) {
        output_histogram_add(&histogram, i < 50 ? 10 : i < 89 ? 100 : 1000);
    }
    assert_int_equal(output_histogram_quantile(&histogram, 1), output_bucket_end(output_bucket(10)));
    assert_int_equal(output_histogram_quantile(&histogram, 45), output_bucket_end(output_bucket(10)));
    assert_int_equal(output_histogram_quantile(&histogram, 80), output_bucket_end(output_bucket(100)));
    assert_int_equal(output_histogram_quantile(&histogram, 90), output_bucket_end(output_bucket(1000)));
    assert_int_equal(output_histogram_quantile(&histogram, 100), output_bucket_end(output_bucket(1000)));
    struct output_histogram silent = {0};
    add_many(&silent, 40, 0);
    assert_int_equal(output_histogram_quantile(&silent, 90), 0);
}

/* After a half-life of new samples the old ones weigh half as much: 3 old half-lives against 2 new ones. */
static void old_samples_weigh_half_after_a_half_life(void **state)
{
    (void) state;
    struct output_histogram histogram = {0};
    add_many(&histogram, 3 * OUTPUT_HALF_LIFE_SAMPLES, 1000);
    add_many(&histogram, OUTPUT_HALF_LIFE_SAMPLES, 10);
    double weights[2] = {histogram.weights[output_bucket(1000)], histogram.weights[output_bucket(10)]};
    assert_true(weights[0] / weights[1] > 1.75 * 0.99 / 2 && weights[0] / weights[1] < 1.75 * 1.01 / 2);
    assert_int_equal(output_histogram_quantile(&histogram, 90), output_bucket_end(output_bucket(1000)));
    add_many(&histogram, 3 * OUTPUT_HALF_LIFE_SAMPLES, 10);
    assert_int_equal(output_histogram_quantile(&histogram, 90), output_bucket_end(output_bucket(10)));
}

static void a_sample_fades_smoothly(void **state)
{
    (void) state;
    struct output_histogram histogram = {0};
    output_histogram_add(&histogram, 5);
    uint32_t first = histogram.weights[output_bucket(5)];
    add_many(&histogram, OUTPUT_HALF_LIFE_SAMPLES - 2, 100);
    output_histogram_add(&histogram, 1000000);
    /* The two were halved together: the younger one has twice the weight but for one step. */
    assert_in_range(histogram.weights[output_bucket(5)], first / 2 - 1, first / 2);
    assert_in_range(histogram.weights[output_bucket(1000000)], first - 5, first);
}

static void weights_stay_bounded_for_ever(void **state)
{
    (void) state;
    struct output_histogram histogram = {0};
    for (int i = 0; i < 200000; i++) {
        output_histogram_add(&histogram, i % 2 == 0 ? 7 : (int64_t) (unit_random() >> 1 >> unit_random_below(63)));
        if (i % 1000 == 499) {
            assert_true(output_histogram_valid(&histogram));
        }
    }
    assert_int_equal(histogram.samples, 200000);
    histogram.samples = UINT32_MAX;
    output_histogram_add(&histogram, 1);
    assert_int_equal(histogram.samples, UINT32_MAX);
}

static void quantiles_rise_with_their_percentage(void **state)
{
    (void) state;
    for (int round = 0; round < 200; round++) {
        struct output_histogram histogram = {0};
        int64_t longest = 0;
        for (size_t i = unit_random_below(2000) + 1; i > 0; i--) {
            int64_t tokens = (int64_t) unit_random_below((size_t) 1 << unit_random_below(20));
            longest = tokens > longest ? tokens : longest;
            output_histogram_add(&histogram, tokens);
        }
        int64_t before = 0;
        for (int percent = 1; percent <= 100; percent++) {
            int64_t now = output_histogram_quantile(&histogram, percent);
            assert_true(now >= before && now <= output_bucket_end(output_bucket(longest)));
            before = now;
        }
    }
}

static void values_that_cannot_be_learned_are_not_valid(void **state)
{
    (void) state;
    struct output_histogram histogram = {0};
    assert_true(output_histogram_valid(&histogram));
    histogram.since_halved = OUTPUT_HALF_LIFE_SAMPLES;
    histogram.samples = 1000;
    assert_false(output_histogram_valid(&histogram));
    histogram.since_halved = 3;
    histogram.samples = 2;
    assert_false(output_histogram_valid(&histogram));
    memset(histogram.weights, 0xff, sizeof(histogram.weights));
    histogram.samples = 1000;
    assert_false(output_histogram_valid(&histogram));
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_cover_every_length_once),
        cmocka_unit_test(a_bucket_is_an_eighth_of_an_octave),
        cmocka_unit_test(quantiles_are_those_of_the_samples),
        cmocka_unit_test(old_samples_weigh_half_after_a_half_life),
        cmocka_unit_test(a_sample_fades_smoothly),
        cmocka_unit_test(weights_stay_bounded_for_ever),
        cmocka_unit_test(quantiles_rise_with_their_percentage),
        cmocka_unit_test(values_that_cannot_be_learned_are_not_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
