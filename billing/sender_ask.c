/* Rows that may have arrived, and are too old to be sent blindly: the provider's total of their hour tells, or a person
 * does. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "billing/reconcile.h"
#include "billing/sender_private.h"

enum {
    QUIET_MS = 60 * 1000, /* a total is asked for so long after the last call that may have changed it */
    LOOK_MS = 1000,
    HOUR_MS = 3600 * 1000
};

static wall_ms hour_of(const struct row_entry *entry)
{
    return clock_hour(entry->row.ended);
}

/* It is one of those that the total counts, if they arrived. */
static bool is_counted_with(const struct sender *sender, const struct flight *flight, const struct row_entry *asked,
                            const struct row_entry *entry)
{
    bool may_be_there = entry->first_sent != 0 || row_state_is_delivered(entry->state);
    return may_be_there && entry->state != ROW_REJECTED && hour_of(entry) == hour_of(asked) &&
           sender_is_same_lane(sender, asked, flight->customer, entry);
}

/* When the last of those was called, or moved; INT64_MIN = never. */
static wall_ms last_move(const struct sender *sender, const struct flight *flight, const struct row_entry *asked)
{
    wall_ms last = INT64_MIN;
    for (size_t i = 0; i < row_states_count(sender->states); i++) {
        const struct row_entry *entry = row_states_at(sender->states, i);
        if (entry->when > last && is_counted_with(sender, flight, asked, entry))
            last = entry->when;
    }
    return last;
}

/* The hour's rows that went count as well. False with a trouble. */
static bool recall(struct sender *sender, const struct flight *flight)
{
    const struct row_entry *asked = row_states_find(sender->states, flight->id);
    if (row_states_recall(sender->states, hour_of(asked), hour_of(asked) + HOUR_MS))
        return true;
    sender_set_trouble(sender, "what was delivered in an hour cannot be read: %s",
                       errno == EBADMSG ? "its file is damaged" : strerrordesc_np(errno));
    return false;
}

/* How long until the total has surely taken in whatever was called: by the clock that says less, because one of them
 * may have been set. */
static int64_t quiet_left_ms(const struct sender *sender, const struct flight *flight)
{
    const struct row_entry asked = *row_states_find(sender->states, flight->id); /* others are looked at */
    struct delivery_now now = sender_now();
    if (sender_lane_is_busy(sender, &asked, flight->customer))
        return QUIET_MS;
    wall_ms last = last_move(sender, flight, &asked);
    int64_t by_mono = flight->quiet_from + QUIET_MS - now.mono;
    int64_t by_wall = last == INT64_MIN || last > now.wall ? by_mono : last + QUIET_MS - now.wall;
    int64_t left = by_wall < by_mono ? by_wall : by_mono;
    return left > 0 ? left : 0;
}

void sender_prepare_question(struct sender *sender, struct flight *flight, const struct delivery_turn *turn)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    const struct row_entry *entry = row_states_find(sender->states, turn->id);
    const char *customer = sender_customer(sender, entry);
    bool lacks = customer == NULL || customer[0] == '\0';
    if (lacks && provider_holds(&entry->row, customer, clock_wall_ms(), reason)) {
        sender_hold(sender, turn->id, reason);
        return;
    }
    text_copy(flight->id, sizeof flight->id, text_of(turn->id));
    text_copy(flight->customer, sizeof flight->customer, text_of(customer));
    flight->quiet_from = flight->look_from = clock_mono_ms();
    flight->phase = FLIGHT_QUIET;
}

static void on_total(void *owner, int64_t total, const char *error)
{
    struct flight *flight = owner;
    struct sender *sender = flight->sender;
    flight->phase = FLIGHT_COUNTED;
    flight->is_counted = error[0] == '\0';
    flight->total = total;
    if (!flight->is_counted)
        sender_set_trouble(sender, "asked what it has of a row: %s", error);
    loop_at_turn_end(sender->loop, &sender->turn_end);
}

static void ask(struct sender *sender, struct flight *flight)
{
    const struct row_entry *entry = row_states_find(sender->states, flight->id);
    const struct totals_question question = {.provider = sender->provider,
                                             .event_name = row_event_name(&entry->row),
                                             .customer = flight->customer,
                                             .from = hour_of(entry),
                                             .to = hour_of(entry) + HOUR_MS};
    flight->phase = FLIGHT_ASKED;
    if (!totals_ask(sender->totals, &question, on_total, flight))
        on_total(flight, 0, "out of memory");
}

/* Ask when it is quiet. Returns how long until it is worth looking again; -1 = it was asked. */
static int64_t ask_when_quiet(struct sender *sender, struct flight *flight)
{
    mono_ms now = clock_mono_ms();
    if (now < flight->look_from)
        return flight->look_from - now;
    int64_t left = recall(sender, flight) ? quiet_left_ms(sender, flight) : QUIET_MS;
    if (left == 0) {
        ask(sender, flight);
        return -1;
    }
    left = left < LOOK_MS ? left : LOOK_MS; /* all rows are looked at, and a clock may be set */
    flight->look_from = now + left;
    return left;
}

