/* Ledger files of a window become rows, rows become bytes. */
#include "billing/export.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/sha.h>

#include "base/buffer.h"
#include "billing/price.h"
#include "billing/provider.h"

enum {
    HOUR_MS = 3600 * 1000,
    ROWS_FIRST = 64,
    LINE_BYTES_MAX = 4096,
    SCHEMA = 1,
    HOUR_BYTES = 32,
    CURRENCIES_MAX = 64
};

const char *const EXPORT_FORMAT_NAMES[EXPORT_FORMAT_COUNT] = {"csv", "jsonl"};
const char *const EXPORT_GROUP_NAMES[EXPORT_GROUP_COUNT] = {"tenant", "key", "model", "hour"};

/* What is not grouped by is empty. */
struct export_row {
    wall_ms from, to;
    char tenant[RECORD_NAME_BYTES_MAX + 1];
    char key[RECORD_NAME_BYTES_MAX + 1];
    char model[RECORD_NAME_BYTES_MAX + 1];
    char currency[4]; /* "" = no price */
    int64_t quantities[MEASURE_COUNT];
    int64_t uncertain[MEASURE_COUNT]; /* the part of it that no engine counted */
    money_pico amount;
};

struct export
{
    const struct export_request *request;
    struct export_row *rows; /* in any order, with several of one name, until they are merged */
    size_t count;
    size_t capacity;
    size_t epochs;
};

/* ---- rows ---- */

static int compare_rows(const void *left, const void *right)
{
    const struct export_row *a = left, *b = right;
    int order = (a->from > b->from) - (a->from < b->from);
    order = order != 0 ? order : strcmp(a->tenant, b->tenant);
    order = order != 0 ? order : strcmp(a->key, b->key);
    order = order != 0 ? order : strcmp(a->model, b->model);
    return order != 0 ? order : strcmp(a->currency, b->currency);
}

static bool add_row(struct export_row *to, const struct export_row *from)
{
    bool fits = true;
    for (size_t i = 0; i < MEASURE_COUNT; i++) {
        fits = fits && !__builtin_add_overflow(to->quantities[i], from->quantities[i], &to->quantities[i]) &&
               !__builtin_add_overflow(to->uncertain[i], from->uncertain[i], &to->uncertain[i]);
    }
    to->amount += from->amount; /* fits as long as the quantities do */
    if (!fits)
        errno = EOVERFLOW;
    return fits;
}

/* Sorted, one row a name. */
static bool merge(struct export *export)
{
    if (export->count == 0)
        return true;
    qsort(export->rows, export->count, sizeof *export->rows, compare_rows);
    size_t last = 0;
    for (size_t i = 1; i < export->count; i++) {
        if (compare_rows(&export->rows[last], &export->rows[i]) != 0)
            export->rows[++last] = export->rows[i];
        else if (!add_row(&export->rows[last], &export->rows[i]))
            return false;
    }
    export->count = last + 1;
    return true;
}

/* Merged first: memory is for rows, not for cells. */
static bool make_room(struct export *export)
{
    if (export->count < export->capacity)
        return true;
    if (!merge(export))
        return false;
    if (export->count * 2 <= export->capacity && export->capacity > 0)
        return true;
    size_t capacity = export->capacity == 0 ? ROWS_FIRST : export->capacity * 2;
    struct export_row *rows = realloc(export->rows, capacity * sizeof *rows);
    if (rows == NULL)
        return false;
    export->rows = rows;
    export->capacity = capacity;
    return true;
}

static bool is_by(const struct export *export, enum export_group group)
{
    return (export->request->group_bits >> group & 1) != 0;
}

static int compare_model(const void *name, const void *model)
{
    return strcmp(name, ((const struct model *) model)->name);
}

/* NULL when the model is not there any more or has no price then. Ledgers hold canonical names only. */
static const struct price *price_of_model(const struct policy *policy, struct text name, wall_ms when)
{
    char string[RECORD_NAME_BYTES_MAX + 1];
    text_copy(string, sizeof string, name);
    const struct model *model = policy->model_count == 0 ? NULL
                                                         : bsearch(string, policy->models, policy->model_count,
                                                                   sizeof *policy->models, compare_model);
    return model == NULL ? NULL : price_at(model, when);
}

