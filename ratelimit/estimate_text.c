/* What an estimator has learned as lines of text, and back. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "ratelimit/estimate_private.h"

/* tollgate-estimates 1
 * model MODEL            an entry: of a model, or
 * pair TENANT MODEL      of a (tenant, model); the lines that follow belong to it
 * input M D S M D S M D S          token bytes, message tokens, image tokens: mean and deviation in millionths, samples
 * content T C T B                  of a model: tokens and chunks, tokens and bytes of answers, in thousandths
 * output I S H B:W B:W …           histogram: index, samples, since halved; buckets that weigh anything
 * end HASH               FNV-1a, 64 bit, of all before this line */
#define FIRST_LINE "tollgate-estimates 1\n"

static uint64_t hash_of(struct text bytes)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < bytes.length; i++) {
        hash = (hash ^ (unsigned char) bytes.at[i]) * 0x100000001b3;
    }
    return hash;
}

static bool write_average(struct buffer *to, const struct moving_average *average)
{
    return buffer_format(to, " %lld %lld %lld", (long long) average->mean_micro, (long long) average->deviation_micro,
                         (long long) average->samples);
}

static bool write_content(struct buffer *to, const struct content_costs *costs)
{
    if (costs->bytes.pieces == 0 && costs->chunks.pieces == 0) {
        return true;
    }
    return buffer_format(to, "content %lld %lld %lld %lld\n", (long long) costs->chunks.tokens,
                         (long long) costs->chunks.pieces, (long long) costs->bytes.tokens,
                         (long long) costs->bytes.pieces);
}

static bool write_histogram(struct buffer *to, size_t index, const struct output_histogram *histogram)
{
    bool fits = buffer_format(to, "output %zu %u %u", index, histogram->samples, histogram->since_halved);
    for (int i = 0; fits && i < OUTPUT_BUCKETS; i++) {
        if (histogram->weights[i] > 0) {
            fits = buffer_format(to, " %d:%u", i, histogram->weights[i]);
        }
    }
    return fits && buffer_add(to, TEXT("\n"));
}

static bool write_entry(struct buffer *to, const struct estimate_entry *entry)
{
    bool fits = entry->tenant[0] == '\0' ? buffer_format(to, "model %s\ninput", entry->model)
                                         : buffer_format(to, "pair %s %s\ninput", entry->tenant, entry->model);
    fits = fits && write_average(to, &entry->input.token_bytes) && write_average(to, &entry->input.message_tokens) &&
           write_average(to, &entry->input.image_tokens) && buffer_add(to, TEXT("\n")) &&
           write_content(to, &entry->content);
    for (size_t i = 0; fits && i < ENTRY_HISTOGRAMS; i++) {
        if (entry->histograms[i] != NULL) {
            fits = write_histogram(to, i, entry->histograms[i]);
        }
    }
    return fits;
}

static bool write_slot(struct estimator *estimator, size_t slot, struct buffer *to)
{
    bool fits = true;
    pthread_mutex_lock(&estimator->lock);
    const struct estimate_entry *entry = estimator->table->slots[slot];
    for (; fits && entry != NULL; entry = entry->_next_in_slot) {
        fits = write_entry(to, entry);
    }
    pthread_mutex_unlock(&estimator->lock);
    return fits;
}

bool estimator_write(struct estimator *estimator, struct buffer *to)
{
    size_t before = buffer_length(to);
    bool fits = buffer_add(to, TEXT(FIRST_LINE));
    struct buffer slot_lines; /* so that the lock is never held while much memory is moved */
    buffer_init(&slot_lines, ESTIMATOR_FILE_BYTES_MAX);
    for (size_t slot = 0; fits && slot < ESTIMATE_SLOTS; slot++) {
        buffer_clear(&slot_lines);
        fits = write_slot(estimator, slot, &slot_lines) && buffer_add(to, buffer_text(&slot_lines));
    }
    buffer_finish(&slot_lines);
    if (!fits) {
        return false;
    }
    struct text all = buffer_text(to);
    return buffer_format(to, "end %016llx\n",
                         (unsigned long long) hash_of((struct text){all.at + before, all.length - before}));
}

/* Take up to the next @separator, which goes too, off @rest. */
static struct text take_until(struct text *rest, char separator)
{
    const char *end = rest->length > 0 ? memchr(rest->at, separator, rest->length) : NULL;
    struct text taken = {rest->at, end != NULL ? (size_t) (end - rest->at) : rest->length};
    size_t gone = taken.length + (end != NULL);
    *rest = (struct text){rest->at + gone, rest->length - gone};
    return taken;
}

static bool take_number(struct text *rest, char separator, int64_t most, int64_t *ret)
{
    int64_t number;
    if (!text_to_int64(take_until(rest, separator), &number) || number < 0 || number > most) {
        return false;
    }
    *ret = number;
    return true;
}

static bool read_average(struct text *words, struct moving_average *ret)
{
    return take_number(words, ' ', INT64_MAX, &ret->mean_micro) &&
           take_number(words, ' ', INT64_MAX, &ret->deviation_micro) &&
           take_number(words, ' ', INT64_MAX, &ret->samples);
}

