/* Where usage stands at one provider, for people. Pure. */
#ifndef BILLING_USAGE_STATUS_H
#define BILLING_USAGE_STATUS_H

#include <stddef.h>
#include <stdint.h>

#include "billing/row_state.h"

enum { USAGE_STATUS_WAITING_MAX = 20 };

/* A row that is held or rejected. */
struct usage_waiting {
    char id[ROW_ID_CHARACTERS + 1];
    char tenant[RECORD_NAME_BYTES_MAX + 1];
    char meter[ROW_METER_BYTES_MAX + 1];
    int64_t quantity;
    wall_ms ended;
    enum row_state state;
    char reason[ROW_REASON_BYTES_MAX + 1];
};

struct usage_status {
    enum provider_kind provider;
    uint64_t rows[ROW_STATE_COUNT]; /* since the provider is there, with those that left memory */
    wall_ms oldest;                 /* end of the oldest epoch with a row that is pending or sent; 0 = there is none */
    wall_ms last_acked;             /* when the provider last took a row, or had it; 0 = never */
    /* Held and rejected ones, the oldest first; how many there are stands in @rows. */
    size_t waiting_count;
    struct usage_waiting waiting[USAGE_STATUS_WAITING_MAX];
};

void usage_status_of(const struct row_states *states, enum provider_kind provider, struct usage_status *ret);
/* All that are held or rejected, the oldest first; the caller frees them. NULL: no memory. */
struct usage_waiting *usage_waiting_all(const struct row_states *states, size_t *ret_count);

#endif
