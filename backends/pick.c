#include "backends/pick.h"

static bool has_room(const struct pick_candidate *candidate)
{
    return candidate->allowed && candidate->in_flight < candidate->slots;
}

/* Below 0: @a is less loaded than @b. Products instead of quotients: exact. */
static int compare_load(const struct pick_candidate *a, const struct pick_candidate *b)
{
    int64_t left = (int64_t) a->in_flight * b->weight;
    int64_t right = (int64_t) b->in_flight * a->weight;

    return (left > right) - (left < right);
}

size_t pick_least_loaded(const struct pick_candidate *candidates, size_t count, uint64_t random)
{
    size_t best = PICK_NONE;
    size_t ties = 0;

    for (size_t i = 0; i < count; i++) {
        if (!has_room(&candidates[i]))
            continue;
        int order = best == PICK_NONE ? -1 : compare_load(&candidates[i], &candidates[best]);

        if (order < 0)
            best = i;
        if (order < 0)
            ties = 1;
        else if (order == 0)
            ties++;
    }
    if (ties <= 1)
        return best;

    /* @best is the first of the tied ones: walk to the chosen one. */
    size_t chosen = (size_t) (random % ties);

    for (size_t i = best; i < count; i++) {
        if (has_room(&candidates[i]) && compare_load(&candidates[i], &candidates[best]) == 0 && chosen-- == 0)
            return i;
    }
    return best;
}
