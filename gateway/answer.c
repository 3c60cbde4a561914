/* The engine's answer as it comes in, and out. Nothing here starts an exchange: these calls come from inside curl. */
#include "gateway/answer.h"

#include "base/metrics.h"
#include "base/panic.h"
#include "gateway/worker.h"

/* ---- what an end means ---- */

static const struct {
    enum outcome outcome;
    enum lease_outcome lease;
} ends[EXCHANGE_END_COUNT] = {
    [EXCHANGE_DONE] = {OUTCOME_ENGINE_ERROR, LEASE_CLOSED_EARLY}, /* "done" without what an answer needs */
    [EXCHANGE_CONNECT_FAILED] = {OUTCOME_ENGINE_UNREACHABLE, LEASE_CONNECT_FAILED},
    [EXCHANGE_CLOSED_REUSED] = {OUTCOME_ENGINE_ERROR, LEASE_CLOSED_EARLY},
    [EXCHANGE_CLOSED_EARLY] = {OUTCOME_ENGINE_ERROR, LEASE_CLOSED_EARLY},
    [EXCHANGE_BROKEN] = {OUTCOME_ENGINE_ERROR, LEASE_CLOSED_EARLY},
    [EXCHANGE_NO_FIRST_BYTE] = {OUTCOME_ENGINE_TIMEOUT, LEASE_TIMED_OUT_FIRST},
    [EXCHANGE_STALLED] = {OUTCOME_ENGINE_TIMEOUT, LEASE_TIMED_OUT_LATER},
    [EXCHANGE_TOO_LONG] = {OUTCOME_ENGINE_TIMEOUT, LEASE_TIMED_OUT_LATER},
};

enum lease_outcome answer_lease_outcome(const struct request *request)
{
    if (request->engine_status == 429 || request->engine_status == 503)
        return LEASE_BUSY;
    if (request->engine_status >= 500)
        return LEASE_SERVER_ERROR;
    if (request->engine_status >= 400)
        return LEASE_OK;
    return request->exchange_over ? ends[request->exchange_end].lease : LEASE_OK;
}

static void keep_usage(struct request *request, bool complete)
{
    request->usage = relay_usage(&request->relay, complete, request->estimate.input_tokens);
}

/* The engine has nothing more to do for this request. */
static void let_go(struct request *request, enum lease_outcome how)
{
    request->relay_over = true;
    loop_timer_cancel(request->worker->loop, &request->ping);
    lease_end(&request->lease, how);
    request_wake(request);
}

/* ---- errors of the engine ---- */

static enum outcome outcome_of_status(int status)
{
    if (status == 429 || status == 503)
        return OUTCOME_ENGINE_BUSY;
    if (status == 504)
        return OUTCOME_ENGINE_TIMEOUT;
    /* 401, 403 and 404 of an engine are our configuration's fault, never the client's. */
    bool is_clients = status == 400 || status == 413 || status == 415 || status == 422;
    return is_clients ? OUTCOME_ENGINE_REFUSED : OUTCOME_ENGINE_ERROR;
}

static void count_failure(const struct request *request, const char *reason)
{
    const char *labels[METRIC_LABELS_MAX] = {request->model, request->engine, reason};
    metric_add(metric_series(METRIC_ENGINE_FAILURES, labels), 1);
}

/* What a client's own request caused keeps the engine's words and status. */
static void keep_engine_message(struct request *request)
{
    char memory[768];
    struct text message = relay_engine_message(buffer_text(&request->relay.held), memory, sizeof memory);
    request->status = request->engine_status;
    request->detail = message.length > 0 ? request_format(request, "%.*s", TEXT_ARGUMENTS(message))
                                         : "The engine refused this request.";
}

enum step_result answer_refuse_attempt(struct request *request)
{
    enum outcome outcome =
        request->engine_status > 0 ? outcome_of_status(request->engine_status) : ends[request->exchange_end].outcome;
    if (outcome == OUTCOME_ENGINE_REFUSED)
        keep_engine_message(request);
    if (outcome == OUTCOME_ENGINE_BUSY)
        request->retry_after_ms = request->engine_retry_after_ms > 0 ? request->engine_retry_after_ms : 1000;
    request->relay_over = true;
    request_release(request, answer_lease_outcome(request));
    return request_decide(request, outcome, NULL);
}

void answer_break(struct request *request, enum outcome outcome, enum lease_outcome how)
{
    if (request->relay_over)
        return;
    keep_usage(request, false);
    (void) request_decide(request, outcome, NULL);
    exchange_cancel(&request->exchange);
    if (!request->replied)
        request->closing = CLOSING_REFUSAL;
    else
        request->closing = request->relay.kind == RELAY_EVENTS ? CLOSING_ERROR_EVENT : CLOSING_CUT_OFF;
    let_go(request, how);
}

/* ---- events ---- */

static void observe_content(struct request *request, int64_t chunks_before)
{
    mono_us now = clock_mono_us();
    if (request->relay.content_chunks == chunks_before)
        return;
    if (request->times.first_content == 0)
        request->times.first_content = now;
    else
        metric_observe_us(request->inter_token, now - request->times.last_content);
    request->times.last_content = now;
}

