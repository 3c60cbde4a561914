/* One pump for everything: what was answered is written down, what may go is marked as sent, one sync, then the calls
 * leave. */
#include "billing/sender.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "billing/sender_private.h"

enum {
    TIMEOUT_MS = 30 * 1000,
    CONNECT_TIMEOUT_MS = 10 * 1000,
    EARLY_MS = 60 * 1000,             /* a row that waits for the clock is looked at again: it may be set */
    AHEAD_MS = DELIVERY_IN_FLIGHT_MAX /* calls that would begin so soon leave at once, with one sync */
};

/* ---- what a call brought ---- */

static void on_call_done(void *owner, const struct fetch_result *result)
{
    struct flight *flight = owner;
    struct sender *sender = flight->sender;
    const struct provider_answer answer = {.status = result->status,
                                           .connect_failed = result->connect_failed,
                                           .body = result->body,
                                           .retry_after_ms = provider_retry_after_ms(result->retry_after)};
    flight->fetch = NULL;
    flight->outcome = stripe_classify(&answer, flight->identifier);
    flight->phase = FLIGHT_TOLD;
    if (flight->outcome.verdict == VERDICT_ACKED || flight->outcome.verdict == VERDICT_DUPLICATE)
        sender_set_trouble(sender, "%s", "");
    else
        sender_set_trouble(sender, "%s%s%s", flight->outcome.reason, result->error[0] != '\0' ? ": " : "",
                           result->error);
    loop_at_turn_end(sender->loop, &sender->turn_end);
}

/* What the verdict makes of the row's state. */
static enum row_state state_after(const struct flight *flight)
{
    switch (flight->outcome.verdict) {
    case VERDICT_ACKED:
        return ROW_ACKED;
    case VERDICT_DUPLICATE:
        return ROW_DUPLICATE;
    case VERDICT_REJECTED: /* an earlier try may have got through: as another revision it could be there twice */
        return flight->was_clean ? ROW_REJECTED : ROW_HELD;
    case VERDICT_LATER:
    case VERDICT_HOLD_ALL:
        return flight->was_clean ? ROW_PENDING : ROW_SENT;
    case VERDICT_RETRY:
    case VERDICT_STORED:
        break;
    }
    return ROW_SENT;
}

/* Write down what became of a row; a person may have changed its state meanwhile. False when the disk refuses. */
static bool record(struct sender *sender, struct flight *flight)
{
    const struct row_entry *entry = row_states_find(sender->states, flight->id);
    enum row_state state = state_after(flight);
    bool is_taken = row_state_is_delivered(state);
    char reason[ROW_REASON_BYTES_MAX + 1];
    text_copy(reason, sizeof reason, text_of(flight->outcome.reason));
    if (state == ROW_HELD)
        snprintf(reason, sizeof reason, "an earlier try may have arrived, now refused: %.140s", flight->outcome.reason);
    if (entry == NULL || entry->state == ROW_ACKED) /* a person was faster */
        return true;
    enum row_state known = entry->state;
    if (known == ROW_HELD && (!is_taken || !sender_move(sender, flight->id, ROW_PENDING, ""))) /* held too late */
        return !is_taken;
    if (known != ROW_SENT && (state == ROW_PENDING || !sender_move(sender, flight->id, ROW_SENT, "")))
        return state == ROW_PENDING;
    return state == ROW_SENT || sender_move(sender, flight->id, state, reason);
}

static const char *result_name(const struct flight *flight)
{
    switch (flight->outcome.verdict) {
    case VERDICT_ACKED:
        return "acked";
    case VERDICT_DUPLICATE:
        return "duplicate";
    case VERDICT_RETRY:
    case VERDICT_STORED:
        return "retry";
    case VERDICT_REJECTED:
        return flight->was_clean ? "rejected" : "held";
    case VERDICT_LATER:
    case VERDICT_HOLD_ALL:
        break;
    }
    return "later";
}

/* The call did not leave. */
static void call_off(struct sender *sender, struct flight *flight)
{
    const struct provider_outcome outcome = {.verdict = VERDICT_LATER};
    if (flight->was_clean)
        sender_move(sender, flight->id, ROW_PENDING, "");
    delivery_told(sender->delivery, flight->id, &outcome, sender_now());
    sender_free_flight(flight);
}

