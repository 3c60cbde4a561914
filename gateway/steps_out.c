/* The steps from an engine's slot to the end of the answer, and the retry rule. */
#include <string.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "gateway/answer.h"
#include "gateway/request.h"
#include "gateway/worker.h"

enum { RETRY_SOON_MS = 2000, RETRY_LATER_MS = 10000, RETRY_PAUSE_MS = 100 };

/* ---- route ---- */

static void stop_waiting(struct request *request)
{
    if (!request->waiting)
        return;
    request->waiting = false;
    request->times.waited += clock_mono_us() - request->waiting_since;
}

static void on_granted(struct lease_waiter *waiter, struct lease *lease)
{
    struct request *request = waiter->owner;
    stop_waiting(request);
    request->lease = lease;
    request_wake(request);
}

static void on_refused(struct lease_waiter *waiter, enum lease_verdict why)
{
    struct request *request = waiter->owner;
    stop_waiting(request);
    request->lease_verdict = why;
    request_wake(request);
}

static enum step_result refuse_lease(struct request *request, enum lease_verdict why)
{
    static const enum outcome outcomes[LEASE_VERDICT_COUNT] = {
        [LEASE_TAKEN] = OUTCOME_INTERNAL,          [LEASE_WAITING] = OUTCOME_INTERNAL,
        [LEASE_QUEUE_FULL] = OUTCOME_QUEUE_FULL,   [LEASE_ALL_FAILED] = OUTCOME_NO_ENGINE,
        [LEASE_TIMED_OUT] = OUTCOME_QUEUE_TIMEOUT, [LEASE_DRAINING] = OUTCOME_SHUTTING_DOWN,
    };
    request->retry_after_ms = why == LEASE_ALL_FAILED ? RETRY_LATER_MS : RETRY_SOON_MS;
    return request_decide(request, outcomes[why], NULL);
}

static enum step_result take_lease(struct request *request)
{
    const char *except = request->retrying ? request->engine : NULL;
    request->waiter = (struct lease_waiter){
        .loop = request->worker->loop, .granted = on_granted, .refused = on_refused, .owner = request};
    enum lease_verdict verdict =
        lease_take(request->worker->fleet, request->model, except, &request->waiter, &request->lease);
    if (verdict == LEASE_TAKEN)
        return STEP_NEXT;
    if (verdict != LEASE_WAITING)
        return refuse_lease(request, verdict);
    request->waiting = true;
    request->waiting_since = clock_mono_us();
    return STEP_WAIT;
}

static void on_pause_over(struct loop_timer *timer)
{
    request_wake(timer->owner);
}

/* The only instance could not be reached, so nothing was sent. When it has just died that is known in a moment, and
 * then the request waits for the next one like any other. */
static bool may_pause(const struct request *request)
{
    return !request->paused && request->engine_status == 0 && request->exchange_end == EXCHANGE_CONNECT_FAILED;
}

static enum step_result pause(struct request *request)
{
    struct loop *loop = request->worker->loop;
    request->paused = true;
    request->pause = (struct loop_timer){.fire = on_pause_over, .owner = request};
    loop_timer_set(loop, &request->pause, loop_now(loop) + RETRY_PAUSE_MS);
    return STEP_WAIT;
}

enum step_result step_route(struct request *request)
{
    if (request->waiting || loop_timer_is_set(&request->pause))
        return STEP_WAIT;
    if (request->lease == NULL) {
        if (request->lease_verdict != LEASE_TAKEN)
            return refuse_lease(request, request->lease_verdict);
        enum step_result result = take_lease(request);
        if (result != STEP_NEXT)
            return result;
    }
    /* A second attempt needs another instance; the same one has just failed. */
    bool is_same = request->retrying && strcmp(lease_target(request->lease)->engine, request->engine) == 0;
    if (is_same && !request->paused) {
        lease_end(&request->lease, LEASE_UNUSED);
        return may_pause(request) ? pause(request) : answer_refuse_attempt(request);
    }
    request->exchange_over = false;
    request->engine_status = 0;
    request_keep_bill_rules(request);
    policy_drop(&request->policy);
    request->model_policy = NULL;
    request->who = (struct principal){0};
    return STEP_NEXT;
}

/* ---- forward ---- */

static size_t read_spliced_body(void *owner, size_t offset, char *to, size_t capacity)
{
    struct request *request = owner;
    struct text body = body_text(&request->body);
    size_t count = splices_read(body, &request->splices, offset, to, capacity);
    request->sent_whole = offset + count == splices_length(body, &request->splices);
    return count;
}

