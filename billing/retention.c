/* Rules, asked anew each time: nothing here is remembered. */
#include "billing/retention.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* ---- segments ---- */

static void lower(uint64_t *lowest, uint64_t epoch)
{
    if (epoch < *lowest)
        *lowest = epoch;
}

static void note_rows(const struct retention *retention, const struct outbox *outbox, uint64_t *lowest)
{
    const struct row_states *states = outbox_states(outbox);
    for (size_t at = row_states_next_undelivered(states, ROW_STATES_BEGIN); at != ROW_STATES_END;
         at = row_states_next_undelivered(states, at)) {
        const struct row_entry *entry = row_states_at(states, at);
        const struct ledger_name *epoch = &entry->row.name.epoch;
        bool is_due = row_state_is_due(entry->state);
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
    int64_t age_ms = retention->now - segment->last_when;
    /* From so far ahead that the clock was wrong, then or now: that says nothing of its age. */
    bool is_young = age_ms < JOURNAL_KEPT_MS && age_ms > -JOURNAL_KEPT_MS;
    if (is_young || shipped < segment->last_sequence)
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

/* Epochs with a row that no provider has, sorted. */
struct undelivered {
    const struct retention *retention;
    wall_ms kept;     /* what ended from then on may have a ledger file */
    wall_ms gone_end; /* the last that went ended then */
    struct ledger_name *names;
    size_t count, capacity;
};

static bool add_name(struct undelivered *undelivered, const struct ledger_name *name)
{
    size_t count = undelivered->count;
    if (count > 0 && ledger_name_compare(&undelivered->names[count - 1], name) == 0)
        return true;
    if (count == undelivered->capacity) {
        size_t capacity = count == 0 ? 16 : count * 2;
        struct ledger_name *names = realloc(undelivered->names, capacity * sizeof *names);
        if (names == NULL)
            return false;
        undelivered->names = names;
        undelivered->capacity = capacity;
    }
    undelivered->names[undelivered->count++] = *name;
    return true;
}

static bool note_undelivered(struct undelivered *undelivered, const struct row_states *states)
{
    bool good = true;
    for (size_t at = row_states_next_undelivered(states, ROW_STATES_BEGIN); at != ROW_STATES_END && good;
         at = row_states_next_undelivered(states, at))
        good = add_name(undelivered, &row_states_at(states, at)->row.name.epoch);
    return good;
}

static bool ledger_file_may_go(void *owner, const struct ledger_head *head)
{
    struct undelivered *undelivered = owner;
    const struct retention *retention = undelivered->retention;
    bool may = !writers_may_hold(retention->writers, &head->name) &&
               (undelivered->count == 0 || bsearch(&head->name, undelivered->names, undelivered->count,
                                                   sizeof *undelivered->names, ledger_name_compare) == NULL);
    for (size_t i = 0; i < retention->outbox_count && may; i++) {
        const struct outbox *outbox = retention->outboxes[i];
        bool is_active = outbox != NULL && outbox_is_active(outbox);
        uint64_t waiting = is_active ? outbox_first_waiting(outbox, head->name.writer) : 0;
        may = waiting == 0 || head->name.epoch < waiting;
    }
    if (!may && head->ended < undelivered->kept)
        undelivered->kept = head->ended;
    if (may && head->ended > undelivered->gone_end)
        undelivered->gone_end = head->ended;
    return may;
}

/* When the last epoch ended that no journal has any more; 0 = there is none. One that a journal has may be of a clock
 * that is ahead now. */
static wall_ms last_end(const struct retention *retention)
{
    struct ledger_name *names;
    struct ledger_head head;
    size_t count;
    wall_ms last = 0;
    if (!ledger_list(retention->ledger_directory, &names, &count))
        return 0;
    for (size_t i = 0; i < count; i++) {
        bool is_last = i + 1 == count || strcmp(names[i].writer, names[i + 1].writer) != 0 ||
                       writers_may_hold(retention->writers, &names[i + 1]);
        if (is_last && !writers_may_hold(retention->writers, &names[i]) &&
            ledger_read(retention->ledger_directory, &names[i], &head, NULL) && head.ended > last)
            last = head.ended;
    }
    free(names);
    return last;
}

static void expire(struct undelivered *undelivered)
{
    char until[CLOCK_TEXT_BYTES];
    size_t gone =
        ledger_expire(undelivered->retention->ledger_directory, undelivered->kept, ledger_file_may_go, undelivered);
    if (gone > 0)
        log_event(LOG_INFO, "ledger",
                  "%zu ledger files are older than billing.retention and were removed; the last epoch in them ended %s",
                  gone, clock_text(undelivered->gone_end, until));
}

void retention_of_ledger(const struct retention *retention, int64_t retention_ms)
{
    wall_ms last = last_end(retention), now = last < retention->now ? last : retention->now;
    struct undelivered undelivered = {.retention = retention, .kept = now - retention_ms};
    bool good = true;
    for (size_t i = 0; i < retention->outbox_count && good; i++) {
        if (retention->outboxes[i] != NULL)
            good = note_undelivered(&undelivered, outbox_states(retention->outboxes[i]));
    }
    if (undelivered.count > 0)
        qsort(undelivered.names, undelivered.count, sizeof *undelivered.names, ledger_name_compare);
    if (good)
        expire(&undelivered);
    for (size_t i = 0; i < retention->outbox_count && good; i++) {
        if (retention->outboxes[i] != NULL)
            row_states_expire(outbox_states(retention->outboxes[i]), undelivered.kept);
    }
    free(undelivered.names);
}
