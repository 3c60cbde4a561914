/* Usage summed by (tenant, key, model, measure, source): what one epoch of one writer amounts to. Pure. */
#ifndef BILLING_CELLS_H
#define BILLING_CELLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "billing/record.h"
#include "conf/policy.h"

/* How many different cells one epoch may have. */
enum { CELLS_MAX = 1000000 };

struct cell {
    struct text tenant, key, model; /* RECORD_NAME_BYTES_MAX each */
    enum measure measure;
    enum count_source source; /* COUNT_NONE for requests */
    int64_t quantity;         /* > 0 */
};

/* One owner. */
struct cells;

/* NULL when memory is exhausted. */
struct cells *cells_create(void);
void cells_destroy(struct cells **cells);

/* Add to the cell of this name; a quantity of 0 makes none. Names are copied. False, nothing changed, with errno:
 * ENOMEM, E2BIG (CELLS_MAX), EOVERFLOW (the sum), EINVAL (a negative quantity or a name that is too long). */
bool cells_add(struct cells *cells, const struct cell *cell);
/* Add what a CLOSE amounts to: one request, and its tokens; nothing when it is not billed. False as above: then a part
 * of it may have been added, and the sums are of no use any more. */
bool cells_add_close(struct cells *cells, const struct record *close);

size_t cells_count(const struct cells *cells);
/* All of them in order of tenant, key, model (bytes), measure, source (numbers). The array is the caller's, to free();
 * its texts live until cells_destroy. NULL when memory is exhausted; never NULL when there are none. */
struct cell *cells_sorted(const struct cells *cells);

#endif
