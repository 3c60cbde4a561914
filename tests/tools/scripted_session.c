#include "scripted_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "scripted_answer.h"
#include "scripted_record.h"

enum { RESET_DELAY_MS = 30 }; /* so that what was sent before arrives before the RST */

struct session *session_create(struct engine *engine, int fd)
{
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL)
        abort();
    session->fd = fd;
    session->number = ++engine->connections;
    session->due_ms = engine->now_ms + engine->options.keep_alive_ms;
    session->next = engine->sessions;
    engine->sessions = session;
    return session;
}

void session_destroy(struct session *session)
{
    close(session->fd);
    request_free(&session->request);
    string_free(&session->in);
    string_free(&session->out);
    free(session);
}

static struct answer answer_of(struct engine *engine, struct session *session)
{
    return (struct answer){.options = &engine->options,
                           .request = &session->request,
                           .script = &session->script,
                           .serial = session->serial,
                           .generated = session->generated,
                           .wanted = session->wanted,
                           .finish_reason = session->finish_reason};
}

static enum fault_kind fault_of(const struct session *session)
{
    return session->script.fault.kind;
}

static bool streams(const struct session *session)
{
    return session->request.stream && session->request.route != ROUTE_EMBEDDINGS;
}

static void count(struct session *session, const char *event, long tokens)
{
    count_add(&session->request, session->serial, event, tokens);
}

static void start_waiting_ones(struct engine *engine);

static void give_slot_back(struct engine *engine, struct session *session)
{
    if (!session->holds_slot)
        return;
    session->holds_slot = false;
    engine->slots_taken--;
    start_waiting_ones(engine);
}

/* ---- the ends of a request ---- */

/* The answer is complete in `out`. */
static void end_answer(struct engine *engine, struct session *session, bool close_after)
{
    session->served++;
    session->state = SESSION_READING;
    session->comment_due_ms = 0;
    session->due_ms = engine->now_ms + engine->options.keep_alive_ms;
    session->close_when_flushed = close_after || !session->request.keep_alive;
    request_free(&session->request);
    session->request = (struct request){0};
    give_slot_back(engine, session);
}

static void fall_silent(struct session *session)
{
    session->state = SESSION_SILENT;
    session->due_ms = session->comment_due_ms = 0;
}

static void close_now(struct engine *engine, struct session *session)
{
    session->state = SESSION_CLOSED;
    give_slot_back(engine, session);
}

static void reset_soon(struct engine *engine, struct session *session)
{
    session->state = SESSION_RESETTING;
    session->due_ms = engine->now_ms + RESET_DELAY_MS;
    session->comment_due_ms = 0;
}

static void close_soon(struct engine *engine, struct session *session)
{
    session->close_when_flushed = true;
    fall_silent(session);
    give_slot_back(engine, session);
}

void session_gone(struct engine *engine, struct session *session)
{
    bool busy = session->state == SESSION_WAITING || session->state == SESSION_HELD ||
                session->state == SESSION_GENERATING || session->state == SESSION_SILENT;
    if (busy && session->request.route != ROUTE_OTHER) {
        engine->gone++;
        count(session, "gone", session->generated);
    }
    if (session->state == SESSION_HELD)
        engine->held--;
    close_now(engine, session);
}

void session_flushed(struct engine *engine, struct session *session)
{
    if (session->close_when_flushed)
        close_now(engine, session);
    else if (session->state == SESSION_READING && session->in.length > 0)
        session_read(engine, session);
}

/* ---- generating ---- */

static void end_badly(struct engine *engine, struct session *session)
{
    struct answer answer = answer_of(engine, session);
    stream_end(&session->out, &answer);
    end_answer(engine, session, true);
}

static void add_raw(struct engine *engine, struct session *session, const char *bytes)
{
    struct answer answer = answer_of(engine, session);
    stream_bytes(&session->out, &answer, bytes, strlen(bytes));
}

/* A fault of this request ends it at this number of tokens. */
static bool is_struck(const struct session *session)
{
    const struct fault *fault = &session->script.fault;
    if (session->generated < fault->value && session->generated < session->wanted)
        return false;
    return fault->kind == FAULT_stall_after || fault->kind == FAULT_crash || fault->kind == FAULT_reset_after ||
           fault->kind == FAULT_close_after || fault->kind == FAULT_garbage_sse ||
           fault->kind == FAULT_truncated_json || fault->kind == FAULT_error_in_stream;
}