static bool add_cell(struct export *export, const struct cell *cell, wall_ms when)
{
    if (!make_room(export))
        return false;
    struct export_row *row = &export->rows[export->count++];
    const struct export_request *request = export->request;
    const struct price *price = price_of_model(request->policy, cell->model, when);
    bool by_hour = is_by(export, EXPORT_BY_HOUR);
    *row = (struct export_row){.from = by_hour ? clock_hour(when) : request->from};
    row->to = by_hour ? row->from + HOUR_MS : request->to;
    if (is_by(export, EXPORT_BY_TENANT))
        text_copy(row->tenant, sizeof row->tenant, cell->tenant);
    if (is_by(export, EXPORT_BY_KEY))
        text_copy(row->key, sizeof row->key, cell->key);
    if (is_by(export, EXPORT_BY_MODEL))
        text_copy(row->model, sizeof row->model, cell->model);
    row->quantities[cell->measure] = cell->quantity;
    if (cell->source == COUNT_COUNTED || cell->source == COUNT_ESTIMATED)
        row->uncertain[cell->measure] = cell->quantity;
    if (price != NULL) {
        text_copy(row->currency, sizeof row->currency, text_of(price->currency));
        row->amount = price_of(price, cell->measure, cell->quantity);
    }
    return true;
}

static bool add_epoch(struct export *export, const struct ledger_name *name)
{
    struct ledger_head head;
    struct cells *cells = NULL;
    if (!ledger_read(export->request->ledger_directory, name, &head, NULL))
        return false;
    if (head.ended < export->request->from || head.ended >= export->request->to)
        return true;
    if (!ledger_read(export->request->ledger_directory, name, &head, &cells))
        return false;
    export->epochs++;
    struct cell *sorted = cells_sorted(cells);
    bool good = sorted != NULL;
    for (size_t i = 0; good && i < cells_count(cells); i++)
        good = add_cell(export, &sorted[i], head.ended);
    free(sorted);
    cells_destroy(&cells);
    return good;
}

static bool collect(struct export *export)
{
    struct ledger_name *names;
    size_t count;
    if (!ledger_list(export->request->ledger_directory, &names, &count))
        return false;
    bool good = true;
    for (size_t i = 0; i < count && good; i++)
        good = add_epoch(export, &names[i]);
    free(names);
    return good && merge(export);
}

/* ---- bytes ---- */

enum column {
    PERIOD_START,
    PERIOD_END,
    TENANT,
    CUSTOMER,
    KEY,
    MODEL,
    REQUESTS,
    INPUT_TOKENS,
    CACHED_INPUT_TOKENS,
    OUTPUT_TOKENS,
    UNCERTAIN_INPUT_TOKENS,
    UNCERTAIN_OUTPUT_TOKENS,
    CURRENCY,
    AMOUNT,
    AMOUNT_EXACT,
    COLUMN_COUNT
};
static const char *const COLUMN_NAMES[COLUMN_COUNT] = {"period_start",
                                                       "period_end",
                                                       "tenant",
                                                       "customer",
                                                       "key",
                                                       "model",
                                                       "requests",
                                                       "input_tokens",
                                                       "cached_input_tokens",
                                                       "output_tokens",
                                                       "uncertain_input_tokens",
                                                       "uncertain_output_tokens",
                                                       "currency",
                                                       "amount",
                                                       "amount_exact"};

struct fields {
    const char *texts[COLUMN_COUNT]; /* numbers too */
    char numbers[COLUMN_COUNT][PRICE_TEXT_BYTES];
};

static bool is_number(size_t column)
{
    return column >= REQUESTS && column <= UNCERTAIN_OUTPUT_TOKENS;
}

/* "2026-11-22T16:00:00Z": a full hour needs no milliseconds. */
static const char *hour_text(wall_ms when, char *to)
{
    char whole[CLOCK_TEXT_BYTES];
    clock_text(when, whole);
    memcpy(to, whole, 19);
    memcpy(to + 19, "Z", 2);
    return to;
}

static void fill_fields(const struct export *export, const struct export_row *row, struct fields *ret)
{
    const int64_t counts[] = {row->quantities[MEASURE_REQUESTS],
                              row->quantities[MEASURE_INPUT_TOKENS],
                              row->quantities[MEASURE_CACHED_INPUT_TOKENS],
                              row->quantities[MEASURE_OUTPUT_TOKENS],
                              row->uncertain[MEASURE_INPUT_TOKENS],
                              row->uncertain[MEASURE_OUTPUT_TOKENS]};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        snprintf(ret->numbers[REQUESTS + i], PRICE_TEXT_BYTES, "%" PRId64, counts[i]);
        ret->texts[REQUESTS + i] = ret->numbers[REQUESTS + i];
    }
    const char *customer = provider_customer(export->request->policy, row->tenant);
    bool priced = row->currency[0] != '\0';
    ret->texts[PERIOD_START] = hour_text(row->from, ret->numbers[PERIOD_START]);
    ret->texts[PERIOD_END] = hour_text(row->to, ret->numbers[PERIOD_END]);
    ret->texts[TENANT] = row->tenant;
    ret->texts[CUSTOMER] = customer != NULL ? customer : "";
    ret->texts[KEY] = row->key;
    ret->texts[MODEL] = row->model;
    ret->texts[CURRENCY] = row->currency;
    ret->texts[AMOUNT] = priced ? price_text_rounded(row->amount, ret->numbers[AMOUNT]) : "";
    ret->texts[AMOUNT_EXACT] = priced ? price_text(row->amount, ret->numbers[AMOUNT_EXACT]) : "";
}

/* RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe; amounts are no texts. */
static void put_csv(struct builder *line, const char *value, bool is_text)
{
    bool is_formula = is_text && value[0] != '\0' && strchr("=+-@\t\r", value[0]) != NULL;
    bool is_quoted = strpbrk(value, "\",\r\n") != NULL;
    builder_add_string(line, is_quoted ? "\"" : "");
    builder_add_string(line, is_formula ? "'" : "");
    for (const char *at = value; *at != '\0'; at++)
        builder_format(line, *at == '"' ? "%c\"" : "%c", *at);
    builder_add_string(line, is_quoted ? "\"" : "");
}

static bool put_csv_row(const struct fields *fields, struct buffer *to)
{
    char memory[LINE_BYTES_MAX];
    struct builder line;
    builder_init(&line, memory, sizeof memory);
    for (size_t i = 0; i < COLUMN_COUNT; i++) {
        put_csv(&line, fields->texts[i], i >= TENANT && i <= MODEL);
        builder_add_string(&line, i + 1 < COLUMN_COUNT ? "," : "\r\n");
    }
    return !line.overflowed && buffer_add(to, builder_text(&line));
}

/* Amounts are strings: a double would round them. */
static bool put_jsonl_row(const struct fields *fields, struct buffer *to)
{
    char memory[LINE_BYTES_MAX];
    struct builder line;
    builder_init(&line, memory, sizeof memory);
    for (size_t i = 0; i < COLUMN_COUNT; i++) {
        builder_format(&line, "%s\"%s\":", i == 0 ? "{" : ",", COLUMN_NAMES[i]);
        if (is_number(i))
            builder_add_string(&line, fields->texts[i]);
        else
            builder_add_json_repaired(&line, text_of(fields->texts[i]));
    }
    builder_add_string(&line, "}\n");
    return !line.overflowed && buffer_add(to, builder_text(&line));
}

static bool put_content(const struct export *export, struct buffer *to)
{
    bool is_csv = export->request->format == EXPORT_CSV, fits = true;
    struct fields fields = {0};
    if (is_csv) {
        memcpy(fields.texts, COLUMN_NAMES, sizeof fields.texts);
        fits = put_csv_row(&fields, to);
    }
    for (size_t i = 0; i < export->count && fits; i++) {
        fill_fields(export, &export->rows[i], &fields);
        fits = is_csv ? put_csv_row(&fields, to) : put_jsonl_row(&fields, to);
    }
    if (!fits)
        errno = EFBIG;
    return fits;
}

/* ---- the manifest ---- */

static bool put_groups(const struct export *export, struct buffer *to)
{
    const char *separator = "";
    bool fits = buffer_format(to, "\"group_by\":[");
    for (size_t i = 0; i < EXPORT_GROUP_COUNT; i++) {
        if (!is_by(export, (enum export_group) i))
            continue;
        fits = fits && buffer_format(to, "%s\"%s\"", separator, EXPORT_GROUP_NAMES[i]);
        separator = ",";
    }
    return fits && buffer_format(to, "],");
}

static bool put_sums(const struct export *export, struct buffer *to)
{
    struct export_row total = {0};
    bool fits = true;
    for (size_t i = 0; i < export->count && fits; i++)
        fits = add_row(&total, &export->rows[i]);
    for (size_t i = 0; i < MEASURE_COUNT && fits; i++)
        fits =
            buffer_format(to, "%s\"%s\":%" PRId64, i == 0 ? "\"sums\":{" : ",", MEASURE_NAMES[i], total.quantities[i]);
    return fits && buffer_format(to, "},");
}

struct currency_sum {
    char currency[4];
    money_pico amount;
};

