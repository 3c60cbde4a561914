#include "gateway/simulation.h"

#include <string.h>

#include "tests/lib/unit.h"

enum { ROWS_MAX = 4000 };

static const int64_t SECOND_US = 1000000;

/* One tenant with one key, one model. */
struct house {
    struct model model;
    struct tenant tenant;
    struct key key;
    struct policy policy;
    struct trace_row rows[ROWS_MAX];
    struct trace trace;
    struct simulation_load load;
};

static void house_init(struct house *house)
{
    memset(house, 0, sizeof(*house));
    house->model = (struct model){.name = "gemma", .limits = {.origin = ""}};
    house->tenant = (struct tenant){.name = "acme", .limits = {.origin = ""}};
    house->key = (struct key){.name = "ci", .tenant = &house->tenant, .user = "", .limits = {.origin = ""}};
    house->policy = (struct policy){.models = &house->model,
                                    .model_count = 1,
                                    .tenants = &house->tenant,
                                    .tenant_count = 1,
                                    .keys = &house->key,
                                    .key_count = 1,
                                    .user_limits = {.origin = ""}};
    house->trace.rows = house->rows;
    house->load = (struct simulation_load){
        .trace = &house->trace,
        .subject = {.tenant = "acme", .key = "ci", .user = "", .model = "gemma"},
        .cap_tokens = 4096,
        .token_us = 10000,
    };
}

static void add_rows(struct house *house, size_t count, int64_t every_us, int64_t input, int64_t output)
{
    for (size_t i = 0; i < count; i++) {
        int64_t before = house->trace.count > 0 ? house->rows[house->trace.count - 1].arrival_us + every_us : 0;
        house->rows[house->trace.count++] = (struct trace_row){before, input, output};
    }
}

static struct simulation_result run(const struct house *house)
{
    struct simulation_result result;
    assert_true(simulate(&house->policy, &house->load, &result));
    assert_int_equal(result.requests, house->trace.count);
    int64_t refused = 0;
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
        for (int scope = 0; scope < LIMIT_SCOPE_COUNT; scope++) {
            refused += result.refused[kind][scope] + result.too_large[kind][scope];
        }
    }
    assert_int_equal(result.requests, result.admitted + refused);
    assert_int_equal(result.reserved_tokens - result.used_tokens, result.over_tokens - result.under_tokens);
    return result;
}

static void without_limits_all_are_admitted(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    add_rows(&house, 100, SECOND_US, 50, 350);
    struct simulation_result result = run(&house);
    assert_false(result.limited);
    assert_int_equal(result.admitted, 100);
    assert_int_equal(result.used_tokens, 100 * 400);
    assert_int_equal(result.running_most, 4);
    assert_int_equal(result.duration_us, 99 * SECOND_US + 350 * 10000);
}

static void requests_a_minute_are_exact(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.key.limits.requests_per_minute = 10;
    add_rows(&house, 50, 1000, 1, 1);
    struct simulation_result result = run(&house);
    assert_true(result.limited);
    assert_int_equal(result.admitted, 10);
    assert_int_equal(result.refused[LIMIT_REQUESTS][SCOPE_KEY], 40);
    assert_int_equal(result.limits[LIMIT_REQUESTS][SCOPE_KEY], 10);
    assert_int_equal(result.refused_tokens, 80);
}

/* A request a second lasts 3.5 s: the fourth finds no seat, a seat is free when the first ends. */
static void seats_come_back_at_the_end(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.tenant.limits.concurrent_requests = 3;
    add_rows(&house, 40, SECOND_US, 50, 350);
    struct simulation_result result = run(&house);
    assert_int_equal(result.running_most, 3);
    assert_int_equal(result.refused[LIMIT_SEATS][SCOPE_TENANT], 10);
    assert_int_equal(result.admitted, 30);
}

static void what_ends_when_another_arrives_gives_its_seat(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.tenant.limits.concurrent_requests = 1;
    add_rows(&house, 20, SECOND_US, 50, 100);
    assert_int_equal(run(&house).admitted, 20);
    house.load.token_us++;
    assert_int_equal(run(&house).admitted, 10);
    house.load.token_us = 0;
    assert_int_equal(run(&house).admitted, 20);
}

/* No more than the bucket and what flows into it, and nearly all of that. */
static void tokens_are_settled_on_what_was_used(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.model.limits.tokens_per_minute = 60000;
    add_rows(&house, 1200, SECOND_US, 1000, 1000);
    struct simulation_result result = run(&house);
    assert_true(result.refused[LIMIT_TOKENS][SCOPE_MODEL] > 500);
    assert_in_range(result.used_tokens, 21 * 60000 * 95 / 100, 21 * 60000 + 1024);
    assert_int_equal(result.debt_tokens, 0);
}

static void what_never_fits_is_too_large(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.key.limits.tokens_per_minute = 1000;
    add_rows(&house, 10, 120 * SECOND_US, 1001, 1);
    struct simulation_result result = run(&house);
    assert_int_equal(result.too_large[LIMIT_TOKENS][SCOPE_KEY], 10);
    assert_int_equal(result.refused_tokens, 10 * 1002);
    assert_int_equal(result.used_tokens, 0);
}

static void long_answers_are_topped_up(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.key.limits.tokens_per_minute = 1000000;
    add_rows(&house, 200, SECOND_US, 100, 50);
    add_rows(&house, 1, SECOND_US, 100, 500);
    struct simulation_result result = run(&house);
    assert_int_equal(result.under_requests, 1);
    assert_in_range(result.under_tokens, 440, 450);
    /* From some 54 in steps of 128 to 32 more than 500, and one for each that comes within 32 of its reservation. */
    assert_in_range(result.top_ups, 4 + 150, 4 + 200);
    assert_int_equal(result.debt_tokens, 0);
    assert_int_equal(result.cut, 0);
}

