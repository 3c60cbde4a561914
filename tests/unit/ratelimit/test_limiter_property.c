/* Any interleaving of reserve, top-up, spend, settle, cancel, reload and clock steps, held against a slow model that
 * shares no line with the limiter. TEST_EVENTS in the environment sets how many events; TEST_SEED, which. */
#include "ratelimit/limiter.h"

#include <string.h>

#include "tests/lib/slow_bucket.h"
#include "tests/lib/unit.h"

enum {
    TENANTS = 2,
    KEYS = 3,
    MODELS = 2,
    USERS = 3, /* of each tenant; the last one is "nobody in particular" */
    LEVELS = KEYS + TENANTS * (USERS - 1) + TENANTS + MODELS + TENANTS * MODELS,
    OPEN_MAX = 24,
    ROUND_EVENTS = 2000
};

static const char *const TENANT_NAMES[TENANTS] = {"acme", "b"};
static const char *const MODEL_NAMES[MODELS] = {"gemma", "qwen"};
static const char *const USER_NAMES[USERS] = {"alice", "bob", ""};
static const struct {
    int tenant;
    const char *name;
} KEY_NAMES[KEYS] = {{0, "ci"}, {0, "web"}, {1, "ci"}};

/* -- the model: linear searches over slow buckets -- */

struct slow_level {
    enum limit_scope scope;
    char name[48];
    bool exists; /* false: a user's that has nothing taken from it yet */
    enum on_exceed on_exceed;
    struct slow_bucket buckets[LIMIT_KIND_COUNT];
};

struct slow_hold {
    struct slow_level *level;
    int kind;
    int64_t milli; /* spent or not */
    int64_t spent_milli;
};

struct slow_reservation {
    bool open, spent;
    int64_t tokens;
    int count;
    struct slow_hold holds[LIMITER_BUCKETS_PER_REQUEST];
};

struct world {
    struct slow_level levels[LEVELS];
    struct limits user_limits;
    /* the policy the limiter sees */
    struct tenant tenants[TENANTS];
    struct tenant_model shares[TENANTS][MODELS];
    struct key keys[KEYS];
    struct model models[MODELS];
    struct policy policy;
    struct limiter *limiter;
    struct reservation open[OPEN_MAX];
    struct slow_reservation slow[OPEN_MAX];
    mono_us now;
    unsigned long verdicts[LIMIT_TOO_LARGE + 1], cut;
};

static void slow_forget_if_idle(struct slow_level *level)
{
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
        if (level->buckets[kind].present || level->buckets[kind].holds > 0)
            return;
    }
    level->exists = false;
}

static void slow_set_level(struct slow_level *level, const struct limits *limits, mono_us now)
{
    level->on_exceed = limits->on_exceed;
    slow_set(&level->buckets[LIMIT_REQUESTS], limits->requests_per_minute, limits->request_burst, limits->strict_window,
             now);
    slow_set(&level->buckets[LIMIT_TOKENS], limits->tokens_per_minute, limits->token_burst, limits->strict_window, now);
    slow_set_seats(&level->buckets[LIMIT_SEATS], limits->concurrent_requests, now);
    slow_forget_if_idle(level);
}

static struct slow_level *slow_level(struct world *world, enum limit_scope scope, const char *between,
                                     const char *first, const char *second)
{
    char name[48];
    snprintf(name, sizeof name, "%s%s%s", first, between, second);
    for (int level = 0; level < LEVELS; level++) {
        if (world->levels[level].scope == scope && strcmp(world->levels[level].name, name) == 0)
            return &world->levels[level];
    }
    fail_msg("no level %s", name);
    return NULL;
}

/* -- random policies -- */

static int64_t random_limit(void)
{
    static const int64_t LIMITS[] = {1, 3, 7, 40, 100, 300, 1000, 10000, INT64_MAX / 2};
    if (unit_random_below(2) == 0)
        return 0;
    return LIMITS[unit_random_below(9)] + (int64_t) unit_random_below(5);
}

