/* The events of a request: reserve, top up, spend, settle, cancel. Each is one critical section of arithmetic only. */
#include "ratelimit/limiter.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/panic.h"
#include "ratelimit/limiter_private.h"

/* What a request costs in buckets of requests and of seats. */
static const int64_t ONE_MILLI = BUCKET_MILLI;

struct limiter *limiter_create(void)
{
    struct limiter *limiter = calloc(1, sizeof *limiter);
    if (limiter == NULL)
        return NULL;
    limiter->first_free = limiter->user_hand = NO_LEVEL;
    size_t wanted = sizeof limiter->hash_keys;
    if (getrandom(limiter->hash_keys, wanted, 0) != (ssize_t) wanted || !levels_make_room(limiter, 0)) {
        free(limiter);
        return NULL;
    }
    ENSURE(pthread_mutex_init(&limiter->lock, NULL) == 0);
    return limiter;
}

void limiter_destroy(struct limiter **limiter)
{
    if (*limiter == NULL)
        return;
    levels_destroy(*limiter);
    pthread_mutex_destroy(&(*limiter)->lock);
    free((*limiter)->user_origin);
    free(*limiter);
    *limiter = NULL;
}

/* One bucket that a request needs, and how much of it. */
struct need {
    struct level *level;
    struct limit_part *part;
    enum limit_kind kind;
    int64_t units; /* as asked */
    int64_t least; /* more than the capacity: too large */
    int64_t milli; /* to be taken */
};

struct needs {
    size_t count;
    struct need at[LIMITER_BUCKETS_PER_REQUEST];
};

static int64_t milli_of(int64_t units)
{
    if (units <= 0)
        return 0;
    return (units < BUCKET_UNITS_MAX ? units : BUCKET_UNITS_MAX) * BUCKET_MILLI;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t not_negative(int64_t units)
{
    return units > 0 ? units : 0;
}

static struct need need_of(struct level *level, enum limit_kind kind, const struct limit_demand *demand)
{
    struct need need = {.level = level, .part = &level->parts[kind], .kind = kind, .units = 1, .least = 1};
    need.milli = ONE_MILLI;
    if (kind != LIMIT_TOKENS)
        return need;
    need.units = not_negative(demand->tokens);
    need.least = demand->tokens_least > 0 ? smaller(demand->tokens_least, need.units) : need.units;
    if (level->on_exceed == ON_EXCEED_HARD) {
        need.units = demand->tokens_cap > need.units ? demand->tokens_cap : need.units;
        need.least = need.units;
    }
    need.milli = smaller(milli_of(need.units), need.part->bucket.capacity_milli);
    return need;
}

static void add_needs(struct needs *needs, struct level *level, const struct limit_demand *demand, mono_us now)
{
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
        struct limit_part *part = &level->parts[kind];
        if (!part->present)
            continue;
        bucket_refill(&part->bucket, now);
        needs->at[needs->count++] = need_of(level, (enum limit_kind) kind, demand);
    }
}

static bool is_too_large(const struct need *need)
{
    return need->least > need->part->bucket.capacity_milli / BUCKET_MILLI;
}

/* The one it is too large for, else the one that lets it wait longest, else NULL. */
static const struct need *find_refusal(const struct needs *needs, mono_us now, int64_t *ret_wait_us)
{
    const struct need *refusal = NULL;
    *ret_wait_us = 0;
    for (size_t at = 0; at < needs->count; at++) {
        const struct need *need = &needs->at[at];
        if (is_too_large(need))
            return need;
        if (bucket_covers(&need->part->bucket, need->milli))
            continue;
        int64_t wait_us = need->kind == LIMIT_SEATS ? RETRY_GUESS_US : part_wait_us(need->part, need->milli, now);
        if (refusal != NULL && wait_us <= *ret_wait_us)
            continue;
        refusal = need;
        *ret_wait_us = wait_us;
    }
    return refusal;
}

static void answer_refusal(struct limit_answer *answer, const struct need *need, int64_t wait_us)
{
    const struct bucket *bucket = &need->part->bucket;
    wide gone_milli = (wide) bucket->capacity_milli - bucket->balance_milli;
    answer->verdict = is_too_large(need) ? LIMIT_TOO_LARGE : LIMIT_REFUSED;
    answer->kind = need->kind;
    answer->scope = need->level->scope;
    answer->limit = need->part->limit;
    answer->capacity = bucket->capacity_milli / BUCKET_MILLI;
    answer->used = (int64_t) ((gone_milli + BUCKET_MILLI - 1) / BUCKET_MILLI);
    answer->requested = need->units;
    if (answer->verdict == LIMIT_REFUSED)
        answer->retry_after_ms = wait_us / 1000 + (wait_us % 1000 > 0);
}

