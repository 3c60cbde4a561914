/* The answer as JSON, and what is a change. */
#include "gateway/admin_usage.h"

#include <string.h>

#include "tests/lib/unit.h"

static char memory[64 * 1024];
static struct worker_journal journals[2];
static struct store_status redis;
static struct biller_status billing;

static int set_up(void **state)
{
    (void) state;
    memset(journals, 0, sizeof journals);
    memset(&redis, 0, sizeof redis);
    memset(&billing, 0, sizeof billing);
    return 0;
}

static const char *answer(const char *redis_error)
{
    struct builder json;
    const struct admin_usage usage = {
        .journals = journals, .journal_count = 2, .redis = &redis, .redis_error = redis_error, .billing = &billing};
    builder_init(&json, memory, sizeof memory);
    admin_usage_json(&usage, &json);
    assert_false(json.overflowed);
    return builder_string(&json);
}

static void nothing_is_null_and_zero(void **state)
{
    (void) state;
    assert_string_equal(
        answer(""),
        "{\"journals\":[{\"worker\":0,\"trouble\":\"\",\"slowest_write_seconds\":0.000000},"
        "{\"worker\":1,\"trouble\":\"\",\"slowest_write_seconds\":0.000000}],"
        "\"redis\":{\"up\":false,\"error\":\"\",\"durability\":\"\",\"may_evict\":false,\"writers\":0,"
        "\"stuck_writers\":0,\"regressions\":0,\"oldest_unshipped\":null},\"providers\":[],\"oldest_unflushed\":null,"
        "\"recovered_writers\":0,\"crashed_requests\":0,\"error\":\"\"}\n");
}

static void everything_is_told(void **state)
{
    (void) state;
    strcpy(journals[1].trouble, "the disk is \"full\"");
    journals[1].slowest_write_us = 1500000;
    redis = (struct store_status){.is_up = true,
                                  .is_durability_known = true,
                                  .may_evict = true,
                                  .durability = "drops keys",
                                  .writers = 3,
                                  .stuck_writers = 1,
                                  .regressions = 2,
                                  .oldest_unshipped = 1000};
    billing.provider_count = 1;
    struct usage_status *provider = &billing.providers[0];
    provider->provider = PROVIDER_STRIPE;
    provider->rows[ROW_HELD] = 1;
    provider->rows[ROW_ACKED] = 7;
    provider->oldest = 2000;
    provider->waiting_count = 1;
    strcpy(provider->waiting[0].id, "tg1-x");
    strcpy(provider->waiting[0].tenant, "acme\xff");
    strcpy(provider->waiting[0].meter, "output_tokens");
    provider->waiting[0].quantity = 42;
    provider->waiting[0].ended = 3000;
    provider->waiting[0].state = ROW_HELD;
    strcpy(provider->waiting[0].reason, "no customer");
    billing.oldest_unflushed = 4000;
    billing.recovered_writers = 5;
    billing.crashed_requests = 6;
    strcpy(billing.error, "out of order");
    assert_string_equal(
        answer("hung up"),
        "{\"journals\":[{\"worker\":0,\"trouble\":\"\",\"slowest_write_seconds\":0.000000},"
        "{\"worker\":1,\"trouble\":\"the disk is \\\"full\\\"\",\"slowest_write_seconds\":1.500000}],"
        "\"redis\":{\"up\":true,\"error\":\"hung up\",\"durability\":\"drops keys\",\"may_evict\":true,\"writers\":3,"
        "\"stuck_writers\":1,\"regressions\":2,\"oldest_unshipped\":\"1970-01-01T00:00:01.000Z\"},"
        "\"providers\":[{\"provider\":\"stripe\",\"rows\":{\"pending\":0,\"sent\":0,\"acked\":7,\"duplicate\":0,"
        "\"rejected\":0,\"held\":1},\"oldest\":\"1970-01-01T00:00:02.000Z\",\"last_acked\":null,"
        "\"waiting_total\":1,\"waiting\":[{\"row\":\"tg1-x\",\"tenant\":\"acme\xef\xbf\xbd\",\"meter\":\"output_"
        "tokens\",\"quantity\":42,"
        "\"ended\":\"1970-01-01T00:00:03.000Z\",\"state\":\"held\",\"reason\":\"no customer\"}]}],"
        "\"oldest_unflushed\":\"1970-01-01T00:00:04.000Z\",\"recovered_writers\":5,\"crashed_requests\":6,"
        "\"error\":\"out of order\"}\n");
}

#define ROW "tg1-aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd"

static void a_change_is_an_action_and_a_row(void **state)
{
    struct admin_change change;
    (void) state;
    assert_null(admin_change_parse(TEXT("{\"action\":\"release\",\"row\":\"" ROW "\"}"), &change));
    assert_int_equal(change.verb, ROW_RELEASE);
    assert_string_equal(change.id, ROW);
    assert_null(admin_change_parse(TEXT(" { \"row\" : \"" ROW "\" , \"action\" : \"delivered\" } "), &change));
    assert_int_equal(change.verb, ROW_DELIVERED);
}

static void anything_else_is_refused(void **state)
{
    static const char *const bodies[] = {
        "",
        "retry",
        "[]",
        "{}",
        "{\"action\":\"retry\"}",
        "{\"row\":\"" ROW "\"}",
        "{\"action\":\"sell\",\"row\":\"" ROW "\"}",
        "{\"action\":1,\"row\":\"" ROW "\"}",
        "{\"action\":\"retry\",\"row\":\"tg1-short\"}",
        "{\"action\":\"retry\",\"row\":\"" ROW "x\"}",
        "{\"action\":\"retry\",\"row\":\"\\u0074g1-aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd\"}",
        "{\"action\":\"retry\",\"row\":\"" ROW "\",\"more\":\"x\"}",
        "{\"action\":\"retry\",\"row\":\"" ROW "\"",
        "{\"action\":\"retry\",\"row\":\"" ROW "\"}{}",
    };
    struct admin_change change;
    (void) state;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        const char *complaint = admin_change_parse(text_of(bodies[i]), &change);
        if (complaint == NULL)
            fail_msg("accepted: %s", bodies[i]);
        assert_null(strpbrk(complaint, "\"\\"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nothing_is_null_and_zero, set_up),
        cmocka_unit_test_setup(everything_is_told, set_up),
        cmocka_unit_test(a_change_is_an_action_and_a_row),
        cmocka_unit_test(anything_else_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
