/* One request's life: the machine that runs the steps, answers, and the last line. */
#include "gateway/request.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "conf/reload.h"
#include "gateway/recent.h"
#include "gateway/worker.h"

static const struct step steps[] = {
#define X(name) {#name, step_##name},
    REQUEST_STEPS(X)
#undef X
        {"over", NULL},
};

const struct outcome_row OUTCOMES[OUTCOME_COUNT] = {
#define X(identifier, status, type, code, label, message) {status, type, code, label, message},
#include "gateway/outcomes.def"
#undef X
};

/* ---- the machine ---- */

static const struct step *last_step(void)
{
    return &steps[sizeof steps / sizeof steps[0] - 1];
}

static bool is_of_the_end(const struct step *step)
{
    return step->run == step_settle || step->run == step_record || step->run == step_finish || step->run == NULL;
}

/* Whatever happens, a request ends through the same steps: it is settled and recorded, then its last bytes leave. */
static void skip_to_end(struct request *request)
{
    while (!is_of_the_end(request->at))
        request->at++;
}

void request_run(struct request *request)
{
    if (request->lingering) {
        if (request->relay_over)
            request_end_lingering(request);
        return;
    }
    if (request->closing != CLOSING_NONE)
        skip_to_end(request);
    while (request->at->run != NULL) {
        const struct step *step = request->at;
        enum step_result result = step->run(request);
        if (result == STEP_WAIT)
            return;
        if (result == STEP_REPLY) {
            if (!request->replied && request->closing == CLOSING_NONE)
                request->closing = CLOSING_REFUSAL;
            skip_to_end(request);
        } else if (request->at == step) {
            request->at++;
        }
    }
}

enum { SPARE_REQUESTS_MAX = 256, ERROR_BYTES_MAX = 8192 };

static struct request *take_spare(struct worker *worker)
{
    struct request *request = worker->spare;
    if (request == NULL) {
        request = calloc(1, sizeof *request);
        if (request != NULL)
            arena_init(&request->arena, REQUEST_ARENA_BYTES);
        return request;
    }
    struct arena arena = request->arena;
    worker->spare = request->next;
    worker->spare_count--;
    *request = (struct request){.arena = arena};
    return request;
}

static void request_free(struct request *request)
{
    struct worker *worker = request->worker;
    if (worker->spare_count >= SPARE_REQUESTS_MAX) {
        arena_finish(&request->arena);
        free(request);
        return;
    }
    arena_clear(&request->arena);
    request->next = worker->spare;
    worker->spare = request;
    worker->spare_count++;
}

void requests_finish(struct worker *worker)
{
    while (worker->active != NULL)
        request_end_lingering(worker->active);
    while (worker->spare != NULL) {
        struct request *request = worker->spare;
        worker->spare = request->next;
        arena_finish(&request->arena);
        free(request);
    }
    worker->spare_count = 0;
}

static void on_later(struct loop_turn_end *end)
{
    struct request *request = end->owner;
    request->later_queued = false;
    if (request->ended)
        request_free(request);
    else
        request_run(request);
}

void request_wake(struct request *request)
{
    if (request->later_queued)
        return;
    request->later_queued = true;
    loop_at_turn_end(request->worker->loop, &request->later);
}

void request_step_back(struct request *request, enum step_result (*run)(struct request *request))
{
    while (request->at->run != run) {
        ENSURE(request->at != steps);
        request->at--;
    }
}

/* ---- begin ---- */

static void write_id(struct request *request)
{
    static const char letters[33] = "0123456789abcdefghjkmnpqrstvwxyz";
    uint64_t random[2];
    worker_random(request->worker, random);
    memcpy(request->id, "req_", 4);
    for (size_t i = 0; i < 24; i++) {
        uint64_t *word = &random[i / 12];
        request->id[4 + i] = letters[*word & 31];
        *word >>= 5;
    }
    request->id[28] = '\0';
}

struct request *request_begin(struct worker *worker, struct connection *connection, const struct http_head *head)
{
    struct request *request = take_spare(worker);
    if (request == NULL)
        return NULL;
    request->worker = worker;
    request->connection = connection;
    request->head = head;
    request->client_address = server_client_address(connection);
    request->client_request_id = head->client_request_id;
    request->client_retry_count = head->retry_count;
    request->at = steps;
    request->later = (struct loop_turn_end){.run = on_later, .owner = request};
    request->times.head = clock_mono_us();
    request->began_wall_ms = clock_wall_ms();
    request->policy = reload_current();
    request->tenant = request->key = request->user = request->model = request->model_asked = "";
    request->endpoint = ENDPOINT_COUNT;
    request->cap_tokens = -1;
    write_id(request);
    request->next = worker->active;
    if (request->next != NULL)
        request->next->previous = request;
    worker->active = request;
    atomic_fetch_add_explicit(&worker->active_requests, 1, memory_order_relaxed);
    metric_add(metric_series(METRIC_IN_FLIGHT, (const char *const[METRIC_LABELS_MAX]){NULL}), 1);
    return request;
}

/* ---- answers ---- */

