/* Cells in a hash table of their numbers. */
#include "billing/cells.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS_FIRST = 64 };

/* An entry's names stand in one block: tenant, key, model. */
struct cells {
    struct cell *entries;
    size_t count;
    size_t capacity;
    uint32_t *slots; /* 1 + the entry's number; 0 = free. A power of two, at most half full */
    size_t slot_count;
};

struct cells *cells_create(void)
{
    struct cells *cells = calloc(1, sizeof *cells);
    uint32_t *slots = calloc(SLOTS_FIRST, sizeof *slots);
    if (cells == NULL || slots == NULL) {
        free(cells);
        free(slots);
        return NULL;
    }
    cells->slots = slots;
    cells->slot_count = SLOTS_FIRST;
    return cells;
}

void cells_destroy(struct cells **cells)
{
    struct cells *dying = *cells;
    *cells = NULL;
    if (dying == NULL)
        return;
    for (size_t i = 0; i < dying->count; i++)
        free((char *) (uintptr_t) dying->entries[i].tenant.at); /* where the block begins */
    free(dying->entries);
    free(dying->slots);
    free(dying);
}

/* FNV-1a, names ended by their lengths. */
static uint64_t hash_text(uint64_t hash, struct text name)
{
    for (size_t i = 0; i < name.length; i++)
        hash = (hash ^ (uint8_t) name.at[i]) * 0x100000001b3;
    return (hash ^ name.length) * 0x100000001b3;
}

static uint64_t hash_cell(const struct cell *cell)
{
    uint64_t hash = hash_text(hash_text(hash_text(0xcbf29ce484222325, cell->tenant), cell->key), cell->model);
    hash = (hash ^ (uint64_t) cell->measure) * 0x100000001b3;
    hash = (hash ^ (uint64_t) cell->source) * 0x100000001b3;
    return hash ^ hash >> 32;
}

static bool same_name(const struct cell *a, const struct cell *b)
{
    return a->measure == b->measure && a->source == b->source && text_equal(a->tenant, b->tenant) &&
           text_equal(a->key, b->key) && text_equal(a->model, b->model);
}

/* Where the cell is or would be. */
static uint32_t *find_slot(const struct cells *cells, const struct cell *cell)
{
    size_t mask = cells->slot_count - 1;
    size_t at = (size_t) hash_cell(cell) & mask;
    while (cells->slots[at] != 0 && !same_name(&cells->entries[cells->slots[at] - 1], cell))
        at = (at + 1) & mask;
    return &cells->slots[at];
}

static bool grow_slots(struct cells *cells)
{
    uint32_t *slots = calloc(cells->slot_count * 2, sizeof *slots);
    if (slots == NULL)
        return false;
    free(cells->slots);
    cells->slots = slots;
    cells->slot_count *= 2;
    for (size_t i = 0; i < cells->count; i++)
        *find_slot(cells, &cells->entries[i]) = (uint32_t) i + 1;
    return true;
}

/* Room for one more entry. */
static bool make_room(struct cells *cells)
{
    if (cells->count == CELLS_MAX) {
        errno = E2BIG;
        return false;
    }
    if (cells->count == cells->capacity) {
        size_t capacity = cells->capacity == 0 ? SLOTS_FIRST : cells->capacity * 2;
        struct cell *entries = realloc(cells->entries, capacity * sizeof *entries);
        if (entries == NULL)
            return false;
        cells->entries = entries;
        cells->capacity = capacity;
    }
    return (cells->count + 1) * 2 <= cells->slot_count || grow_slots(cells);
}

static struct text put_name(char **to, struct text name)
{
    struct text kept = {*to, name.length};
    if (name.length > 0)
        memcpy(*to, name.at, name.length);
    *to += name.length;
    return kept;
}

static bool add_new(struct cells *cells, const struct cell *cell)
{
    char *names = make_room(cells) ? malloc(cell->tenant.length + cell->key.length + cell->model.length + 1) : NULL;
    if (names == NULL)
        return false;
    uint32_t *slot = find_slot(cells, cell); /* may have moved */
    struct cell *entry = &cells->entries[cells->count];
    *entry = *cell;
    entry->tenant = put_name(&names, cell->tenant);
    entry->key = put_name(&names, cell->key);
    entry->model = put_name(&names, cell->model);
    *slot = (uint32_t) ++cells->count;
    return true;
}

static bool is_valid(const struct cell *cell)
{
    return cell->quantity >= 0 && cell->tenant.length <= RECORD_NAME_BYTES_MAX &&
           cell->key.length <= RECORD_NAME_BYTES_MAX && cell->model.length <= RECORD_NAME_BYTES_MAX;
}

bool cells_add(struct cells *cells, const struct cell *cell)
{
    if (!is_valid(cell)) {
        errno = EINVAL;
        return false;
    }
    if (cell->quantity == 0)
        return true;
    uint32_t number = *find_slot(cells, cell);
    if (number == 0)
        return add_new(cells, cell);
    int64_t sum;
    if (__builtin_add_overflow(cells->entries[number - 1].quantity, cell->quantity, &sum)) {
        errno = EOVERFLOW;
        return false;
    }
    cells->entries[number - 1].quantity = sum;
    return true;
}

bool cells_add_close(struct cells *cells, const struct record *close)
{
    const struct {
        enum measure measure;
        enum count_source source;
        int64_t quantity;
    } parts[] = {
        {MEASURE_REQUESTS, COUNT_NONE, 1},
        {MEASURE_INPUT_TOKENS, close->input_source, close->input_tokens},
        {MEASURE_CACHED_INPUT_TOKENS, close->input_source, close->cached_input_tokens},
        {MEASURE_OUTPUT_TOKENS, close->output_source, close->output_tokens},
    };
    struct cell cell = {.tenant = close->tenant, .key = close->key, .model = close->model};
    bool added = true;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && added && close->billed; i++) {
        cell.measure = parts[i].measure;
        cell.source = parts[i].source;
        cell.quantity = parts[i].quantity;
        added = cells_add(cells, &cell);
    }
    return added;
}

size_t cells_count(const struct cells *cells)
{
    return cells->count;
}

static int compare_text(struct text a, struct text b)
{
    size_t common = a.length < b.length ? a.length : b.length;
    int order = common == 0 ? 0 : memcmp(a.at, b.at, common);
    return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_cells(const void *left, const void *right)
{
    const struct cell *a = left, *b = right;
    int order = compare_text(a->tenant, b->tenant);
    order = order != 0 ? order : compare_text(a->key, b->key);
    order = order != 0 ? order : compare_text(a->model, b->model);
    order = order != 0 ? order : (int) a->measure - (int) b->measure;
    return order != 0 ? order : (int) a->source - (int) b->source;
}

struct cell *cells_sorted(const struct cells *cells)
{
    struct cell *sorted = calloc(cells->count + 1, sizeof *sorted);
    if (sorted == NULL)
        return NULL;
    if (cells->count > 0)
        memcpy(sorted, cells->entries, cells->count * sizeof *sorted);
    qsort(sorted, cells->count, sizeof *sorted, compare_cells);
    return sorted;
}
