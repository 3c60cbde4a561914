#include "ratelimit/estimate.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "ratelimit/estimate_table.h"
#include "tests/lib/unit.h"

static struct estimate ask(struct estimator *estimator, struct estimate_question question)
{
    struct estimate estimate;
    estimator_ask(estimator, &question, &estimate);
    return estimate;
}

static struct estimate_question question_of(const char *tenant, const char *model, int64_t input)
{
    return (struct estimate_question){.tenant = tenant,
                                      .model = model,
                                      .input_token_ids = input,
                                      .prompts = 1,
                                      .choices = 1,
                                      .cap_tokens = 4096,
                                      .has_output = true};
}

static void teach(struct estimator *estimator, int count, struct estimate_question question, int64_t output)
{
    for (int i = 0; i < count; i++) {
        estimator_learn(estimator, &question, -1, output);
    }
}

static int create(void **state)
{
    struct estimator *estimator = estimator_create();
    *state = estimator;
    return estimator == NULL;
}

static int destroy(void **state)
{
    struct estimator *estimator = *state;
    estimator_destroy(&estimator);
    estimator_destroy(&estimator);
    return estimator != NULL;
}

static void before_anything_is_learned_it_is_sensible(void **state)
{
    struct estimate_question question = question_of("acme", "gemma", 0);
    question.input_text_bytes = 350;
    struct estimate estimate = ask(*state, question);
    assert_int_equal(estimate.input_tokens, 101);
    assert_int_equal(estimate.output_tokens, 1024);
    assert_int_equal(estimate.output_cap_tokens, 4096);
    question.cap_tokens = 16;
    estimate = ask(*state, question);
    assert_int_equal(estimate.output_tokens, 16);
    assert_int_equal(estimate.output_cap_tokens, 16);
    question.cap_tokens = 0;
    assert_int_equal(ask(*state, question).output_tokens, 0);
    question.cap_tokens = -1;
    estimate = ask(*state, question);
    assert_int_equal(estimate.output_tokens, 1024);
    assert_int_equal(estimate.output_cap_tokens, ESTIMATOR_OUTPUT_UNCAPPED);
}

static void choices_and_prompts_multiply_the_output(void **state)
{
    struct estimate_question question = question_of("acme", "gemma", 10);
    question.cap_tokens = 100;
    question.choices = 3;
    question.prompts = 4;
    struct estimate estimate = ask(*state, question);
    assert_int_equal(estimate.output_tokens, 1200);
    assert_int_equal(estimate.output_cap_tokens, 1200);
    assert_int_equal(estimate.input_tokens, 10);
    question.choices = 0;
    question.prompts = -1;
    assert_int_equal(ask(*state, question).output_tokens, 100);
    question.choices = INT64_MAX;
    question.prompts = INT64_MAX;
    assert_int_equal(ask(*state, question).output_cap_tokens, ESTIMATE_TOKENS_MAX);
}

static void what_many_answers_had_in_all_is_learned_of_one(void **state)
{
    struct estimate_question question = question_of("acme", "gemma", 10);
    question.choices = 5;
    question.prompts = 2;
    teach(*state, ESTIMATOR_SAMPLES_MIN, question, 10 * 64);
    int64_t one = ask(*state, question_of("acme", "gemma", 10)).output_tokens;
    assert_in_range(one, 64, 71);
    assert_int_equal(ask(*state, question).output_tokens, 10 * one);
}

static void embeddings_have_no_output(void **state)
{
    struct estimate_question question = question_of("acme", "bge", 10);
    question.has_output = false;
    teach(*state, 100, question, 50);
    struct estimate estimate = ask(*state, question);
    assert_int_equal(estimate.output_tokens, 0);
    assert_int_equal(estimate.output_cap_tokens, 0);
    assert_int_equal(estimate.input_tokens, 10);
    assert_int_equal(ask(*state, question_of("acme", "bge", 10)).output_tokens, 1024);
}

