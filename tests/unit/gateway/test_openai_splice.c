/* gateway/openai_splice: after the splices a body is what was meant, and nothing else changed. */
#include <string.h>

#include "base/buffer.h"
#include "gateway/openai.h"
#include "tests/lib/unit.h"

#include <jansson.h>

enum { ARENA_BYTES = 64 * 1024, BODY_BYTES_MAX = 16 * 1024, ROUNDS = 3000 };

static const struct openai_rewrite rewrite_16 = {.engine_model = "engine", .cap_tokens = 16};

/* Parse and splice @body; the result, read in one go, is in @to. */
static void splice(enum endpoint endpoint, const char *body, const struct openai_rewrite *rewrite, struct buffer *to)
{
    struct arena arena;
    struct openai_request request;
    struct openai_refusal refusal;
    struct splices splices;
    static char memory[BODY_BYTES_MAX];
    arena_init(&arena, ARENA_BYTES);
    buffer_init(to, BODY_BYTES_MAX);
    if (!openai_parse(endpoint, text_of(body), &arena, &request, &refusal))
        fail_msg("%s is refused: %s", body, refusal.message);
    assert_true(openai_splice(endpoint, &request, text_of(body), rewrite, &arena, &splices));
    size_t length = splices_read(text_of(body), &splices, 0, memory, sizeof(memory));
    assert_int_equal(length, splices_length(text_of(body), &splices));
    assert_true(buffer_add(to, (struct text){memory, length}));

    /* Any piece of it is the same bytes. */
    for (int i = 0; i < 8; i++) {
        char piece[64];
        size_t offset = unit_random_below(length + 2), capacity = unit_random_below(sizeof(piece) + 1);
        size_t left = offset < length ? length - offset : 0;
        size_t count = splices_read(text_of(body), &splices, offset, piece, capacity);
        assert_int_equal(count, left < capacity ? left : capacity);
        assert_memory_equal(piece, memory + (offset < length ? offset : 0), count);
    }
    arena_finish(&arena);
}

static void assert_spliced(enum endpoint endpoint, const char *body, const struct openai_rewrite *rewrite,
                           const char *expected)
{
    struct buffer found;
    splice(endpoint, body, rewrite, &found);
    if (!text_equal(buffer_text(&found), text_of(expected)))
        fail_msg("%s\nbecame %.*s", body, TEXT_ARGUMENTS(buffer_text(&found)));
    buffer_finish(&found);
}

static void only_what_must_change_changes(void **state)
{
    (void) state;
    struct openai_rewrite plain = {.engine_model = "m"}, quoted = {.engine_model = "a\"b"};
    static const char body[] = " { \"prompt\" : \"0.1000000000000000055 \\u00e9\" , \"x\":1.0e+0,\"model\" : \"m\" }";
    assert_spliced(ENDPOINT_COMPLETIONS, body, &plain, body);
    assert_spliced(ENDPOINT_EMBEDDINGS, "{\"input\":\"x\",\"model\":\"\\u006d\",\"max_tokens\":null,\"stream\":true}",
                   &rewrite_16, "{\"input\":\"x\",\"model\":\"engine\",\"max_tokens\":null,\"stream\":true}");
    assert_spliced(ENDPOINT_EMBEDDINGS, "{\"input\":\"x\",\"model\":\"\\u006d\"}", &plain,
                   "{\"input\":\"x\",\"model\":\"m\"}");
    assert_spliced(ENDPOINT_EMBEDDINGS, "{\"input\":\"x\",\"model\":\"m\"}", &quoted,
                   "{\"input\":\"x\",\"model\":\"a\\\"b\"}");
}

static void the_cap_is_put_in_where_there_is_none(void **state)
{
    (void) state;
    assert_spliced(ENDPOINT_COMPLETIONS, "{\"model\":\"m\",\"prompt\":\"\"}", &rewrite_16,
                   "{\"max_tokens\":16,\"model\":\"engine\",\"prompt\":\"\"}");
    assert_spliced(ENDPOINT_COMPLETIONS, "{\"model\":\"m\",\"prompt\":\"\",\"max_tokens\": null}", &rewrite_16,
                   "{\"model\":\"engine\",\"prompt\":\"\",\"max_tokens\": 16}");
    assert_spliced(ENDPOINT_COMPLETIONS, "{\"max_tokens\":null,\"model\":\"m\",\"prompt\":\"\",\"n_predict\":4}",
                   &rewrite_16, "{\"max_tokens\":null,\"model\":\"engine\",\"prompt\":\"\",\"n_predict\":4}");
    assert_spliced(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{}],\"max_completion_tokens\":null}", &rewrite_16,
                   "{\"max_tokens\":16,\"model\":\"engine\",\"messages\":[{}],\"max_completion_tokens\":null}");
    assert_spliced(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{}],\"max_completion_tokens\":0}", &rewrite_16,
                   "{\"model\":\"engine\",\"messages\":[{}],\"max_completion_tokens\":0}");
    assert_spliced(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{}],\"max_tokens\":9}", &rewrite_16,
                   "{\"model\":\"engine\",\"messages\":[{}],\"max_tokens\":9}");
}

