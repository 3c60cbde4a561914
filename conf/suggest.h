/* "Did you mean": the known word that a mistyped one was probably meant to be. */
#ifndef CONF_SUGGEST_H
#define CONF_SUGGEST_H

#include "base/text.h"

enum { SUGGEST_BYTES_MAX = 64 };

/* Steps (insert, delete, replace, swap two neighbours) from one to the other; SUGGEST_BYTES_MAX when either is longer
 * than that. */
size_t suggest_distance(struct text a, struct text b);

/* The closest candidate seen so far; starts zeroed. */
struct suggestion {
    const char *best; /* NULL = none is close enough */
    size_t distance;
};
/* Look at one more candidate. Close enough is a third of @wrong's length, at least 1, at most 3; the first of equals
 * wins. */
void suggest_look_at(struct suggestion *suggestion, struct text wrong, const char *candidate);

#endif
