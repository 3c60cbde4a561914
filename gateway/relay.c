/* Events and bodies of an engine, as the client is to get them. Pure. */
#include "gateway/relay.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/panic.h"

const char *const USAGE_SOURCE_NAMES[] = {"none", "engine", "counted", "estimated"};

void relay_begin(struct relay *relay, enum relay_kind kind, const struct relay_rules *rules)
{
    *relay = (struct relay){.kind = kind, .rules = *rules};
    sse_begin(&relay->events);
    answer_begin(&relay->scan);
    buffer_init(&relay->held, kind == RELAY_ERROR ? RELAY_ERROR_BYTES_MAX : SIZE_MAX / 2);
}

void relay_finish(struct relay *relay)
{
    if (relay->kind == RELAY_NONE)
        return;
    sse_finish(&relay->events);
    buffer_finish(&relay->held);
    relay->kind = RELAY_NONE;
}

/* ---- events ---- */

struct feeding {
    struct relay *relay;
    struct buffer *out;
    bool full; /* out took no more */
};

static void add(struct feeding *feeding, struct text piece)
{
    if (!buffer_add(feeding->out, piece))
        feeding->full = true;
}

/* One data line: a line feed inside JSON can only be white space between tokens. */
static void add_as_one_line(struct feeding *feeding, struct text piece)
{
    while (piece.length > 0) {
        const char *line_end = memchr(piece.at, '\n', piece.length);
        size_t length = line_end != NULL ? (size_t) (line_end - piece.at) : piece.length;
        add(feeding, (struct text){piece.at, length});
        if (line_end != NULL) {
            add(feeding, TEXT(" "));
            length++;
        }
        piece.at += length;
        piece.length -= length;
    }
}

static void add_event(struct feeding *feeding, struct text before, struct text between, struct text after)
{
    add(feeding, TEXT("data: "));
    add_as_one_line(feeding, before);
    add_as_one_line(feeding, between);
    add_as_one_line(feeding, after);
    add(feeding, TEXT("\n\n"));
}

/* The engine reports completion tokens of one choice only, and there are others. */
static bool covers_one_of_many(const struct relay *relay)
{
    return relay->rules.dialect->usage_covers_one_choice && relay->rules.choices > 1;
}

static bool counts_something(const struct engine_usage *usage)
{
    return usage->seen && (usage->input_tokens > 0 || usage->output_tokens > 0);
}

static struct text usage_value(const struct answer_scan *scan, struct text data)
{
    return (struct text){data.at + scan->usage_value_begin, scan->usage_member_end - scan->usage_value_begin};
}

/* The same of what is written into an event later. */
static void keep_on_one_line(char *json, size_t length)
{
    for (size_t i = 0; i < length; i++)
        json[i] = json[i] == '\n' ? ' ' : json[i];
}

static void keep_usage(struct relay *relay, const struct answer_scan *scan, struct text data)
{
    struct engine_usage usage = answer_usage(scan);
    if (!counts_something(&usage) && !(usage.seen && !relay->usage.seen))
        return;
    relay->usage = usage;
    relay->chunks_told = usage.output_tokens > 0 ? relay->content_chunks : 0;
    /* Beside a choice it may be that choice's own. */
    bool is_of_all = scan->choice_count == 0 || relay->rules.choices <= 1 || covers_one_of_many(relay);
    relay->usage_is_final = is_of_all && relay_has_finished(relay);
    if (scan->has_usage_member && !scan->usage_is_null) {
        struct text value = usage_value(scan, data);
        if (value.length < sizeof relay->usage_json) {
            relay->usage_json_length = text_copy(relay->usage_json, sizeof relay->usage_json, value);
            keep_on_one_line(relay->usage_json, relay->usage_json_length);
        }
    }
}

