/* backends/answer_scan: what engines say in their many ways, found in any pieces. */
#include "backends/answer_scan.h"

#include <string.h>

#include "base/buffer.h"
#include "tests/lib/unit.h"

#include <jansson.h>

static struct answer_scan scan_of(const char *json)
{
    struct answer_scan scan;
    answer_begin(&scan);
    answer_feed(&scan, text_of(json));
    return scan;
}

/* All findings as text, to compare two scans. */
static void describe(const struct answer_scan *scan, char *to, size_t capacity)
{
    struct engine_usage usage = answer_usage(scan);
    snprintf(
        to, capacity,
        "usage %d %lld %lld %lld member %d null %d at %zu %zu %zu error %d choices %d %u content %u %llu bits %llx "
        "%llx finish %u complete %d broken %d",
        usage.seen, (long long) usage.input_tokens, (long long) usage.cached_input_tokens,
        (long long) usage.output_tokens, scan->has_usage_member, scan->usage_is_null, scan->usage_member_begin,
        scan->usage_value_begin, scan->usage_member_end, scan->has_error, scan->has_choices, scan->choice_count,
        scan->content_choices, (unsigned long long) scan->content_bytes, (unsigned long long) scan->content_bits[0],
        (unsigned long long) scan->content_bits[1], scan->finish_count, scan->complete, scan->broken);
}

struct usage_example {
    const char *json;
    struct engine_usage usage;
};