/* All answers of a turn, with one sync. */
static void land_calls(struct sender *sender)
{
    bool is_any = false;
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++) {
        struct flight *flight = &sender->flights[i];
        if (flight->phase != FLIGHT_TOLD)
            continue;
        is_any = true;
        sender_count(sender, result_name(flight));
        if (!record(sender, flight)) /* once more: then it is a duplicate */
            flight->outcome = (struct provider_outcome){.verdict = VERDICT_RETRY};
    }
    if (!is_any)
        return;
    sender_sync(sender);
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++) {
        struct flight *flight = &sender->flights[i];
        if (flight->phase != FLIGHT_TOLD)
            continue;
        delivery_told(sender->delivery, flight->id, &flight->outcome, sender_now());
        sender_free_flight(flight);
    }
}

/* ---- calls ---- */

/* False when the row cannot go, and is held. */
static bool make_call(struct sender *sender, struct flight *flight, const struct row_entry *entry, unsigned generation)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    const char *customer = sender_customer(sender, entry);
    flight->was_clean = entry->first_sent == 0;
    bool lacks = customer == NULL || customer[0] == '\0';
    if ((flight->was_clean || lacks) && provider_holds(&entry->row, customer, clock_wall_ms(), reason)) {
        sender_hold(sender, entry->row.id, reason);
        return false;
    }
    text_copy(flight->id, sizeof flight->id, text_of(entry->row.id));
    text_copy(flight->customer, sizeof flight->customer, text_of(customer));
    row_identifier(&entry->row.name, sender->install_id, entry->revision, flight->identifier);
    const struct provider_event event = {&entry->row, flight->customer, flight->identifier, generation};
    if (stripe_encode(sender->provider, &event, &flight->call))
        return true;
    sender_hold(sender, entry->row.id, "its names are too long for the provider: bill it by hand");
    return false;
}

/* True when the provider would refuse it because it ended ahead of the time: it waits. */
static bool is_early(struct sender *sender, const struct row_entry *entry)
{
    int64_t early_ms = provider_early_ms(&entry->row, clock_wall_ms());
    if (early_ms == 0)
        return false;
    sender_set_trouble(sender, "%s", "rows wait for the clock: they ended ahead of it, before it was set back");
    delivery_wait(sender->delivery, entry->row.id, early_ms < EARLY_MS ? early_ms : EARLY_MS, sender_now());
    return true;
}

/* Mark a row as sent. */
static void prepare_call(struct sender *sender, struct flight *flight, const struct delivery_turn *turn)
{
    const struct provider_outcome later = {.verdict = VERDICT_LATER};
    const struct row_entry *entry = row_states_find(sender->states, turn->id);
    if (!make_call(sender, flight, entry, turn->generation))
        return;
    if (is_early(sender, entry))
        return;
    if (sender_lane_is_busy(sender, entry, flight->customer)) {
        delivery_told(sender->delivery, turn->id, &later, sender_now());
        return;
    }
    if (!row_states_mark_sent(sender->states, turn->id, clock_wall_ms(), flight->customer)) {
        sender_say_unwritable(sender);
        delivery_told(sender->delivery, turn->id, &later, sender_now());
        return;
    }
    flight->phase = FLIGHT_MARKED;
}

static bool start_call(struct sender *sender, struct flight *flight)
{
    char key_header[PROVIDER_KEY_BYTES + 32];
    const char *const headers[] = {flight->call.version_header, key_header, NULL};
    const struct fetch_request request = {.url = flight->call.url,
                                          .bearer = sender->provider->api_key._bytes,
                                          .form_body = flight->call.body,
                                          .headers = headers,
                                          .timeout_ms = TIMEOUT_MS,
                                          .connect_timeout_ms = CONNECT_TIMEOUT_MS};
    snprintf(key_header, sizeof key_header, "Idempotency-Key: %s", flight->call.idempotency_key);
    flight->fetch = fetch_start(sender->fetcher, &request, on_call_done, flight);
    return flight->fetch != NULL;
}

