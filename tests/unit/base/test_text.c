#include "base/text.h"

#include <string.h>

#include <jansson.h>

#include "tests/lib/unit.h"

/* Slices */

static void slices_compare_by_content(void **state)
{
    (void) state;
    assert_int_equal(text_of(NULL).length, 0);
    assert_int_equal(text_of("abc").length, 3);
    assert_true(text_equal(TEXT("abc"), text_of("abc")));
    assert_false(text_equal(TEXT("abc"), TEXT("abd")));
    assert_false(text_equal(TEXT("abc"), TEXT("ab")));
    assert_true(text_equal((struct text){NULL, 0}, TEXT("")));
    assert_false(text_equal(TEXT("abc"), TEXT("ABC")));
    assert_true(text_equal_ignoring_case(TEXT("aBc-[1"), TEXT("AbC-[1")));
    assert_false(text_equal_ignoring_case(TEXT("["), TEXT("{")));
    assert_false(text_equal_ignoring_case(TEXT("\xe4"), TEXT("\xc4")));
    assert_true(text_starts_with(TEXT("abc"), TEXT("")));
    assert_true(text_starts_with(TEXT("abc"), TEXT("abc")));
    assert_false(text_starts_with(TEXT("ab"), TEXT("abc")));
}

static void trimming_takes_spaces_and_tabs_only(void **state)
{
    (void) state;
    assert_true(text_equal(text_trimmed(TEXT(" \t a b \t")), TEXT("a b")));
    assert_true(text_equal(text_trimmed(TEXT(" \t ")), TEXT("")));
    assert_true(text_equal(text_trimmed((struct text){NULL, 0}), TEXT("")));
    assert_true(text_equal(text_trimmed(TEXT("\na\n")), TEXT("\na\n")));
}

static void integers_fill_the_whole_slice(void **state)
{
    (void) state;
    static const struct {
        const char *text;
        bool valid;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"007", true, 7},
        {"-12", true, -12},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"99999999999999999999", false, 0},
        {"", false, 0},
        {"-", false, 0},
        {"--1", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"1.0", false, 0},
        {"0x1", false, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t value = 4711;
        assert_int_equal(text_to_int64(text_of(cases[i].text), &value), cases[i].valid);
        assert_int_equal(value, cases[i].valid ? cases[i].value : 4711);
    }
}

/* Globs */

static void globs_match(void **state)
{
    (void) state;
    assert_true(text_matches_glob(TEXT("gemma-3-270m"), TEXT("gemma-*")));
    assert_true(text_matches_glob(TEXT("gemma-"), TEXT("gemma-*")));
    assert_false(text_matches_glob(TEXT("gemm"), TEXT("gemma-*")));
    assert_true(text_matches_glob(TEXT(""), TEXT("*")));
    assert_true(text_matches_glob(TEXT(""), TEXT("")));
    assert_false(text_matches_glob(TEXT("a"), TEXT("")));
    assert_true(text_matches_glob(TEXT("a?[b]"), TEXT("a?[b]")));
    assert_false(text_matches_glob(TEXT("axb"), TEXT("a?b")));
    assert_false(text_matches_glob(TEXT("aba"), TEXT("aba*a")));
    assert_false(text_matches_glob(TEXT("Gemma"), TEXT("gemma")));
}

/* The definition, exponential and obviously right. */
static bool matches_by_definition(struct text whole, struct text pattern)
{
    if (pattern.length == 0)
        return whole.length == 0;
    struct text rest = {pattern.at + 1, pattern.length - 1};
    if (pattern.at[0] != '*')
        return whole.length > 0 && whole.at[0] == pattern.at[0] &&
               matches_by_definition((struct text){whole.at + 1, whole.length - 1}, rest);
    for (size_t skipped = 0; skipped <= whole.length; skipped++) {
        if (matches_by_definition((struct text){whole.at + skipped, whole.length - skipped}, rest))
            return true;
    }
    return false;
}

static void globs_agree_with_the_definition(void **state)
{
    (void) state;
    unsigned matched = 0;
    for (int i = 0; i < 100000; i++) {
        char whole[12], pattern[8];
        struct text whole_text = {whole, unit_random_below(sizeof(whole))};
        struct text pattern_text = {pattern, unit_random_below(sizeof(pattern))};
        for (size_t j = 0; j < whole_text.length; j++)
            whole[j] = "ab"[unit_random_below(2)];
        for (size_t j = 0; j < pattern_text.length; j++)
            pattern[j] = "ab*"[unit_random_below(3)];
        bool expected = matches_by_definition(whole_text, pattern_text);
        assert_int_equal(text_matches_glob(whole_text, pattern_text), expected);
        matched += expected;
    }
    assert_true(matched > 10000);
}

