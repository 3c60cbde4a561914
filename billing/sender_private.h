/* The inside of a sender, for its own three files. */
#ifndef BILLING_SENDER_PRIVATE_H
#define BILLING_SENDER_PRIVATE_H

#include "billing/deliver.h"
#include "billing/sender.h"
#include "billing/totals.h"

enum { SENDER_TROUBLE_BYTES = 512 };

enum phase {
    FLIGHT_FREE,
    FLIGHT_MARKED, /* sent by its state; nothing has left */
    FLIGHT_CALLED, /* no answer yet */
    FLIGHT_TOLD,   /* answered: @outcome */
    FLIGHT_QUIET,  /* its total will be asked for */
    FLIGHT_ASKED,  /* no answer yet */
    FLIGHT_COUNTED /* answered: @total */
};

/* A row for which delivery_next said what to do. */
struct flight {
    struct sender *sender;
    enum phase phase;
    struct fetch *fetch;
    char id[ROW_ID_CHARACTERS + 1];
    char identifier[ROW_ID_CHARACTERS + 1];
    char customer[ROW_CUSTOMER_BYTES_MAX + 1];
    bool was_clean; /* no try before this one may have arrived */
    struct provider_call call;
    struct provider_outcome outcome;
    mono_ms quiet_from;
    mono_ms look_from; /* whether it is quiet */
    int64_t total;
    bool is_counted;
};

struct sender {
    struct loop *loop;
    struct fetcher *fetcher;
    struct row_states *states;
    enum provider_kind kind;
    char install_id[INSTALL_ID_CHARACTERS + 1];
    struct delivery *delivery;
    struct totals *totals;
    const struct policy *policy;            /* held; NULL before the first turn */
    const struct provider_policy *provider; /* in it; NULL = nothing goes */
    struct flight flights[DELIVERY_IN_FLIGHT_MAX];
    size_t next_place;        /* of the first state that the delivery has not seen; */
    size_t skipped_place;     /* but the first of these, whose lane was full; SIZE_MAX = none, */
    uint64_t forgotten_known; /* when the delivery had forgotten so many rows */
    uint64_t moves_known;     /* of the states: more were made by a person */
    uint64_t shifts_known;
    struct loop_timer timer;
    struct loop_turn_end turn_end;
    const char *idle_because; /* NULL = it is not */
    char trouble[SENDER_TROUBLE_BYTES];
    mono_ms log_from; /* no trouble is logged before */
};

/* ---- sender_rows.c ---- */

struct delivery_now sender_now(void);
/* The last answer that was not taken, for people; logged when it changes. "" = all is well. */
__attribute__((format(printf, 2, 3))) void sender_set_trouble(struct sender *sender, const char *format, ...);
/* errno is what the states' file was refused for. */
void sender_say_unwritable(struct sender *sender);
void sender_count(const struct sender *sender, const char *result);
/* A row that now waits for a person. */
void sender_log_row(const struct row_entry *entry);
/* False with a trouble when the disk refuses: what was known stays. */
bool sender_move(struct sender *sender, const char *id, enum row_state state, const char *reason);
/* A person decides about a row in flight, and the delivery forgets it; later, with a trouble, when the disk refuses. */
void sender_hold(struct sender *sender, const char *id, const char *reason);
/* False with a trouble. */
bool sender_sync(struct sender *sender);
/* For whom the row goes: while an earlier try may have arrived, as it went then. NULL or "" when there is nobody. */
const char *sender_customer(const struct sender *sender, const struct row_entry *entry);
/* False for NULL: it was delivered, and went. */
bool sender_row_is_open(const struct row_entry *entry);
/* @b is for @customer as well, and of @a's meter. */
bool sender_is_same_lane(const struct sender *sender, const struct row_entry *a, const char *customer,
                         const struct row_entry *b);
/* A call of the lane is out, or about to be. The delivery knows lanes too, but not that a reload renamed a customer. */
bool sender_lane_is_busy(const struct sender *sender, const struct row_entry *entry, const char *customer);
void sender_free_flight(struct flight *flight);

/* ---- sender_ask.c ---- */

/* A DELIVERY_RECONCILE. */
void sender_prepare_question(struct sender *sender, struct flight *flight, const struct delivery_turn *turn);
/* Ask what may be asked, take over what was answered. Returns how long until the next question, -1 = none. */
int64_t sender_reconcile(struct sender *sender);

#endif
