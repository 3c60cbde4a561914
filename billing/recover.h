/* Journals read back: iteration for shippers and people, and what a dead writer left open. */
#ifndef BILLING_RECOVER_H
#define BILLING_RECOVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "billing/record.h"

/* Where a reader stands in a writer's directory. A plain value: can be kept and continued from. */
struct journal_position {
    uint32_t segment; /* number of the segment file */
    uint64_t offset;
    uint64_t sequence; /* of the last record read; 0 = none */
};

/* The writer's id in the name of its directory, "<slot>-<writer id>"; NULL when that is no writer's. */
const char *journal_writer_in(const char *directory_name);

/* Reads one writer's records in order, also while it is written; from the oldest segment there is when @from is NULL.
 */
struct journal_reader;
struct journal_reader *journal_reader_create(const char *writer_directory, const struct journal_position *from);
void journal_reader_destroy(struct journal_reader **reader);
enum journal_read { JOURNAL_RECORD, JOURNAL_NO_MORE_YET, JOURNAL_DAMAGED };
/* The record's texts are valid until the next call. DAMAGED: bytes or zeros where a record should be, and behind them,
 * at any byte, a later record that verifies; a gap in the sequence; a disk that fails. A tail with no such record
 * behind it is what a crash leaves, and no damage: more may come. */
enum journal_read journal_read_next(struct journal_reader *reader, struct record *ret);
struct journal_position journal_reader_position(const struct journal_reader *reader);

/* Finish a dead writer's journal: cut the torn tail, append a CLOSE (END_CRASH) for each OPEN without one — output and
 * time of the last PROGRESS, input as estimated; 0 and 0 when there was no PROGRESS — and the SEAL of its last epoch;
 * FINISH ends it, and the file behind it.
 * Repeating it changes nothing. False with errno; EBADMSG = it is damaged, and nothing was changed.
 * Records behind damage are neither cut nor used: requests and SEALs that belong to them may be what is missing, epochs
 * of them may be in the ledger already, and their numbers would not be those that Redis has. A power cut can leave the
 * same when the disk had written a later page and not an earlier one. The kernel writes a file's pages in order, so
 * that is rare; and only the epochs behind the last SEAL of this one writer wait for a person then. */
struct recovery {
    uint64_t records, crashed_requests;
    uint64_t torn_bytes; /* from the last whole record to the last byte that was not zero */
};
bool journal_recover(const char *writer_directory, bool bill_crash, struct recovery *ret);
/* The same, until another thread sets @stop: then false with ECANCELED, and nothing was changed. */
bool journal_recover_unless(const atomic_bool *stop, const char *writer_directory, bool bill_crash,
                            struct recovery *ret);
/* The writer's journal ends with a FINISH: nothing can come any more (recovered, or closed in order). */
bool journal_is_finished(const char *writer_directory);

#endif