static void write_out(struct request *request)
{
    struct text out = buffer_text(&request->worker->scratch);
    if (out.length == 0 || request->client_gone)
        return;
    request->written_at = loop_now(request->worker->loop);
    if (!server_write(request->connection, out))
        answer_break(request, OUTCOME_STREAM_CUT, LEASE_OK);
}

static void complete_stream(struct request *request)
{
    keep_usage(request, true);
    (void) request_decide(request, OUTCOME_SERVED, NULL);
    request->closing = CLOSING_DONE_EVENT;
    exchange_release(&request->exchange);
    let_go(request, LEASE_OK);
}

/* A token limit ends here: the stream ends as one that has reached its cap. */
static void cut_at_limit(struct request *request)
{
    keep_usage(request, false);
    (void) request_decide(request, OUTCOME_LIMIT_CUT, NULL);
    request->closing = CLOSING_LENGTH_EVENT;
    exchange_cancel(&request->exchange);
    let_go(request, LEASE_OK);
}

static void take_events(struct request *request, struct text bytes)
{
    struct relay *relay = &request->relay;
    struct buffer *out = &request->worker->scratch;
    int64_t chunks_before = relay->content_chunks;
    buffer_clear(out);
    bool fits = relay_feed_events(relay, bytes, out);
    if (relay->progressed) {
        exchange_progress(request->exchange);
        lease_progress(request->lease);
    }
    write_out(request);
    if (request->relay_over || (request->client_gone && !request->lingering))
        return;
    observe_content(request, chunks_before);
    request_progress(request);
    if ((relay->done_seen || (request->lingering && relay->usage_is_final)) && relay_is_complete(relay))
        complete_stream(request);
    else if (!fits || relay->error_seen || relay->done_seen)
        answer_break(request, OUTCOME_STREAM_BROKEN, relay->done_seen ? LEASE_OK : LEASE_SERVER_ERROR);
    else if (!request_top_up(request))
        cut_at_limit(request);
}

static void on_ping(struct loop_timer *timer)
{
    struct request *request = timer->owner;
    mono_ms now = loop_now(request->worker->loop);
    if (now - request->written_at >= RELAY_PING_MS) {
        request->written_at = now;
        (void) server_write(request->connection, TEXT(": ping\n\n"));
    }
    loop_timer_set(request->worker->loop, timer, request->written_at + RELAY_PING_MS);
}

static void begin_events(struct request *request)
{
    struct reply reply = {.status = 200, .kind = REPLY_STREAM};
    const char *labels[METRIC_LABELS_MAX] = {request->model};
    request->inter_token = metric_series(METRIC_INTER_TOKEN_SECONDS, labels);
    request_add_headers(request, &reply, "text/event-stream; charset=utf-8");
    reply.headers[reply.header_count++] = (struct reply_header){"Cache-Control", "no-cache"};
    reply.headers[reply.header_count++] = (struct reply_header){"X-Accel-Buffering", "no"};
    request->status = 200;
    request->replied = true;
    request->written_at = loop_now(request->worker->loop);
    request->ping = (struct loop_timer){.fire = on_ping, .owner = request};
    loop_timer_set(request->worker->loop, &request->ping, request->written_at + RELAY_PING_MS);
    server_reply(request->connection, &reply);
}

/* ---- whole answers ---- */

/* A long answer starts on its way; its end is held back until its usage is known and recorded. */
static void write_all_but_the_end(struct request *request)
{
    struct text held = buffer_text(&request->relay.held);
    if (held.length <= RELAY_HELD_BYTES)
        return;
    if (!request->replied) {
        struct reply reply = {.status = 200, .kind = REPLY_STREAM};
        if (request->engine_content_length >= 0) {
            reply.kind = REPLY_LENGTH;
            reply.content_length = (size_t) request->engine_content_length;
        }
        request_add_headers(request, &reply, "application/json");
        request->status = 200;
        request->replied = true;
        server_reply(request->connection, &reply);
    }
    size_t count = held.length - RELAY_HELD_BYTES;
    if (!server_write(request->connection, (struct text){held.at, count})) {
        answer_break(request, OUTCOME_STREAM_CUT, LEASE_OK);
        return;
    }
    buffer_consume(&request->relay.held, count);
}

static void take_whole(struct request *request, struct text bytes)
{
    answer_feed(&request->relay.scan, bytes);
    lease_progress(request->lease);
    exchange_progress(request->exchange);
    if (!buffer_add(&request->relay.held, bytes))
        answer_break(request, OUTCOME_INTERNAL, LEASE_OK);
    else
        write_all_but_the_end(request);
    request_progress(request);
}

static void complete_whole(struct request *request)
{
    keep_usage(request, true);
    (void) request_decide(request, OUTCOME_SERVED, NULL);
    request->closing = CLOSING_WHOLE;
    let_go(request, LEASE_OK);
}

/* ---- the last bytes ---- */