static struct limits random_limits(void)
{
    struct limits limits = {.requests_per_minute = random_limit(),
                            .tokens_per_minute = random_limit(),
                            .concurrent_requests = random_limit(),
                            .strict_window = unit_random_below(4) == 0,
                            .on_exceed = (enum on_exceed) unit_random_below(ON_EXCEED_COUNT),
                            .origin = "p.yaml:1:1"};
    if (unit_random_below(4) == 0)
        limits.request_burst = random_limit();
    if (unit_random_below(4) == 0)
        limits.token_burst = random_limit();
    return limits;
}

static void slow_apply_level(struct world *world, struct slow_level *level, const struct limits *limits)
{
    if (level->scope != SCOPE_USER)
        level->exists = true;
    if (level->exists)
        slow_set_level(level, limits, world->now);
}

static void apply_random(struct world *world)
{
    for (int key = 0; key < KEYS; key++)
        world->keys[key].limits = random_limits();
    for (int model = 0; model < MODELS; model++)
        world->models[model].limits = random_limits();
    for (int tenant = 0; tenant < TENANTS; tenant++) {
        world->tenants[tenant].limits = random_limits();
        for (int model = 0; model < MODELS; model++)
            world->shares[tenant][model].limits = random_limits();
    }
    world->policy.user_limits = random_limits();
    assert_true(limiter_apply(world->limiter, &world->policy, world->now));

    for (int key = 0; key < KEYS; key++)
        slow_apply_level(world,
                         slow_level(world, SCOPE_KEY, "/", TENANT_NAMES[KEY_NAMES[key].tenant], KEY_NAMES[key].name),
                         &world->keys[key].limits);
    for (int model = 0; model < MODELS; model++)
        slow_apply_level(world, slow_level(world, SCOPE_MODEL, "", MODEL_NAMES[model], ""),
                         &world->models[model].limits);
    for (int tenant = 0; tenant < TENANTS; tenant++) {
        const char *name = TENANT_NAMES[tenant];
        slow_apply_level(world, slow_level(world, SCOPE_TENANT, "", name, ""), &world->tenants[tenant].limits);
        for (int model = 0; model < MODELS; model++)
            slow_apply_level(world, slow_level(world, SCOPE_TENANT_MODEL, "/", name, MODEL_NAMES[model]),
                             &world->shares[tenant][model].limits);
        for (int user = 0; user < USERS - 1; user++)
            slow_apply_level(world, slow_level(world, SCOPE_USER, "/user/", name, USER_NAMES[user]),
                             &world->policy.user_limits);
    }
}

static void name_level(struct slow_level *level, enum limit_scope scope, const char *between, const char *first,
                       const char *second)
{
    level->scope = scope;
    snprintf(level->name, sizeof level->name, "%s%s%s", first, between, second);
}

static void world_open(struct world *world)
{
    int count = 0;
    memset(world, 0, sizeof *world);
    for (int key = 0; key < KEYS; key++) {
        world->keys[key] = (struct key){.name = KEY_NAMES[key].name, .tenant = &world->tenants[KEY_NAMES[key].tenant]};
        name_level(&world->levels[count++], SCOPE_KEY, "/", TENANT_NAMES[KEY_NAMES[key].tenant], KEY_NAMES[key].name);
    }
    for (int model = 0; model < MODELS; model++) {
        world->models[model] = (struct model){.name = MODEL_NAMES[model]};
        name_level(&world->levels[count++], SCOPE_MODEL, "", MODEL_NAMES[model], "");
    }
    for (int tenant = 0; tenant < TENANTS; tenant++) {
        world->tenants[tenant] =
            (struct tenant){.name = TENANT_NAMES[tenant], .model_count = MODELS, .models = world->shares[tenant]};
        name_level(&world->levels[count++], SCOPE_TENANT, "", TENANT_NAMES[tenant], "");
        for (int model = 0; model < MODELS; model++) {
            world->shares[tenant][model].model = MODEL_NAMES[model];
            name_level(&world->levels[count++], SCOPE_TENANT_MODEL, "/", TENANT_NAMES[tenant], MODEL_NAMES[model]);
        }
        for (int user = 0; user < USERS - 1; user++)
            name_level(&world->levels[count++], SCOPE_USER, "/user/", TENANT_NAMES[tenant], USER_NAMES[user]);
    }
    assert_int_equal(count, LEVELS);
    world->policy = (struct policy){.model_count = MODELS,
                                    .models = world->models,
                                    .tenant_count = TENANTS,
                                    .tenants = world->tenants,
                                    .key_count = KEYS,
                                    .keys = world->keys};
    world->limiter = limiter_create();
    assert_non_null(world->limiter);
    world->now = (mono_us) unit_random_below(1000000000);
    apply_random(world);
}

