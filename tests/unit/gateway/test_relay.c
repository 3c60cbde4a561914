#include "gateway/relay.h"

#include <jansson.h>
#include <string.h>

#include "tests/lib/unit.h"

enum { OUT_BYTES_MAX = 4 * 1024 * 1024 };

/* What a client asks for and what it then gets. */
struct play {
    enum engine_dialect dialect;
    bool is_completions, wants, continuous;
    int64_t choices; /* 0 = 1 */
    const char *bytes;
    /* findings */
    struct relay relay;
    struct buffer out;
};

static void play_in_pieces(struct play *play, size_t piece_bytes)
{
    struct relay_rules rules = {.dialect = dialect_of(play->dialect),
                                .is_chat = !play->is_completions,
                                .wants_usage_chunk = play->wants,
                                .wants_continuous_usage = play->continuous,
                                .choices = play->choices > 0 ? play->choices : 1};
    struct text rest = text_of(play->bytes);
    buffer_init(&play->out, OUT_BYTES_MAX);
    relay_begin(&play->relay, RELAY_EVENTS, &rules);
    while (rest.length > 0) {
        size_t count = rest.length < piece_bytes ? rest.length : piece_bytes;
        assert_true(relay_feed_events(&play->relay, (struct text){rest.at, count}, &play->out));
        rest = (struct text){rest.at + count, rest.length - count};
    }
    if (relay_is_complete(&play->relay))
        assert_true(relay_closing(&play->relay, &play->out));
}

static void play_whole(struct play *play)
{
    play_in_pieces(play, SIZE_MAX);
}

static void finish(struct play *play)
{
    relay_finish(&play->relay);
    relay_finish(&play->relay);
    buffer_finish(&play->out);
}

/* The output is events of valid JSON, one line each, and [DONE] at the end if anywhere; how many carry usage beside no
 * choice, and how many carry it beside a choice. */
static void read_output(const struct play *play, int *ret_alone, int *ret_beside)
{
    char *copy = strndup(play->out.at != NULL ? play->out.at + play->out.start : "", buffer_length(&play->out));
    char *at = copy;
    *ret_alone = *ret_beside = 0;
    for (char *end; *at != '\0' && (end = strstr(at, "\n\n")) != NULL; at = end + 2) {
        *end = '\0';
        assert_memory_equal(at, "data: ", 6);
        assert_null(strchr(at, '\n'));
        if (strcmp(at, "data: [DONE]") == 0) {
            assert_true(end[2] == '\0');
            continue;
        }
        json_t *event = json_loads(at + 6, JSON_REJECT_DUPLICATES, NULL);
        if (event == NULL)
            fail_msg("no JSON: %s", at);
        bool has_usage = json_is_object(json_object_get(event, "usage"));
        bool has_choice = json_array_size(json_object_get(event, "choices")) > 0;
        *ret_alone += has_usage && !has_choice;
        *ret_beside += has_usage && has_choice;
        json_decref(event);
    }
    assert_true(*at == '\0');
    free(copy);
}

#define CHAT(rest)                                                                                                     \
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\"," rest "}\n\n"
#define WORD(i) "\"choices\":[{\"index\":" #i ",\"delta\":{\"content\":\"w\"},\"finish_reason\":null}]"
#define STOP(i) "\"choices\":[{\"index\":" #i ",\"delta\":{},\"finish_reason\":\"stop\"}]"
#define USAGE(in, out)                                                                                                 \
    "\"usage\":{\"prompt_tokens\":" #in ",\"completion_tokens\":" #out                                                 \
    ",\"prompt_tokens_details\":{\"cached_tokens\":2}}"
#define DONE "data: [DONE]\n\n"

static const char vllm[] = CHAT("\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}]"
                                ",\"usage\":null") CHAT(WORD(0) ",\"usage\":null") CHAT(WORD(0) ",\"usage\":null")
    CHAT(STOP(0) ",\"usage\":null") CHAT("\"choices\":[]," USAGE(7, 3)) DONE;
static const char vllm_continuous[] = CHAT(WORD(0) "," USAGE(7, 1)) CHAT(WORD(0) "," USAGE(7, 2))
    CHAT(STOP(0) "," USAGE(7, 3)) CHAT("\"choices\":[]," USAGE(7, 3)) DONE;
