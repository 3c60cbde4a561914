/* One table of series for all families: open addressing, entries only ever added, by compare-and-swap. */
#include "base/metrics.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

enum metric_kind { COUNTER, GAUGE, HISTOGRAM };

/* Upper bounds in microseconds, ended by 0; +Inf is implied. */
enum { BUCKETS_MAX = 24, US_PER_SECOND = 1000000 };
enum bucket_set { NONE, DURATION, OVERHEAD, FIRST_TOKEN, INTER_TOKEN, BUCKET_SET_COUNT };
static const int64_t bucket_bounds_us[BUCKET_SET_COUNT][BUCKETS_MAX] = {
    [NONE] = {0},
    /* OpenTelemetry's GenAI durations, and two doublings more */
    [DURATION] = {10000, 20000, 40000, 80000, 160000, 320000, 640000, 1280000, 2560000, 5120000, 10240000, 20480000,
                  40960000, 81920000, 163840000, 327680000},
    [OVERHEAD] = {50, 100, 200, 300, 500, 750, 1000, 2000, 5000, 10000, 20000, 50000, 100000},
    /* vLLM's own, to compare side by side */
    [FIRST_TOKEN] = {1000,     5000,     10000,    20000,     40000,     60000,     80000,   100000,
                     250000,   500000,   750000,   1000000,   2500000,   5000000,   7500000, 10000000,
                     20000000, 40000000, 80000000, 160000000, 640000000, 2560000000},
    [INTER_TOKEN] = {10000, 25000, 50000, 75000, 100000, 150000, 200000, 300000, 400000, 500000, 750000, 1000000,
                     2500000, 5000000, 7500000, 10000000, 20000000, 40000000, 80000000},
};

struct family {
    enum metric_kind kind;
    enum bucket_set buckets;
    const char *name;
    const char *labels; /* comma-separated */
    const char *help;
};

static const struct family families[METRIC_COUNT] = {
#define X(identifier, kind, name, labels, buckets, help) {kind, buckets, name, labels, help},
#include "base/metrics.def"
#undef X
};

/* Longer label values are cut: they come from the configuration and from our own tables, so none should be. */
enum { LABEL_BYTES_MAX = 128, LABELS_BYTES_MAX = METRIC_LABELS_MAX * LABEL_BYTES_MAX };

/* The label values, each ended by a NUL. */
struct label_values {
    size_t length;
    char bytes[LABELS_BYTES_MAX];
};

struct metric_series {
    enum metric metric;
    struct metric_series *next; /* of the same family; set before it is published */
    _Atomic int64_t value;      /* of a histogram: the sum in microseconds */
    _Atomic int64_t *counts;    /* a histogram's observations per bucket, the last one +Inf */
    const char *values;
    size_t values_length;
};

enum { TABLE_SLOTS = 2 * METRIC_SERIES_MAX };
_Static_assert((TABLE_SLOTS & (TABLE_SLOTS - 1)) == 0, "slots are found by a mask");
static _Atomic(struct metric_series *) table[TABLE_SLOTS];
static atomic_int series_count;

/* The series of each family whose values are all "other", which for a family without labels is its only one. They are
 * here and not in the table, so that they can be had when that is full or memory is. */
static _Atomic int64_t other_counts[METRIC_COUNT][BUCKETS_MAX + 1];
static struct metric_series others[METRIC_COUNT] = {
#define X(identifier, kind, name, labels, buckets, help)                                                               \
    {.metric = METRIC_##identifier, .counts = other_counts[METRIC_##identifier]},
#include "base/metrics.def"
#undef X
};
static atomic_bool other_used[METRIC_COUNT];
/* Per family the newest series of the table. */
static _Atomic(struct metric_series *) newest[METRIC_COUNT];

static size_t label_count(const char *labels)
{
    size_t count = *labels != '\0';
    for (const char *at = labels; *at != '\0'; at++)
        count += *at == ',';
    return count;
}

/* True when all values are "other". */
static bool join_values(enum metric metric, const char *const values[METRIC_LABELS_MAX], struct label_values *ret)
{
    size_t count = label_count(families[metric].labels);
    ENSURE(count <= METRIC_LABELS_MAX);
    bool all_other = true;
    ret->length = 0;
    for (size_t i = 0; i < count; i++) {
        struct text value = text_of(values[i]);
        all_other &= text_equal(value, TEXT("other"));
        ret->length += text_copy(ret->bytes + ret->length, LABEL_BYTES_MAX, value) + 1;
    }
    return all_other;
}

static struct metric_series *other_series(enum metric metric)
{
    atomic_store_explicit(&other_used[metric], true, memory_order_relaxed);
    return &others[metric];
}

/* FNV-1a */
static uint64_t hash_of(enum metric metric, const struct label_values *values)
{
    uint64_t hash = 14695981039346656037u ^ (uint64_t) metric;
    for (size_t i = 0; i < values->length; i++)
        hash = (hash ^ (unsigned char) values->bytes[i]) * 1099511628211u;
    return hash ^ hash >> 32;
}

static bool is_series(const struct metric_series *series, enum metric metric, const struct label_values *values)
{
    return series->metric == metric && series->values_length == values->length &&
           memcmp(series->values, values->bytes, values->length) == 0;
}

/* One piece of memory: the series, its counts, its label values. */
static struct metric_series *series_create(enum metric metric, const struct label_values *values)
{
    size_t counts = families[metric].kind == HISTOGRAM ? BUCKETS_MAX + 1 : 0;
    size_t counts_bytes = counts * sizeof(_Atomic int64_t);
    struct metric_series *series = calloc(1, sizeof(*series) + counts_bytes + values->length);
    if (series == NULL)
        return NULL;
    series->metric = metric;
    series->counts = (_Atomic int64_t *) (series + 1);
    char *copy = (char *) (series + 1) + counts_bytes;
    memcpy(copy, values->bytes, values->length);
    series->values = copy;
    series->values_length = values->length;
    return series;
}

static void link_to_family(struct metric_series *series)
{
    struct metric_series *head = atomic_load_explicit(&newest[series->metric], memory_order_relaxed);
    do {
        series->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&newest[series->metric], &head, series, memory_order_release,
                                                    memory_order_relaxed));
}