/* Each level is asked only where the one before has not seen enough. */
static void levels_fall_back_one_by_one(void **state)
{
    teach(*state, ESTIMATOR_SAMPLES_MIN - 1, question_of("other", "gemma", 100), 200);
    assert_int_equal(ask(*state, question_of("acme", "gemma", 100)).output_tokens, 1024);
    teach(*state, 1, question_of("other", "gemma", 100), 200);
    assert_in_range(ask(*state, question_of("acme", "gemma", 100)).output_tokens, 200, 219);

    teach(*state, ESTIMATOR_SAMPLES_MIN - 1, question_of("acme", "gemma", 1000), 20);
    assert_in_range(ask(*state, question_of("acme", "gemma", 100)).output_tokens, 200, 219);
    teach(*state, 1, question_of("acme", "gemma", 1000), 20);
    assert_in_range(ask(*state, question_of("acme", "gemma", 100)).output_tokens, 20, 22);

    teach(*state, ESTIMATOR_SAMPLES_MIN - 1, question_of("acme", "gemma", 100), 20);
    teach(*state, 1, question_of("acme", "gemma", 100), 500);
    assert_in_range(ask(*state, question_of("acme", "gemma", 100)).output_tokens, 20, 22);
    teach(*state, 4 * ESTIMATOR_SAMPLES_MIN, question_of("acme", "gemma", 100), 500);
    assert_in_range(ask(*state, question_of("acme", "gemma", 100)).output_tokens, 500, 549);
    assert_in_range(ask(*state, question_of("acme", "gemma", 1000)).output_tokens, 20, 22);
    assert_int_equal(ask(*state, question_of("acme", "llama", 100)).output_tokens, 1024);
}

static void an_octave_goes_from_a_power_of_two_to_the_next(void **state)
{
    teach(*state, 100, question_of("acme", "gemma", 512), 30);
    teach(*state, 200, question_of("acme", "gemma", 1024), 300);
    assert_in_range(ask(*state, question_of("acme", "gemma", 512)).output_tokens, 30, 33);
    assert_in_range(ask(*state, question_of("acme", "gemma", 1023)).output_tokens, 30, 33);
    assert_in_range(ask(*state, question_of("acme", "gemma", 1024)).output_tokens, 300, 329);
    assert_in_range(ask(*state, question_of("acme", "gemma", 2047)).output_tokens, 300, 329);
    teach(*state, 100, question_of("acme", "gemma", ESTIMATE_TOKENS_MAX), 3);
    assert_in_range(ask(*state, question_of("acme", "gemma", INT64_MAX)).output_tokens, 3, 3);
    teach(*state, 1000, question_of("acme", "gemma", 0), 7);
    assert_in_range(ask(*state, question_of("acme", "gemma", 0)).output_tokens, 7, 8);
}

/* A ratio that moves must not move a question to another octave than the one it is learned in. */
static void learned_ratios_move_no_octave(void **state)
{
    struct estimate_question question = question_of("acme", "gemma", 0);
    question.input_text_bytes = 3600;
    for (int i = 0; i < 100; i++) {
        estimator_learn(*state, &question, 3000, 50);
    }
    question.input_text_bytes = 36000;
    teach(*state, 1000, question, 700);
    question.input_text_bytes = 3600;
    struct estimate estimate = ask(*state, question);
    assert_in_range(estimate.input_tokens, 2950, 3400);
    assert_in_range(estimate.output_tokens, 50, 55);
}

static void two_tenants_do_not_move_each_others_own_estimates(void **state)
{
    struct estimate_question mine = question_of("acme", "gemma", 0);
    mine.input_text_bytes = 8000;
    for (int i = 0; i < 100; i++) {
        estimator_learn(*state, &mine, 2000, 40);
    }
    struct estimate before = ask(*state, mine);
    struct estimate_question other = mine;
    other.tenant = "globex";
    for (int i = 0; i < 5000; i++) {
        estimator_learn(*state, &other, 8000, 4000);
    }
    struct estimate after = ask(*state, mine);
    assert_int_equal(before.input_tokens, after.input_tokens);
    assert_int_equal(before.output_tokens, after.output_tokens);
    assert_in_range(ask(*state, other).output_tokens, 4000, 4400);
    assert_true(ask(*state, other).input_tokens > 7000);
}

/* "ab" + "c" is not "a" + "bc", and a tenant is no model. */
static void names_are_kept_apart(void **state)
{
    teach(*state, 100, question_of("ab", "c", 10), 5);
    assert_int_equal(ask(*state, question_of("ab", "c", 10)).output_tokens, 5);
    assert_int_equal(ask(*state, question_of("a", "bc", 10)).output_tokens, 1024);
    assert_int_equal(ask(*state, question_of("c", "ab", 10)).output_tokens, 1024);
    assert_int_equal(ask(*state, question_of("new", "c", 10)).output_tokens, 5);
}

