/* One pump for everything: what was answered is written down, what may go is marked as sent, one sync, then the calls
 * leave. */
#include "billing/sender.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "billing/deliver.h"
#include "billing/reconcile.h"
#include "billing/totals.h"

enum {
    TIMEOUT_MS = 30 * 1000,
    CONNECT_TIMEOUT_MS = 10 * 1000,
    QUIET_MS = 60 * 1000,              /* a total is asked for so long after the last call that may have changed it */
    AHEAD_MS = DELIVERY_IN_FLIGHT_MAX, /* calls that would begin so soon leave at once, with one sync */
    TROUBLE_BYTES = 512,
    HOUR_MS = 3600 * 1000
};

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
    size_t next_place;    /* of the first state that the delivery has not seen */
    uint64_t moves_known; /* of the states: more were made by a person */
    struct loop_timer timer;
    struct loop_turn_end turn_end;
    const char *idle_because; /* NULL = it is not */
    char trouble[TROUBLE_BYTES];
};

static struct delivery_now now_of(void)
{
    return (struct delivery_now){.wall = clock_wall_ms(), .mono = clock_mono_ms()};
}

/* ---- telling people ---- */

__attribute__((format(printf, 2, 3))) static void set_trouble(struct sender *sender, const char *format, ...)
{
    char text[TROUBLE_BYTES];
    struct builder trouble;
    va_list arguments;
    builder_init(&trouble, text, sizeof text);
    va_start(arguments, format);
    builder_format_list(&trouble, format, arguments);
    va_end(arguments);
    builder_string(&trouble);
    if (strcmp(text, sender->trouble) == 0)
        return;
    memcpy(sender->trouble, text, sizeof text);
    if (text[0] != '\0')
        log_event(LOG_WARNING, "billing", "%s: %s", PROVIDER_KIND_NAMES[sender->kind], text);
}

static void count(const struct sender *sender, const char *result)
{
    metric_count(METRIC_BILLING_EVENTS, PROVIDER_KIND_NAMES[sender->kind], result);
}

/* A row that now waits for a person. */
static void log_row(const struct row_entry *entry)
{
    struct log_line line;
    log_begin(&line, LOG_ERROR, "billing_row");
    log_add_string(&line, "row", entry->row.id);
    log_add_string(&line, "state", ROW_STATE_NAMES[entry->state]);
    log_add_string(&line, "provider", PROVIDER_KIND_NAMES[entry->row.name.provider]);
    log_add_string(&line, "tenant", entry->row.name.tenant);
    log_add_string(&line, "meter", row_event_name(&entry->row));
    log_add_int(&line, "quantity", entry->row.quantity);
    log_add_string(&line, "reason", entry->reason);
    log_end(&line);
}

static void say_unwritable(struct sender *sender)
{
    set_trouble(sender, "the states of its rows cannot be written: %s", strerrordesc_np(errno));
}

/* ---- states ---- */

/* False with a trouble when the disk refuses: what was known stays. */
static bool move(struct sender *sender, const char *id, enum row_state state, const char *reason)
{
    if (!row_states_move(sender->states, id, state, clock_wall_ms(), reason)) {
        say_unwritable(sender);
        return false;
    }
    if (state == ROW_REJECTED || state == ROW_HELD)
        log_row(row_states_find(sender->states, id));
    return true;
}

static void hold(struct sender *sender, const char *id, const char *reason)
{
    if (move(sender, id, ROW_HELD, reason))
        count(sender, "held");
    delivery_drop(sender->delivery, id);
}

static bool sync_states(struct sender *sender)
{
    bool good = row_states_sync(sender->states);
    if (!good)
        say_unwritable(sender);
    return good;
}

/* For whom the row goes: while an earlier try may have arrived, as it went then. NULL or "" when there is nobody. */
static const char *customer_of(const struct sender *sender, const struct row_entry *entry)
{
    if (entry->first_sent != 0 && entry->customer[0] != '\0')
        return entry->customer;
    return sender->policy == NULL ? NULL : provider_customer(sender->policy, entry->row.name.tenant);
}

