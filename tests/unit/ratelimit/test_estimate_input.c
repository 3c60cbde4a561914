#include "ratelimit/estimate_input.h"

#include <string.h>

#include "tests/lib/unit.h"

static const struct input_costs *const NOTHING[2];

static int64_t ask(const struct input_costs *costs, struct estimate_question question)
{
    const struct input_costs *const levels[2] = {costs, NULL};
    return input_costs_estimate(levels, &question);
}

/* @count texts whose tokens have @token_bytes on average, off by up to @percent_off. */
static void teach_text(struct input_costs *costs, int count, double token_bytes, size_t percent_off)
{
    for (int i = 0; i < count; i++) {
        uint64_t bytes = 1000 + unit_random_below(8000);
        double off =
            1 + (percent_off == 0 ? 0 : ((double) unit_random_below(2 * percent_off) - (double) percent_off) / 100);
        struct estimate_question question = {.input_text_bytes = bytes};
        input_costs_learn(costs, &question, (int64_t) ((double) bytes / (token_bytes * off)) + 1);
    }
}

static void unlearned_text_has_three_and_a_half_bytes_a_token(void **state)
{
    (void) state;
    assert_int_equal(ask(NULL, (struct estimate_question){.input_text_bytes = 3500}), 1000 + 1);
    assert_int_equal(ask(NULL, (struct estimate_question){.input_text_bytes = 3500, .prompts = 4}), 1000 + 4);
    assert_int_equal(ask(NULL, (struct estimate_question){.input_text_bytes = 3500, .messages = 2}), 1000 + 3 + 2 * 4);
    assert_int_equal(ask(NULL, (struct estimate_question){.messages = 1, .images = 2}), 3 + 4 + 2 * 600);
    assert_int_equal(ask(NULL, (struct estimate_question){0}), 0);
}

static void token_ids_are_exact_whatever_was_learned(void **state)
{
    (void) state;
    struct input_costs costs = {0};
    teach_text(&costs, 50, 2, 20);
    assert_int_equal(ask(NULL, (struct estimate_question){.input_token_ids = 777, .prompts = 3}), 777);
    assert_int_equal(ask(&costs, (struct estimate_question){.input_token_ids = 777, .prompts = 3}), 777);
    struct input_costs before = costs;
    input_costs_learn(&costs, &(struct estimate_question){.input_token_ids = 777}, 10);
    assert_memory_equal(&before, &costs, sizeof(costs));
}

static void a_steady_ratio_is_learned(void **state)
{
    (void) state;
    static const double ratios[] = {1.1, 2, 3.7, 6, 20};
    for (size_t i = 0; i < sizeof(ratios) / sizeof(ratios[0]); i++) {
        struct input_costs costs = {0};
        teach_text(&costs, 200, ratios[i], 0);
        double exact = 100000 / ratios[i];
        double tokens = (double) ask(&costs, (struct estimate_question){.input_text_bytes = 100000});
        assert_true(tokens > 0.98 * exact && tokens < 1.05 * exact);
    }
}

static void what_varies_is_reserved_on_the_expensive_side(void **state)
{
    (void) state;
    struct input_costs steady = {0};
    struct input_costs varying = {0};
    teach_text(&steady, 300, 4, 0);
    teach_text(&varying, 300, 4, 30);
    struct estimate_question question = {.input_text_bytes = 40000};
    assert_true(ask(&varying, question) > ask(&steady, question) * 110 / 100);
    assert_true(ask(&varying, question) < ask(&steady, question) * 150 / 100);

    int under = 0;
    for (int i = 0; i < 1000; i++) {
        struct input_costs none = varying;
        double off = 1 + ((double) unit_random_below(60) - 30) / 100;
        under += (double) ask(&none, question) < 40000 / (4 * off);
    }
    assert_in_range(under, 1, 350); /* without the deviation some 500 */
}

static void a_change_of_language_is_followed(void **state)
{
    (void) state;
    struct input_costs costs = {0};
    teach_text(&costs, 1000, 4, 10);
    teach_text(&costs, 400, 2, 10);
    int64_t tokens = ask(&costs, (struct estimate_question){.input_text_bytes = 10000});
    assert_in_range(tokens, 5000, 6500);
}

static void never_more_tokens_than_bytes(void **state)
{
    (void) state;
    struct input_costs costs = {0};
    teach_text(&costs, 200, 1, 90);
    assert_in_range(ask(&costs, (struct estimate_question){.input_text_bytes = 5000}), 1, 5001);
}

/* The template shows in short messages, the ratio in long ones. */
static void the_chat_template_is_learned_beside_the_ratio(void **state)
{
    (void) state;
    struct input_costs costs = {0};
    for (int i = 0; i < 400; i++) {
        struct estimate_question question = {.messages = 1 + (int64_t) unit_random_below(4)};
        question.input_text_bytes = i % 2 == 0 ? 4 * (uint64_t) question.messages : 4000 * (uint64_t) question.messages;
        int64_t tokens = (int64_t) question.input_text_bytes / 4 + 12 * question.messages + 3;
        input_costs_learn(&costs, &question, tokens);
    }
    assert_in_range(ask(&costs, (struct estimate_question){.messages = 20, .input_text_bytes = 80}), 230, 290);
    assert_in_range(ask(&costs, (struct estimate_question){.messages = 2, .input_text_bytes = 40000}), 9900, 10600);
}