static const char llamacpp_completions[] =
    "data: "
    "{\"choices\":[{\"text\":\"a\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}],\"created\":1,\"model\":"
    "\"m\",\"object\":\"text_completion\",\"id\":\"x\"}\n\n"
    "data: {\"choices\":[{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"length\"}],\"created\":1,"
    "\"model\":\"m\",\"object\":\"text_completion\",\"usage\":{\"completion_tokens\":3,\"prompt_tokens\":7,"
    "\"prompt_tokens_details\":{\"cached_tokens\":2}},\"id\":\"x\",\"timings\":{\"cache_n\":0,\"prompt_n\":7,"
    "\"predicted_n\":3}}\n\n" DONE;
static const char zero_first[] = CHAT(WORD(0) ",\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}")
    CHAT(WORD(0) ",\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}") CHAT(STOP(0) "," USAGE(7, 3))
        CHAT("\"choices\":[],\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}") DONE;
static const char twice[] =
    CHAT(WORD(0)) CHAT(STOP(0)) CHAT("\"choices\":[]," USAGE(7, 2)) CHAT("\"choices\":[]," USAGE(7, 3)) DONE;
static const char joined_lines[] =
    "data: {\"id\":\"c\",\ndata: \"choices\":[{\"index\":0,\"delta\":{\"content\":\"w\"},\ndata:\"finish_reason\":"
    "\"stop\"}],\r\ndata: \"usage\":{\"prompt_tokens\":7,\ndata: \"completion_tokens\":3,\ndata: "
    "\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\n" DONE;
static const char comments[] =
    ": ping\n\n" CHAT(WORD(0)) ": ping\n\n" CHAT(STOP(0)) CHAT("\"choices\":[]," USAGE(7, 3)) DONE;

static const struct {
    enum engine_dialect dialect;
    bool is_completions;
    const char *bytes;
} streams[] = {
    {DIALECT_VLLM, false, vllm},
    {DIALECT_VLLM, false, vllm_continuous},
    {DIALECT_LLAMACPP, true, llamacpp_completions},
    {DIALECT_OPENAI, false, zero_first},
    {DIALECT_OPENAI, false, twice},
    {DIALECT_OPENAI, false, joined_lines},
    {DIALECT_OPENAI, false, comments},
};
enum { STREAMS = sizeof(streams) / sizeof(streams[0]) };

/* ---- events ---- */

static void test_exactly_one_usage_chunk_for_who_asked_and_none_for_others(void **state)
{
    (void) state;
    for (int i = 0; i < STREAMS * 2; i++) {
        struct play play = {.dialect = streams[i / 2].dialect,
                            .is_completions = streams[i / 2].is_completions,
                            .wants = i % 2 == 1,
                            .bytes = streams[i / 2].bytes};
        int alone, beside;
        play_whole(&play);
        read_output(&play, &alone, &beside);
        if (alone != (play.wants ? 1 : 0) || beside != 0)
            fail_msg("%d usage chunks, %d beside choices, of %s", alone, beside, play.bytes);
        assert_true(relay_is_complete(&play.relay));
        struct usage usage = relay_usage(&play.relay, true, 99);
        assert_int_equal(usage.input_tokens, 7);
        assert_int_equal(usage.cached_input_tokens, 2);
        assert_int_equal(usage.output_tokens, 3);
        assert_int_equal(usage.input_source, USAGE_ENGINE);
        assert_int_equal(usage.output_source, USAGE_ENGINE);
        finish(&play);
    }
}

static void test_who_asks_for_continuous_usage_gets_it(void **state)
{
    struct play play = {.dialect = DIALECT_VLLM, .wants = true, .continuous = true, .bytes = vllm_continuous};
    (void) state;
    play_whole(&play);
    assert_int_equal(buffer_length(&play.out), strlen(vllm_continuous));
    assert_memory_equal(play.out.at + play.out.start, vllm_continuous, strlen(vllm_continuous));
    finish(&play);
}

