/* Reads the two clocks and writes dates without the C library's time zone lock, so that a forked child may log. */
#include "base/clock.h"

#include <time.h>
#ifdef TOLLGATE_TEST_CLOCK
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#endif

#include "base/text.h"

enum { MS_PER_SECOND = 1000, US_PER_SECOND = 1000000, NS_PER_US = 1000, NS_PER_MS = 1000000 };
enum { SECONDS_PER_DAY = 86400, DAYS_PER_ERA = 146097, DAYS_TO_1970 = 719468 };

mono_us clock_mono_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (mono_us) now.tv_sec * US_PER_SECOND + now.tv_nsec / NS_PER_US;
}

mono_ms clock_mono_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (mono_ms) now.tv_sec * MS_PER_SECOND + now.tv_nsec / NS_PER_MS;
}

#ifdef TOLLGATE_TEST_CLOCK
/* Read each time, so that a test can step it; 0 when there is no such file, or no number in it. */
static int64_t offset_ms(void)
{
    const char *path = getenv("TOLLGATE_CLOCK_OFFSET_FILE");
    int error = errno; /* a clock changes none */
    char digits[32] = "";
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, digits, sizeof digits - 1);
    if (fd >= 0)
        close(fd);
    int64_t offset = length > 0 ? strtoll(digits, NULL, 10) : 0;
    errno = error;
    return offset;
}
#else
static int64_t offset_ms(void)
{
    return 0;
}
#endif

wall_ms clock_wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (wall_ms) now.tv_sec * MS_PER_SECOND + now.tv_nsec / NS_PER_MS + offset_ms();
}

struct date {
    unsigned year, month, day;
};

/* Years begin on 1 March here, so that the leap day is a year's last; eras are the 400 years after which the Gregorian
 * calendar repeats. @days since 1970-01-01, not before 0000-03-01. */
static struct date date_of(int64_t days)
{
    uint64_t since_0000 = (uint64_t) (days + DAYS_TO_1970);
    unsigned day_of_era = (unsigned) (since_0000 % DAYS_PER_ERA);
    unsigned year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned march_month = (5 * day_of_year + 2) / 153;
    struct date date = {
        .year = (unsigned) (since_0000 / DAYS_PER_ERA) * 400 + year_of_era,
        .month = march_month < 10 ? march_month + 3 : march_month - 9,
        .day = day_of_year - (153 * march_month + 2) / 5 + 1,
    };
    if (date.month <= 2)
        date.year++;
    return date;
}

const char *clock_text(wall_ms when, char to[CLOCK_TEXT_BYTES])
{
    /* 0001-01-01 and 9999-12-31: RFC 3339 has four digits for the year. */
    static const wall_ms earliest = -62135596800000, latest = 253402300799999;
    if (when < earliest)
        when = earliest;
    if (when > latest)
        when = latest;

    int64_t day_ms = (int64_t) SECONDS_PER_DAY * MS_PER_SECOND;
    int64_t days = when / day_ms - (when % day_ms < 0);
    unsigned rest_ms = (unsigned) (when - days * day_ms);
    unsigned seconds = rest_ms / MS_PER_SECOND;
    struct date date = date_of(days);
    const struct {
        unsigned value, digits;
        const char *after;
    } parts[] = {{date.year, 4, "-"},
                 {date.month, 2, "-"},
                 {date.day, 2, "T"},
                 {seconds / 3600, 2, ":"},
                 {seconds / 60 % 60, 2, ":"},
                 {seconds % 60, 2, "."},
                 {rest_ms % MS_PER_SECOND, 3, "Z"}};
    struct builder builder;
    builder_init(&builder, to, CLOCK_TEXT_BYTES);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        builder_add_int(&builder, parts[i].value, parts[i].digits);
        builder_add_string(&builder, parts[i].after);
    }
    return builder_string(&builder);
}