static void what_is_no_name_is_not_learned(void **state)
{
    teach(*state, 100, question_of("a b", "gemma\n", 10), 5);
    assert_int_equal(ask(*state, question_of("a b", "gemma\n", 10)).output_tokens, 1024);
}

static void what_was_not_told_is_not_learned(void **state)
{
    struct estimate_question question = question_of("acme", "gemma", 0);
    question.input_text_bytes = 3500;
    for (int i = 0; i < 100; i++) {
        estimator_learn(*state, &question, -1, -1);
    }
    struct estimate estimate = ask(*state, question);
    assert_int_equal(estimate.input_tokens, 1001);
    assert_int_equal(estimate.output_tokens, 1024);
}

static struct estimate_question random_question(char name[2][8])
{
    snprintf(name[0], 8, "t%zu", unit_random_below(20));
    snprintf(name[1], 8, "m%zu", unit_random_below(3));
    return (struct estimate_question){.tenant = name[0],
                                      .model = name[1],
                                      .input_text_bytes = unit_random() >> unit_random_below(64),
                                      .input_token_ids = (int64_t) (unit_random() >> unit_random_below(64)),
                                      .messages = (int64_t) (unit_random() >> unit_random_below(64)),
                                      .images = (int64_t) unit_random_below(3),
                                      .prompts = (int64_t) (unit_random() >> unit_random_below(64)),
                                      .choices = (int64_t) unit_random_below(130) - 1,
                                      .cap_tokens = (int64_t) (unit_random() >> unit_random_below(64)),
                                      .has_output = unit_random_below(10) > 0};
}

static void estimates_are_never_negative_and_never_above_the_cap(void **state)
{
    for (int i = 0; i < 200000; i++) {
        char names[2][8];
        struct estimate_question question = random_question(names);
        struct estimate estimate = ask(*state, question);
        assert_true(estimate.input_tokens >= 0 && estimate.input_tokens <= ESTIMATE_TOKENS_MAX);
        assert_true(estimate.output_tokens >= 0 && estimate.output_tokens <= estimate.output_cap_tokens);
        assert_true(estimate.output_cap_tokens <= ESTIMATE_TOKENS_MAX);
        estimator_learn(*state, &question, (int64_t) (unit_random() >> unit_random_below(64)),
                        (int64_t) (unit_random() >> unit_random_below(64)));
    }
}

/* The table */

static struct estimate_entry *add(struct estimate_table *table, const char *tenant, const char *model)
{
    struct estimate_entry *entry = estimate_table_find_or_add(table, text_of(tenant), text_of(model));
    assert_non_null(entry);
    return entry;
}

static bool has(struct estimate_table *table, const char *tenant, const char *model)
{
    return estimate_table_find(table, text_of(tenant), text_of(model)) != NULL;
}

static void the_least_recently_used_pair_goes(void **state)
{
    (void) state;
    struct estimate_table *table = estimate_table_create(3, 100);
    add(table, "a", "m");
    add(table, "b", "m");
    add(table, "c", "m");
    assert_true(has(table, "a", "m"));
    add(table, "d", "m");
    assert_int_equal(table->count, 3);
    assert_false(has(table, "b", "m"));
    assert_true(has(table, "a", "m") && has(table, "c", "m") && has(table, "d", "m"));
    estimate_table_destroy(&table);
    estimate_table_destroy(&table);
}

/* Also those that share a slot. */
static void every_pair_is_found_by_its_names(void **state)
{
    (void) state;
    enum { TENANTS = 10000 };
    struct estimate_table *table = estimate_table_create(2 * TENANTS, 1);
    for (size_t i = 0; i < 4 * TENANTS; i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%zu", i % TENANTS);
        const char *model = i / TENANTS % 2 == 0 ? "m" : "n";
        struct estimate_entry *entry = add(table, name, model);
        assert_string_equal(entry->tenant, name);
        assert_string_equal(entry->model, model);
    }
    assert_int_equal(table->count, 2 * TENANTS);
    estimate_table_destroy(&table);
}