static void test_bytes_without_usage_pass_as_they_came(void **state)
{
    static const char bytes[] =
        "event: x\r\ndata:  {\"choices\" : [ {\"delta\":{\"content\":\"\\u00e4\"}} ] }\r\nid: 7\r\n\r\n";
    struct play play = {.bytes = bytes};
    (void) state;
    play_whole(&play);
    assert_int_equal(buffer_length(&play.out), strlen(bytes));
    assert_memory_equal(play.out.at + play.out.start, bytes, strlen(bytes));
    finish(&play);
}

static void test_events_cut_anywhere_give_the_same(void **state)
{
    (void) state;
    for (int i = 0; i < STREAMS * 2; i++) {
        struct play whole = {.dialect = streams[i / 2].dialect, .wants = i % 2 == 1, .bytes = streams[i / 2].bytes};
        play_whole(&whole);
        for (size_t piece = 1; piece < strlen(whole.bytes); piece = piece < 8 ? piece + 1 : piece * 2) {
            struct play cut = {.dialect = whole.dialect, .wants = whole.wants, .bytes = whole.bytes};
            play_in_pieces(&cut, piece);
            assert_int_equal(buffer_length(&cut.out), buffer_length(&whole.out));
            assert_memory_equal(cut.out.at + cut.out.start, whole.out.at + whole.out.start, buffer_length(&whole.out));
            assert_int_equal(cut.relay.content_chunks, whole.relay.content_chunks);
            assert_memory_equal(&cut.relay.usage, &whole.relay.usage, sizeof(cut.relay.usage));
            finish(&cut);
        }
        finish(&whole);
    }
}

static void test_what_is_complete(void **state)
{
    static const struct {
        const char *bytes;
        int64_t choices;
        bool done, error, complete;
    } cases[] = {
        {CHAT(WORD(0)) CHAT(STOP(0)) DONE, 1, true, false, true},
        {CHAT(WORD(0)) CHAT(STOP(0)), 1, false, false, true},
        {CHAT(WORD(0)) DONE, 1, true, false, false}, /* an engine that dropped its error */
        {DONE, 1, true, false, false},
        {CHAT(WORD(0)), 1, false, false, false},
        {"", 1, false, false, false},
        {CHAT(STOP(0)), 2, false, false, false},
        {CHAT(STOP(0)) CHAT(STOP(1)), 2, false, false, true},
        {CHAT(STOP(0)) "data: {\"error\":{\"message\":\"x\"}}\n\n" DONE, 1, false, true, false},
        {CHAT(WORD(0)) "data: {\"error\":\"x\"}\n\n", 1, false, true, false},
        {CHAT(WORD(0)) "data: garbage\n\n" CHAT(STOP(0)) DONE, 1, false, true, false},
        {CHAT(WORD(0)) "data: {\"choices\":[\n\n" DONE, 1, false, true, false},
        {CHAT(STOP(0)) CHAT(WORD(0)) DONE CHAT(WORD(0)), 1, true, false, true},
    };
    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct play play = {.choices = cases[i].choices, .bytes = cases[i].bytes};
        int alone, beside;
        play_whole(&play);
        assert_int_equal(play.relay.done_seen, cases[i].done);
        assert_int_equal(play.relay.error_seen, cases[i].error);
        assert_int_equal(relay_is_complete(&play.relay), cases[i].complete);
        read_output(&play, &alone, &beside);
        assert_true(play.out.at == NULL || memmem(play.out.at, play.out.end, "error", 5) == NULL);
        finish(&play);
    }
}

static void test_an_event_too_long_and_an_output_too_full(void **state)
{
    struct relay_rules rules = {.dialect = dialect_of(DIALECT_OPENAI), .choices = 1};
    struct relay relay;
    struct buffer out;
    static char bytes[4096];
    bool fits = true;
    (void) state;
    memset(bytes, 'x', sizeof(bytes));
    buffer_init(&out, OUT_BYTES_MAX);
    relay_begin(&relay, RELAY_EVENTS, &rules);
    for (int i = 0; i <= SSE_EVENT_BYTES_MAX / 4096 + 1; i++)
        fits = relay_feed_events(&relay, (struct text){bytes, sizeof(bytes)}, &out);
    assert_false(fits);
    relay_finish(&relay);
    buffer_finish(&out);

    buffer_init(&out, 100);
    relay_begin(&relay, RELAY_EVENTS, &rules);
    assert_false(relay_feed_events(&relay, text_of(CHAT(WORD(0))), &out));
    relay_finish(&relay);
    buffer_finish(&out);
}

