/* What becomes of usage: prices, and the providers it is handed to. */
#include <stdlib.h>
#include <string.h>

#include "conf/address.h"
#include "conf/loading.h"

enum { HOUR_MS = 3600000 };

/* What is not there or not good leaves both alone. */
static void load_amount(struct loading *loading, const struct node *node, const char **ret_text, int64_t *ret_pico)
{
    if (node == NULL || !node->valid)
        return;
    *ret_text = loading_keep(loading, node->value);
    *ret_pico = node->number;
}

static struct price load_price(struct loading *loading, const struct node *map)
{
    const struct node *currency = setting_node(map, SETTING_PRICE_CURRENCY);
    const struct node *valid_from = setting_node(map, SETTING_PRICE_VALID_FROM);
    struct price price = {.currency = "", .input = "0", .output = "0"};
    if (currency != NULL && currency->valid)
        price.currency = loading_keep(loading, currency->value);
    load_amount(loading, setting_node(map, SETTING_PRICE_INPUT), &price.input, &price.input_pico);
    price.cached_input = price.input;
    price.cached_input_pico = price.input_pico;
    load_amount(loading, setting_node(map, SETTING_PRICE_CACHED_INPUT), &price.cached_input, &price.cached_input_pico);
    load_amount(loading, setting_node(map, SETTING_PRICE_OUTPUT), &price.output, &price.output_pico);
    price.valid_from_wall_ms = setting_number(map, SETTING_PRICE_VALID_FROM);
    if (price.valid_from_wall_ms % HOUR_MS != 0)
        problem_error(loading->problems, valid_from->place,
                      "valid_from must be a full hour in UTC: usage is summed up to the end of each hour");
    return price;
}

/* A moment has one price. */
static void check_version(struct loading *loading, const struct node *list, const struct node *version)
{
    const struct node *valid_from = setting_node(version, SETTING_PRICE_VALID_FROM);
    if (!version->valid || (valid_from != NULL && !valid_from->valid))
        return;
    int64_t when = setting_number(version, SETTING_PRICE_VALID_FROM);
    for (const struct node *other = list->first; other != version; other = other->next) {
        const struct node *other_from = setting_node(other, SETTING_PRICE_VALID_FROM);
        bool known = other->valid && (other_from == NULL || other_from->valid);
        if (!known || setting_number(other, SETTING_PRICE_VALID_FROM) != when)
            continue;
        problem_error(loading->problems, valid_from != NULL ? valid_from->place : version->place,
                      "the price on line %u is valid from the same time on: give this one another valid_from",
                      other->place.line);
        return;
    }
}

static int compare_prices(const void *a, const void *b)
{
    wall_ms left = ((const struct price *) a)->valid_from_wall_ms;
    wall_ms right = ((const struct price *) b)->valid_from_wall_ms;
    return left < right ? -1 : left > right;
}

void loading_prices(struct loading *loading, const struct node *list, struct model *model)
{
    if (list == NULL || !list->valid)
        return;
    struct price *prices = loading_take(loading, list->count, sizeof(*prices));
    if (prices == NULL)
        return;
    for (const struct node *map = list->first; map != NULL; map = map->next) {
        check_version(loading, list, map);
        if (map->valid)
            prices[model->price_count++] = load_price(loading, map);
    }
    qsort(prices, model->price_count, sizeof(*prices), compare_prices);
    model->prices = prices;
}

static bool meter_takes(const struct meter_policy *meter, const struct model *model)
{
    for (size_t i = 0; i < meter->model_pattern_count; i++) {
        if (text_matches_glob(text_of(model->name), text_of(meter->model_patterns[i])))
            return true;
    }
    return false;
}

/* A pattern that matches nothing may wait for a model that comes later. */
static void check_meter_pattern(struct loading *loading, const struct node *node)
{
    const struct policy *policy = &loading->snapshot->policy;
    for (size_t i = 0; i < policy->model_count; i++) {
        if (text_matches_glob(text_of(policy->models[i].name), node->value))
            return;
    }
    if (loading->mode == LOAD_CHECK && policy->model_count > 0)
        problem_warning(loading->problems, node->place, "\"%.*s\" matches no model: write canonical names, not aliases",
                        TEXT_ARGUMENTS(node->value));
}