/* `"id":…,"object":…,"created":…,"model":…` as the engine wrote them. */
static void keep_template(struct relay *relay, struct text data)
{
    static const struct text wanted[] = {{"id", 2}, {"object", 6}, {"created", 7}, {"model", 5}};
    struct builder template;
    struct json_scan scan;
    builder_init(&template, relay->template_chunk, sizeof relay->template_chunk);
    json_begin(&scan, data);
    if (json_next(&scan) != JSON_OBJECT_BEGIN)
        return;
    while (json_next(&scan) == JSON_KEY) {
        struct text key = scan.span, value;
        if (!json_skip_value(&scan, &value))
            return;
        for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
            if (json_string_equals(key, wanted[i]))
                builder_format(&template, "%.*s:%.*s,", TEXT_ARGUMENTS(key), TEXT_ARGUMENTS(value));
        }
    }
    if (!template.overflowed)
        relay->template_length = template.length;
    keep_on_one_line(relay->template_chunk, relay->template_length);
}

static void count_content(struct relay *relay, const struct answer_scan *scan)
{
    relay->content_chunks += scan->content_choices;
    relay->first_choice_chunks += (int64_t) (scan->content_bits[0] & 1);
    relay->content_bytes += scan->content_bytes;
    if (scan->content_choices > 0)
        relay->last_chunk_bytes = scan->content_bytes;
    relay->finished += scan->finish_count;
}

/* A chunk with choices that carries usage: OpenAI's form has it on a chunk of its own. */
static void add_without_usage(struct feeding *feeding, const struct answer_scan *scan, struct text data)
{
    struct text before, after;
    if (feeding->relay->rules.wants_usage_chunk) {
        before = (struct text){data.at, scan->usage_value_begin};
        after = (struct text){data.at + scan->usage_member_end, data.length - scan->usage_member_end};
        add_event(feeding, before, TEXT("null"), after);
    } else if (answer_usage_cut(scan, data, &before, &after)) {
        add_event(feeding, before, TEXT(""), after);
    }
}

static void relay_chunk(struct feeding *feeding, const struct sse_event *event, const struct answer_scan *scan)
{
    struct relay *relay = feeding->relay;
    bool has_usage = scan->has_usage_member && !scan->usage_is_null;
    bool is_usage_chunk = has_usage && scan->has_choices && scan->choice_count == 0;
    struct engine_usage usage = answer_usage(scan);
    /* One, that counts something; relay_closing makes it where the engine does not. */
    if (is_usage_chunk && (!relay->rules.wants_usage_chunk || relay->usage_chunk_sent || !counts_something(&usage)))
        return;
    relay->usage_chunk_sent |= is_usage_chunk;
    if (has_usage && !is_usage_chunk && !relay->rules.wants_continuous_usage)
        add_without_usage(feeding, scan, event->data);
    else
        add(feeding, event->raw);
}

/* False stops the parser: nothing after a closing event is for the client. */
static bool on_event(void *owner, const struct sse_event *event)
{
    struct feeding *feeding = owner;
    struct relay *relay = feeding->relay;
    struct answer_scan scan;
    relay->progressed = true;
    if (text_starts_with(event->data, TEXT("[DONE]"))) {
        relay->done_seen = true;
        return false;
    }
    answer_begin(&scan);
    answer_feed(&scan, event->data);
    if (scan.broken || !scan.complete || scan.has_error) {
        relay->error_seen = true;
        return false;
    }
    if (relay->template_length == 0 && (relay->rules.wants_usage_chunk || relay->rules.may_be_cut))
        keep_template(relay, event->data);
    count_content(relay, &scan);
    keep_usage(relay, &scan, event->data);
    relay_chunk(feeding, event, &scan);
    return !feeding->full;
}

bool relay_feed_events(struct relay *relay, struct text bytes, struct buffer *out)
{
    struct feeding feeding = {.relay = relay, .out = out};
    ENSURE(relay->kind == RELAY_EVENTS);
    relay->progressed = false;
    if (relay->done_seen || relay->error_seen)
        return true;
    (void) sse_feed(&relay->events, bytes, on_event, &feeding);
    return !relay->events.too_long && !feeding.full;
}

