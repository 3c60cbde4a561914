/* Money's settings: prices with versions, the Redis, epochs, providers and their meters. */
#include "tests/unit/conf/scratch_policy.h"

#include <stdio.h>

#define MODELS  "models: { m: { engines: [ { url: 'http://127.0.0.1:8000' } ] } }\n"
#define KEYS    "keys: { k: { sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa } }"
#define TENANTS "tenants: { t: { " KEYS " } }\n"
#define HOUR_MS INT64_C(3600000)

static void nothing_written_means_the_defaults(void **state)
{
    (void) state;
    const struct policy *policy = scratch_policy_good(MODELS TENANTS);
    const struct billing_policy *billing = &policy->billing;
    assert_int_equal(billing->epoch_ms, 300000);
    assert_int_equal(billing->sync, BILLING_SYNC_OS);
    assert_int_equal(billing->retention_ms, 400 * 24 * HOUR_MS);
    assert_true(billing->bill_client_gone && billing->bill_engine_error);
    assert_true(billing->bill_crash && billing->bill_estimated);
    assert_int_equal(billing->provider_count, 0);
    assert_int_equal(policy->redis.kind, REDIS_PRIVATE);
    assert_null(policy->redis.text);
    assert_int_equal(policy->models[0].price_count, 0);
    assert_string_equal(policy->tenants[0].customer, "");
    policy_drop(&policy);
}

static const char *const everything =
    "redis: { url: 'unix:redis.sock' }\n" MODELS "tenants: { t: { customer: cus_1, " KEYS " } }\n"
    "billing:\n"
    "  epoch: 1s\n"
    "  sync: group\n"
    "  retention: 30d\n"
    "  bill: { client_gone: no, engine_error: no, crash: no, estimated: no }\n"
    "  providers:\n"
    "    - stripe:\n"
    "        api_key_file: stripe.key\n"
    "        api_base: http://127.0.0.1:12111/\n"
    "        meters:\n"
    "          - { event_name: in, measure: input_tokens }\n"
    "          - { event_name: cached, measure: cached_input_tokens, models: [m, 'x*'] }\n"
    "          - { event_name: out, measure: output_tokens, models: [m] }\n"
    "          - { event_name: calls, measure: requests, models: ['*'] }\n"
    "    - file: { dir: usage }\n";

static void every_setting_of_billing_arrives(void **state)
{
    (void) state;
    scratch_write("stripe.key", "rk_test_1\n");
    const struct policy *policy = scratch_policy_good(everything);
    const struct billing_policy *billing = &policy->billing;
    assert_int_equal(billing->epoch_ms, 1000);
    assert_int_equal(billing->sync, BILLING_SYNC_GROUP);
    assert_int_equal(billing->retention_ms, 30 * 24 * HOUR_MS);
    assert_false(billing->bill_client_gone || billing->bill_engine_error);
    assert_false(billing->bill_crash || billing->bill_estimated);
    assert_string_equal(policy->tenants[0].customer, "cus_1");
    assert_int_equal(billing->provider_count, 2);
    assert_int_equal(billing->providers[1].kind, PROVIDER_FILE);
    assert_string_equal(billing->providers[1].directory, scratch_path("usage"));
    assert_null(billing->providers[1].api_key._bytes);
    policy_drop(&policy);
}

static void what_is_billed_is_told_one_by_one(void **state)
{
    (void) state;
    static const char *const names[] = {"client_gone", "engine_error", "crash", "estimated"};
    for (unsigned i = 0; i < 4; i++) {
        char yaml[512];
        snprintf(yaml, sizeof(yaml), MODELS TENANTS "billing: { bill: { %s: no } }\n", names[i]);
        const struct policy *policy = scratch_policy_good(yaml);
        const struct billing_policy *billing = &policy->billing;
        assert_int_equal(billing->bill_client_gone, i != 0);
        assert_int_equal(billing->bill_engine_error, i != 1);
        assert_int_equal(billing->bill_crash, i != 2);
        assert_int_equal(billing->bill_estimated, i != 3);
        policy_drop(&policy);
    }
}

