/* The steps that keep limits: what a request will cost, holding that much, and settling on what it did cost. */
#include <string.h>

#include "base/metrics.h"
#include "gateway/request.h"
#include "gateway/worker.h"

enum {
    CAP_WITHOUT_LIMITS_TOKENS = 4096,
    TOP_UP_TOKENS = 128, /* research/ratelimit.md 3.2: steps of this size keep holds small and top-ups rare */
    TOP_UP_BELOW_TOKENS = 32,
    TOP_UP_DIVISOR = 4,
    SPEND_EVERY_CHUNKS = 64,
    CERTAIN_INPUT_DIVISOR = 2 /* of an estimate, which is made on the expensive side */
};

/* ---- estimate ---- */

/* What the engine is told when the client gave no cap: without one an engine may run to the end of its context. */
static int64_t choose_cap(const struct request *request, int64_t input_tokens)
{
    const struct model *model = request->model_policy;
    if (request->asked.cap_tokens >= 0)
        return request->asked.cap_tokens;
    if (request->endpoint == ENDPOINT_EMBEDDINGS)
        return -1;
    if (request->endpoint == ENDPOINT_COMPLETIONS)
        return model->default_max_tokens;
    int64_t context = model->context_tokens > 0 ? model->context_tokens
                                                : fleet_context_tokens(request->worker->fleet, request->model);
    int64_t cap = model->max_output_tokens > 0 ? model->max_output_tokens : CAP_WITHOUT_LIMITS_TOKENS;
    int64_t room = context - input_tokens;
    if (context > 0 && cap > room)
        cap = room > 0 ? room : 1;
    return cap;
}

static bool splice(struct request *request)
{
    const struct model *model = request->model_policy;
    struct openai_rewrite rewrite = {.engine_model = model->engine_model};
    for (size_t i = 0; i < model->engine_count; i++)
        rewrite.force_continuous_usage |= model->engines[i].continuous_usage;
    rewrite.cap_tokens = request->asked.cap_tokens >= 0 ? 0 : request->cap_tokens;
    return openai_splice(request->endpoint, &request->asked, body_text(&request->body), &rewrite, &request->arena,
                         &request->splices);
}

enum step_result step_estimate(struct request *request)
{
    const struct openai_request *asked = &request->asked;
    request->question = (struct estimate_question){
        .tenant = request->tenant,
        .model = request->model,
        .input_text_bytes = asked->input_text_bytes,
        .input_token_ids = asked->input_token_ids,
        .messages = asked->messages,
        .images = asked->images,
        .prompts = asked->prompts,
        .choices = asked->best_of > asked->choices ? asked->best_of : asked->choices,
        .cap_tokens = -1,
    };
    /* The cap depends on the input, and the output on the cap. */
    estimator_ask(request->worker->estimator, &request->question, &request->estimate);
    request->cap_tokens = choose_cap(request, request->estimate.input_tokens);
    request->question.cap_tokens = request->cap_tokens;
    request->question.has_output = request->endpoint != ENDPOINT_EMBEDDINGS;
    if (request->question.has_output)
        estimator_ask(request->worker->estimator, &request->question, &request->estimate);
    return splice(request) ? STEP_NEXT : request_decide(request, OUTCOME_INTERNAL, NULL);
}

/* ---- reserve ---- */

static enum step_result refuse(struct request *request, const struct limit_answer *answer,
                               const struct limit_subject *subject)
{
    char message[LIMIT_MESSAGE_BYTES];
    limit_message(answer, subject, message);
    request->type = LIMIT_KIND_NAMES[answer->kind];
    request->retry_after_ms = answer->verdict == LIMIT_REFUSED ? answer->retry_after_ms : 0;
    metric_count(METRIC_RATELIMITED, LIMIT_KIND_NAMES[answer->kind], LIMIT_SCOPE_NAMES[answer->scope]);
    return request_decide(request, answer->verdict == LIMIT_REFUSED ? OUTCOME_LIMITED : OUTCOME_TOO_LARGE,
                          arena_copy_string(&request->arena, text_of(message)));
}

enum step_result step_reserve(struct request *request)
{
    const struct estimate *estimate = &request->estimate;
    const struct limit_subject subject = {
        .tenant = request->tenant, .key = request->key, .user = request->user, .model = request->model};
    const struct limit_demand demand = {.tokens = estimate->input_tokens + estimate->output_tokens,
                                        .tokens_cap = estimate->input_tokens + estimate->output_cap_tokens,
                                        .tokens_least =
                                            estimate->input_tokens + (request->question.has_output ? 1 : 0)};
    struct limit_answer answer;
    enum limit_verdict verdict =
        limiter_reserve(request->worker->limiter, &subject, &demand, clock_mono_us(), &request->reservation, &answer);
    limit_headers_fill(&answer, &request->limit_headers);
    return verdict == LIMIT_ADMITTED ? STEP_NEXT : refuse(request, &answer, &subject);
}

