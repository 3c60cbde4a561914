/* What became of each row at one provider: an append-only file of states, the last of each row counts. What was
 * delivered some time ago leaves it, and memory, for a file of its UTC hour. */
#ifndef BILLING_ROW_STATE_H
#define BILLING_ROW_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
 * duplicate, rejected, held; rejected -> pending, held (as the next revision: the provider remembers what it rejected);
 * held -> pending (released); rejected, held -> acked (a person knows that it arrived, or billed it by hand). Delivered
 * is for ever. */
bool row_state_may_move(enum row_state from, enum row_state to);
/* Pending or sent: it goes by itself. */
bool row_state_is_due(enum row_state state);
/* Acked or duplicate. */
bool row_state_is_delivered(enum row_state state);

enum { ROW_REASON_BYTES_MAX = 200, ROW_REVISION_MAX = 1000, ROW_CUSTOMER_BYTES_MAX = 255 };

struct row_entry {
    struct row row; /* as it was when it was added: a later configuration does not change what it is the sum of */
    enum row_state state;
    unsigned revision;                         /* how often it was rejected and tried again */
    wall_ms when;                              /* of the last move */
    wall_ms first_sent;                        /* since when it may have arrived; 0 = it has not, or is by hand */
    char customer[ROW_CUSTOMER_BYTES_MAX + 1]; /* for whom it was sent, while it may have arrived; "" = none */
    bool undecided; /* held, because the provider was asked and its total does not tell whether the row arrived */
    char reason[ROW_REASON_BYTES_MAX + 1]; /* "" = none */
};

/* Delivered by the word of a person: the provider has it, or another bill has. */
bool row_entry_is_by_hand(const struct row_entry *entry);

/* The rows of one provider: those that are not delivered, and the youngest of those that are. One owner; the files have
 * one writer at a time, which the lock on state_dir keeps. */
struct row_states;

enum {
    ROW_KEPT_MS = 2 * 3600 * 1000, /* a delivered row leaves so long after its epoch ended and it moved last, */
    ROW_TIDY_MIN = 1024,           /* when so many lines go with it: what counts is written anew without them */
    ROW_LOOKS_MAX = 16
};

/* Read <directory>/<provider>.states, which is made when it does not exist. A torn last line is cut off. NULL with
 * errno; EBADMSG = it is damaged elsewhere. */
struct row_states *row_states_open(const char *directory, enum provider_kind provider);
/* The same to look at only, also while it is written. */
struct row_states *row_states_read(const char *directory, enum provider_kind provider);
void row_states_close(struct row_states **states);

/* Let delivered rows go, into <directory>/delivered/<provider>-<UTC hour>.states, when it is worth writing the others
 * anew; keep what waits for a person small. Rows of a file's epoch go together, because a file is written whole. Call
 * it now and then, not while rows of an epoch are being added. False with errno: nothing is lost. */
bool row_states_tidy(struct row_states *states, wall_ms now);
/* Have the rows that ended in the UTC hours of @from <= ended < @to here, also those that went; until the next tidy.
 * False with errno; EBADMSG = a file is damaged. */
bool row_states_recall(struct row_states *states, wall_ms from, wall_ms to);
/* Remove the files of hours that ended before @before. What cannot be removed stays. */
void row_states_expire(struct row_states *states, wall_ms before);

/* A new row, pending or held. One that is known stays as it is. False with errno: nothing changed. */
bool row_states_add(struct row_states *states, const struct row *row, enum row_state state, wall_ms when,
                    const char *reason);
/* The same for a row that other states, which are lost, may have had: pending becomes sent, and it may have arrived
 * since its epoch ended, also when it is held. */
bool row_states_add_doubtful(struct row_states *states, const struct row *row, enum row_state state, wall_ms when,
                             const char *reason);
/* Move a row that is there, as row_state_may_move allows; @reason is cut to fit. Sent -> pending says that no try of
 * the row has arrived; so does releasing an undecided one. False with errno: nothing changed. */
bool row_states_move(struct row_states *states, const char *id, enum row_state state, wall_ms when, const char *reason);
/* Move it to sent. The first try says for which @customer, and that stays until it surely has not arrived. */
bool row_states_mark_sent(struct row_states *states, const char *id, wall_ms when, const char *customer);
/* States that are lost may have sent a pending or held row since its last move: pending becomes sent, and it may have
 * arrived since. */
bool row_states_doubt(struct row_states *states, const char *id);
/* Move it to held: a person decides whether it arrived. */
bool row_states_hold_undecided(struct row_states *states, const char *id, wall_ms when, const char *reason);
/* Give a held row that no meter took the meter called @event_name, for ever. It stays held; its name and id stay. */
bool row_states_give_meter(struct row_states *states, const char *id, wall_ms when, const char *event_name);
/* Everything told so far is on the disk. False with errno. */
bool row_states_sync(struct row_states *states);

/* All rows of the writer's epochs up to this one were made, or need not be; 0 = none. Rows of a writer are added in
 * order of its epochs, each epoch's whole. */
uint64_t row_states_made(const struct row_states *states, const char *writer);
/* An epoch that needs no rows. In memory; it is written with the next tidy that writes. */
void row_states_note_made(struct row_states *states, const struct ledger_name *epoch);
/* An epoch of which no meter makes a row: nor do those that come later. False with errno. */
bool row_states_make_none(struct row_states *states, const struct ledger_name *epoch);

/* Until when these states are surely all that was known: the last row_states_live, 0 = never. States from a backup were
 * followed by others. */
wall_ms row_states_alive(const struct row_states *states);
/* They are in use, and nothing of what was lost with others is still to be made. False with errno. */
bool row_states_live(struct row_states *states, wall_ms now);

/* NULL when it is not known, or went. Valid until the next tidy; of a row that was not pending or sent then, or when
 * the states were opened, only until ROW_LOOKS_MAX other such rows were looked at, and as it was. */
const struct row_entry *row_states_find(const struct row_states *states, const char *id);
/* How often a row's state was changed, since they were opened; how often rows changed their places. */
uint64_t row_states_moves(const struct row_states *states);
uint64_t row_states_shifts(const struct row_states *states);
/* In the order in which they were added. */
size_t row_states_count(const struct row_states *states);
const struct row_entry *row_states_at(const struct row_states *states, size_t place);
/* The place of the first row (@after = ROW_STATES_BEGIN), or the next one, that is neither acked nor duplicate;
 * ROW_STATES_END = there is none. In no certain order. */
#define ROW_STATES_BEGIN SIZE_MAX
#define ROW_STATES_END   SIZE_MAX
size_t row_states_next_undelivered(const struct row_states *states, size_t after);
/* How many are pending or sent. */
uint64_t row_states_count_due(const struct row_states *states);
/* How many there are in @state, with those that went; and when the last one was delivered, 0 = none was. */
uint64_t row_states_count_of(const struct row_states *states, enum row_state state);
wall_ms row_states_last_delivered(const struct row_states *states);

#endif
