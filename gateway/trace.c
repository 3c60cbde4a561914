#include "gateway/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/text.h"

enum { COLUMN_ARRIVAL, COLUMN_INPUT, COLUMN_OUTPUT, COLUMN_COUNT };

enum { COLUMNS_MAX = 64 };

static const int64_t SECOND_US = 1000000;
/* Of seconds in a file: some 3000 years. */
static const int64_t SECONDS_MAX = INT64_C(100000000000);

/* The state of one reading. */
struct reading {
    const char *file;
    char *error;
    size_t line; /* from 1; 0 = it is the whole file */
    bool dates;  /* else seconds */
    size_t columns[COLUMN_COUNT];
    size_t column_count; /* of the header */
    struct trace trace;
    size_t capacity;
};

__attribute__((format(printf, 2, 3))) static bool fail(struct reading *reading, const char *format, ...)
{
    struct builder to;
    builder_init(&to, reading->error, TRACE_ERROR_BYTES);
    if (reading->line > 0) {
        builder_format(&to, "%s:%zu: ", reading->file, reading->line);
    } else {
        builder_format(&to, "%s: ", reading->file);
    }
    va_list arguments;
    va_start(arguments, format);
    builder_format_list(&to, format, arguments);
    va_end(arguments);
    return false;
}

/* Returns how many there are, those above COLUMNS_MAX too. */
static size_t split(struct text line, struct text fields[COLUMNS_MAX])
{
    size_t count = 0;
    const char *end = line.at + line.length;
    for (const char *at = line.at;; count++) {
        const char *comma = memchr(at, ',', (size_t) (end - at));
        if (count < COLUMNS_MAX) {
            fields[count] = text_trimmed((struct text){at, (size_t) ((comma != NULL ? comma : end) - at)});
        }
        if (comma == NULL) {
            return count + 1;
        }
        at = comma + 1;
    }
}

static bool find_columns(struct reading *reading, const struct text *fields, const char *const names[COLUMN_COUNT])
{
    size_t found = 0;
    for (size_t column = 0; column < COLUMN_COUNT; column++) {
        for (size_t i = 0; i < reading->column_count; i++) {
            if (text_equal(fields[i], text_of(names[column]))) {
                reading->columns[column] = i;
                found++;
                break;
            }
        }
    }
    return found == COLUMN_COUNT;
}

static bool read_header(struct reading *reading, struct text line)
{
    static const char *const with_dates[COLUMN_COUNT] = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"};
    static const char *const with_seconds[COLUMN_COUNT] = {"arrival", "input", "output"};
    struct text fields[COLUMNS_MAX];
    reading->column_count = split(line, fields);
    if (reading->column_count > COLUMNS_MAX) {
        return fail(reading, "more than %d columns", COLUMNS_MAX);
    }
    reading->dates = find_columns(reading, fields, with_dates);
    if (!reading->dates && !find_columns(reading, fields, with_seconds)) {
        return fail(reading, "the first line must name the columns TIMESTAMP, ContextTokens and GeneratedTokens, or "
                             "arrival, input and output");
    }
    return true;
}

/* The digits after a point, as millionths; further ones are dropped. */
static bool parse_fraction(struct text digits, int64_t *ret_us)
{
    int64_t us = 0;
    int64_t worth = SECOND_US / 10;
    for (size_t i = 0; i < digits.length; i++, worth /= 10) {
        if (digits.at[i] < '0' || digits.at[i] > '9') {
            return false;
        }
        us += (digits.at[i] - '0') * worth;
    }
    *ret_us = us;
    return digits.length > 0;
}

/* Cut ".123" off @value; 0 when there is none. */
static bool take_fraction(struct text *value, int64_t *ret_us)
{
    *ret_us = 0;
    const char *point = memchr(value->at, '.', value->length);
    if (point == NULL) {
        return true;
    }
    struct text digits = {point + 1, (size_t) (value->at + value->length - point - 1)};
    value->length = (size_t) (point - value->at);
    return parse_fraction(digits, ret_us);
}

static bool parse_seconds(struct text value, int64_t *ret_us)
{
    int64_t fraction_us, seconds;
    if (value.length == 0 || !take_fraction(&value, &fraction_us) || !text_to_int64(value, &seconds) || seconds < 0 ||
        seconds > SECONDS_MAX) {
        return false;
    }
    *ret_us = seconds * SECOND_US + fraction_us;
    return true;
}

/* "2023-11-16 18:17:03.9799600", also with T and Z. */
static bool parse_date(struct text value, int64_t *ret_us)
{
    if (value.length > 0 && value.at[value.length - 1] == 'Z') {
        value.length--;
    }
    int64_t fraction_us;
    char date[32];
    if (value.length == 0 || !take_fraction(&value, &fraction_us) || value.length != strlen("2023-11-16 18:17:03")) {
        return false;
    }
    text_copy(date, sizeof(date), value);
    struct tm parts = {0};
    date[10] = date[10] == 'T' ? ' ' : date[10];
    const char *end = strptime(date, "%Y-%m-%d %H:%M:%S", &parts);
    if (end == NULL || *end != '\0') {
        return false;
    }
    int64_t seconds = timegm(&parts);
    if (seconds < 0) {
        return false;
    }
    *ret_us = seconds * SECOND_US + fraction_us;
    return true;
}

