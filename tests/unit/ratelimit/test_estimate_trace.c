/* The figures that the estimates have to reach on recorded loads; `make estimate-report` prints all of them. */
#include "gateway/trace.h"
#include "ratelimit/estimate.h"
#include "tests/lib/unit.h"

enum { WARM_UP_REQUESTS = 200 };

struct figures {
    double requests, reserved, used, under_reserved, debt;
};

static struct figures replay(const char *file)
{
    struct trace trace;
    char error[TRACE_ERROR_BYTES];
    if (!trace_read(file, &trace, error)) {
        fail_msg("%s", error);
    }
    struct estimator *estimator = estimator_create();
    struct figures figures = {0};
    for (size_t i = 0; i < trace.count; i++) {
        const struct trace_row *row = &trace.rows[i];
        struct estimate_question question = {.tenant = "acme",
                                             .model = "gemma",
                                             .input_token_ids = row->input_tokens,
                                             .cap_tokens = 2048,
                                             .has_output = true};
        struct estimate estimate;
        estimator_ask(estimator, &question, &estimate);
        estimator_learn(estimator, &question, row->input_tokens, row->output_tokens);
        if (i < WARM_UP_REQUESTS) {
            continue;
        }
        int64_t debt = row->output_tokens - estimate.output_tokens;
        figures.requests++;
        figures.reserved += (double) estimate.output_tokens;
        figures.used += (double) row->output_tokens;
        figures.under_reserved += debt > 0;
        figures.debt += debt > 0 ? (double) debt : 0;
    }
    estimator_destroy(&estimator);
    trace_finish(&trace);
    return figures;
}

static void conversations_are_reserved_closely(void **state)
{
    (void) state;
    struct figures figures = replay("tests/vectors/traces/conv.csv");
    assert_true(figures.requests > 10000);
    assert_true(figures.reserved / figures.used <= 1.6);
    assert_true(figures.under_reserved / figures.requests <= 0.09);
    assert_true(figures.debt / figures.used <= 0.035);
}

/* Heavy tails: one quantile cannot hold them, which is what top-ups are for. */
static void code_has_a_tenth_above_its_reservation(void **state)
{
    (void) state;
    struct figures figures = replay("tests/vectors/traces/code.csv");
    assert_true(figures.requests > 5000);
    assert_true(figures.reserved / figures.used <= 2.65);
    assert_true(figures.under_reserved / figures.requests <= 0.11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_are_reserved_closely),
        cmocka_unit_test(code_has_a_tenth_above_its_reservation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
