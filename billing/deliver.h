/* Which row of one provider may go now: back-off, one call a lane, what is too old to be sent blindly. Pure. */
#ifndef BILLING_DELIVER_H
#define BILLING_DELIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "billing/provider.h"

enum {
    DELIVERY_ROWS_MAX = 10000,                       /* known at a time; the rest waits in its states */
    DELIVERY_LANE_ROWS_MAX = DELIVERY_ROWS_MAX / 16, /* of one lane: one that is stuck leaves room for others. As many
                                                        again when they may have arrived: those go first */
    DELIVERY_IN_FLIGHT_MAX = 16,
    DELIVERY_BACKOFF_FIRST_MS = 1000,
    DELIVERY_BACKOFF_MAX_MS = 5 * 60 * 1000,
    DELIVERY_PROBE_FIRST_MS = 60 * 1000, /* one call, while nothing of the provider goes */
    DELIVERY_PROBE_MAX_MS = 3600 * 1000,
    DELIVERY_MARGIN_MS = 3600 * 1000 /* before the provider may forget an identifier */
};

struct delivery;

/* The two times of one moment. */
struct delivery_now {
    wall_ms wall;
    mono_ms mono;
};

/* NULL when memory is exhausted. */
struct delivery *delivery_create(const struct provider_capabilities *can, uint64_t seed);
void delivery_destroy(struct delivery **delivery);

/* A row that is pending, or sent without an answer. @lane names its (customer, meter): rows of one lane never overlap
 * at a provider that wants it so, and none of them goes while it is unclear whether another has arrived. @sent: since
 * when it may have arrived; 0 = it has not. False when there are DELIVERY_ROWS_MAX, or as many as there may be of its
 * lane; a row that is known stays as it is. */
bool delivery_add(struct delivery *delivery, const char *id, struct text lane, wall_ms sent);
/* Forget a row, also one in flight. No-op when it is not known. */
void delivery_drop(struct delivery *delivery, const char *id);

enum delivery_step {
    DELIVERY_SEND,      /* this row: write its SENT, then call; tell the outcome with delivery_told */
    DELIVERY_RECONCILE, /* ask first whether it is there: the provider may have forgotten its identifier. Tell the
                           answer with delivery_reconciled */
    DELIVERY_HOLD,      /* too old, and the provider cannot tell: a person decides. Drop the row, or tell that it is for
                           later */
    DELIVERY_WAIT       /* nothing before @wait_ms, or before something is told or added (then it is -1) */
};
struct delivery_turn {
    enum delivery_step step;
    char id[ROW_ID_CHARACTERS + 1];
    unsigned generation; /* for struct provider_event. By chance at first for a row that was sent before this delivery
                            began: what answers are stored is not known */
    int64_t wait_ms;
};
/* The oldest row that may go. Until it is told about, it is in flight. */
struct delivery_turn delivery_next(struct delivery *delivery, struct delivery_now now);

/* What the provider made of the row. RETRY, STORED, LATER and HOLD_ALL keep it here for another try; the others end it.
 */
void delivery_told(struct delivery *delivery, const char *id, const struct provider_outcome *outcome,
                   struct delivery_now now);

/* The row was not called, and is for later: a matter of its own, which says nothing of the others. */
void delivery_wait(struct delivery *delivery, const char *id, int64_t after_ms, struct delivery_now now);

enum delivery_found {
    FOUND_TAKEN,     /* it is there: the row ends here */
    FOUND_NOT_TAKEN, /* it is not: it may be sent */
    FOUND_UNCLEAR,   /* a person decides: the row ends here */
    FOUND_NO_ANSWER  /* ask again, later */
};
/* One answer may tell about several rows: also of those that are not in flight, or not known. */
void delivery_reconciled(struct delivery *delivery, const char *id, enum delivery_found found, struct delivery_now now);

/* A person repaired something: what was put off goes now. */
void delivery_hurry(struct delivery *delivery);
/* How many rows are known. */
size_t delivery_count(const struct delivery *delivery);
/* How many rows were forgotten since the beginning, for whatever reason: where one was refused there may be room. */
uint64_t delivery_forgotten(const struct delivery *delivery);

#endif
