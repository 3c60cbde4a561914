/* billing/stripe, billing/provider: the wire form of record, what each answer means, and what waits for a person. */
#include "billing/provider.h"

#include <string.h>

#include "tests/lib/unit.h"

static const char ID[] = "tg1-abcdefghijklmnopqrstuvwxyz234567abcdefgh";
static const struct provider_policy STRIPE = {.kind = PROVIDER_STRIPE, .api_base = "https://api.stripe.com"};
static const struct row ROW = {
    .name = {.provider = PROVIDER_STRIPE, .tenant = "acme", .meter = "output tokens&more"},
    .metered = true,
    .measure = MEASURE_OUTPUT_TOKENS,
    .quantity = 25,
    .ended = 1795363499999,
};

static void test_the_wire_form(void **state)
{
    (void) state;
    struct provider_call call;
    struct provider_event event = {&ROW, "cus_1", ID, 0};
    assert_true(stripe_encode(&STRIPE, &event, &call));
    assert_string_equal(call.url, "https://api.stripe.com/v1/billing/meter_events");
    assert_string_equal(call.idempotency_key, ID);
    assert_string_equal(call.body,
                        "event_name=output%20tokens%26more&payload[stripe_customer_id]=cus_1&payload[value]=25"
                        "&identifier=tg1-abcdefghijklmnopqrstuvwxyz234567abcdefgh&timestamp=1795363499");
    assert_true(strncmp(call.version_header, "Stripe-Version: 20", 18) == 0);
    event.generation = 2;
    assert_true(stripe_encode(&STRIPE, &event, &call));
    assert_string_equal(call.idempotency_key, "tg1-abcdefghijklmnopqrstuvwxyz234567abcdefgh:g2");
    struct row released = ROW;
    text_copy(released.event_name, sizeof released.event_name, TEXT("added later"));
    event.row = &released;
    assert_true(stripe_encode(&STRIPE, &event, &call));
    assert_true(strncmp(call.body, "event_name=added%20later&", 25) == 0);
    char customer[PROVIDER_BODY_BYTES];
    memset(customer, 'x', sizeof customer - 1);
    customer[sizeof customer - 1] = '\0';
    event.customer = customer;
    assert_false(stripe_encode(&STRIPE, &event, &call));
}

#define DUPLICATE_OF(id)                                                                                               \
    "{\"error\":{\"type\":\"invalid_request_error\",\"message\":\"An event already exists with identifier " id ".\"}}"
#define ERROR_OF(param, message)                                                                                       \
    "{\"error\":{\"type\":\"invalid_request_error\",\"param\":\"" param "\",\"message\":\"" message "\"}}"
#define CLOCK_IS_AHEAD                                                                                                 \
    "400: the clock of this machine is more than 5 minutes ahead: set it right, or usage is told that much later"
#define ERROR(type, code) "{\"error\":{\"type\":\"" type "\",\"code\":\"" code "\",\"message\":\"because\"}}"