static const struct usage_example usage_examples[] = {
    {"{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12}}", {true, 5, 0, 7}},
    {"{\"usage\":{\"input_tokens\":5,\"output_tokens\":7,\"input_tokens_details\":{\"cached_tokens\":2}}}",
     {true, 5, 2, 7}},
    {" { \"usage\" : { \"completion_tokens\" : 7 , \"prompt_tokens\" : 5 } } ", {true, 5, 0, 7}},
    {"{\"usage\":{\"prompt_tokens_details\":{\"cached_tokens\":3},\"prompt_tokens\":5,\"completion_tokens\":7}}",
     {true, 5, 3, 7}},
    {"{\"usage\":{\"prompt_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":3}}}", {true, 2, 2, 0}},
    {"{\"usage\":{\"prompt_tokens\":5,\"prompt_tokens_details\":null,\"completion_tokens\":0}}", {true, 5, 0, 0}},
    /* embeddings: no output, and llama.cpp writes usage before data */
    {"{\"model\":\"m\",\"usage\":{\"prompt_tokens\":6,\"total_tokens\":6},\"data\":[{\"embedding\":[0.1,-1e-3]}]}",
     {true, 6, 0, 0}},
    /* explicit zeros count; one name's zero does not hide the other name's count */
    {"{\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}}", {true, 0, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":9,\"input_tokens\":0,\"output_tokens\":0}}",
     {true, 8, 0, 9}},
    /* of two the last that counts something */
    {"{\"usage\":{\"prompt_tokens\":1},\"usage\":{\"prompt_tokens\":2}}", {true, 2, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":1},\"usage\":{\"x\":2}}", {true, 1, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":1},\"usage\":null}", {true, 1, 0, 0}},
    /* no counts */
    {"{\"usage\":null}", {false, 0, 0, 0}},
    {"{\"usage\":{}}", {false, 0, 0, 0}},
    {"{\"usage\":[{\"prompt_tokens\":1}]}", {false, 0, 0, 0}},
    {"{\"usage\":{\"total_tokens\":1}}", {false, 0, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":-7}}", {false, 0, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":1.0,\"completion_tokens\":1e2}}", {false, 0, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":\"5\",\"completion_tokens\":true}}", {false, 0, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":8589934593,\"completion_tokens\":99999999999999999999999}}", {false, 0, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":8589934592,\"completion_tokens\":9007199254740992}}",
     {true, INT64_C(1) << 33, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":-7}}", {true, 3, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":-2}}}", {true, 3, 0, 0}},
    /* elsewhere it is not usage */
    {"{\"choices\":[{\"usage\":{\"prompt_tokens\":1}}]}", {false, 0, 0, 0}},
    {"{\"x\":{\"usage\":{\"prompt_tokens\":1}}}", {false, 0, 0, 0}},
    {"[{\"usage\":{\"prompt_tokens\":1}}]", {false, 0, 0, 0}},
    {"{\"usage\":{\"x\":{\"prompt_tokens\":1,\"completion_tokens\":2}}}", {false, 0, 0, 0}},
    {"{\"text\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":1}\"}", {false, 0, 0, 0}},
    {"{\"usag\\\\u0065\":{\"prompt_tokens\":1}}", {false, 0, 0, 0}},
    {"{\"usage_and_what_makes_the_name_longer_than_ours\":{\"prompt_tokens\":1}}", {false, 0, 0, 0}},
    /* escaped names are the same names */
    {"{\"\\u0075sa\\u0067e\":{\"pr\\u006fmpt_tokens\":4,\"completion\\u005Ftokens\":2}}", {true, 4, 0, 2}},
    {"{\"usag\\u0165\":{\"prompt_tokens\":4}}", {false, 0, 0, 0}}, /* its low byte is an e */
    /* llama.cpp's timings: all three or nothing, and usage goes before */
    {"{\"timings\":{\"cache_n\":4,\"prompt_n\":3,\"predicted_n\":9,\"prompt_ms\":1.5}}", {true, 7, 4, 9}},
    {"{\"timings\":{\"prompt_n\":3,\"predicted_n\":9}}", {false, 0, 0, 0}},
    {"{\"timings\":{\"prompt_n\":3}}", {false, 0, 0, 0}},
    {"{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6},\"timings\":{\"cache_n\":4,\"prompt_n\":3,\"predicted_"
     "n\":9}}",
     {true, 5, 0, 6}},
    {"{\"timings\":{\"cache_n\":4,\"prompt_n\":3,\"predicted_n\":9},\"usage\":{\"prompt_tokens\":5,\"completion_"
     "tokens\":6}}",
     {true, 5, 0, 6}},
    /* cut off: what was complete stands */
    {"{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6},\"choices\":[{\"te", {true, 5, 0, 6}},
    {"{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6", {false, 0, 0, 0}},
};

static void usage_is_found_where_engines_put_it(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof(usage_examples) / sizeof(usage_examples[0]); i++) {
        struct answer_scan scan = scan_of(usage_examples[i].json);
        struct engine_usage found = answer_usage(&scan), expected = usage_examples[i].usage;
        if (found.seen != expected.seen || found.input_tokens != expected.input_tokens ||
            found.cached_input_tokens != expected.cached_input_tokens ||
            found.output_tokens != expected.output_tokens || scan.broken)
            fail_msg("%s gave %d %lld %lld %lld, broken %d", usage_examples[i].json, found.seen,
                     (long long) found.input_tokens, (long long) found.cached_input_tokens,
                     (long long) found.output_tokens, scan.broken);
    }
}

static void of_two_members_the_last_is_meant(void **state)
{
    (void) state;
    struct answer_scan scan = scan_of("{\"usage\":null,\"usage\":{\"prompt_tokens\":1}}");
    assert_false(scan.usage_is_null);
    assert_int_equal(scan.usage_member_begin, 14);
    scan = scan_of("{\"usage\":{\"prompt_tokens\":1},\"usage\": null");
    assert_true(scan.usage_is_null);
    scan = scan_of("{\"usage\":null,\"usage\":");
    assert_int_equal(scan.usage_member_end, 0);
}

struct choice_example {
    const char *json;
    unsigned choices, content, finished;
    uint64_t bytes, bits;
};

static const struct choice_example choice_examples[] = {
    {"{\"choices\":[{\"text\":\"abc\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]}", 1, 1, 0, 3, 1},
    {"{\"choices\":[{\"text\":\"\",\"index\":0,\"finish_reason\":\"stop\"}]}", 1, 0, 1, 0, 0},
    {"{\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]}", 1, 0, 0, 0, 0},
    {"{\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}", 1, 0, 0, 0, 0},
    {"{\"choices\":[{\"index\":2,\"delta\":{\"content\":\"a\\n\\u00e9\"}}]}", 1, 1, 0, 9, 4},
    {"{\"choices\":[{\"delta\":{\"reasoning_content\":\"x\"}},{\"delta\":{\"reasoning\":\"y\"}}]}", 2, 2, 0, 2, 3},
    {"{\"choices\":[{\"delta\":{\"refusal\":\"no\"},\"finish_reason\":\"stop\"}]}", 1, 1, 1, 2, 1},
    {"{\"choices\":[{\"message\":{\"content\":\"hello\"},\"finish_reason\":\"length\",\"index\":0},"
     "{\"message\":{\"content\":\"you\"},\"finish_reason\":\"stop\",\"index\":1}]}",
     2, 2, 2, 8, 3},
    {"{\"choices\":[{\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]}}]}", 1, 1, 0, 2, 1},
    {"{\"choices\":[{\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"\"}]}}]}", 1, 0, 0, 0, 0},
    {"{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\","
     "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}",
     1, 1, 0, 3, 1},
    {"{\"choices\":[{\"delta\":{\"tool_calls\":[]}}]}", 1, 0, 0, 0, 0},
    {"{\"choices\":[{\"delta\":{\"function_call\":{\"arguments\":\"x\"}}}]}", 1, 1, 0, 1, 1},
    {"{\"choices\":[{\"index\":-1,\"text\":\"a\"},{\"index\":1.5,\"text\":\"b\"}]}", 2, 2, 0, 2, 3},
    {"{\"choices\":[{\"index\":128,\"text\":\"a\"},{\"index\":99999999999,\"text\":\"b\"}]}", 2, 2, 0, 2, 0},
    {"{\"choices\":[{\"index\":63,\"text\":\"a\"}]}", 1, 1, 0, 1, UINT64_C(1) << 63},
    {"{\"choices\":[]}", 0, 0, 0, 0, 0},
    {"{\"choices\":[1,\"text\",[{\"text\":\"a\"}]]}", 3, 0, 0, 0, 0},
    {"{\"text\":\"a\",\"data\":[{\"text\":\"a\"}],\"choices\":[{\"logprobs\":{\"text\":\"a\"}}]}", 1, 0, 0, 0, 0},
};

static void choices_say_what_was_generated(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof(choice_examples) / sizeof(choice_examples[0]); i++) {
        const struct choice_example *example = &choice_examples[i];
        struct answer_scan scan = scan_of(example->json);
        assert_false(scan.broken);
        assert_true(scan.complete);
        assert_true(scan.has_choices);
        if (scan.choice_count != example->choices || scan.content_choices != example->content ||
            scan.finish_count != example->finished || scan.content_bytes != example->bytes ||
            scan.content_bits[0] != example->bits) {
            char found[512];
            describe(&scan, found, sizeof(found));
            fail_msg("%s gave %s", example->json, found);
        }
    }
    assert_false(scan_of("{\"choices\":{\"text\":\"a\"}}").has_choices);
    struct answer_scan scan = scan_of("{\"choices\":[{\"index\":127,\"text\":\"a\"}]}");
    assert_true(scan.content_bits[1] == UINT64_C(1) << 63);
}

static void errors_are_noticed(void **state)
{
    (void) state;
    assert_true(scan_of("{\"error\":{\"message\":\"x\"}}").has_error);
    assert_true(scan_of("{\"error\":\"x\"}").has_error);
    assert_true(scan_of("{\"error\":true}").has_error);
    assert_true(scan_of("{\"error\":[]}").has_error);
    assert_false(scan_of("{\"error\":null}").has_error);
    assert_false(scan_of("{\"error\":false}").has_error);
    assert_false(scan_of("{\"x\":{\"error\":1}}").has_error);
}

static void what_is_not_json_breaks_the_scan(void **state)
{
    (void) state;
    static const char *const broken[] = {
        "x",     "{x",        "{\"a\" 1", "{\"a\":}", "{\"a\":1,}", "[1,]",   "[1 2]", "[}",     "{]",
        "[1}",   "{\"a\":1]", "tru ",     "nul1",     "[01]",       "[1.]",   "[-]",   "[1e]",   "[+1]",
        "[--1]", "{}x",       "[]]",      "[\"\\x\"", "[\"\\u12g",  "[DONE]", "1 2",   "[1.e1]", "[.5]"};
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
        if (!scan_of(broken[i]).broken)
            fail_msg("%s is no JSON", broken[i]);
    static const char *const unfinished[] = {"", "{", "[1,", "\"a", "{\"a\":\"\\u00", "tr", "[1", "{\"usage\""};
    for (size_t i = 0; i < sizeof(unfinished) / sizeof(unfinished[0]); i++) {
        assert_false(scan_of(unfinished[i]).broken);
        assert_false(scan_of(unfinished[i]).complete);
    }
    /* What was found before stands. */
    struct answer_scan scan = scan_of("{\"usage\":{\"prompt_tokens\":5},oops");
    assert_true(scan.broken);
    assert_true(answer_usage(&scan).seen);
}

static void nesting_is_bounded(void **state)
{
    (void) state;
    char json[2 * (ANSWER_DEPTH_MAX + 1) + 1] = "";
    memset(json, '[', ANSWER_DEPTH_MAX);
    memset(json + ANSWER_DEPTH_MAX, ']', ANSWER_DEPTH_MAX);
    assert_true(scan_of(json).complete);
    memset(json, '[', ANSWER_DEPTH_MAX + 1);
    assert_true(scan_of(json).broken);
}

static void assert_same_in_pieces(const char *json)
{
    char whole[512], found[512];
    struct answer_scan scan = scan_of(json);
    struct text text = text_of(json);
    describe(&scan, whole, sizeof(whole));
    for (size_t round = 0; round <= text.length + 8; round++) {
        answer_begin(&scan);
        for (size_t at = 0, length; at < text.length; at += length) {
            length = round == 0             ? 1
                     : round <= text.length ? (at == 0 ? round : text.length - at)
                                            : 1 + unit_random_below(6);
            if (length > text.length - at)
                length = text.length - at;
            answer_feed(&scan, (struct text){text.at + at, length});
        }
        describe(&scan, found, sizeof(found));
        assert_string_equal(found, whole);
    }
}

static void findings_do_not_depend_on_the_cut(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof(usage_examples) / sizeof(usage_examples[0]); i++)
        assert_same_in_pieces(usage_examples[i].json);
    for (size_t i = 0; i < sizeof(choice_examples) / sizeof(choice_examples[0]); i++)
        assert_same_in_pieces(choice_examples[i].json);
    static const char alphabet[] = "{}[]\",:\\u0017.eE-+ \n";
    for (int round = 0; round < 300; round++) {
        char json[256];
        const char *from = usage_examples[unit_random_below(sizeof(usage_examples) / sizeof(usage_examples[0]))].json;
        text_copy(json, sizeof(json), text_of(from));
        for (int changes = 0; changes < 2; changes++)
            json[unit_random_below(strlen(json))] = alphabet[unit_random_below(sizeof(alphabet) - 1)];
        assert_same_in_pieces(json);
    }
}

static json_t *load(struct text json)
{
    return json_loadb(json.at, json.length, 0, NULL);
}

/* The body without the member is what jansson makes of it; with null in its place, too. */
static void assert_cut(const char *json)
{
    struct answer_scan scan = scan_of(json);
    struct text whole = text_of(json), before, after;
    struct buffer joined;
    buffer_init(&joined, 4096);
    assert_true(answer_usage_cut(&scan, whole, &before, &after));
    assert_true(buffer_add(&joined, before) && buffer_add(&joined, after));
    json_t *expected = load(whole), *found = load(buffer_text(&joined));
    assert_non_null(expected);
    json_object_del(expected, "usage");
    if (found == NULL || !json_equal(expected, found))
        fail_msg("%s became %.*s", json, TEXT_ARGUMENTS(buffer_text(&joined)));
    json_decref(found);

    buffer_clear(&joined);
    assert_true(buffer_add(&joined, (struct text){json, scan.usage_value_begin}) && buffer_add(&joined, TEXT("null")) &&
                buffer_add(&joined, text_of(json + scan.usage_member_end)));
    json_object_set_new(expected, "usage", json_null());
    found = load(buffer_text(&joined));
    assert_non_null(found);
    assert_true(json_equal(expected, found));
    json_decref(found);
    json_decref(expected);
    buffer_finish(&joined);
}

static void the_member_can_be_cut_from_any_place(void **state)
{
    (void) state;
    static const char *const values[] = {"null", "{\"prompt_tokens\":1,\"completion_tokens\":2}", "5", "\"a,}\"",
                                         "[1,{\"a\":2}]"};
    static const char *const shapes[] = {
        "{\"usage\":%s}",
        "{ \"usage\" : %s }",
        "{\"usage\":%s,\"a\":1}",
        "{ \"usage\" : %s , \"a\" : 1 }",
        "{\"a\":1,\"usage\":%s}",
        "{ \"a\" : 1 ,\n \"usage\" : %s\n}\n",
        "{\"a\":[1,2],\"usage\":%s,\"b\":{}}",
        "{ \"a\" : \"x\" , \"usage\" : %s , \"b\" : 2 }",
        "{\"a\":\"usage\",\"\\u0075sage\":%s,\"b\":\",\"}",
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        for (size_t j = 0; j < sizeof(values) / sizeof(values[0]); j++) {
            char json[256];
            struct builder to;
            const char *gap = strstr(shapes[i], "%s");
            builder_init(&to, json, sizeof(json));
            builder_add(&to, (struct text){shapes[i], (size_t) (gap - shapes[i])});
            builder_add_string(&to, values[j]);
            builder_add_string(&to, gap + 2);
            assert_cut(builder_string(&to));
        }
    }
    static const char *const without[] = {"{}", "{\"a\":{\"usage\":1}}", "{\"usage\":{\"a\"", "{\"usage\"",
                                          "{\"usage\":1"};
    for (size_t i = 0; i < sizeof(without) / sizeof(without[0]); i++) {
        struct answer_scan scan = scan_of(without[i]);
        struct text before, after;
        assert_false(answer_usage_cut(&scan, text_of(without[i]), &before, &after));
    }
}

/* An embeddings answer of megabytes, usage in front: found at once, kept to the end, in pieces. */
static void a_huge_body_is_scanned_as_it_passes(void **state)
{
    (void) state;
    struct answer_scan scan;
    answer_begin(&scan);
    answer_feed(&scan, TEXT("{\"usage\":{\"prompt_tokens\":6,\"total_tokens\":6},\"data\":[{\"embedding\":[0"));
    for (int i = 0; i < 200000; i++)
        answer_feed(&scan, TEXT(",-0.0123456789e-2, 12345"));
    answer_feed(&scan, TEXT("],\"index\":0}]}"));
    assert_true(scan.complete);
    assert_false(scan.broken);
    assert_int_equal(answer_usage(&scan).input_tokens, 6);
    assert_int_equal(scan.content_bytes, 0);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usage_is_found_where_engines_put_it), cmocka_unit_test(of_two_members_the_last_is_meant),
        cmocka_unit_test(choices_say_what_was_generated),      cmocka_unit_test(errors_are_noticed),
        cmocka_unit_test(what_is_not_json_breaks_the_scan),    cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(findings_do_not_depend_on_the_cut),   cmocka_unit_test(the_member_can_be_cut_from_any_place),
        cmocka_unit_test(a_huge_body_is_scanned_as_it_passes),
    };
    return cmocka_run_group_tests_name("answer_scan", tests, NULL, NULL);
}