static bool is_open(const struct row_entry *entry)
{
    return entry->state == ROW_PENDING || entry->state == ROW_SENT;
}

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
        set_trouble(sender, "%s", "");
    else
        set_trouble(sender, "%s%s%s", flight->outcome.reason, result->error[0] != '\0' ? ": " : "", result->error);
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
    bool is_taken = state == ROW_ACKED || state == ROW_DUPLICATE;
    char reason[ROW_REASON_BYTES_MAX + 1];
    text_copy(reason, sizeof reason, text_of(flight->outcome.reason));
    if (state == ROW_HELD)
        snprintf(reason, sizeof reason, "an earlier try may have arrived, now refused: %.140s", flight->outcome.reason);
    if (entry->state == ROW_ACKED) /* a person was faster */
        return true;
    if (entry->state == ROW_HELD)
        return !is_taken || move(sender, flight->id, ROW_ACKED, "answered while it was held");
    if (entry->state == ROW_PENDING && (state == ROW_PENDING || !move(sender, flight->id, ROW_SENT, "")))
        return state == ROW_PENDING;
    return state == ROW_SENT || move(sender, flight->id, state, reason);
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

static void free_flight(struct flight *flight)
{
    fetch_cancel(&flight->fetch);
    flight->phase = FLIGHT_FREE;
}

/* The call did not leave. */
static void call_off(struct sender *sender, struct flight *flight)
{
    const struct provider_outcome outcome = {.verdict = VERDICT_LATER};
    if (flight->was_clean)
        move(sender, flight->id, ROW_PENDING, "");
    delivery_told(sender->delivery, flight->id, &outcome, now_of());
    free_flight(flight);
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
        count(sender, result_name(flight));
        if (!record(sender, flight)) /* once more: then it is a duplicate */
            flight->outcome = (struct provider_outcome){.verdict = VERDICT_RETRY};
    }
    if (!is_any)
        return;
    sync_states(sender);
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++) {
        struct flight *flight = &sender->flights[i];
        if (flight->phase != FLIGHT_TOLD)
            continue;
        delivery_told(sender->delivery, flight->id, &flight->outcome, now_of());
        free_flight(flight);
    }
}

/* ---- calls ---- */

static bool is_same_lane(const struct sender *sender, const struct row_entry *a, const char *customer,
                         const struct row_entry *b)
{
    const char *other = customer_of(sender, b);
    return other != NULL && strcmp(other, customer) == 0 &&
           strcmp(row_event_name(&a->row), row_event_name(&b->row)) == 0;
}

/* A call of the lane is out, or about to be. The delivery knows lanes too, but not that a reload renamed a customer. */
static bool is_lane_busy(const struct sender *sender, const struct row_entry *entry, const char *customer)
{
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++) {
        const struct flight *flight = &sender->flights[i];
        if (flight->phase != FLIGHT_MARKED && flight->phase != FLIGHT_CALLED && flight->phase != FLIGHT_TOLD)
            continue;
        if (is_same_lane(sender, entry, customer, row_states_find(sender->states, flight->id)))
            return true;
    }
    return false;
}

/* False when the row cannot go, and is held. */
static bool make_call(struct sender *sender, struct flight *flight, const struct row_entry *entry, unsigned generation)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    const char *customer = customer_of(sender, entry);
    flight->was_clean = entry->first_sent == 0;
    bool lacks = customer == NULL || customer[0] == '\0';
    if ((flight->was_clean || lacks) && provider_holds(&entry->row, customer, clock_wall_ms(), reason)) {
        hold(sender, entry->row.id, reason);
        return false;
    }
    text_copy(flight->id, sizeof flight->id, text_of(entry->row.id));
    text_copy(flight->customer, sizeof flight->customer, text_of(customer));
    row_identifier(&entry->row.name, sender->install_id, entry->revision, flight->identifier);
    const struct provider_event event = {&entry->row, flight->customer, flight->identifier, generation};
    if (stripe_encode(sender->provider, &event, &flight->call))
        return true;
    hold(sender, entry->row.id, "its names are too long for the provider: bill it by hand");
    return false;
}

