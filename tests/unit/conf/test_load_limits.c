/* Limits: every setting arrives, presets fill what is not written, each bucket knows its place in the YAML. */
#include "tests/unit/conf/scratch_policy.h"

#include <stdio.h>

#define DIGEST_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define MODELS   "models: { m: { engines: [ { url: 'http://127.0.0.1:8000' } ] } }\n"
#define FULL                                                                                                           \
    "{ requests_per_minute: 600, tokens_per_minute: 1000000000000, concurrent_requests: 50,\n"                         \
    " burst: { requests: 60, tokens: 999 }, strict_window: yes, on_exceed: cut }"

static void assert_origin(const struct limits *limits, const char *wanted)
{
    char whole[512];
    snprintf(whole, sizeof(whole), "%s:%s", scratch_path("tollgate.yaml"), wanted);
    assert_string_equal(limits->origin, whole);
}

static void assert_full(const struct limits *limits)
{
    assert_int_equal(limits->requests_per_minute, 600);
    assert_int_equal(limits->tokens_per_minute, 1000000000000);
    assert_int_equal(limits->concurrent_requests, 50);
    assert_int_equal(limits->request_burst, 60);
    assert_int_equal(limits->token_burst, 999);
    assert_true(limits->strict_window);
    assert_int_equal(limits->on_exceed, ON_EXCEED_CUT);
}

static void assert_none(const struct limits *limits)
{
    assert_int_equal(limits->requests_per_minute, 0);
    assert_int_equal(limits->tokens_per_minute, 0);
    assert_int_equal(limits->concurrent_requests, 0);
    assert_int_equal(limits->request_burst, 0);
    assert_int_equal(limits->token_burst, 0);
    assert_false(limits->strict_window);
    assert_int_equal(limits->on_exceed, ON_EXCEED_SOFT);
    assert_string_equal(limits->origin, "");
}

static void nothing_written_limits_nothing(void **state)
{
    (void) state;
    const struct policy *policy =
        scratch_policy_good(MODELS "tenants: { t: { models: { m: {} }, keys: { k: { sha256: " DIGEST_A " } } } }\n");
    assert_none(&policy->models[0].limits);
    assert_none(&policy->user_limits);
    assert_none(&policy->tenants[0].limits);
    assert_int_equal(policy->tenants[0].model_count, 1);
    assert_none(&policy->tenants[0].models[0].limits);
    assert_none(&policy->keys[0].limits);
    policy_drop(&policy);
}

static void every_limit_arrives_at_every_level(void **state)
{
    (void) state;
    const struct policy *policy = scratch_policy_good("models:\n"
                                                      "  m: { engines: [ { url: 'http://a' } ],\n"
                                                      "    limits: " FULL "}\n"
                                                      "  a: { engines: [ { url: 'http://a' } ] }\n"
                                                      "defaults:\n"
                                                      "  user: { limits: " FULL "}\n"
                                                      "tenants:\n"
                                                      "  t:\n"
                                                      "    limits: " FULL "\n"
                                                      "    models: { m: { limits: " FULL "}, a: {} }\n"
                                                      "    keys: { k: { sha256: " DIGEST_A ", limits: " FULL "}}\n");
    const struct tenant *tenant = &policy->tenants[0];
    assert_none(&policy->models[0].limits);
    assert_full(&policy->models[1].limits);
    assert_origin(&policy->models[1].limits, "3:13");
    assert_full(&policy->user_limits);
    assert_origin(&policy->user_limits, "7:19");
    assert_full(&tenant->limits);
    assert_origin(&tenant->limits, "11:13");
    assert_int_equal(tenant->model_count, 2);
    assert_string_equal(tenant->models[0].model, "a");
    assert_none(&tenant->models[0].limits);
    assert_string_equal(tenant->models[1].model, "m");
    assert_full(&tenant->models[1].limits);
    assert_full(&policy->keys[0].limits);
    policy_drop(&policy);
}

static const char *const with_presets =
    MODELS "defaults:\n"
           "  tenant: { limits: { requests_per_minute: 100, burst: { requests: 10 }, on_exceed: hard } }\n"
           "  key: { limits: { requests_per_minute: 7, concurrent_requests: 3, strict_window: yes } }\n"
           "keys_file: keys\n"
           "tenants:\n"
           "  bare: {}\n"
           "  part:\n"
           "    limits: { tokens_per_minute: 50, burst: { tokens: 5 } }\n"
           "    models: { m: { limits: { tokens_per_minute: 9 } } }\n"
           "    keys: { k: { sha256: " DIGEST_A ", limits: { strict_window: no, requests_per_minute: 8,\n"
           "      concurrent_requests: 4 } } }\n";

