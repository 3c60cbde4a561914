#include "ratelimit/estimate_content.h"

#include "tests/lib/unit.h"

static struct content_costs costs;

/* An answer of @tokens in chunks of @each tokens, 4 bytes a token; the last chunk holds what is left. */
static void learn(int64_t tokens, int64_t each)
{
    int64_t chunks = (tokens + each - 1) / each;
    struct content_sample sample = {.tokens = tokens,
                                    .chunks = chunks,
                                    .bytes = 4 * tokens,
                                    .last_chunk_bytes = 4 * (tokens - (chunks - 1) * each),
                                    .choices = 1};
    content_costs_learn(&costs, &sample);
}

static int64_t tokens_of_chunks(int64_t chunks)
{
    struct content_rates rates = content_costs_rates(&costs);
    return content_tokens_of_chunks(&rates, chunks);
}

static int64_t tokens_of_bytes(int64_t bytes)
{
    struct content_rates rates = content_costs_rates(&costs);
    return content_tokens_of_bytes(&rates, bytes);
}

static int forget(void **state)
{
    (void) state;
    costs = (struct content_costs){0};
    return 0;
}

static void before_anything_is_learned(void **state)
{
    (void) state;
    assert_int_equal(tokens_of_chunks(0), 0);
    assert_int_equal(tokens_of_chunks(7), 7);
    assert_int_equal(tokens_of_bytes(0), 0);
    assert_int_equal(tokens_of_bytes(1), 1);
    assert_int_equal(tokens_of_bytes(400), 100);
    assert_true(content_costs_valid(&costs));
}

static void one_token_a_chunk_stays_exact(void **state)
{
    (void) state;
    for (int i = 0; i < 1000; i++) {
        learn((int64_t) unit_random_below(3000) + 1, 1);
        assert_int_equal(tokens_of_chunks(1000000), 1000000);
    }
}

/* Engines count the token that ends an answer, and it has no content. */
static void a_token_without_content_at_the_end_changes_nothing(void **state)
{
    (void) state;
    for (int64_t choices = 1; choices < 5; choices++) {
        for (int64_t ends = 0; ends <= choices; ends++) {
            struct content_sample sample = {
                .tokens = 40 + ends, .chunks = 40, .bytes = 200, .last_chunk_bytes = 1, .choices = choices};
            content_costs_learn(&costs, &sample);
            assert_int_equal(tokens_of_chunks(40), 40);
        }
    }
}

static void several_tokens_a_chunk_are_learned_from_one_answer(void **state)
{
    (void) state;
    learn(120, 3);
    assert_int_equal(tokens_of_chunks(10), 30);
    assert_int_equal(tokens_of_bytes(40), 10);
}

/* What was left for the last chunk makes the others no smaller, whatever the lengths. */
static void last_chunks_that_are_not_full(void **state)
{
    (void) state;
    for (int64_t each = 2; each < 9; each++) {
        forget(NULL);
        for (int i = 0; i < 300; i++)
            learn((int64_t) unit_random_below(60) + 2 * each, each);
        assert_in_range(tokens_of_chunks(100000), 99500 * each, 100500 * each);
    }
}

static void fewer_tokens_than_chunks(void **state)
{
    struct content_sample sample = {.tokens = 50, .chunks = 100, .bytes = 200, .last_chunk_bytes = 2, .choices = 1};
    (void) state;
    content_costs_learn(&costs, &sample);
    assert_int_equal(tokens_of_chunks(20), 10);
    assert_int_equal(tokens_of_chunks(1), 1);
}

static void an_engine_that_changes_is_followed(void **state)
{
    (void) state;
    for (int i = 0; i < 500; i++)
        learn(300, 3);
    assert_int_equal(tokens_of_chunks(100), 300);
    for (int i = 0; i < 10 * CONTENT_ANSWERS_WEIGHED; i++)
        learn(300, 1);
    assert_int_equal(tokens_of_chunks(100), 100);
}

