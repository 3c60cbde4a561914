/* What we change in a request body, as replacements of byte ranges; and the error body. */
#include <string.h>

#include "base/panic.h"
#include "gateway/openai.h"

enum { INSERTION_BYTES_MAX = 128, ESCAPED_BYTES_MAX = 6 };

/* Keep the order; of two insertions at one place the earlier call comes first. */
static void add_splice(struct splices *to, size_t begin, size_t end, struct text with)
{
    ENSURE(to->count < SPLICES_MAX);
    size_t i = to->count++;
    for (; i > 0 && to->items[i - 1].begin > begin; i--)
        to->items[i] = to->items[i - 1];
    to->items[i] = (struct splice){begin, end, with};
}

static void replace_span(struct splices *to, struct text body, struct text span, struct text with)
{
    size_t begin = (size_t) (span.at - body.at);
    add_splice(to, begin, begin + span.length, with);
}

/* A builder in the arena's memory; false when it is exhausted. */
static bool builder_take(struct builder *to, struct arena *arena, size_t capacity)
{
    char *memory = arena_take(arena, capacity);
    if (memory == NULL)
        return false;
    builder_init(to, memory, capacity);
    return true;
}

static bool splice_model(const struct openai_request *request, struct text body, const char *engine_model,
                         struct arena *arena, struct splices *ret)
{
    struct text name = text_of(engine_model);
    bool unescaped = request->model.length + 2 == request->model_span.length;
    if (unescaped && text_equal(request->model, name))
        return true;
    struct builder json;
    if (!builder_take(&json, arena, name.length * ESCAPED_BYTES_MAX + 3))
        return false;
    builder_add_json(&json, name);
    replace_span(ret, body, request->model_span, builder_text(&json));
    return true;
}

static bool splice_cap(const struct openai_request *request, struct text body, int64_t cap_tokens, struct arena *arena,
                       struct splices *ret)
{
    struct builder text;
    if (cap_tokens <= 0 || request->cap_tokens >= 0)
        return true;
    if (!builder_take(&text, arena, INSERTION_BYTES_MAX))
        return false;
    if (request->cap_null_span.length > 0) {
        builder_format(&text, "%lld", (long long) cap_tokens);
        replace_span(ret, body, request->cap_null_span, builder_text(&text));
        return true;
    }
    /* The comma is right: the object has a model at least. */
    builder_format(&text, "\"max_tokens\":%lld,", (long long) cap_tokens);
    add_splice(ret, request->object_inside, request->object_inside, builder_text(&text));
    return true;
}

/* Is there nothing but white space in the object @span? */
static bool is_empty_object(struct text span)
{
    for (size_t i = 1; i + 1 < span.length; i++)
        if (strchr(" \t\r\n", span.at[i]) == NULL)
            return false;
    return true;
}

/* stream_options is absent or null: write all of it. */
static void splice_new_stream_options(const struct openai_request *request, struct text body, bool continuous,
                                      struct splices *ret)
{
#define OPTIONS            "{\"include_usage\":true}"
#define CONTINUOUS_OPTIONS "{\"include_usage\":true,\"continuous_usage_stats\":true}"
    struct text value = continuous ? TEXT(CONTINUOUS_OPTIONS) : TEXT(OPTIONS);
    struct text member =
        continuous ? TEXT("\"stream_options\":" CONTINUOUS_OPTIONS ",") : TEXT("\"stream_options\":" OPTIONS ",");
    if (request->stream_options_span.length > 0)
        replace_span(ret, body, request->stream_options_span, value);
    else
        add_splice(ret, request->object_inside, request->object_inside, member);
}

/* Make a member of the client's stream_options true: replaced where it stands, else added to @insertion. */
static void set_stream_option(struct text body, struct text span, const char *member, struct builder *insertion,
                              struct splices *ret)
{
    if (span.length > 0 && !text_equal(span, TEXT("true")))
        replace_span(ret, body, span, TEXT("true"));
    if (span.length == 0)
        builder_format(insertion, "%s\"%s\":true", insertion->length > 0 ? "," : "", member);
}

static bool splice_stream_options(const struct openai_request *request, struct text body, bool continuous,
                                  struct arena *arena, struct splices *ret)
{
    struct text span = request->stream_options_span;
    if (span.length == 0 || span.at[0] != '{') {
        splice_new_stream_options(request, body, continuous, ret);
        return true;
    }
    struct builder insertion;
    if (!builder_take(&insertion, arena, INSERTION_BYTES_MAX))
        return false;
    set_stream_option(body, request->include_usage_span, "include_usage", &insertion, ret);
    if (continuous)
        set_stream_option(body, request->continuous_usage_span, "continuous_usage_stats", &insertion, ret);
    if (insertion.length == 0)
        return true;
    if (!is_empty_object(span))
        builder_add_string(&insertion, ",");
    size_t inside = (size_t) (span.at - body.at) + 1;
    add_splice(ret, inside, inside, builder_text(&insertion));
    return true;
}

bool openai_splice(enum endpoint endpoint, const struct openai_request *request, struct text body,
                   const struct openai_rewrite *rewrite, struct arena *arena, struct splices *ret)
{
    struct splices splices = {.count = 0};
    if (!splice_model(request, body, rewrite->engine_model, arena, &splices))
        return false;
    bool generates = endpoint == ENDPOINT_COMPLETIONS || endpoint == ENDPOINT_CHAT;
    if (generates && !splice_cap(request, body, rewrite->cap_tokens, arena, &splices))
        return false;
    if (generates && request->stream &&
        !splice_stream_options(request, body, rewrite->force_continuous_usage, arena, &splices))
        return false;
    *ret = splices;
    return true;
}

size_t splices_length(struct text body, const struct splices *splices)
{
    size_t length = body.length;
    for (size_t i = 0; i < splices->count; i++)
        length = length - (splices->items[i].end - splices->items[i].begin) + splices->items[i].with.length;
    return length;
}

/* A reader's place: @skip bytes to pass over, then up to @left bytes into @to. */
struct window {
    size_t skip;
    char *to;
    size_t left;
    size_t count;
};

static void window_add(struct window *window, const char *at, size_t length)
{
    size_t skipped = length < window->skip ? length : window->skip;
    size_t copied = length - skipped < window->left ? length - skipped : window->left;
    if (copied > 0)
        memcpy(window->to + window->count, at + skipped, copied);
    window->skip -= skipped;
    window->left -= copied;
    window->count += copied;
}

size_t splices_read(struct text body, const struct splices *splices, size_t offset, char *to, size_t capacity)
{
    struct window window = {.skip = offset, .to = to, .left = capacity};
    size_t position = 0;
    for (size_t i = 0; i < splices->count; i++) {
        const struct splice *splice = &splices->items[i];
        window_add(&window, body.at + position, splice->begin - position);
        window_add(&window, splice->with.at, splice->with.length);
        position = splice->end;
    }
    window_add(&window, body.at + position, body.length - position);
    return window.count;
}

static void add_nullable(struct builder *to, const char *string)
{
    if (string == NULL)
        builder_add_string(to, "null");
    else
        builder_add_json(to, text_of(string));
}

void openai_error_json(struct builder *to, const char *message, const char *type, const char *param, const char *code)
{
    builder_add_string(to, "{\"error\":{\"message\":");
    builder_add_json(to, text_of(message));
    builder_add_string(to, ",\"type\":");
    builder_add_json(to, text_of(type));
    builder_add_string(to, ",\"param\":");
    add_nullable(to, param);
    builder_add_string(to, ",\"code\":");
    add_nullable(to, code);
    builder_add_string(to, "}}");
}
