/* base/json: the grammar, its limits, JSONTestSuite, and agreement with jansson but for a written list. */
#include "base/json.h"

#include <dirent.h>
#include <string.h>

#include "tests/lib/unit.h"

/* jansson's own names for what our tokens are called. */
#define JSON_STRING JANSSON_STRING
#define JSON_TRUE   JANSSON_TRUE
#define JSON_FALSE  JANSSON_FALSE
#define JSON_NULL   JANSSON_NULL
#include <jansson.h>
#undef JSON_STRING
#undef JSON_TRUE
#undef JSON_FALSE
#undef JSON_NULL

#define SUITE_FOLDER "tests/vectors/JSONTestSuite/test_parsing"
enum { FILES_MAX = 400, FILE_BYTES_MAX = 1 << 20, MUTATIONS = 60 };

/* A copy on the heap of just that size, so that AddressSanitizer sees a read past the end. */
static struct text exact_copy(const char *at, size_t length)
{
    char *copy = malloc(length > 0 ? length : 1);
    assert_non_null(copy);
    if (length > 0)
        memcpy(copy, at, length);
    return (struct text){copy, length};
}

static void drop_copy(struct text copy)
{
    free((void *) (uintptr_t) copy.at);
}

/* Run to the end; returns the error or NULL. */
static const char *error_of(struct text whole)
{
    struct json_scan scan;
    enum json_token token;
    json_begin(&scan, whole);
    do
        token = json_next(&scan);
    while (token != JSON_END && token != JSON_ERROR);
    assert_int_equal(json_next(&scan), token);
    return token == JSON_END ? NULL : scan.error;
}

static void assert_accepted(const char *json)
{
    struct text copy = exact_copy(json, strlen(json));
    const char *error = error_of(copy);
    drop_copy(copy);
    if (error != NULL)
        fail_msg("%s is refused: %s", json, error);
}

static void assert_refused(const char *json, const char *why)
{
    struct text copy = exact_copy(json, strlen(json));
    const char *error = error_of(copy);
    drop_copy(copy);
    if (error == NULL)
        fail_msg("%s is accepted", json);
    else if (strstr(error, why) == NULL)
        fail_msg("%s is refused because \"%s\", not \"%s\"", json, error, why);
}

/* One letter a token. */
static char letter_of(enum json_token token)
{
    return "{}[]ks0tfn.!"[token];
}

static void assert_tokens(const char *json, const char *letters)
{
    struct json_scan scan;
    char found[64] = "";
    size_t count = 0;
    json_begin(&scan, text_of(json));
    do {
        found[count++] = letter_of(json_next(&scan));
        assert_true(count < sizeof(found));
    } while (scan.token != JSON_END && scan.token != JSON_ERROR);
    found[count] = '\0';
    assert_string_equal(found, letters);
}

static void tokens_come_in_order(void **state)
{
    (void) state;
    assert_tokens("{}", "{}.");
    assert_tokens(" [ ] ", "[].");
    assert_tokens("{\"a\":1,\"b\":[true,false,null,\"x\"],\"c\":{}}", "{k0k[tfns]k{}}.");
    assert_tokens("\"x\"", "s.");
    assert_tokens("-0.5e+3", "0.");
    assert_tokens("[1,]", "[0!");
    assert_tokens("{\"a\":1,}", "{k0!");
    assert_tokens("{\"a\" 1}", "{!");
    assert_tokens("[1 2]", "[0!");
    assert_tokens("[}", "[!");
    assert_tokens("{]", "{!");
    assert_tokens("[1}", "[0!");
    assert_tokens("{\"a\":1]", "{k0!");
    assert_tokens("1 1", "0!");
    assert_tokens("", "!");
}