static void a_stream_always_asks_for_usage(void **state)
{
    (void) state;
    const struct openai_rewrite plain = {.engine_model = "m"};
    const struct openai_rewrite continuous = {.engine_model = "m", .force_continuous_usage = true};
    static const struct {
        const char *options, *usage_only, *continuous;
    } examples[] = {
        {"null", "{\"include_usage\":true}", "{\"include_usage\":true,\"continuous_usage_stats\":true}"},
        {"{}", "{\"include_usage\":true}", "{\"include_usage\":true,\"continuous_usage_stats\":true}"},
        {"{ \n}", "{\"include_usage\":true \n}", "{\"include_usage\":true,\"continuous_usage_stats\":true \n}"},
        {"{\"x\":1}", "{\"include_usage\":true,\"x\":1}",
         "{\"include_usage\":true,\"continuous_usage_stats\":true,\"x\":1}"},
        {"{\"include_usage\":false}", "{\"include_usage\":true}",
         "{\"continuous_usage_stats\":true,\"include_usage\":true}"},
        {"{\"include_usage\":null,\"x\":1}", "{\"include_usage\":true,\"x\":1}",
         "{\"continuous_usage_stats\":true,\"include_usage\":true,\"x\":1}"},
        {"{\"include_usage\":true}", "{\"include_usage\":true}",
         "{\"continuous_usage_stats\":true,\"include_usage\":true}"},
        {"{\"continuous_usage_stats\":true}", "{\"include_usage\":true,\"continuous_usage_stats\":true}",
         "{\"include_usage\":true,\"continuous_usage_stats\":true}"},
        {"{\"continuous_usage_stats\":false,\"include_usage\":false}",
         "{\"continuous_usage_stats\":false,\"include_usage\":true}",
         "{\"continuous_usage_stats\":true,\"include_usage\":true}"},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        char body[256], expected[256];
        const char *format = "{\"model\":\"m\",\"prompt\":\"\",\"stream_options\":%s,\"stream\":true}";
        struct builder to;
        for (int forced = 0; forced < 2; forced++) {
            const char *after = forced ? examples[i].continuous : examples[i].usage_only;
            size_t gap = (size_t) (strstr(format, "%s") - format);
            builder_init(&to, body, sizeof(body));
            builder_add(&to, (struct text){format, gap});
            builder_add_string(&to, examples[i].options);
            builder_add_string(&to, format + gap + 2);
            (void) builder_string(&to);
            builder_init(&to, expected, sizeof(expected));
            builder_add(&to, (struct text){format, gap});
            builder_add_string(&to, after);
            builder_add_string(&to, format + gap + 2);
            assert_spliced(ENDPOINT_COMPLETIONS, body, forced ? &continuous : &plain, builder_string(&to));
        }
    }
    assert_spliced(ENDPOINT_COMPLETIONS, "{\"model\":\"m\",\"prompt\":\"\",\"stream\":true}", &plain,
                   "{\"stream_options\":{\"include_usage\":true},\"model\":\"m\",\"prompt\":\"\",\"stream\":true}");
    assert_spliced(
        ENDPOINT_COMPLETIONS, "{\"model\":\"m\",\"prompt\":\"\",\"stream\":true}", &rewrite_16,
        "{\"max_tokens\":16,\"stream_options\":{\"include_usage\":true},\"model\":\"engine\",\"prompt\":\"\","
        "\"stream\":true}");
    assert_spliced(ENDPOINT_COMPLETIONS, "{\"model\":\"m\",\"prompt\":\"\",\"stream\":false,\"stream_options\":null}",
                   &plain, "{\"model\":\"m\",\"prompt\":\"\",\"stream\":false,\"stream_options\":null}");
}

static bool one_in(size_t count)
{
    return unit_random_below(count) == 0;
}

static json_t *random_stream_options(void)
{
    if (one_in(4))
        return json_null();
    json_t *options = json_object();
    const char *names[] = {"include_usage", "continuous_usage_stats"};
    if (one_in(2))
        json_object_set_new(options, "other", json_string("}\"{,"));
    for (size_t i = 0; i < 2; i++)
        if (one_in(2))
            json_object_set_new(options, names[i], one_in(3) ? json_null() : json_boolean(one_in(2)));
    if (one_in(3))
        json_object_set_new(options, "more", json_array());
    return options;
}