static void every_setting_of_a_meter_arrives(void **state)
{
    (void) state;
    scratch_write("stripe.key", "rk_test_1\n");
    const struct policy *policy = scratch_policy_good(everything);
    const struct provider_policy *stripe = &policy->billing.providers[0];
    assert_int_equal(stripe->kind, PROVIDER_STRIPE);
    assert_string_equal(PROVIDER_KIND_NAMES[stripe->kind], "stripe");
    assert_string_equal(stripe->api_key._bytes, "rk_test_1");
    assert_string_equal(stripe->api_base, "http://127.0.0.1:12111");
    assert_int_equal(stripe->meter_count, 4);
    for (size_t i = 0; i < stripe->meter_count; i++)
        assert_int_equal(stripe->meters[i].measure, (enum measure) i);
    assert_string_equal(stripe->meters[0].event_name, "in");
    assert_int_equal(stripe->meters[0].model_pattern_count, 1);
    assert_string_equal(stripe->meters[0].model_patterns[0], "*");
    assert_int_equal(stripe->meters[1].model_pattern_count, 2);
    assert_string_equal(stripe->meters[1].model_patterns[1], "x*");
    assert_string_equal(MEASURE_NAMES[stripe->meters[3].measure], "requests");
    policy_drop(&policy);
}

static void stripe_is_at_stripe_unless_said_otherwise(void **state)
{
    (void) state;
    scratch_write("stripe.key", "rk_test_1\n");
    const struct policy *policy =
        scratch_policy_good(MODELS TENANTS "billing: { providers: [ { stripe: { api_key_file: stripe.key,\n"
                                           "  meters: [ { event_name: x, measure: requests } ] } } ] }\n");
    assert_string_equal(policy->billing.providers[0].api_base, "https://api.stripe.com");
    policy_drop(&policy);
}

static void redis_is_a_socket_or_an_address(void **state)
{
    (void) state;
    scratch_write("stripe.key", "rk_test_1\n");
    const struct policy *policy = scratch_policy_good(everything);
    assert_int_equal(policy->redis.kind, REDIS_UNIX);
    assert_string_equal(policy->redis.path, scratch_path("redis.sock"));
    assert_string_equal(policy->redis.text, "unix:redis.sock");
    policy_drop(&policy);
    policy = scratch_policy_good("redis: { url: 'redis://[::1]:7000/3' }\n" MODELS TENANTS);
    assert_int_equal(policy->redis.kind, REDIS_TCP);
    assert_string_equal(policy->redis.host, "::1");
    assert_int_equal(policy->redis.port, 7000);
    assert_int_equal(policy->redis.database, 3);
    policy_drop(&policy);
}

static void one_price_needs_no_list(void **state)
{
    (void) state;
    const struct policy *policy = scratch_policy_good(
        "models:\n"
        "  m: { engines: [ { url: 'http://a' } ], price: { currency: EUR, input: \"0.10\", cached_input: "
        "'0.05', output: 0.4 } }\n"
        "  n: { engines: [ { url: 'http://a' } ], price: { currency: JPY, input: 90.5, output: 0 } }\n" TENANTS);
    assert_int_equal(policy->models[0].price_count, 1);
    const struct price *price = &policy->models[0].prices[0];
    assert_string_equal(price->currency, "EUR");
    assert_string_equal(price->input, "0.10");
    assert_int_equal(price->input_pico, 100000);
    assert_string_equal(price->cached_input, "0.05");
    assert_int_equal(price->cached_input_pico, 50000);
    assert_string_equal(price->output, "0.4");
    assert_int_equal(price->output_pico, 400000);
    assert_int_equal(price->valid_from_wall_ms, 0);
    price = &policy->models[1].prices[0];
    assert_string_equal(price->cached_input, "90.5");
    assert_int_equal(price->cached_input_pico, 90500000);
    assert_int_equal(price->output_pico, 0);
    policy_drop(&policy);
}

