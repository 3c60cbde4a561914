#include "scripted_request.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- JSON: just enough to find the values of one object ---- */

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && isspace((unsigned char) *at))
        at++;
    return at;
}

static const char *skip_string(const char *at, const char *end)
{
    for (at++; at < end && *at != '"'; at++)
        if (*at == '\\')
            at++;
    return at < end ? at + 1 : end;
}

static const char *skip_value(const char *at, const char *end)
{
    int depth = 0;
    while (at < end) {
        if (*at == '"') {
            at = skip_string(at, end);
            if (depth == 0)
                return at;
            continue;
        }
        if (*at == '{' || *at == '[')
            depth++;
        if ((*at == '}' || *at == ']') && --depth <= 0)
            return depth < 0 ? at : at + 1;
        if (depth == 0 && (*at == ',' || isspace((unsigned char) *at)))
            return at;
        at++;
    }
    return at;
}

typedef void member_receiver(struct request *request, const char *name, size_t name_length, const char *value,
                             size_t value_length);

/* Calls @receive for each member; false when @at is no object. */
static bool each_member(struct request *request, const char *at, const char *end, member_receiver *receive)
{
    at = skip_space(at, end);
    if (at >= end || *at != '{')
        return false;
    at = skip_space(at + 1, end);
    while (at < end && *at == '"') {
        const char *name = at + 1;
        at = skip_string(at, end);
        size_t name_length = (size_t) (at - name) - 1;
        at = skip_space(at, end);
        if (at >= end || *at != ':')
            return false;
        const char *value = skip_space(at + 1, end);
        at = skip_value(value, end);
        receive(request, name, name_length, value, (size_t) (at - value));
        at = skip_space(at, end);
        if (at < end && *at == ',')
            at = skip_space(at + 1, end);
    }
    return at < end && *at == '}' && skip_space(at + 1, end) == end;
}

static bool is(const char *text, size_t length, const char *wanted)
{
    return strlen(wanted) == length && memcmp(text, wanted, length) == 0;
}

/* 1 for a string, a list of numbers or of parts; else the number of elements. */
static long count_inputs(const char *value, size_t length)
{
    const char *end = value + length, *at = skip_space(value + 1, end);
    if (*value != '[' || at >= end || (*at != '"' && *at != '['))
        return 1;
    long count = 0;
    while (at < end && *at != ']') {
        at = skip_space(skip_value(at, end), end);
        count++;
        if (at < end && *at == ',')
            at = skip_space(at + 1, end);
    }
    return count;
}

static void read_stream_option(struct request *request, const char *name, size_t name_length, const char *value,
                               size_t value_length)
{
    bool yes = is(value, value_length, "true");
    if (is(name, name_length, "include_usage"))
        request->include_usage = yes;
    if (is(name, name_length, "continuous_usage_stats"))
        request->continuous_usage = yes;
}

static void read_member(struct request *request, const char *name, size_t name_length, const char *value,
                        size_t value_length)
{
    if (is(name, name_length, "stream"))
        request->stream = is(value, value_length, "true");
    if (is(name, name_length, "stream_options"))
        each_member(request, value, value + value_length, read_stream_option);
    if (is(name, name_length, "encoding_format"))
        request->wants_base64 = is(value, value_length, "\"base64\"");
    if (isdigit((unsigned char) *value)) {
        if (is(name, name_length, "max_tokens") || is(name, name_length, "max_completion_tokens"))
            request->max_tokens = strtol(value, NULL, 10);
        if (is(name, name_length, "n"))
            request->choices = strtol(value, NULL, 10);
    }
    if (is(name, name_length, "prompt") || is(name, name_length, "messages") || is(name, name_length, "input")) {
        request->input_tokens = (long) value_length / 4 + 1;
        request->inputs = is(name, name_length, "messages") ? 1 : count_inputs(value, value_length);
    }
}

static void read_tag(struct request *request, const char *body)
{
    static const char word[] = "[[tag=";
    const char *tag = strstr(body, word);
    size_t length = tag == NULL ? 0 : strcspn(tag + sizeof word - 1, "]");
    if (tag != NULL && length < sizeof request->tag)
        memcpy(request->tag, tag + sizeof word - 1, length);
}

static void read_body(struct request *request)
{
    request->max_tokens = -1;
    request->choices = 1;
    request->inputs = 1;
    const char *body = request->body.bytes == NULL ? "" : request->body.bytes;
    request->is_json_object = each_member(request, body, body + request->body.length, read_member);
    request->choices *= request->inputs;
    read_tag(request, body);
}

/* ---- HTTP ---- */

struct head {
    size_t length; /* with its blank line */
    size_t content_length;
    bool chunked;
};