/* What each bucket of tokens holds at least: one that is smaller than the guess holds less than that. */
static int64_t tokens_held(const struct needs *needs, const struct limit_demand *demand)
{
    int64_t tokens = smaller(not_negative(demand->tokens), BUCKET_UNITS_MAX);
    for (size_t at = 0; at < needs->count; at++) {
        if (needs->at[at].kind == LIMIT_TOKENS)
            tokens = smaller(tokens, needs->at[at].milli / BUCKET_MILLI);
    }
    return tokens;
}

static void take_all(const struct needs *needs, const struct limit_demand *demand, struct reservation *reservation)
{
    for (size_t at = 0; at < needs->count; at++) {
        const struct need *need = &needs->at[at];
        bucket_hold(&need->part->bucket, need->milli);
        need->part->hold_count++;
        need->level->fresh = false;
        reservation->_holds[at].index = need->level->index * (uint32_t) LIMIT_KIND_COUNT + (uint32_t) need->kind;
        reservation->_holds[at].generation = need->level->generation;
        reservation->_holds[at].held_milli = need->milli;
        reservation->_holds[at].spent_milli = 0;
    }
    reservation->_count = needs->count;
    reservation->tokens = tokens_held(needs, demand);
    reservation->open = true;
}

/* The user's level cannot be made: without it nobody would count him. */
static void answer_no_memory(struct limit_answer *answer)
{
    answer->verdict = LIMIT_REFUSED;
    answer->kind = LIMIT_REQUESTS;
    answer->scope = SCOPE_USER;
    answer->requested = 1;
    answer->retry_after_ms = RETRY_GUESS_US / 1000;
}

static void reserve_in(const struct levels *levels, const struct limit_demand *demand, mono_us now,
                       struct reservation *reservation, struct limit_answer *answer)
{
    struct needs needs = {.count = 0};
    for (size_t at = 0; at < levels->count; at++)
        add_needs(&needs, levels->at[at], demand, now);
    int64_t wait_us;
    const struct need *refusal = find_refusal(&needs, now, &wait_us);
    if (refusal != NULL)
        answer_refusal(answer, refusal, wait_us);
    else
        take_all(&needs, demand, reservation);
    for (size_t at = 0; at < needs.count; at++)
        view_nearer(&answer->nearest[needs.at[at].kind], needs.at[at].level, needs.at[at].kind, now);
}

/* With the user's level, which is there for everybody: made now if need be. */
static bool find_levels(struct limiter *limiter, const struct limit_subject *subject, mono_us now, struct levels *ret)
{
    levels_find(limiter, subject, ret);
    if (!limiter->users_limited || subject->user[0] == '\0')
        return true;
    struct level *user = level_of_user(limiter, subject->tenant, subject->user, now);
    if (user == NULL)
        return false;
    ret->at[ret->count++] = user;
    return true;
}

enum limit_verdict limiter_reserve(struct limiter *limiter, const struct limit_subject *subject,
                                   const struct limit_demand *demand, mono_us now, struct reservation *ret_reservation,
                                   struct limit_answer *ret_answer)
{
    struct levels levels;
    *ret_answer = (struct limit_answer){.verdict = LIMIT_ADMITTED};
    ret_reservation->open = false;
    ret_reservation->_count = 0;
    ret_reservation->tokens = 0;
    pthread_mutex_lock(&limiter->lock);
    if (find_levels(limiter, subject, now, &levels))
        reserve_in(&levels, demand, now, ret_reservation, ret_answer);
    else
        answer_no_memory(ret_answer);
    for (size_t at = 0; at < levels.count; at++)
        level_forget_if_fresh(limiter, levels.at[at]);
    pthread_mutex_unlock(&limiter->lock);
    return ret_answer->verdict;
}

/* What one reservation holds in one bucket, found again. */
struct held {
    struct level *level;
    struct limit_part *part;
    enum limit_kind kind;
    int64_t *milli;
    int64_t *spent_milli;
};

static struct held held_at(const struct limiter *limiter, struct reservation *reservation, size_t at)
{
    uint32_t index = reservation->_holds[at].index;
    struct level *level = level_at(limiter, index / LIMIT_KIND_COUNT);
    struct held held = {.level = level,
                        .part = &level->parts[index % LIMIT_KIND_COUNT],
                        .kind = (enum limit_kind)(index % LIMIT_KIND_COUNT),
                        .milli = &reservation->_holds[at].held_milli,
                        .spent_milli = &reservation->_holds[at].spent_milli};
    /* A level stays while it is held; anything else is a reservation that was ended twice. */
    ENSURE(level->in_use && level->generation == reservation->_holds[at].generation);
    ENSURE(held.part->hold_count > 0 && held.part->bucket.held_milli >= *held.milli);
    return held;
}

