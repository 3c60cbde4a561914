/* gateway/openai: what bodies say, and which are refused and how. */
#include "gateway/openai.h"

#include <string.h>

#include "base/json.h"
#include "tests/lib/unit.h"

enum { ARENA_BYTES = 64 * 1024 };

/* Parse a copy of just the body's size; the request's slices point into it until parsed_finish. */
struct parsed {
    struct arena arena;
    char *body;
    bool accepted;
    struct openai_request request;
    struct openai_refusal refusal;
};

static void parse(struct parsed *parsed, enum endpoint endpoint, struct text body)
{
    memset(parsed, 0, sizeof(*parsed));
    arena_init(&parsed->arena, ARENA_BYTES);
    parsed->body = malloc(body.length > 0 ? body.length : 1);
    assert_non_null(parsed->body);
    memcpy(parsed->body, body.at, body.length);
    parsed->accepted = openai_parse(endpoint, (struct text){parsed->body, body.length}, &parsed->arena,
                                    &parsed->request, &parsed->refusal);
}

static void parsed_finish(struct parsed *parsed)
{
    arena_finish(&parsed->arena);
    free(parsed->body);
}

/* Facts only, no slices. */
static struct openai_request facts_of(enum endpoint endpoint, const char *body)
{
    struct parsed parsed;
    parse(&parsed, endpoint, text_of(body));
    if (!parsed.accepted)
        fail_msg("%s is refused: %s", body, parsed.refusal.message);
    struct openai_request request = parsed.request;
    parsed_finish(&parsed);
    return request;
}

/* Refused with 400, a message that contains @says, and @param. */
static void assert_refused(enum endpoint endpoint, const char *body, const char *param, const char *says)
{
    struct parsed parsed;
    parse(&parsed, endpoint, text_of(body));
    if (parsed.accepted)
        fail_msg("%s is accepted", body);
    assert_int_equal(parsed.refusal.status, 400);
    if (strstr(parsed.refusal.message, says) == NULL)
        fail_msg("%s is refused with \"%s\", not \"%s\"", body, parsed.refusal.message, says);
    if (param == NULL)
        assert_null(parsed.refusal.param);
    else
        assert_string_equal(parsed.refusal.param, param);
    parsed_finish(&parsed);
}

/* Endpoint @endpoint with what it needs and @members (", …" or ""). */
static const char *body_with(enum endpoint endpoint, const char *members)
{
    static char body[4096];
    static const char *const needed[] = {"\"prompt\":\"x\"", "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]",
                                         "\"input\":\"x\""};
    snprintf(body, sizeof(body), "{\"model\":\"m\",%s%s%s}", needed[endpoint], members[0] != '\0' ? "," : "", members);
    return body;
}

static void the_defaults_are_openais(void **state)
{
    (void) state;
    for (enum endpoint endpoint = ENDPOINT_COMPLETIONS; endpoint <= ENDPOINT_EMBEDDINGS; endpoint++) {
        struct openai_request request = facts_of(endpoint, body_with(endpoint, ""));
        assert_false(request.stream);
        assert_false(request.include_usage);
        assert_int_equal(request.cap_tokens, -1);
        assert_int_equal(request.choices, 1);
        assert_int_equal(request.best_of, 1);
        assert_int_equal(request.prompts, 1);
        assert_int_equal(request.messages, endpoint == ENDPOINT_CHAT ? 1 : 0);
        assert_int_equal(request.input_text_bytes, 1);
        assert_int_equal(request.input_token_ids, 0);
        assert_int_equal(request.object_inside, 1);
        assert_int_equal(request.stream_options_span.length, 0);
    }
}

static void the_model_is_decoded(void **state)
{
    (void) state;
    struct parsed parsed;
    parse(&parsed, ENDPOINT_COMPLETIONS, TEXT(" {\"prompt\":\"\", \"model\": \"a\\/\\u00e9\"}"));
    assert_true(parsed.accepted);
    assert_true(text_equal(parsed.request.model, TEXT("a/\xC3\xA9")));
    assert_true(text_equal(parsed.request.model_span, TEXT("\"a\\/\\u00e9\"")));
    assert_int_equal(parsed.request.object_inside, 2);
    parsed_finish(&parsed);
    assert_refused(ENDPOINT_COMPLETIONS, "{\"prompt\":\"x\",\"model\":\"\"}", "model", "1 to 256 bytes");
    assert_refused(ENDPOINT_COMPLETIONS, "{\"prompt\":\"x\",\"model\":5}", "model",
                   "expected a string, but got a number");
}