/* -- the two compared -- */

struct comparing {
    struct world *world;
    size_t seen;
};

static void compare_row(void *owner, const struct limit_status *status)
{
    struct comparing *comparing = owner;
    struct slow_level *level = slow_level(comparing->world, status->scope, "", status->name, "");
    const struct slow_bucket *bucket = &level->buckets[status->kind];
    comparing->seen++;
    assert_true(level->exists && bucket->present);
    assert_true(status->limit == bucket->limit && status->capacity == bucket->capacity);
    assert_int_equal(status->on_exceed, level->on_exceed);
    assert_true(status->held == (double) bucket->held_milli / 1000);
    assert_true(status->balance == (double) slow_floored_milli(bucket) / 1000);
    assert_true(status->full_in_ms >= 0);
    wide in_all = bucket->balance + slow_scaled(bucket->held_milli);
    assert_true(in_all <= slow_scaled((wide) bucket->capacity * 1000) || bucket->balance <= 0);
}

/* Also brings every bucket of both to @now, so that a later step back of the clock means the same to both. */
static void compare_all(struct world *world)
{
    size_t there = 0;
    for (int level = 0; level < LEVELS; level++) {
        for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
            struct slow_bucket *bucket = &world->levels[level].buckets[kind];
            if (!world->levels[level].exists || !bucket->present)
                continue;
            slow_refill(bucket, world->now);
            there++;
        }
    }
    struct comparing comparing = {world, 0};
    limiter_each(world->limiter, NULL, SIZE_MAX, world->now, compare_row, &comparing);
    assert_int_equal(comparing.seen, there);
}

/* -- events -- */

static int64_t random_tokens(void)
{
    switch (unit_random_below(40)) {
    case 0:
        return unit_random_below(20) == 0 ? INT64_MAX : 0;
    case 1:
        return unit_random_below(20) == 0 ? INT64_MIN : -1;
    default:
        return (int64_t) unit_random_below(unit_random_below(10) ? 20 : 1000);
    }
}

static int64_t charged_milli(int64_t tokens)
{
    return tokens < 0 ? 0 : smaller_of(tokens, SLOW_UNITS_MAX) * 1000;
}

struct slow_question {
    const struct limit_demand *demand;
    mono_us now;
    enum limit_verdict verdict;
    int64_t wait_us;
    struct slow_reservation taking;
};

static wide slow_wait_us(const struct slow_question *question, const struct slow_bucket *bucket, int kind,
                         int64_t milli)
{
    if (kind == LIMIT_SEATS)
        return 1000000;
    bool guessed = slow_scaled(milli) > slow_top(bucket);
    wide missing = slow_scaled(milli) - bucket->balance - (guessed ? slow_scaled(bucket->held_milli) : 0);
    wide wait_us = 0;
    if (missing > 0)
        wait_us = (missing + (wide) bucket->rate * 1000 - 1) / ((wide) bucket->rate * 1000);
    if (missing > 0 && bucket->latest > question->now)
        wait_us += (wide) bucket->latest - question->now;
    return guessed && wait_us < 1000000 ? 1000000 : wait_us;
}