static bool start_attempt(struct request *request, bool fresh_connection)
{
    static const char *const paths[ENDPOINT_COUNT] = {
        [ENDPOINT_COMPLETIONS] = "/v1/completions",
        [ENDPOINT_CHAT] = "/v1/chat/completions",
        [ENDPOINT_EMBEDDINGS] = "/v1/embeddings",
        [ENDPOINT_MODELS] = NULL,
    };
    const struct lease_target *target = lease_target(request->lease);
    const struct dialect *dialect = dialect_of(target->dialect);
    struct exchange_request ask = {
        .target = target,
        .path = paths[request->endpoint],
        .request_id = request->id,
        .traceparent = request->head->traceparent,
        .streaming = request->asked.stream,
        .fresh_connection = fresh_connection,
        .forget_connection = request->asked.stream && dialect->stream_closes_connection,
        .body_length = splices_length(body_text(&request->body), &request->splices),
        .read_body = read_spliced_body,
    };
    text_copy(request->engine, sizeof request->engine, text_of(target->engine));
    request->attempts++;
    request->exchange_over = false;
    request->engine_status = 0;
    request->sent_whole = false;
    request->dialect = dialect;
    if (request->times.dispatched == 0)
        request->times.dispatched = clock_mono_us();
    request->exchange = exchange_start(request->worker->upstream, &ask, &ANSWER_EVENTS, request);
    request->reached_engine |= request->exchange != NULL;
    return request->exchange != NULL;
}

/* Why a failed attempt may be made again, or NULL: only before the first byte of an answer, and within the budget; once
 * on another instance, and once on a fresh connection to the same one. */
static const char *retry_reason(const struct request *request)
{
    if (request->exchange_over && request->engine_status == 0 && request->exchange_end == EXCHANGE_CLOSED_REUSED)
        return request->retried_fresh ? NULL : "closed_reused";
    if (request->retrying)
        return NULL;
    if (request->engine_status == 502)
        return "status_502";
    if (request->engine_status == 503)
        return "status_503";
    bool unreachable =
        request->exchange_over && request->engine_status == 0 && request->exchange_end == EXCHANGE_CONNECT_FAILED;
    return unreachable ? "connect_failed" : NULL;
}

static enum step_result retry(struct request *request, const char *reason)
{
    metric_count(METRIC_UPSTREAM_RETRIES, request->model, reason);
    if (request->exchange_over && request->exchange_end == EXCHANGE_CLOSED_REUSED) {
        request->retried_fresh = true;
        return start_attempt(request, true) ? STEP_WAIT : request_decide(request, OUTCOME_INTERNAL, NULL);
    }
    exchange_cancel(&request->exchange);
    relay_finish(&request->relay);
    lease_end(&request->lease, answer_lease_outcome(request));
    request->retrying = true;
    request->lease_verdict = LEASE_TAKEN;
    request_step_back(request, step_route);
    return STEP_NEXT;
}

enum step_result step_forward(struct request *request)
{
    if (request->exchange == NULL && !request->exchange_over) {
        enum step_result result = request_open_record(request);
        if (result != STEP_NEXT)
            return result;
        return start_attempt(request, false) ? STEP_WAIT : request_decide(request, OUTCOME_INTERNAL, NULL);
    }
    if (request->engine_status == 200 || request->relay_over)
        return STEP_NEXT;
    if (request->engine_status == 0 && !request->exchange_over)
        return STEP_WAIT;

    const char *reason = retry_reason(request);
    if (reason != NULL && fleet_retry_allowed(request->worker->fleet, request->model))
        return retry(request, reason);
    if (!request->exchange_over)
        return STEP_WAIT; /* the error's body is still coming */
    return answer_refuse_attempt(request);
}

/* ---- relay ---- */

enum step_result step_relay(struct request *request)
{
    return request->relay_over ? STEP_NEXT : STEP_WAIT;
}

/* ---- finish ---- */

enum step_result step_finish(struct request *request)
{
    request_release(request, LEASE_OK);
    body_finish(&request->body); /* the client may take long to read its answer */
    answer_close(request);
    return STEP_NEXT;
}

void request_release(struct request *request, enum lease_outcome outcome)
{
    if (request->waiting) {
        lease_abandon(request->worker->fleet, &request->waiter);
        stop_waiting(request);
    }
    loop_timer_cancel(request->worker->loop, &request->ping);
    loop_timer_cancel(request->worker->loop, &request->pause);
    exchange_cancel(&request->exchange);
    lease_end(&request->lease, outcome);
}

void request_writable(struct request *request)
{
    if (!request->engine_paused || request->exchange == NULL)
        return;
    request->engine_paused = false;
    exchange_continue(request->exchange);
}

void request_cut(struct request *request)
{
    if (request->lingering) {
        request_end_lingering(request);
        return;
    }
    if (request->relay_over || request->client_gone || !request->body_whole)
        return; /* ended, or to be ended by its own connection's deadline */
    if (request->replied) {
        answer_break(request, OUTCOME_STREAM_CUT, LEASE_OK);
        return;
    }
    request->retry_after_ms = RETRY_SOON_MS;
    if (request->engine_status == 200)
        request_keep_partial_usage(request); /* whom no engine had answered yet owes nothing for a 503 */
    (void) request_decide(request, OUTCOME_SHUTTING_DOWN, NULL);
    request_release(request, request_unproved(request));
    request->relay_over = true;
    request->closing = CLOSING_REFUSAL;
    request_wake(request);
}