/* Mark a row as sent. */
static void prepare_call(struct sender *sender, struct flight *flight, const struct delivery_turn *turn)
{
    const struct provider_outcome later = {.verdict = VERDICT_LATER};
    const struct row_entry *entry = row_states_find(sender->states, turn->id);
    if (!make_call(sender, flight, entry, turn->generation))
        return;
    if (is_lane_busy(sender, entry, flight->customer)) {
        delivery_told(sender->delivery, turn->id, &later, now_of());
        return;
    }
    if (!row_states_mark_sent(sender->states, turn->id, clock_wall_ms(), flight->customer)) {
        say_unwritable(sender);
        delivery_told(sender->delivery, turn->id, &later, now_of());
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
    bool is_synced = sync_states(sender);
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

/* ---- rows that may be there, and are too old to be sent again ---- */

static wall_ms hour_of(const struct row_entry *entry)
{
    return entry->row.ended - entry->row.ended % HOUR_MS;
}

/* It is one of those that the total counts, if they arrived. */
static bool is_counted_with(const struct sender *sender, const struct flight *flight, const struct row_entry *asked,
                            const struct row_entry *entry)
{
    bool may_be_there = entry->first_sent != 0 || entry->state == ROW_ACKED || entry->state == ROW_DUPLICATE;
    return may_be_there && entry->state != ROW_REJECTED && hour_of(entry) == hour_of(asked) &&
           is_same_lane(sender, asked, flight->customer, entry);
}

/* How long until the total has surely taken in whatever was called; by the clock that says less, because one of them
 * may have been set. */
static int64_t quiet_left_ms(const struct sender *sender, const struct flight *flight)
{
    const struct row_entry *asked = row_states_find(sender->states, flight->id);
    struct delivery_now now = now_of();
    wall_ms last = INT64_MIN;
    if (is_lane_busy(sender, asked, flight->customer))
        return QUIET_MS;
    for (size_t i = 0; i < row_states_count(sender->states); i++) {
        const struct row_entry *entry = row_states_at(sender->states, i);
        if (entry->when > last && is_counted_with(sender, flight, asked, entry))
            last = entry->when;
    }
    int64_t by_mono = flight->quiet_from + QUIET_MS - now.mono;
    int64_t by_wall = last == INT64_MIN || last > now.wall ? by_mono : last + QUIET_MS - now.wall;
    int64_t left = by_wall < by_mono ? by_wall : by_mono;
    return left > 0 ? left : 0;
}

static void prepare_question(struct sender *sender, struct flight *flight, const struct delivery_turn *turn)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    const struct row_entry *entry = row_states_find(sender->states, turn->id);
    const char *customer = customer_of(sender, entry);
    bool lacks = customer == NULL || customer[0] == '\0';
    if (lacks && provider_holds(&entry->row, customer, clock_wall_ms(), reason)) {
        hold(sender, turn->id, reason);
        return;
    }
    text_copy(flight->id, sizeof flight->id, text_of(turn->id));
    text_copy(flight->customer, sizeof flight->customer, text_of(customer));
    flight->quiet_from = clock_mono_ms();
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
        set_trouble(sender, "asked what it has of a row: %s", error);
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

/* What the states say of the same customer, meter and hour. False when a sum overflows. */
static bool find_facts(const struct sender *sender, const struct flight *flight, const struct row_entry *asked,
                       struct reconcile_facts *ret)
{
    *ret = (struct reconcile_facts){.provider_total = flight->total, .quantity = asked->row.quantity};
    for (size_t i = 0; i < row_states_count(sender->states); i++) {
        const struct row_entry *entry = row_states_at(sender->states, i);
        bool is_delivered = entry->state == ROW_ACKED || entry->state == ROW_DUPLICATE;
        int64_t *sum = is_delivered ? &ret->delivered : &ret->unclear;
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
        bool is_moved = move(sender, entry->row.id, state, reason);
        if (is_moved && state == ROW_ACKED)
            count(sender, "acked");
        if (!is_it && is_moved)
            delivery_reconciled(sender->delivery, entry->row.id, found, now_of());
    }
}

static void hold_undecided(struct sender *sender, const char *id, const struct reconcile_facts *facts)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    snprintf(reason, sizeof reason,
             "unclear whether it arrived: the provider has %" PRId64 " of this hour, known are %" PRId64
             ". Look there: delivered, or release to send it",
             facts->provider_total, facts->delivered);
    if (!row_states_hold_undecided(sender->states, id, clock_wall_ms(), reason)) {
        say_unwritable(sender);
        return;
    }
    count(sender, "held");
    log_row(row_states_find(sender->states, id));
}

/* The provider said its total. */
static enum delivery_found settle(struct sender *sender, const struct flight *flight)
{
    struct reconcile_facts facts;
    const struct row_entry *entry = row_states_find(sender->states, flight->id);
    if (!flight->is_counted)
        return FOUND_NO_ANSWER;
    if (!is_open(entry)) /* a person was faster */
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
    return is_written && sync_states(sender) ? FOUND[finding] : FOUND_NO_ANSWER;
}

/* Ask what may be asked, take over what was answered. Returns how long until the next question, -1 = none. */
static int64_t reconcile(struct sender *sender)
{
    int64_t wait_ms = -1;
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++) {
        struct flight *flight = &sender->flights[i];
        if (flight->phase == FLIGHT_COUNTED) {
            enum delivery_found found = settle(sender, flight);
            delivery_reconciled(sender->delivery, flight->id, found, now_of());
            free_flight(flight);
        }
        if (flight->phase != FLIGHT_QUIET || sender->provider == NULL)
            continue;
        int64_t left = quiet_left_ms(sender, flight);
        if (left == 0)
            ask(sender, flight);
        else if (wait_ms < 0 || left < wait_ms)
            wait_ms = left;
    }
    return wait_ms;
}

