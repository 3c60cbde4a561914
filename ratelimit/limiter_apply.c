/* A policy to buckets: first everything that can fail, then everything that changes. */
#include <stdlib.h>
#include <string.h>

#include "ratelimit/limiter_private.h"

static const struct limits NO_LIMITS;

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

struct shape {
    int64_t limit; /* whole units; 0 = not limited */
    int64_t capacity_milli;
    int64_t rate_milli_per_minute;
};

/* In strict windows the two add up to the limit. A rate of at least 1 keeps that: what is taken in whole units within
 * [s, s + 60 s) is at most capacity + rate - 1 at that rate. */
static struct shape flow_shape(int64_t limit, int64_t burst, bool strict)
{
    int64_t units = smaller(limit, BUCKET_UNITS_MAX);
    int64_t usual = strict ? larger(units / 10, 1) : units;
    int64_t capacity = burst > 0 ? smaller(burst, BUCKET_UNITS_MAX) : usual;
    if (!strict)
        return (struct shape){limit, capacity * BUCKET_MILLI, units * BUCKET_MILLI};
    capacity = smaller(capacity, units);
    return (struct shape){limit, capacity * BUCKET_MILLI, larger(units - capacity, 1) * BUCKET_MILLI};
}

static struct shape shape_of(const struct limits *limits, enum limit_kind kind)
{
    switch (kind) {
    case LIMIT_REQUESTS:
        return flow_shape(limits->requests_per_minute, limits->request_burst, limits->strict_window);
    case LIMIT_TOKENS:
        return flow_shape(limits->tokens_per_minute, limits->token_burst, limits->strict_window);
    case LIMIT_SEATS:
    case LIMIT_KIND_COUNT:
        break;
    }
    int64_t seats = smaller(limits->concurrent_requests, BUCKET_UNITS_MAX);
    return (struct shape){limits->concurrent_requests, seats * BUCKET_MILLI, 0};
}

void level_set_limits(struct level *level, const struct limits *limits, mono_us now)
{
    level->on_exceed = limits->on_exceed;
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
        struct limit_part *part = &level->parts[kind];
        struct shape shape = shape_of(limits, (enum limit_kind) kind);
        bool known = part->present || part->hold_count > 0;
        part->present = shape.limit > 0;
        if (!part->present)
            continue;
        part->limit = shape.limit;
        if (known)
            bucket_change(&part->bucket, shape.capacity_milli, shape.rate_milli_per_minute, now);
        else
            bucket_begin(&part->bucket, shape.capacity_milli, shape.rate_milli_per_minute, now);
    }
}

bool limits_anything(const struct limits *limits)
{
    return limits->requests_per_minute > 0 || limits->tokens_per_minute > 0 || limits->concurrent_requests > 0;
}

/* The level is there and knows what it is going to be. False when memory is exhausted. */
static bool prepare(struct limiter *limiter, const struct level_name *name, const struct limits *limits)
{
    if (!limits_anything(limits))
        return true;
    struct level *level = level_find(limiter, name);
    if (level == NULL)
        level = level_create(limiter, name);
    if (level == NULL)
        return false;
    free(level->next_origin);
    level->next_limits = limits;
    level->next_origin = strdup(limits->origin != NULL ? limits->origin : "");
    return level->next_origin != NULL;
}

static bool prepare_tenant(struct limiter *limiter, const struct tenant *tenant)
{
    if (!prepare(limiter, &(struct level_name){SCOPE_TENANT, tenant->name, ""}, &tenant->limits))
        return false;
    for (size_t share = 0; share < tenant->model_count; share++) {
        const struct tenant_model *model = &tenant->models[share];
        if (!prepare(limiter, &(struct level_name){SCOPE_TENANT_MODEL, tenant->name, model->model}, &model->limits))
            return false;
    }
    return true;
}

static size_t levels_wanted(const struct policy *policy)
{
    size_t wanted = policy->model_count + policy->key_count + policy->tenant_count;
    for (size_t tenant = 0; tenant < policy->tenant_count; tenant++)
        wanted += policy->tenants[tenant].model_count;
    return limits_anything(&policy->user_limits) ? wanted + LIMITER_USERS_MAX : wanted;
}

static bool prepare_all(struct limiter *limiter, const struct policy *policy)
{
    if (!levels_make_room(limiter, levels_wanted(policy)))
        return false;
    for (size_t model = 0; model < policy->model_count; model++) {
        const struct model *known = &policy->models[model];
        if (!prepare(limiter, &(struct level_name){SCOPE_MODEL, known->name, ""}, &known->limits))
            return false;
    }
    for (size_t key = 0; key < policy->key_count; key++) {
        const struct key *known = &policy->keys[key];
        if (!prepare(limiter, &(struct level_name){SCOPE_KEY, known->tenant->name, known->name}, &known->limits))
            return false;
    }
    for (size_t tenant = 0; tenant < policy->tenant_count; tenant++) {
        if (!prepare_tenant(limiter, &policy->tenants[tenant]))
            return false;
    }
    return true;
}

/* Becomes what was prepared; a user's level what all users get; else it has no limits any more. */
static void commit(struct limiter *limiter, struct level *level, mono_us now)
{
    const struct limits *limits = level->next_limits != NULL ? level->next_limits : &NO_LIMITS;
    if (level->next_origin != NULL) {
        free(level->origin);
        level->origin = level->next_origin;
    }
    level_set_limits(level, level->scope == SCOPE_USER ? &limiter->user_limits : limits, now);
}

static void roll_back(struct level *level)
{
    free(level->next_origin);
}

static void end_all(struct limiter *limiter, bool prepared, mono_us now)
{
    for (uint32_t index = 0; index < limiter->level_count; index++) {
        struct level *level = level_at(limiter, index);
        if (!level->in_use)
            continue;
        if (prepared)
            commit(limiter, level, now);
        else
            roll_back(level);
        level->next_limits = NULL;
        level->next_origin = NULL;
        level_forget_if_idle(limiter, level);
    }
}

bool limiter_apply(struct limiter *limiter, const struct policy *policy, mono_us now)
{
    char *user_origin = strdup(policy->user_limits.origin != NULL ? policy->user_limits.origin : "");
    if (user_origin == NULL)
        return false;
    pthread_mutex_lock(&limiter->lock);
    bool prepared = prepare_all(limiter, policy);
    if (prepared) {
        char *old = limiter->user_origin;
        limiter->user_limits = policy->user_limits;
        limiter->user_origin = user_origin;
        limiter->user_limits.origin = user_origin;
        limiter->users_limited = limits_anything(&policy->user_limits);
        user_origin = old;
    }
    end_all(limiter, prepared, now);
    pthread_mutex_unlock(&limiter->lock);
    free(user_origin);
    return prepared;
}