static void test_an_error_event(void **state)
{
    struct buffer out;
    (void) state;
    buffer_init(&out, 4096);
    assert_true(relay_error_event(&out, "a \"b\"\n", "server_error", "engine_error"));
    static const char expected[] = "data: {\"error\":{\"message\":\"a \\\"b\\\"\\n\",\"type\":\"server_error\","
                                   "\"param\":null,\"code\":\"engine_error\"}}\n\n";
    assert_int_equal(buffer_length(&out), strlen(expected));
    assert_memory_equal(out.at + out.start, expected, strlen(expected));
    buffer_finish(&out);
}

static void test_a_cut_stream_ends_like_a_finished_one(void **state)
{
    (void) state;
    for (int wants = 0; wants < 2; wants++) {
        struct play play = {.wants = wants, .choices = 2, .bytes = CHAT(WORD(0))};
        struct usage usage = {.input_tokens = 7, .output_tokens = 1};
        int alone, beside;
        play_whole(&play);
        assert_true(relay_cut(&play.relay, &usage, &play.out));
        read_output(&play, &alone, &beside);
        assert_int_equal(alone, wants);
        assert_int_equal(beside, 0);
        finish(&play);
    }
}

/* ---- what is billed ---- */

struct bill {
    const char *bytes;
    enum engine_dialect dialect;
    int64_t choices;
    bool is_whole, complete;
    int64_t input, output;
    enum usage_source input_source, output_source;
};

#define WHOLE_2(more)                                                                                                  \
    "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"w w\"},\"finish_reason\":\"stop\"},{\"index\":1,"           \
    "\"message\":{\"content\":\"w w\"},\"finish_reason\":\"stop\"}]" more "}"
#define WHOLE(more) "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"w w\"},\"finish_reason\":\"stop\"}]" more "}"