static void slow_ask(struct slow_question *question, struct slow_level *level, int kind)
{
    struct slow_bucket *bucket = &level->buckets[kind];
    int64_t asked = 1, least = 1;
    if (kind == LIMIT_TOKENS) {
        asked = question->demand->tokens > 0 ? question->demand->tokens : 0;
        least = question->demand->tokens_least > 0 ? smaller_of(question->demand->tokens_least, asked) : asked;
        if (level->on_exceed == ON_EXCEED_HARD) {
            asked = asked > question->demand->tokens_cap ? asked : question->demand->tokens_cap;
            least = asked;
        }
    }
    if (least > bucket->capacity)
        question->verdict = LIMIT_TOO_LARGE;
    int64_t milli = smaller_of(asked, bucket->capacity) * 1000;
    wide missing = slow_scaled(milli) - bucket->balance;
    if (missing > 0 && question->verdict == LIMIT_ADMITTED)
        question->verdict = LIMIT_REFUSED;
    if (missing > 0) {
        wide wait_us = slow_wait_us(question, bucket, kind, milli);
        if (wait_us > question->wait_us)
            question->wait_us = wait_us > INT64_MAX ? INT64_MAX : (int64_t) wait_us;
    }
    question->taking.holds[question->taking.count++] = (struct slow_hold){level, kind, milli, 0};
}

static void slow_take(struct slow_hold *hold, int64_t milli)
{
    struct slow_bucket *bucket = &hold->level->buckets[hold->kind];
    bucket->balance -= slow_scaled(milli);
    bucket->held_milli += milli;
    hold->milli += milli;
}

static enum limit_verdict slow_reserve(struct world *world, const struct limit_subject *subject,
                                       const struct limit_demand *demand, struct slow_reservation *reservation,
                                       int64_t *ret_wait_us)
{
    struct slow_question question = {.demand = demand, .now = world->now, .verdict = LIMIT_ADMITTED};
    struct slow_level *levels[LIMIT_SCOPE_COUNT] = {
        slow_level(world, SCOPE_KEY, "/", subject->tenant, subject->key),
        slow_level(world, SCOPE_TENANT, "", subject->tenant, ""),
        slow_level(world, SCOPE_MODEL, "", subject->model, ""),
        slow_level(world, SCOPE_TENANT_MODEL, "/", subject->tenant, subject->model),
        subject->user[0] ? slow_level(world, SCOPE_USER, "/user/", subject->tenant, subject->user) : NULL};
    struct slow_level *user = levels[4];
    if (user != NULL && !user->exists)
        slow_set_level(user, &world->policy.user_limits, world->now);
    for (int level = 0; level < LIMIT_SCOPE_COUNT && levels[level] != NULL; level++) {
        for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
            if (levels[level]->buckets[kind].present)
                slow_ask(&question, levels[level], kind);
        }
    }
    *ret_wait_us = question.wait_us;
    reservation->open = question.taking.open = question.verdict == LIMIT_ADMITTED;
    question.taking.tokens = charged_milli(demand->tokens) / 1000;
    for (int hold = 0; reservation->open && hold < question.taking.count; hold++) {
        struct slow_hold *taken = &question.taking.holds[hold];
        int64_t milli = taken->milli;
        taken->milli = 0;
        slow_take(taken, milli);
        taken->level->buckets[taken->kind].holds++;
        taken->level->exists = true;
        if (taken->kind == LIMIT_TOKENS)
            question.taking.tokens = smaller_of(question.taking.tokens, milli / 1000);
    }
    if (reservation->open)
        *reservation = question.taking;
    if (user != NULL && !user->exists)
        memset(user->buckets, 0, sizeof user->buckets);
    return question.verdict;
}