/* With 4000 stars against a million bytes, anything but linear time would not come to an end. */
static void hostile_globs_take_linear_time(void **state)
{
    (void) state;
    size_t whole_length = 1000000, pattern_length = 8000;
    char *whole = malloc(whole_length), *pattern = malloc(pattern_length);
    assert_non_null(whole);
    assert_non_null(pattern);
    memset(whole, 'a', whole_length);
    for (size_t i = 0; i < pattern_length; i++)
        pattern[i] = i % 2 == 0 ? '*' : 'a';
    pattern[pattern_length - 1] = 'b';
    assert_false(text_matches_glob((struct text){whole, whole_length}, (struct text){pattern, pattern_length}));
    free(whole);
    free(pattern);
}

/* Builder */

static void what_does_not_fit_is_dropped_whole(void **state)
{
    (void) state;
    char memory[6];
    struct builder builder;
    builder_init(&builder, memory, sizeof(memory));
    builder_add(&builder, TEXT("abcde"));
    assert_false(builder.overflowed);
    assert_string_equal(builder_string(&builder), "abcde");

    builder_init(&builder, memory, sizeof(memory));
    builder_add(&builder, TEXT("abcdef"));
    assert_true(builder.overflowed);
    assert_string_equal(builder_string(&builder), "");

    builder_init(&builder, memory, sizeof(memory));
    builder_format(&builder, "%d", 12345);
    assert_false(builder.overflowed);
    builder_format(&builder, "%d", 6);
    assert_true(builder.overflowed);
    assert_string_equal(builder_string(&builder), "12345");

    builder_init(&builder, memory, sizeof(memory));
    builder_add_json(&builder, TEXT("ab\n"));
    assert_true(builder.overflowed);
    assert_int_equal(builder.length, 0);
}

static size_t add_random_piece(struct builder *builder, const char *letters, size_t length)
{
    switch (unit_random_below(3)) {
    case 0:
        builder_add(builder, (struct text){letters, length});
        return length;
    case 1:
        builder_format(builder, "%.*s", (int) length, letters);
        return length;
    default:
        builder_add_json(builder, (struct text){letters, length});
        return length + 2;
    }
}

/* Any run of adds: the content is that of the adds that fitted, in order, the memory after it untouched. */
static void a_builder_agrees_with_a_list_of_pieces(void **state)
{
    (void) state;
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    for (int round = 0; round < 5000; round++) {
        char memory[80];
        memset(memory, '#', sizeof(memory));
        size_t capacity = 1 + unit_random_below(64);
        struct builder builder;
        builder_init(&builder, memory, capacity);
        size_t expected_length = 0;
        bool expected_overflow = false;
        for (int i = 0; i < 12; i++) {
            size_t wanted = add_random_piece(&builder, letters, unit_random_below(20));
            if (expected_length + wanted < capacity)
                expected_length += wanted;
            else
                expected_overflow = true;
            assert_int_equal(builder_text(&builder).length, expected_length);
            assert_int_equal(builder.overflowed, expected_overflow);
        }
        assert_int_equal(strlen(builder_string(&builder)), expected_length);
        for (size_t i = capacity; i < sizeof(memory); i++)
            assert_int_equal(memory[i], '#');
    }
}

/* JSON */

static void json_strings_escape_what_they_must(void **state)
{
    (void) state;
    char memory[128];
    struct builder builder;
    builder_init(&builder, memory, sizeof(memory));
    builder_add_json(&builder, TEXT("a\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9"));
    assert_string_equal(builder_string(&builder), "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9\"");
}

