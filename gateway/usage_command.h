/* What the commands about usage share: windows of time, where things are, and tables. For processes that end soon. */
#ifndef GATEWAY_USAGE_COMMAND_H
#define GATEWAY_USAGE_COMMAND_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"
#include "billing/row_state.h"
#include "conf/policy.h"

/* Full UTC hours: from <= ended < to. */
struct usage_window {
    wall_ms from, to;
};

/* Read what was given for --from and --to: 2026-11-22, 2026-11-22T16, 2026-11-22T16:00, or RFC 3339. False after saying
 * what to write;
 * *@ret_exit is then what to return. */
bool usage_window_read(const char *command, const char *from, const char *to, struct usage_window *ret, int *ret_exit);
/* "2026-11-22T16:00:00Z", for a full second; returns @to. */
const char *usage_time_text(wall_ms when, char to[CLOCK_TEXT_BYTES]);

/* state_dir/@name; returns @to. */
const char *usage_path(const struct policy *policy, const char *name, char to[PATH_MAX]);

/* What became of the provider's rows, to look at. NULL after saying why not: also when it was there and is gone. */
struct row_states *usage_states_read(const char *command, const struct policy *policy, enum provider_kind kind);
/* How many epochs of the ledger have no rows in its @states yet. False: the ledger cannot be read. */
bool usage_epochs_to_come(const struct policy *policy, const struct row_states *states, enum provider_kind kind,
                          size_t *ret);

/* With errno of what read ledger and journals: says which of them cannot be read. Returns COMMAND_FAILED. */
int usage_not_read(const char *command, const struct policy *policy);

/* Lines of cells under headings, columns as wide as their widest cell. */
struct usage_table;
/* @right: a bit for each column that holds numbers. NULL: no memory. @headings stay the caller's. */
struct usage_table *usage_table_create(const char *const *headings, size_t columns, unsigned right);
/* One line's cells, copied. False: no memory. */
bool usage_table_add(struct usage_table *table, const char *const *cells);
size_t usage_table_count(const struct usage_table *table);
/* Nothing when no line was added. */
void usage_table_print(const struct usage_table *table);
/* NULLs; no-op on NULL. */
void usage_table_destroy(struct usage_table **table);

#endif
