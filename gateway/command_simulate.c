/* `tollgate simulate`: what the limits of a configuration would have done to a recorded load. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "conf/suggest.h"
#include "gateway/command.h"
#include "gateway/simulation.h"
#include "ratelimit/answer.h"

static const char NAME[] = "simulate";

enum { TOKEN_MS_MAX = 60000, CAP_TOKENS_DEFAULT = 4096 };

/* What was asked for, as it stands in argv; NULL = not given. */
struct wish {
    const char *config;
    const char *trace;
    const char *tenant;
    const char *key;
    const char *model;
    const char *cap;
    const char *token_ms;
    bool json;
};

/* ---- who sends it ---- */

static const struct tenant *choose_tenant(const struct policy *policy, const char *wanted)
{
    struct suggestion near = {0};
    for (size_t i = 0; wanted != NULL && i < policy->tenant_count; i++) {
        if (strcmp(policy->tenants[i].name, wanted) == 0) {
            return &policy->tenants[i];
        }
        suggest_look_at(&near, text_of(wanted), policy->tenants[i].name);
    }
    if (wanted == NULL && policy->tenant_count == 1) {
        return &policy->tenants[0];
    }
    if (wanted == NULL) {
        command_usage_error(NAME, "there are %zu tenants: name one with --tenant", policy->tenant_count);
    } else if (near.best != NULL) {
        command_usage_error(NAME, "--tenant: there is no \"%s\"; did you mean \"%s\"?", wanted, near.best);
    } else {
        command_usage_error(NAME, "--tenant: there is no \"%s\"", wanted);
    }
    return NULL;
}

/* A tenant without keys is simulated without one: NULL, and true. */
static bool choose_key(const struct policy *policy, const struct tenant *tenant, const char *wanted,
                       const struct key **ret_key)
{
    size_t count = 0;
    const struct key *found = NULL;
    struct suggestion near = {0};
    for (size_t i = 0; i < policy->key_count; i++) {
        const struct key *key = &policy->keys[i];
        if (key->tenant != tenant) {
            continue;
        }
        count++;
        if (wanted == NULL || strcmp(key->name, wanted) == 0) {
            found = key;
        } else {
            suggest_look_at(&near, text_of(wanted), key->name);
        }
    }
    if (wanted == NULL && count > 1) {
        command_usage_error(NAME, "the tenant \"%s\" has %zu keys: name one with --key", tenant->name, count);
        return false;
    }
    if (wanted != NULL && found == NULL) {
        command_usage_error(NAME, "--key: the tenant \"%s\" has no \"%s\"%s%s%s", tenant->name, wanted,
                            near.best != NULL ? "; did you mean \"" : "", near.best != NULL ? near.best : "",
                            near.best != NULL ? "\"?" : "");
        return false;
    }
    *ret_key = found;
    return true;
}

static const struct model *choose_model(const struct policy *policy, const char *wanted)
{
    if (wanted == NULL && policy->model_count == 1) {
        return &policy->models[0];
    }
    if (wanted == NULL) {
        command_usage_error(NAME, "there are %zu models: name one with --model", policy->model_count);
        return NULL;
    }
    const struct model *model = policy_model(policy, text_of(wanted));
    struct suggestion near = {0};
    for (size_t i = 0; model == NULL && i < policy->model_count; i++) {
        suggest_look_at(&near, text_of(wanted), policy->models[i].name);
    }
    if (model == NULL && near.best != NULL) {
        command_usage_error(NAME, "--model: there is no \"%s\"; did you mean \"%s\"?", wanted, near.best);
    } else if (model == NULL) {
        command_usage_error(NAME, "--model: there is no \"%s\"", wanted);
    }
    return model;
}

/* ---- as text ---- */

static double share(int64_t part, int64_t whole)
{
    return whole > 0 ? 100 * (double) part / (double) whole : 0;
}

static void print_refusals(const struct simulation_result *result, const int64_t counts[][LIMIT_SCOPE_COUNT],
                           const char *label)
{
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
        for (int scope = 0; scope < LIMIT_SCOPE_COUNT; scope++) {
            int64_t count = counts[kind][scope];
            if (count > 0) {
                printf("%-15s %12lld  %5.1f %%  by the %s of the %s (%lld%s)\n", label, (long long) count,
                       share(count, result->requests), LIMIT_KIND_NAMES[kind], LIMIT_SCOPE_NAMES[scope],
                       (long long) result->limits[kind][scope], kind == LIMIT_SEATS ? "" : " a minute");
            }
        }
    }
}