/* What was marked leaves, when that is on the disk. */
static void let_calls_leave(struct sender *sender)
{
    bool is_any = false;
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++)
        is_any = is_any || sender->flights[i].phase == FLIGHT_MARKED;
    if (!is_any)
        return;
    bool is_synced = sender_sync(sender);
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++) {
        struct flight *flight = &sender->flights[i];
        if (flight->phase != FLIGHT_MARKED)
            continue;
        if (is_synced && start_call(sender, flight))
            flight->phase = FLIGHT_CALLED;
        else
            call_off(sender, flight);
    }
}

/* ---- the pump ---- */

/* The delivery is shown the states from @place on, once more. */
static void look_from(struct sender *sender, size_t place)
{
    sender->next_place = place;
    sender->skipped_place = SIZE_MAX;
    sender->forgotten_known = delivery_forgotten(sender->delivery);
}

/* A person changed some row since the last pump: any may be open again. */
static void look_for_changes(struct sender *sender)
{
    if (row_states_moves(sender->states) == sender->moves_known)
        return;
    look_from(sender, 0);
    delivery_hurry(sender->delivery);
}

/* False when its lane has no room, or nothing has. */
static bool feed_row(struct sender *sender, const struct row_entry *entry)
{
    char memory[ROW_CUSTOMER_BYTES_MAX + ROW_METER_BYTES_MAX + 2];
    struct builder lane;
    const char *customer = sender_customer(sender, entry);
    builder_init(&lane, memory, sizeof memory);
    builder_format(&lane, "%s\n%s", customer != NULL ? customer : "", row_event_name(&entry->row));
    return delivery_add(sender->delivery, entry->row.id, builder_text(&lane), entry->first_sent);
}

/* Rows that the delivery does not know, as long as it has room. No lane that was full has run dry before it has
 * forgotten as many rows as a lane has: until half of that it is not worth looking at the states again. */
static void feed(struct sender *sender)
{
    uint64_t forgotten = delivery_forgotten(sender->delivery) - sender->forgotten_known;
    if (row_states_shifts(sender->states) != sender->shifts_known)
        look_from(sender, 0);
    else if (sender->skipped_place != SIZE_MAX && forgotten >= DELIVERY_LANE_ROWS_MAX / 2)
        look_from(sender, sender->skipped_place);
    sender->shifts_known = row_states_shifts(sender->states);
    for (; sender->next_place < row_states_count(sender->states); sender->next_place++) {
        const struct row_entry *entry = row_states_at(sender->states, sender->next_place);
        if (!sender_row_is_open(entry) || feed_row(sender, entry))
            continue;
        if (delivery_count(sender->delivery) == DELIVERY_ROWS_MAX)
            return;
        if (sender->skipped_place == SIZE_MAX)
            sender->skipped_place = sender->next_place;
    }
}

static struct flight *free_slot(struct sender *sender)
{
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++) {
        if (sender->flights[i].phase == FLIGHT_FREE)
            return &sender->flights[i];
    }
    return NULL;
}

static void take_turn(struct sender *sender, struct flight *flight, const struct delivery_turn *turn)
{
    if (!sender_row_is_open(row_states_find(sender->states, turn->id))) /* a person changed it */
        delivery_drop(sender->delivery, turn->id);
    else if (turn->step == DELIVERY_SEND)
        prepare_call(sender, flight, turn);
    else if (turn->step == DELIVERY_RECONCILE)
        sender_prepare_question(sender, flight, turn);
    else
        sender_hold(sender, turn->id, "it may have arrived, and the provider cannot tell: look there");
}

/* Everything that may go now. Returns how long until the next may, -1 = until something happens. */
static int64_t take_turns(struct sender *sender)
{
    struct delivery_now now = sender_now(), limit = now;
    limit.mono += AHEAD_MS;
    for (;;) {
        struct flight *flight = free_slot(sender);
        if (flight == NULL)
            return -1;
        struct delivery_turn turn = delivery_next(sender->delivery, now);
        if (turn.step != DELIVERY_WAIT)
            take_turn(sender, flight, &turn);
        else if (turn.wait_ms < 0 || now.mono + turn.wait_ms > limit.mono)
            return turn.wait_ms < 0 ? -1 : now.mono + turn.wait_ms - clock_mono_ms();
        else
            now.mono += turn.wait_ms > 0 ? turn.wait_ms : 1;
    }
}