static bool read_input(struct text words, struct estimate_entry *entry)
{
    struct input_costs costs;
    if (!read_average(&words, &costs.token_bytes) || !read_average(&words, &costs.message_tokens) ||
        !read_average(&words, &costs.image_tokens) || words.length > 0 || !input_costs_valid(&costs)) {
        return false;
    }
    entry->input = costs;
    return true;
}

static bool read_content(struct text words, struct estimate_entry *entry)
{
    struct content_costs costs;
    if (!take_number(&words, ' ', INT64_MAX, &costs.chunks.tokens) ||
        !take_number(&words, ' ', INT64_MAX, &costs.chunks.pieces) ||
        !take_number(&words, ' ', INT64_MAX, &costs.bytes.tokens) ||
        !take_number(&words, ' ', INT64_MAX, &costs.bytes.pieces) || words.length > 0 || !content_costs_valid(&costs)) {
        return false;
    }
    entry->content = costs;
    return true;
}

static bool read_buckets(struct text words, struct output_histogram *histogram)
{
    while (words.length > 0) {
        int64_t bucket, weight;
        if (!take_number(&words, ':', OUTPUT_BUCKETS - 1, &bucket) || !take_number(&words, ' ', UINT32_MAX, &weight)) {
            return false;
        }
        histogram->weights[bucket] = (uint32_t) weight;
    }
    return output_histogram_valid(histogram);
}

static bool read_output(struct text words, struct estimate_table *table, struct estimate_entry *entry)
{
    int64_t index, samples, since_halved;
    if (!take_number(&words, ' ', ENTRY_HISTOGRAMS - 1, &index) || !take_number(&words, ' ', UINT32_MAX, &samples) ||
        !take_number(&words, ' ', OUTPUT_HALF_LIFE_SAMPLES, &since_halved) || entry->histograms[index] != NULL) {
        return false;
    }
    struct output_histogram *histogram = estimate_table_histogram(table, entry, (size_t) index);
    if (histogram == NULL) {
        return false;
    }
    histogram->samples = (uint32_t) samples;
    histogram->since_halved = (uint32_t) since_halved;
    return read_buckets(words, histogram);
}

/* An entry that is there already is a mistake. */
static struct estimate_entry *read_names(struct text tenant, struct text model, struct estimate_table *table)
{
    if (estimate_table_find(table, tenant, model) != NULL) {
        return NULL;
    }
    return estimate_table_find_or_add(table, tenant, model);
}

static bool read_lines(struct text lines, struct estimate_table *table)
{
    struct estimate_entry *entry = NULL;
    while (lines.length > 0) {
        struct text words = take_until(&lines, '\n');
        struct text what = take_until(&words, ' ');
        bool good = false;
        if (text_equal(what, TEXT("model"))) {
            entry = read_names(TEXT(""), words, table);
            good = entry != NULL;
        } else if (text_equal(what, TEXT("pair"))) {
            struct text tenant = take_until(&words, ' ');
            entry = tenant.length > 0 ? read_names(tenant, words, table) : NULL;
            good = entry != NULL;
        } else if (entry != NULL && text_equal(what, TEXT("input"))) {
            good = read_input(words, entry);
        } else if (entry != NULL && text_equal(what, TEXT("content"))) {
            good = read_content(words, entry);
        } else if (entry != NULL && text_equal(what, TEXT("output"))) {
            good = read_output(words, table, entry);
        }
        if (!good) {
            return false;
        }
    }
    return true;
}

/* What stands between the first line and the last, when both are as they should be. */
static bool unwrap(struct text from, struct text *ret_lines)
{
    static const size_t last_length = sizeof("end 0123456789abcdef\n") - 1;
    if (from.length < sizeof(FIRST_LINE) - 1 + last_length || !text_starts_with(from, TEXT(FIRST_LINE))) {
        return false;
    }
    struct text before = {from.at, from.length - last_length};
    char last[32];
    snprintf(last, sizeof(last), "end %016llx\n", (unsigned long long) hash_of(before));
    if (memcmp(from.at + before.length, last, last_length) != 0) {
        return false;
    }
    *ret_lines = (struct text){from.at + sizeof(FIRST_LINE) - 1, before.length - (sizeof(FIRST_LINE) - 1)};
    return true;
}

bool estimator_read(struct estimator *estimator, struct text from)
{
    struct text lines;
    if (from.length > ESTIMATOR_FILE_BYTES_MAX || !unwrap(from, &lines)) {
        return false;
    }
    struct estimate_table *table = estimate_table_create(ESTIMATOR_PAIRS_MAX, ESTIMATOR_HISTOGRAMS_MAX);
    bool good = table != NULL && read_lines(lines, table);
    if (good) {
        pthread_mutex_lock(&estimator->lock);
        struct estimate_table *replaced = estimator->table;
        estimator->table = table;
        pthread_mutex_unlock(&estimator->lock);
        table = replaced;
    }
    estimate_table_destroy(&table);
    return good;
}
