/* What holds for all providers. */
#include "billing/provider.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { SECOND_MS = 1000, RETRY_AFTER_MS_MAX = 3600 * SECOND_MS, DAY_MS = 24 * 3600 * SECOND_MS };

const struct provider_capabilities *provider_capabilities(enum provider_kind kind)
{
    static const struct provider_capabilities capabilities[PROVIDER_KIND_COUNT] = {
        /* The file's name is its identifier: written again, it is the same file. */
        [PROVIDER_FILE] = {.dedup_window_ms = PROVIDER_FOREVER,
                           .backdate_ms = PROVIDER_FOREVER,
                           .future_ms = PROVIDER_FOREVER,
                           .quantity_max = INT64_MAX},
        /* A value has 15 digits at most; 1,000 calls a second; 35 days back, 5 minutes ahead. */
        [PROVIDER_STRIPE] = {.dedup_window_ms = DAY_MS,
                             .backdate_ms = 35 * (int64_t) DAY_MS,
                             .future_ms = 5 * 60 * SECOND_MS,
                             .quantity_max = INT64_C(999999999999999),
                             .call_gap_ms = 1,
                             .needs_customer = true,
                             .needs_meter = true,
                             .one_at_a_time = true,
                             .can_tell = true},
    };
    return &capabilities[kind];
}

static int compare_tenant(const void *name, const void *tenant)
{
    return strcmp(name, ((const struct tenant *) tenant)->name);
}

const char *provider_customer(const struct policy *policy, const char *tenant)
{
    const struct tenant *found = policy->tenant_count == 0 ? NULL
                                                           : bsearch(tenant, policy->tenants, policy->tenant_count,
                                                                     sizeof *policy->tenants, compare_tenant);
    return found == NULL ? NULL : found->customer;
}

const char *provider_row_customer(const struct policy *policy, const struct row_entry *entry)
{
    if (entry->customer[0] != '\0')
        return entry->customer;
    return policy == NULL ? NULL : provider_customer(policy, entry->row.name.tenant);
}

bool provider_holds(const struct row *row, const char *customer, wall_ms now, char ret_reason[ROW_REASON_BYTES_MAX + 1])
{
    const struct provider_capabilities *can = provider_capabilities(row->name.provider);
    struct builder reason;
    builder_init(&reason, ret_reason, ROW_REASON_BYTES_MAX + 1);
    const char *tenant = row->name.tenant;
    if (can->needs_meter && !row->metered)
        builder_format(&reason, "no meter takes the model %.60s: add one, and reload", row->model);
    else if (can->needs_customer && customer == NULL)
        builder_format(&reason, "there is no tenant %.60s any more: add it with its customer, and reload", tenant);
    else if (can->needs_customer && customer[0] == '\0')
        builder_format(&reason, "the tenant %.60s has no customer: give it one, and reload", tenant);
    else if (row->quantity > can->quantity_max)
        builder_format(&reason, "the provider takes at most %" PRId64 " at once: bill it by hand", can->quantity_max);
    else if (can->backdate_ms != PROVIDER_FOREVER && now - row->ended > can->backdate_ms)
        builder_format(&reason, "the provider takes nothing that is older than %" PRId64 " days: bill it by hand",
                       can->backdate_ms / DAY_MS);
    builder_string(&reason);
    return reason.length > 0;
}

int64_t provider_early_ms(const struct row *row, wall_ms now)
{
    int64_t future_ms = provider_capabilities(row->name.provider)->future_ms;
    return future_ms == PROVIDER_FOREVER || row->ended - future_ms <= now ? 0 : row->ended - future_ms - now;
}

int64_t provider_retry_after_ms(struct text value)
{
    int64_t seconds;
    if (!text_to_int64(text_trimmed(value), &seconds) || seconds < 0)
        return -1;
    return seconds > RETRY_AFTER_MS_MAX / SECOND_MS ? RETRY_AFTER_MS_MAX : seconds * SECOND_MS;
}