static void event_reserve(struct world *world)
{
    size_t at = 0;
    while (at < OPEN_MAX && world->open[at].open)
        at++;
    if (at == OPEN_MAX)
        return;
    size_t key = unit_random_below(KEYS);
    struct limit_subject subject = {.tenant = TENANT_NAMES[KEY_NAMES[key].tenant],
                                    .key = KEY_NAMES[key].name,
                                    .user = USER_NAMES[unit_random_below(USERS)],
                                    .model = MODEL_NAMES[unit_random_below(MODELS)]};
    struct limit_demand demand = {.tokens = random_tokens()};
    demand.tokens_cap = unit_random_below(2) ? demand.tokens : random_tokens();
    if (unit_random_below(3) == 0)
        demand.tokens_least = random_tokens() / 10;
    struct limit_answer answer;
    int64_t wait_us;
    enum limit_verdict verdict =
        limiter_reserve(world->limiter, &subject, &demand, world->now, &world->open[at], &answer);
    assert_int_equal(verdict, slow_reserve(world, &subject, &demand, &world->slow[at], &wait_us));
    assert_int_equal(world->open[at].open, verdict == LIMIT_ADMITTED);
    if (verdict == LIMIT_REFUSED)
        assert_true(answer.retry_after_ms == wait_us / 1000 + (wait_us % 1000 > 0));
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++)
        assert_true(answer.nearest[kind].remaining >= 0 && answer.nearest[kind].reset_us >= 0);
    world->verdicts[verdict]++;
    compare_all(world); /* after a refusal: nothing has changed */
}

static int64_t slow_missing(const struct slow_hold *hold, int64_t total, int64_t more)
{
    if (hold->kind != LIMIT_TOKENS || charged_milli(total) <= hold->milli)
        return 0;
    return smaller_of(charged_milli(total) - hold->milli, charged_milli(more));
}

static void event_top_up(struct world *world, size_t at)
{
    struct slow_reservation *slow = &world->slow[at];
    int64_t more = random_tokens();
    bool granted = limiter_top_up(world->limiter, &world->open[at], more, world->now);
    int64_t total = slow->tokens + charged_milli(more) / 1000;
    bool expected = true;
    for (int hold = 0; more > 0 && hold < slow->count; hold++) {
        struct slow_level *level = slow->holds[hold].level;
        struct slow_bucket *bucket = &level->buckets[slow->holds[hold].kind];
        if (slow->holds[hold].kind == LIMIT_TOKENS && bucket->present && level->on_exceed == ON_EXCEED_CUT)
            expected &= bucket->balance >= slow_scaled(slow_missing(&slow->holds[hold], total, more));
    }
    assert_int_equal(granted, expected);
    world->cut += !granted;
    if (!granted || more <= 0 || slow->count == 0)
        return;
    for (int hold = 0; hold < slow->count; hold++) {
        struct slow_hold *held = &slow->holds[hold];
        slow_refill(&held->level->buckets[held->kind], world->now);
        slow_take(held, slow_missing(held, total, more));
    }
    slow->tokens = smaller_of(total, SLOW_UNITS_MAX);
    assert_true(world->open[at].tokens == slow->tokens);
}

static void slow_spend(struct slow_hold *hold, int64_t milli)
{
    int64_t more = smaller_of(milli, hold->milli) - hold->spent_milli;
    if (more <= 0)
        return;
    hold->spent_milli += more;
    hold->level->buckets[hold->kind].held_milli -= more;
}

static void event_spend(struct world *world, size_t at)
{
    struct slow_reservation *slow = &world->slow[at];
    int64_t tokens = random_tokens();
    limiter_spend(world->limiter, &world->open[at], tokens, world->now);
    slow->spent = true;
    for (int hold = 0; hold < slow->count; hold++) {
        struct slow_hold *held = &slow->holds[hold];
        slow_refill(&held->level->buckets[held->kind], world->now);
        if (held->kind != LIMIT_SEATS)
            slow_spend(held, held->kind == LIMIT_REQUESTS ? 1000 : charged_milli(tokens));
    }
}