static const struct bill bills[] = {
    /* [DONE], or the whole answer */
    {vllm, DIALECT_VLLM, 1, false, true, 7, 3, USAGE_ENGINE, USAGE_ENGINE},
    {WHOLE("," USAGE(7, 3)), DIALECT_OPENAI, 1, true, true, 7, 3, USAGE_ENGINE, USAGE_ENGINE},
    /* usage missing */
    {CHAT(WORD(0)) CHAT(WORD(0)) CHAT(STOP(0)) DONE, DIALECT_OPENAI, 1, false, true, 50, 2, USAGE_ESTIMATED,
     USAGE_COUNTED},
    /* output 0 although there was content; and without content */
    {CHAT(WORD(0)) CHAT(STOP(0)) CHAT("\"choices\":[]," USAGE(7, 0)) DONE, DIALECT_OPENAI, 1, false, true, 50, 1,
     USAGE_ESTIMATED, USAGE_COUNTED},
    {CHAT(STOP(0)) CHAT("\"choices\":[]," USAGE(7, 0)) DONE, DIALECT_OPENAI, 1, false, true, 7, 0, USAGE_ENGINE,
     USAGE_ENGINE},
    /* gone or died mid-stream, without and with usage on each chunk */
    {CHAT(WORD(0)) CHAT(WORD(0)), DIALECT_OPENAI, 1, false, false, 50, 2, USAGE_ESTIMATED, USAGE_COUNTED},
    {CHAT(WORD(0) "," USAGE(7, 1)) CHAT(WORD(0) "," USAGE(7, 9)), DIALECT_VLLM, 1, false, false, 7, 9, USAGE_ENGINE,
     USAGE_ENGINE},
    {"", DIALECT_OPENAI, 1, false, false, 50, 0, USAGE_ESTIMATED, USAGE_COUNTED},
    /* gone after finish_reason: the engine's usage, if it came */
    {CHAT(WORD(0)) CHAT(STOP(0)) CHAT("\"choices\":[]," USAGE(7, 3)), DIALECT_OPENAI, 1, false, false, 7, 3,
     USAGE_ENGINE, USAGE_ENGINE},
    {CHAT(WORD(0)) CHAT(STOP(0)), DIALECT_OPENAI, 1, false, false, 50, 1, USAGE_ESTIMATED, USAGE_COUNTED},
    /* inside an answer that is no stream */
    {"{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3},\"choices\":[{\"message\":{\"content\":\"w",
     DIALECT_OPENAI, 1, true, false, 7, 3, USAGE_ENGINE, USAGE_ENGINE},
    {"{\"choices\":[{\"message\":{\"content\":\"w", DIALECT_OPENAI, 1, true, false, 50, 0, USAGE_ESTIMATED,
     USAGE_COUNTED},
    {"", DIALECT_OPENAI, 1, true, false, 50, 0, USAGE_ESTIMATED, USAGE_COUNTED},
    {WHOLE_2("," USAGE(7, 0)), DIALECT_OPENAI, 2, true, true, 50, 2, USAGE_ESTIMATED, USAGE_ESTIMATED},
    {WHOLE(""), DIALECT_OPENAI, 1, true, true, 50, 1, USAGE_ESTIMATED, USAGE_ESTIMATED},
    {"{\"choices\":[{\"message\":{\"content\":\"\"},\"finish_reason\":\"stop\"}]," USAGE(7, 0) "}", DIALECT_OPENAI, 1,
     true, true, 7, 0, USAGE_ENGINE, USAGE_ENGINE},
    /* an engine that counts fewer tokens than chunks is believed */
    {CHAT(WORD(0)) CHAT(WORD(0)) CHAT(STOP(0)) CHAT("\"choices\":[]," USAGE(7, 1)) DONE, DIALECT_OPENAI, 1, false, true,
     7, 1, USAGE_ENGINE, USAGE_ENGINE},
    /* usage that came before all the content: what followed is counted */
    {CHAT(WORD(0) "," USAGE(7, 1)) CHAT(WORD(0)) CHAT(WORD(0)), DIALECT_VLLM, 1, false, false, 7, 3, USAGE_ENGINE,
     USAGE_COUNTED},
    {CHAT(WORD(0) "," USAGE(7, 1)) CHAT(WORD(0)) CHAT(STOP(0)) DONE, DIALECT_VLLM, 1, false, true, 7, 2, USAGE_ENGINE,
     USAGE_COUNTED},
    {CHAT("\"choices\":[]," USAGE(7, 0)) CHAT(WORD(0)) CHAT(WORD(0)), DIALECT_VLLM, 1, false, false, 7, 2, USAGE_ENGINE,
     USAGE_COUNTED},
    /* mid-stream, of several choices: usage beside one of them is that one's */
    {CHAT(WORD(0) "," USAGE(7, 1)) CHAT(WORD(1) "," USAGE(7, 1)) CHAT(WORD(1) "," USAGE(7, 2)), DIALECT_VLLM, 2, false,
     false, 7, 3, USAGE_ENGINE, USAGE_COUNTED},
    /* usage of one choice only */
    {CHAT(WORD(0)) CHAT(WORD(1)) CHAT(WORD(1)) CHAT(STOP(0)) CHAT(STOP(1)) CHAT("\"choices\":[]," USAGE(7, 3)) DONE,
     DIALECT_LLAMACPP, 2, false, true, 7, 5, USAGE_ENGINE, USAGE_COUNTED},
    {CHAT(WORD(0)) CHAT(WORD(1)) CHAT(STOP(0) "," USAGE(7, 1)) CHAT(WORD(1)), DIALECT_LLAMACPP, 2, false, false, 7, 3,
     USAGE_ENGINE, USAGE_COUNTED},
    {CHAT(WORD(0)) CHAT(WORD(1)) CHAT(STOP(0) "," USAGE(7, 1)) CHAT(WORD(1)) CHAT(STOP(1) "," USAGE(7, 1)),
     DIALECT_LLAMACPP, 2, false, false, 7, 3, USAGE_ENGINE, USAGE_COUNTED},
    {CHAT(WORD(0)) CHAT(WORD(1)) CHAT(STOP(0)) CHAT(STOP(1)) CHAT("\"choices\":[]," USAGE(7, 3)) DONE, DIALECT_VLLM, 2,
     false, true, 7, 3, USAGE_ENGINE, USAGE_ENGINE},
    {WHOLE_2("," USAGE(7, 3)), DIALECT_LLAMACPP, 2, true, true, 7, 6, USAGE_ENGINE, USAGE_COUNTED},
    {WHOLE_2("," USAGE(7, 3)), DIALECT_OPENAI, 2, true, true, 7, 3, USAGE_ENGINE, USAGE_ENGINE},
    /* llama.cpp's timings, where there is no usage */
    {WHOLE(",\"timings\":{\"prompt_n\":5,\"cache_n\":2,\"predicted_n\":3}"), DIALECT_LLAMACPP, 1, true, true, 7, 3,
     USAGE_ENGINE, USAGE_ENGINE},
    /* embeddings, usage before the data */
    {"{\"object\":\"list\",\"usage\":{\"prompt_tokens\":7,\"total_tokens\":7},\"data\":[{\"embedding\":[1,2]}]}",
     DIALECT_LLAMACPP, 1, true, true, 7, 0, USAGE_ENGINE, USAGE_ENGINE},
};

