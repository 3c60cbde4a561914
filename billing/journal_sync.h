/* The thread that calls fdatasync for one journal, many records at once. Used by journal.c only. */
#ifndef BILLING_JOURNAL_SYNC_H
#define BILLING_JOURNAL_SYNC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"

struct journal_sync_thread;

/* On the loop's thread: everything written before the ask for @sequence is on the disk; or the disk refused. */
typedef void journal_synced(void *owner, uint64_t sequence, bool ok);

struct journal_sync_thread *journal_sync_create(struct loop *loop, int fd, journal_synced *synced, void *owner);
/* Everything up to @sequence has been written: sync it, and tell. Asks made meanwhile share the next sync. */
void journal_sync_ask(struct journal_sync_thread *sync, uint64_t sequence);
/* Go on with @next_fd; @old_fd, which is the thread's now, is synced and closed first. */
void journal_sync_switch(struct journal_sync_thread *sync, int old_fd, int next_fd);
/* A last sync; joins. No call comes any more. NULLs; no-op on NULL. */
void journal_sync_destroy(struct journal_sync_thread **sync);

#endif
