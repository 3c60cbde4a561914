/* The ledger: one file for each sealed epoch of each writer, with its cells. Written once, read by everything that
 * turns usage into money. */
#ifndef BILLING_LEDGER_H
#define BILLING_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "billing/cells.h"
#include "billing/journal.h"

/* Which epoch. A file is called <writer>-<epoch, 8 digits or more>.jsonl. */
struct ledger_name {
    char writer[WRITER_ID_CHARACTERS + 1]; /* lower-case hexadecimal */
    uint64_t epoch;
};

/* By writer, then by epoch; for qsort and bsearch: both point to a struct ledger_name. */
int ledger_name_compare(const void *left, const void *right);

/* A file's first line. */
struct ledger_head {
    struct ledger_name name;
    wall_ms began, ended; /* of its first and last CLOSE; both in one UTC hour */
    size_t cell_count;
};

/* Write the file into @directory, which exists: whole, synced, under its name only then. When it is there already,
 * nothing is done: an epoch never changes. @head's cell_count is not read. False with errno. */
bool ledger_write(const char *directory, const struct ledger_head *head, const struct cells *cells);

/* All files of @directory, sorted by writer and epoch; other files are passed over. A directory that does not exist has
 * none. The array is the caller's, to free(). False with errno. */
bool ledger_list(const char *directory, struct ledger_name **ret, size_t *ret_count);

/* Read a file. @ret_cells (may be NULL: only the head is read) is the caller's, to destroy. False with errno; EBADMSG =
 * it is not what was written. */
bool ledger_read(const char *directory, const struct ledger_name *name, struct ledger_head *ret,
                 struct cells **ret_cells);

/* Remove the files whose epoch ended before @before and that @may_go (asked for these only) lets go. Returns how many
 * went. What cannot be read stays, and what comes behind an epoch of its writer that stays because of its time. */
typedef bool ledger_may_go(void *owner, const struct ledger_head *head);
size_t ledger_expire(const char *directory, wall_ms before, ledger_may_go *may_go, void *owner);

#endif
