#include <inttypes.h>
#include <string.h>

#include "ratelimit/estimate.h"
#include "tests/lib/unit.h"

static struct estimate_question question_of(const char *tenant, const char *model, uint64_t bytes)
{
    return (struct estimate_question){.tenant = tenant,
                                      .model = model,
                                      .input_text_bytes = bytes,
                                      .messages = 2,
                                      .prompts = 1,
                                      .choices = 1,
                                      .cap_tokens = 4096,
                                      .has_output = true};
}

static void teach_at_random(struct estimator *estimator, int count)
{
    for (int i = 0; i < count; i++) {
        char tenant[16], model[16];
        snprintf(tenant, sizeof(tenant), "tenant:%zu", unit_random_below(5));
        snprintf(model, sizeof(model), "org/m-%zu.b", unit_random_below(3));
        struct estimate_question question = question_of(tenant, model, unit_random() >> (40 + unit_random_below(24)));
        question.images = unit_random_below(10) == 0;
        int64_t output = (int64_t) unit_random_below(3000);
        estimator_learn(estimator, &question, (int64_t) question.input_text_bytes / 3 + 20, output);
        struct content_sample sample = {.tokens = output, .chunks = output / 3 + 1, .bytes = 5 * output, .choices = 1};
        estimator_learn_content(estimator, model, &sample);
    }
}

static void what_is_first_learned_of_content_is_news_once(void **state)
{
    (void) state;
    struct estimator *estimator = estimator_create();
    struct content_sample sample = {.tokens = 90, .chunks = 30, .bytes = 400, .last_chunk_bytes = 12, .choices = 1};
    assert_int_equal(estimator_first_contents(estimator), 0);
    estimator_learn_content(estimator, "a", &sample);
    uint64_t first = estimator_first_contents(estimator);
    assert_true(first > 0);
    estimator_learn_content(estimator, "a", &sample);
    assert_int_equal(estimator_first_contents(estimator), first);
    estimator_learn_content(estimator, "b", &sample);
    assert_true(estimator_first_contents(estimator) > first);
    estimator_destroy(&estimator);
}

static void assert_same_rates(struct estimator *one, struct estimator *other, const char *model)
{
    struct content_rates rates[2];
    estimator_content_rates(one, model, &rates[0]);
    estimator_content_rates(other, model, &rates[1]);
    assert_memory_equal(&rates[0], &rates[1], sizeof(rates[0]));
}

static void assert_alike(struct estimator *one, struct estimator *other)
{
    for (int i = 0; i < 4; i++) {
        char model[16];
        snprintf(model, sizeof(model), "org/m-%d.b", i);
        assert_same_rates(one, other, model);
    }
    for (int tenant = 0; tenant < 6; tenant++) {
        for (int i = 0; i < 4 * 24; i++) {
            char names[2][16];
            snprintf(names[0], sizeof(names[0]), "tenant:%d", tenant);
            snprintf(names[1], sizeof(names[1]), "org/m-%d.b", i / 24);
            struct estimate_question question = question_of(names[0], names[1], UINT64_C(1) << (i % 24));
            question.images = i % 2;
            struct estimate estimates[2];
            estimator_ask(one, &question, &estimates[0]);
            estimator_ask(other, &question, &estimates[1]);
            assert_memory_equal(&estimates[0], &estimates[1], sizeof(estimates[0]));
        }
    }
}

static struct buffer written(struct estimator *estimator)
{
    struct buffer buffer;
    buffer_init(&buffer, ESTIMATOR_FILE_BYTES_MAX);
    assert_true(estimator_write(estimator, &buffer));
    return buffer;
}

static struct estimator *created(void)
{
    struct estimator *estimator = estimator_create();
    assert_non_null(estimator);
    return estimator;
}

static void a_restart_changes_no_estimate(void **state)
{
    (void) state;
    struct estimator *before = created();
    struct estimator *after = created();
    teach_at_random(before, 5000);
    teach_at_random(after, 100);
    struct buffer file = written(before);
    assert_true(estimator_read(after, buffer_text(&file)));
    assert_alike(before, after);

    /* What follows is learned alike too. */
    uint64_t random = unit_random_state;
    teach_at_random(before, 3000);
    unit_random_state = random;
    teach_at_random(after, 3000);
    assert_alike(before, after);
    struct buffer again[2] = {written(before), written(after)};
    assert_int_equal(buffer_length(&again[0]), buffer_length(&again[1]));
    buffer_finish(&again[0]);
    buffer_finish(&again[1]);
    buffer_finish(&file);
    estimator_destroy(&before);
    estimator_destroy(&after);
}

