/* Buckets as others see them: headers, `tollgate limits explain`, the admin API. */
#include "base/panic.h"
#include "ratelimit/limiter_private.h"

const char *const LIMIT_KIND_NAMES[LIMIT_KIND_COUNT] = {
    [LIMIT_REQUESTS] = "requests", [LIMIT_TOKENS] = "tokens", [LIMIT_SEATS] = "seats"};
const char *const LIMIT_SCOPE_NAMES[LIMIT_SCOPE_COUNT] = {[SCOPE_KEY] = "key",
                                                          [SCOPE_USER] = "user",
                                                          [SCOPE_TENANT] = "tenant",
                                                          [SCOPE_MODEL] = "model",
                                                          [SCOPE_TENANT_MODEL] = "tenant and model"};

/* Nothing flows in before the clock is where it was at the last refill. */
static int64_t from_now(const struct bucket *bucket, int64_t wait_us, mono_us now)
{
    if (wait_us == 0 || now >= bucket->refilled_at)
        return wait_us;
    wide whole_us = (wide) wait_us + bucket->refilled_at - now;
    return whole_us > INT64_MAX ? INT64_MAX : (int64_t) whole_us;
}

int64_t part_wait_us(const struct limit_part *part, int64_t milli, mono_us now)
{
    const struct bucket *bucket = &part->bucket;
    int64_t wait_us = bucket_wait_us(bucket, milli);
    if (wait_us < INT64_MAX)
        return from_now(bucket, wait_us, now);
    int64_t least_us = from_now(bucket, bucket_wait_least_us(bucket, milli), now);
    return bucket->held_milli == 0 || least_us > RETRY_GUESS_US ? least_us : RETRY_GUESS_US;
}

static int64_t part_fill_us(const struct limit_part *part, enum limit_kind kind, mono_us now)
{
    return kind == LIMIT_SEATS ? 0 : from_now(&part->bucket, bucket_fill_us(&part->bucket), now);
}

static struct limit_view view_of(const struct level *level, enum limit_kind kind, mono_us now)
{
    const struct limit_part *part = &level->parts[kind];
    const struct bucket *bucket = &part->bucket;
    return (struct limit_view){.present = true,
                               .scope = level->scope,
                               .limit = bucket->capacity_milli / BUCKET_MILLI,
                               .remaining = bucket->balance_milli > 0 ? bucket->balance_milli / BUCKET_MILLI : 0,
                               .reset_us = part_fill_us(part, kind, now)};
}

void view_nearer(struct limit_view *view, const struct level *level, enum limit_kind kind, mono_us now)
{
    struct limit_view other = view_of(level, kind, now);
    if (!view->present || (wide) other.remaining * view->limit < (wide) view->remaining * other.limit)
        *view = other;
}

struct telling {
    struct limiter *limiter;
    size_t left;
    mono_us now;
    limit_status_receiver *receive;
    void *owner;
};

static double units(wide milli)
{
    return (double) milli / (double) BUCKET_MILLI;
}

static void tell_level(struct telling *telling, struct level *level)
{
    const char *origin = level->scope == SCOPE_USER ? telling->limiter->user_origin : level->origin;
    for (int kind = 0; kind < LIMIT_KIND_COUNT && telling->left > 0; kind++) {
        struct limit_part *part = &level->parts[kind];
        if (!part->present)
            continue;
        struct bucket *bucket = &part->bucket;
        bucket_refill(bucket, telling->now);
        int64_t full_in_us = part_fill_us(part, (enum limit_kind) kind, telling->now);
        struct limit_status status = {.kind = (enum limit_kind) kind,
                                      .scope = level->scope,
                                      .name = level->shown,
                                      .origin = origin != NULL ? origin : "",
                                      .limit = part->limit,
                                      .capacity = bucket->capacity_milli / BUCKET_MILLI,
                                      .balance = units(bucket->balance_milli),
                                      .held = units(bucket->held_milli),
                                      .full_in_ms = full_in_us / 1000 + (full_in_us % 1000 > 0),
                                      .on_exceed = level->on_exceed};
        telling->left--;
        telling->receive(telling->owner, &status);
    }
}

static void tell_subject(struct telling *telling, const struct limit_subject *subject)
{
    struct limiter *limiter = telling->limiter;
    struct levels levels;
    levels_find(limiter, subject, &levels);
    for (size_t at = 0; at < levels.count; at++)
        tell_level(telling, levels.at[at]);
    if (subject->user[0] == '\0' || !limiter->users_limited)
        return;
    /* A user who was never here is shown the buckets that would be his. */
    struct level *user = level_of_user(limiter, subject->tenant, subject->user, telling->now);
    if (user == NULL)
        return;
    tell_level(telling, user);
    level_forget_if_fresh(limiter, user);
}

void limiter_each(struct limiter *limiter, const struct limit_subject *subject, size_t most, mono_us now,
                  limit_status_receiver *receive, void *owner)
{
    ENSURE(receive != NULL);
    struct telling telling = {limiter, most, now, receive, owner};
    pthread_mutex_lock(&limiter->lock);
    if (subject != NULL) {
        tell_subject(&telling, subject);
    } else {
        for (uint32_t index = 0; index < limiter->level_count && telling.left > 0; index++) {
            struct level *level = level_at(limiter, index);
            if (level->in_use)
                tell_level(&telling, level);
        }
    }
    pthread_mutex_unlock(&limiter->lock);
}
