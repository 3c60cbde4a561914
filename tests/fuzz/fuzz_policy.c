/* conf/: any bytes as main file, tenant's file and keys file (with '\x1e' between them) make a sound policy, or an
 * error with its place; never both, never neither. */
#include "conf/bundle.h"
#include "conf/schema.h"

#include "tests/fuzz/pieces.h"

static struct text take_file(struct text *rest)
{
    const char *end = rest->length > 0 ? memchr(rest->at, '\x1e', rest->length) : NULL;
    size_t length = end != NULL ? (size_t) (end - rest->at) : rest->length;
    size_t taken = length + (end != NULL);
    struct text file = {rest->at, length};
    *rest = (struct text){rest->at + taken, rest->length - taken};
    return file;
}

static void check_limits(const struct limits *limits)
{
    const int64_t values[] = {limits->requests_per_minute, limits->tokens_per_minute, limits->concurrent_requests,
                              limits->request_burst, limits->token_burst};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        MUST(values[i] >= 0 && values[i] <= INT64_C(1000000000000));
    bool strict_requests = limits->strict_window && limits->requests_per_minute > 0;
    bool strict_tokens = limits->strict_window && limits->tokens_per_minute > 0;
    MUST(!strict_requests || limits->request_burst < limits->requests_per_minute);
    MUST(!strict_tokens || limits->token_burst < limits->tokens_per_minute);
    MUST(limits->on_exceed < ON_EXCEED_COUNT && limits->origin != NULL);
}

static void check_prices(const struct model *model)
{
    for (size_t i = 0; i < model->price_count; i++) {
        const struct price *price = &model->prices[i];
        MUST(strlen(price->currency) == 3 && price->valid_from_wall_ms % 3600000 == 0);
        MUST(price->input_pico >= 0 && price->input_pico <= PRICE_PICO_MAX);
        MUST(price->cached_input_pico >= 0 && price->cached_input_pico <= PRICE_PICO_MAX);
        MUST(price->output_pico >= 0 && price->output_pico <= PRICE_PICO_MAX);
        MUST(i == 0 || price[-1].valid_from_wall_ms < price->valid_from_wall_ms);
    }
}

static void check_billing(const struct billing_policy *billing)
{
    MUST(billing->epoch_ms >= 1000 && billing->epoch_ms <= 3600000 && billing->retention_ms > 0);
    for (size_t i = 0; i < billing->provider_count; i++) {
        const struct provider_policy *provider = &billing->providers[i];
        MUST(provider->kind == PROVIDER_FILE ? provider->directory != NULL : provider->meter_count > 0);
        for (size_t k = 0; k < provider->meter_count; k++)
            MUST(provider->meters[k].model_pattern_count > 0 && provider->meters[k].event_name[0] != '\0');
    }
}

static void check_models(const struct policy *policy)
{
    MUST(policy->model_count > 0 && policy->workers > 0);
    for (size_t i = 0; i < policy->model_count; i++) {
        const struct model *model = &policy->models[i];
        MUST(setting_is_name(text_of(model->name)));
        MUST(policy_model(policy, text_of(model->name)) == model);
        for (size_t k = 0; k < model->alias_count; k++)
            MUST(policy_model(policy, text_of(model->aliases[k])) == model);
        check_limits(&model->limits);
        check_prices(model);
        MUST(model->engine_count > 0 && model->timeouts.total_ms > 0 && model->queue_wait_ms > 0);
        MUST(i == 0 || strcmp(policy->models[i - 1].name, model->name) < 0);
    }
}

static void check_tenants(const struct policy *policy)
{
    check_limits(&policy->user_limits);
    for (size_t i = 0; i < policy->tenant_count; i++) {
        check_limits(&policy->tenants[i].limits);
        MUST(policy->tenants[i].customer != NULL);
        for (size_t k = 0; k < policy->tenants[i].model_count; k++)
            check_limits(&policy->tenants[i].models[k].limits);
    }
    for (size_t i = 0; i < policy->key_count; i++) {
        const struct key *key = &policy->keys[i];
        MUST(key->tenant >= policy->tenants && key->tenant < policy->tenants + policy->tenant_count);
        check_limits(&key->limits);
        MUST(setting_is_name(text_of(key->name)) && key->user != NULL);
        MUST((key->scopes.endpoint_bits >> ENDPOINT_COUNT) == 0);
    }
}

static void check_bytes(const struct bundle *bundle)
{
    struct buffer bytes;
    buffer_init(&bytes, 64 * 1024 * 1024);
    MUST(bundle_write(bundle, &bytes));
    struct bundle *again = bundle_parse(buffer_text(&bytes));
    MUST(again != NULL && again->file_count == bundle->file_count);
    bundle_destroy(&again);
    buffer_finish(&bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text rest = {(const char *) data, size};
    struct bundle_file files[] = {
        {BUNDLE_MAIN, "/fuzz/tollgate.yaml", take_file(&rest)},
        {BUNDLE_TENANT, "/fuzz/t.d/acme.yaml", take_file(&rest)},
        {BUNDLE_KEYS, "/fuzz/keys", take_file(&rest)},
    };
    struct bundle bundle = {.file_count = 3, .files = files, .capacity = 3};
    if (files[1].bytes.length == 0) {
        files[1] = files[2];
        bundle.file_count = 2;
    }
    struct problem_list problems;
    problem_list_init(&problems);
    const struct policy *policy = policy_load(&bundle, LOAD_CHECK, &problems);
    MUST((policy == NULL) == (problems.errors > 0));
    MUST(problems.errors + problems.warnings == 0 || buffer_length(&problems.text) > 0);
    if (policy != NULL) {
        check_models(policy);
        check_tenants(policy);
        check_billing(&policy->billing);
    }
    check_bytes(&bundle);
    policy_drop(&policy);
    problem_list_finish(&problems);
    return 0;
}
