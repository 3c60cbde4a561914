/* Counts, and one pass over what a provider has not. */
#include "billing/usage_status.h"

#include <stdlib.h>
#include <string.h>

static int compare_waiting(const void *left, const void *right)
{
    const struct usage_waiting *a = left, *b = right;
    int order = (a->ended > b->ended) - (a->ended < b->ended);
    return order != 0 ? order : strcmp(a->id, b->id);
}

static void waiting_of(const struct row_entry *entry, struct usage_waiting *ret)
{
    const struct row *row = &entry->row;
    *ret = (struct usage_waiting){.quantity = row->quantity, .ended = row->ended, .state = entry->state};
    text_copy(ret->id, sizeof ret->id, text_of(row->id));
    text_copy(ret->tenant, sizeof ret->tenant, text_of(row->name.tenant));
    text_copy(ret->meter, sizeof ret->meter, text_of(row->name.meter));
    text_copy(ret->reason, sizeof ret->reason, text_of(entry->reason));
}

/* Keep it among the oldest. */
static void add_waiting(struct usage_status *status, const struct row_entry *entry)
{
    struct usage_waiting waiting;
    waiting_of(entry, &waiting);
    size_t place = status->waiting_count;
    while (place > 0 && compare_waiting(&waiting, &status->waiting[place - 1]) < 0)
        place--;
    if (place == USAGE_STATUS_WAITING_MAX)
        return;
    if (status->waiting_count < USAGE_STATUS_WAITING_MAX)
        status->waiting_count++;
    size_t behind = status->waiting_count - 1 - place;
    memmove(&status->waiting[place + 1], &status->waiting[place], behind * sizeof waiting);
    status->waiting[place] = waiting;
}

struct usage_waiting *usage_waiting_all(const struct row_states *states, size_t *ret_count)
{
    size_t most = row_states_count_of(states, ROW_HELD) + row_states_count_of(states, ROW_REJECTED);
    struct usage_waiting *all = calloc(most + 1, sizeof *all);
    *ret_count = 0;
    if (all == NULL)
        return NULL;
    for (size_t place = row_states_next_undelivered(states, ROW_STATES_BEGIN); place != ROW_STATES_END;
         place = row_states_next_undelivered(states, place)) {
        const struct row_entry *entry = row_states_at(states, place);
        if (!row_state_is_due(entry->state) && *ret_count < most)
            waiting_of(entry, &all[(*ret_count)++]);
    }
    qsort(all, *ret_count, sizeof *all, compare_waiting);
    return all;
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
