/* What OpenAI's clients read: Go durations in headers, and a sentence with the figures. */
#include "ratelimit/answer.h"

static const int64_t MILLISECONDS_PER_HOUR = 3600000;
static const int64_t MILLISECONDS_PER_MINUTE = 60000;

/* "18.642s", "4s", "0s" */
static void add_seconds(struct builder *to, int64_t milliseconds)
{
    builder_add_int(to, milliseconds / 1000, 1);
    int64_t fraction = milliseconds % 1000;
    int digits = 3;
    for (; digits > 0 && fraction % 10 == 0; digits--)
        fraction /= 10;
    if (digits > 0) {
        builder_add_string(to, ".");
        builder_add_int(to, fraction, (unsigned) digits);
    }
    builder_add_string(to, "s");
}

static void add_with(struct builder *to, int64_t count, const char *unit)
{
    builder_add_int(to, count, 1);
    builder_add_string(to, unit);
}

static void add_duration(struct builder *to, int64_t milliseconds)
{
    if (milliseconds > 0 && milliseconds < 1000) {
        add_with(to, milliseconds, "ms");
        return;
    }
    int64_t hours = milliseconds / MILLISECONDS_PER_HOUR;
    int64_t minutes = milliseconds % MILLISECONDS_PER_HOUR / MILLISECONDS_PER_MINUTE;
    if (hours > 0)
        add_with(to, hours, "h");
    if (hours > 0 || minutes > 0)
        add_with(to, minutes, "m");
    add_seconds(to, milliseconds % MILLISECONDS_PER_MINUTE);
}

void limit_duration(int64_t microseconds, char to[LIMIT_HEADER_BYTES])
{
    struct builder text;
    builder_init(&text, to, LIMIT_HEADER_BYTES);
    add_duration(&text, microseconds > 0 ? microseconds / 1000 + (microseconds % 1000 > 0) : 0);
    builder_string(&text);
}

static char *header_add(struct limit_headers *headers, const char *name)
{
    headers->rows[headers->count].name = name;
    return headers->rows[headers->count++].value;
}

static void header_add_count(struct limit_headers *headers, const char *name, int64_t count)
{
    struct builder text;
    builder_init(&text, header_add(headers, name), LIMIT_HEADER_BYTES);
    builder_add_int(&text, count, 1);
    builder_string(&text);
}

static const struct {
    const char *limit;
    const char *remaining;
    const char *reset; /* or NULL */
} HEADER_NAMES[LIMIT_KIND_COUNT] = {
    [LIMIT_REQUESTS] = {"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"},
    [LIMIT_TOKENS] = {"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"},
    [LIMIT_SEATS] = {"x-ratelimit-limit-seats", "x-ratelimit-remaining-seats", NULL},
};

void limit_headers_fill(const struct limit_answer *answer, struct limit_headers *ret)
{
    ret->count = 0;
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
        const struct limit_view *view = &answer->nearest[kind];
        if (!view->present)
            continue;
        header_add_count(ret, HEADER_NAMES[kind].limit, view->limit);
        header_add_count(ret, HEADER_NAMES[kind].remaining, view->remaining);
        if (HEADER_NAMES[kind].reset != NULL)
            limit_duration(view->reset_us, header_add(ret, HEADER_NAMES[kind].reset));
    }
}

static const char *const MEASURES[LIMIT_KIND_COUNT] = {[LIMIT_REQUESTS] = "requests per min (RPM)",
                                                       [LIMIT_TOKENS] = "tokens per min (TPM)",
                                                       [LIMIT_SEATS] = "concurrent requests"};

enum { NAME_BYTES_SHOWN = 48 };

/* A name from outside, kept short so that the figures behind it always fit. */
static void add_name(struct builder *to, const char *name)
{
    char shown[NAME_BYTES_SHOWN + 1];
    struct text whole = text_of(name);
    size_t length = text_copy(shown, sizeof shown, whole);
    /* Never half a character. */
    while (length < whole.length && length > 0 && ((unsigned char) whole.at[length] & 0xc0) == 0x80)
        shown[--length] = '\0';
    builder_add_string(to, shown);
    if (length < whole.length)
        builder_add_string(to, "...");
}

static void add_scope(struct builder *to, enum limit_scope scope, const struct limit_subject *subject)
{
    builder_add_string(to, LIMIT_SCOPE_NAMES[scope]);
    builder_add_string(to, " ");
    add_name(to, scope == SCOPE_MODEL ? subject->model : subject->tenant);
    if (scope == SCOPE_MODEL || scope == SCOPE_TENANT)
        return;
    builder_add_string(to, scope == SCOPE_USER ? "/user/" : "/");
    add_name(to, scope == SCOPE_KEY ? subject->key : scope == SCOPE_USER ? subject->user : subject->model);
}

static void add_counted(struct builder *to, const char *before, int64_t count)
{
    builder_add_string(to, before);
    builder_add_int(to, count, 1);
}

static void add_limit(struct builder *to, const struct limit_answer *answer)
{
    add_counted(to, ": Limit ", answer->limit);
    if (answer->capacity != answer->limit) {
        add_counted(to, " (at once ", answer->capacity);
        builder_add_string(to, ")");
    }
}

void limit_message(const struct limit_answer *answer, const struct limit_subject *subject, char to[LIMIT_MESSAGE_BYTES])
{
    bool too_large = answer->verdict == LIMIT_TOO_LARGE;
    struct builder text;
    builder_init(&text, to, LIMIT_MESSAGE_BYTES);
    builder_add_string(&text, too_large ? "Request too large for " : "Rate limit reached for ");
    if (answer->scope != SCOPE_MODEL && answer->scope != SCOPE_TENANT_MODEL) {
        add_name(&text, subject->model);
        builder_add_string(&text, " by ");
    }
    add_scope(&text, answer->scope, subject);
    builder_add_string(&text, " on ");
    builder_add_string(&text, MEASURES[answer->kind]);
    add_limit(&text, answer);
    if (too_large) {
        add_counted(&text, ", Requested ", answer->requested);
        builder_add_string(&text, ". The input or output tokens must be reduced.");
    } else {
        add_counted(&text, ", Used ", answer->used);
        add_counted(&text, ", Requested ", answer->requested);
        builder_add_string(&text, ". Please try again in ");
        add_duration(&text, answer->retry_after_ms);
        builder_add_string(&text, ".");
    }
    builder_string(&text);
}