static void repaired_json_has_no_broken_bytes_and_no_terminal_controls(void **state)
{
    (void) state;
    char memory[128];
    struct builder builder;
    builder_init(&builder, memory, sizeof(memory));
    builder_add_json_repaired(&builder, TEXT("a\xff\xc3\n\xc2\x9b\x7f\xc2\xa0\xed\xa0\x80"));
    assert_string_equal(builder_string(&builder),
                        "\"a\xef\xbf\xbd\xef\xbf\xbd\\n\\u009b\\u007f\xc2\xa0\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

static void repaired_json_is_always_json(void **state)
{
    (void) state;
    for (int round = 0; round < 20000; round++) {
        char bytes[24], memory[256];
        size_t length = unit_random_below(sizeof(bytes));
        for (size_t i = 0; i < length; i++)
            bytes[i] = (char) unit_random();
        struct builder builder;
        builder_init(&builder, memory, sizeof(memory));
        builder_add_json_repaired(&builder, (struct text){bytes, length});
        assert_false(builder.overflowed);
        json_t *parsed = json_loadb(memory, builder.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        assert_non_null(parsed);
        json_decref(parsed);
    }
}

/* UTF-8 */

static size_t encode(uint32_t point, char to[4])
{
    if (point < 0x80) {
        to[0] = (char) point;
        return 1;
    }
    size_t length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, point >>= 6)
        to[i] = (char) (0x80 | (point & 0x3f));
    to[0] = (char) (0xf00u >> length | point);
    return length;
}

static void all_characters_and_no_surrogates_are_utf8(void **state)
{
    (void) state;
    for (uint32_t point = 0; point < 0x120000; point++) {
        char bytes[5] = {0};
        size_t length = encode(point, bytes);
        bool valid = point <= 0x10ffff && (point < 0xd800 || point > 0xdfff);
        bytes[length] = 'x';
        assert_int_equal(text_utf8_length((struct text){bytes, length + 1}), valid ? length : 0);
        assert_int_equal(text_utf8_length((struct text){bytes, length - 1}), 0);
    }
}

static void overlong_and_stray_bytes_are_no_utf8(void **state)
{
    (void) state;
    static const char *const broken[] = {"\xc0\x80", "\xc1\xbf",     "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf",
                                         "\x80",     "\xf5\x80\x80", "\xff",         "\xe2\x82x",
                                         "\xc3x",    "\xf0\x9f\x98x"};
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
        assert_int_equal(text_utf8_length(text_of(broken[i])), 0);
}

/* Copies and digits */

static void copies_are_cut_to_fit(void **state)
{
    (void) state;
    char memory[4];
    assert_int_equal(text_copy(memory, sizeof(memory), TEXT("abc")), 3);
    assert_string_equal(memory, "abc");
    assert_int_equal(text_copy(memory, sizeof(memory), TEXT("abcd")), 3);
    assert_string_equal(memory, "abc");
    assert_int_equal(text_copy(memory, 1, TEXT("abcd")), 0);
    assert_string_equal(memory, "");
    assert_int_equal(text_copy(memory, sizeof(memory), (struct text){NULL, 0}), 0);
}

static void hexadecimal_goes_there_and_back(void **state)
{
    (void) state;
    unsigned char bytes[256], back[256];
    char digits[2 * sizeof(bytes) + 1];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char) i;
    text_hex(digits, bytes, sizeof(bytes));
    assert_memory_equal(digits, "000102030405060708090a0b", 24);
    assert_true(text_from_hex(text_of(digits), back, sizeof(back)));
    assert_memory_equal(bytes, back, sizeof(bytes));

    assert_true(text_from_hex(TEXT("fFAb"), back, 2));
    assert_int_equal(back[0], 0xff);
    memset(back, 7, sizeof(back));
    assert_false(text_from_hex(TEXT("fFAb"), back, 1));
    assert_false(text_from_hex(TEXT("fFA"), back, 2));
    assert_false(text_from_hex(TEXT("ffg0"), back, 2));
    assert_false(text_from_hex(TEXT("ff 0"), back, 2));
    assert_int_equal(back[0], 7);
}

static void integers_are_written_with_their_zeros(void **state)
{
    (void) state;
    static const struct {
        int64_t value;
        unsigned width;
        const char *expected;
    } cases[] = {{0, 1, "0"},
                 {7, 1, "7"},
                 {-7, 1, "-7"},
                 {7, 3, "007"},
                 {1234, 2, "1234"},
                 {0, 6, "000000"},
                 {42, 0, "42"},
                 {INT64_MAX, 1, "9223372036854775807"},
                 {INT64_MIN, 1, "-9223372036854775808"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char memory[32];
        struct builder builder;
        builder_init(&builder, memory, sizeof memory);
        builder_add_int(&builder, cases[i].value, cases[i].width);
        assert_string_equal(builder_string(&builder), cases[i].expected);
    }
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_written_with_their_zeros),
        cmocka_unit_test(slices_compare_by_content),
        cmocka_unit_test(trimming_takes_spaces_and_tabs_only),
        cmocka_unit_test(integers_fill_the_whole_slice),
        cmocka_unit_test(globs_match),
        cmocka_unit_test(globs_agree_with_the_definition),
        cmocka_unit_test(hostile_globs_take_linear_time),
        cmocka_unit_test(what_does_not_fit_is_dropped_whole),
        cmocka_unit_test(a_builder_agrees_with_a_list_of_pieces),
        cmocka_unit_test(json_strings_escape_what_they_must),
        cmocka_unit_test(repaired_json_has_no_broken_bytes_and_no_terminal_controls),
        cmocka_unit_test(repaired_json_is_always_json),
        cmocka_unit_test(all_characters_and_no_surrogates_are_utf8),
        cmocka_unit_test(overlong_and_stray_bytes_are_no_utf8),
        cmocka_unit_test(copies_are_cut_to_fit),
        cmocka_unit_test(hexadecimal_goes_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
