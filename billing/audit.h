/* Whether an epoch has the same cells wherever it is kept, and whether a provider's rows are what the ledger makes of
 * them. Pure. */
#ifndef BILLING_AUDIT_H
#define BILLING_AUDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "billing/reconcile.h"

/* ---- cells ---- */

enum audit_side { AUDIT_JOURNAL, AUDIT_LEDGER, AUDIT_REDIS, AUDIT_SIDE_COUNT };
extern const char *const AUDIT_SIDE_NAMES[AUDIT_SIDE_COUNT]; /* "journal", "ledger", "redis" */

/* One cell that is not the same on all sides that are known. */
struct audit_difference {
    struct cell cell; /* without its quantity; texts are valid during the call */
    int64_t quantities[AUDIT_SIDE_COUNT];
};
typedef bool audit_differs(void *owner, const struct audit_difference *difference);
/* Compare one epoch, in order of tenant, key, model, measure and source. A side that is NULL is not known. False with
 * errno: no memory, or @differs returned false. */
bool audit_cells(const struct cells *const sides[AUDIT_SIDE_COUNT], audit_differs *differs, void *owner);

/* ---- rows ---- */

/* One provider's rows, by their epochs. One owner. */
struct audit_rows;

enum { AUDIT_FRESH_MS = 60 * 1000 }; /* what ended since may lack its rows: they are being made */

struct audit_source {
    const struct policy *policy;
    const struct provider_policy *provider;
    const char *install_id;
    const struct row_states *states; /* outlives it, not tidied meanwhile; with the rows of @from and @to recalled */
    wall_ms since;                   /* epochs that ended before have no rows at this provider */
    wall_ms now;
    int64_t retention_ms; /* what ended longer ago may have no ledger file any more */
    wall_ms from, to;     /* rows that ended in from <= ended < to count */
};
/* NULL: no memory. */
struct audit_rows *audit_rows_create(const struct audit_source *source);
void audit_rows_destroy(struct audit_rows **rows);

/* An epoch of the ledger, once each, with its cells in Redis; NULL there = not known, then nothing is said about them.
 * False with errno. */
bool audit_rows_add_epoch(struct audit_rows *rows, const struct ledger_head *head, const struct cells *ledger,
                          const struct cells *redis);
/* After all epochs: rows of epochs that were not added. False with errno. */
bool audit_rows_end(struct audit_rows *rows);

/* The states, read once more after the provider was asked: rows that moved meanwhile, or came, may be in its answer or
 * not, and count as sent. Once, after audit_rows_end and before the answers are told. False with errno. */
bool audit_rows_settle(struct audit_rows *rows, const struct row_states *later);

/* What is to be asked of a provider that can tell: after audit_rows_end, in order of customer, event name and hour. Not
 * what was billed by hand only. */
struct audit_total {
    const char *customer, *event_name;
    wall_ms hour;
    size_t _first, _count;
};
size_t audit_rows_totals(const struct audit_rows *rows, const struct audit_total **ret);
/* The one of them that counts the row, NULL = none does. */
const struct audit_total *audit_rows_find_total(const struct audit_rows *rows, const struct row_entry *entry);
/* Its answer, once each. False with errno. */
bool audit_rows_answer(struct audit_rows *rows, const struct audit_total *total, int64_t quantity);
/* What the provider is otherwise known to have of one row. False with errno. */
bool audit_rows_has(struct audit_rows *rows, const struct row *row, int64_t quantity);

/* The lines, as reconcile_lines has them. NULL with errno. */
const struct reconcile_line *audit_rows_lines(struct audit_rows *rows, size_t *ret_count);
/* Rows that the present configuration cannot explain: of meters that it has no more, or of tenants without a customer.
 * They are not compared. */
size_t audit_rows_unexplained(const struct audit_rows *rows);

#endif
