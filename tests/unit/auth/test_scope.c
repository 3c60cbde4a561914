/* Scopes: globs over canonical names, endpoint bits, and what an absent part means. */
#include "auth/scope.h"
#include "tests/lib/unit.h"

static bool allows(const char *pattern, const char *name)
{
    const char *patterns[] = {pattern};
    struct scopes scopes = {.models_limited = true, .model_pattern_count = 1, .model_patterns = patterns};
    return scopes_allow_model(&scopes, name);
}

static void nothing_written_allows_everything(void **state)
{
    (void) state;
    struct scopes open = {0};
    assert_true(scopes_allow_model(&open, "any/model:1"));
    for (int i = 0; i < ENDPOINT_COUNT; i++) {
        assert_true(scopes_allow_endpoint(&open, (enum endpoint) i));
    }
}

static void an_empty_list_allows_nothing(void **state)
{
    (void) state;
    struct scopes closed = {.models_limited = true, .endpoints_limited = true};
    assert_false(scopes_allow_model(&closed, "m"));
    assert_false(scopes_allow_model(&closed, ""));
    for (int i = 0; i < ENDPOINT_COUNT; i++) {
        assert_false(scopes_allow_endpoint(&closed, (enum endpoint) i));
    }
}

static void patterns_match_whole_names(void **state)
{
    (void) state;
    assert_true(allows("gemma", "gemma"));
    assert_false(allows("gemma", "gemma-2"));
    assert_false(allows("gemma", "xgemma"));
    assert_false(allows("gemma", "Gemma"));
    assert_false(allows("", "gemma"));
    assert_true(allows("*", "gemma"));
    assert_true(allows("gemma-*", "gemma-3-270m"));
    assert_true(allows("gemma-*", "gemma-"));
    assert_false(allows("gemma-*", "gemma"));
    assert_true(allows("*/*-instruct", "org/small-instruct"));
    assert_false(allows("*/*-instruct", "small-instruct"));
    assert_false(allows("g?mma", "gemma")); /* only '*' is special */
    assert_false(allows("[g]emma", "gemma"));
}

static void one_matching_pattern_is_enough(void **state)
{
    (void) state;
    const char *patterns[] = {"a", "b*", "c"};
    struct scopes scopes = {.models_limited = true, .model_pattern_count = 3, .model_patterns = patterns};
    assert_true(scopes_allow_model(&scopes, "a"));
    assert_true(scopes_allow_model(&scopes, "bee"));
    assert_true(scopes_allow_model(&scopes, "c"));
    assert_false(scopes_allow_model(&scopes, "d"));
}

static void one_bit_is_one_endpoint(void **state)
{
    (void) state;
    for (int allowed = 0; allowed < ENDPOINT_COUNT; allowed++) {
        struct scopes scopes = {.endpoints_limited = true, .endpoint_bits = 1u << allowed};
        for (int asked = 0; asked < ENDPOINT_COUNT; asked++) {
            assert_int_equal(scopes_allow_endpoint(&scopes, (enum endpoint) asked), asked == allowed);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_written_allows_everything), cmocka_unit_test(an_empty_list_allows_nothing),
        cmocka_unit_test(patterns_match_whole_names),        cmocka_unit_test(one_matching_pattern_is_enough),
        cmocka_unit_test(one_bit_is_one_endpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
