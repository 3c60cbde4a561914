/* The members of a request body that we govern, as one table, and the pass that looks for them. */
#include "gateway/openai.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "gateway/openai_parse.h"

enum {
    REFUSAL_BYTES_MAX = 512,
    MODEL_BYTES_MAX = 256,
    CHOICES_MAX = 128,
    BEST_OF_MAX = 20,
    LOGPROBS_MAX = 20,
    NAME_BYTES_MAX = 32,
    ESCAPE_BYTES = 6 /* of \u0061 */
};

bool openai_refuse(struct openai_parse *parse, const char *param, const char *code, const char *format, ...)
{
    char memory[REFUSAL_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(memory, sizeof(memory), format, arguments);
    va_end(arguments);
    const char *message = length < 0 ? NULL : arena_copy_string(parse->arena, text_of(memory));
    parse->refusal = (struct openai_refusal){.status = 400, .param = param, .code = code, .message = message};
    if (message == NULL)
        parse->refusal.message = "Your request has an invalid parameter.";
    return false;
}

static bool refuse_syntax(struct openai_parse *parse)
{
    return openai_refuse(parse, NULL, NULL, "We could not parse the JSON body of your request: %s (at byte %zu).",
                         parse->scan.error != NULL ? parse->scan.error : "a value is expected", parse->scan.position);
}

static const char *name_of_token(enum json_token token)
{
    switch (token) {
    case JSON_OBJECT_BEGIN:
        return "an object";
    case JSON_ARRAY_BEGIN:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_NUMBER:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    case JSON_KEY:
    case JSON_OBJECT_END:
    case JSON_ARRAY_END:
    case JSON_END:
    case JSON_ERROR:
    default:
        return "something else";
    }
}

bool openai_refuse_type(struct openai_parse *parse, const char *param, const char *expected)
{
    if (parse->scan.token == JSON_ERROR)
        return refuse_syntax(parse);
    return openai_refuse(parse, param, "invalid_type", "Invalid type for '%s': expected %s, but got %s instead.", param,
                         expected, name_of_token(parse->scan.token));
}

/* A member that we read or refuse. Its value's first token has been read when @take is called, and is not null. */
struct member {
    const char *name; /* with the path to it, as errors call it */
    unsigned endpoint_bits;
    bool (*take)(struct openai_parse *parse, const char *param);
    bool required;
};

static bool take_model(struct openai_parse *parse, const char *param)
{
    struct text span = parse->scan.span;
    if (parse->scan.token != JSON_STRING)
        return openai_refuse_type(parse, param, "a string");
    size_t length = json_decoded_length(span);
    if (length == 0 || length > MODEL_BYTES_MAX)
        return openai_refuse(parse, param, "invalid_value", "Invalid 'model': expected a name of 1 to %d bytes.",
                             MODEL_BYTES_MAX);
    parse->request.model_span = span;
    parse->request.model = (struct text){span.at + 1, length};
    if (length == span.length - 2)
        return true;
    char *decoded = arena_take(parse->arena, span.length);
    if (decoded == NULL)
        return openai_refuse(parse, param, NULL, "Invalid 'model'.");
    parse->request.model = (struct text){decoded, json_string_decode(span, decoded)};
    return true;
}

static bool take_boolean(struct openai_parse *parse, const char *param, bool *ret)
{
    if (parse->scan.token != JSON_TRUE && parse->scan.token != JSON_FALSE)
        return openai_refuse_type(parse, param, "a boolean");
    *ret = parse->scan.token == JSON_TRUE;
    return true;
}

static bool take_stream(struct openai_parse *parse, const char *param)
{
    return take_boolean(parse, param, &parse->request.stream);
}

/* An integer literal: 16.0 and 1e3 are refused, as engines disagree about them. */
static bool take_integer(struct openai_parse *parse, const char *param, int64_t min, int64_t max, int64_t *ret)
{
    struct text span = parse->scan.span;
    if (parse->scan.token != JSON_NUMBER)
        return openai_refuse_type(parse, param, "an integer");
    size_t digits = span.at[0] == '-' ? span.length - 1 : span.length;
    if (memchr(span.at, '.', span.length) != NULL || memchr(span.at, 'e', span.length) != NULL ||
        memchr(span.at, 'E', span.length) != NULL)
        return openai_refuse(parse, param, "invalid_type",
                             "Invalid type for '%s': expected an integer, but got a decimal number instead.", param);
    int64_t value = 0;
    bool fits = digits < 19 && json_number_to_int64(span, &value);
    if (span.at[0] == '-' ? !fits || value < min : fits && value < min)
        return openai_refuse(parse, param, "integer_below_min_value",
                             "Invalid '%s': integer below minimum value. Expected a value >= %lld.", param,
                             (long long) min);
    if (!fits || value > max)
        return openai_refuse(parse, param, "integer_above_max_value",
                             "Invalid '%s': integer above maximum value. Expected a value <= %lld.", param,
                             (long long) max);
    *ret = value;
    return true;
}

/* The largest of all the names that cap the answer: engines differ in which of them wins. */
static bool take_cap(struct openai_parse *parse, const char *param)
{
    int64_t cap;
    if (!take_integer(parse, param, 0, INT32_MAX, &cap))
        return false;
    if (cap > parse->request.cap_tokens)
        parse->request.cap_tokens = cap;
    return true;
}

static bool take_choices(struct openai_parse *parse, const char *param)
{
    int64_t choices;
    if (!take_integer(parse, param, 1, CHOICES_MAX, &choices))
        return false;
    if (choices > parse->request.choices)
        parse->request.choices = choices;
    return true;
}

static bool take_best_of(struct openai_parse *parse, const char *param)
{
    return take_integer(parse, param, 1, BEST_OF_MAX, &parse->request.best_of);
}

static bool take_logprobs(struct openai_parse *parse, const char *param)
{
    int64_t count;
    return take_integer(parse, param, 0, LOGPROBS_MAX, &count);
}

static bool take_chat_logprobs(struct openai_parse *parse, const char *param)
{
    bool wanted;
    return take_boolean(parse, param, &wanted);
}

static bool take_upstream(struct openai_parse *parse, const char *param)
{
    return openai_refuse(parse, param, "unsupported_parameter",
                         "Unsupported parameter: '%s' would choose where the request goes, which only the operator of "
                         "this gateway may do.",
                         param);
}

static bool take_include_usage(struct openai_parse *parse, const char *param)
{
    parse->request.include_usage_span = parse->scan.span;
    return take_boolean(parse, param, &parse->request.include_usage);
}

static bool take_continuous_usage(struct openai_parse *parse, const char *param)
{
    parse->request.continuous_usage_span = parse->scan.span;
    return take_boolean(parse, param, &parse->request.continuous_usage);
}

static bool take_stream_options(struct openai_parse *parse, const char *param);

enum {
    COMPLETIONS = 1u << ENDPOINT_COMPLETIONS,
    CHAT = 1u << ENDPOINT_CHAT,
    EMBEDDINGS = 1u << ENDPOINT_EMBEDDINGS,
    GENERATE = COMPLETIONS | CHAT,
    EVERY = GENERATE | EMBEDDINGS
};

static const struct member members[] = {
    {"model", EVERY, take_model, true},
    {"prompt", COMPLETIONS, openai_take_prompts, true},
    {"messages", CHAT, openai_take_messages, true},
    {"input", EMBEDDINGS, openai_take_prompts, true},
    {"suffix", COMPLETIONS, openai_take_text, false},
    {"tools", CHAT, openai_take_definitions, false},
    {"functions", CHAT, openai_take_definitions, false},
    {"documents", CHAT, openai_take_definitions, false},
    {"stream", GENERATE, take_stream, false},
    {"stream_options", GENERATE, take_stream_options, false},
    {"max_tokens", GENERATE, take_cap, false},
    {"max_completion_tokens", CHAT, take_cap, false},
    {"n_predict", GENERATE, take_cap, false}, /* llama.cpp's own name, which overrides max_tokens there */
    {"n", GENERATE, take_choices, false},
    {"n_cmpl", GENERATE, take_choices, false}, /* llama.cpp's own name, which overrides n there */
    {"best_of", GENERATE, take_best_of, false},
    {"logprobs", COMPLETIONS, take_logprobs, false},
    {"logprobs", CHAT, take_chat_logprobs, false},
    {"top_logprobs", CHAT, take_logprobs, false},
    /* What gateways and engines read as an address, a credential or another model (CVE-2024-6587 and its like). */
    {"api_base", EVERY, take_upstream, false},
    {"base_url", EVERY, take_upstream, false},
    {"api_key", EVERY, take_upstream, false},
    {"custom_host", EVERY, take_upstream, false},
    {"custom_llm_provider", EVERY, take_upstream, false},
    {"extra_headers", EVERY, take_upstream, false},
    {"user_config", EVERY, take_upstream, false},
    {"model_list", EVERY, take_upstream, false},
    {"models", EVERY, take_upstream, false},
    {"fallbacks", EVERY, take_upstream, false},
    {"bootstrap_host", EVERY, take_upstream, false},
    {"bootstrap_port", EVERY, take_upstream, false},
    {"kv_transfer_params", EVERY, take_upstream, false},
};
enum { MEMBER_COUNT = sizeof(members) / sizeof(members[0]) };

static const struct member stream_option_members[] = {
    {"stream_options.include_usage", EVERY, take_include_usage, false},
    {"stream_options.continuous_usage_stats", EVERY, take_continuous_usage, false},
};
enum { STREAM_OPTION_COUNT = sizeof(stream_option_members) / sizeof(stream_option_members[0]) };

/* The members of one object: which are governed, which were met, and which of those were not null. */
struct member_table {
    const struct member *rows;
    size_t count;
    size_t path_length; /* of each row's name, before the key */
    unsigned endpoint_bit;
    uint64_t met;
    uint64_t given;
};

/* Lower-case @key in place as the loosest engine does (Go's encoding/json): ASCII letters, and U+017F and U+212A, which
 * fold to s and k. Returns the new length. */
static size_t fold(char *key, size_t length)
{
    size_t to = 0;
    for (size_t from = 0; from < length; to++) {
        if (length - from >= 2 && memcmp(key + from, "\xC5\xBF", 2) == 0) {
            key[to] = 's';
            from += 2;
        } else if (length - from >= 3 && memcmp(key + from, "\xE2\x84\xAA", 3) == 0) {
            key[to] = 'k';
            from += 3;
        } else {
            char c = key[from++];
            key[to] = c >= 'A' && c <= 'Z' ? (char) (c - 'A' + 'a') : c;
        }
    }
    return to;
}

static struct text key_of(const struct member_table *table, size_t index)
{
    return text_of(table->rows[index].name + table->path_length);
}

/* The governed member that some engine would take @key for, or table->count. */
static size_t find_member(const struct member_table *table, struct text key)
{
    char name[NAME_BYTES_MAX * ESCAPE_BYTES];
    if (key.length > sizeof(name))
        return table->count;
    size_t length = fold(name, json_string_decode(key, name));
    for (size_t i = 0; i < table->count; i++)
        if ((table->rows[i].endpoint_bits & table->endpoint_bit) != 0 &&
            text_equal(key_of(table, i), (struct text){name, length}))
            return i;
    return table->count;
}

/* An explicit null counts as absent, but a splice may have to replace it. */
static void note_null(struct openai_parse *parse, const char *name)
{
    struct openai_request *request = &parse->request;
    if (strcmp(name, "max_tokens") == 0)
        request->cap_null_span = parse->scan.span;
    else if (strcmp(name, "stream_options") == 0)
        request->stream_options_span = parse->scan.span;
    else if (strcmp(name, "stream_options.include_usage") == 0)
        request->include_usage_span = parse->scan.span;
    else if (strcmp(name, "stream_options.continuous_usage_stats") == 0)
        request->continuous_usage_span = parse->scan.span;
}

/* A key was just read: take the whole member. */
static bool take_member(struct openai_parse *parse, struct member_table *table)
{
    struct text key = parse->scan.span;
    size_t index = find_member(table, key);
    if (index == table->count)
        return json_skip_value(&parse->scan, NULL) || refuse_syntax(parse);

    const struct member *member = &table->rows[index];
    if (!json_string_equals(key, key_of(table, index)))
        return openai_refuse(parse, member->name, "unknown_parameter",
                             "Unknown parameter: a key that differs from '%s' only in letter case.", member->name);
    if ((table->met >> index & 1) != 0)
        return openai_refuse(parse, member->name, "duplicate_parameter",
                             "Duplicate parameter: '%s' may be given only once.", member->name);
    table->met |= UINT64_C(1) << index;

    if (json_next(&parse->scan) == JSON_NULL) {
        note_null(parse, member->name);
        return true;
    }
    table->given |= UINT64_C(1) << index;
    return member->take(parse, member->name);
}

/* '{' was just read: take all members and the '}'. */
static bool take_members(struct openai_parse *parse, struct member_table *table)
{
    while (json_next(&parse->scan) == JSON_KEY)
        if (!take_member(parse, table))
            return false;
    return parse->scan.token == JSON_OBJECT_END || refuse_syntax(parse);
}

static bool take_stream_options(struct openai_parse *parse, const char *param)
{
    struct member_table table = {stream_option_members, STREAM_OPTION_COUNT, strlen("stream_options."), EVERY, 0, 0};
    struct text begin = parse->scan.span;
    if (parse->scan.token != JSON_OBJECT_BEGIN)
        return openai_refuse_type(parse, param, "an object");
    if (!take_members(parse, &table))
        return false;
    const char *end = parse->scan.whole.at + parse->scan.position;
    parse->request.stream_options_span = (struct text){begin.at, (size_t) (end - begin.at)};
    return true;
}

static bool check_required(struct openai_parse *parse, const struct member_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct member *member = &table->rows[i];
        bool needed = member->required && (member->endpoint_bits & table->endpoint_bit) != 0;
        if (needed && (table->given >> i & 1) == 0)
            return openai_refuse(parse, member->name, "missing_required_parameter", "Missing required parameter: '%s'.",
                                 member->name);
    }
    return true;
}