/* A legal body with the members that matter in random order; jansson keeps the order of insertion. */
static json_t *random_body(enum endpoint endpoint)
{
    static const char *const input_names[] = {"prompt", "messages", "input"};
    enum { MODEL, INPUT, STREAM, OPTIONS, CAP, CHAT_CAP, OTHER, COUNT };
    json_t *body = json_object();
    size_t first = unit_random_below(COUNT), step = 1 + unit_random_below(COUNT - 1);
    for (size_t i = 0, member = first; i < COUNT; i++, member = (member + step) % COUNT) {
        if (member == MODEL)
            json_object_set_new(body, "model", json_string(one_in(2) ? "m" : "\xC3\xA9/\"\\"));
        else if (member == INPUT)
            json_object_set_new(body, input_names[endpoint],
                                endpoint == ENDPOINT_CHAT ? json_pack("[{s:s}]", "content", "{\"model\":\"x\"}")
                                                          : json_string("\"stream\":true"));
        else if (member == STREAM && one_in(2))
            json_object_set_new(body, "stream", one_in(4) ? json_null() : json_boolean(!one_in(4)));
        else if (member == OPTIONS && one_in(2))
            json_object_set_new(body, "stream_options", random_stream_options());
        else if (member == CAP && one_in(2))
            json_object_set_new(body, "max_tokens",
                                one_in(2) ? json_null() : json_integer((json_int_t) unit_random_below(99)));
        else if (member == CHAT_CAP && one_in(2))
            json_object_set_new(body, "max_completion_tokens", one_in(2) ? json_null() : json_integer(7));
        else if (member == OTHER && one_in(2))
            json_object_set_new(body, "other", json_pack("{s:[i,{s:n}]}", "model", 1, "max_tokens"));
    }
    return body;
}

static bool has_number(const json_t *body, const char *name)
{
    return json_is_integer(json_object_get(body, name));
}

/* What the rules say, said with jansson. */
static void expect(enum endpoint endpoint, json_t *body, const struct openai_rewrite *rewrite)
{
    json_object_set_new(body, "model", json_string(rewrite->engine_model));
    if (endpoint == ENDPOINT_EMBEDDINGS)
        return;
    bool capped =
        has_number(body, "max_tokens") || (endpoint == ENDPOINT_CHAT && has_number(body, "max_completion_tokens"));
    if (!capped && rewrite->cap_tokens > 0)
        json_object_set_new(body, "max_tokens", json_integer(rewrite->cap_tokens));
    if (!json_is_true(json_object_get(body, "stream")))
        return;
    if (!json_is_object(json_object_get(body, "stream_options")))
        json_object_set_new(body, "stream_options", json_object());
    json_object_set_new(json_object_get(body, "stream_options"), "include_usage", json_true());
    if (rewrite->force_continuous_usage)
        json_object_set_new(json_object_get(body, "stream_options"), "continuous_usage_stats", json_true());
}

static void random_bodies_become_what_the_rules_say(void **state)
{
    (void) state;
    for (int round = 0; round < ROUNDS; round++) {
        enum endpoint endpoint = (enum endpoint) unit_random_below(3);
        struct openai_rewrite rewrite = {one_in(3) ? "m" : "\xC3\xA9/\"\\", one_in(4) ? 0 : 16, one_in(2)};
        json_t *body = random_body(endpoint);
        size_t flags = one_in(3) ? JSON_INDENT(3) : one_in(2) ? JSON_COMPACT : JSON_ENSURE_ASCII;
        char *before = json_dumps(body, flags);
        struct buffer after;
        splice(endpoint, before, &rewrite, &after);
        struct text text = buffer_text(&after);
        json_t *found = json_loadb(text.at, text.length, JSON_REJECT_DUPLICATES, NULL);
        expect(endpoint, body, &rewrite);
        if (found == NULL || !json_equal(found, body))
            fail_msg("%s\nbecame %.*s", before, TEXT_ARGUMENTS(text));
        json_decref(found);
        json_decref(body);
        free(before);
        buffer_finish(&after);
    }
}

static void without_memory_nothing_is_spliced(void **state)
{
    (void) state;
    struct text body = TEXT("{\"model\":\"m\",\"prompt\":\"\",\"stream\":true,\"stream_options\":{}}");
    for (size_t limit = 0; limit < 512; limit += 64) {
        struct arena arena;
        struct openai_request request;
        struct openai_refusal refusal;
        struct splices splices = {.count = 99};
        arena_init(&arena, limit);
        assert_true(openai_parse(ENDPOINT_COMPLETIONS, body, &arena, &request, &refusal));
        if (openai_splice(ENDPOINT_COMPLETIONS, &request, body, &rewrite_16, &arena, &splices))
            assert_int_equal(splices.count, 3);
        else
            assert_int_equal(splices.count, 99);
        arena_finish(&arena);
    }
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_must_change_changes),     cmocka_unit_test(the_cap_is_put_in_where_there_is_none),
        cmocka_unit_test(a_stream_always_asks_for_usage),    cmocka_unit_test(random_bodies_become_what_the_rules_say),
        cmocka_unit_test(without_memory_nothing_is_spliced),
    };
    return cmocka_run_group_tests_name("openai_splice", tests, NULL, NULL);
}
