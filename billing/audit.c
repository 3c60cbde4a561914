/* Cells side by side. */
#include "billing/audit.h"

#include <stdlib.h>
#include <string.h>

const char *const AUDIT_SIDE_NAMES[AUDIT_SIDE_COUNT] = {"journal", "ledger", "redis"};

struct side {
    struct cell *cells; /* sorted; NULL = not known */
    size_t count, place;
};

static int compare_text(struct text a, struct text b)
{
    size_t common = a.length < b.length ? a.length : b.length;
    int order = common == 0 ? 0 : memcmp(a.at, b.at, common);
    return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

/* As cells_sorted has them. */
static int compare_cells(const struct cell *a, const struct cell *b)
{
    int order = compare_text(a->tenant, b->tenant);
    order = order != 0 ? order : compare_text(a->key, b->key);
    order = order != 0 ? order : compare_text(a->model, b->model);
    order = order != 0 ? order : (int) a->measure - (int) b->measure;
    return order != 0 ? order : (int) a->source - (int) b->source;
}

/* The least of the cells that were not looked at; NULL = there are no more. */
static const struct cell *least(const struct side sides[AUDIT_SIDE_COUNT])
{
    const struct cell *found = NULL;
    for (size_t i = 0; i < AUDIT_SIDE_COUNT; i++) {
        const struct cell *next = sides[i].place < sides[i].count ? &sides[i].cells[sides[i].place] : NULL;
        if (next != NULL && (found == NULL || compare_cells(next, found) < 0))
            found = next;
    }
    return found;
}

/* Take the next cell from every side that has it. True: the known sides do not agree. */
static bool take(struct side sides[AUDIT_SIDE_COUNT], const struct cell *cell, struct audit_difference *ret)
{
    const int64_t *first = NULL;
    bool differs = false;
    *ret = (struct audit_difference){.cell = *cell};
    for (size_t i = 0; i < AUDIT_SIDE_COUNT; i++) {
        struct side *side = &sides[i];
        if (side->place < side->count && compare_cells(&side->cells[side->place], &ret->cell) == 0)
            ret->quantities[i] = side->cells[side->place++].quantity;
        if (side->cells == NULL)
            continue;
        differs = differs || (first != NULL && *first != ret->quantities[i]);
        first = &ret->quantities[i];
    }
    return differs;
}

bool audit_cells(const struct cells *const sides[AUDIT_SIDE_COUNT], audit_differs *differs, void *owner)
{
    struct side sorted[AUDIT_SIDE_COUNT] = {0};
    struct audit_difference difference;
    bool good = true;
    for (size_t i = 0; i < AUDIT_SIDE_COUNT && good; i++) {
        if (sides[i] == NULL)
            continue;
        sorted[i].cells = cells_sorted(sides[i]);
        sorted[i].count = cells_count(sides[i]);
        good = sorted[i].cells != NULL;
    }
    for (const struct cell *cell; good && (cell = least(sorted)) != NULL;) {
        if (take(sorted, cell, &difference))
            good = differs(owner, &difference);
    }
    for (size_t i = 0; i < AUDIT_SIDE_COUNT; i++)
        free(sorted[i].cells);
    return good;
}
