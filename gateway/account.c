/* What an ended request leaves behind: one log line and its metrics. */
#include "base/log.h"
#include "base/metrics.h"
#include "gateway/request.h"
#include "gateway/server.h"

static const char *endpoint_name(const struct request *request)
{
    return request->endpoint < ENDPOINT_COUNT ? ENDPOINT_NAMES[request->endpoint] : "none";
}

static void log_who(struct log_line *line, const struct request *request)
{
    log_add_string(line, "request_id", request->id);
    log_add_string(line, "client", request->client_address);
    log_add_string(line, "endpoint", endpoint_name(request));
    if (request->tenant[0] != '\0') {
        log_add_string(line, "tenant", request->tenant);
        log_add_string(line, "key", request->key);
    }
    if (request->user[0] != '\0')
        log_add_string(line, "user", request->user);
    if (request->model[0] != '\0')
        log_add_string(line, "model", request->model);
    if (request->model_asked[0] != '\0')
        log_add_string(line, "model_asked", request->model_asked);
    if (request->client_request_id.at != NULL)
        log_add(line, "client_request_id", request->client_request_id);
    if (request->client_retry_count.at != NULL)
        log_add(line, "client_retry_count", request->client_retry_count);
}

static void log_usage(struct log_line *line, const struct usage *usage)
{
    log_add_int(line, "input_tokens", usage->input_tokens);
    log_add_int(line, "cached_input_tokens", usage->cached_input_tokens);
    log_add_int(line, "output_tokens", usage->output_tokens);
    log_add_string(line, "input_source", USAGE_SOURCE_NAMES[usage->input_source]);
    log_add_string(line, "output_source", USAGE_SOURCE_NAMES[usage->output_source]);
}

static void log_times(struct log_line *line, const struct request_times *times)
{
    log_add_seconds(line, "duration_seconds", times->ended - times->head);
    if (times->waited > 0)
        log_add_seconds(line, "queue_seconds", times->waited);
    if (times->first_content > 0)
        log_add_seconds(line, "first_token_seconds", times->first_content - times->head);
}

static void log_request(const struct request *request)
{
    const char *code = request->code != NULL ? request->code : OUTCOMES[request->outcome].code;
    struct log_line line;
    log_begin(&line, request->status >= 500 && request->status != 503 ? LOG_WARNING : LOG_INFO, "request");
    log_who(&line, request);
    log_add_int(&line, "status", request->status);
    log_add_string(&line, "outcome", OUTCOMES[request->outcome].label);
    if (code[0] != '\0')
        log_add_string(&line, "code", code);
    if (request->engine[0] != '\0') {
        log_add_string(&line, "engine", request->engine);
        log_add_int(&line, "attempts", request->attempts);
        log_add_string(&line, "stream", request->asked.stream ? "yes" : "no");
    }
    if (request->reached_engine)
        log_usage(&line, &request->usage);
    log_times(&line, &request->times);
    log_end(&line);
}

static void count_tokens(const struct request *request)
{
    const struct usage *usage = &request->usage;
    const struct {
        const char *type;
        int64_t tokens;
        enum usage_source source;
    } rows[] = {
        {"input", usage->input_tokens, usage->input_source},
        {"cached_input", usage->cached_input_tokens, usage->input_source},
        {"output", usage->output_tokens, usage->output_source},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *labels[METRIC_LABELS_MAX] = {request->model, request->tenant, rows[i].type,
                                                 USAGE_SOURCE_NAMES[rows[i].source]};
        if (rows[i].tokens > 0)
            metric_add(metric_series(METRIC_TOKENS, labels), rows[i].tokens);
    }
}

static void observe(enum metric metric, const char *first, const char *second, mono_us duration)
{
    metric_observe_us(metric_series(metric, (const char *const[METRIC_LABELS_MAX]){first, second}), duration);
}

static void count_request(const struct request *request)
{
    const struct request_times *times = &request->times;
    char status[12];
    struct builder text;
    builder_init(&text, status, sizeof status);
    builder_add_int(&text, request->status, 1);
    (void) builder_string(&text);
    const char *labels[METRIC_LABELS_MAX] = {endpoint_name(request), request->model, request->tenant, status};
    metric_add(metric_series(METRIC_REQUESTS, labels), 1);
    metric_count(METRIC_REQUEST_OUTCOMES, endpoint_name(request), OUTCOMES[request->outcome].label);
    if (request->outcome == OUTCOME_BAD_KEY)
        metric_count(METRIC_AUTH_FAILURES, AUTH_VERDICT_NAMES[request->auth_verdict], NULL);
    if (request->model[0] == '\0')
        return;
    observe(METRIC_REQUEST_SECONDS, endpoint_name(request), request->model, times->ended - times->head);
    if (times->dispatched > 0)
        observe(METRIC_OVERHEAD_SECONDS, endpoint_name(request), NULL,
                times->dispatched - times->body_end - times->waited);
    if (times->first_content > 0)
        observe(METRIC_FIRST_TOKEN_SECONDS, request->model, NULL, times->first_content - times->head);
}

void request_account(const struct request *request)
{
    count_request(request);
    if (request->reached_engine)
        count_tokens(request);
    if (request->route != ROUTE_HEALTH)
        log_request(request);
}