static void a_template_is_bounded(void **state)
{
    (void) state;
    struct input_costs costs = {0};
    struct estimate_question question = {.messages = 1, .input_text_bytes = 4};
    for (int i = 0; i < 100; i++) {
        input_costs_learn(&costs, &question, 1000000);
    }
    assert_in_range(ask(&costs, question), INPUT_MESSAGE_TOKENS_MAX, INPUT_MESSAGE_TOKENS_MAX + 10);
    for (int i = 0; i < 1000; i++) {
        input_costs_learn(&costs, &question, 0);
    }
    assert_in_range(ask(&costs, question), 0, 10);
}

static void images_are_learned(void **state)
{
    (void) state;
    struct input_costs costs = {0};
    struct estimate_question question = {.messages = 1, .images = 3, .input_text_bytes = 350};
    for (int i = 0; i < 30; i++) {
        input_costs_learn(&costs, &question, 100 + 7 + 3 * 256);
    }
    assert_in_range(ask(&costs, question), 100 + 3 * 256, 115 + 3 * 256);
    assert_int_equal(costs.token_bytes.samples, 0);
}

static void the_next_level_is_asked_until_enough_was_seen(void **state)
{
    (void) state;
    struct input_costs first = {0};
    struct input_costs second = {0};
    const struct input_costs *const levels[2] = {&first, &second};
    struct estimate_question question = {.input_text_bytes = 7000};
    assert_int_equal(input_costs_estimate(levels, &question), input_costs_estimate(NOTHING, &question));
    teach_text(&second, 100, 2, 0);
    assert_in_range(input_costs_estimate(levels, &question), 3450, 3700);
    teach_text(&first, INPUT_SAMPLES_MIN - 1, 7, 0);
    assert_in_range(input_costs_estimate(levels, &question), 3450, 3700);
    teach_text(&first, 60, 7, 0);
    assert_in_range(input_costs_estimate(levels, &question), 950, 1100);
}

/* Whatever an engine or a client says: no negative estimate, none above the bound, nothing that a file may not hold. */
static void anything_may_be_asked_and_learned(void **state)
{
    (void) state;
    struct input_costs costs = {0};
    for (int i = 0; i < 200000; i++) {
        struct estimate_question question = {
            .input_text_bytes = unit_random() >> unit_random_below(64),
            .input_token_ids = (int64_t) (unit_random() >> unit_random_below(64)),
            .messages = (int64_t) (unit_random() >> unit_random_below(64)),
            .images = unit_random_below(2) == 0 ? 0 : (int64_t) (unit_random() >> unit_random_below(64)),
            .prompts = (int64_t) (unit_random() >> unit_random_below(64)),
        };
        input_costs_learn(&costs, &question, (int64_t) (unit_random() >> 1 >> unit_random_below(63)));
        assert_true(input_costs_valid(&costs));
        int64_t tokens = ask(&costs, question);
        assert_true(tokens >= 0 && tokens <= ESTIMATE_TOKENS_MAX);
    }
}

static void values_that_cannot_be_learned_are_not_valid(void **state)
{
    (void) state;
    assert_true(input_costs_valid(&(struct input_costs){0}));
    assert_false(input_costs_valid(&(struct input_costs){.token_bytes.mean_micro = -1}));
    assert_false(input_costs_valid(&(struct input_costs){.token_bytes.mean_micro = 4000000}));
    assert_false(input_costs_valid(&(struct input_costs){.message_tokens.deviation_micro = -1}));
    assert_false(input_costs_valid(&(struct input_costs){.message_tokens.samples = INPUT_SAMPLES_WEIGHED + 1}));
    assert_false(input_costs_valid(&(struct input_costs){.image_tokens.samples = -1}));
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unlearned_text_has_three_and_a_half_bytes_a_token),
        cmocka_unit_test(token_ids_are_exact_whatever_was_learned),
        cmocka_unit_test(a_steady_ratio_is_learned),
        cmocka_unit_test(what_varies_is_reserved_on_the_expensive_side),
        cmocka_unit_test(a_change_of_language_is_followed),
        cmocka_unit_test(never_more_tokens_than_bytes),
        cmocka_unit_test(the_chat_template_is_learned_beside_the_ratio),
        cmocka_unit_test(a_template_is_bounded),
        cmocka_unit_test(images_are_learned),
        cmocka_unit_test(the_next_level_is_asked_until_enough_was_seen),
        cmocka_unit_test(anything_may_be_asked_and_learned),
        cmocka_unit_test(values_that_cannot_be_learned_are_not_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