static void nothing_learned_is_a_file_too(void **state)
{
    (void) state;
    struct estimator *estimator = created();
    struct buffer file = written(estimator);
    assert_int_equal(text_starts_with(buffer_text(&file), TEXT("tollgate-estimates 1\nend ")), 1);
    teach_at_random(estimator, 1000);
    assert_true(estimator_read(estimator, buffer_text(&file)));
    struct estimator *empty = created();
    assert_alike(estimator, empty);
    buffer_finish(&file);
    estimator_destroy(&estimator);
    estimator_destroy(&empty);
}

static void a_file_that_was_cut_or_changed_changes_nothing(void **state)
{
    (void) state;
    struct estimator *estimator = created();
    struct estimator *reference = created();
    teach_at_random(estimator, 300);
    struct buffer file = written(estimator);
    assert_true(estimator_read(reference, buffer_text(&file)));
    size_t length = buffer_length(&file);
    struct estimator *other = created();
    teach_at_random(other, 200);
    struct buffer other_file = written(other);
    char *bytes = malloc(length + 1);
    for (int i = 0; i < 3000; i++) {
        memcpy(bytes, buffer_text(&file).at, length);
        size_t cut = length;
        if (i % 2 == 0) {
            cut = unit_random_below(length);
        } else {
            bytes[unit_random_below(length)] ^= (char) (1 << unit_random_below(8));
        }
        assert_false(estimator_read(other, (struct text){bytes, cut}));
    }
    bytes[length] = '\n';
    memcpy(bytes, buffer_text(&file).at, length);
    assert_false(estimator_read(other, (struct text){bytes, length + 1}));
    assert_false(estimator_read(other, (struct text){NULL, 0}));
    assert_true(estimator_read(reference, buffer_text(&other_file)));
    assert_alike(other, reference);
    free(bytes);
    buffer_finish(&file);
    buffer_finish(&other_file);
    estimator_destroy(&estimator);
    estimator_destroy(&other);
    estimator_destroy(&reference);
}

/* @lines with the right last line. */
static struct buffer sealed(struct text lines)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < lines.length; i++) {
        hash = (hash ^ (unsigned char) lines.at[i]) * 0x100000001b3;
    }
    struct buffer file;
    buffer_init(&file, ESTIMATOR_FILE_BYTES_MAX);
    assert_true(buffer_add(&file, lines));
    assert_true(buffer_format(&file, "end %016" PRIx64 "\n", hash));
    return file;
}

static bool reads(const char *lines)
{
    struct estimator *estimator = created();
    struct buffer file = sealed(text_of(lines));
    bool good = estimator_read(estimator, buffer_text(&file));
    buffer_finish(&file);
    estimator_destroy(&estimator);
    return good;
}

#define FIRST "tollgate-estimates 1\n"
#define INPUT "input 1 2 3 4 5 6 7 8 9\n"

static void lines_are_read_strictly(void **state)
{
    (void) state;
    assert_true(reads(FIRST));
    assert_true(reads(FIRST "model m\n" INPUT "output 0 5 5 7:1000 8:3000\npair t m\n" INPUT "output 24 1 1 0:5\n"));
    assert_true(reads(FIRST "model m\n" INPUT "content 3000 1000 3000 12000\noutput 0 5 5 7:1000\n"));
    assert_true(reads(FIRST "model m\n" INPUT "content 0 0 3000 12000\n"));
    static const char *const bad[] = {
        FIRST "content 3000 1000 3000 12000\n",
        FIRST "model m\ncontent 3000 1000 3000\n",
        FIRST "model m\ncontent 3000 1000 3000 12000 1\n",
        FIRST "model m\ncontent 3000 0 3000 12000\n",
        FIRST "model m\ncontent 3000 1000 0 12000\n",
        FIRST "model m\ncontent 3000 1000 3000 9000000000000000000\n",
        "tollgate-estimates 2\n",
        FIRST "\n",
        FIRST "model\n",
        FIRST "model \n",
        FIRST "model a b\n",
        FIRST "model m\nmodel m\n",
        FIRST "pair t\n",
        FIRST "pair  m\n",
        FIRST "pair t m x\n",
        FIRST "nothing m\n",
        FIRST INPUT,
        FIRST "model m\ninput 1 2 3 4 5 6 7 8\n",
        FIRST "model m\ninput 1 2 3 4 5 6 7 8 9 10\n",
        FIRST "model m\ninput 1 2 3 4 5 6 7 8 -9\n",
        FIRST "model m\ninput 1 2 3 4 5 6 7 8 65\n",
        FIRST "model m\ninput 99999999 2 3 4 5 6 7 8 9\n",
        FIRST "model m\ninput 1 2 3 4 5 6 7 8 99999999999999999999\n",
        FIRST "output 0 5 5 7:1000\n",
        FIRST "model m\noutput 25 5 5 7:1000\n",
        FIRST "model m\noutput -1 5 5 7:1000\n",
        FIRST "model m\noutput 0 5 5 161:1000\n",
        FIRST "model m\noutput 0 5 5 7\n",
        FIRST "model m\noutput 0 5 5 7:\n",
        FIRST "model m\noutput 0 5 500 7:1000\n",
        FIRST "model m\noutput 0 5 6 7:1000\n",
        FIRST "model m\noutput 0 5 5 7:4294967296\n",
        FIRST "model m\noutput 0 5 5 7:4294967295\n",
        FIRST "model m\noutput 0 5 5 7:1000\noutput 0 5 5 7:1000\n",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (reads(bad[i])) {
            fail_msg("was read: %s", bad[i]);
        }
    }
}