/* best_of against n and stream, which may stand before or after it. */
static bool check_best_of(struct openai_parse *parse)
{
    struct openai_request *request = &parse->request;
    if (request->best_of == 0)
        request->best_of = request->choices;
    if (request->best_of < request->choices)
        return openai_refuse(parse, "best_of", "invalid_value",
                             "Invalid 'best_of': expected a value >= 'n', which is %lld.",
                             (long long) request->choices);
    if (request->stream && request->best_of > request->choices)
        return openai_refuse(parse, "best_of", "invalid_value",
                             "Invalid 'best_of': a stream cannot choose the best; leave it out or set 'stream' to "
                             "false.");
    return true;
}

static bool parse_body(struct openai_parse *parse, struct member_table *table)
{
    enum json_token token = json_next(&parse->scan);
    if (token == JSON_ERROR)
        return refuse_syntax(parse);
    if (token != JSON_OBJECT_BEGIN)
        return openai_refuse(parse, NULL, NULL, "The JSON body of your request must be an object, but it is %s.",
                             name_of_token(token));
    parse->request.object_inside = parse->scan.position;
    if (!take_members(parse, table))
        return false;
    if (json_next(&parse->scan) != JSON_END)
        return refuse_syntax(parse);
    return check_required(parse, table) && check_best_of(parse);
}

bool openai_parse(enum endpoint endpoint, struct text body, struct arena *arena, struct openai_request *ret,
                  struct openai_refusal *ret_refusal)
{
    struct openai_parse parse = {.arena = arena, .request = {.cap_tokens = -1, .choices = 1, .prompts = 1}};
    struct member_table table = {members, MEMBER_COUNT, 0, 1u << endpoint, 0, 0};
    _Static_assert(MEMBER_COUNT <= 64, "one bit a member");
    json_begin(&parse.scan, body);
    if (!parse_body(&parse, &table)) {
        *ret_refusal = parse.refusal;
        return false;
    }
    *ret = parse.request;
    return true;
}
