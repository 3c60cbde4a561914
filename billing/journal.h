/* One worker's append-only journal: what was dispatched and what it cost, on disk before the last byte leaves. */
#ifndef BILLING_JOURNAL_H
#define BILLING_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "billing/record.h"

/* A writer: state_dir/journal/<slot>-<writer id>/, its segments NNNNNNNN.seg inside. The worker's thread only. */
struct journal;

enum { WRITER_ID_CHARACTERS = 32, JOURNAL_SEGMENT_BYTES = 16 * 1024 * 1024, JOURNAL_OPEN_MAX = 65536 };

enum journal_sync {
    JOURNAL_OS,   /* write(2): survives kill -9 of everything, not a power cut */
    JOURNAL_GROUP /* and fdatasync, by a thread of its own, many records at once */
};

struct journal_options {
    const char *directory; /* state_dir/journal, existing */
    int slot;              /* the worker's number */
    enum journal_sync sync;
    int64_t segment_bytes; /* JOURNAL_SEGMENT_BYTES; tests use less */
    int64_t epoch_ms;      /* 1 s .. 1 h; epochs are also cut at the UTC hour */
};

/* A request that waits until what it appended is as durable as the level says. In the caller's memory, which must stay
 * until @durable was called or journal_forget. */
struct journal_wait {
    /* On the loop's thread, at the end of a turn. @ok false: the disk refused; the record may or may not be there. */
    void (*durable)(struct journal_wait *wait, bool ok);
    void *owner;
    struct journal_wait *_next;
    uint64_t _sequence;
};

/* Make a fresh writer. NULL with errno: no space, no permission. */
struct journal *journal_create(struct loop *loop, const struct journal_options *options);
/* Everything appended is written, the open epoch sealed; FINISH ends it, and the file behind it, unless some OPEN still
 * lacks its CLOSE: then journal_recover ends it. No request may wait. NULLs. */
void journal_destroy(struct journal **journal);

/* Before dispatch. False when the disk is full or failing (or JOURNAL_OPEN_MAX are open, or the two segments that are
 * there have no room for one more CLOSE): refuse the request with 503, also when @wait is told false later. Room for
 * the CLOSE of every open request and for SEALs is always kept in reserve. */
bool journal_open(struct journal *journal, const struct record *open, struct journal_wait *wait);
/* Best effort: dropped when the disk is nearly full. */
void journal_progress(struct journal *journal, struct text request_id, int64_t output_tokens, wall_ms when);
/* Once for every journal_open that was true, also when it was told false or forgotten while it waited: its OPEN is in
 * the journal, or will be. The epoch is filled in. @wait may be NULL. Without memory it is told false here and now. */
void journal_close(struct journal *journal, const struct record *close, struct journal_wait *wait);
/* No call will come. No-op when it does not wait. */
void journal_forget(struct journal *journal, struct journal_wait *wait);

/* Refuses OPENs at the moment, and why ("" = no). */
const char *journal_trouble(const struct journal *journal);
const char *journal_writer_id(const struct journal *journal);
/* The longest that a write(2), or making room for more, kept the worker's thread in the last minute: for /readyz. */
int64_t journal_slowest_write_us(const struct journal *journal);

#endif
