/* Single values: what they mean, and all that must not be taken for one. */
#include "tests/lib/unit.h"

#include <string.h>

#include "conf/value.h"

static void integers_are_plain_digits(void **state)
{
    (void) state;
    int64_t number = 77;
    assert_true(value_integer(TEXT("0"), &number) && number == 0);
    assert_true(value_integer(TEXT("-5"), &number) && number == -5);
    assert_true(value_integer(TEXT("9223372036854775807"), &number) && number == INT64_MAX);
    number = 77;
    static const char *const bad[] = {"",
                                      "-",
                                      "+1",
                                      "010",
                                      "00",
                                      "-01",
                                      "0x10",
                                      "0o7",
                                      "1_000",
                                      "1e3",
                                      "1.0",
                                      " 1",
                                      "1 ",
                                      "١",
                                      "1a",
                                      "--1",
                                      "9223372036854775808"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (value_integer(text_of(bad[i]), &number))
            fail_msg("\"%s\" was taken for an integer", bad[i]);
    }
    assert_int_equal(number, 77);
}

static void booleans_are_four_words(void **state)
{
    (void) state;
    int64_t number = 77;
    assert_true(value_boolean(TEXT("yes"), &number) && number == 1);
    assert_true(value_boolean(TEXT("true"), &number) && number == 1);
    assert_true(value_boolean(TEXT("no"), &number) && number == 0);
    assert_true(value_boolean(TEXT("false"), &number) && number == 0);
    static const char *const bad[] = {"", "on", "off", "y", "n", "True", "NO", "1", "0", "yes "};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(value_boolean(text_of(bad[i]), &number));
}

static void durations_have_a_unit(void **state)
{
    (void) state;
    static const struct {
        const char *text;
        int64_t milliseconds;
    } good[] = {{"0s", 0},       {"500ms", 500},    {"30s", 30000},        {"5m", 300000},
                {"1h", 3600000}, {"7d", 604800000}, {"400d", 34560000000}, {"0ms", 0}};
    int64_t number = 0;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(value_duration_ms(text_of(good[i].text), &number));
        assert_int_equal(number, good[i].milliseconds);
    }
    static const char *const bad[] = {"",    "30",   "s",  "-1s", "1.5s", "1h30m", "5 s",
                                      "30S", "030s", "1w", "1us", "+1s",  "1_0s",  "9223372036854775807d"};
    number = 77;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(value_duration_ms(text_of(bad[i]), &number));
    assert_int_equal(number, 77);
    char text[DURATION_TEXT_BYTES];
    assert_string_equal(value_duration_text(90000, text), "90s");
    assert_string_equal(value_duration_text(0, text), "0s");
    assert_string_equal(value_duration_text(86400000, text), "1d");
    assert_string_equal(value_duration_text(1, text), "1ms");
}

static void prices_are_exact(void **state)
{
    (void) state;
    static const struct {
        const char *text;
        int64_t pico;
    } good[] = {{"0", 0},
                {"0.0", 0},
                {"0.10", 100000},
                {"0.546875", 546875},
                {"0.000001", 1},
                {"12", 12000000},
                {"12.3", 12300000},
                {"1000000000", 1000000000000000},
                {"9223372036854.775807", INT64_MAX}};
    int64_t number = 77;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(value_price(text_of(good[i].text), &number));
        assert_int_equal(number, good[i].pico);
    }
    number = 77;
    static const char *const bad[] = {"",
                                      ".",
                                      ".5",
                                      "5.",
                                      "-1",
                                      "-0.5",
                                      "+1",
                                      "1e3",
                                      "1,5",
                                      "0x1",
                                      "1_0",
                                      "00.1",
                                      "1.-5",
                                      "1.5 ",
                                      " 1",
                                      "1..2",
                                      "1.2.3",
                                      "0.1234567",
                                      "0.0000000",
                                      "1.1a",
                                      "EUR 1",
                                      "9223372036854.775808",
                                      "9223372036855",
                                      "99999999999999999999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (value_price(text_of(bad[i]), &number))
            fail_msg("\"%s\" was taken for a price", bad[i]);
    }
    assert_int_equal(number, 77);
}