bool relay_has_finished(const struct relay *relay)
{
    return !relay->error_seen && relay->finished > 0 && (int64_t) relay->finished >= relay->rules.choices;
}

bool relay_is_complete(const struct relay *relay)
{
    bool has_ended = relay->done_seen && !relay->error_seen && relay->finished > 0;
    return has_ended || relay_has_finished(relay);
}

bool relay_closing(struct relay *relay, struct buffer *out)
{
    struct text usage = {relay->usage_json, relay->usage_json_length};
    bool fits = true;
    if (relay->rules.wants_usage_chunk && !relay->usage_chunk_sent && usage.length > 0) {
        fits = buffer_format(out, "data: {%.*s\"choices\":[],\"usage\":%.*s}\n\n", (int) relay->template_length,
                             relay->template_chunk, TEXT_ARGUMENTS(usage));
        relay->usage_chunk_sent = fits;
    }
    return fits && buffer_add(out, TEXT("data: [DONE]\n\n"));
}

bool relay_cut(struct relay *relay, const struct usage *usage, struct buffer *out)
{
    const char *content = relay->rules.is_chat ? "\"delta\":{}" : "\"text\":\"\"";
    bool fits = true;
    for (int64_t i = 0; i < relay->rules.choices && fits; i++)
        fits = buffer_format(
            out, "data: {%.*s\"choices\":[{\"index\":%lld,%s,\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n",
            (int) relay->template_length, relay->template_chunk, (long long) i, content);
    relay->usage_json_length = (size_t) snprintf(
        relay->usage_json, sizeof relay->usage_json,
        "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld}", (long long) usage->input_tokens,
        (long long) usage->output_tokens, (long long) (usage->input_tokens + usage->output_tokens));
    return fits && relay_closing(relay, out);
}

bool relay_error_event(struct buffer *out, const char *message, const char *type, const char *code)
{
    char memory[1024];
    struct builder event;
    builder_init(&event, memory, sizeof memory);
    builder_add_string(&event, "data: {\"error\":{\"message\":");
    builder_add_json(&event, text_of(message));
    builder_format(&event, ",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}\n\n", type, code);
    return !event.overflowed && buffer_add(out, builder_text(&event));
}

/* ---- usage ---- */

static int64_t count_chunks(const struct relay *relay, int64_t chunks)
{
    return content_tokens_of_chunks(&relay->rules.rates, chunks);
}

/* The answer whole, by what it shows: chunks of a stream; else bytes, when all of them have come. */
static void count_output(const struct relay *relay, bool complete, struct usage *usage)
{
    bool by_bytes = relay->kind == RELAY_WHOLE && complete && !relay->rules.is_embeddings;
    if (relay->kind == RELAY_EVENTS)
        usage->output_tokens = count_chunks(relay, relay->content_chunks);
    else if (by_bytes)
        usage->output_tokens = content_tokens_of_bytes(&relay->rules.rates, (int64_t) relay->scan.content_bytes);
    usage->output_source = by_bytes ? USAGE_ESTIMATED : USAGE_COUNTED;
}

/* What the engine's own count of the output leaves out: the other choices, or chunks that came after it. */
static int64_t left_out(const struct relay *relay, bool is_final, int64_t told)
{
    if (relay->kind == RELAY_EVENTS && !covers_one_of_many(relay))
        return count_chunks(relay, relay->content_chunks - relay->chunks_told);
    if (!is_final || !covers_one_of_many(relay))
        return 0;
    if (relay->kind == RELAY_EVENTS)
        return count_chunks(relay, relay->content_chunks - relay->first_choice_chunks);
    /* A whole answer shows bytes, not chunks: the other choices are taken to be like the reported one. */
    return relay->scan.content_choices > 1 ? told * (int64_t) (relay->scan.content_choices - 1) : 0;
}