/* What the states say of the same customer, meter and hour. False when a sum overflows. */
static bool find_facts(const struct sender *sender, const struct flight *flight, const struct row_entry *asked,
                       struct reconcile_facts *ret)
{
    *ret = (struct reconcile_facts){.provider_total = flight->total, .quantity = asked->row.quantity};
    for (size_t i = 0; i < row_states_count(sender->states); i++) {
        const struct row_entry *entry = row_states_at(sender->states, i);
        int64_t *sum = !row_state_is_delivered(entry->state) ? &ret->unclear
                       : row_entry_is_by_hand(entry)         ? &ret->by_hand
                                                             : &ret->delivered;
        if (entry == asked || !is_counted_with(sender, flight, asked, entry))
            continue;
        if (__builtin_add_overflow(*sum, entry->row.quantity, sum))
            return false;
    }
    return true;
}

/* The total proves the same of every row that was sent and not answered. */
static void settle_all(struct sender *sender, const struct flight *flight, enum row_state state,
                       enum delivery_found found)
{
    const struct row_entry *asked = row_states_find(sender->states, flight->id);
    const char *reason = state == ROW_ACKED ? "found at reconciling" : "not found at reconciling";
    for (size_t i = 0; i < row_states_count(sender->states); i++) {
        const struct row_entry *entry = row_states_at(sender->states, i);
        bool is_it = entry == asked;
        if (entry->state != ROW_SENT || (!is_it && !is_counted_with(sender, flight, asked, entry)))
            continue;
        bool is_moved = sender_move(sender, entry->row.id, state, reason);
        if (is_moved && state == ROW_ACKED)
            sender_count(sender, "acked");
        if (!is_it && is_moved)
            delivery_reconciled(sender->delivery, entry->row.id, found, sender_now());
    }
}

static void hold_undecided(struct sender *sender, const char *id, const struct reconcile_facts *facts)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    snprintf(reason, sizeof reason,
             "unclear whether it arrived: the provider has %" PRId64 " of this hour, known are %" PRId64
             ", by hand %" PRId64 ". Look there: delivered, or release to send it",
             facts->provider_total, facts->delivered, facts->by_hand);
    if (!row_states_hold_undecided(sender->states, id, clock_wall_ms(), reason)) {
        sender_say_unwritable(sender);
        return;
    }
    sender_count(sender, "held");
    sender_log_row(row_states_find(sender->states, id));
}

/* The provider said its total. */
static enum delivery_found settle(struct sender *sender, const struct flight *flight)
{
    struct reconcile_facts facts;
    const struct row_entry *entry = row_states_find(sender->states, flight->id);
    if (!flight->is_counted || !recall(sender, flight))
        return FOUND_NO_ANSWER;
    if (!sender_row_is_open(entry)) /* a person was faster */
        return FOUND_UNCLEAR;
    bool is_summed = find_facts(sender, flight, entry, &facts);
    enum reconcile_finding finding = is_summed ? reconcile_row(&facts) : RECONCILE_UNCLEAR;
    if (entry->state == ROW_PENDING && !row_states_mark_sent(sender->states, flight->id, entry->when, flight->customer))
        return FOUND_NO_ANSWER; /* released meanwhile: only what is sent can be found */
    if (finding == RECONCILE_UNCLEAR)
        hold_undecided(sender, flight->id, &facts);
    else if (finding == RECONCILE_TAKEN)
        settle_all(sender, flight, ROW_ACKED, FOUND_TAKEN);
    else
        settle_all(sender, flight, ROW_PENDING, FOUND_NOT_TAKEN);
    static const enum row_state AFTER[] = {
        [RECONCILE_TAKEN] = ROW_ACKED, [RECONCILE_NOT_TAKEN] = ROW_PENDING, [RECONCILE_UNCLEAR] = ROW_HELD};
    static const enum delivery_found FOUND[] = {
        [RECONCILE_TAKEN] = FOUND_TAKEN, [RECONCILE_NOT_TAKEN] = FOUND_NOT_TAKEN, [RECONCILE_UNCLEAR] = FOUND_UNCLEAR};
    bool is_written = row_states_find(sender->states, flight->id)->state == AFTER[finding];
    return is_written && sender_sync(sender) ? FOUND[finding] : FOUND_NO_ANSWER;
}

/* A person knew that it arrived, so long ago that it went. */
static void drop_if_gone(struct sender *sender, struct flight *flight)
{
    bool is_question =
        flight->phase == FLIGHT_QUIET || flight->phase == FLIGHT_COUNTED; /* of one that is asked, the answer comes */
    if (!is_question || row_states_find(sender->states, flight->id) != NULL)
        return;
    delivery_drop(sender->delivery, flight->id);
    sender_free_flight(flight);
}

int64_t sender_reconcile(struct sender *sender)
{
    int64_t wait_ms = -1;
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++) {
        struct flight *flight = &sender->flights[i];
        drop_if_gone(sender, flight);
        if (flight->phase == FLIGHT_COUNTED) {
            enum delivery_found found = settle(sender, flight);
            delivery_reconciled(sender->delivery, flight->id, found, sender_now());
            sender_free_flight(flight);
        }
        if (flight->phase != FLIGHT_QUIET || sender->provider == NULL)
            continue;
        int64_t left = ask_when_quiet(sender, flight);
        if (left >= 0 && (wait_ms < 0 || left < wait_ms))
            wait_ms = left;
    }
    return wait_ms;
}