static void load_meter_models(struct loading *loading, const struct node *list, struct meter_policy *meter)
{
    bool written = list != NULL && list->valid;
    const char **patterns = loading_take(loading, written ? list->count : 1, sizeof(*patterns));
    if (patterns == NULL)
        return;
    meter->model_patterns = patterns;
    if (!written)
        patterns[meter->model_pattern_count++] = "*";
    for (const struct node *node = written ? list->first : NULL; node != NULL; node = node->next) {
        if (!node->valid)
            continue;
        check_meter_pattern(loading, node);
        patterns[meter->model_pattern_count++] = loading_keep(loading, node->value);
    }
}

/* Two meters of one name would be told apart nowhere. */
static void check_event_name(struct loading *loading, const struct provider_policy *provider, const struct node *node)
{
    for (size_t i = 0; i < provider->meter_count; i++) {
        const char *other = provider->meters[i].event_name;
        if (other[0] != '\0' && text_equal(node->value, text_of(other)))
            problem_error(loading->problems, node->place,
                          "there is another meter with the event_name \"%s\": each may be there once", other);
    }
}

static void load_meters(struct loading *loading, const struct node *list, struct provider_policy *provider)
{
    if (list == NULL || !list->valid)
        return;
    struct meter_policy *meters = loading_take(loading, list->count, sizeof(*meters));
    if (meters == NULL)
        return;
    provider->meters = meters;
    for (const struct node *map = list->first; map != NULL; map = map->next) {
        const struct node *event_name = setting_node(map, SETTING_METER_EVENT_NAME);
        struct meter_policy meter = {.event_name = ""};
        if (event_name != NULL && event_name->valid) {
            check_event_name(loading, provider, event_name);
            meter.event_name = loading_keep(loading, event_name->value);
        }
        meter.measure = (enum measure) setting_number(map, SETTING_METER_MEASURE);
        load_meter_models(loading, setting_node(map, SETTING_METER_MODELS), &meter);
        meters[provider->meter_count++] = meter;
    }
}

/* Usage that no row of a provider can ever stand for is held: better known before than found on the invoice. */
static void warn_of_held(struct loading *loading, const struct provider_policy *provider, struct place place)
{
    const struct policy *policy = &loading->snapshot->policy;
    size_t without = 0;
    const char *first = NULL;
    for (size_t i = 0; i < policy->tenant_count; i++) {
        if (policy->tenants[i].customer[0] != '\0')
            continue;
        without++;
        first = first != NULL ? first : policy->tenants[i].name;
    }
    if (without > 0)
        problem_warning(loading->problems, place,
                        "%zu of %zu tenants have no customer, such as \"%s\": their usage is held", without,
                        policy->tenant_count, first);
    for (size_t i = 0; i < policy->model_count; i++) {
        bool metered = false;
        for (size_t k = 0; k < provider->meter_count && !metered; k++)
            metered = meter_takes(&provider->meters[k], &policy->models[i]);
        if (!metered)
            problem_warning(loading->problems, place, "no meter takes the model \"%s\": its usage is held",
                            policy->models[i].name);
    }
}

/* NULL: none that both sell for the same. */
static const struct model *find_sold_twice(const struct policy *policy, const struct meter_policy *one,
                                           const struct meter_policy *other)
{
    for (size_t i = 0; i < policy->model_count && one->measure == other->measure; i++) {
        if (meter_takes(one, &policy->models[i]) && meter_takes(other, &policy->models[i]))
            return &policy->models[i];
    }
    return NULL;
}

/* A second meter for the same thing may be wanted, and is more often a customer charged twice. */
static void warn_of_two(struct loading *loading, const struct provider_policy *provider, struct place place)
{
    for (size_t i = 0; i < provider->meter_count; i++) {
        for (size_t k = i + 1; k < provider->meter_count; k++) {
            const struct meter_policy *one = &provider->meters[i], *other = &provider->meters[k];
            const struct model *model = find_sold_twice(&loading->snapshot->policy, one, other);
            if (model != NULL)
                problem_warning(loading->problems, place,
                                "the meters \"%s\" and \"%s\" both take %s of the model \"%s\": they are sold twice",
                                one->event_name, other->event_name, MEASURE_NAMES[one->measure], model->name);
        }
    }
}