static void strike(struct engine *engine, struct session *session)
{
    count(session, "fault", session->generated);
    struct answer answer = answer_of(engine, session);
    switch ((int) fault_of(session)) {
    case FAULT_stall_after:
        fall_silent(session);
        break;
    case FAULT_crash:
    case FAULT_reset_after:
        reset_soon(engine, session);
        break;
    case FAULT_close_after:
        close_soon(engine, session);
        break;
    case FAULT_garbage_sse:
        add_raw(engine, session, "<html>\xff\xfe\n\n: data\ndata{\n\n\n");
        end_badly(engine, session);
        break;
    case FAULT_truncated_json:
        stream_broken_event(&session->out, &answer);
        end_badly(engine, session);
        break;
    case FAULT_error_in_stream:
        add_raw(engine, session,
                "data: {\"error\":{\"message\":\"scripted failure\",\"type\":\"server_error\",\"param\":null,"
                "\"code\":500}}\n\n");
        add_raw(engine, session, "data: [DONE]\n\n");
        end_badly(engine, session);
        break;
    default:
        break;
    }
}

static void end_stream(struct engine *engine, struct session *session)
{
    struct answer answer = answer_of(engine, session);
    enum fault_kind fault = fault_of(session);
    if (!session->finish_sent) {
        stream_finish(&session->out, &answer);
        session->finish_sent = true;
        if (fault == FAULT_late_usage) {
            session->due_ms = engine->now_ms + session->script.fault.value;
            return;
        }
    }
    if (stream_wants_usage_chunk(&answer))
        stream_usage(&session->out, &answer);
    if (fault != FAULT_no_done)
        stream_bytes(&session->out, &answer, "data: [DONE]\n\n", 14);
    stream_end(&session->out, &answer);
    count(session, "end", session->generated);
    end_answer(engine, session, engine->options.dialect->closes_after_stream);
}

static void plan(struct engine *engine, struct session *session, long wait_ms)
{
    session->due_ms = engine->now_ms + wait_ms;
    session->comment_due_ms = session->script.comment_interval_ms > 0 && session->head_sent
                                  ? engine->now_ms + session->script.comment_interval_ms
                                  : 0;
}

static void generate_streamed(struct engine *engine, struct session *session)
{
    struct answer answer = answer_of(engine, session);
    if (!session->role_sent) {
        stream_role(&session->out, &answer);
        session->role_sent = true;
    }
    if (session->generated < session->wanted) {
        long from = session->generated;
        session->generated += session->script.tokens_per_chunk;
        if (session->generated > session->wanted)
            session->generated = session->wanted;
        count(session, "token", session->generated);
        answer.generated = session->generated;
        stream_tokens(&session->out, &answer, from);
    }
    if (is_struck(session)) {
        strike(engine, session);
        return;
    }
    if (session->generated < session->wanted)
        plan(engine, session, session->script.token_interval_ms);
    else
        end_stream(engine, session);
}

static void answer_plain(struct engine *engine, struct session *session)
{
    struct answer answer = answer_of(engine, session);
    struct string body = {0}, whole = {0};
    enum fault_kind fault = fault_of(session);
    answer_body(&body, &answer);
    if (fault == FAULT_truncated_json)
        body.length /= 2;
    if (fault == FAULT_garbage_sse) {
        string_clear(&body);
        string_add_string(&body, "<html>scripted garbage</html>");
    }
    answer_whole(&whole, &session->request, 200, fault == FAULT_garbage_sse ? "text/html" : NULL, &body);
    bool cut =
        fault == FAULT_reset_after || fault == FAULT_close_after || fault == FAULT_stall_after || fault == FAULT_crash;
    string_add(&session->out, whole.bytes, cut ? whole.length - body.length / 2 : whole.length);
    string_free(&body);
    string_free(&whole);
    if (cut) {
        strike(engine, session);
        return;
    }
    count(session, "end", session->generated);
    end_answer(engine, session, false);
}

static void generate_plain(struct engine *engine, struct session *session)
{
    if (session->generated < session->wanted) {
        session->generated += session->script.tokens_per_chunk;
        if (session->generated > session->wanted)
            session->generated = session->wanted;
        count(session, "token", session->generated);
    }
    if (session->generated < session->wanted)
        plan(engine, session, session->script.token_interval_ms);
    else
        answer_plain(engine, session);
}

