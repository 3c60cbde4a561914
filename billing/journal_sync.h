/* The thread that calls fdatasync for one journal, many records at once. Used by journal.c only. */
#ifndef BILLING_JOURNAL_SYNC_H
#define BILLING_JOURNAL_SYNC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"

struct journal_sync_thread;

/* On the loop's thread: everything through @durable is on the disk; when @refused is greater, the disk refused what is
 * between the two, which is tried again. */
typedef void journal_synced(void *owner, uint64_t durable, uint64_t refused);

/* Sync the new @directory and its parent here and now, and start the thread. @fd stays the caller's as long as it is
 * the last segment. NULL with errno. */
struct journal_sync_thread *journal_sync_create(struct loop *loop, const char *directory, int fd,
                                                journal_synced *synced, void *owner);
/* Everything up to @sequence has been written, @written_bytes of it to the last segment: sync it, and tell. Asks made
 * meanwhile share the next sync. */
void journal_sync_ask(struct journal_sync_thread *sync, uint64_t sequence, int64_t written_bytes);
/* Too many earlier segments wait for a slow disk: journal_sync_switch may not be called now. */
bool journal_sync_is_full(struct journal_sync_thread *sync);
/* Go on with @next_fd, the segment @next_number. The segment until now, of @written_bytes, is the thread's: once it is
 * synced and closed, the next is renamed from .next to .seg. So after a power cut only the last .seg can be torn. */
void journal_sync_switch(struct journal_sync_thread *sync, int64_t written_bytes, int next_fd, uint32_t next_number);
/* A last sync; joins. No call comes any more. NULLs; no-op on NULL. */
void journal_sync_destroy(struct journal_sync_thread **sync);

#endif
