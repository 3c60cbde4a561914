/* `make estimate-report`: replays traces through the estimator and prints what it would have reserved. */
#include <stdio.h>
#include <string.h>

#include "gateway/trace.h"
#include "ratelimit/estimate.h"

/* The first ones are learned from, but not counted: an estimator that starts is another question. */
enum { WARM_UP_REQUESTS = 200 };
enum { CAP_TOKENS = 2048 };
/* A stream whose hold has less left gets so many more. */
enum { TOP_UP_LEFT_TOKENS = 32, TOP_UP_TOKENS = 128 };

struct rule {
    const char *name;
    int64_t fixed_tokens; /* 0 = the estimator's */
    bool tops_up;
};

static const struct rule RULES[] = {
    {"q0.90 per input octave (ours)", 0, false},
    {"  the same, 128-token top-ups", 0, true},
    {"fixed 1024", 1024, false},
    {"fixed 4096", 4096, false},
    {"max_tokens (2048)", CAP_TOKENS, false},
};

struct figures {
    double requests, reserved, used, under_reserved, debt, top_ups;
};

static int64_t more_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void count(struct figures *figures, const struct rule *rule, int64_t reserved, int64_t used)
{
    while (rule->tops_up && reserved < CAP_TOKENS && reserved - used < TOP_UP_LEFT_TOKENS) {
        reserved += TOP_UP_TOKENS;
        figures->top_ups++;
    }
    figures->requests++;
    figures->reserved += (double) reserved;
    figures->used += (double) used;
    figures->under_reserved += used > reserved;
    figures->debt += (double) more_of(0, used - reserved);
}

static bool replay(const struct trace *trace, const struct rule *rule, struct figures *ret)
{
    struct estimator *estimator = estimator_create();
    if (estimator == NULL) {
        return false;
    }
    struct figures figures = {0};
    for (size_t i = 0; i < trace->count; i++) {
        const struct trace_row *row = &trace->rows[i];
        struct estimate_question question = {.tenant = "tenant",
                                             .model = "model",
                                             .input_token_ids = row->input_tokens,
                                             .prompts = 1,
                                             .choices = 1,
                                             .cap_tokens = CAP_TOKENS,
                                             .has_output = true};
        struct estimate estimate;
        estimator_ask(estimator, &question, &estimate);
        if (i >= WARM_UP_REQUESTS) {
            count(&figures, rule, rule->fixed_tokens > 0 ? rule->fixed_tokens : estimate.output_tokens,
                  row->output_tokens);
        }
        estimator_learn(estimator, &question, row->input_tokens, row->output_tokens);
    }
    estimator_destroy(&estimator);
    *ret = figures;
    return true;
}

static bool report(const char *file)
{
    struct trace trace;
    char error[TRACE_ERROR_BYTES];
    if (!trace_read(file, &trace, error)) {
        fprintf(stderr, "%s\n", error);
        return false;
    }
    printf("%s: %zu requests, the first %d not counted\n", file, trace.count, WARM_UP_REQUESTS);
    printf("  %-31s %15s %15s %9s %12s\n", "output reserved by", "reserved/actual", "under-reserved", "debt",
           "top-ups/req.");
    bool good = true;
    for (size_t i = 0; good && i < sizeof(RULES) / sizeof(RULES[0]); i++) {
        struct figures figures;
        good = replay(&trace, &RULES[i], &figures);
        if (good) {
            printf("  %-31s %14.2fx %13.1f %% %7.1f %% %12.2f\n", RULES[i].name, figures.reserved / figures.used,
                   100 * figures.under_reserved / figures.requests, 100 * figures.debt / figures.used,
                   figures.top_ups / figures.requests);
        }
    }
    trace_finish(&trace);
    return good;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "Usage: estimate_report TRACE.csv...\n");
        return 2;
    }
    printf("Output tokens reserved before a request, against those generated; one tenant, one model.\n"
           "under-reserved: requests that got more than was reserved; debt: their tokens above it, of all.\n\n");
    bool good = true;
    for (int i = 1; i < argc; i++) {
        good = report(argv[i]) && good;
    }
    return good ? 0 : 1;
}