static void members_are_read(void **state)
{
    (void) state;
    struct openai_request request = facts_of(
        ENDPOINT_CHAT, body_with(ENDPOINT_CHAT, "\"stream\":true,\"n\":3,\"max_tokens\":5,\"max_completion_tokens\":9,"
                                                "\"stream_options\":{\"include_usage\":true,"
                                                "\"continuous_usage_stats\":true,\"x\":[1]},\"top_logprobs\":20,"
                                                "\"logprobs\":true,\"unknown\":{\"deep\":[1,{\"model\":\"z\"}]}"));
    assert_true(request.stream);
    assert_true(request.include_usage);
    assert_true(request.continuous_usage);
    assert_int_equal(request.cap_tokens, 9);
    assert_int_equal(request.choices, 3);
    assert_int_equal(request.best_of, 3);
    request = facts_of(ENDPOINT_COMPLETIONS, body_with(ENDPOINT_COMPLETIONS, "\"best_of\":20,\"n\":2,\"max_tokens\":0,"
                                                                             "\"logprobs\":5,\"suffix\":\"abc\""));
    assert_int_equal(request.best_of, 20);
    assert_int_equal(request.cap_tokens, 0);
    assert_int_equal(request.input_text_bytes, 4);
    /* llama.cpp's own names override OpenAI's there: they count too. */
    request = facts_of(ENDPOINT_COMPLETIONS,
                       body_with(ENDPOINT_COMPLETIONS, "\"n_predict\":900,\"max_tokens\":5,\"n_cmpl\":7"));
    assert_int_equal(request.cap_tokens, 900);
    assert_int_equal(request.choices, 7);
}

/* LangChain writes out every parameter, with null for what was not given. */
static void null_counts_as_absent(void **state)
{
    (void) state;
    struct openai_request request =
        facts_of(ENDPOINT_COMPLETIONS,
                 body_with(ENDPOINT_COMPLETIONS,
                           "\"seed\":null,\"logprobs\":null,\"best_of\":null,\"n\":null,\"max_tokens\":null,"
                           "\"stream\":null,\"stream_options\":null,\"suffix\":null,\"api_key\":null"));
    assert_int_equal(request.cap_tokens, -1);
    assert_int_equal(request.choices, 1);
    assert_false(request.stream);
    assert_int_equal(request.cap_null_span.length, 4);
    assert_int_equal(request.stream_options_span.length, 4);
    request = facts_of(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"content\":null,"
                                      "\"tool_calls\":null}],\"tools\":null,\"max_completion_tokens\":null,"
                                      "\"top_logprobs\":null,\"stream_options\":{\"include_usage\":null}}");
    assert_int_equal(request.cap_tokens, -1);
    assert_int_equal(request.cap_null_span.length, 0);
    assert_false(request.include_usage);
    assert_refused(ENDPOINT_CHAT, "{\"model\":null,\"messages\":[{}]}", "model", "Missing required parameter: 'model'");
    assert_refused(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":null}", "messages", "Missing required");
    assert_refused(ENDPOINT_COMPLETIONS, "{\"model\":\"m\"}", "prompt", "Missing required");
    assert_refused(ENDPOINT_EMBEDDINGS, "{\"model\":\"m\",\"prompt\":\"x\"}", "input", "Missing required");
}

struct prompt_example {
    const char *prompt;
    int64_t prompts;
    uint64_t bytes;
    int64_t ids;
};