static void versions_of_a_price_are_in_order(void **state)
{
    (void) state;
    const struct policy *policy = scratch_policy_good(
        "models:\n"
        "  m:\n"
        "    engines: [ { url: 'http://a' } ]\n"
        "    price:\n"
        "      - { currency: EUR, input: 3, output: 3, valid_from: 2027-01-01T01:00:00Z }\n"
        "      - { currency: EUR, input: 1, output: 1 }\n"
        "      - { currency: EUR, input: 1000000000, output: 2, valid_from: 2027-01-01T02:00:00+02:00 }\n" TENANTS);
    const struct model *model = &policy->models[0];
    assert_int_equal(model->price_count, 3);
    assert_int_equal(model->prices[0].valid_from_wall_ms, 0);
    assert_int_equal(model->prices[0].input_pico, 1000000);
    assert_int_equal(model->prices[1].valid_from_wall_ms, 1798761600000);
    assert_int_equal(model->prices[1].input_pico, PRICE_PICO_MAX);
    assert_int_equal(model->prices[2].valid_from_wall_ms, 1798761600000 + HOUR_MS);
    policy_drop(&policy);
}

static void says(const char *yaml, enum load_mode mode, const char *const *wanted, size_t count)
{
    struct problem_list problems;
    problem_list_init(&problems);
    const struct policy *policy = scratch_policy(yaml, mode, &problems);
    assert_non_null(policy);
    struct text got = buffer_text(&problems.text);
    for (size_t i = 0; i < count; i++) {
        if (memmem(got.at, got.length, wanted[i], strlen(wanted[i])) == NULL)
            fail_msg("no \"%s\" in\n%.*s", wanted[i], TEXT_ARGUMENTS(got));
    }
    assert_int_equal(problems.warnings, count);
    policy_drop(&policy);
    problem_list_finish(&problems);
}

static void doubts_are_told_by_check_only(void **state)
{
    (void) state;
    scratch_write("stripe.key", "rk_test_1\n");
    const char *yaml = "redis: { url: 'redis://10.0.0.1' }\n" MODELS TENANTS
                       "billing: { providers: [ { stripe: { api_key_file: stripe.key,\n"
                       "  meters: [ { event_name: x, measure: requests, models: [other] } ] } } ] }\n";
    static const char *const wanted[] = {":1:15: warning: this connection is not encrypted",
                                         ":5:58: warning: \"other\" matches no model",
                                         ":5:3: warning: 1 of 1 tenants have no customer, such as \"t\"",
                                         ":5:3: warning: no meter takes the model \"m\""};
    says(yaml, LOAD_CHECK, wanted, sizeof(wanted) / sizeof(wanted[0]));
    says(yaml, LOAD_RUN, NULL, 0);
}

#define METERS(first, second)                                                                                          \
    MODELS "tenants: { t: { customer: cus_1 } }\nbilling: { providers: [ { stripe: { api_key_file: stripe.key,\n"      \
           "  meters: [ " first ", " second " ] } } ] }\n"

static void two_meters_for_one_thing_are_told(void **state)
{
    (void) state;
    scratch_write("stripe.key", "rk_test_1\n");
    static const char *const wanted[] = {
        "warning: there is no API key",
        "warning: the meters \"a\" and \"b\" both take input_tokens of the model \"m\": they are sold twice"};
    says(METERS("{ event_name: a, measure: input_tokens }", "{ event_name: b, measure: input_tokens }"), LOAD_CHECK,
         wanted, 2);
    says(METERS("{ event_name: a, measure: input_tokens }", "{ event_name: b, measure: output_tokens }"), LOAD_CHECK,
         wanted, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_destroy)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_written_means_the_defaults),
        TEST(every_setting_of_billing_arrives),
        TEST(what_is_billed_is_told_one_by_one),
        TEST(every_setting_of_a_meter_arrives),
        TEST(stripe_is_at_stripe_unless_said_otherwise),
        TEST(redis_is_a_socket_or_an_address),
        TEST(one_price_needs_no_list),
        TEST(versions_of_a_price_are_in_order),
        TEST(doubts_are_told_by_check_only),
        TEST(two_meters_for_one_thing_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