/* The sum of @row's currency among @count of them, a new one when there is none yet; NULL when there are too many. */
static struct currency_sum *sum_of(struct currency_sum sums[CURRENCIES_MAX], size_t *count,
                                   const struct export_row *row)
{
    size_t place = 0;
    while (place < *count && strcmp(sums[place].currency, row->currency) != 0)
        place++;
    if (place == CURRENCIES_MAX) {
        errno = E2BIG;
        return NULL;
    }
    if (place == *count) {
        sums[(*count)++] = (struct currency_sum){0};
        memcpy(sums[place].currency, row->currency, sizeof row->currency);
    }
    return &sums[place];
}

/* The exact amount of each currency, in order of its first row. */
static bool put_amounts(const struct export *export, struct buffer *to)
{
    struct currency_sum sums[CURRENCIES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < export->count; i++) {
        const struct export_row *row = &export->rows[i];
        struct currency_sum *sum = row->currency[0] == '\0' ? NULL : sum_of(sums, &count, row);
        if (sum == NULL && row->currency[0] != '\0')
            return false;
        if (sum != NULL)
            sum->amount += row->amount;
    }
    bool fits = buffer_format(to, "\"amounts\":{");
    for (size_t i = 0; i < count && fits; i++) {
        char text[PRICE_TEXT_BYTES];
        fits =
            buffer_format(to, "%s\"%s\":\"%s\"", i == 0 ? "" : ",", sums[i].currency, price_text(sums[i].amount, text));
    }
    return fits && buffer_format(to, "}}\n");
}

static bool put_manifest(const struct export *export, const char *file, struct text content, struct buffer *to)
{
    char from[HOUR_BYTES], until[HOUR_BYTES], hexadecimal[2 * SHA256_DIGEST_LENGTH + 1];
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256((const uint8_t *) content.at, content.length, digest);
    text_hex(hexadecimal, digest, sizeof digest);
    return buffer_format(to,
                         "{\"schema\":%d,\"from\":\"%s\",\"to\":\"%s\",\"complete\":%s,\"file\":\"%s\","
                         "\"sha256\":\"%s\",\"rows\":%zu,\"epochs\":%zu,",
                         SCHEMA, hour_text(export->request->from, from), hour_text(export->request->to, until),
                         export->request->complete ? "true" : "false", file, hexadecimal, export->count,
                         export->epochs) &&
           put_groups(export, to) && put_sums(export, to) && put_amounts(export, to);
}

/* ---- files ---- */

/* "usage_2026-11-22T16Z_2026-11-22T18Z_tenant-hour.csv" */
static void name_file(const struct export *export, char to[EXPORT_NAME_BYTES])
{
    char from[HOUR_BYTES], until[HOUR_BYTES];
    struct builder name;
    builder_init(&name, to, EXPORT_NAME_BYTES);
    builder_format(&name, "usage_%.13sZ_%.13sZ", hour_text(export->request->from, from),
                   hour_text(export->request->to, until));
    const char *separator = "_";
    for (size_t i = 0; i < EXPORT_GROUP_COUNT; i++) {
        if (!is_by(export, (enum export_group) i))
            continue;
        builder_format(&name, "%s%s", separator, EXPORT_GROUP_NAMES[i]);
        separator = "-";
    }
    builder_format(&name, ".%s", EXPORT_FORMAT_NAMES[export->request->format]);
    builder_string(&name);
}

static bool write_files(const struct export *export, const char *file)
{
    const char *directory = export->request->out_directory;
    char manifest_name[EXPORT_NAME_BYTES + 16];
    snprintf(manifest_name, sizeof manifest_name, "%s.manifest.json", file);
    struct buffer content, manifest;
    buffer_init(&content, EXPORT_BYTES_MAX);
    buffer_init(&manifest, EXPORT_BYTES_MAX);
    bool good = put_content(export, &content) && put_manifest(export, file, buffer_text(&content), &manifest) &&
                provider_file_deliver(directory, file, buffer_text(&content)) &&
                provider_file_deliver(directory, manifest_name, buffer_text(&manifest));
    int error = errno;
    buffer_finish(&content);
    buffer_finish(&manifest);
    errno = error;
    return good;
}

bool export_write(const struct export_request *request, struct export_result *ret)
{
    struct export export = {.request = request};
    if (request->from % HOUR_MS != 0 || request->to % HOUR_MS != 0 || request->from < 0 ||
        request->from >= request->to) {
        errno = EINVAL;
        return false;
    }
    name_file(&export, ret->file);
    bool good = collect(&export) && write_files(&export, ret->file);
    int error = errno;
    ret->rows = export.count;
    ret->epochs = export.epochs;
    free(export.rows);
    errno = error;
    return good;
}