static void send_head(struct engine *engine, struct session *session)
{
    if (session->head_sent)
        return;
    struct answer answer = answer_of(engine, session);
    stream_head(&session->out, &answer);
    session->head_sent = true;
}

static void advance(struct engine *engine, struct session *session)
{
    if (session->finish_sent)
        end_stream(engine, session);
    else if (!streams(session))
        generate_plain(engine, session);
    else {
        send_head(engine, session);
        generate_streamed(engine, session);
    }
}

/* ---- the start of a request ---- */

static void begin_generating(struct engine *engine, struct session *session)
{
    session->state = SESSION_GENERATING;
    count(session, "begin", session->request.input_tokens);
    bool head_now =
        !engine->options.dialect->head_waits_for_first_token || fault_of(session) == FAULT_hang_after_headers;
    if (streams(session) && head_now)
        send_head(engine, session);
    if (fault_of(session) == FAULT_hang_after_headers) {
        if (!streams(session))
            string_add_string(&session->out,
                              "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n");
        fall_silent(session);
        return;
    }
    plan(engine, session, session->script.first_token_ms);
}

static void take_slot(struct engine *engine, struct session *session)
{
    if (engine->slots_taken >= engine->options.slots) {
        session->state = SESSION_WAITING;
        session->due_ms = 0;
        return;
    }
    session->holds_slot = true;
    engine->slots_taken++;
    begin_generating(engine, session);
}

static void start_waiting_ones(struct engine *engine)
{
    while (engine->slots_taken < engine->options.slots) {
        struct session *first = NULL;
        for (struct session *each = engine->sessions; each != NULL; each = each->next)
            if (each->state == SESSION_WAITING && (first == NULL || each->serial < first->serial))
                first = each;
        if (first == NULL)
            return;
        take_slot(engine, first);
    }
}

void engine_release(struct engine *engine)
{
    for (struct session *each = engine->sessions; each != NULL; each = each->next) {
        if (each->state != SESSION_HELD)
            continue;
        engine->held--;
        take_slot(engine, each);
    }
}

static void hold(struct engine *engine, struct session *session)
{
    session->state = SESSION_HELD;
    session->due_ms = 0;
    engine->held++;
    count(session, "held", 0);
    if (engine->options.release_after > 0 && engine->held >= engine->options.release_after)
        engine_release(engine);
}

static void refuse(struct engine *engine, struct session *session, int status, const char *message)
{
    answer_error(&session->out, &engine->options, &session->request, status, message);
    count(session, "refused", status);
    end_answer(engine, session, false);
}

static void plan_length(struct session *session)
{
    long natural = session->script.tokens, cap = session->request.max_tokens;
    bool capped = cap >= 0 && cap <= natural;
    session->wanted = capped ? cap : natural;
    session->finish_reason = capped ? "length" : "stop";
    if (session->request.route == ROUTE_EMBEDDINGS)
        session->wanted = 0;
    session->generated = 0;
    session->head_sent = session->role_sent = session->finish_sent = false;
}

static void begin_scripted(struct engine *engine, struct session *session)
{
    session->script = engine->options.script;
    if (engine->generating_requests++ < engine->options.fault_after)
        session->script.fault.kind = FAULT_none;
    script_read(&session->script, session->request.body.bytes, session->request.body.length);
    plan_length(session);
    switch ((int) fault_of(session)) {
    case FAULT_hang_before_headers:
        count(session, "fault", 0);
        fall_silent(session);
        return;
    case FAULT_reset_before_headers:
        count(session, "fault", 0);
        reset_soon(engine, session);
        return;
    case FAULT_close_reused:
        if (session->served == 0)
            break;
        count(session, "fault", 0);
        close_now(engine, session);
        return;
    case FAULT_close_without_byte:
        count(session, "fault", 0);
        close_now(engine, session);
        return;
    case FAULT_status:
        refuse(engine, session, (int) session->script.fault.value, "scripted status");
        return;
    case FAULT_hold:
        hold(engine, session);
        return;
    default:
        break;
    }
    take_slot(engine, session);
}

static bool is_loading(const struct engine *engine)
{
    return engine->now_ms - engine->started_ms < engine->options.load_ms;
}

static void reply(struct engine *engine, struct session *session, struct string *body)
{
    answer_whole(&session->out, &session->request, 200, NULL, body);
    string_free(body);
    end_answer(engine, session, false);
}

