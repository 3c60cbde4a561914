/* The steps before an engine is chosen: may this be asked, and what exactly is asked. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/metrics.h"
#include "gateway/request.h"
#include "gateway/worker.h"

enum { MODEL_ENTRY_BYTES = 640 };

/* ---- guard ---- */

static enum step_result refuse_head(struct request *request)
{
    const struct guard_answer *answer = &GUARD_ANSWERS[request->head->verdict];
    metric_count(METRIC_GUARD_REFUSALS, answer->label, NULL);
    request->status = answer->status;
    return request_decide(request, OUTCOME_GUARD_REFUSED, answer->message);
}

static enum step_result reply_health(struct request *request)
{
    request_decide(request, OUTCOME_SERVED, NULL);
    request_reply_json(request, 200, TEXT("{\"status\":\"ok\"}\n"));
    return STEP_REPLY;
}

static enum step_result reply_options(struct request *request)
{
    struct reply reply = {.status = 204, .kind = REPLY_WHOLE, .body = TEXT("")};
    request_decide(request, OUTCOME_SERVED, NULL);
    request->status = reply.status;
    reply.headers[reply.header_count++] = (struct reply_header){"Allow", "GET, POST, OPTIONS"};
    request->replied = true;
    server_reply(request->connection, &reply);
    return STEP_REPLY;
}

enum step_result step_guard(struct request *request)
{
    struct route route = {.endpoint = ENDPOINT_COUNT};
    if (request->head->verdict != GUARD_OK)
        return refuse_head(request);

    enum route_result result = route_find(request->head->method, request->head->path, &route);
    request->route = route.kind;
    request->endpoint = route.endpoint;
    request->route_model = route.model;
    if (result == ROUTE_WRONG_METHOD)
        return request_decide(request, OUTCOME_WRONG_METHOD,
                              request_format(request, "This path is not served with this method: use %s.",
                                             route.kind == ROUTE_GENERATE ? "POST" : "GET"));
    if (result == ROUTE_NOT_SERVED)
        return request_decide(
            request, OUTCOME_NO_ROUTE,
            "This OpenAI route is not served here. Served are POST /v1/completions, /v1/chat/completions "
            "and /v1/embeddings, and GET /v1/models and /v1/models/{model}.");
    if (result == ROUTE_UNKNOWN)
        return request_decide(request, OUTCOME_NO_ROUTE,
                              request_format(request,
                                             "Unknown request URL: %.*s. Check the path, and that the client's base "
                                             "URL ends in /v1.",
                                             TEXT_ARGUMENTS(request->head->path)));

    if (request->route == ROUTE_HEALTH)
        return reply_health(request);
    if (request->route == ROUTE_OPTIONS)
        return reply_options(request);
    return STEP_NEXT;
}

/* ---- identify ---- */

static void add_model(struct builder *to, const struct model *model)
{
    builder_add_string(to, "{\"id\":");
    builder_add_json(to, text_of(model->name));
    builder_format(to, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"tollgate\"}",
                   (long long) model->created_wall_s);
}

static enum step_result reply_models(struct request *request)
{
    const struct policy *policy = request->policy;
    size_t capacity = policy->model_count * MODEL_ENTRY_BYTES + 64, listed = 0;
    struct builder list;
    char *memory = arena_take(&request->arena, capacity);
    if (memory == NULL)
        return request_decide(request, OUTCOME_INTERNAL, NULL);
    builder_init(&list, memory, capacity);
    builder_add_string(&list, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < policy->model_count; i++) {
        if (!auth_allows_model(&request->who, &policy->models[i]))
            continue;
        if (listed++ > 0)
            builder_add_string(&list, ",");
        add_model(&list, &policy->models[i]);
    }
    builder_add_string(&list, "]}\n");
    request_decide(request, OUTCOME_SERVED, NULL);
    request_reply_json(request, 200, builder_text(&list));
    return STEP_REPLY;
}

static int hex_digit(char digit)
{
    char one[2] = {'0', digit};
    uint8_t value;
    return text_from_hex((struct text){one, 2}, &value, 1) ? value : -1;
}

/* Model names may hold '/' and ':', which clients escape. Empty when an escape is malformed. */
static struct text unescape(struct request *request, struct text escaped)
{
    char *to = arena_take(&request->arena, escaped.length + 1);
    size_t length = 0;
    if (to == NULL)
        return TEXT("");
    for (size_t i = 0; i < escaped.length; i++) {
        if (escaped.at[i] != '%') {
            to[length++] = escaped.at[i];
            continue;
        }
        int high = i + 2 < escaped.length ? hex_digit(escaped.at[i + 1]) : -1;
        int low = i + 2 < escaped.length ? hex_digit(escaped.at[i + 2]) : -1;
        if (high < 0 || low < 0 || high * 16 + low < 0x21 || high * 16 + low > 0x7e)
            return TEXT("");
        to[length++] = (char) (high * 16 + low);
        i += 2;
    }
    return (struct text){to, length};
}

static enum step_result refuse_unknown_model(struct request *request, struct text name)
{
    request->param = "model";
    return request_decide(request, OUTCOME_MODEL_UNKNOWN,
                          request_format(request,
                                         "The model '%.*s' does not exist here. GET /v1/models lists the models this "
                                         "key may use.",
                                         (int) (name.length < 200 ? name.length : 200),
                                         name.at != NULL ? name.at : ""));
}