static void prompts_come_in_four_shapes(void **state)
{
    (void) state;
    static const struct prompt_example examples[] = {
        {"\"\"", 1, 0, 0},
        {"\"h\\u00e9llo\\n\"", 1, 7, 0},
        {"[\"only one\"]", 1, 8, 0},
        {"[\"a\",\"bc\",\"\"]", 3, 3, 0},
        {"[1]", 1, 0, 1},
        {"[ 0 , 151643 , 2147483647 ]", 1, 0, 3},
        {"[[1,2],[3]]", 2, 0, 3},
        {"\"user:\\nHi\\n\\nassistant:\\n\"", 1, 21, 0}, /* the AI SDK's */
    };
    char body[256];
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        snprintf(body, sizeof(body), "{\"model\":\"m\",\"prompt\":%s,\"stop\":[\"\\nuser:\"]}", examples[i].prompt);
        struct openai_request request = facts_of(ENDPOINT_COMPLETIONS, body);
        assert_int_equal(request.prompts, examples[i].prompts);
        assert_int_equal(request.input_text_bytes, examples[i].bytes);
        assert_int_equal(request.input_token_ids, examples[i].ids);
        snprintf(body, sizeof(body), "{\"input\":%s,\"encoding_format\":\"base64\",\"model\":\"m\"}",
                 examples[i].prompt);
        request = facts_of(ENDPOINT_EMBEDDINGS, body);
        assert_int_equal(request.prompts, examples[i].prompts);
        assert_int_equal(request.input_token_ids, examples[i].ids);
    }
}

static void other_prompts_are_refused(void **state)
{
    (void) state;
    static const char *const examples[][2] = {
        {"5", "expected a string or a list, but got a number"},
        {"{\"prompt_string\":\"x\"}", "got an object"},
        {"[]", "empty array"},
        {"[[]]", "empty array"},
        {"[[1],[]]", "empty array"},
        {"[\"a\",1]", "not a mixture"},
        {"[1,\"a\"]", "not a mixture"},
        {"[[1],2]", "not a mixture"},
        {"[null]", "got null"},
        {"[true]", "got a boolean"},
        {"[{}]", "got an object"},
        {"[[\"a\"]]", "integers only"},
        {"[[[1]]]", "integers only"},
        {"[1.5]", "between 0 and"},
        {"[-1]", "between 0 and"},
        {"[2147483648]", "between 0 and"},
    };
    char body[256];
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        snprintf(body, sizeof(body), "{\"model\":\"m\",\"prompt\":%s}", examples[i][0]);
        assert_refused(ENDPOINT_COMPLETIONS, body, "prompt", examples[i][1]);
        snprintf(body, sizeof(body), "{\"model\":\"m\",\"input\":%s}", examples[i][0]);
        assert_refused(ENDPOINT_EMBEDDINGS, body, "input", examples[i][1]);
    }
}

static void text_is_counted_without_pictures_and_labels(void **state)
{
    (void) state;
    struct openai_request request = facts_of(
        ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"12345\"},"
                       "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"1234\\u00e9\"},"
                       "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,AAAAAAAAAA\"}},"
                       "{\"type\":\"image_url\",\"image_url\":null},"
                       "{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"AAAA\",\"format\":\"wav\"}}]}]}");
    assert_int_equal(request.messages, 2);
    assert_int_equal(request.images, 1);
    assert_int_equal(request.input_text_bytes, 5 + 6);
    /* A tool call and its answer are rendered into the prompt. */
    request = facts_of(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"content\":null,"
                                      "\"tool_calls\":[{\"id\":\"call_1\",\"type\":\"function\",\"function\":"
                                      "{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
                                      "{\"role\":\"tool\",\"tool_call_id\":\"call_1\",\"content\":\"42\"}]}");
    assert_int_equal(request.input_text_bytes, 1 + 2 + 2);
    /* "data:" at the front of a text does not hide it, nor does a label's name. */
    request = facts_of(ENDPOINT_CHAT, body_with(ENDPOINT_CHAT, "\"tools\":[{\"a\":\"bc\"}]"));
    assert_int_equal(request.input_text_bytes, 1 + strlen("{\"a\":\"bc\",}]"));
    char body[512], text[101];
    memset(text, 'x', 100);
    text[100] = '\0';
    snprintf(body, sizeof(body),
             "{\"model\":\"m\",\"messages\":[{\"role\":\"%s\",\"content\":\"data:%s\",\"file\":\"%s\"}]}", text, text,
             text);
    assert_int_equal(facts_of(ENDPOINT_CHAT, body).input_text_bytes, 305);
}

