/* Headers and sentences as OpenAI's clients know them. */
#include "ratelimit/answer.h"

#include <string.h>

#include "tests/lib/unit.h"

static const struct limit_subject SUBJECT = {"acme", "ci", "alice", "gemma-3-270m"};

static void durations_are_go_s_rounded_up_to_milliseconds(void **state)
{
    (void) state;
    static const struct {
        int64_t microseconds;
        const char *text;
    } ROWS[] = {{0, "0s"},
                {-1, "0s"},
                {INT64_MIN, "0s"},
                {1, "1ms"},
                {1000, "1ms"},
                {1001, "2ms"},
                {12000, "12ms"},
                {999000, "999ms"},
                {999001, "1s"},
                {1000000, "1s"},
                {1500000, "1.5s"},
                {1050000, "1.05s"},
                {18642000, "18.642s"},
                {59999999, "1m0s"},
                {60000000, "1m0s"},
                {360000000, "6m0s"},
                {INT64_C(3600000000), "1h0m0s"},
                {INT64_C(3661001000), "1h1m1.001s"},
                {INT64_C(86400000000), "24h0m0s"},
                {INT64_MAX, "2562047788h0m54.776s"}};
    for (size_t row = 0; row < sizeof ROWS / sizeof ROWS[0]; row++) {
        char text[LIMIT_HEADER_BYTES];
        limit_duration(ROWS[row].microseconds, text);
        assert_string_equal(text, ROWS[row].text);
    }
}

static void headers_only_of_kinds_that_are_limited(void **state)
{
    (void) state;
    struct limit_answer answer = {.verdict = LIMIT_ADMITTED};
    struct limit_headers headers;
    limit_headers_fill(&answer, &headers);
    assert_int_equal(headers.count, 0);
    answer.nearest[LIMIT_TOKENS] =
        (struct limit_view){.present = true, .limit = 30000, .remaining = 29000, .reset_us = 2000000};
    limit_headers_fill(&answer, &headers);
    assert_int_equal(headers.count, 3);
    assert_string_equal(headers.rows[0].name, "x-ratelimit-limit-tokens");
    assert_string_equal(headers.rows[0].value, "30000");
    assert_string_equal(headers.rows[1].name, "x-ratelimit-remaining-tokens");
    assert_string_equal(headers.rows[1].value, "29000");
    assert_string_equal(headers.rows[2].name, "x-ratelimit-reset-tokens");
    assert_string_equal(headers.rows[2].value, "2s");
}

static void headers_of_all_kinds_fit(void **state)
{
    (void) state;
    struct limit_answer answer = {.verdict = LIMIT_ADMITTED};
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++)
        answer.nearest[kind] =
            (struct limit_view){.present = true, .limit = INT64_MAX, .remaining = INT64_MAX, .reset_us = INT64_MAX};
    struct limit_headers headers;
    limit_headers_fill(&answer, &headers);
    assert_int_equal(headers.count, 8);
    static const char *const NAMES[] = {"x-ratelimit-limit-requests",   "x-ratelimit-remaining-requests",
                                        "x-ratelimit-reset-requests",   "x-ratelimit-limit-tokens",
                                        "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
                                        "x-ratelimit-limit-seats",      "x-ratelimit-remaining-seats"};
    for (size_t row = 0; row < headers.count; row++) {
        assert_string_equal(headers.rows[row].name, NAMES[row]);
        assert_string_equal(headers.rows[row].value,
                            row == 2 || row == 5 ? "2562047788h0m54.776s" : "9223372036854775807");
    }
}

