/* The meaning of single values, strictly: what a reader could take for something else is refused. */
#include "conf/value.h"

#include <stdlib.h>
#include <string.h>

enum { VARIABLE_NAME_BYTES_MAX = 255, PRICE_DECIMALS_MAX = 6 };

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_character(char c, bool first)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || (!first && is_digit(c));
}

static struct text text_from(struct text whole, size_t start)
{
    return (struct text){whole.at + start, whole.length - start};
}

/* One "${…}" at the start of @rest. */
struct variable {
    struct text name;
    bool has_default;
    struct text fallback;
    size_t length; /* of all of it */
};

static bool parse_variable(struct text rest, struct variable *ret)
{
    const char *end = memchr(rest.at, '}', rest.length);
    if (end == NULL)
        return false;
    struct text inner = {rest.at + 2, (size_t) (end - rest.at) - 2};
    size_t length = 0;
    while (length < inner.length && is_name_character(inner.at[length], length == 0))
        length++;
    if (length == 0 || length > VARIABLE_NAME_BYTES_MAX)
        return false;
    struct text behind = text_from(inner, length);
    bool has_default = text_starts_with(behind, TEXT(":-"));
    if (behind.length > 0 && !has_default)
        return false;
    *ret = (struct variable){.name = {inner.at, length},
                             .has_default = has_default,
                             .fallback = has_default ? text_from(behind, 2) : behind,
                             .length = inner.length + 3};
    return true;
}

/* NULL when unset; empty counts as unset where there is a default, as in a shell. */
static const char *variable_value(const struct variable *variable)
{
    char name[VARIABLE_NAME_BYTES_MAX + 1];
    text_copy(name, sizeof(name), variable->name);
    const char *value = getenv(name);
    return value != NULL && value[0] == '\0' && variable->has_default ? NULL : value;
}

bool value_has_variable(struct text written)
{
    return written.length >= 2 && memmem(written.at, written.length, "${", 2) != NULL;
}

static enum expand_result expand_into(struct text written, struct builder *to, struct text *ret_name)
{
    for (size_t at = 0; at < written.length;) {
        struct text rest = text_from(written, at);
        struct variable variable;
        if (text_starts_with(rest, TEXT("$${"))) {
            builder_add_string(to, "${");
            at += 3;
        } else if (!text_starts_with(rest, TEXT("${"))) {
            builder_add(to, (struct text){rest.at, 1});
            at++;
        } else if (!parse_variable(rest, &variable)) {
            return EXPAND_MALFORMED;
        } else {
            const char *value = variable_value(&variable);
            if (value == NULL && !variable.has_default) {
                *ret_name = variable.name;
                return EXPAND_UNSET;
            }
            builder_add(to, value != NULL ? text_of(value) : variable.fallback);
            at += variable.length;
        }
    }
    return to->overflowed ? EXPAND_TOO_LONG : EXPAND_DONE;
}

enum expand_result value_expand(struct text written, struct arena *arena, struct text *ret, struct text *ret_name)
{
    if (!value_has_variable(written)) {
        *ret = arena_copy(arena, written);
        return ret->at != NULL ? EXPAND_DONE : EXPAND_TOO_LONG;
    }
    char *memory = malloc(VALUE_BYTES_MAX);
    if (memory == NULL)
        return EXPAND_TOO_LONG;
    struct builder to;
    builder_init(&to, memory, VALUE_BYTES_MAX);
    enum expand_result result = expand_into(written, &to, ret_name);
    if (result == EXPAND_DONE) {
        *ret = arena_copy(arena, builder_text(&to));
        if (ret->at == NULL)
            result = EXPAND_TOO_LONG;
    }
    explicit_bzero(memory, VALUE_BYTES_MAX);
    free(memory);
    return result;
}

bool value_integer(struct text text, int64_t *ret)
{
    size_t sign = text.length > 0 && text.at[0] == '-';
    bool leading_zero = text.length > sign + 1 && text.at[sign] == '0';
    return !leading_zero && text_to_int64(text, ret);
}

bool value_boolean(struct text text, int64_t *ret)
{
    bool yes = text_equal(text, TEXT("true")) || text_equal(text, TEXT("yes"));
    if (!yes && !text_equal(text, TEXT("false")) && !text_equal(text, TEXT("no")))
        return false;
    *ret = yes;
    return true;
}

static const struct {
    const char *suffix;
    int64_t milliseconds;
} UNITS[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};
enum { UNIT_COUNT = sizeof(UNITS) / sizeof(UNITS[0]) };

bool value_duration_ms(struct text text, int64_t *ret)
{
    size_t digits = 0;
    while (digits < text.length && is_digit(text.at[digits]))
        digits++;
    int64_t number;
    if (!value_integer((struct text){text.at, digits}, &number))
        return false;
    for (size_t i = 0; i < UNIT_COUNT; i++) {
        if (!text_equal(text_from(text, digits), text_of(UNITS[i].suffix)))
            continue;
        if (__builtin_mul_overflow(number, UNITS[i].milliseconds, &number))
            return false;
        *ret = number;
        return true;
    }
    return false;
}