static void test_what_is_billed(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof(bills) / sizeof(bills[0]); i++) {
        const struct bill *bill = &bills[i];
        struct play play = {.dialect = bill->dialect, .choices = bill->choices, .bytes = bill->bytes};
        if (bill->is_whole) {
            struct relay_rules rules = {.dialect = dialect_of(bill->dialect), .choices = bill->choices};
            buffer_init(&play.out, 1);
            relay_begin(&play.relay, RELAY_WHOLE, &rules);
            answer_feed(&play.relay.scan, text_of(bill->bytes));
        } else {
            play_whole(&play);
        }
        struct usage usage = relay_usage(&play.relay, bill->complete, 50);
        if (usage.input_tokens != bill->input || usage.output_tokens != bill->output)
            fail_msg("row %zu: %lld in, %lld out", i, (long long) usage.input_tokens, (long long) usage.output_tokens);
        if (usage.input_source != bill->input_source || usage.output_source != bill->output_source)
            fail_msg("row %zu: by %s and %s", i, USAGE_SOURCE_NAMES[usage.input_source],
                     USAGE_SOURCE_NAMES[usage.output_source]);
        finish(&play);
    }
}

/* What was learned of the model counts where the engine does not. */
static void test_counting_with_what_was_learned(void **state)
{
    static const char *const streams_uncounted[] = {
        CHAT(WORD(0)) CHAT(WORD(0)), CHAT(WORD(0)) CHAT(WORD(0)) CHAT(STOP(0)) DONE,
        CHAT(WORD(0)) CHAT(WORD(0)) CHAT(STOP(0)) CHAT("\"choices\":[]," USAGE(7, 0)) DONE};
    const struct content_rates rates = {.chunk_micro = 3000000, .byte_micro = 2000000};
    (void) state;
    for (size_t i = 0; i < sizeof streams_uncounted / sizeof streams_uncounted[0]; i++) {
        struct play play = {.dialect = DIALECT_OPENAI, .bytes = streams_uncounted[i]};
        play_whole(&play);
        play.relay.rules.rates = rates;
        assert_int_equal(relay_usage(&play.relay, i > 0, 50).output_tokens, 6);
        finish(&play);
    }
    struct relay whole;
    struct relay_rules rules = {.dialect = dialect_of(DIALECT_OPENAI), .choices = 1, .rates = rates};
    relay_begin(&whole, RELAY_WHOLE, &rules);
    answer_feed(&whole.scan, text_of(WHOLE("")));
    assert_int_equal(relay_usage(&whole, true, 50).output_tokens, 6); /* "w w" */
    assert_int_equal(relay_usage(&whole, false, 50).output_tokens, 0);
    relay_finish(&whole);
}