static void event_end(struct world *world, size_t at, bool wants_cancel)
{
    struct slow_reservation *slow = &world->slow[at];
    bool cancel = wants_cancel && !slow->spent;
    int64_t used = random_tokens();
    struct reservation moved = world->open[at];
    world->open[at].open = false;
    for (int twice = 0; twice < 2; twice++) { /* the second time is nothing */
        if (cancel)
            limiter_cancel(world->limiter, &moved, world->now);
        else
            limiter_settle(world->limiter, &moved, used, world->now);
        assert_false(moved.open);
    }
    for (int hold = 0; hold < slow->count; hold++) {
        struct slow_hold *held = &slow->holds[hold];
        struct slow_bucket *bucket = &held->level->buckets[held->kind];
        slow_refill(bucket, world->now);
        int64_t keeps = held->kind == LIMIT_REQUESTS ? 1000 : held->kind == LIMIT_TOKENS ? charged_milli(used) : 0;
        if (!cancel)
            slow_spend(held, keeps);
        if (!cancel && keeps > held->milli)
            bucket->balance -= slow_scaled(keeps - held->milli);
        bucket->held_milli -= held->milli - held->spent_milli;
        slow_add(bucket, slow_scaled(held->milli - held->spent_milli));
        bucket->holds--;
    }
    slow->open = false;
    for (int hold = 0; hold < slow->count; hold++)
        slow_forget_if_idle(slow->holds[hold].level);
}

static void event_clock(struct world *world, bool extreme)
{
    switch (unit_random_below(16)) {
    case 0:
        world->now -= (mono_us) unit_random_below(60000000);
        return;
    case 1:
        world->now += (mono_us) unit_random_below(86400) * 1000000;
        return;
    case 2:
        if (extreme)
            world->now = unit_random_below(2) ? INT64_MAX / 2 : INT64_MIN / 2;
        return;
    default:
        world->now += (mono_us) unit_random_below(1000000);
    }
}

static void event(struct world *world, bool extreme)
{
    size_t what = unit_random_below(100), at = unit_random_below(OPEN_MAX);
    bool open = world->open[at].open;
    if (what < 50)
        event_reserve(world);
    else if (what < 60 && open)
        event_top_up(world, at);
    else if (what < 66 && open)
        event_spend(world, at);
    else if (what < 80 && open)
        event_end(world, at, unit_random_below(3) == 0);
    else if (what < 99)
        event_clock(world, extreme);
    else
        apply_random(world);
}

static void nothing_is_held(void *owner, const struct limit_status *status)
{
    (void) owner;
    assert_true(status->held == 0);
}

static void world_close(struct world *world)
{
    for (size_t at = 0; at < OPEN_MAX; at++) {
        if (world->open[at].open)
            event_end(world, at, at % 2 == 0);
    }
    compare_all(world);
    limiter_each(world->limiter, NULL, SIZE_MAX, world->now, nothing_is_held, NULL);
    limiter_destroy(&world->limiter);
}

static void any_interleaving_agrees_with_the_slow_model(void **state)
{
    (void) state;
    unit_random_seed();
    const char *events = getenv("TEST_EVENTS");
    long rounds = (events != NULL ? atol(events) : 200000) / ROUND_EVENTS;
    static struct world world;
    unsigned long counts[LIMIT_TOO_LARGE + 1] = {0}, cut = 0;
    for (long round = 0; round < rounds; round++) {
        world_open(&world);
        for (int step = 0; step < ROUND_EVENTS; step++) {
            event(&world, round % 20 == 0);
            compare_all(&world);
        }
        world_close(&world);
        for (int verdict = 0; verdict <= LIMIT_TOO_LARGE; verdict++)
            counts[verdict] += world.verdicts[verdict];
        cut += world.cut;
    }
    print_message("%lu admitted, %lu refused, %lu too large, %lu cut\n", counts[0], counts[1], counts[2], cut);
    assert_true(counts[0] > 0 && counts[1] > 0 && counts[2] > 0 && cut > 0); /* it was about something */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_interleaving_agrees_with_the_slow_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