static void presets_fill_what_a_tenant_does_not_write(void **state)
{
    (void) state;
    scratch_write("keys", "bare k " DIGEST_B "\n");
    const struct policy *policy = scratch_policy_good(with_presets);
    const struct limits *bare = &policy->tenants[0].limits, *part = &policy->tenants[1].limits;
    assert_int_equal(bare->requests_per_minute, 100);
    assert_int_equal(bare->request_burst, 10);
    assert_int_equal(bare->on_exceed, ON_EXCEED_HARD);
    assert_origin(bare, "3:21");
    assert_int_equal(part->requests_per_minute, 100);
    assert_int_equal(part->request_burst, 10);
    assert_int_equal(part->tokens_per_minute, 50);
    assert_int_equal(part->token_burst, 5);
    assert_int_equal(part->on_exceed, ON_EXCEED_HARD);
    char both[512];
    snprintf(both, sizeof(both), "9:13, %s:3:21", scratch_path("tollgate.yaml"));
    assert_origin(part, both);
    /* Neither the tenant's model nor its keys inherit from it. */
    assert_int_equal(policy->tenants[1].models[0].limits.requests_per_minute, 0);
    assert_int_equal(policy->tenants[1].models[0].limits.on_exceed, ON_EXCEED_SOFT);
    assert_none(&policy->user_limits);
    policy_drop(&policy);
}

static void presets_fill_what_a_key_does_not_write(void **state)
{
    (void) state;
    scratch_write("keys", "bare k " DIGEST_B "\n");
    const struct policy *policy = scratch_policy_good(with_presets);
    const struct limits *own = &policy->keys[0].limits, *of_keys_file = &policy->keys[1].limits;
    assert_string_equal(policy->keys[1].tenant->name, "bare");
    assert_int_equal(own->requests_per_minute, 8);
    assert_int_equal(own->concurrent_requests, 4);
    assert_int_equal(own->tokens_per_minute, 0);
    assert_int_equal(own->request_burst, 0);
    assert_false(own->strict_window);
    assert_origin(own, "11:100");
    assert_int_equal(of_keys_file->requests_per_minute, 7);
    assert_int_equal(of_keys_file->concurrent_requests, 3);
    assert_true(of_keys_file->strict_window);
    assert_origin(of_keys_file, "4:18");
    policy_drop(&policy);
}

static void doubts_are_told_by_check_only(void **state)
{
    (void) state;
    const char *yaml =
        MODELS "tenants: { t: { limits: { tokens_per_minute: 1, burst: { tokens: 60 }, on_exceed: hard },\n"
               "  keys: { k: { sha256: " DIGEST_A " } } } }\n";
    struct problem_list problems;
    problem_list_init(&problems);
    const struct policy *policy = scratch_policy(yaml, LOAD_CHECK, &problems);
    assert_non_null(policy);
    assert_int_equal(problems.warnings, 2);
    policy_drop(&policy);
    problem_list_finish(&problems);

    problem_list_init(&problems);
    policy = scratch_policy(yaml, LOAD_RUN, &problems);
    assert_non_null(policy);
    assert_int_equal(problems.warnings, 0);
    policy_drop(&policy);
    problem_list_finish(&problems);
}

static void names_of_what_happens_are_those_of_the_yaml(void **state)
{
    (void) state;
    assert_string_equal(ON_EXCEED_NAMES[ON_EXCEED_SOFT], "soft");
    assert_string_equal(ON_EXCEED_NAMES[ON_EXCEED_HARD], "hard");
    assert_string_equal(ON_EXCEED_NAMES[ON_EXCEED_CUT], "cut");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_destroy)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_written_limits_nothing),
        TEST(every_limit_arrives_at_every_level),
        TEST(presets_fill_what_a_tenant_does_not_write),
        TEST(presets_fill_what_a_key_does_not_write),
        TEST(doubts_are_told_by_check_only),
        TEST(names_of_what_happens_are_those_of_the_yaml),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
