/* What a sender does with its rows' states, and what it tells people about them. */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "billing/sender_private.h"

enum { LOG_GAP_MS = 10 * 1000 };

struct delivery_now sender_now(void)
{
    return (struct delivery_now){.wall = clock_wall_ms(), .mono = clock_mono_ms()};
}

/* ---- telling people ---- */

void sender_set_trouble(struct sender *sender, const char *format, ...)
{
    char text[SENDER_TROUBLE_BYTES];
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
    if (text[0] == '\0' || clock_mono_ms() < sender->log_from)
        return;
    sender->log_from = clock_mono_ms() + LOG_GAP_MS; /* it may come and go with each call */
    log_event(LOG_WARNING, "billing", "%s: %s", PROVIDER_KIND_NAMES[sender->kind], text);
}

void sender_count(const struct sender *sender, const char *result)
{
    metric_count(METRIC_BILLING_EVENTS, PROVIDER_KIND_NAMES[sender->kind], result);
}

void sender_log_row(const struct row_entry *entry)
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

void sender_say_unwritable(struct sender *sender)
{
    sender_set_trouble(sender, "the states of its rows cannot be written: %s", strerrordesc_np(errno));
}

/* ---- states ---- */

bool sender_move(struct sender *sender, const char *id, enum row_state state, const char *reason)
{
    if (!row_states_move(sender->states, id, state, clock_wall_ms(), reason)) {
        sender_say_unwritable(sender);
        return false;
    }
    if (state == ROW_REJECTED || state == ROW_HELD)
        sender_log_row(row_states_find(sender->states, id));
    return true;
}

void sender_hold(struct sender *sender, const char *id, const char *reason)
{
    const struct provider_outcome later = {.verdict = VERDICT_LATER};
    if (!sender_move(sender, id, ROW_HELD, reason)) {
        delivery_told(sender->delivery, id, &later, sender_now());
        return;
    }
    sender_count(sender, "held");
    delivery_drop(sender->delivery, id);
}

bool sender_sync(struct sender *sender)
{
    bool good = row_states_sync(sender->states);
    if (!good)
        sender_say_unwritable(sender);
    return good;
}

const char *sender_customer(const struct sender *sender, const struct row_entry *entry)
{
    return provider_row_customer(sender->policy, entry);
}

bool sender_row_is_open(const struct row_entry *entry)
{
    return entry != NULL && row_state_is_due(entry->state);
}

bool sender_is_same_lane(const struct sender *sender, const struct row_entry *a, const char *customer,
                         const struct row_entry *b)
{
    const char *other = sender_customer(sender, b);
    return other != NULL && strcmp(other, customer) == 0 &&
           strcmp(row_event_name(&a->row), row_event_name(&b->row)) == 0;
}

bool sender_lane_is_busy(const struct sender *sender, const struct row_entry *entry, const char *customer)
{
    for (size_t i = 0; i < DELIVERY_IN_FLIGHT_MAX; i++) {
        const struct flight *flight = &sender->flights[i];
        if (flight->phase != FLIGHT_MARKED && flight->phase != FLIGHT_CALLED && flight->phase != FLIGHT_TOLD)
            continue;
        const struct row_entry *other = row_states_find(sender->states, flight->id);
        if (other != NULL && sender_is_same_lane(sender, entry, customer, other))
            return true;
    }
    return false;
}

void sender_free_flight(struct flight *flight)
{
    fetch_cancel(&flight->fetch);
    flight->phase = FLIGHT_FREE;
}
