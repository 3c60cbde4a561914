#include "base/clock.h"

#include <string.h>
#include <time.h>

#include "tests/lib/unit.h"

static void dates_are_rfc_3339(void **state)
{
    (void) state;
    char text[CLOCK_TEXT_BYTES];
    assert_string_equal(clock_text(1795366119123, text), "2026-11-22T16:48:39.123Z");
    assert_string_equal(clock_text(0, text), "1970-01-01T00:00:00.000Z");
    assert_string_equal(clock_text(-1, text), "1969-12-31T23:59:59.999Z");
    assert_string_equal(clock_text(951782400000, text), "2000-02-29T00:00:00.000Z");
    assert_string_equal(clock_text(4107542399999, text), "2100-02-28T23:59:59.999Z");
    assert_string_equal(clock_text(4107542400000, text), "2100-03-01T00:00:00.000Z");
}

/* What four digits cannot say is cut to the nearest date that they can. */
static void dates_stay_within_four_digits(void **state)
{
    (void) state;
    char text[CLOCK_TEXT_BYTES];
    assert_string_equal(clock_text(INT64_MIN, text), "0001-01-01T00:00:00.000Z");
    assert_string_equal(clock_text(INT64_MAX, text), "9999-12-31T23:59:59.999Z");
}

static void dates_agree_with_the_c_library(void **state)
{
    (void) state;
    for (int i = 0; i < 200000; i++) {
        int64_t span_ms = 253402300799999 + 62135596800000;
        wall_ms when = (wall_ms) (unit_random() % (uint64_t) span_ms) - 62135596800000;
        time_t seconds = (time_t) (when >= 0 ? when / 1000 : -((-when + 999) / 1000));
        struct tm parts;
        assert_non_null(gmtime_r(&seconds, &parts));
        char expected[64], text[CLOCK_TEXT_BYTES];
        snprintf(expected, sizeof(expected), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", parts.tm_year + 1900,
                 parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                 (int) (when - (int64_t) seconds * 1000));
        assert_string_equal(clock_text(when, text), expected);
    }
}

static void the_monotonic_clock_does_not_step_back(void **state)
{
    (void) state;
    mono_us before_us = clock_mono_us();
    for (int i = 0; i < 10000; i++) {
        mono_us now_us = clock_mono_us();
        assert_true(now_us >= before_us);
        before_us = now_us;
    }
    assert_true(clock_mono_ms() >= before_us / 1000);
}

static void the_wall_clock_is_in_milliseconds(void **state)
{
    (void) state;
    time_t before = time(NULL);
    wall_ms now = clock_wall_ms();
    assert_in_range((uint64_t) (now / 1000), (uint64_t) before - 2, (uint64_t) before + 60);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dates_are_rfc_3339),
        cmocka_unit_test(dates_stay_within_four_digits),
        cmocka_unit_test(dates_agree_with_the_c_library),
        cmocka_unit_test(the_monotonic_clock_does_not_step_back),
        cmocka_unit_test(the_wall_clock_is_in_milliseconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