/* The series of @values from @slot on; or NULL, and @slot is the first free place found. */
static struct metric_series *find_from(size_t *slot, enum metric metric, const struct label_values *values)
{
    for (;; *slot = (*slot + 1) & (TABLE_SLOTS - 1)) {
        struct metric_series *series = atomic_load_explicit(&table[*slot], memory_order_acquire);
        if (series == NULL || is_series(series, metric, values))
            return series;
    }
}

/* @slot was free; another thread may have filled it with this series or any other. NULL when there is no room. */
static struct metric_series *add_from(size_t slot, enum metric metric, const struct label_values *values)
{
    if (atomic_fetch_add(&series_count, 1) >= METRIC_SERIES_MAX)
        goto err_after_count;
    struct metric_series *series = series_create(metric, values);
    if (series == NULL)
        goto err_after_count;
    struct metric_series *found = NULL;
    while (!atomic_compare_exchange_strong(&table[slot], &found, series)) {
        found = find_from(&slot, metric, values);
        if (found == NULL)
            continue;
        free(series);
        atomic_fetch_sub(&series_count, 1);
        return found;
    }
    link_to_family(series);
    return series;

err_after_count:
    atomic_fetch_sub(&series_count, 1);
    return NULL;
}

struct metric_series *metric_series(enum metric metric, const char *const values[METRIC_LABELS_MAX])
{
    ENSURE(metric < METRIC_COUNT);
    struct label_values joined;
    if (join_values(metric, values, &joined))
        return other_series(metric);
    size_t slot = hash_of(metric, &joined) & (TABLE_SLOTS - 1);
    struct metric_series *series = find_from(&slot, metric, &joined);
    if (series == NULL)
        series = add_from(slot, metric, &joined);
    return series != NULL ? series : other_series(metric);
}

void metric_add(struct metric_series *series, int64_t by)
{
    enum metric_kind kind = families[series->metric].kind;
    ENSURE(kind == GAUGE || (kind == COUNTER && by >= 0));
    atomic_fetch_add_explicit(&series->value, by, memory_order_relaxed);
}

void metric_set(struct metric_series *series, int64_t value)
{
    ENSURE(families[series->metric].kind == GAUGE);
    atomic_store_explicit(&series->value, value, memory_order_relaxed);
}

int64_t metric_value(const struct metric_series *series)
{
    return atomic_load_explicit(&series->value, memory_order_relaxed);
}