/* Mutations behind a right seal: accepted or not, what it then says is an estimate. */
static void any_lines_leave_a_sound_estimator(void **state)
{
    (void) state;
    struct estimator *estimator = created();
    teach_at_random(estimator, 300);
    struct buffer file = written(estimator);
    size_t length = buffer_length(&file) - (sizeof("end 0123456789abcdef\n") - 1);
    char *bytes = malloc(length);
    int accepted = 0;
    for (int i = 0; i < 3000; i++) {
        memcpy(bytes, buffer_text(&file).at, length);
        for (size_t changes = unit_random_below(3) + 1; changes > 0; changes--) {
            static const char alphabet[] = "0123456789 :\n-aZ";
            bytes[unit_random_below(length)] = alphabet[unit_random_below(sizeof(alphabet) - 1)];
        }
        struct buffer mutated =
            sealed((struct text){bytes, unit_random_below(4) == 0 ? unit_random_below(length) : length});
        accepted += estimator_read(estimator, buffer_text(&mutated));
        buffer_finish(&mutated);
        struct estimate_question question = question_of("tenant:1", "org/m-1.b", unit_random_below(100000));
        struct estimate estimate;
        estimator_ask(estimator, &question, &estimate);
        assert_in_range(estimate.input_tokens, 1, 200000);
        assert_in_range(estimate.output_tokens, 0, 4096);
        estimator_learn(estimator, &question, 100, 100);
    }
    assert_in_range(accepted, 100, 2900);
    free(bytes);
    buffer_finish(&file);
    estimator_destroy(&estimator);
}

static void a_full_buffer_is_told(void **state)
{
    (void) state;
    struct estimator *estimator = created();
    teach_at_random(estimator, 1000);
    struct buffer file = written(estimator);
    for (size_t missing = 1; missing < buffer_length(&file); missing += 97) {
        struct buffer small;
        buffer_init(&small, buffer_length(&file) - missing);
        assert_false(estimator_write(estimator, &small));
        buffer_finish(&small);
    }
    buffer_finish(&file);
    estimator_destroy(&estimator);
}

/* As many pairs as there may be. */
static void a_full_table_fits_a_file(void **state)
{
    (void) state;
    struct estimator *estimator = created();
    for (int i = 0; i < ESTIMATOR_PAIRS_MAX; i++) {
        char tenant[16];
        snprintf(tenant, sizeof(tenant), "tenant-%d", i);
        for (int sample = 0; sample < 3; sample++) {
            struct estimate_question question = question_of(tenant, "m", 3);
            estimator_learn(estimator, &question, 9, (int64_t) unit_random_below(100000));
        }
    }
    struct buffer file = written(estimator);
    assert_true(buffer_length(&file) > 20 * ESTIMATOR_PAIRS_MAX);
    assert_true(estimator_read(estimator, buffer_text(&file)));
    struct buffer again = written(estimator);
    assert_int_equal(buffer_length(&file), buffer_length(&again));
    buffer_finish(&file);
    buffer_finish(&again);
    estimator_destroy(&estimator);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_first_learned_of_content_is_news_once),
        cmocka_unit_test(a_restart_changes_no_estimate),
        cmocka_unit_test(nothing_learned_is_a_file_too),
        cmocka_unit_test(a_file_that_was_cut_or_changed_changes_nothing),
        cmocka_unit_test(lines_are_read_strictly),
        cmocka_unit_test(any_lines_leave_a_sound_estimator),
        cmocka_unit_test(a_full_buffer_is_told),
        cmocka_unit_test(a_full_table_fits_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
