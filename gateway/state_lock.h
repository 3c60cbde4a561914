/* One gateway process at a time for one state_dir: journals, ledgers and states have one writer. */
#ifndef GATEWAY_STATE_LOCK_H
#define GATEWAY_STATE_LOCK_H

enum { STATE_LOCK_ERROR_BYTES = 512 };

/* Take state_dir/lock, made when missing; a holder that is about to end is waited for. The lock ends with this process,
 * however it ends, and no child inherits it. -1 with @error in words for a person; else a descriptor that only
 * state_lock_release may close. */
int state_lock_take(const char *state_dir, char error[STATE_LOCK_ERROR_BYTES]);
/* Sets -1; no-op on -1. */
void state_lock_release(int *fd);

#endif