static void write_last_events(struct request *request)
{
    struct buffer *out = &request->worker->scratch;
    const struct outcome_row *row = &OUTCOMES[request->outcome];
    buffer_clear(out);
    if (request->closing == CLOSING_DONE_EVENT)
        (void) relay_closing(&request->relay, out);
    else if (request->closing == CLOSING_LENGTH_EVENT)
        (void) relay_cut(&request->relay, &request->usage, out);
    else
        (void) relay_error_event(out, row->message, row->type, row->code);
    (void) server_write(request->connection, buffer_text(out));
    server_write_end(request->connection, true);
}

static void write_whole(struct request *request)
{
    struct text held = buffer_text(&request->relay.held);
    if (!request->replied) {
        request_reply_json(request, 200, held);
        return;
    }
    (void) server_write(request->connection, held);
    server_write_end(request->connection, true);
}

void answer_close(struct request *request)
{
    if (request->client_gone)
        return;
    switch (request->closing) {
    case CLOSING_NONE:
        return;
    case CLOSING_REFUSAL:
        request_reply_error(request);
        return;
    case CLOSING_DONE_EVENT:
    case CLOSING_LENGTH_EVENT:
    case CLOSING_ERROR_EVENT:
        write_last_events(request);
        return;
    case CLOSING_WHOLE:
        write_whole(request);
        return;
    case CLOSING_CUT_OFF:
        server_write_end(request->connection, false);
        return;
    }
    UNREACHABLE("a way to close that nobody decides");
}

/* ---- the exchange's calls ---- */

static void on_head(void *owner, const struct exchange_head *head)
{
    struct request *request = owner;
    struct relay_rules rules = {
        .dialect = request->dialect,
        .is_chat = request->endpoint == ENDPOINT_CHAT,
        .wants_usage_chunk = request->asked.include_usage,
        .wants_continuous_usage = request->asked.continuous_usage,
        .may_be_cut = request->reservation.open,
        .is_embeddings = request->endpoint == ENDPOINT_EMBEDDINGS,
        .choices = request->asked.choices * request->asked.prompts,
    };
    estimator_content_rates(request->worker->estimator, request->model, &rules.rates);
    request->times.first_byte = clock_mono_us();
    request->engine_status = head->status;
    request->engine_retry_after_ms = head->retry_after_ms;
    request->engine_content_length = head->content_length;
    request_reached(request);
    enum relay_kind kind = head->status != 200 ? RELAY_ERROR : head->is_event_stream ? RELAY_EVENTS : RELAY_WHOLE;
    relay_begin(&request->relay, kind, &rules);
    if (kind != RELAY_ERROR)
        request_begin_progress(request);
    if (kind == RELAY_EVENTS)
        begin_events(request);
    request_wake(request);
}

static enum body_verdict on_body(void *owner, struct text bytes)
{
    struct request *request = owner;
    if (request->relay.kind == RELAY_ERROR) {
        (void) buffer_add(&request->relay.held, bytes); /* what exceeds the bound is not needed for its message */
        return BODY_TAKEN;
    }
    if (request->replied && !request->client_gone && server_pending(request->connection) > RELAY_HIGH_WATER_BYTES) {
        request->engine_paused = true;
        return BODY_PAUSE;
    }
    if (request->relay.kind == RELAY_EVENTS)
        take_events(request, bytes);
    else
        take_whole(request, bytes);
    return BODY_TAKEN;
}

static void end_answer(struct request *request, enum exchange_end end)
{
    const struct relay *relay = &request->relay;
    bool is_timer = ends[end].outcome == OUTCOME_ENGINE_TIMEOUT;
    if (relay->kind == RELAY_ERROR) {
        request_wake(request);
    } else if (relay->kind == RELAY_EVENTS && end == EXCHANGE_DONE && relay_is_complete(relay)) {
        complete_stream(request);
    } else if (relay->kind == RELAY_WHOLE && end == EXCHANGE_DONE && relay->scan.complete && !relay->scan.broken) {
        complete_whole(request);
    } else {
        bool began = request->replied;
        answer_break(request, began ? is_timer ? OUTCOME_STREAM_CUT : OUTCOME_STREAM_BROKEN : ends[end].outcome,
                     ends[end].lease);
    }
}

static void on_end(void *owner, enum exchange_end end, const char *detail)
{
    struct request *request = owner;
    (void) detail;
    request->exchange = NULL;
    request->exchange_over = true;
    request->exchange_end = end;
    if (end == EXCHANGE_CONNECT_FAILED)
        request->reached_engine = request->reached_earlier;
    else if (request->engine_status == 0)
        request_reached(request);
    if (request->engine_status > 0) {
        end_answer(request, end);
        return;
    }
    /* The other failures are counted where the lease ends; this one may be made good by the same instance. */
    if (end == EXCHANGE_CLOSED_REUSED)
        count_failure(request, EXCHANGE_END_NAMES[end]);
    request_wake(request);
}

const struct exchange_events ANSWER_EVENTS = {.head = on_head, .body = on_body, .end = on_end};
