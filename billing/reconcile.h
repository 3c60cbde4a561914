/* Whether all that should be the same is: what was used, what was delivered, what the provider says. Pure. */
#ifndef BILLING_RECONCILE_H
#define BILLING_RECONCILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "billing/row_state.h"

/* ---- one row that is too old to be sent blindly ---- */

/* All of the row's (customer, meter, UTC hour). */
struct reconcile_facts {
    int64_t provider_total; /* as the provider says now */
    int64_t delivered;      /* sent, then acknowledged or duplicate */
    int64_t by_hand;        /* rows that a person calls delivered: billed there, or elsewhere */
    int64_t unclear;        /* other rows that may have arrived: sent without an answer, or held after that */
    int64_t quantity;       /* the row's, > 0 */
};

enum reconcile_finding {
    RECONCILE_TAKEN,
    RECONCILE_NOT_TAKEN,
    RECONCILE_UNCLEAR /* a person decides */
};
/* Only what the total proves: nothing is guessed. A provider's total may lag: read it when nothing has been sent for a
 * while. */
enum reconcile_finding reconcile_row(const struct reconcile_facts *facts);

/* ---- all rows ---- */

enum reconcile_column {
    RECONCILE_LEDGER,    /* the cells of the ledger files */
    RECONCILE_REDIS,     /* the same cells, as Redis has them */
    RECONCILE_DELIVERED, /* rows acknowledged or duplicate, but for */
    RECONCILE_BY_HAND,   /* those of which a person said so: the provider may have them or not */
    RECONCILE_PENDING,
    RECONCILE_SENT, /* without an answer */
    RECONCILE_REJECTED,
    RECONCILE_HELD,
    RECONCILE_PROVIDER, /* as the provider says */
    RECONCILE_COLUMN_COUNT
};
/* "ledger", "redis", "delivered", "by_hand", … */
extern const char *const RECONCILE_COLUMN_NAMES[RECONCILE_COLUMN_COUNT];

/* Where the quantity of a row stands. */
enum reconcile_column reconcile_column_of(const struct row_entry *entry);

struct reconcile_line {
    char tenant[RECORD_NAME_BYTES_MAX + 1];
    char meter[ROW_METER_BYTES_MAX + 1];
    wall_ms hour; /* its beginning */
    int64_t quantities[RECONCILE_COLUMN_COUNT];
};

struct reconcile;
/* NULL when memory is exhausted. */
struct reconcile *reconcile_create(void);
void reconcile_destroy(struct reconcile **reconcile);
/* Add to a column of the line of (@tenant, @meter, the UTC hour of @when). False with errno: ENOMEM, EOVERFLOW. */
bool reconcile_add(struct reconcile *reconcile, const struct row_name *name, wall_ms when, enum reconcile_column column,
                   int64_t quantity);

/* Which columns were asked for at all; the ledger and the states always are. */
struct reconcile_known {
    bool redis, provider;
};
/* The columns of the line cannot all be true: ledger = Redis, ledger = delivered + by hand + pending + sent + rejected
 * + held, and the provider has what was delivered, and at most what is by hand, sent or held on top. */
bool reconcile_differs(const struct reconcile_line *line, struct reconcile_known known);

/* The lines, sorted by tenant, meter and hour; valid until the next add. NULL with errno as above. */
const struct reconcile_line *reconcile_lines(struct reconcile *reconcile, size_t *ret_count);

#endif