/* How much more a bucket has to hold for @total tokens, of which @more are new: nothing while the cap is held anyway.
 */
static int64_t missing_milli(const struct held *held, int64_t total, int64_t more)
{
    if (held->kind != LIMIT_TOKENS)
        return 0;
    return smaller(not_negative(milli_of(total) - *held->milli - *held->spent_milli), milli_of(more));
}

static bool cuts_now(struct held *held, int64_t missing, mono_us now)
{
    if (held->kind != LIMIT_TOKENS || !held->part->present || held->level->on_exceed != ON_EXCEED_CUT)
        return false;
    bucket_refill(&held->part->bucket, now);
    return !bucket_covers(&held->part->bucket, missing);
}

static bool top_up_locked(struct limiter *limiter, struct reservation *reservation, int64_t more, mono_us now)
{
    int64_t total = reservation->tokens + more;
    for (size_t at = 0; at < reservation->_count; at++) {
        struct held held = held_at(limiter, reservation, at);
        if (cuts_now(&held, missing_milli(&held, total, more), now))
            return false;
    }
    for (size_t at = 0; at < reservation->_count; at++) {
        struct held held = held_at(limiter, reservation, at);
        int64_t missing = missing_milli(&held, total, more);
        bucket_refill(&held.part->bucket, now);
        bucket_hold(&held.part->bucket, missing);
        *held.milli += missing;
    }
    reservation->tokens = smaller(total, BUCKET_UNITS_MAX);
    return true;
}

bool limiter_top_up(struct limiter *limiter, struct reservation *reservation, int64_t tokens, mono_us now)
{
    if (!reservation->open || reservation->_count == 0 || tokens <= 0)
        return true;
    pthread_mutex_lock(&limiter->lock);
    bool granted = top_up_locked(limiter, reservation, smaller(tokens, BUCKET_UNITS_MAX), now);
    pthread_mutex_unlock(&limiter->lock);
    return granted;
}

/* Of what was taken, @milli in all are spent; what was spent before stays so. */
static void spend_up_to(struct held *held, int64_t milli, mono_us now)
{
    int64_t more = smaller(not_negative(milli - *held->spent_milli), *held->milli);
    bucket_refill(&held->part->bucket, now);
    bucket_spend(&held->part->bucket, more);
    *held->milli -= more;
    *held->spent_milli += more;
}

void limiter_spend(struct limiter *limiter, struct reservation *reservation, int64_t tokens_so_far, mono_us now)
{
    if (!reservation->open || reservation->_count == 0)
        return;
    const int64_t so_far_milli[LIMIT_KIND_COUNT] = {
        [LIMIT_REQUESTS] = ONE_MILLI, [LIMIT_TOKENS] = milli_of(tokens_so_far), [LIMIT_SEATS] = 0};
    pthread_mutex_lock(&limiter->lock);
    for (size_t at = 0; at < reservation->_count; at++) {
        struct held held = held_at(limiter, reservation, at);
        spend_up_to(&held, so_far_milli[held.kind], now);
    }
    pthread_mutex_unlock(&limiter->lock);
}

/* Give back what is held but for @used_milli; charge it whole when it is more. */
static void end_hold(struct limiter *limiter, struct held *held, int64_t used_milli, mono_us now)
{
    struct bucket *bucket = &held->part->bucket;
    spend_up_to(held, used_milli, now);
    bucket_take(bucket, not_negative(used_milli - *held->spent_milli));
    bucket_release(bucket, *held->milli);
    held->part->hold_count--;
    level_forget_if_idle(limiter, held->level);
}

void limiter_settle(struct limiter *limiter, struct reservation *reservation, int64_t tokens_used, mono_us now)
{
    if (!reservation->open)
        return;
    const int64_t used_milli[LIMIT_KIND_COUNT] = {
        [LIMIT_REQUESTS] = ONE_MILLI, [LIMIT_TOKENS] = milli_of(tokens_used), [LIMIT_SEATS] = 0};
    reservation->open = false;
    pthread_mutex_lock(&limiter->lock);
    for (size_t at = 0; at < reservation->_count; at++) {
        struct held held = held_at(limiter, reservation, at);
        end_hold(limiter, &held, used_milli[held.kind], now);
    }
    pthread_mutex_unlock(&limiter->lock);
}

void limiter_cancel(struct limiter *limiter, struct reservation *reservation, mono_us now)
{
    if (!reservation->open)
        return;
    reservation->open = false;
    pthread_mutex_lock(&limiter->lock);
    for (size_t at = 0; at < reservation->_count; at++) {
        struct held held = held_at(limiter, reservation, at);
        ENSURE(*held.spent_milli == 0);
        end_hold(limiter, &held, 0, now);
    }
    pthread_mutex_unlock(&limiter->lock);
}