static void set_fault(struct engine *engine, const struct string *name)
{
    engine->options.script.fault = (struct fault){FAULT_none, 0};
    engine->options.fault_after = 0;
    if (name->length > 0)
        fault_read(name->bytes, name->length, &engine->options.script.fault);
}

static bool begin_control(struct engine *engine, struct session *session)
{
    const char *path = session->request.path;
    struct string body = {0};
    if (strcmp(path, "/__seen") == 0)
        seen_write(&body);
    else if (strcmp(path, "/__release") == 0)
        engine_release(engine);
    else if (strcmp(path, "/__fault") == 0)
        set_fault(engine, &session->request.body);
    else if (strcmp(path, "/__state") != 0)
        return false;
    if (body.length == 0)
        string_print(&body,
                     "{\"slots_taken\":%ld,\"held\":%ld,\"connections\":%ld,\"generating_requests\":%ld,\"gone\":%ld}",
                     engine->slots_taken, engine->held, engine->connections, engine->generating_requests, engine->gone);
    reply(engine, session, &body);
    return true;
}

static void begin_small(struct engine *engine, struct session *session)
{
    const struct dialect *dialect = engine->options.dialect;
    const char *path = session->request.path;
    struct string body = {0};
    char by_id[600];
    snprintf(by_id, sizeof by_id, "/v1/models/%s", engine->options.model);
    if (strcmp(path, "/health") == 0)
        string_add_string(&body, dialect->has_props ? "{\"status\":\"ok\"}" : "");
    else if (strcmp(path, "/v1/models") == 0 || (dialect->has_model_by_id && strcmp(path, by_id) == 0))
        answer_models(&body, &engine->options);
    else if (strcmp(path, "/props") == 0 && dialect->has_props)
        answer_props(&body, &engine->options);
    else {
        refuse(engine, session, 404, "no such route");
        return;
    }
    reply(engine, session, &body);
}

static void begin_request(struct engine *engine, struct session *session)
{
    const char *path = session->request.path;
    session->serial = ++engine->serials;
    if (begin_control(engine, session))
        return;
    bool is_health = strcmp(path, "/health") == 0;
    if (!is_health && strcmp(session->request.method, "GET") != 0)
        seen_add(&session->request, session->number);
    if (is_loading(engine) && (is_health || engine->options.dialect->everything_waits_for_load))
        refuse(engine, session, 503, "Loading model");
    else if (session->request.route == ROUTE_OTHER)
        begin_small(engine, session);
    else if (!session->request.is_json_object)
        refuse(engine, session, 400, "the body is not a JSON object");
    else
        begin_scripted(engine, session);
}

static void say_continue(struct session *session)
{
    if (session->continue_sent || strcasestr(session->in.bytes, "\r\nexpect: 100-continue") == NULL)
        return;
    string_add_string(&session->out, "HTTP/1.1 100 Continue\r\n\r\n");
    session->continue_sent = true;
}

void session_read(struct engine *engine, struct session *session)
{
    while (session->state == SESSION_READING && session->in.length > 0 && !session->close_when_flushed) {
        struct request request;
        enum request_progress progress = request_read(&request, &session->in);
        if (progress == REQUEST_HEAD)
            say_continue(session);
        if (progress == REQUEST_BROKEN)
            session->state = SESSION_CLOSED;
        if (progress != REQUEST_COMPLETE)
            return;
        session->continue_sent = false;
        session->request = request;
        begin_request(engine, session);
    }
}

static void comment(struct engine *engine, struct session *session)
{
    struct answer answer = answer_of(engine, session);
    stream_bytes(&session->out, &answer, ": ping\n\n", 8);
    session->comment_due_ms = engine->now_ms + session->script.comment_interval_ms;
}

void session_due(struct engine *engine, struct session *session)
{
    if (session->comment_due_ms != 0 && session->comment_due_ms <= engine->now_ms)
        comment(engine, session);
    if (session->due_ms == 0 || session->due_ms > engine->now_ms)
        return;
    session->due_ms = 0;
    if (session->state == SESSION_GENERATING) {
        advance(engine, session);
    } else if (session->state == SESSION_RESETTING) {
        if (fault_of(session) == FAULT_crash)
            abort();
        struct linger now = {.l_onoff = 1, .l_linger = 0};
        setsockopt(session->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close_now(engine, session);
    } else if (session->state == SESSION_READING) {
        close_now(engine, session); /* idle for too long, or a request that never ended */
    }
}