static bool is_any_due(const struct sender *sender)
{
    return row_states_count_due(sender->states) > 0;
}

static void pump(struct sender *sender)
{
    if (!is_any_due(sender))
        sender_set_trouble(sender, "%s", "");
    look_for_changes(sender);
    land_calls(sender);
    int64_t asks_ms = sender_reconcile(sender), goes_ms = -1;
    if (sender->provider != NULL) {
        feed(sender);
        goes_ms = take_turns(sender);
        let_calls_leave(sender);
    }
    sender->moves_known = row_states_moves(sender->states);
    int64_t wait_ms = goes_ms < 0 || (asks_ms >= 0 && asks_ms < goes_ms) ? asks_ms : goes_ms;
    if (wait_ms >= 0)
        loop_timer_set(sender->loop, &sender->timer, clock_mono_ms() + wait_ms);
    else
        loop_timer_cancel(sender->loop, &sender->timer);
}

static void on_timer(struct loop_timer *timer)
{
    pump(timer->owner);
}

static void on_turn_end(struct loop_turn_end *end)
{
    pump(end->owner);
}

/* ---- life ---- */

struct sender *sender_create(const struct sender_options *options)
{
    struct sender *sender = calloc(1, sizeof *sender);
    if (sender == NULL)
        return NULL;
    sender->loop = options->loop;
    sender->fetcher = options->fetcher;
    sender->states = options->states;
    sender->kind = options->provider;
    sender->timer = (struct loop_timer){.fire = on_timer, .owner = sender};
    sender->turn_end = (struct loop_turn_end){.run = on_turn_end, .owner = sender};
    sender->moves_known = row_states_moves(options->states);
    sender->idle_because = "it has not begun";
    sender->skipped_place = SIZE_MAX;
    sender->log_from = INT64_MIN;
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++)
        sender->flights[i].sender = sender;
    text_copy(sender->install_id, sizeof sender->install_id, text_of(options->install_id));
    sender->delivery = delivery_create(provider_capabilities(options->provider), options->seed);
    sender->totals = totals_create(options->fetcher);
    if (sender->delivery == NULL || sender->totals == NULL)
        sender_destroy(&sender);
    return sender;
}

void sender_destroy(struct sender **sender)
{
    struct sender *dying = *sender;
    *sender = NULL;
    if (dying == NULL)
        return;
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++)
        sender_free_flight(&dying->flights[i]);
    loop_timer_cancel(dying->loop, &dying->timer);
    loop_turn_end_cancel(dying->loop, &dying->turn_end);
    totals_destroy(&dying->totals);
    delivery_destroy(&dying->delivery);
    policy_drop(&dying->policy);
    free(dying);
}

static bool is_same_account(const struct provider_policy *a, const struct provider_policy *b)
{
    return a != NULL && b != NULL && strcmp(a->api_base, b->api_base) == 0 && a->api_key._bytes != NULL &&
           b->api_key._bytes != NULL && strcmp(a->api_key._bytes, b->api_key._bytes) == 0;
}

static void take_policy(struct sender *sender, const struct policy *policy)
{
    const struct provider_policy *provider = policy_provider(policy, sender->kind);
    bool is_repaired = !is_same_account(sender->provider, provider);
    sender->idle_because = provider == NULL                   ? "the configuration does not name this provider"
                           : provider->api_key._bytes == NULL ? "the provider has no API key"
                                                              : NULL;
    sender->provider = sender->idle_because == NULL ? provider : NULL;
    const struct policy *old = sender->policy;
    sender->policy = policy_hold(policy);
    policy_drop(&old);
    if (is_repaired)
        delivery_hurry(sender->delivery);
}

void sender_turn(struct sender *sender, const struct policy *policy)
{
    if (policy != sender->policy)
        take_policy(sender, policy);
    pump(sender);
}

const char *sender_trouble(const struct sender *sender)
{
    return sender->idle_because != NULL && is_any_due(sender) ? sender->idle_because : sender->trouble;
}
