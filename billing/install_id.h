/* The installation's own random name, made once: identifiers of rows depend on it. */
#ifndef BILLING_INSTALL_ID_H
#define BILLING_INSTALL_ID_H

#include <stdbool.h>
#include <stddef.h>

#include "billing/row.h"

/* Read <state_dir>/install_id. Any thread. False with @error, of @capacity bytes, in words for a person: it is missing
 * or damaged. */
bool install_id_read(const char *state_dir, char ret[INSTALL_ID_CHARACTERS + 1], char *error, size_t capacity);
/* The same, and make it when there is none and no row was ever made here. A damaged one is never replaced: what was
 * sent under its names would be sent again under others. The caller's process holds the lock on @state_dir. */
bool install_id_make(const char *state_dir, char ret[INSTALL_ID_CHARACTERS + 1], char *error, size_t capacity);

#endif
