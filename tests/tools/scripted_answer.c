#include "scripted_answer.h"

#include <stdio.h>
#include <string.h>

enum { CREATED = 1763800000, EMBEDDING_LENGTH = 8 };

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {{200, "OK"},
                   {400, "Bad Request"},
                   {404, "Not Found"},
                   {429, "Too Many Requests"},
                   {500, "Internal Server Error"},
                   {502, "Bad Gateway"},
                   {503, "Service Unavailable"}};
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Scripted";
}

static const char *connection_of(const struct request *request)
{
    return request->keep_alive ? "keep-alive" : "close";
}

void answer_whole(struct string *to, const struct request *request, int status, const char *type,
                  const struct string *body)
{
    string_print(to, "HTTP/1.1 %d %s\r\nServer: scripted\r\nContent-Type: %s\r\nConnection: %s\r\n%s", status,
                 reason_of(status), type == NULL ? "application/json" : type, connection_of(request),
                 status == 429 || status == 503 ? "Retry-After: 1\r\n" : "");
    string_print(to, "Content-Length: %zu\r\n\r\n", body->length);
    string_add(to, body->bytes, body->length);
}

void answer_error(struct string *to, const struct options *options, const struct request *request, int status,
                  const char *message)
{
    struct string body = {0};
    const char *type = status == 503   ? "unavailable_error"
                       : status == 429 ? "rate_limit_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";
    string_print(&body, "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":", message, type);
    if (options->dialect->numeric_error_code)
        string_print(&body, "%d}}", status);
    else
        string_add_string(&body, "null}}");
    answer_whole(to, request, status, NULL, &body);
    string_free(&body);
}

/* ---- shared pieces ---- */

static bool is_chat(const struct answer *answer)
{
    return answer->request->route == ROUTE_CHAT;
}

static void add_opening(struct string *to, const struct answer *answer, const char *object)
{
    bool says_chat = is_chat(answer) || answer->options->dialect->completion_ids_say_chat;
    string_print(to, "{\"id\":\"%s-%ld\",\"object\":\"%s\",\"created\":%d,\"model\":", says_chat ? "chatcmpl" : "cmpl",
                 answer->serial, object, CREATED);
    string_add_json(to, answer->options->model, strlen(answer->options->model));
}

static void add_usage(struct string *to, const struct answer *answer)
{
    const struct dialect *dialect = answer->options->dialect;
    long choices = dialect->usage_covers_one_choice ? 1 : answer->request->choices;
    long input = answer->request->input_tokens, output = answer->generated * choices;
    if (answer->request->route == ROUTE_EMBEDDINGS)
        output = 0;
    if (answer->script->fault.kind == FAULT_zero_usage)
        input = output = 0;
    string_print(to, "\"usage\":{\"prompt_tokens\":%ld,", input);
    if (answer->request->route != ROUTE_EMBEDDINGS)
        string_print(to, "\"completion_tokens\":%ld,", output);
    string_print(to, "\"total_tokens\":%ld", input + output);
    if (answer->script->cached_tokens > 0)
        string_print(to, ",\"prompt_tokens_details\":{\"cached_tokens\":%ld}", answer->script->cached_tokens);
    string_add_string(to, "}");
    if (dialect->adds_timings && answer->request->route != ROUTE_EMBEDDINGS)
        string_print(to, ",\"timings\":{\"cache_n\":0,\"prompt_n\":%ld,\"predicted_n\":%ld}", input, answer->generated);
}

static bool never_usage(const struct answer *answer)
{
    return answer->script->fault.kind == FAULT_no_usage;
}

static void add_token_text(struct string *to, const struct answer *answer, long from, long until)
{
    string_add_string(to, "\"");
    if (answer->script->fault.kind == FAULT_huge_event && from == 0)
        for (long i = 0; i < answer->script->fault.value; i++)
            string_add(to, "x", 1);
    for (long token = from; token < until; token++)
        string_print(to, "tok%ld ", token);
    string_add_string(to, "\"");
}

/* ---- whole answers ---- */

static void add_choice(struct string *to, const struct answer *answer, long index)
{
    string_print(to, "%s{\"index\":%ld,", index == 0 ? "" : ",", index);
    string_add_string(to, is_chat(answer) ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    add_token_text(to, answer, 0, answer->generated);
    string_print(to, "%s,\"logprobs\":null,\"finish_reason\":\"%s\"}", is_chat(answer) ? "}" : "",
                 answer->finish_reason);
}

static void add_base64(struct string *to, const void *bytes, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *from = bytes;
    for (size_t i = 0; i < length; i += 3) {
        unsigned group = (unsigned) from[i] << 16;
        if (i + 1 < length)
            group |= (unsigned) from[i + 1] << 8;
        if (i + 2 < length)
            group |= from[i + 2];
        const char four[] = {digits[group >> 18], digits[group >> 12 & 63],
                             i + 1 < length ? digits[group >> 6 & 63] : '=', i + 2 < length ? digits[group & 63] : '='};
        string_add(to, four, sizeof four);
    }
}

static void add_embedding(struct string *to, const struct answer *answer, long index)
{
    float numbers[EMBEDDING_LENGTH];
    for (int i = 0; i < EMBEDDING_LENGTH; i++)
        numbers[i] = (float) (index + 1) / (float) (i + 2);
    string_print(to, "%s{\"object\":\"embedding\",\"index\":%ld,\"embedding\":", index == 0 ? "" : ",", index);
    string_add_string(to, answer->request->wants_base64 ? "\"" : "[");
    if (answer->request->wants_base64)
        add_base64(to, numbers, sizeof numbers);
    for (int i = 0; i < EMBEDDING_LENGTH && !answer->request->wants_base64; i++)
        string_print(to, "%s%.9g", i == 0 ? "" : ",", (double) numbers[i]);
    string_add_string(to, answer->request->wants_base64 ? "\"}" : "]}");
}

static void add_embeddings(struct string *to, const struct answer *answer)
{
    bool before = answer->options->dialect->usage_before_data && !never_usage(answer);
    string_add_string(to, "{\"model\":");
    string_add_json(to, answer->options->model, strlen(answer->options->model));
    string_add_string(to, ",\"object\":\"list\",");
    if (before) {
        add_usage(to, answer);
        string_add_string(to, ",");
    }
    string_add_string(to, "\"data\":[");
    for (long index = 0; index < answer->request->inputs; index++)
        add_embedding(to, answer, index);
    string_add_string(to, "]");
    if (!before && !never_usage(answer)) {
        string_add_string(to, ",");
        add_usage(to, answer);
    }
    string_add_string(to, "}");
}

void answer_body(struct string *to, const struct answer *answer)
{
    if (answer->request->route == ROUTE_EMBEDDINGS) {
        add_embeddings(to, answer);
        return;
    }
    add_opening(to, answer, is_chat(answer) ? "chat.completion" : "text_completion");
    string_add_string(to, ",\"choices\":[");
    for (long index = 0; index < answer->request->choices; index++)
        add_choice(to, answer, index);
    string_add_string(to, "]");
    if (!never_usage(answer)) {
        string_add_string(to, ",");
        add_usage(to, answer);
    }
    string_add_string(to, "}");
}

/* ---- streams ---- */

void stream_head(struct string *to, const struct answer *answer)
{
    string_print(to,
                 "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                 "Connection: %s\r\n%s\r\n",
                 connection_of(answer->request), answer->request->http10 ? "" : "Transfer-Encoding: chunked\r\n");
}

void stream_bytes(struct string *to, const struct answer *answer, const char *bytes, size_t length)
{
    if (answer->request->http10) {
        string_add(to, bytes, length);
        return;
    }
    string_print(to, "%zx\r\n", length);
    string_add(to, bytes, length);
    string_add_string(to, "\r\n");
}

static void begin_event(struct string *event, const struct answer *answer)
{
    string_add_string(event, "data: ");
    add_opening(event, answer, is_chat(answer) ? "chat.completion.chunk" : "text_completion");
    string_add_string(event, ",\"choices\":[");
}

/* @usage: beside the choices. */
static void end_event(struct string *to, struct string *event, const struct answer *answer, bool usage)
{
    string_add_string(event, "]");
    if (usage) {
        string_add_string(event, ",");
        add_usage(event, answer);
    } else if (stream_wants_usage_chunk(answer) && !answer->options->dialect->adds_timings) {
        string_add_string(event, ",\"usage\":null");
    }
    string_add_string(event, "}\n\n");
    stream_bytes(to, answer, event->bytes, event->length);
    string_free(event);
}

void stream_role(struct string *to, const struct answer *answer)
{
    if (!is_chat(answer))
        return;
    for (long index = 0; index < answer->request->choices; index++) {
        struct string event = {0};
        begin_event(&event, answer);
        string_print(&event,
                     "{\"index\":%ld,\"delta\":{\"role\":\"assistant\",\"content\":%s},\"logprobs\":null,"
                     "\"finish_reason\":null}",
                     index, answer->options->dialect->adds_timings ? "null" : "\"\"");
        end_event(to, &event, answer, false);
    }
}

static void add_finish_reason(struct string *event, const struct answer *answer, bool finished)
{
    string_add_string(event, ",\"logprobs\":null,\"finish_reason\":");
    if (finished)
        string_print(event, "\"%s\"}", answer->finish_reason);
    else
        string_add_string(event, "null}");
}

void stream_tokens(struct string *to, const struct answer *answer, long from)
{
    bool finished = answer->generated >= answer->wanted && !answer->options->dialect->finish_has_own_chunk &&
                    answer->script->fault.kind != FAULT_no_finish_reason;
    for (long index = 0; index < answer->request->choices; index++) {
        struct string event = {0};
        begin_event(&event, answer);
        string_print(&event, "{\"index\":%ld,%s", index, is_chat(answer) ? "\"delta\":{\"content\":" : "\"text\":");
        add_token_text(&event, answer, from, answer->generated);
        string_add_string(&event, is_chat(answer) ? "}" : "");
        add_finish_reason(&event, answer, finished);
        bool beside = finished && answer->script->fault.kind == FAULT_usage_on_finish;
        bool continuous = answer->request->continuous_usage && answer->options->dialect->knows_continuous_usage;
        end_event(to, &event, answer, (beside || continuous) && !never_usage(answer));
    }
}

static bool usage_beside_finish(const struct answer *answer)
{
    bool completions = answer->request->route == ROUTE_COMPLETIONS;
    return (completions && answer->options->dialect->usage_on_completion_finish) ||
           answer->script->fault.kind == FAULT_usage_on_finish;
}

void stream_finish(struct string *to, const struct answer *answer)
{
    if (!answer->options->dialect->finish_has_own_chunk || answer->script->fault.kind == FAULT_no_finish_reason)
        return;
    for (long index = 0; index < answer->request->choices; index++) {
        struct string event = {0};
        begin_event(&event, answer);
        string_print(&event, "{\"index\":%ld,%s", index, is_chat(answer) ? "\"delta\":{}" : "\"text\":\"\"");
        add_finish_reason(&event, answer, true);
        bool last = index == answer->request->choices - 1;
        end_event(to, &event, answer, last && usage_beside_finish(answer) && !never_usage(answer));
    }
}

bool stream_wants_usage_chunk(const struct answer *answer)
{
    return answer->request->include_usage && !never_usage(answer) && !usage_beside_finish(answer);
}

void stream_usage(struct string *to, const struct answer *answer)
{
    struct string event = {0};
    begin_event(&event, answer);
    end_event(to, &event, answer, true);
}

void stream_broken_event(struct string *to, const struct answer *answer)
{
    struct string event = {0};
    begin_event(&event, answer);
    event.length -= event.length / 4;
    string_add_string(&event, "\n\n");
    stream_bytes(to, answer, event.bytes, event.length);
    string_free(&event);
}

void stream_end(struct string *to, const struct answer *answer)
{
    if (!answer->request->http10)
        string_add_string(to, "0\r\n\r\n");
}

/* ---- small routes ---- */

static void add_model(struct string *to, const struct options *options)
{
    string_add_string(to, "{\"id\":");
    string_add_json(to, options->model, strlen(options->model));
    string_print(to, ",\"object\":\"model\",\"created\":%d,\"owned_by\":\"%s\"", CREATED, options->dialect->name);
    if (options->dialect->models_tell_context)
        string_print(to, ",\"max_model_len\":%ld", options->context_tokens);
    string_add_string(to, "}");
}

void answer_models(struct string *to, const struct options *options)
{
    string_add_string(to, "{\"object\":\"list\",");
    if (options->dialect->models_list_twice) {
        string_add_string(to, "\"models\":[{\"name\":");
        string_add_json(to, options->model, strlen(options->model));
        string_add_string(to, "}],");
    }
    string_add_string(to, "\"data\":[");
    add_model(to, options);
    string_add_string(to, "]}");
}

void answer_props(struct string *to, const struct options *options)
{
    string_print(to, "{\"default_generation_settings\":{\"n_ctx\":%ld},\"total_slots\":%ld,\"is_sleeping\":false}",
                 options->context_tokens, options->slots);
}