static void histograms_are_bounded_too(void **state)
{
    (void) state;
    struct estimate_table *table = estimate_table_create(100, 4);
    for (size_t i = 0; i < 3; i++) {
        assert_non_null(estimate_table_histogram(table, add(table, "old", "m"), i));
    }
    struct estimate_entry *model = add(table, "", "m");
    struct estimate_entry *pair = add(table, "new", "m");
    struct output_histogram *first = estimate_table_histogram(table, pair, 0);
    assert_ptr_equal(first, estimate_table_histogram(table, pair, 0));
    assert_int_equal(table->histogram_count, 4);
    assert_non_null(estimate_table_histogram(table, model, 0));
    assert_int_equal(table->count, 2);
    assert_non_null(estimate_table_histogram(table, pair, 1));
    assert_non_null(estimate_table_histogram(table, pair, 2));
    assert_null(estimate_table_histogram(table, pair, 3));
    assert_int_equal(table->histogram_count, 4);
    assert_false(has(table, "old", "m"));
    estimate_table_destroy(&table);
}

static void memory_stays_within_its_bounds(void **state)
{
    (void) state;
    struct estimate_table *table = estimate_table_create(50, 60);
    for (int i = 0; i < 100000; i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%zu", unit_random_below(200));
        add(table, "", "m");
        struct estimate_entry *entry = add(table, name, "m");
        estimate_table_histogram(table, entry, unit_random_below(ENTRY_HISTOGRAMS));
        assert_true(table->count <= 50 && table->histogram_count <= 60);
    }
    assert_true(has(table, "", "m"));
    estimate_table_destroy(&table);
}

static void an_estimator_keeps_what_is_used_among_many_pairs(void **state)
{
    struct estimate_question mine = question_of("mine", "gemma", 10);
    teach(*state, 100, mine, 5);
    for (int i = 0; i < 3 * ESTIMATOR_PAIRS_MAX; i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%d", i);
        teach(*state, 1, question_of(name, "gemma", 10), 900);
        if (i % 1000 == 0) {
            assert_int_equal(ask(*state, mine).output_tokens, 5);
        }
    }
    assert_int_equal(ask(*state, mine).output_tokens, 5);
}

/* Threads */

enum { THREADS = 4, TURNS = 5000 };

static atomic_int wrong;

static void *ask_and_learn(void *owner)
{
    struct estimator *estimator = owner;
    for (int i = 0; i < TURNS; i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%d", i % 7);
        struct estimate_question question = question_of(name, "gemma", i);
        struct estimate estimate = ask(estimator, question);
        wrong += estimate.output_tokens > 4096 || estimate.output_tokens < 0;
        estimator_learn(estimator, &question, i, i % 100);
    }
    return NULL;
}

static void *write_and_read(void *owner)
{
    for (int i = 0; i < 20; i++) {
        struct buffer buffer;
        buffer_init(&buffer, ESTIMATOR_FILE_BYTES_MAX);
        wrong += !estimator_write(owner, &buffer) || !estimator_read(owner, buffer_text(&buffer));
        buffer_finish(&buffer);
    }
    return NULL;
}

static void threads_may_do_everything_at_once(void **state)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, i == 0 ? write_and_read : ask_and_learn, *state), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_int_equal(wrong, 0);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(before_anything_is_learned_it_is_sensible, create, destroy),
        cmocka_unit_test_setup_teardown(choices_and_prompts_multiply_the_output, create, destroy),
        cmocka_unit_test_setup_teardown(what_many_answers_had_in_all_is_learned_of_one, create, destroy),
        cmocka_unit_test_setup_teardown(embeddings_have_no_output, create, destroy),
        cmocka_unit_test_setup_teardown(levels_fall_back_one_by_one, create, destroy),
        cmocka_unit_test_setup_teardown(an_octave_goes_from_a_power_of_two_to_the_next, create, destroy),
        cmocka_unit_test_setup_teardown(learned_ratios_move_no_octave, create, destroy),
        cmocka_unit_test_setup_teardown(two_tenants_do_not_move_each_others_own_estimates, create, destroy),
        cmocka_unit_test_setup_teardown(names_are_kept_apart, create, destroy),
        cmocka_unit_test_setup_teardown(what_is_no_name_is_not_learned, create, destroy),
        cmocka_unit_test_setup_teardown(what_was_not_told_is_not_learned, create, destroy),
        cmocka_unit_test_setup_teardown(estimates_are_never_negative_and_never_above_the_cap, create, destroy),
        cmocka_unit_test(the_least_recently_used_pair_goes),
        cmocka_unit_test(every_pair_is_found_by_its_names),
        cmocka_unit_test(histograms_are_bounded_too),
        cmocka_unit_test(memory_stays_within_its_bounds),
        cmocka_unit_test_setup_teardown(an_estimator_keeps_what_is_used_among_many_pairs, create, destroy),
        cmocka_unit_test_setup_teardown(threads_may_do_everything_at_once, create, destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
