/* Rules, asked anew each time: nothing here is remembered. */
#include "billing/retention.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- segments ---- */

static void lower(uint64_t *lowest, uint64_t epoch)
{
    if (epoch < *lowest)
        *lowest = epoch;
}

static void note_rows(const struct retention *retention, const struct outbox *outbox, uint64_t *lowest)
{
    const struct row_states *states = outbox_states(outbox);
    for (size_t i = 0; i < row_states_count(states); i++) {
        const struct row_entry *entry = row_states_at(states, i);
        const struct ledger_name *epoch = &entry->row.name.epoch;
        bool is_due = entry->state == ROW_PENDING || entry->state == ROW_SENT;
        size_t place = is_due ? writers_find(retention->writers, epoch->writer) : writers_count(retention->writers);
        if (place < writers_count(retention->writers))
            lower(&lowest[place], epoch->epoch);
    }
}

static void note_waiting(const struct retention *retention, const struct outbox *outbox, uint64_t *lowest)
{
    for (size_t i = 0; i < writers_count(retention->writers); i++) {
        uint64_t epoch = outbox_first_waiting(outbox, harvest_writer_id(writers_at(retention->writers, i)));
        if (epoch != 0)
            lower(&lowest[i], epoch);
    }
}

/* For each writer the first epoch that some provider has not got; the array is the caller's. NULL: no memory. */
static uint64_t *find_needed(const struct retention *retention)
{
    size_t count = writers_count(retention->writers);
    uint64_t *lowest = malloc((count + 1) * sizeof *lowest);
    for (size_t i = 0; lowest != NULL && i < count; i++)
        lowest[i] = UINT64_MAX;
    for (size_t i = 0; lowest != NULL && i < retention->outbox_count; i++) {
        const struct outbox *outbox = retention->outboxes[i];
        if (outbox == NULL || !outbox_is_active(outbox))
            continue;
        note_rows(retention, outbox, lowest);
        note_waiting(retention, outbox, lowest);
    }
    return lowest;
}

static bool may_go(const struct retention *retention, const struct harvest *harvest, uint64_t needed,
                   const struct harvest_segment *segment)
{
    uint64_t last_seal = 0;
    uint64_t shipped = store_shipped(retention->store, harvest_writer_id(harvest));
    if (retention->now - segment->last_when < JOURNAL_KEPT_MS || shipped < segment->last_sequence)
        return false;
    if (segment->open_count > 0 && !harvest_is_finished(harvest))
        return false;
    if (segment->last_epoch == 0)
        return true;
    /* A SEAL behind this segment seals what is in it. */
    bool is_sealed = harvest_seal_of(harvest, segment->last_epoch, &last_seal) && last_seal != 0;
    return is_sealed && shipped >= last_seal && segment->last_epoch < needed;
}

static bool remove_segments(const struct retention *retention, struct harvest *harvest, uint64_t needed)
{
    struct harvest_segment segment;
    while (harvest_oldest_segment(harvest, &segment) && may_go(retention, harvest, needed, &segment)) {
        if (!harvest_remove_segment(harvest))
            return false;
    }
    return true;
}

/* Nothing is left of it, or never was anything. */
static bool is_empty(const struct harvest *harvest)
{
    struct harvest_segment segment;
    return harvest_is_finished(harvest) && !harvest_oldest_segment(harvest, &segment);
}

bool retention_of_segments(const struct retention *retention)
{
    struct writers *writers = retention->writers;
    uint64_t *needed = find_needed(retention);
    bool good = needed != NULL;
    int error = ENOMEM;
    /* From the last: a removal moves those behind it. */
    for (size_t i = good ? writers_count(writers) : 0; i > 0; i--) {
        struct harvest *harvest = writers_at(writers, i - 1);
        if (!remove_segments(retention, harvest, needed[i - 1]) ||
            (is_empty(harvest) && !writers_remove(writers, i - 1))) {
            error = errno;
            good = false;
        }
    }
    free(needed);
    errno = error;
    return good;
}

/* ---- ledger files ---- */

static bool is_delivered(const struct outbox *outbox, const struct ledger_name *epoch)
{
    const struct row_states *states = outbox_states(outbox);
    for (size_t i = 0; i < row_states_count(states); i++) {
        const struct row_entry *entry = row_states_at(states, i);
        bool is_taken = entry->state == ROW_ACKED || entry->state == ROW_DUPLICATE;
        if (!is_taken && entry->row.name.epoch.epoch == epoch->epoch &&
            strcmp(entry->row.name.epoch.writer, epoch->writer) == 0)
            return false;
    }
    uint64_t waiting = outbox_first_waiting(outbox, epoch->writer);
    return waiting == 0 || epoch->epoch < waiting;
}

static bool ledger_file_may_go(void *owner, const struct ledger_head *head)
{
    const struct retention *retention = owner;
    bool may = !writers_may_hold(retention->writers, &head->name);
    for (size_t i = 0; i < retention->outbox_count && may; i++) {
        const struct outbox *outbox = retention->outboxes[i];
        if (outbox != NULL && outbox_is_active(outbox))
            may = is_delivered(outbox, &head->name);
    }
    return may;
}

void retention_of_ledger(const struct retention *retention, int64_t retention_ms)
{
    struct retention owner = *retention;
    (void) ledger_expire(retention->ledger_directory, retention->now - retention_ms, ledger_file_may_go, &owner);
}