static void print_subject(const struct simulation_load *load, const struct simulation_result *result)
{
    char duration[LIMIT_HEADER_BYTES];
    limit_duration(result->duration_us, duration);
    const struct limit_subject *subject = &load->subject;
    printf("%lld requests in %s for %s by %s %s%s%s\n", (long long) result->requests, duration, subject->model,
           subject->key[0] != '\0' ? "key" : "tenant", subject->tenant, subject->key[0] != '\0' ? "/" : "",
           subject->key);
    if (!result->limited) {
        printf("No limit applies to them.\n");
    }
}

static void print_text(const struct simulation_load *load, const struct simulation_result *result)
{
    print_subject(load, result);
    printf("%-15s %12lld  %5.1f %%\n", "admitted", (long long) result->admitted,
           share(result->admitted, result->requests));
    print_refusals(result, result->refused, "refused");
    print_refusals(result, result->too_large, "too large");
    printf("%-15s %12lld  at once\n", "most running", (long long) result->running_most);
    printf("%-15s %12lld  tokens, %lld of them reserved before (%.2fx)\n", "used", (long long) result->used_tokens,
           (long long) result->reserved_tokens,
           result->used_tokens > 0 ? (double) result->reserved_tokens / (double) result->used_tokens : 0);
    printf("%-15s %12lld  requests, by %lld tokens\n", "over-reserved", (long long) result->over_requests,
           (long long) result->over_tokens);
    printf("%-15s %12lld  requests, by %lld tokens; %lld top-ups\n", "under-reserved",
           (long long) result->under_requests, (long long) result->under_tokens, (long long) result->top_ups);
    printf("%-15s %12lld  tokens, %.1f %% of those used\n", "debt", (long long) result->debt_tokens,
           share(result->debt_tokens, result->used_tokens));
    if (result->cut > 0) {
        printf("%-15s %12lld  streams, by `on_exceed: cut`\n", "ended early", (long long) result->cut);
    }
    if (result->capped > 0) {
        printf("%-15s %12lld  answers, to %lld tokens\n", "cut to the cap", (long long) result->capped,
               (long long) load->cap_tokens);
    }
}

/* ---- as JSON ---- */

static void add_refusals(json_t *list, const struct simulation_result *result,
                         const int64_t counts[][LIMIT_SCOPE_COUNT], bool never)
{
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
        for (int scope = 0; scope < LIMIT_SCOPE_COUNT; scope++) {
            if (counts[kind][scope] > 0) {
                json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:b, s:I}", "kind", LIMIT_KIND_NAMES[kind],
                                                      "scope", LIMIT_SCOPE_NAMES[scope], "limit",
                                                      (json_int_t) result->limits[kind][scope], "too_large", never,
                                                      "requests", (json_int_t) counts[kind][scope]));
            }
        }
    }
}

static int print_json(const struct simulation_load *load, const struct simulation_result *result)
{
    json_t *refusals = json_array();
    add_refusals(refusals, result, result->refused, false);
    add_refusals(refusals, result, result->too_large, true);
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:b, s:f}", "tenant", load->subject.tenant, "key", load->subject.key, "model",
                  load->subject.model, "limited", result->limited, "seconds", (double) result->duration_us / 1e6);
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {
        {"requests", result->requests},
        {"admitted", result->admitted},
        {"refused", result->requests - result->admitted},
        {"refused_tokens", result->refused_tokens},
        {"running_most", result->running_most},
        {"used_tokens", result->used_tokens},
        {"reserved_tokens", result->reserved_tokens},
        {"over_reserved_requests", result->over_requests},
        {"over_reserved_tokens", result->over_tokens},
        {"under_reserved_requests", result->under_requests},
        {"under_reserved_tokens", result->under_tokens},
        {"top_ups", result->top_ups},
        {"debt_tokens", result->debt_tokens},
        {"ended_early", result->cut},
        {"capped", result->capped},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        json_object_set_new(json, numbers[i].name, json_integer((json_int_t) numbers[i].value));
    }
    json_object_set_new(json, "refusals", refusals);
    return command_print_json(NAME, json);
}

/* ---- the command ---- */

