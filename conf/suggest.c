/* Damerau-Levenshtein distance (optimal string alignment) over three rows. */
#include "conf/suggest.h"

#include <string.h>

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t suggest_distance(struct text a, struct text b)
{
    if (a.length > SUGGEST_BYTES_MAX || b.length > SUGGEST_BYTES_MAX)
        return SUGGEST_BYTES_MAX;
    size_t rows[3][SUGGEST_BYTES_MAX + 1];
    for (size_t k = 0; k <= b.length; k++)
        rows[0][k] = k;
    for (size_t i = 1; i <= a.length; i++) {
        size_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t k = 1; k <= b.length; k++) {
            size_t replaced = above[k - 1] + (a.at[i - 1] != b.at[k - 1]);
            row[k] = least(replaced, least(above[k], row[k - 1]) + 1);
            if (i > 1 && k > 1 && a.at[i - 1] == b.at[k - 2] && a.at[i - 2] == b.at[k - 1])
                row[k] = least(row[k], two_above[k - 2] + 1);
        }
    }
    return rows[a.length % 3][b.length];
}

void suggest_look_at(struct suggestion *suggestion, struct text wrong, const char *candidate)
{
    size_t allowed = wrong.length / 3;
    if (allowed < 1)
        allowed = 1;
    if (allowed > 3)
        allowed = 3;
    size_t distance = suggest_distance(wrong, text_of(candidate));
    if (distance > allowed || (suggestion->best != NULL && distance >= suggestion->distance))
        return;
    *suggestion = (struct suggestion){candidate, distance};
}