const char *value_duration_text(int64_t milliseconds, char to[DURATION_TEXT_BYTES])
{
    size_t unit = 0;
    while (unit + 1 < UNIT_COUNT && (milliseconds == 0 || milliseconds % UNITS[unit].milliseconds != 0))
        unit++;
    if (milliseconds == 0)
        unit = UNIT_COUNT - 2;
    struct builder builder;
    builder_init(&builder, to, DURATION_TEXT_BYTES);
    builder_format(&builder, "%lld%s", (long long) (milliseconds / UNITS[unit].milliseconds), UNITS[unit].suffix);
    return builder_string(&builder);
}

bool value_price(struct text text, int64_t *ret)
{
    const char *point = text.length > 0 ? memchr(text.at, '.', text.length) : NULL;
    struct text whole = {text.at, point != NULL ? (size_t) (point - text.at) : text.length};
    int64_t units, millionths = 0;
    if (whole.length == 0 || !is_digit(whole.at[0]) || !value_integer(whole, &units) ||
        __builtin_mul_overflow(units, PRICE_PICO_PER_UNIT, &units))
        return false;
    if (point != NULL) {
        struct text decimals = text_from(text, whole.length + 1);
        if (decimals.length == 0 || decimals.length > PRICE_DECIMALS_MAX)
            return false;
        for (size_t i = 0; i < PRICE_DECIMALS_MAX; i++) {
            char c = i < decimals.length ? decimals.at[i] : '0';
            if (!is_digit(c))
                return false;
            millionths = millionths * 10 + (c - '0');
        }
    }
    if (__builtin_add_overflow(units, millionths, &units))
        return false;
    *ret = units;
    return true;
}

/* A run of exactly @digits digits at *@at; moves behind it. */
static bool take_number(struct text text, size_t *at, size_t digits, int *ret)
{
    if (text.length < *at + digits)
        return false;
    int value = 0;
    for (size_t i = 0; i < digits; i++) {
        char c = text.at[*at + i];
        if (!is_digit(c))
            return false;
        value = value * 10 + (c - '0');
    }
    *at += digits;
    *ret = value;
    return true;
}

static bool take_character(struct text text, size_t *at, const char *any_of)
{
    if (*at >= text.length || text.at[*at] == '\0' || strchr(any_of, text.at[*at]) == NULL)
        return false;
    ++*at;
    return true;
}

/* Days since 1970-01-01 of a day in the Gregorian calendar. */
static int64_t days_of(int year, int month, int day)
{
    static const int before_month[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t leap_base = month > 2 ? year : year - 1;
    int64_t leap_days = leap_base / 4 - leap_base / 100 + leap_base / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    return (int64_t) (year - 1970) * 365 + leap_days + before_month[month - 1] + day - 1;
}

static bool take_day(struct text text, size_t *at, int64_t *ret_days)
{
    static const int length[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year, month, day;
    if (!take_number(text, at, 4, &year) || !take_character(text, at, "-") || !take_number(text, at, 2, &month) ||
        !take_character(text, at, "-") || !take_number(text, at, 2, &day))
        return false;
    if (year < 1970 || month < 1 || month > 12)
        return false;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (day < 1 || day > length[month - 1] + (leap && month == 2))
        return false;
    *ret_days = days_of(year, month, day);
    return true;
}

static bool take_time(struct text text, size_t *at, int64_t *ret_ms)
{
    int hour, minute, second, milliseconds = 0;
    if (!take_number(text, at, 2, &hour) || !take_character(text, at, ":") || !take_number(text, at, 2, &minute) ||
        !take_character(text, at, ":") || !take_number(text, at, 2, &second))
        return false;
    if (hour > 23 || minute > 59 || second > 60)
        return false;
    if (take_character(text, at, ".")) {
        size_t start = *at;
        int digit;
        for (int scale = 100; take_number(text, at, 1, &digit); scale /= 10)
            milliseconds += digit * scale;
        if (*at == start)
            return false;
    }
    *ret_ms = ((hour * 60LL + minute) * 60 + second) * 1000 + milliseconds;
    return true;
}

static bool take_offset(struct text text, size_t *at, int64_t *ret_ms)
{
    *ret_ms = 0;
    if (take_character(text, at, "Zz"))
        return true;
    bool west = *at < text.length && text.at[*at] == '-';
    int hours, minutes;
    if (!take_character(text, at, "+-") || !take_number(text, at, 2, &hours) || !take_character(text, at, ":") ||
        !take_number(text, at, 2, &minutes) || hours > 23 || minutes > 59)
        return false;
    *ret_ms = (hours * 60LL + minutes) * 60000 * (west ? -1 : 1);
    return true;
}

bool value_date(struct text text, wall_ms *ret)
{
    size_t at = 0;
    int64_t days, time_ms = 0, offset_ms = 0;
    if (!take_day(text, &at, &days))
        return false;
    if (at < text.length &&
        (!take_character(text, &at, "Tt ") || !take_time(text, &at, &time_ms) || !take_offset(text, &at, &offset_ms)))
        return false;
    if (at != text.length)
        return false;
    *ret = days * 86400000 + time_ms - offset_ms;
    return true;
}