void metric_observe_us(struct metric_series *series, int64_t microseconds)
{
    const struct family *family = &families[series->metric];
    ENSURE(family->kind == HISTOGRAM);
    if (microseconds < 0)
        microseconds = 0;
    const int64_t *bounds_us = bucket_bounds_us[family->buckets];
    size_t bucket = 0;
    while (bounds_us[bucket] != 0 && microseconds > bounds_us[bucket])
        bucket++;
    atomic_fetch_add_explicit(&series->counts[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&series->value, microseconds, memory_order_relaxed);
}

void metric_count(enum metric metric, const char *first, const char *second)
{
    metric_add(metric_series(metric, (const char *const[METRIC_LABELS_MAX]){first, second}), 1);
}

/* The text form */

/* Each byte of a value may become three: U+FFFD. */
enum { LABELS_TEXT_BYTES_MAX = 3 * LABELS_BYTES_MAX + METRIC_LABELS_MAX * 64 };

/* The server refuses a whole scrape for one byte that is no UTF-8. */
static void add_escaped(struct builder *to, struct text value)
{
    while (value.length > 0) {
        size_t length = text_utf8_length(value);
        char first = value.at[0];
        if (length == 0)
            builder_add(to, TEXT("\xef\xbf\xbd"));
        else if (first == '\n')
            builder_add(to, TEXT("\\n"));
        else if (first == '"' || first == '\\')
            builder_format(to, "\\%c", first);
        else
            builder_add(to, (struct text){value.at, length});
        size_t passed = length > 0 ? length : 1;
        value = (struct text){value.at + passed, value.length - passed};
    }
}

/* name="value",name="value" */
static void add_labels(struct builder *to, const struct metric_series *series)
{
    const char *value = series->values;
    const char *name = families[series->metric].labels;
    bool is_other = series == &others[series->metric];
    while (*name != '\0') {
        size_t length = strcspn(name, ",");
        builder_add(to, (struct text){name, length});
        builder_add(to, TEXT("=\""));
        add_escaped(to, is_other ? TEXT("other") : text_of(value));
        builder_add(to, TEXT("\""));
        if (!is_other)
            value += strlen(value) + 1;
        name += length;
        if (*name == ',') {
            builder_add(to, TEXT(","));
            name++;
        }
    }
    ENSURE(!to->overflowed);
}

/* Exactly, without trailing zeros. */
static void add_seconds(struct builder *to, int64_t microseconds)
{
    int64_t rest_us = microseconds % US_PER_SECOND;
    int digits = 6;
    for (; digits > 0 && rest_us % 10 == 0; digits--)
        rest_us /= 10;
    builder_format(to, "%" PRId64, microseconds / US_PER_SECOND);
    if (digits > 0)
        builder_format(to, ".%0*" PRId64, digits, rest_us);
}

static bool write_bucket(struct buffer *to, const char *name, const char *labels, int64_t bound_us, int64_t count)
{
    char memory[32];
    struct builder bound;
    builder_init(&bound, memory, sizeof(memory));
    if (bound_us != 0)
        add_seconds(&bound, bound_us);
    else
        builder_add(&bound, TEXT("+Inf"));
    return buffer_format(to, "%s_bucket{%s%sle=\"%s\"} %" PRId64 "\n", name, labels, *labels != '\0' ? "," : "",
                         builder_string(&bound), count);
}

static bool write_plain(struct buffer *to, const char *name, const char *suffix, const char *labels, const char *value)
{
    if (*labels == '\0')
        return buffer_format(to, "%s%s %s\n", name, suffix, value);
    return buffer_format(to, "%s%s{%s} %s\n", name, suffix, labels, value);
}

static bool write_integer(struct buffer *to, const char *name, const char *suffix, const char *labels, int64_t value)
{
    char memory[24];
    struct builder digits;
    builder_init(&digits, memory, sizeof(memory));
    builder_format(&digits, "%" PRId64, value);
    return write_plain(to, name, suffix, labels, builder_string(&digits));
}

static bool write_histogram(struct buffer *to, const struct metric_series *series, const char *labels)
{
    const struct family *family = &families[series->metric];
    const int64_t *bounds_us = bucket_bounds_us[family->buckets];
    int64_t count = 0;
    size_t bucket = 0;
    bool last = false;
    while (!last) {
        last = bounds_us[bucket] == 0;
        count += atomic_load_explicit(&series->counts[bucket], memory_order_relaxed);
        if (!write_bucket(to, family->name, labels, bounds_us[bucket], count))
            return false;
        bucket++;
    }
    char memory[48];
    struct builder sum;
    builder_init(&sum, memory, sizeof(memory));
    add_seconds(&sum, metric_value(series));
    return write_plain(to, family->name, "_sum", labels, builder_string(&sum)) &&
           write_integer(to, family->name, "_count", labels, count);
}

static bool write_series(struct buffer *to, const struct metric_series *series)
{
    const struct family *family = &families[series->metric];
    char memory[LABELS_TEXT_BYTES_MAX];
    struct builder labels;
    builder_init(&labels, memory, sizeof(memory));
    add_labels(&labels, series);
    if (family->kind == HISTOGRAM)
        return write_histogram(to, series, builder_string(&labels));
    return write_integer(to, family->name, "", builder_string(&labels), metric_value(series));
}

static bool write_head(struct buffer *to, const struct family *family)
{
    static const char *const kinds[] = {[COUNTER] = "counter", [GAUGE] = "gauge", [HISTOGRAM] = "histogram"};
    return buffer_format(to, "# HELP %s %s\n# TYPE %s %s\n", family->name, family->help, family->name,
                         kinds[family->kind]);
}

bool metrics_write(struct buffer *to)
{
    for (size_t metric = 0; metric < METRIC_COUNT; metric++) {
        const struct metric_series *series = atomic_load_explicit(&newest[metric], memory_order_acquire);
        bool other = atomic_load_explicit(&other_used[metric], memory_order_relaxed);
        if (series == NULL && !other)
            continue;
        if (!write_head(to, &families[metric]))
            return false;
        if (other && !write_series(to, &others[metric]))
            return false;
        for (; series != NULL; series = series->next) {
            if (!write_series(to, series))
                return false;
        }
    }
    return true;
}