static void add_header(struct request *request, const char *name, size_t name_length, const char *value,
                       size_t value_length)
{
    char lower[128];
    if (name_length >= sizeof lower)
        name_length = sizeof lower - 1;
    for (size_t i = 0; i < name_length; i++)
        lower[i] = (char) tolower((unsigned char) name[i]);
    string_add_string(&request->headers, request->headers.length > 1 ? "," : "");
    string_add_json(&request->headers, lower, name_length);
    string_add_string(&request->headers, ":");
    string_add_json(&request->headers, value, value_length);
}

static void read_header(struct request *request, struct head *head, const char *line, size_t length)
{
    const char *colon = memchr(line, ':', length);
    if (colon == NULL)
        return;
    size_t name_length = (size_t) (colon - line);
    const char *value = colon + 1;
    while (value < line + length && (*value == ' ' || *value == '\t'))
        value++;
    size_t value_length = (size_t) (line + length - value);
    add_header(request, line, name_length, value, value_length);
    char copy[128];
    size_t copied = value_length < sizeof copy ? value_length : sizeof copy - 1;
    memcpy(copy, value, copied);
    copy[copied] = '\0';
    if (name_length == 14 && strncasecmp(line, "content-length", 14) == 0)
        head->content_length = strtoul(copy, NULL, 10);
    if (name_length == 17 && strncasecmp(line, "transfer-encoding", 17) == 0)
        head->chunked = strcasecmp(copy, "chunked") == 0;
    if (name_length == 10 && strncasecmp(line, "connection", 10) == 0)
        request->keep_alive = strcasecmp(copy, "close") != 0;
    if (name_length == 6 && strncasecmp(line, "expect", 6) == 0)
        request->expects_continue = true;
    if (name_length == 12 && strncasecmp(line, "x-request-id", 12) == 0)
        memcpy(request->id, copy, sizeof request->id);
}

static enum request_route route_of(const char *method, const char *path)
{
    if (strcmp(method, "POST") != 0)
        return ROUTE_OTHER;
    if (strcmp(path, "/v1/completions") == 0)
        return ROUTE_COMPLETIONS;
    if (strcmp(path, "/v1/chat/completions") == 0)
        return ROUTE_CHAT;
    return strcmp(path, "/v1/embeddings") == 0 ? ROUTE_EMBEDDINGS : ROUTE_OTHER;
}

static bool read_head(struct request *request, struct head *head, const char *bytes)
{
    char version[16];
    if (sscanf(bytes, "%15[A-Z] %511[^ \r\n] %15[A-Z0-9/.]\r\n", request->method, request->path, version) != 3)
        return false;
    request->http10 = strcmp(version, "HTTP/1.0") == 0;
    request->keep_alive = !request->http10;
    request->route = route_of(request->method, request->path);
    snprintf(request->id, sizeof request->id, "-");
    string_add_string(&request->headers, "{");
    const char *line = strstr(bytes, "\r\n") + 2;
    while (strncmp(line, "\r\n", 2) != 0) {
        const char *end = strstr(line, "\r\n");
        read_header(request, head, line, (size_t) (end - line));
        line = end + 2;
    }
    string_add_string(&request->headers, "}");
    head->length = (size_t) (line + 2 - bytes);
    return true;
}

/* Adds the chunks' contents to @to. Returns the bytes used, 0 = more are needed, SIZE_MAX = broken. */
static size_t read_chunks(struct string *to, const char *bytes, size_t length)
{
    size_t at = 0;
    for (;;) {
        const char *line_end = memmem(bytes + at, length - at, "\r\n", 2);
        if (line_end == NULL)
            return 0;
        if (!isxdigit((unsigned char) bytes[at]))
            return SIZE_MAX;
        size_t size = strtoul(bytes + at, NULL, 16);
        at = (size_t) (line_end - bytes) + 2;
        if (length - at < size + 2)
            return 0;
        string_add(to, bytes + at, size);
        at += size + 2;
        if (size == 0)
            return at;
    }
}

enum request_progress request_read(struct request *ret, struct string *in)
{
    if (in->length == 0 || memmem(in->bytes, in->length, "\r\n\r\n", 4) == NULL)
        return in->length > 65536 ? REQUEST_BROKEN : REQUEST_INCOMPLETE;
    struct head head = {0};
    *ret = (struct request){0};
    if (!read_head(ret, &head, in->bytes)) {
        request_free(ret);
        return REQUEST_BROKEN;
    }
    size_t used = head.length + head.content_length;
    if (head.chunked) {
        size_t body = read_chunks(&ret->body, in->bytes + head.length, in->length - head.length);
        used = body == SIZE_MAX ? 0 : head.length + body;
        if (body == 0 || body == SIZE_MAX) {
            request_free(ret);
            return body == 0 ? REQUEST_HEAD : REQUEST_BROKEN;
        }
    } else if (in->length < used) {
        request_free(ret);
        return REQUEST_HEAD;
    } else {
        string_add(&ret->body, in->bytes + head.length, head.content_length);
    }
    string_drop(in, used);
    read_body(ret);
    return REQUEST_COMPLETE;
}

void request_free(struct request *request)
{
    string_free(&request->headers);
    string_free(&request->body);
}
