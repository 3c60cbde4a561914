/* Comparison of totals. */
#include "billing/reconcile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

enum { LINES_FIRST = 64 };

const char *const RECONCILE_COLUMN_NAMES[RECONCILE_COLUMN_COUNT] = {
    "ledger", "redis", "delivered", "by_hand", "pending", "sent", "rejected", "held", "provider"};

enum reconcile_finding reconcile_row(const struct reconcile_facts *facts)
{
    ENSURE(facts->quantity > 0 && facts->unclear >= 0 && facts->by_hand >= 0);
    if (facts->provider_total == facts->delivered)
        return RECONCILE_NOT_TAKEN; /* nor any of the others: each is more than nothing */
    int64_t all;                    /* with the row and all of the others */
    if (!__builtin_add_overflow(facts->delivered, facts->quantity, &all) &&
        !__builtin_add_overflow(all, facts->unclear, &all) && !__builtin_add_overflow(all, facts->by_hand, &all) &&
        facts->provider_total == all)
        return RECONCILE_TAKEN;
    return RECONCILE_UNCLEAR;
}

enum reconcile_column reconcile_column_of(const struct row_entry *entry)
{
    static const enum reconcile_column COLUMNS[ROW_STATE_COUNT] = {
        [ROW_PENDING] = RECONCILE_PENDING,     [ROW_SENT] = RECONCILE_SENT,         [ROW_ACKED] = RECONCILE_DELIVERED,
        [ROW_DUPLICATE] = RECONCILE_DELIVERED, [ROW_REJECTED] = RECONCILE_REJECTED, [ROW_HELD] = RECONCILE_HELD,
    };
    return row_entry_is_by_hand(entry) ? RECONCILE_BY_HAND : COLUMNS[entry->state];
}

/* ---- lines ---- */

/* In any order, with several of one name, until they are merged. */
struct reconcile {
    struct reconcile_line *lines;
    size_t count;
    size_t capacity;
};

struct reconcile *reconcile_create(void)
{
    return calloc(1, sizeof(struct reconcile));
}

void reconcile_destroy(struct reconcile **reconcile)
{
    if (*reconcile != NULL)
        free((*reconcile)->lines);
    free(*reconcile);
    *reconcile = NULL;
}

static int compare_lines(const void *left, const void *right)
{
    const struct reconcile_line *a = left, *b = right;
    int order = strcmp(a->tenant, b->tenant);
    order = order != 0 ? order : strcmp(a->meter, b->meter);
    return order != 0 ? order : (a->hour > b->hour) - (a->hour < b->hour);
}

static bool add_line(struct reconcile_line *to, const struct reconcile_line *from)
{
    for (size_t i = 0; i < RECONCILE_COLUMN_COUNT; i++) {
        if (__builtin_add_overflow(to->quantities[i], from->quantities[i], &to->quantities[i])) {
            errno = EOVERFLOW;
            return false;
        }
    }
    return true;
}

/* Sorted, one line a name. */
static bool merge(struct reconcile *reconcile)
{
    if (reconcile->count == 0)
        return true;
    struct reconcile_line *lines = reconcile->lines;
    qsort(lines, reconcile->count, sizeof *lines, compare_lines);
    size_t last = 0;
    for (size_t i = 1; i < reconcile->count; i++) {
        if (compare_lines(&lines[last], &lines[i]) != 0)
            lines[++last] = lines[i];
        else if (!add_line(&lines[last], &lines[i]))
            return false;
    }
    reconcile->count = last + 1;
    return true;
}

/* Merged first: memory is for lines, not for additions. */
static bool make_room(struct reconcile *reconcile)
{
    if (reconcile->count < reconcile->capacity)
        return true;
    if (!merge(reconcile))
        return false;
    if (reconcile->count * 2 <= reconcile->capacity && reconcile->capacity > 0)
        return true;
    size_t capacity = reconcile->capacity == 0 ? LINES_FIRST : reconcile->capacity * 2;
    struct reconcile_line *lines = realloc(reconcile->lines, capacity * sizeof *lines);
    if (lines == NULL)
        return false;
    reconcile->lines = lines;
    reconcile->capacity = capacity;
    return true;
}

bool reconcile_add(struct reconcile *reconcile, const struct row_name *name, wall_ms when, enum reconcile_column column,
                   int64_t quantity)
{
    if (!make_room(reconcile))
        return false;
    struct reconcile_line *line = &reconcile->lines[reconcile->count++];
    *line = (struct reconcile_line){.hour = clock_hour(when)};
    text_copy(line->tenant, sizeof line->tenant, text_of(name->tenant));
    text_copy(line->meter, sizeof line->meter, text_of(name->meter));
    line->quantities[column] = quantity;
    return true;
}

const struct reconcile_line *reconcile_lines(struct reconcile *reconcile, size_t *ret_count)
{
    if (!make_room(reconcile) || !merge(reconcile))
        return NULL;
    *ret_count = reconcile->count;
    return reconcile->lines;
}

/* So that no sum of columns overflows. */
__extension__ typedef __int128 wide;

bool reconcile_differs(const struct reconcile_line *line, struct reconcile_known known)
{
    const int64_t *of = line->quantities;
    wide open = (wide) of[RECONCILE_SENT] + of[RECONCILE_HELD] + of[RECONCILE_BY_HAND];
    wide rows = open + of[RECONCILE_DELIVERED] + of[RECONCILE_PENDING] + of[RECONCILE_REJECTED];
    if (rows != of[RECONCILE_LEDGER] || (known.redis && of[RECONCILE_REDIS] != of[RECONCILE_LEDGER]))
        return true;
    return known.provider && (of[RECONCILE_PROVIDER] < of[RECONCILE_DELIVERED] ||
                              of[RECONCILE_PROVIDER] > of[RECONCILE_DELIVERED] + open);
}
