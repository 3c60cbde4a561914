/* One writer's journal read as it grows: each sealed epoch becomes a ledger file, and what is known of the segments
 * says when they may go. */
#ifndef BILLING_HARVEST_H
#define BILLING_HARVEST_H

#include <stdbool.h>
#include <stdint.h>

#include "billing/ledger.h"

/* For one thread. */
struct harvest;

enum { HARVEST_TROUBLE_BYTES = 200 };

/* Touches no file yet. NULL: no memory. */
struct harvest *harvest_create(const char *writer_directory, const char *writer_id, const char *ledger_directory);
/* NULLs; no-op on NULL. */
void harvest_destroy(struct harvest **harvest);

/* @name has its ledger file; told again for those of a journal that is read again after a start. */
typedef void harvest_sealed(void *owner, const struct ledger_name *name);
enum harvest_result {
    HARVEST_MORE,  /* @until came first */
    HARVEST_IDLE,  /* all that is there was read */
    HARVEST_FAILED /* harvest_trouble says why; nothing is lost, call again later */
};
enum harvest_result harvest_turn(struct harvest *harvest, mono_ms until, harvest_sealed *sealed, void *owner);
/* Another hand wrote behind what was read: read from the file, not from memory. */
void harvest_rest(struct harvest *harvest);

const char *harvest_writer_id(const struct harvest *harvest);
const char *harvest_directory(const struct harvest *harvest);
const char *harvest_trouble(const struct harvest *harvest);
/* FINISH was read, and everything before it is in ledger files. */
bool harvest_is_finished(const struct harvest *harvest);
/* Wall time of the first CLOSE that is in no ledger file yet, as far as was read; 0 = there is none. */
wall_ms harvest_oldest(const struct harvest *harvest);
/* False: @epoch may stand in the journal, but its SEAL was not read yet. @ret_sequence is the SEAL's; 0 when the
 * journal does not have it any more. */
bool harvest_seal_of(const struct harvest *harvest, uint64_t epoch, uint64_t *ret_sequence);
/* @epoch may stand in what the journal still has, as a whole or in part. */
bool harvest_may_hold(const struct harvest *harvest, uint64_t epoch);

/* ---- segments, the oldest first ---- */

struct harvest_segment {
    uint32_t number;
    uint64_t last_sequence;
    wall_ms last_when;
    uint64_t first_epoch, last_epoch; /* of the CLOSEs and SEALs in it; 0 = none */
    uint64_t open_count;              /* OPENs in it whose CLOSE was not read */
};
/* The oldest segment, once it was read to its end and another one, or FINISH, came behind it. */
bool harvest_oldest_segment(const struct harvest *harvest, struct harvest_segment *ret);
/* Remove that segment's file. False with errno. */
bool harvest_remove_segment(struct harvest *harvest);

#endif
