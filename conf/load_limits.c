/* Limits: presets, contradictions, and where each bucket comes from. */
#include <stdlib.h>
#include <string.h>

#include "conf/loading.h"
#include "conf/suggest.h"

enum { ORIGIN_BYTES_MAX = 4200, BURST_MINUTES_USUAL = 60 };

/* One `limits: {…}` and what was written in it; nodes are NULL where nothing was, or nothing good. */
struct limits_source {
    const struct node *map;
    const struct node *requests;
    const struct node *tokens;
    const struct node *seats;
    const struct node *request_burst;
    const struct node *token_burst;
    const struct node *strict_window;
    const struct node *on_exceed;
};

static const struct node *good(const struct node *map, enum setting_id id)
{
    const struct node *node = setting_node(map, id);
    return node != NULL && node->valid ? node : NULL;
}

static struct limits_source source_of(const struct node *map)
{
    const struct node *burst = setting_node(map, SETTING_LIMIT_BURST);
    return (struct limits_source){
        .map = map,
        .requests = good(map, SETTING_LIMIT_REQUESTS),
        .tokens = good(map, SETTING_LIMIT_TOKENS),
        .seats = good(map, SETTING_LIMIT_SEATS),
        .request_burst = good(burst, SETTING_BURST_REQUESTS),
        .token_burst = good(burst, SETTING_BURST_TOKENS),
        .strict_window = good(map, SETTING_LIMIT_STRICT_WINDOW),
        .on_exceed = good(map, SETTING_LIMIT_ON_EXCEED),
    };
}

/* Write over what is preset. True when a preset that says something stays. */
static bool take_over(int64_t *value, const struct node *node)
{
    if (node != NULL)
        *value = node->number;
    return node == NULL && *value != 0;
}

static struct text place_text(struct place place, char memory[ORIGIN_BYTES_MAX])
{
    struct builder to;
    builder_init(&to, memory, ORIGIN_BYTES_MAX);
    builder_add(&to, problem_shown_path(place.file));
    builder_format(&to, ":%u:%u", place.line, place.column);
    return builder_text(&to);
}

/* One kind of bucket that may burst: requests or tokens. */
struct flow {
    const char *limit_name;
    const char *burst_name;
    int64_t limit;
    int64_t burst;
    const struct node *limit_node;
    const struct node *burst_node;
};

/* The place of what the map itself writes: its part in a contradiction with a preset. */
static const struct node *first_written(const struct node *a, const struct node *b, const struct node *c)
{
    if (a != NULL)
        return a;
    return b != NULL ? b : c;
}

static void check_strict(struct loading *loading, const struct flow *flow, const struct node *strict_node)
{
    const struct node *written = first_written(flow->burst_node, flow->limit_node, strict_node);
    if (written == NULL || flow->limit == 0)
        return; /* told where the presets are; nothing to bound */
    if (flow->limit == 1)
        problem_error(loading->problems, written->place,
                      "strict_window needs %s of at least 2: one at once, and the rest flows back", flow->limit_name);
    else if (flow->burst >= flow->limit)
        problem_error(loading->problems, written->place,
                      "with strict_window %s (%lld) must be smaller than %s (%lld): only what is left flows back",
                      flow->burst_name, (long long) flow->burst, flow->limit_name, (long long) flow->limit);
}

static void check_flow(struct loading *loading, const struct flow *flow, const struct limits *limits,
                       const struct node *strict_node)
{
    if (flow->burst_node != NULL && flow->limit == 0) {
        problem_error(loading->problems, flow->burst_node->place, "%s needs %s beside burst", flow->burst_name,
                      flow->limit_name);
        return;
    }
    if (limits->strict_window) {
        check_strict(loading, flow, strict_node);
        return;
    }
    bool slow = flow->limit > 0 && flow->burst / flow->limit >= BURST_MINUTES_USUAL;
    const struct node *written = first_written(flow->burst_node, flow->limit_node, NULL);
    if (slow && written != NULL && loading->mode == LOAD_CHECK)
        problem_warning(loading->problems, written->place,
                        "%s (%lld) is what %s (%lld) allows in an hour or more: is it meant?", flow->burst_name,
                        (long long) flow->burst, flow->limit_name, (long long) flow->limit);
}

static void check_limits(struct loading *loading, const struct limits_source *from, const struct limits *limits)
{
    const struct flow requests = {.limit_name = "requests_per_minute",
                                  .burst_name = "burst.requests",
                                  .limit = limits->requests_per_minute,
                                  .burst = limits->request_burst,
                                  .limit_node = from->requests,
                                  .burst_node = from->request_burst};
    const struct flow tokens = {.limit_name = "tokens_per_minute",
                                .burst_name = "burst.tokens",
                                .limit = limits->tokens_per_minute,
                                .burst = limits->token_burst,
                                .limit_node = from->tokens,
                                .burst_node = from->token_burst};
    check_flow(loading, &requests, limits, from->strict_window);
    check_flow(loading, &tokens, limits, from->strict_window);
}