/* ---- while it streams, and at its end ---- */

void request_reached(struct request *request)
{
    request->reached_earlier = true;
    limiter_spend(request->worker->limiter, &request->reservation, 0, clock_mono_us());
}

/* What the settlement will not give back, whatever the engine counts in the end. */
static int64_t tokens_certain(const struct request *request)
{
    struct usage usage = relay_usage(&request->relay, false, request->estimate.input_tokens);
    int64_t chunks = request->relay.content_chunks;
    bool input_told = usage.input_source == USAGE_ENGINE;
    bool output_certain = usage.output_source == USAGE_ENGINE || usage.output_tokens < chunks;
    return (input_told ? usage.input_tokens : usage.input_tokens / CERTAIN_INPUT_DIVISOR) +
           (output_certain ? usage.output_tokens : chunks);
}

/* So that a long stream does not keep its buckets from refilling. */
static void spend_so_far(struct request *request)
{
    int64_t chunks = request->relay.content_chunks;
    if (chunks - request->spent_chunks < SPEND_EVERY_CHUNKS)
        return;
    request->spent_chunks = chunks;
    limiter_spend(request->worker->limiter, &request->reservation, tokens_certain(request), clock_mono_us());
}

/* As much as there is room for, in fewer and fewer tokens: a small bucket may never hold a whole step. */
static bool top_up_by(struct request *request, int64_t most)
{
    mono_us now = clock_mono_us();
    for (int64_t wanted = most; wanted > 0; wanted /= TOP_UP_DIVISOR) {
        if (limiter_top_up(request->worker->limiter, &request->reservation, wanted, now))
            return true;
    }
    return false;
}

/* The estimate of the input stays what is held for it. */
static int64_t tokens_so_far(const struct request *request)
{
    return request->estimate.input_tokens +
           relay_usage(&request->relay, false, request->estimate.input_tokens).output_tokens;
}

bool request_top_up(struct request *request)
{
    int64_t used = tokens_so_far(request);
    spend_so_far(request);
    if (!request->reservation.open || request->reservation.tokens - used >= TOP_UP_BELOW_TOKENS)
        return true;
    if (relay_is_complete(&request->relay))
        return true; /* it has ended by itself, and only its usage is on its way */
    int64_t most = request->estimate.input_tokens + request->estimate.output_cap_tokens - request->reservation.tokens;
    if (most <= 0)
        return true;
    /* What is still held may be used up before the stream has to end. */
    return top_up_by(request, most < TOP_UP_TOKENS ? most : TOP_UP_TOKENS) || request->reservation.tokens > used;
}

static void count_settlement(const struct request *request, int64_t used)
{
    int64_t reserved = request->reservation.tokens;
    const char *labels[METRIC_LABELS_MAX] = {request->model};
    metric_add(metric_series(METRIC_RESERVED_TOKENS, labels), reserved);
    if (used > reserved)
        metric_add(metric_series(METRIC_LIMIT_DEBT_TOKENS, labels), used - reserved);
}

static void learn(const struct request *request)
{
    const struct usage *usage = &request->usage;
    bool is_exact = usage->input_source == USAGE_ENGINE && request->outcome == OUTCOME_SERVED;
    if (request->outcome == OUTCOME_SERVED && request->question.has_output) {
        struct content_sample sample = relay_content_sample(&request->relay);
        estimator_learn_content(request->worker->estimator, request->model, &sample);
    }
    if (is_exact)
        estimator_learn(request->worker->estimator, &request->question, usage->input_tokens,
                        usage->output_source == USAGE_ENGINE && request->question.has_output ? usage->output_tokens
                                                                                             : -1);
}

void request_settle(struct request *request)
{
    struct limiter *limiter = request->worker->limiter;
    int64_t used = request->usage.input_tokens + request->usage.output_tokens;
    if (!request->reservation.open)
        return;
    if (!request->reached_engine) {
        limiter_cancel(limiter, &request->reservation, clock_mono_us());
        return;
    }
    count_settlement(request, used);
    learn(request);
    limiter_settle(limiter, &request->reservation, used, clock_mono_us());
}

enum step_result step_settle(struct request *request)
{
    request_settle(request);
    return STEP_NEXT;
}