static void refusal_says_which_limit_what_is_used_and_when_to_come_back(void **state)
{
    (void) state;
    struct limit_answer answer = {.verdict = LIMIT_REFUSED,
                                  .kind = LIMIT_TOKENS,
                                  .scope = SCOPE_KEY,
                                  .limit = 30000,
                                  .capacity = 30000,
                                  .used = 14567,
                                  .requested = 24754,
                                  .retry_after_ms = 18642};
    char message[LIMIT_MESSAGE_BYTES];
    limit_message(&answer, &SUBJECT, message);
    assert_string_equal(message, "Rate limit reached for gemma-3-270m by key acme/ci on tokens per min (TPM): "
                                 "Limit 30000, Used 14567, Requested 24754. Please try again in 18.642s.");
    static const struct {
        enum limit_scope scope;
        const char *who;
    } ROWS[] = {{SCOPE_USER, " gemma-3-270m by user acme/user/alice on concurrent requests: "},
                {SCOPE_TENANT, " gemma-3-270m by tenant acme on concurrent requests: "},
                {SCOPE_MODEL, " for model gemma-3-270m on concurrent requests: "},
                {SCOPE_TENANT_MODEL, " for tenant and model acme/gemma-3-270m on concurrent requests: "}};
    answer.kind = LIMIT_SEATS;
    for (size_t row = 0; row < sizeof ROWS / sizeof ROWS[0]; row++) {
        answer.scope = ROWS[row].scope;
        limit_message(&answer, &SUBJECT, message);
        assert_non_null(strstr(message, ROWS[row].who));
    }
    answer.kind = LIMIT_REQUESTS;
    answer.capacity = 10;
    limit_message(&answer, &SUBJECT, message);
    assert_non_null(strstr(message, " on requests per min (RPM): Limit 30000 (at once 10), Used "));
}

static void too_large_says_so_and_no_time(void **state)
{
    (void) state;
    const struct limit_answer answer = {.verdict = LIMIT_TOO_LARGE,
                                        .kind = LIMIT_TOKENS,
                                        .scope = SCOPE_MODEL,
                                        .limit = 30000,
                                        .capacity = 30000,
                                        .requested = 30601};
    char message[LIMIT_MESSAGE_BYTES];
    limit_message(&answer, &SUBJECT, message);
    assert_string_equal(message, "Request too large for model gemma-3-270m on tokens per min (TPM): Limit 30000, "
                                 "Requested 30601. The input or output tokens must be reduced.");
}

/* Names of any length leave the figures readable, and are never cut inside a character. */
static void long_names_do_not_push_the_figures_out(void **state)
{
    (void) state;
    char name[1000] = "x";
    for (size_t at = 1; at + 2 < sizeof name; at += 2)
        memcpy(name + at, "\xc3\xa4", 3);
    for (size_t from = 0; from < 2; from++) { /* cut before a character, and in the middle of one */
        const struct limit_subject subject = {name + from, name + from, name + from, name + from};
        for (int scope = 0; scope < LIMIT_SCOPE_COUNT; scope++) {
            const struct limit_answer answer = {.verdict = LIMIT_REFUSED,
                                                .kind = LIMIT_TOKENS,
                                                .scope = (enum limit_scope) scope,
                                                .limit = INT64_MAX,
                                                .capacity = 999999999999,
                                                .used = INT64_MAX,
                                                .requested = INT64_MAX,
                                                .retry_after_ms = 60000000000};
            char message[LIMIT_MESSAGE_BYTES];
            limit_message(&answer, &subject, message);
            assert_non_null(strstr(message, "...")); /* cut, and said so */
            assert_non_null(strstr(message, " Please try again in 16666h40m0s."));
            for (struct text rest = text_of(message); rest.length > 0;) {
                size_t length = text_utf8_length(rest);
                assert_true(length > 0);
                rest.at += length;
                rest.length -= length;
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_are_go_s_rounded_up_to_milliseconds),
        cmocka_unit_test(headers_only_of_kinds_that_are_limited),
        cmocka_unit_test(headers_of_all_kinds_fit),
        cmocka_unit_test(refusal_says_which_limit_what_is_used_and_when_to_come_back),
        cmocka_unit_test(too_large_says_so_and_no_time),
        cmocka_unit_test(long_names_do_not_push_the_figures_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