const char *request_format(struct request *request, const char *format, ...)
{
    char memory[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(memory, sizeof memory, format, arguments);
    va_end(arguments);
    if (length < 0)
        return "";
    const char *copy = arena_copy_string(&request->arena, text_of(memory));
    return copy != NULL ? copy : "The request needs more memory than one request may take.";
}

enum step_result request_decide(struct request *request, enum outcome outcome, const char *detail)
{
    if (request->decided)
        return STEP_REPLY;
    request->decided = true;
    request->outcome = outcome;
    if (detail != NULL)
        request->detail = detail;
    if (request->status == 0)
        request->status = OUTCOMES[outcome].status;
    return STEP_REPLY;
}

static void add_header(struct reply *reply, const char *name, const char *value)
{
    ENSURE(reply->header_count < SERVER_REPLY_HEADERS_MAX);
    reply->headers[reply->header_count++] = (struct reply_header){name, value};
}

static void write_number(char *to, size_t capacity, int64_t value)
{
    struct builder text;
    builder_init(&text, to, capacity);
    builder_add_int(&text, value, 1);
    (void) builder_string(&text);
}

static void add_retry_headers(struct request *request, struct reply *reply)
{
    if (request->retry_after_ms > 0) {
        write_number(request->retry_after_text, sizeof request->retry_after_text,
                     (request->retry_after_ms + 999) / 1000);
        write_number(request->retry_after_ms_text, sizeof request->retry_after_ms_text, request->retry_after_ms);
        add_header(reply, "retry-after", request->retry_after_text);
        add_header(reply, "retry-after-ms", request->retry_after_ms_text);
    }
    bool is_final = reply->status >= 400 && reply->status < 500 && reply->status != 408 && reply->status != 409;
    if (is_final && request->outcome != OUTCOME_LIMITED)
        add_header(reply, "x-should-retry", "false");
}

void request_add_headers(struct request *request, struct reply *reply, const char *content_type)
{
    write_number(request->processing_ms, sizeof request->processing_ms, (clock_mono_us() - request->times.head) / 1000);
    add_header(reply, "Content-Type", content_type);
    add_header(reply, "x-request-id", request->id);
    add_header(reply, "openai-processing-ms", request->processing_ms);
    if (reply->status == 401)
        add_header(reply, "WWW-Authenticate", "Bearer");
    if (reply->status == 405)
        add_header(reply, "Allow", "GET, POST, OPTIONS");
    for (size_t i = 0; i < request->limit_headers.count; i++)
        add_header(reply, request->limit_headers.rows[i].name, request->limit_headers.rows[i].value);
    add_retry_headers(request, reply);
}

void request_reply_json(struct request *request, int status, struct text body)
{
    struct reply reply = {.status = status, .kind = REPLY_WHOLE, .body = body};
    reply.close = request->outcome == OUTCOME_GUARD_REFUSED;
    request->status = status;
    request_add_headers(request, &reply, "application/json");
    request->replied = true;
    server_reply(request->connection, &reply);
}

void request_reply_error(struct request *request)
{
    const struct outcome_row *row = &OUTCOMES[request->outcome];
    const char *message = request->detail != NULL ? request->detail : row->message;
    const char *code = request->code != NULL ? request->code : row->code;
    char memory[ERROR_BYTES_MAX];
    struct builder builder;
    builder_init(&builder, memory, sizeof memory);
    openai_error_json(&builder, message, request->type != NULL ? request->type : row->type, request->param, code);
    struct text body = arena_copy(&request->arena, builder_text(&builder));
    if (body.at == NULL || builder.overflowed)
        body =
            TEXT("{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,\"code\":null}}");
    request_reply_json(request, request->status, body);
}

/* ---- the ways it ends ---- */

void request_keep_partial_usage(struct request *request)
{
    bool is_at_it = request->exchange != NULL && !request->relay_over && request->relay.kind != RELAY_ERROR;
    if (is_at_it && (request->sent_whole || request->engine_status == 200))
        request->usage = relay_usage(&request->relay, false, request->estimate.input_tokens);
}

enum lease_outcome request_unproved(const struct request *request)
{
    return request->engine_status == 0 ? LEASE_UNUSED : LEASE_OK;
}

void request_end_gone(struct request *request)
{
    request_keep_partial_usage(request);
    request_release(request, request_unproved(request));
    request_settle(request);
    request_close_record(request);
    request->at = last_step();
}

void request_gone(struct request *request)
{
    request->client_gone = true;
    request_decide(request, OUTCOME_CLIENT_GONE, NULL);
    if (request_may_linger(request))
        request_linger(request);
    else
        request_end_gone(request);
}

void request_end(struct request *request, bool sent)
{
    struct worker *worker = request->worker;
    (void) sent;
    if (request->lingering) {
        request_detach(request);
        return;
    }
    request->times.ended = clock_mono_us();
    request_release(request, LEASE_OK);
    request_settle(request);
    ENSURE(request->lease == NULL && request->exchange == NULL && !request->waiting && !request->reservation.open);
    ENSURE(request->recording == RECORDING_NONE || request->recording == RECORDING_REFUSED ||
           request->recording == RECORDING_CLOSED);
    recent_add(request);
    request_account(request);

    body_finish(&request->body);
    relay_finish(&request->relay);
    policy_drop(&request->policy);
    if (request->previous != NULL)
        request->previous->next = request->next;
    else
        worker->active = request->next;
    if (request->next != NULL)
        request->next->previous = request->previous;
    atomic_fetch_sub_explicit(&worker->active_requests, 1, memory_order_relaxed);
    metric_add(metric_series(METRIC_IN_FLIGHT, (const char *const[METRIC_LABELS_MAX]){NULL}), -1);
    request->ended = true;
    if (!request->later_queued)
        request_free(request);
}
