#include "gateway/simulation.h"

#include <stdlib.h>

#include "base/panic.h"
#include "ratelimit/estimate.h"

enum {
    TOP_UP_TOKENS = 128, /* as the gateway has them (gateway/steps_limits.c) */
    TOP_UP_BELOW_TOKENS = 32,
    TOP_UP_DIVISOR = 4,
    SPEND_EVERY_TOKENS = 64,
    CERTAIN_INPUT_DIVISOR = 2
};

/* An admitted request. */
struct running {
    mono_us started;
    mono_us wakes; /* for its end, or to top up */
    int64_t input_tokens;
    int64_t output_tokens;   /* in the end */
    int64_t reserved_tokens; /* by the strictest limit, at first */
    int64_t held_tokens;     /* by limits that are topped up */
    struct reservation reservation;
};

struct simulation {
    const struct simulation_load *load;
    struct limiter *limiter;
    struct estimator *estimator;
    bool hard;             /* a token limit that applies reserves the whole cap */
    struct running **heap; /* the one that wakes first is at 0 */
    size_t count;
    struct simulation_result result;
};

/* ---- who wakes first ---- */

static void swap(struct running **a, struct running **b)
{
    struct running *kept = *a;
    *a = *b;
    *b = kept;
}

static void heap_add(struct simulation *simulation, struct running *running)
{
    size_t at = simulation->count++;
    struct running **heap = simulation->heap;
    heap[at] = running;
    for (; at > 0 && heap[(at - 1) / 2]->wakes > heap[at]->wakes; at = (at - 1) / 2) {
        swap(&heap[(at - 1) / 2], &heap[at]);
    }
}

static struct running *heap_take(struct simulation *simulation)
{
    ENSURE(simulation->count > 0);
    struct running **heap = simulation->heap;
    struct running *first = heap[0];
    heap[0] = heap[--simulation->count];
    for (size_t at = 0, child; (child = 2 * at + 1) < simulation->count; at = child) {
        child += child + 1 < simulation->count && heap[child + 1]->wakes < heap[child]->wakes;
        if (heap[at]->wakes <= heap[child]->wakes) {
            break;
        }
        swap(&heap[at], &heap[child]);
    }
    return first;
}

/* ---- one request ---- */

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static struct estimate_question question_of(const struct simulation_load *load, int64_t input_tokens)
{
    return (struct estimate_question){.tenant = load->subject.tenant,
                                      .model = load->subject.model,
                                      .input_token_ids = input_tokens,
                                      .prompts = 1,
                                      .choices = 1,
                                      .cap_tokens = load->cap_tokens,
                                      .has_output = true};
}

static int64_t top_up_wanted(const struct simulation *simulation, const struct running *running)
{
    int64_t most = running->input_tokens + simulation->load->cap_tokens - running->held_tokens;
    return smaller(most, TOP_UP_TOKENS);
}

static int64_t tokens_left(const struct running *running, int64_t generated)
{
    return running->held_tokens - running->input_tokens - generated;
}

/* When it has generated all, or so much before that the limits are to be told, or that the hold runs low. */
static void sleep_again(struct simulation *simulation, struct running *running, int64_t generated)
{
    int64_t until = smaller(running->output_tokens, generated + SPEND_EVERY_TOKENS);
    if (top_up_wanted(simulation, running) > 0) {
        int64_t low = tokens_left(running, 0) - TOP_UP_BELOW_TOKENS + 1;
        until = smaller(until, larger(low, generated));
    }
    running->wakes = running->started + until * simulation->load->token_us;
    heap_add(simulation, running);
}

static void settle(struct simulation *simulation, struct running *running, int64_t generated)
{
    struct simulation_result *result = &simulation->result;
    int64_t used = running->input_tokens + generated;
    limiter_settle(simulation->limiter, &running->reservation, used, running->wakes);
    struct estimate_question question = question_of(simulation->load, running->input_tokens);
    estimator_learn(simulation->estimator, &question, running->input_tokens, generated);
    result->used_tokens += used;
    result->reserved_tokens += running->reserved_tokens;
    result->over_requests += running->reserved_tokens > used;
    result->over_tokens += larger(0, running->reserved_tokens - used);
    result->under_requests += running->reserved_tokens < used;
    result->under_tokens += larger(0, used - running->reserved_tokens);
    result->debt_tokens += larger(0, used - larger(running->held_tokens, running->reserved_tokens));
    result->duration_us = larger(result->duration_us, running->wakes);
    free(running);
}

/* As the gateway: what there is room for, in fewer and fewer tokens. */
static bool top_up(struct simulation *simulation, struct running *running)
{
    for (int64_t wanted = top_up_wanted(simulation, running); wanted > 0; wanted /= TOP_UP_DIVISOR) {
        if (limiter_top_up(simulation->limiter, &running->reservation, wanted, running->wakes)) {
            running->held_tokens += wanted;
            simulation->result.top_ups++;
            return true;
        }
    }
    return false;
}

static void spend(struct simulation *simulation, struct running *running, int64_t generated)
{
    limiter_spend(simulation->limiter, &running->reservation, running->input_tokens / CERTAIN_INPUT_DIVISOR + generated,
                  running->wakes);
}