static bool parse_tokens(struct text value, int64_t *ret)
{
    return text_to_int64(value, ret) && *ret >= 0 && *ret <= TRACE_TOKENS_MAX;
}

static bool add_row(struct reading *reading, struct trace_row row)
{
    struct trace *trace = &reading->trace;
    if (trace->count == TRACE_ROWS_MAX) {
        return fail(reading, "more than %d requests", TRACE_ROWS_MAX);
    }
    if (trace->count == reading->capacity) {
        size_t capacity = reading->capacity == 0 ? 1024 : 2 * reading->capacity;
        struct trace_row *rows = reallocarray(trace->rows, capacity, sizeof(*rows));
        if (rows == NULL) {
            return fail(reading, "memory is exhausted");
        }
        trace->rows = rows;
        reading->capacity = capacity;
    }
    trace->rows[trace->count++] = row;
    return true;
}

static bool read_row(struct reading *reading, struct text line)
{
    struct text fields[COLUMNS_MAX];
    size_t count = split(line, fields);
    if (count != reading->column_count) {
        return fail(reading, "%zu fields, but the first line has %zu", count, reading->column_count);
    }
    struct trace_row row;
    struct text arrival = fields[reading->columns[COLUMN_ARRIVAL]];
    if (!(reading->dates ? parse_date : parse_seconds)(arrival, &row.arrival_us)) {
        return fail(reading, "\"%.*s\" is no %s", TEXT_ARGUMENTS(arrival),
                    reading->dates ? "date and time (2023-11-16 18:17:03.97)" : "number of seconds");
    }
    const struct text input = fields[reading->columns[COLUMN_INPUT]];
    const struct text output = fields[reading->columns[COLUMN_OUTPUT]];
    if (!parse_tokens(input, &row.input_tokens)) {
        return fail(reading, "\"%.*s\" is no number of input tokens", TEXT_ARGUMENTS(input));
    }
    if (!parse_tokens(output, &row.output_tokens)) {
        return fail(reading, "\"%.*s\" is no number of output tokens", TEXT_ARGUMENTS(output));
    }
    return add_row(reading, row);
}

static bool read_lines(struct reading *reading, FILE *file)
{
    char memory[TRACE_LINE_BYTES_MAX + 2];
    for (reading->line = 1; fgets(memory, sizeof(memory), file) != NULL; reading->line++) {
        struct text line = text_of(memory);
        if (line.length == sizeof(memory) - 1 && line.at[line.length - 1] != '\n') {
            return fail(reading, "a line of more than %d bytes", TRACE_LINE_BYTES_MAX);
        }
        while (line.length > 0 && (line.at[line.length - 1] == '\n' || line.at[line.length - 1] == '\r')) {
            line.length--;
        }
        if (line.length == 0 && reading->line > 1) {
            continue;
        }
        if (!(reading->line == 1 ? read_header : read_row)(reading, line)) {
            return false;
        }
    }
    if (ferror(file) != 0) {
        return fail(reading, "%s", strerror(errno));
    }
    reading->line = 0;
    return reading->trace.count > 0 || fail(reading, "there is no request in it");
}

/* Merge sort as glibc's qsort does it would be stable too, but nothing promises that. */
static int by_arrival_and_place(const void *a, const void *b)
{
    const struct trace_row *left = *(const struct trace_row *const *) a;
    const struct trace_row *right = *(const struct trace_row *const *) b;
    if (left->arrival_us != right->arrival_us) {
        return left->arrival_us < right->arrival_us ? -1 : 1;
    }
    return (left > right) - (left < right);
}

static bool sort_rows(struct reading *reading)
{
    struct trace *trace = &reading->trace;
    const struct trace_row **order = calloc(trace->count, sizeof(const struct trace_row *));
    struct trace_row *sorted = calloc(trace->count, sizeof(*sorted));
    bool possible = order != NULL && sorted != NULL;
    for (size_t i = 0; possible && i < trace->count; i++) {
        order[i] = &trace->rows[i];
    }
    if (possible) {
        qsort(order, trace->count, sizeof(const struct trace_row *), by_arrival_and_place);
    }
    for (size_t i = 0; possible && i < trace->count; i++) {
        sorted[i] = *order[i];
        sorted[i].arrival_us -= order[0]->arrival_us;
    }
    if (possible) {
        struct trace_row *unsorted = trace->rows;
        trace->rows = sorted;
        sorted = unsorted;
    }
    free(order);
    free(sorted);
    return possible || fail(reading, "memory is exhausted");
}

bool trace_read(const char *file, struct trace *ret, char error[TRACE_ERROR_BYTES])
{
    struct reading reading = {.file = file, .error = error};
    FILE *from = fopen(file, "re");
    if (from == NULL) {
        return fail(&reading, "%s", strerror(errno));
    }
    bool good = read_lines(&reading, from) && sort_rows(&reading);
    fclose(from);
    if (!good) {
        free(reading.trace.rows);
        return false;
    }
    *ret = reading.trace;
    return true;
}

void trace_finish(struct trace *trace)
{
    free(trace->rows);
    *trace = (struct trace){0};
}