static void spans_and_depths_describe_the_token(void **state)
{
    (void) state;
    struct json_scan scan;
    json_begin(&scan, text_of(" {\"k\" : [ -1.5 ] }"));
    assert_int_equal(json_next(&scan), JSON_OBJECT_BEGIN);
    assert_int_equal(scan.depth, 0);
    assert_int_equal(scan.position, 2);
    assert_int_equal(json_next(&scan), JSON_KEY);
    assert_true(text_equal(scan.span, TEXT("\"k\"")));
    assert_int_equal(scan.depth, 1);
    assert_int_equal(json_next(&scan), JSON_ARRAY_BEGIN);
    assert_int_equal(scan.depth, 1);
    assert_int_equal(json_next(&scan), JSON_NUMBER);
    assert_true(text_equal(scan.span, TEXT("-1.5")));
    assert_int_equal(scan.depth, 2);
    assert_int_equal(json_next(&scan), JSON_ARRAY_END);
    assert_int_equal(scan.depth, 1);
    assert_int_equal(json_next(&scan), JSON_OBJECT_END);
    assert_int_equal(scan.depth, 0);
    assert_int_equal(json_next(&scan), JSON_END);
}

static void a_value_can_be_skipped(void **state)
{
    (void) state;
    static const char *const values[] = {
        "1", "\"}]\"", "null", "[]", "{}", "[[1,{\"a\":[2]}],3]", "{\"a\":{\"b\":[]}}"};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct json_scan scan;
        struct text span;
        char json[128];
        snprintf(json, sizeof(json), "{\"k\": %s ,\"z\":true}", values[i]);
        json_begin(&scan, text_of(json));
        json_next(&scan);
        json_next(&scan);
        assert_true(json_skip_value(&scan, &span));
        assert_true(text_equal(span, text_of(values[i])));
        assert_int_equal(json_next(&scan), JSON_KEY);
        assert_true(json_skip_value(&scan, NULL));
        assert_int_equal(json_next(&scan), JSON_OBJECT_END);
        assert_false(json_skip_value(&scan, NULL));
        assert_int_equal(scan.token, JSON_END);
    }
    struct json_scan scan;
    json_begin(&scan, TEXT("[[1,x]]"));
    json_next(&scan);
    assert_false(json_skip_value(&scan, NULL));
    assert_int_equal(scan.token, JSON_ERROR);
}

static void strings_are_strict(void **state)
{
    (void) state;
    assert_accepted("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD834\\udd1e\\u0000\x7f\"");
    assert_accepted("\"\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xF0\x90\x80\x80\xF4\x8F\xBF\xBF\"");
    assert_refused("\"a\tb\"", "control");
    assert_refused("\"\x1f\"", "control");
    assert_refused("\"\\x\"", "escape");
    assert_refused("\"\\u12g4\"", "escape");
    assert_refused("\"\\u12", "escape");
    assert_refused("\"\\", "escape");
    assert_refused("\"\\uD800\"", "escape");
    assert_refused("\"\\uD800\\u0041\"", "escape");
    assert_refused("\"\\uDC00\"", "escape");
    assert_refused("\"abc", "closed");
    static const char *const broken[] = {"\x80",         "\xC0\x80",     "\xC1\xBF",         "\xE0\x80\x80",
                                         "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
                                         "\xF5\x80\x80", "\xE2\x82",     "\xF0\x9F\x98",     "\xC3",
                                         "\xFF",         "\xE2\x28\xA1", "\xC3\x28",         "\xF0\x9F\x28\x80"};
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        char json[32];
        snprintf(json, sizeof(json), "\"12345678%s\"", broken[i]);
        assert_refused(json, "UTF-8");
        snprintf(json, sizeof(json), "\"%s", broken[i]);
        assert_refused(json, "UTF-8");
    }
}

/* Every byte, at every place around the eight-byte stride. */
static void no_special_byte_hides_in_a_stride(void **state)
{
    (void) state;
    for (size_t length = 1; length <= 20; length++) {
        for (size_t at = 0; at < length; at++) {
            for (int byte = 0; byte < 256; byte++) {
                char json[32];
                memset(json, 'a', sizeof(json));
                json[0] = json[length + 1] = '"';
                json[1 + at] = (char) byte;
                struct text copy = exact_copy(json, length + 2);
                bool accepted = error_of(copy) == NULL;
                drop_copy(copy);
                bool plain = byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
                assert_int_equal(accepted, plain);
            }
        }
    }
}