/* ---- the pump ---- */

/* A person changed some row since the last pump: any may be open again. */
static void look_for_changes(struct sender *sender)
{
    if (row_states_moves(sender->states) == sender->moves_known)
        return;
    sender->next_place = 0;
    delivery_hurry(sender->delivery);
}

/* Rows that the delivery does not know, as long as it has room. */
static void feed(struct sender *sender)
{
    for (; sender->next_place < row_states_count(sender->states); sender->next_place++) {
        const struct row_entry *entry = row_states_at(sender->states, sender->next_place);
        char memory[ROW_CUSTOMER_BYTES_MAX + ROW_METER_BYTES_MAX + 2];
        struct builder lane;
        if (!is_open(entry))
            continue;
        const char *customer = customer_of(sender, entry);
        builder_init(&lane, memory, sizeof memory);
        builder_format(&lane, "%s\n%s", customer != NULL ? customer : "", row_event_name(&entry->row));
        if (!delivery_add(sender->delivery, entry->row.id, builder_text(&lane), entry->first_sent))
            return;
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
    if (!is_open(row_states_find(sender->states, turn->id))) /* a person changed it */
        delivery_drop(sender->delivery, turn->id);
    else if (turn->step == DELIVERY_SEND)
        prepare_call(sender, flight, turn);
    else if (turn->step == DELIVERY_RECONCILE)
        prepare_question(sender, flight, turn);
    else
        hold(sender, turn->id, "it may have arrived, and the provider cannot tell: look there");
}

/* Everything that may go now. Returns how long until the next may, -1 = until something happens. */
static int64_t take_turns(struct sender *sender)
{
    struct delivery_now now = now_of(), limit = now;
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

static void pump(struct sender *sender)
{
    look_for_changes(sender);
    land_calls(sender);
    int64_t asks_ms = reconcile(sender), goes_ms = -1;
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
        free_flight(&dying->flights[i]);
    loop_timer_cancel(dying->loop, &dying->timer);
    loop_turn_end_cancel(dying->loop, &dying->turn_end);
    totals_destroy(&dying->totals);
    delivery_destroy(&dying->delivery);
    policy_drop(&dying->policy);
    free(dying);
}

static const struct provider_policy *find_provider(const struct policy *policy, enum provider_kind kind)
{
    for (size_t i = 0; i < policy->billing.provider_count; i++) {
        if (policy->billing.providers[i].kind == kind)
            return &policy->billing.providers[i];
    }
    return NULL;
}

static bool is_same_account(const struct provider_policy *a, const struct provider_policy *b)
{
    return a != NULL && b != NULL && strcmp(a->api_base, b->api_base) == 0 && a->api_key._bytes != NULL &&
           b->api_key._bytes != NULL && strcmp(a->api_key._bytes, b->api_key._bytes) == 0;
}

static void take_policy(struct sender *sender, const struct policy *policy)
{
    const struct provider_policy *provider = find_provider(policy, sender->kind);
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
    return sender->idle_because != NULL ? sender->idle_because : sender->trouble;
}
