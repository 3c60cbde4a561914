/* Takes the rows of the provider `file` into its directory: one file an epoch, the same whenever it is written. */
#ifndef BILLING_FILE_SENDER_H
#define BILLING_FILE_SENDER_H

#include <stdbool.h>

#include "billing/row_state.h"

/* For one thread. */
struct file_sender;

/* @states outlive it; rows may be added to them meanwhile. NULL: no memory. */
struct file_sender *file_sender_create(struct row_states *states);
/* NULLs; no-op on NULL. */
void file_sender_destroy(struct file_sender **sender);

/* Write what is pending, or was sent without an answer, as @policy says where; nothing when it does not name the
 * provider. True: @until came first. */
bool file_sender_turn(struct file_sender *sender, const struct policy *policy, mono_ms until);
/* A person changed a row: look at all of them again, now. */
void file_sender_look_again(struct file_sender *sender);
/* Why nothing goes at the moment; "" = all is well. */
const char *file_sender_trouble(const struct file_sender *sender);

#endif