static int simulate_trace(const struct policy *policy, const struct wish *wish, const struct trace *trace,
                          struct simulation_load load)
{
    const struct tenant *tenant = choose_tenant(policy, wish->tenant);
    const struct key *key = NULL;
    if (tenant == NULL || !choose_key(policy, tenant, wish->key, &key)) {
        return COMMAND_USAGE;
    }
    const struct model *model = choose_model(policy, wish->model);
    if (model == NULL) {
        return COMMAND_USAGE;
    }
    load.trace = trace;
    load.subject = (struct limit_subject){.tenant = tenant->name,
                                          .key = key != NULL ? key->name : "",
                                          .user = key != NULL ? key->user : "",
                                          .model = model->name};
    if (load.cap_tokens == 0) {
        load.cap_tokens = model->max_output_tokens > 0 ? model->max_output_tokens : CAP_TOKENS_DEFAULT;
    }
    struct simulation_result result;
    if (!simulate(policy, &load, &result)) {
        return command_fail(NAME, "memory is exhausted, or more than %d requests run at once: see --token-ms",
                            SIMULATION_RUNNING_MAX);
    }
    if (wish->json) {
        return print_json(&load, &result);
    }
    print_text(&load, &result);
    return COMMAND_DONE;
}

/* False after saying what is wrong. */
static bool parse_number(const char *option, const char *text, int64_t least, int64_t most, int64_t *ret)
{
    int64_t number;
    if (text == NULL) {
        return true;
    }
    if (!text_to_int64(text_of(text), &number) || number < least || number > most) {
        command_usage_error(NAME, "--%s: \"%s\" is no whole number from %lld to %lld", option, text, (long long) least,
                            (long long) most);
        return false;
    }
    *ret = number;
    return true;
}

static int run(const struct wish *wish)
{
    int64_t cap_tokens = 0;
    int64_t token_ms = SIMULATION_TOKEN_MS;
    if (wish->trace == NULL) {
        return command_usage_error(NAME, "--trace FILE is missing");
    }
    if (!parse_number("cap", wish->cap, 1, TRACE_TOKENS_MAX, &cap_tokens) ||
        !parse_number("token-ms", wish->token_ms, 0, TOKEN_MS_MAX, &token_ms)) {
        return COMMAND_USAGE;
    }
    const char *file = command_config_file(NAME, wish->config);
    const struct policy *policy = file == NULL ? NULL : command_load(NAME, file);
    if (policy == NULL) {
        return COMMAND_FAILED;
    }
    struct trace trace;
    char error[TRACE_ERROR_BYTES];
    int exit_code = COMMAND_FAILED;
    if (!trace_read(wish->trace, &trace, error)) {
        command_fail(NAME, "%s", error);
    } else {
        const struct simulation_load load = {.cap_tokens = cap_tokens, .token_us = token_ms * 1000};
        exit_code = simulate_trace(policy, wish, &trace, load);
        trace_finish(&trace);
    }
    policy_drop(&policy);
    return exit_code;
}

int command_simulate(int argc, char **argv)
{
    struct wish wish = {0};
    const struct command_option options[] = {
        COMMAND_OPTION_CONFIG(&wish.config),
        {.name = "trace", .value_name = "FILE", .help = "the recorded load, a CSV file", .value = &wish.trace},
        {.name = "tenant",
         .value_name = "NAME",
         .help = "who sends it; default: the only tenant",
         .value = &wish.tenant},
        {.name = "key", .value_name = "NAME", .help = "with which key; default: its only one", .value = &wish.key},
        {.name = "model", .value_name = "NAME", .help = "for which model; default: the only one", .value = &wish.model},
        {.name = "cap",
         .value_name = "TOKENS",
         .help = "the max_tokens of each request; default: the model's max_output_tokens, else 4096",
         .value = &wish.cap},
        {.name = "token-ms",
         .value_name = "MS",
         .help = "what an engine takes for one output token; default 20",
         .value = &wish.token_ms},
        COMMAND_OPTION_JSON(&wish.json),
    };
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "--trace FILE [OPTIONS]",
        .about = "Replay a recorded load against the limits of a configuration, in simulated time: what would be\n"
                 "admitted, what refused and by which limit, and how well tokens would be reserved. Nothing is\n"
                 "contacted. The first line of the file names its columns: TIMESTAMP, ContextTokens and\n"
                 "GeneratedTokens (dates and times), or arrival, input and output (seconds); then one request a\n"
                 "line. Buckets begin full, estimates begin without experience, refused requests do not return.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    return command_parse(&usage, argc, argv, &exit_code) ? run(&wish) : exit_code;
}