/* One stream of an hour at nine tenths of the rate, and nothing of it is ever cut off: what it has spent flows back. */
static void long_stream_does_not_starve_itself(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.key.limits.tokens_per_minute = 6000;
    house.key.limits.on_exceed = ON_EXCEED_CUT;
    house.load.cap_tokens = 400000;
    house.load.token_us = 11111; /* 5400 a minute */
    add_rows(&house, 1, 1, 100, 324000);
    struct simulation_result result = run(&house);
    assert_int_equal(result.cut, 0);
    assert_int_equal(result.used_tokens, 324100);
}

static void cut_ends_what_has_no_more_tokens(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.key.limits.tokens_per_minute = 6000;
    house.key.limits.on_exceed = ON_EXCEED_CUT;
    house.load.token_us = 1; /* so fast that nothing flows back meanwhile */
    add_rows(&house, 2, 1, 3000, 4000);
    struct simulation_result result = run(&house);
    assert_int_equal(result.admitted, 1);
    assert_int_equal(result.cut, 1);
    /* 3000, 1024 at first, 15 top-ups of 128, of 32, three of 8: not one more, not one less. */
    assert_int_equal(result.used_tokens, 6000);
    assert_int_equal(result.top_ups, 15 + 1 + 3);
    assert_int_equal(result.debt_tokens, 0);
}

static void hard_reserves_the_cap(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.key.limits.tokens_per_minute = 20000;
    house.key.limits.on_exceed = ON_EXCEED_HARD;
    house.load.cap_tokens = 1900;
    add_rows(&house, 20, 1, 100, 10);
    struct simulation_result result = run(&house);
    assert_int_equal(result.admitted, 10);
    assert_int_equal(result.reserved_tokens, 10 * 2000);
    assert_int_equal(result.over_tokens, 10 * 1890);
    house.load.cap_tokens = 19901;
    assert_int_equal(run(&house).too_large[LIMIT_TOKENS][SCOPE_KEY], 20);
}

static void answers_end_at_the_cap(void **state)
{
    (void) state;
    static struct house house;
    house_init(&house);
    house.load.cap_tokens = 100;
    add_rows(&house, 10, SECOND_US, 10, 101);
    add_rows(&house, 10, SECOND_US, 10, 100);
    struct simulation_result result = run(&house);
    assert_int_equal(result.capped, 10);
    assert_int_equal(result.used_tokens, 20 * 110);
    assert_int_equal(result.under_requests, 0);
}

static void too_many_at_once_are_an_error(void **state)
{
    (void) state;
    static struct trace_row rows[SIMULATION_RUNNING_MAX + 1];
    static struct house house;
    house_init(&house);
    house.key.limits = (struct limits){.requests_per_minute = 1000000000, .tokens_per_minute = 1000000000};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        rows[i] = (struct trace_row){(int64_t) i, 1, 1000};
    }
    struct trace many = {rows, SIMULATION_RUNNING_MAX};
    house.load.trace = &many;
    struct simulation_result result = {.requests = -1};
    assert_true(simulate(&house.policy, &house.load, &result));
    assert_int_equal(result.running_most, SIMULATION_RUNNING_MAX);
    result.requests = -1;
    many.count++;
    assert_false(simulate(&house.policy, &house.load, &result));
    assert_int_equal(result.requests, -1);
}

/* Whatever the load and the limits: the sums of run() hold, and no window admits more than the bucket allows. */
static void any_load_keeps_the_sums(void **state)
{
    (void) state;
    for (int round = 0; round < 60; round++) {
        static struct house house;
        house_init(&house);
        struct limits *limits[] = {&house.model.limits, &house.tenant.limits, &house.key.limits};
        for (size_t i = 0; i < 3; i++) {
            limits[i]->requests_per_minute = (int64_t) unit_random_below(3) * 100;
            limits[i]->tokens_per_minute = (int64_t) unit_random_below(3) * 100000;
            limits[i]->concurrent_requests = (int64_t) unit_random_below(3) * 10;
            limits[i]->on_exceed = (enum on_exceed) unit_random_below(ON_EXCEED_COUNT);
        }
        house.load.token_us = (int64_t) unit_random_below(40000);
        for (int i = 0; i < 500; i++) {
            add_rows(&house, 1, (int64_t) unit_random_below(1000000), (int64_t) unit_random_below(5000),
                     (int64_t) unit_random_below((size_t) 1 << unit_random_below(13)));
        }
        struct simulation_result result = run(&house);
        int64_t seats = house.key.limits.concurrent_requests;
        assert_true(seats == 0 || result.running_most <= seats);
        int64_t a_minute = house.key.limits.requests_per_minute;
        assert_true(a_minute == 0 || result.admitted <= a_minute + a_minute * result.duration_us / (60 * SECOND_US));
    }
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_limits_all_are_admitted),
        cmocka_unit_test(requests_a_minute_are_exact),
        cmocka_unit_test(seats_come_back_at_the_end),
        cmocka_unit_test(what_ends_when_another_arrives_gives_its_seat),
        cmocka_unit_test(tokens_are_settled_on_what_was_used),
        cmocka_unit_test(what_never_fits_is_too_large),
        cmocka_unit_test(long_answers_are_topped_up),
        cmocka_unit_test(long_stream_does_not_starve_itself),
        cmocka_unit_test(cut_ends_what_has_no_more_tokens),
        cmocka_unit_test(hard_reserves_the_cap),
        cmocka_unit_test(answers_end_at_the_cap),
        cmocka_unit_test(too_many_at_once_are_an_error),
        cmocka_unit_test(any_load_keeps_the_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