static void dates_are_rfc_3339_or_a_day(void **state)
{
    (void) state;
    static const struct {
        const char *text;
        wall_ms when;
    } good[] = {
        {"1970-01-01", 0},
        {"1970-01-01T00:00:00Z", 0},
        {"2027-01-01T00:00:00Z", 1798761600000},
        {"2027-01-01t00:00:00z", 1798761600000},
        {"2027-01-01T02:00:00+02:00", 1798761600000},
        {"2026-12-31T23:30:00-00:30", 1798761600000},
        {"2027-01-01T00:00:00.123Z", 1798761600123},
        {"2027-01-01T00:00:00.1239999Z", 1798761600123},
        {"2024-02-29", 1709164800000},
        {"2000-02-29", 951782400000},
        {"2100-03-01", 4107542400000},
        {"9999-12-31T23:59:59Z", 253402300799000},
    };
    wall_ms when = 0;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(value_date(text_of(good[i].text), &when));
        if (when != good[i].when)
            fail_msg("%s is %lld", good[i].text, (long long) when);
    }
    static const char *const bad[] = {"",
                                      "2027",
                                      "2027-1-1",
                                      "2027-13-01",
                                      "2027-00-01",
                                      "2027-02-29",
                                      "2100-02-29",
                                      "2027-04-31",
                                      "2027-01-00",
                                      "1969-12-31",
                                      "2027-01-01T00:00:00",
                                      "2027-01-01T24:00:00Z",
                                      "2027-01-01T00:60:00Z",
                                      "2027-01-01T00:00:00.Z",
                                      "2027-01-01T00:00:00+2",
                                      "2027-01-01T00:00:00ZZ",
                                      "2027-01-01T",
                                      "2027-01-01 ",
                                      "tomorrow"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (value_date(text_of(bad[i]), &when))
            fail_msg("\"%s\" was taken for a date", bad[i]);
    }
}

static void assert_expands(const char *written, enum expand_result wanted, const char *value)
{
    struct arena arena;
    arena_init(&arena, 1024 * 1024);
    struct text got = {0}, name = {0};
    enum expand_result result = value_expand(text_of(written), &arena, &got, &name);
    if (result != wanted)
        fail_msg("%s: result %d", written, (int) result);
    if (wanted == EXPAND_DONE)
        assert_string_equal(got.at, value);
    if (wanted == EXPAND_UNSET)
        assert_true(text_equal(name, text_of(value)));
    arena_finish(&arena);
}

static void variables_are_replaced(void **state)
{
    (void) state;
    setenv("UNIT_SET", "word", 1);
    setenv("UNIT_EMPTY", "", 1);
    setenv("UNIT_NESTED", "${UNIT_SET}", 1);
    unsetenv("UNIT_UNSET");
    assert_expands("plain $ {text} $X", EXPAND_DONE, "plain $ {text} $X");
    assert_expands("${UNIT_SET}", EXPAND_DONE, "word");
    assert_expands("a${UNIT_SET}b${UNIT_SET}c", EXPAND_DONE, "awordbwordc");
    assert_expands("${UNIT_UNSET:-other}", EXPAND_DONE, "other");
    assert_expands("${UNIT_UNSET:-}", EXPAND_DONE, "");
    assert_expands("${UNIT_EMPTY:-other}", EXPAND_DONE, "other");
    assert_expands("${UNIT_EMPTY}", EXPAND_DONE, "");
    assert_expands("${UNIT_SET:-other}", EXPAND_DONE, "word");
    assert_expands("$${UNIT_SET} $$", EXPAND_DONE, "${UNIT_SET} $$");
    assert_expands("${UNIT_NESTED}", EXPAND_DONE, "${UNIT_SET}"); /* never twice */
    assert_expands("${UNIT_UNSET}", EXPAND_UNSET, "UNIT_UNSET");
    static const char *const bad[] = {"${", "${}", "${UNIT_SET", "${1A}", "${A-B}", "${A:b}", "${ A}", "${A:-${B}"};
    for (size_t i = 0; i + 1 < sizeof(bad) / sizeof(bad[0]); i++)
        assert_expands(bad[i], EXPAND_MALFORMED, "");
}

static void a_value_is_bounded(void **state)
{
    (void) state;
    char *large = malloc(VALUE_BYTES_MAX + 1);
    memset(large, 'x', VALUE_BYTES_MAX);
    large[VALUE_BYTES_MAX] = '\0';
    setenv("UNIT_LARGE", large, 1);
    assert_expands("${UNIT_LARGE}", EXPAND_TOO_LONG, "");
    large[VALUE_BYTES_MAX - 1] = '\0';
    setenv("UNIT_LARGE", large, 1);
    assert_expands("${UNIT_LARGE}", EXPAND_DONE, large);
    unsetenv("UNIT_LARGE");
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_plain_digits), cmocka_unit_test(booleans_are_four_words),
        cmocka_unit_test(durations_have_a_unit),     cmocka_unit_test(dates_are_rfc_3339_or_a_day),
        cmocka_unit_test(prices_are_exact),          cmocka_unit_test(variables_are_replaced),
        cmocka_unit_test(a_value_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
