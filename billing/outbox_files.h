/* What stands on the disk for one provider beside its states: since when it is there, and the rows of the epoch that is
 * being added. */
#ifndef BILLING_OUTBOX_FILES_H
#define BILLING_OUTBOX_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "billing/row_state.h"

/* The time in <directory>/<provider>.since; when there is none it is @first_seen and is written. False with errno. */
bool outbox_files_since(const char *directory, enum provider_kind provider, wall_ms first_seen, wall_ms *ret);

/* Rows of one epoch. */
struct outbox_rows {
    enum provider_kind provider;
    const struct policy *policy; /* for what holds them */
    const struct row *rows;
    size_t count;
    wall_ms now;
    bool are_doubtful; /* states that were lost may have had them */
};
/* Add them to @states, pending or held, or sent when they are doubtful, so that all or none are there after a crash.
 * False with errno: a part may be there; outbox_files_finish makes it whole, if it can be. */
bool outbox_files_add(const char *directory, struct row_states *states, const struct outbox_rows *rows);
/* What was added to its end is forgotten, also after a power cut. False with errno. */
bool outbox_files_settle(const char *directory);
/* Add what a crash or a failure interrupted. False with errno. */
bool outbox_files_finish(const char *directory, struct row_states *states, enum provider_kind provider);

#endif