static void take_engines_output(const struct relay *relay, bool complete, int64_t told, struct usage *usage)
{
    bool is_final = complete || relay->usage_is_final, is_stream = relay->kind == RELAY_EVENTS;
    bool is_of_any_choice = is_stream && relay->rules.choices > 1 && !is_final;
    if (is_of_any_choice || (is_stream && told == 0 && relay->content_chunks > 0))
        return; /* what was counted says more */
    int64_t others = left_out(relay, is_final, told);
    usage->output_tokens = told + others;
    usage->output_source = others > 0 ? USAGE_COUNTED : USAGE_ENGINE;
}

struct usage relay_usage(const struct relay *relay, bool complete, int64_t input_estimate_tokens)
{
    struct usage usage = {.input_tokens = input_estimate_tokens, .input_source = USAGE_ESTIMATED};
    struct engine_usage engine = relay->kind == RELAY_WHOLE ? answer_usage(&relay->scan) : relay->usage;
    bool has_content = relay->kind == RELAY_WHOLE ? relay->scan.content_choices > 0 : relay->content_chunks > 0;
    int64_t told = relay->rules.is_embeddings ? 0 : engine.output_tokens;
    /* Before the end a count of 0 may have been true when it was made. */
    bool is_lie = has_content && told == 0 && (complete || engine.input_tokens == 0);
    count_output(relay, complete, &usage);
    if (!engine.seen || is_lie)
        return usage;
    usage.input_tokens = engine.input_tokens;
    usage.cached_input_tokens = engine.cached_input_tokens;
    usage.input_source = USAGE_ENGINE;
    take_engines_output(relay, complete, told, &usage);
    return usage;
}

struct content_sample relay_content_sample(const struct relay *relay)
{
    bool is_stream = relay->kind == RELAY_EVENTS;
    struct engine_usage engine = is_stream ? relay->usage : answer_usage(&relay->scan);
    if (!engine.seen || covers_one_of_many(relay) || (is_stream && relay->chunks_told < relay->content_chunks))
        return (struct content_sample){0};
    return (struct content_sample){
        .tokens = engine.output_tokens,
        .chunks = is_stream ? relay->content_chunks : 0,
        .bytes = (int64_t) (is_stream ? relay->content_bytes : relay->scan.content_bytes),
        .last_chunk_bytes = is_stream ? (int64_t) relay->last_chunk_bytes : 0,
        .choices = relay->rules.choices > 1 ? relay->rules.choices : 1,
    };
}

/* ---- errors ---- */

static struct text decode(struct text span, char *to, size_t capacity)
{
    if (span.length > capacity)
        return (struct text){NULL, 0};
    return (struct text){to, json_string_decode(span, to)};
}

/* error.message, or a top-level message, error or detail that is a string: the shapes engines are known to use. */
static struct text find_message(struct json_scan *scan, char *to, size_t capacity, unsigned depth)
{
    while (json_next(scan) == JSON_KEY) {
        struct text key = scan->span, value;
        bool is_message = json_string_equals(key, TEXT("message")) || json_string_equals(key, TEXT("detail"));
        bool is_error = json_string_equals(key, TEXT("error"));
        if (!json_skip_value(scan, &value))
            break;
        if ((is_message || is_error) && value.length > 2 && value.at[0] == '"')
            return decode(value, to, capacity);
        if (is_error && depth == 0 && value.length > 0 && value.at[0] == '{') {
            struct json_scan inner;
            json_begin(&inner, value);
            (void) json_next(&inner);
            return find_message(&inner, to, capacity, 1);
        }
    }
    return (struct text){NULL, 0};
}

struct text relay_engine_message(struct text body, char *to, size_t capacity)
{
    struct json_scan scan;
    json_begin(&scan, body);
    if (json_next(&scan) != JSON_OBJECT_BEGIN)
        return (struct text){NULL, 0};
    return find_message(&scan, to, capacity, 0);
}