/* The request that wakes next has generated so much: more tokens, or the end. */
static void wake_next(struct simulation *simulation)
{
    struct running *running = heap_take(simulation);
    int64_t token_us = simulation->load->token_us;
    int64_t generated = token_us > 0 ? (running->wakes - running->started) / token_us : running->output_tokens;
    if (generated >= running->output_tokens) {
        settle(simulation, running, running->output_tokens);
        return;
    }
    spend(simulation, running, generated);
    bool runs_low = top_up_wanted(simulation, running) > 0 && tokens_left(running, generated) < TOP_UP_BELOW_TOKENS;
    if (!runs_low || top_up(simulation, running)) {
        sleep_again(simulation, running, generated);
    } else if (tokens_left(running, generated) > 0) {
        sleep_again(simulation, running, generated + 1); /* what is held may be used up */
    } else {
        simulation->result.cut++;
        settle(simulation, running, generated);
    }
}

static void count_refusal(struct simulation_result *result, const struct limit_answer *answer)
{
    bool never = answer->verdict == LIMIT_TOO_LARGE;
    (never ? result->too_large : result->refused)[answer->kind][answer->scope]++;
    result->limits[answer->kind][answer->scope] = answer->limit;
}

/* False when there is no room for it. */
static bool arrive(struct simulation *simulation, const struct trace_row *row)
{
    const struct simulation_load *load = simulation->load;
    struct simulation_result *result = &simulation->result;
    struct running *running = simulation->count < SIMULATION_RUNNING_MAX ? calloc(1, sizeof(*running)) : NULL;
    if (running == NULL) {
        return false;
    }
    struct estimate_question question = question_of(load, row->input_tokens);
    struct estimate estimate;
    estimator_ask(simulation->estimator, &question, &estimate);
    struct limit_demand demand = {.tokens_least = estimate.input_tokens + 1,
                                  .tokens = estimate.input_tokens + estimate.output_tokens,
                                  .tokens_cap = estimate.input_tokens + estimate.output_cap_tokens};
    struct limit_answer answer;
    limiter_reserve(simulation->limiter, &load->subject, &demand, row->arrival_us, &running->reservation, &answer);
    result->requests++;
    result->duration_us = larger(result->duration_us, row->arrival_us);
    int64_t output = smaller(row->output_tokens, load->cap_tokens);
    if (answer.verdict != LIMIT_ADMITTED) {
        count_refusal(result, &answer);
        result->refused_tokens += row->input_tokens + output;
        free(running);
        return true;
    }
    result->admitted++;
    result->capped += row->output_tokens > load->cap_tokens;
    running->started = row->arrival_us;
    running->input_tokens = row->input_tokens;
    running->output_tokens = output;
    running->reserved_tokens = simulation->hard ? demand.tokens_cap : demand.tokens;
    running->held_tokens = running->reservation.tokens;
    limiter_spend(simulation->limiter, &running->reservation, 0, row->arrival_us);
    sleep_again(simulation, running, 0);
    result->running_most = larger(result->running_most, (int64_t) simulation->count);
    return true;
}

/* ---- all of them ---- */

static void look_at_limit(void *owner, const struct limit_status *status)
{
    struct simulation *simulation = owner;
    simulation->result.limited = true;
    simulation->hard |= status->kind == LIMIT_TOKENS && status->on_exceed == ON_EXCEED_HARD;
}

/* What ends when another arrives has ended. */
static void wake_until(struct simulation *simulation, mono_us now)
{
    while (simulation->count > 0 && simulation->heap[0]->wakes <= now) {
        wake_next(simulation);
    }
}

static bool replay(struct simulation *simulation)
{
    const struct trace *trace = simulation->load->trace;
    for (size_t i = 0; i < trace->count; i++) {
        wake_until(simulation, trace->rows[i].arrival_us);
        if (!arrive(simulation, &trace->rows[i])) {
            return false;
        }
    }
    wake_until(simulation, INT64_MAX);
    return true;
}

bool simulate(const struct policy *policy, const struct simulation_load *load, struct simulation_result *ret)
{
    ENSURE(load->cap_tokens > 0 && load->token_us >= 0);
    struct simulation simulation = {.load = load,
                                    .limiter = limiter_create(),
                                    .estimator = estimator_create(),
                                    .heap = calloc(SIMULATION_RUNNING_MAX, sizeof(struct running *))};
    bool done = false;
    if (simulation.limiter != NULL && simulation.estimator != NULL && simulation.heap != NULL) {
        limiter_apply(simulation.limiter, policy, 0);
        limiter_each(simulation.limiter, &load->subject, LIMITER_BUCKETS_PER_REQUEST, 0, look_at_limit, &simulation);
        done = replay(&simulation);
    }
    while (simulation.count > 0) {
        struct running *running = heap_take(&simulation);
        limiter_settle(simulation.limiter, &running->reservation, 0, running->wakes);
        free(running);
    }
    free(simulation.heap);
    limiter_destroy(&simulation.limiter);
    estimator_destroy(&simulation.estimator);
    if (done) {
        *ret = simulation.result;
    }
    return done;
}