static void numbers_are_strict(void **state)
{
    (void) state;
    static const char *const good[] = {
        "0", "-0", "10", "1.0", "0.1", "1e5", "1E-5", "1.5e+10", "123456789012345678901"};
    static const char *const bad[] = {"01", "-",   "-a",  "1.",  "1.e1",  ".5", "+1",
                                      "1e", "1e+", "0x1", "--1", "1.2.3", "1a"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_accepted(good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_refused(bad[i], "");
    int64_t number = 7;
    assert_true(json_number_to_int64(TEXT("-12"), &number));
    assert_int_equal(number, -12);
    assert_true(json_number_to_int64(TEXT("9223372036854775807"), &number));
    assert_true(number == INT64_MAX);
    assert_false(json_number_to_int64(TEXT("9223372036854775808"), &number));
    assert_false(json_number_to_int64(TEXT("1.0"), &number));
    assert_false(json_number_to_int64(TEXT("1e3"), &number));
    assert_true(number == INT64_MAX);
}

static void strings_are_decoded_and_compared(void **state)
{
    (void) state;
    struct text span = TEXT("\"a\\u0062\\n\\u00e9\\u20AC\\ud83d\\ude00\\/z\"");
    static const char plain[] = "ab\n\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80/z";
    char decoded[64];
    assert_int_equal(json_decoded_length(span), strlen(plain));
    assert_int_equal(json_string_decode(span, decoded), strlen(plain));
    assert_memory_equal(decoded, plain, strlen(plain));
    assert_true(json_string_equals(span, text_of(plain)));
    assert_false(json_string_equals(span, TEXT("ab")));
    assert_false(json_string_equals(TEXT("\"ab\""), TEXT("abc")));
    assert_true(json_string_equals(TEXT("\"\""), TEXT("")));
    assert_false(json_string_equals(TEXT("\"Model\""), TEXT("model")));
    assert_true(json_string_equals_ignoring_case(TEXT("\"\\u004dODEL\""), TEXT("model")));
    assert_false(json_string_equals_ignoring_case(TEXT("\"models\""), TEXT("model")));
    assert_int_equal(json_string_decode(TEXT("\"\\u0000\""), decoded), 1);
    assert_int_equal(decoded[0], 0);
}

static void nesting_and_tokens_are_bounded(void **state)
{
    (void) state;
    char nested[2 * (JSON_DEPTH_MAX + 1) + 1] = "";
    memset(nested, '[', JSON_DEPTH_MAX);
    memset(nested + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    assert_accepted(nested);
    memset(nested, '[', JSON_DEPTH_MAX + 1);
    memset(nested + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
    assert_refused(nested, "64");

    size_t count = JSON_NODES_MAX - 2;
    char *list = malloc(2 * count + 3);
    assert_non_null(list);
    for (size_t i = 0; i < count; i++)
        memcpy(list + 2 * i, i == 0 ? "[1" : ",1", 2);
    memcpy(list + 2 * count, "]", 2);
    assert_accepted(list);
    memcpy(list + 2 * count, ",1]", 4 - 1);
    assert_string_equal(error_of((struct text){list, 2 * count + 3}), "it has more than 200000 tokens");
    free(list);
}

struct file {
    char name[128];
    struct text content;
};
static struct file files[FILES_MAX];
static size_t file_count;

static int load_suite(void **state)
{
    (void) state;
    static char content[FILE_BYTES_MAX];
    DIR *folder = opendir(SUITE_FOLDER);
    if (folder == NULL) {
        fprintf(stderr, "run this from the root of the source: %s is not there\n", SUITE_FOLDER);
        return -1;
    }
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[512];
        if (strstr(entry->d_name, ".json") == NULL || file_count == FILES_MAX)
            continue;
        snprintf(path, sizeof(path), "%s/%s", SUITE_FOLDER, entry->d_name);
        FILE *stream = fopen(path, "rb");
        if (stream == NULL)
            return -1;
        size_t length = fread(content, 1, sizeof(content), stream);
        fclose(stream);
        struct file *file = &files[file_count++];
        text_copy(file->name, sizeof(file->name), text_of(entry->d_name));
        file->content = exact_copy(content, length);
    }
    closedir(folder);
    return file_count == 318 ? 0 : -1;
}

static int drop_suite(void **state)
{
    (void) state;
    for (size_t i = 0; i < file_count; i++)
        drop_copy(files[i].content);
    return 0;
}

static void the_suite_is_judged_right(void **state)
{
    (void) state;
    for (size_t i = 0; i < file_count; i++) {
        const char *error = error_of(files[i].content);
        if (files[i].name[0] == 'y' && error != NULL)
            fail_msg("%s is refused: %s", files[i].name, error);
        if (files[i].name[0] == 'n' && error == NULL)
            fail_msg("%s is accepted", files[i].name);
    }
}

/* Where we may differ from jansson, and nowhere else: it refuses numbers that do not fit its types and a NUL in a key;
 * we refuse deeper nesting and more tokens; and for a bare number it takes a NUL byte for the end of the text. */
static bool may_differ(struct text json, const char *error, const json_error_t *refusal)
{
    enum json_error_code code = json_error_code(refusal);
    if (error == NULL)
        return code == json_error_numeric_overflow || code == json_error_null_byte_in_key;
    if (strstr(error, "64 levels") != NULL || strstr(error, "200000") != NULL)
        return true;
    return memchr(json.at, '\0', json.length) != NULL && strcspn(json.at, "{[\"") >= strnlen(json.at, json.length);
}

static void assert_agreement(struct text json, const char *name)
{
    json_error_t refusal;
    const char *error = error_of(json);
    json_t *value = json_loadb(json.at, json.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &refusal);
    bool agreed = (value != NULL) == (error == NULL) || may_differ(json, error, &refusal);
    if (value != NULL)
        json_decref(value);
    if (!agreed)
        fail_msg("%s: we say %s, jansson %s; %zu bytes: %.*s", name, error != NULL ? error : "yes",
                 value != NULL ? "yes" : refusal.text, json.length, TEXT_ARGUMENTS(json));
}

static void jansson_agrees_on_the_suite(void **state)
{
    (void) state;
    for (size_t i = 0; i < file_count; i++)
        assert_agreement(files[i].content, files[i].name);
}

/* Change, remove or double some bytes of @from. */
static struct text mutated(struct text from)
{
    static const char interesting[] = "{}[]\",:\\u0019eE+-. \t\n\x80\xC3\xA9\xED\xFFtruefalsn";
    char *copy = malloc(from.length + 1);
    assert_non_null(copy);
    memcpy(copy, from.at, from.length);
    size_t length = from.length;
    for (size_t changes = 1 + unit_random_below(3); changes > 0 && length > 0; changes--) {
        size_t at = unit_random_below(length);
        size_t kind = unit_random_below(4);
        char byte = interesting[unit_random_below(sizeof(interesting) - 1)];
        if (kind == 0)
            memmove(copy + at, copy + at + 1, --length - at);
        else if (kind == 1 && length == from.length)
            memmove(copy + at + 1, copy + at, length++ - at);
        else
            copy[at] = kind == 2 ? byte : (char) unit_random();
    }
    struct text exact = exact_copy(copy, length);
    free(copy);
    return exact;
}

static void jansson_agrees_on_mutations(void **state)
{
    (void) state;
    for (size_t i = 0; i < file_count; i++) {
        if (files[i].content.length > 4096)
            continue;
        for (int round = 0; round < MUTATIONS; round++) {
            struct text changed = mutated(files[i].content);
            assert_agreement(changed, files[i].name);
            drop_copy(changed);
        }
    }
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_come_in_order),
        cmocka_unit_test(spans_and_depths_describe_the_token),
        cmocka_unit_test(a_value_can_be_skipped),
        cmocka_unit_test(strings_are_strict),
        cmocka_unit_test(no_special_byte_hides_in_a_stride),
        cmocka_unit_test(numbers_are_strict),
        cmocka_unit_test(strings_are_decoded_and_compared),
        cmocka_unit_test(nesting_and_tokens_are_bounded),
        cmocka_unit_test(the_suite_is_judged_right),
        cmocka_unit_test(jansson_agrees_on_the_suite),
        cmocka_unit_test(jansson_agrees_on_mutations),
    };
    return cmocka_run_group_tests_name("json", tests, load_suite, drop_suite);
}