static const char *origin_of(struct loading *loading, const struct node *map, const char *presets_origin)
{
    char own[ORIGIN_BYTES_MAX], both[2 * ORIGIN_BYTES_MAX];
    struct text place = place_text(map->place, own);
    if (presets_origin == NULL)
        return loading_keep(loading, place);
    struct builder to;
    builder_init(&to, both, sizeof(both));
    builder_add(&to, place);
    builder_format(&to, ", %s", presets_origin);
    return loading_keep(loading, builder_text(&to));
}

struct limits loading_limits(struct loading *loading, const struct node *map, const struct limits *presets)
{
    struct limits limits = presets != NULL ? *presets : (struct limits){.origin = ""};
    if (map == NULL || !map->valid)
        return limits;
    const struct limits_source from = source_of(map);
    bool preset = take_over(&limits.requests_per_minute, from.requests);
    preset |= take_over(&limits.tokens_per_minute, from.tokens);
    preset |= take_over(&limits.concurrent_requests, from.seats);
    preset |= take_over(&limits.request_burst, from.request_burst);
    preset |= take_over(&limits.token_burst, from.token_burst);
    if (from.strict_window != NULL)
        limits.strict_window = from.strict_window->number != 0;
    if (from.on_exceed != NULL)
        limits.on_exceed = (enum on_exceed) from.on_exceed->number;
    check_limits(loading, &from, &limits);
    limits.origin = origin_of(loading, map, preset ? presets->origin : NULL);
    return limits;
}

static bool generates_text(const struct model *model)
{
    for (size_t i = 0; i < model->engine_count; i++) {
        if (!model->engines[i].embeddings_only)
            return true;
    }
    return false;
}

bool loading_warn_hard(struct loading *loading, const struct node *map, const struct model *model)
{
    const struct node *on_exceed = good(map, SETTING_LIMIT_ON_EXCEED);
    bool hard = on_exceed != NULL && on_exceed->number == ON_EXCEED_HARD;
    if (!hard || loading->mode != LOAD_CHECK || model->max_output_tokens > 0 || !generates_text(model))
        return false;
    problem_warning(loading->problems, on_exceed->place,
                    "on_exceed: hard reserves all that a request may generate, but \"%s\" has no max_output_tokens: "
                    "give it one",
                    model->name);
    return true;
}

static bool allows(const struct scopes *scopes, const struct model *model)
{
    for (size_t i = 0; i < scopes->model_pattern_count; i++) {
        if (text_matches_glob(text_of(model->name), text_of(scopes->model_patterns[i])))
            return true;
    }
    return !scopes->models_limited;
}

void loading_warn_hard_in(struct loading *loading, const struct node *map, const struct scopes *outer,
                          const struct scopes *inner)
{
    const struct policy *policy = &loading->snapshot->policy;
    for (size_t i = 0; map != NULL && i < policy->model_count; i++) {
        const struct model *model = &policy->models[i];
        if (allows(outer, model) && allows(inner, model) && loading_warn_hard(loading, map, model))
            return;
    }
}

static void report_unknown_model(struct loading *loading, const struct node *node)
{
    const struct policy *policy = &loading->snapshot->policy;
    const struct model *aliased = policy_model(policy, node->key);
    struct suggestion suggestion = {0};
    for (size_t i = 0; i < policy->model_count; i++)
        suggest_look_at(&suggestion, node->key, policy->models[i].name);
    if (aliased != NULL)
        problem_error(loading->problems, node->key_place, "\"%.*s\" is an alias: write the model's own name, \"%s\"",
                      TEXT_ARGUMENTS(node->key), aliased->name);
    else if (suggestion.best != NULL)
        problem_error(loading->problems, node->key_place, "unknown model \"%.*s\": did you mean \"%s\"?",
                      TEXT_ARGUMENTS(node->key), suggestion.best);
    else
        problem_error(loading->problems, node->key_place,
                      "unknown model \"%.*s\": add it below models, or remove it here", TEXT_ARGUMENTS(node->key));
}

static int compare_tenant_models(const void *a, const void *b)
{
    return strcmp(((const struct tenant_model *) a)->model, ((const struct tenant_model *) b)->model);
}

void loading_tenant_models(struct loading *loading, const struct node *map, struct tenant *tenant)
{
    if (map == NULL || !map->valid)
        return;
    struct tenant_model *models = loading_take(loading, map->count, sizeof(*models));
    if (models == NULL)
        return;
    for (const struct node *node = map->first; node != NULL; node = node->next) {
        const struct model *model = policy_model(&loading->snapshot->policy, node->key);
        if (model == NULL || !text_equal(node->key, text_of(model->name))) {
            report_unknown_model(loading, node);
            continue;
        }
        const struct node *limits = setting_node(node, SETTING_TENANT_MODEL_LIMITS);
        models[tenant->model_count++] = (struct tenant_model){model->name, loading_limits(loading, limits, NULL)};
        (void) loading_warn_hard(loading, limits, model);
    }
    qsort(models, tenant->model_count, sizeof(*models), compare_tenant_models);
    tenant->models = models;
}