static void test_each_answer_has_its_meaning(void **state)
{
    (void) state;
    static const struct {
        int status;
        bool connect_failed;
        const char *body;
        enum provider_verdict verdict;
        const char *reason;
    } CASES[] = {
        {200, false, "{}", VERDICT_ACKED, ""},
        {200, false, "", VERDICT_ACKED, ""},
        {400, false, DUPLICATE_OF("tg1-abcdefghijklmnopqrstuvwxyz234567abcdefgh"), VERDICT_DUPLICATE, ""},
        {400, false, DUPLICATE_OF("somebody-elses"), VERDICT_REJECTED,
         "400: An event already exists with identifier somebody-elses."},
        {400, false, ERROR("invalid_request_error", "no_meter"), VERDICT_REJECTED, "400: because"},
        {400, false, ERROR("idempotency_error", ""), VERDICT_REJECTED, "400: because"},
        {400, false, ERROR("invalid_request_error", "timestamp_in_future"), VERDICT_LATER, CLOCK_IS_AHEAD},
        {400, false, ERROR_OF("timestamp", "The event timestamp cannot be more than 5 minutes in the future."),
         VERDICT_LATER, CLOCK_IS_AHEAD},
        {400, false, ERROR_OF("payload", "not in the future"), VERDICT_REJECTED, "400: not in the future"},
        {400, false, ERROR_OF("timestamp", "too long ago"), VERDICT_REJECTED, "400: too long ago"},
        {400, false, "<html>", VERDICT_REJECTED, "400"},
        {400, false, "[1]", VERDICT_REJECTED, "400"},
        {401, false, ERROR("invalid_request_error", ""), VERDICT_HOLD_ALL, "401: the API key is not accepted"},
        {403, false, ERROR("invalid_request_error", ""), VERDICT_HOLD_ALL, "403: the API key is not accepted"},
        {404, false, ERROR("invalid_request_error", ""), VERDICT_HOLD_ALL, "404: because"},
        {302, false, "", VERDICT_HOLD_ALL, "302"},
        {409, false, ERROR("idempotency_error", "idempotency_key_in_use"), VERDICT_RETRY, "409: because"},
        {409, false, ERROR("idempotency_error", ""), VERDICT_REJECTED, "409: because"},
        {429, false, ERROR("invalid_request_error", "rate_limit"), VERDICT_LATER, "429: because"},
        {429, false, ERROR("invalid_request_error", "lock_timeout"), VERDICT_LATER, "429: because"},
        {500, false, "", VERDICT_STORED, "500"},
        {503, false, "busy", VERDICT_STORED, "503"},
        {0, false, "", VERDICT_RETRY, "no answer"},
        {0, true, "", VERDICT_LATER, "not reached"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct provider_answer answer = {CASES[i].status, CASES[i].connect_failed, text_of(CASES[i].body), -1};
        struct provider_outcome outcome = stripe_classify(&answer, ID);
        assert_int_equal(outcome.verdict, CASES[i].verdict);
        assert_string_equal(outcome.reason, CASES[i].reason);
        assert_int_equal(outcome.after_ms, 0);
        assert_int_equal(outcome.next_key, strcmp(CASES[i].reason, CLOCK_IS_AHEAD) == 0);
    }
}

static void test_retry_after(void **state)
{
    (void) state;
    struct provider_answer answer = {429, false, TEXT(""), provider_retry_after_ms(TEXT(" 7 "))};
    assert_int_equal(stripe_classify(&answer, ID).after_ms, 7000);
    assert_int_equal(provider_retry_after_ms(TEXT("0")), 0);
    assert_int_equal(provider_retry_after_ms(TEXT("99999999999999")), 3600000);
    assert_int_equal(provider_retry_after_ms(TEXT("-1")), -1);
    assert_int_equal(provider_retry_after_ms(TEXT("Sun, 22 Nov 2026 18:00:00 GMT")), -1);
}

static void assert_held(const struct row *row, const char *customer, wall_ms now, const char *part)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    bool is_held = provider_holds(row, customer, now, reason);
    assert_int_equal(is_held, part != NULL);
    if (part != NULL)
        assert_non_null(strstr(reason, part));
}

static void test_what_waits_for_a_person(void **state)
{
    (void) state;
    struct row row = ROW;
    const wall_ms days = 24 * 3600 * 1000;
    assert_held(&row, "cus_1", row.ended, NULL);
    assert_held(&row, "cus_1", row.ended + 35 * days, NULL);
    assert_held(&row, "cus_1", row.ended + 35 * days + 1, "older than 35 days");
    assert_held(&row, "", row.ended, "acme has no customer");
    assert_held(&row, NULL, row.ended, "no tenant acme any more");
    row.quantity = INT64_C(1000000000000000);
    assert_held(&row, "cus_1", row.ended, "999999999999999");
    row.metered = false;
    strcpy(row.model, "llama");
    assert_held(&row, "cus_1", row.ended, "no meter takes the model llama");
    row.name.provider = PROVIDER_FILE;
    assert_held(&row, NULL, row.ended + 1000 * days, NULL);
}

static void test_what_ended_ahead_of_the_time_waits_for_it(void **state)
{
    (void) state;
    struct row row = ROW;
    const int64_t minute = 60 * 1000;
    assert_int_equal(provider_early_ms(&row, row.ended + 1), 0);
    assert_int_equal(provider_early_ms(&row, row.ended - 5 * minute), 0);
    assert_int_equal(provider_early_ms(&row, row.ended - 5 * minute - 1), 1);
    assert_int_equal(provider_early_ms(&row, row.ended - 15 * minute), 10 * minute);
    row.name.provider = PROVIDER_FILE;
    assert_int_equal(provider_early_ms(&row, row.ended - 15 * minute), 0);
}

static void test_customers_are_looked_up(void **state)
{
    (void) state;
    const struct tenant tenants[] = {{.name = "acme", .customer = "cus_1"}, {.name = "globex", .customer = ""}};
    const struct policy policy = {.tenants = tenants, .tenant_count = 2}, none = {0};
    assert_string_equal(provider_customer(&policy, "acme"), "cus_1");
    assert_string_equal(provider_customer(&policy, "globex"), "");
    assert_null(provider_customer(&policy, "initech"));
    assert_null(provider_customer(&none, "acme"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_wire_form),
        cmocka_unit_test(test_each_answer_has_its_meaning),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_what_waits_for_a_person),
        cmocka_unit_test(test_what_ended_ahead_of_the_time_waits_for_it),
        cmocka_unit_test(test_customers_are_looked_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
