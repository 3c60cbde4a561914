/* Cells become rows. */
#include "billing/row.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/sha.h>

#include "base/panic.h"

enum { NAME_BYTES_MAX = 1024 };

static void base32(const uint8_t *bytes, size_t characters, char *to)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
    for (size_t i = 0; i < characters; i++) {
        size_t bit = i * 5;
        unsigned two = (unsigned) bytes[bit / 8] << 8 | bytes[bit / 8 + 1];
        to[i] = alphabet[two >> (11 - bit % 8) & 31];
    }
    to[characters] = '\0';
}

const char *row_event_name(const struct row *row)
{
    return row->event_name[0] != '\0' ? row->event_name : row->name.meter;
}

void row_identifier(const struct row_name *name, const char install_id[INSTALL_ID_CHARACTERS + 1], unsigned revision,
                    char to[ROW_ID_CHARACTERS + 1])
{
    char memory[NAME_BYTES_MAX];
    uint8_t digest[SHA256_DIGEST_LENGTH];
    struct builder whole;
    builder_init(&whole, memory, sizeof memory);
    /* No name that conf/ lets through holds a '|'; an event name may, but stands between two that do not. */
    builder_format(&whole, "%s|%s|%s|%" PRIu64 "|%s|%s|%u", install_id, PROVIDER_KIND_NAMES[name->provider],
                   name->epoch.writer, name->epoch.epoch, name->tenant, name->meter, revision);
    ENSURE(!whole.overflowed);
    SHA256((const uint8_t *) whole.at, whole.length, digest);
    memcpy(to, "tg1-", 4);
    base32(digest, ROW_ID_CHARACTERS - 4, to + 4);
}

/* ---- from cells ---- */

struct making {
    const struct row_source *source;
    struct row *rows;
    size_t count;
    size_t capacity;
};

bool meter_takes_model(const struct meter_policy *meter, struct text model)
{
    for (size_t i = 0; i < meter->model_pattern_count; i++) {
        if (text_matches_glob(model, text_of(meter->model_patterns[i])))
            return true;
    }
    return false;
}

static struct row *room_for_one(struct making *making)
{
    if (making->count == making->capacity) {
        size_t capacity = making->capacity == 0 ? 16 : making->capacity * 2;
        struct row *rows = realloc(making->rows, capacity * sizeof *rows);
        if (rows == NULL)
            return NULL;
        making->rows = rows;
        making->capacity = capacity;
    }
    return &making->rows[making->count++];
}

/* @meter NULL: a row for just this model and measure. */
static bool add_row(struct making *making, const struct cell *cell, const struct meter_policy *meter)
{
    struct row *row = room_for_one(making);
    if (row == NULL)
        return false;
    const struct row_source *source = making->source;
    *row = (struct row){
        .name = {.provider = source->provider->kind, .epoch = source->head->name},
        .metered = meter != NULL || source->provider->kind == PROVIDER_FILE,
        .measure = cell->measure,
        .quantity = cell->quantity,
        .began = source->head->began,
        .ended = source->head->ended,
    };
    struct builder name;
    builder_init(&name, row->name.meter, sizeof row->name.meter);
    if (meter != NULL)
        builder_add_string(&name, meter->event_name);
    else
        builder_format(&name, "%s/%.*s", MEASURE_NAMES[cell->measure], TEXT_ARGUMENTS(cell->model));
    ENSURE(!name.overflowed);
    text_copy(row->name.tenant, sizeof row->name.tenant, cell->tenant);
    if (meter == NULL)
        text_copy(row->model, sizeof row->model, cell->model);
    return true;
}

/* A row for each meter that sums the cell; they are added up later. */
static bool add_cell(struct making *making, const struct cell *cell)
{
    const struct provider_policy *provider = making->source->provider;
    bool is_taken = false;
    for (size_t i = 0; i < provider->meter_count; i++) {
        const struct meter_policy *meter = &provider->meters[i];
        if (!meter_takes_model(meter, cell->model))
            continue;
        is_taken = true;
        if (meter->measure == cell->measure && !add_row(making, cell, meter))
            return false;
    }
    return is_taken || add_row(making, cell, NULL);
}

static int compare_rows(const void *left, const void *right)
{
    const struct row *a = left, *b = right;
    int order = strcmp(a->name.tenant, b->name.tenant);
    order = order != 0 ? order : strcmp(a->name.meter, b->name.meter);
    return order != 0 ? order : (int) a->metered - (int) b->metered;
}

/* Rows of one name become one. */
static bool merge(struct making *making)
{
    if (making->count == 0)
        return true;
    qsort(making->rows, making->count, sizeof *making->rows, compare_rows);
    size_t kept = 0;
    for (size_t i = 1; i < making->count; i++) {
        struct row *last = &making->rows[kept], *next = &making->rows[i];
        if (compare_rows(last, next) != 0) {
            making->rows[++kept] = *next;
        } else if (__builtin_add_overflow(last->quantity, next->quantity, &last->quantity)) {
            errno = EOVERFLOW;
            return false;
        }
    }
    making->count = kept + 1;
    return true;
}

bool rows_make(const struct row_source *source, struct row **ret, size_t *ret_count)
{
    struct making making = {.source = source};
    struct cell *sorted = cells_sorted(source->cells);
    bool good = sorted != NULL;
    for (size_t i = 0; good && i < cells_count(source->cells); i++)
        good = add_cell(&making, &sorted[i]);
    good = good && merge(&making);
    free(sorted);
    if (!good) {
        free(making.rows);
        return false;
    }
    for (size_t i = 0; i < making.count; i++)
        row_identifier(&making.rows[i].name, source->install_id, 0, making.rows[i].id);
    *ret = making.rows;
    *ret_count = making.count;
    return true;
}
