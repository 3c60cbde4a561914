/* An epoch as Redis has it (billing/ship.h says under which keys), to compare it with what it should be. */
#ifndef BILLING_REDIS_EPOCH_H
#define BILLING_REDIS_EPOCH_H

#include <stdbool.h>

#include "base/redis.h"
#include "billing/ledger.h"

enum redis_epoch {
    REDIS_EPOCH_READ,
    REDIS_EPOCH_ABSENT,  /* not sealed there (yet) */
    REDIS_EPOCH_DAMAGED, /* something in it is no cell */
    REDIS_EPOCH_DOWN,    /* redis_error says why */
    REDIS_EPOCH_FAILED   /* errno: memory */
};
/* @ret_cells is the caller's, to destroy; set only with READ. */
enum redis_epoch redis_epoch_read(struct redis *redis, const struct ledger_name *epoch, struct cells **ret_cells);

/* Pure: add the cell of a hash's field and value. False with errno; EBADMSG = it is none. */
bool redis_epoch_add(struct cells *cells, struct text field, struct text value);

#endif