static void test_what_an_answer_teaches(void **state)
{
    static const struct {
        const char *bytes;
        enum engine_dialect dialect;
        int64_t choices, tokens, chunks;
    } cases[] = {
        {CHAT(WORD(0)) CHAT(WORD(0)) CHAT(STOP(0)) CHAT("\"choices\":[]," USAGE(7, 6)) DONE, DIALECT_OPENAI, 1, 6, 2},
        {CHAT(WORD(0)) CHAT(WORD(0)) CHAT(STOP(0)) DONE, DIALECT_OPENAI, 1, 0, 0},
        {CHAT(WORD(0) "," USAGE(7, 1)) CHAT(WORD(0)) CHAT(STOP(0)) DONE, DIALECT_OPENAI, 1, 0, 0},
        {CHAT(WORD(0)) CHAT(WORD(1)) CHAT(STOP(0)) CHAT(STOP(1)) CHAT("\"choices\":[]," USAGE(7, 6)) DONE,
         DIALECT_LLAMACPP, 2, 0, 0},
        {CHAT(WORD(0)) CHAT(WORD(1)) CHAT(STOP(0)) CHAT(STOP(1)) CHAT("\"choices\":[]," USAGE(7, 6)) DONE, DIALECT_VLLM,
         2, 6, 2},
    };
    (void) state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct play play = {.dialect = cases[i].dialect, .choices = cases[i].choices, .bytes = cases[i].bytes};
        play_whole(&play);
        struct content_sample sample = relay_content_sample(&play.relay);
        assert_int_equal(sample.tokens, cases[i].tokens);
        assert_int_equal(sample.chunks, cases[i].chunks);
        assert_int_equal(sample.bytes, cases[i].chunks);
        assert_int_equal(sample.last_chunk_bytes, cases[i].chunks > 0);
        finish(&play);
    }
}

/* ---- errors of engines ---- */

static void test_messages_of_engines(void **state)
{
    static const struct {
        const char *body, *message;
    } cases[] = {
        {"{\"object\":\"error\",\"message\":\"too \\\"long\\\"\",\"type\":\"BadRequestError\",\"code\":400}",
         "too \"long\""},
        {"{\"error\":{\"message\":\"no\",\"type\":\"x\",\"code\":400}}", "no"},
        {"{\"error\":{\"code\":503,\"message\":\"Loading model\",\"type\":\"unavailable_error\"}}", "Loading model"},
        {"{\"error\":\"text\",\"error_type\":\"overloaded\"}", "text"},
        {"{\"detail\":\"Not Found\"}", "Not Found"},
        {" {\"id\":[{\"message\":\"inner\"}],\"message\":\"\\u00e4\\n\"}", "\xc3\xa4\n"},
        {"{\"error\":null,\"message\":\"later\"}", "later"},
        {"{\"error\":\"\"}", NULL},
        {"{\"error\":{\"code\":1}}", NULL},
        {"{\"error\":{\"error\":{\"message\":\"deep\"}}}", NULL},
        {"[\"message\"]", NULL},
        {"<html>", NULL},
        {"", NULL},
        {"{\"message\":\"cut off", NULL},
    };
    char memory[64];
    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct text message = relay_engine_message(text_of(cases[i].body), memory, sizeof(memory));
        if (cases[i].message == NULL)
            assert_null(message.at);
        else if (!text_equal(message, text_of(cases[i].message)))
            fail_msg("%s: %.*s", cases[i].body, TEXT_ARGUMENTS(message));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exactly_one_usage_chunk_for_who_asked_and_none_for_others),
        cmocka_unit_test(test_who_asks_for_continuous_usage_gets_it),
        cmocka_unit_test(test_bytes_without_usage_pass_as_they_came),
        cmocka_unit_test(test_events_cut_anywhere_give_the_same),
        cmocka_unit_test(test_what_is_complete),
        cmocka_unit_test(test_an_event_too_long_and_an_output_too_full),
        cmocka_unit_test(test_an_error_event),
        cmocka_unit_test(test_a_cut_stream_ends_like_a_finished_one),
        cmocka_unit_test(test_what_is_billed),
        cmocka_unit_test(test_counting_with_what_was_learned),
        cmocka_unit_test(test_what_an_answer_teaches),
        cmocka_unit_test(test_messages_of_engines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