static void messages_are_objects(void **state)
{
    (void) state;
    assert_refused(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":\"hi\"}", "messages",
                   "expected an array of messages, but got a string");
    assert_refused(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[]}", "messages", "empty array");
    assert_refused(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[\"hi\"]}", "messages",
                   "each message to be an object");
    assert_refused(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{\"content\":[1,}]}", NULL, "could not parse");
    assert_refused(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{\"content\":[{\"file\":}]}]}", NULL,
                   "could not parse");
    assert_refused(ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{}],\"tools\":\"x\"}", "tools", "expected an array");
}

struct refusal_example {
    const char *member;
    const char *param;
    const char *says;
    unsigned endpoints;
};

static void absurd_values_are_refused(void **state)
{
    (void) state;
    enum { COMPLETIONS = 1, CHAT = 2 };
    static const struct refusal_example examples[] = {
        {"\"n\":0", "n", ">= 1", COMPLETIONS | CHAT},
        {"\"n\":129", "n", "<= 128", COMPLETIONS | CHAT},
        {"\"n\":1.0", "n", "expected an integer, but got a decimal", COMPLETIONS | CHAT},
        {"\"n\":\"1\"", "n", "expected an integer, but got a string", COMPLETIONS | CHAT},
        {"\"n_cmpl\":1000", "n_cmpl", "<= 128", COMPLETIONS | CHAT},
        {"\"best_of\":21", "best_of", "<= 20", COMPLETIONS | CHAT},
        {"\"best_of\":1,\"n\":2", "best_of", "'n', which is 2", COMPLETIONS | CHAT},
        {"\"stream\":true,\"best_of\":2", "best_of", "stream", COMPLETIONS | CHAT},
        {"\"max_tokens\":-1", "max_tokens", ">= 0", COMPLETIONS | CHAT},
        {"\"max_tokens\":-99999999999999999999", "max_tokens", ">= 0", COMPLETIONS | CHAT},
        {"\"max_tokens\":1e3", "max_tokens", "decimal", COMPLETIONS | CHAT},
        {"\"max_tokens\":16.0", "max_tokens", "decimal", COMPLETIONS | CHAT},
        {"\"max_tokens\":4294967295", "max_tokens", "<= 2147483647", COMPLETIONS | CHAT},
        {"\"max_tokens\":99999999999999999999", "max_tokens", "<= 2147483647", COMPLETIONS | CHAT},
        {"\"max_tokens\":true", "max_tokens", "got a boolean", COMPLETIONS | CHAT},
        {"\"max_completion_tokens\":-1", "max_completion_tokens", ">= 0", CHAT},
        {"\"n_predict\":-1", "n_predict", ">= 0", COMPLETIONS | CHAT},
        {"\"logprobs\":21", "logprobs", "<= 20", COMPLETIONS},
        {"\"logprobs\":-1", "logprobs", ">= 0", COMPLETIONS},
        {"\"logprobs\":3", "logprobs", "a boolean", CHAT},
        {"\"top_logprobs\":21", "top_logprobs", "<= 20", CHAT},
        {"\"stream\":\"true\"", "stream", "expected a boolean, but got a string", COMPLETIONS | CHAT},
        {"\"stream\":1", "stream", "a boolean", COMPLETIONS | CHAT},
        {"\"stream_options\":true", "stream_options", "an object", COMPLETIONS | CHAT},
        {"\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage", "a boolean", COMPLETIONS | CHAT},
        {"\"suffix\":1", "suffix", "a string", COMPLETIONS},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++)
        for (enum endpoint endpoint = ENDPOINT_COMPLETIONS; endpoint <= ENDPOINT_CHAT; endpoint++)
            if ((examples[i].endpoints >> endpoint & 1) != 0)
                assert_refused(endpoint, body_with(endpoint, examples[i].member), examples[i].param, examples[i].says);
    /* best_of that chooses nothing is no obstacle to a stream; others' parameters are not ours to judge */
    facts_of(ENDPOINT_COMPLETIONS, body_with(ENDPOINT_COMPLETIONS, "\"stream\":true,\"best_of\":2,\"n\":2"));
    facts_of(ENDPOINT_EMBEDDINGS, body_with(ENDPOINT_EMBEDDINGS, "\"max_tokens\":-1,\"n\":0,\"stream\":5"));
}

static void governed_keys_come_once_and_as_written(void **state)
{
    (void) state;
    static const char *const twice[][2] = {
        {"\"model\":\"other\"", "model"},
        {"\"mod\\u0065l\":\"other\"", "model"},
        {"\"max_tokens\":1,\"max_tokens\":2", "max_tokens"},
        {"\"max_tokens\":null,\"max_tokens\":2", "max_tokens"},
        {"\"stream\":false,\"\\u0073tream\":true", "stream"},
        {"\"n\":1,\"\\u006E\":2", "n"},
        {"\"stream_options\":{\"include_usage\":true,\"include_usage\":false}", "stream_options.include_usage"},
    };
    for (size_t i = 0; i < sizeof(twice) / sizeof(twice[0]); i++)
        assert_refused(ENDPOINT_COMPLETIONS, body_with(ENDPOINT_COMPLETIONS, twice[i][0]), twice[i][1], "only once");
    /* Go's decoder takes all of these for the governed key. */
    static const char *const cased[][2] = {
        {"\"Model\":\"other\"", "model"},
        {"\"MAX_TOKENS\":1", "max_tokens"},
        {"\"max_to\\u212Aens\":1", "max_tokens"},
        {"\"max_to\xE2\x84\xAA"
         "ens\":1",
         "max_tokens"},
        {"\"\xC5\xBFtream\":true", "stream"},
        {"\"\\u017Ftream\":true", "stream"},
        {"\"STREAM\":null", "stream"},
        {"\"N\":1", "n"},
        {"\"stream_options\":{\"Include_Usage\":true}", "stream_options.include_usage"},
    };
    for (size_t i = 0; i < sizeof(cased) / sizeof(cased[0]); i++)
        assert_refused(ENDPOINT_COMPLETIONS, body_with(ENDPOINT_COMPLETIONS, cased[i][0]), cased[i][1], "letter case");
    /* Others' keys may repeat, and so may ours further inside. */
    facts_of(ENDPOINT_COMPLETIONS, body_with(ENDPOINT_COMPLETIONS, "\"x\":1,\"x\":2,\"y\":{\"model\":1,\"model\":2}"));
}

static void what_names_an_upstream_is_refused(void **state)
{
    (void) state;
    static const char *const names[] = {
        "api_base",       "base_url",    "api_key",   "custom_host",        "custom_llm_provider",
        "extra_headers",  "user_config", "fallbacks", "kv_transfer_params", "bootstrap_host",
        "bootstrap_port", "model_list",  "models"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        for (enum endpoint endpoint = ENDPOINT_COMPLETIONS; endpoint <= ENDPOINT_EMBEDDINGS; endpoint++) {
            char member[64];
            snprintf(member, sizeof(member), "\"%s\":\"x\"", names[i]);
            assert_refused(endpoint, body_with(endpoint, member), names[i], "operator");
        }
    }
    assert_refused(ENDPOINT_CHAT, body_with(ENDPOINT_CHAT, "\"API_Base\":\"x\""), "api_base", "letter case");
}

static void what_is_no_object_is_refused(void **state)
{
    (void) state;
    static const char *const examples[][2] = {
        {"", "ends too early (at byte 0)"},
        {"[]", "must be an object, but it is an array"},
        {"null", "it is null"},
        {"{\"model\":\"m\"", "ends too early"},
        {"{} {}", "something follows"},
        {"{\"a\":\"\xFF\"}", "UTF-8"},
        {"{'a':1}", "a key in quotes"},
        {"{\"a\":NaN}", "a value is expected"},
        {"\xEF\xBB\xBF{}", "a value"},
        {"{\"stream_options\":{\"a\":1]}", "could not parse"},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++)
        assert_refused(ENDPOINT_COMPLETIONS, examples[i][0], NULL, examples[i][1]);
}

/* @count elements in a list: "{"model":"m","<name>":[e,e,…]}". Freed by the caller. */
static char *list_body(const char *name, const char *element, size_t count)
{
    size_t capacity = 64 + count * (strlen(element) + 1);
    char *memory = malloc(capacity);
    struct builder body;
    assert_non_null(memory);
    builder_init(&body, memory, capacity);
    builder_format(&body, "{\"model\":\"m\",\"%s\":[", name);
    for (size_t i = 0; i < count; i++) {
        builder_add_string(&body, i > 0 ? "," : "");
        builder_add_string(&body, element);
    }
    builder_add_string(&body, "]}");
    (void) builder_string(&body);
    return memory;
}

static void assert_list(enum endpoint endpoint, const char *name, const char *element, size_t most)
{
    char *fits = list_body(name, element, most), *exceeds = list_body(name, element, most + 1);
    facts_of(endpoint, fits);
    assert_refused(endpoint, exceeds, name, "array too long");
    free(fits);
    free(exceeds);
}

static void huge_and_deep_bodies_are_refused(void **state)
{
    (void) state;
    assert_list(ENDPOINT_COMPLETIONS, "prompt", "\"a\"", 2048);
    assert_list(ENDPOINT_COMPLETIONS, "prompt", "[1]", 2048);
    assert_list(ENDPOINT_EMBEDDINGS, "input", "\"a\"", 2048);
    assert_list(ENDPOINT_CHAT, "messages", "{}", 4096);
    char *ids = list_body("prompt", "7", 100000), *nodes = list_body("x", "7", JSON_NODES_MAX);
    assert_int_equal(facts_of(ENDPOINT_COMPLETIONS, ids).input_token_ids, 100000);
    assert_refused(ENDPOINT_COMPLETIONS, nodes, NULL, "more than 200000 tokens");
    free(ids);
    free(nodes);
    char deep[256];
    memset(deep, '[', sizeof(deep));
    memcpy(deep, "{\"a\":", 5);
    deep[255] = '\0';
    assert_refused(ENDPOINT_CHAT, deep, NULL, "deeper than 64 levels");
}

static void without_memory_a_refusal_still_has_a_message(void **state)
{
    (void) state;
    struct arena arena;
    struct openai_request request;
    struct openai_refusal refusal;
    arena_init(&arena, 0);
    assert_false(openai_parse(ENDPOINT_CHAT, TEXT("{\"n\":0}"), &arena, &request, &refusal));
    assert_string_equal(refusal.param, "n");
    assert_true(strlen(refusal.message) > 0);
    assert_false(openai_parse(ENDPOINT_CHAT, TEXT("{\"model\":\"\\u0061\"}"), &arena, &request, &refusal));
    arena_finish(&arena);
}

static void errors_are_openais_json(void **state)
{
    (void) state;
    char memory[256];
    struct builder to;
    builder_init(&to, memory, sizeof(memory));
    openai_error_json(&to, "say \"no\"", "invalid_request_error", "n", NULL);
    assert_string_equal(builder_string(&to),
                        "{\"error\":{\"message\":\"say \\\"no\\\"\",\"type\":\"invalid_request_error\","
                        "\"param\":\"n\",\"code\":null}}");
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_defaults_are_openais),
        cmocka_unit_test(the_model_is_decoded),
        cmocka_unit_test(members_are_read),
        cmocka_unit_test(null_counts_as_absent),
        cmocka_unit_test(prompts_come_in_four_shapes),
        cmocka_unit_test(other_prompts_are_refused),
        cmocka_unit_test(text_is_counted_without_pictures_and_labels),
        cmocka_unit_test(messages_are_objects),
        cmocka_unit_test(absurd_values_are_refused),
        cmocka_unit_test(governed_keys_come_once_and_as_written),
        cmocka_unit_test(what_names_an_upstream_is_refused),
        cmocka_unit_test(what_is_no_object_is_refused),
        cmocka_unit_test(huge_and_deep_bodies_are_refused),
        cmocka_unit_test(without_memory_a_refusal_still_has_a_message),
        cmocka_unit_test(errors_are_openais_json),
    };
    return cmocka_run_group_tests_name("openai", tests, NULL, NULL);
}