static enum step_result reply_model(struct request *request)
{
    struct text name = unescape(request, request->route_model);
    const struct model *model = policy_model(request->policy, name);
    char *memory = arena_take(&request->arena, MODEL_ENTRY_BYTES);
    struct builder entry;
    if (model == NULL || !auth_allows_model(&request->who, model))
        return refuse_unknown_model(request, name);
    if (memory == NULL)
        return request_decide(request, OUTCOME_INTERNAL, NULL);
    builder_init(&entry, memory, MODEL_ENTRY_BYTES);
    add_model(&entry, model);
    request_decide(request, OUTCOME_SERVED, NULL);
    request_reply_json(request, 200, builder_text(&entry));
    return STEP_REPLY;
}

/* The policy is dropped before the request ends: the names it is logged and counted under are copied. */
static bool keep_names(struct request *request)
{
    const char *tenant = arena_copy_string(&request->arena, text_of(request->who.tenant->name));
    const char *key = arena_copy_string(&request->arena, text_of(request->who.key->name));
    const char *user = arena_copy_string(&request->arena, text_of(request->who.user));
    if (tenant == NULL || key == NULL || user == NULL)
        return false;
    request->tenant = tenant;
    request->key = key;
    request->user = user;
    return true;
}

enum step_result step_identify(struct request *request)
{
    request->auth_verdict =
        auth_check(request->policy, request->head->authorization, request->began_wall_ms, &request->who);
    if (request->auth_verdict != AUTH_OK)
        return request_decide(request, OUTCOME_BAD_KEY, NULL);
    if (!keep_names(request))
        return request_decide(request, OUTCOME_INTERNAL, NULL);
    if (!auth_allows_endpoint(&request->who, request->endpoint))
        return request_decide(
            request, OUTCOME_ENDPOINT_FORBIDDEN,
            request_format(request, "This API key may not call the %s endpoint.", ENDPOINT_NAMES[request->endpoint]));

    if (request->route == ROUTE_MODELS)
        return reply_models(request);
    if (request->route == ROUTE_MODEL)
        return reply_model(request);
    return STEP_NEXT;
}

/* ---- read_body ---- */

static enum step_result refuse_body(struct request *request, enum body_result result)
{
    request->retry_after_ms = result == BODY_NO_MEMORY ? 1000 : 0;
    return request_decide(request, result == BODY_LARGE ? OUTCOME_BODY_TOO_LARGE : OUTCOME_BODY_MEMORY, NULL);
}

enum step_result step_read_body(struct request *request)
{
    const struct http_head *head = request->head;
    if (request->body_whole)
        return STEP_NEXT;
    if (head->content_encoding.at != NULL && !text_equal_ignoring_case(head->content_encoding, TEXT("identity")))
        return request_decide(request, OUTCOME_BODY_ENCODED, NULL);
    if (request->body.capacity == 0 && guard_has_body(head)) {
        enum body_result result = body_expect(&request->body, head->content_length);
        if (result != BODY_OK)
            return refuse_body(request, result);
    }
    return STEP_WAIT;
}

enum step_result request_add_body(struct request *request, struct text piece)
{
    enum body_result result = body_add(&request->body, piece);
    if (result == BODY_OK)
        return STEP_WAIT;
    (void) refuse_body(request, result);
    request_reply_error(request);
    return STEP_REPLY;
}

/* ---- parse ---- */

enum step_result step_parse(struct request *request)
{
    request->times.body_end = clock_mono_us();
    if (openai_parse(request->endpoint, body_text(&request->body), &request->arena, &request->asked, &request->refusal))
        return STEP_NEXT;
    request->status = request->refusal.status;
    request->param = request->refusal.param;
    request->code = request->refusal.code;
    return request_decide(request, OUTCOME_BAD_REQUEST, request->refusal.message);
}

/* ---- authorize ---- */

static enum step_result refuse_cap(struct request *request, const struct model *model)
{
    request->param = request->endpoint == ENDPOINT_CHAT ? "max_completion_tokens" : "max_tokens";
    request->code = "max_tokens_too_large";
    return request_decide(request, OUTCOME_BAD_REQUEST,
                          request_format(request,
                                         "max_tokens is too large: %lld. This model gives at most %lld tokens.",
                                         (long long) request->asked.cap_tokens, (long long) model->max_output_tokens));
}

static enum step_result refuse_model_scope(struct request *request)
{
    request->param = "model";
    return request_decide(
        request, OUTCOME_MODEL_FORBIDDEN,
        request_format(request, "This API key may not use the model '%s'. GET /v1/models lists those it may use.",
                       request->model_asked));
}

enum step_result step_authorize(struct request *request)
{
    const struct model *model = policy_model(request->policy, request->asked.model);
    const char *asked_name = arena_copy_string(&request->arena, request->asked.model);
    if (asked_name != NULL)
        request->model_asked = asked_name;
    if (model == NULL)
        return refuse_unknown_model(request, request->asked.model);

    const char *name = arena_copy_string(&request->arena, text_of(model->name));
    if (name == NULL)
        return request_decide(request, OUTCOME_INTERNAL, NULL);
    request->model = name;
    request->model_policy = model;
    if (!auth_allows_model(&request->who, model))
        return refuse_model_scope(request);
    if (model->max_output_tokens > 0 && request->asked.cap_tokens > model->max_output_tokens)
        return refuse_cap(request, model);
    return STEP_NEXT;
}
