/* What became of each row at one provider: an append-only file of states, the last of each row counts. */
#ifndef BILLING_ROW_STATE_H
#define BILLING_ROW_STATE_H

#include <stdbool.h>
#include <stddef.h>

#include "billing/row.h"

enum row_state {
    ROW_PENDING,   /* to be sent */
    ROW_SENT,      /* may have arrived: written before the first byte of it leaves */
    ROW_ACKED,     /* the provider took it */
    ROW_DUPLICATE, /* the provider had it already: delivered as well */
    ROW_REJECTED,  /* the provider refuses what it says; a person looks */
    ROW_HELD,      /* waits for a person: the reason says for what */
    ROW_STATE_COUNT
};
extern const char *const ROW_STATE_NAMES[ROW_STATE_COUNT]; /* "pending", "sent", … */

/* Whether the rules know this move: pending -> sent, held; sent -> sent (again), pending (surely not taken), acked,
 * duplicate, rejected, held; rejected -> pending (as the next revision), held -> pending (released), held -> acked (a
 * person knows that it arrived). Delivered is for ever. */
bool row_state_may_move(enum row_state from, enum row_state to);

enum { ROW_REASON_BYTES_MAX = 200, ROW_REVISION_MAX = 1000, ROW_CUSTOMER_BYTES_MAX = 255 };

struct row_entry {
    struct row row; /* as it was when it was added: a later configuration does not change what it is the sum of */
    enum row_state state;
    unsigned revision;                         /* how often it was rejected and tried again */
    wall_ms when;                              /* of the last move */
    wall_ms first_sent;                        /* since when it may have arrived; 0 = it has not, in this revision */
    char customer[ROW_CUSTOMER_BYTES_MAX + 1]; /* for whom it was sent, while it may have arrived; "" = none */
    bool undecided; /* held, because the provider was asked and its total does not tell whether the row arrived */
    char reason[ROW_REASON_BYTES_MAX + 1]; /* "" = none */
};

/* All rows of one provider. One owner; the file has one writer at a time, which the lock on state_dir keeps. */
struct row_states;

/* Read <directory>/<provider>.states, which need not exist, and write it anew without what no longer counts. A torn
 * last line is cut off. NULL with errno; EBADMSG = it is damaged elsewhere. */
struct row_states *row_states_open(const char *directory, enum provider_kind provider);
/* The same to look at only, also while it is written. */
struct row_states *row_states_read(const char *directory, enum provider_kind provider);
void row_states_close(struct row_states **states);

/* A new row, pending or held. One that is known stays as it is. False with errno: nothing changed. */
bool row_states_add(struct row_states *states, const struct row *row, enum row_state state, wall_ms when,
                    const char *reason);
/* Move a row that is there, as row_state_may_move allows; @reason is cut to fit. Sent -> pending says that no try of
 * the row has arrived; so does releasing an undecided one. False with errno: nothing changed. */
bool row_states_move(struct row_states *states, const char *id, enum row_state state, wall_ms when, const char *reason);
/* Move it to sent. The first try says for which @customer, and that stays until it surely has not arrived. */
bool row_states_mark_sent(struct row_states *states, const char *id, wall_ms when, const char *customer);
/* Move it to held: a person decides whether it arrived. */
bool row_states_hold_undecided(struct row_states *states, const char *id, wall_ms when, const char *reason);
/* Give a held row that no meter took the meter called @event_name, for ever. It stays held; its name and id stay. */
bool row_states_give_meter(struct row_states *states, const char *id, wall_ms when, const char *event_name);
/* Everything told so far is on the disk. False with errno. */
bool row_states_sync(struct row_states *states);

/* NULL when it is not known. Valid until the next add. */
const struct row_entry *row_states_find(const struct row_states *states, const char *id);
/* How often a row's state was changed, since they were opened. */
uint64_t row_states_moves(const struct row_states *states);
/* In the order in which they were added. */
size_t row_states_count(const struct row_states *states);
const struct row_entry *row_states_at(const struct row_states *states, size_t place);

#endif
