/* Counts, and one pass over what a provider has not. */
#include "billing/usage_status.h"

#include <string.h>

static bool is_older(const struct usage_waiting *a, const struct usage_waiting *b)
{
    return a->ended < b->ended || (a->ended == b->ended && strcmp(a->id, b->id) < 0);
}

/* Keep it among the oldest. */
static void add_waiting(struct usage_status *status, const struct row_entry *entry)
{
    const struct row *row = &entry->row;
    struct usage_waiting waiting = {.quantity = row->quantity, .ended = row->ended, .state = entry->state};
    text_copy(waiting.id, sizeof waiting.id, text_of(row->id));
    text_copy(waiting.tenant, sizeof waiting.tenant, text_of(row->name.tenant));
    text_copy(waiting.meter, sizeof waiting.meter, text_of(row->name.meter));
    text_copy(waiting.reason, sizeof waiting.reason, text_of(entry->reason));
    size_t place = status->waiting_count;
    while (place > 0 && is_older(&waiting, &status->waiting[place - 1]))
        place--;
    if (place == USAGE_STATUS_WAITING_MAX)
        return;
    if (status->waiting_count < USAGE_STATUS_WAITING_MAX)
        status->waiting_count++;
    size_t behind = status->waiting_count - 1 - place;
    memmove(&status->waiting[place + 1], &status->waiting[place], behind * sizeof waiting);
    status->waiting[place] = waiting;
}

void usage_status_of(const struct row_states *states, enum provider_kind provider, struct usage_status *ret)
{
    *ret = (struct usage_status){.provider = provider, .last_acked = row_states_last_delivered(states)};
    for (enum row_state state = 0; state < ROW_STATE_COUNT; state++)
        ret->rows[state] = row_states_count_of(states, state);
    for (size_t place = row_states_next_undelivered(states, ROW_STATES_BEGIN); place != ROW_STATES_END;
         place = row_states_next_undelivered(states, place)) {
        const struct row_entry *entry = row_states_at(states, place);
        wall_ms ended = entry->row.ended;
        bool is_due = row_state_is_due(entry->state);
        if (is_due && (ret->oldest == 0 || ended < ret->oldest))
            ret->oldest = ended;
        if (!is_due)
            add_waiting(ret, entry);
    }
}