/* Not the mean of their ratios. */
static void long_answers_weigh_more_than_short_ones(void **state)
{
    (void) state;
    learn(4000, 4);
    learn(2, 1);
    assert_in_range(tokens_of_chunks(1000), 3900, 4000);
}

static void whole_answers_teach_bytes_only(void **state)
{
    struct content_sample sample = {.tokens = 100, .chunks = 0, .bytes = 250, .choices = 1};
    (void) state;
    content_costs_learn(&costs, &sample);
    assert_int_equal(tokens_of_bytes(500), 200);
    assert_int_equal(tokens_of_chunks(5), 5);
}

static void what_teaches_nothing(void **state)
{
    static const struct content_sample samples[] = {
        {.tokens = 0, .chunks = 5, .bytes = 20, .choices = 1},
        {.tokens = 5, .chunks = 5, .bytes = 0, .choices = 1},
        {.tokens = INT64_MAX, .chunks = 5, .bytes = 20, .choices = 1},
        {.tokens = 5, .chunks = 5, .bytes = INT64_MAX, .choices = 1},
        {.tokens = -1, .chunks = -1, .bytes = -1, .choices = 1},
    };
    (void) state;
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        content_costs_learn(&costs, &samples[i]);
        assert_int_equal(tokens_of_chunks(9), 9);
        assert_int_equal(tokens_of_bytes(40), 10);
    }
}

/* Whatever an engine says, a count stays a count and what was learned can be kept. */
static void any_answers_leave_sound_rates(void **state)
{
    (void) state;
    for (int i = 0; i < 20000; i++) {
        struct content_sample sample = {.tokens = (int64_t) (unit_random() >> (38 + unit_random_below(26))),
                                        .chunks = (int64_t) (unit_random() >> (38 + unit_random_below(26))),
                                        .bytes = (int64_t) (unit_random() >> (38 + unit_random_below(26))),
                                        .last_chunk_bytes = (int64_t) (unit_random() >> (38 + unit_random_below(26))),
                                        .choices = (int64_t) unit_random_below(5) + 1};
        content_costs_learn(&costs, &sample);
        assert_true(content_costs_valid(&costs));
        int64_t chunks = (int64_t) (unit_random() >> (1 + unit_random_below(63)));
        int64_t tokens = tokens_of_chunks(chunks);
        assert_true(tokens >= (chunks > 0) && tokens <= INT64_MAX / 1000000);
        assert_true(tokens_of_chunks(chunks / 2) <= tokens);
    }
}

static void the_longest_answers_fit(void **state)
{
    (void) state;
    for (int i = 0; i < 100 * CONTENT_ANSWERS_WEIGHED; i++) {
        struct content_sample sample = {.tokens = CONTENT_COUNT_MAX,
                                        .chunks = CONTENT_COUNT_MAX / 2,
                                        .bytes = CONTENT_COUNT_MAX,
                                        .last_chunk_bytes = 2,
                                        .choices = 1};
        content_costs_learn(&costs, &sample);
        assert_true(content_costs_valid(&costs));
    }
    assert_int_equal(tokens_of_chunks(1000), 2000);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(before_anything_is_learned, forget),
        cmocka_unit_test_setup(one_token_a_chunk_stays_exact, forget),
        cmocka_unit_test_setup(a_token_without_content_at_the_end_changes_nothing, forget),
        cmocka_unit_test_setup(several_tokens_a_chunk_are_learned_from_one_answer, forget),
        cmocka_unit_test_setup(last_chunks_that_are_not_full, forget),
        cmocka_unit_test_setup(fewer_tokens_than_chunks, forget),
        cmocka_unit_test_setup(an_engine_that_changes_is_followed, forget),
        cmocka_unit_test_setup(long_answers_weigh_more_than_short_ones, forget),
        cmocka_unit_test_setup(whole_answers_teach_bytes_only, forget),
        cmocka_unit_test_setup(what_teaches_nothing, forget),
        cmocka_unit_test_setup(any_answers_leave_sound_rates, forget),
        cmocka_unit_test_setup(the_longest_answers_fit, forget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