static void load_stripe(struct loading *loading, const struct node *map, struct provider_policy *provider)
{
    const struct node *base_node = setting_node(map, SETTING_STRIPE_API_BASE);
    const struct node *meters = setting_node(map, SETTING_METERS);
    provider->api_key = loading_read_secret(loading, setting_node(map, SETTING_STRIPE_API_KEY_FILE));
    struct text base = {0};
    (void) address_parse_url(setting_text(map, SETTING_STRIPE_API_BASE), &base);
    provider->api_base = loading_keep(loading, base);
    if (base_node != NULL && base_node->valid && text_starts_with(base, TEXT("unix:")))
        problem_error(loading->problems, base_node->place, "api_base must start with https://");
    else if (base_node != NULL && base_node->valid && address_url_is_open(base))
        problem_error(loading->problems, base_node->place,
                      "api_base must start with https://: over http:// the key could be read on the way");
    load_meters(loading, meters, provider);
    if (loading->mode != LOAD_CHECK || meters == NULL || !meters->valid)
        return;
    warn_of_held(loading, provider, meters->key_place);
    if (loading->problems->errors == 0) /* else it may not be what was meant */
        warn_of_two(loading, provider, meters->key_place);
}

/* False when it is not clear what it is; that is told. */
static bool load_provider(struct loading *loading, const struct node *map, struct provider_policy *ret)
{
    const struct node *file = setting_node(map, SETTING_PROVIDER_FILE);
    const struct node *stripe = setting_node(map, SETTING_PROVIDER_STRIPE);
    struct provider_policy provider = {.kind = stripe != NULL ? PROVIDER_STRIPE : PROVIDER_FILE};
    if ((file == NULL) == (stripe == NULL)) {
        problem_error(loading->problems, map->place, "a provider is either file or stripe: give one of them");
        return false;
    }
    const struct node *directory = setting_node(file, SETTING_PROVIDER_FILE_DIR);
    if (directory != NULL && directory->valid)
        provider.directory = loading_keep_path(loading, directory->value);
    if (stripe != NULL && stripe->valid)
        load_stripe(loading, stripe, &provider);
    *ret = provider;
    return true;
}

static void load_providers(struct loading *loading, const struct node *list, struct billing_policy *billing)
{
    if (list == NULL || !list->valid)
        return;
    struct provider_policy *providers = loading_take(loading, list->count, sizeof(*providers));
    if (providers == NULL)
        return;
    bool seen[PROVIDER_KIND_COUNT] = {false};
    for (const struct node *map = list->first; map != NULL; map = map->next) {
        struct provider_policy provider;
        if (!map->valid || !load_provider(loading, map, &provider))
            continue;
        if (seen[provider.kind])
            problem_error(loading->problems, map->place,
                          "there is another provider of this kind: each may be there once");
        seen[provider.kind] = true;
        providers[billing->provider_count++] = provider;
    }
    billing->providers = providers;
}

void load_billing(struct loading *loading)
{
    const struct node *map = setting_node(loading->root, SETTING_BILLING);
    const struct node *bill = setting_node(map, SETTING_BILLING_BILL);
    struct billing_policy *billing = &loading->snapshot->policy.billing;
    *billing = (struct billing_policy){
        .epoch_ms = setting_number(map, SETTING_BILLING_EPOCH),
        .sync = (enum billing_sync) setting_number(map, SETTING_BILLING_SYNC),
        .retention_ms = setting_number(map, SETTING_BILLING_RETENTION),
        .bill_client_gone = setting_number(bill, SETTING_BILL_CLIENT_GONE) != 0,
        .bill_engine_error = setting_number(bill, SETTING_BILL_ENGINE_ERROR) != 0,
        .bill_crash = setting_number(bill, SETTING_BILL_CRASH) != 0,
        .bill_estimated = setting_number(bill, SETTING_BILL_ESTIMATED) != 0,
    };
    load_providers(loading, setting_node(map, SETTING_PROVIDERS), billing);
}
