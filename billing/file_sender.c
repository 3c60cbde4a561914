/* Rows of one epoch stand side by side in the states. Those that were delivered before belong into the file as well: a
 * row that was held back makes it longer, never other. */
#include "billing/file_sender.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "billing/back_off.h"
#include "billing/provider.h"

enum { TROUBLE_BYTES = 200, FILE_BYTES_MAX = 1 << 30 };

struct file_sender {
    struct row_states *states;
    size_t next;           /* before it there is nothing to do, */
    uint64_t shifts_known; /* while rows keep their places */
    struct back_off back_off;
    struct buffer content;
    char trouble[TROUBLE_BYTES];
};

/* From @first, up to @end. */
struct epoch_rows {
    size_t first, end;
};

struct file_sender *file_sender_create(struct row_states *states)
{
    struct file_sender *sender = calloc(1, sizeof *sender);
    if (sender == NULL)
        return NULL;
    sender->states = states;
    buffer_init(&sender->content, FILE_BYTES_MAX);
    return sender;
}

void file_sender_destroy(struct file_sender **sender)
{
    if (*sender != NULL)
        buffer_finish(&(*sender)->content);
    free(*sender);
    *sender = NULL;
}

static bool is_one_epoch(const struct row_entry *a, const struct row_entry *b)
{
    return ledger_name_compare(&a->row.name.epoch, &b->row.name.epoch) == 0;
}

/* Those around the first row that is to be written. False: there is none. */
static bool find_epoch(struct file_sender *sender, struct epoch_rows *ret)
{
    const struct row_states *states = sender->states;
    size_t count = row_states_count(states);
    if (row_states_shifts(states) != sender->shifts_known)
        sender->next = 0;
    sender->shifts_known = row_states_shifts(states);
    while (sender->next < count && !row_state_is_due(row_states_at(states, sender->next)->state))
        sender->next++;
    if (sender->next == count)
        return false;
    const struct row_entry *due = row_states_at(states, sender->next);
    *ret = (struct epoch_rows){sender->next, sender->next + 1};
    while (ret->first > 0 && is_one_epoch(row_states_at(states, ret->first - 1), due))
        ret->first--;
    while (ret->end < count && is_one_epoch(row_states_at(states, ret->end), due))
        ret->end++;
    return true;
}

static bool mark(struct file_sender *sender, struct epoch_rows rows, enum row_state state)
{
    bool good = true;
    for (size_t i = rows.first; i < rows.end && good; i++) {
        const struct row_entry *entry = row_states_at(sender->states, i);
        if (row_state_is_due(entry->state) && entry->state != state)
            good = row_states_move(sender->states, entry->row.id, state, clock_wall_ms(), "");
    }
    return good && row_states_sync(sender->states);
}

static bool encode(struct file_sender *sender, struct epoch_rows rows)
{
    bool fits = true;
    buffer_clear(&sender->content);
    for (size_t i = rows.first; i < rows.end && fits; i++) {
        const struct row_entry *entry = row_states_at(sender->states, i);
        if (row_state_is_due(entry->state) || row_state_is_delivered(entry->state))
            fits = provider_file_encode(&entry->row, 1, &sender->content);
    }
    if (!fits)
        errno = EFBIG;
    return fits;
}

static bool put_off(struct file_sender *sender, const char *what)
{
    snprintf(sender->trouble, sizeof sender->trouble, "%s of the provider file: %s", what, strerror(errno));
    back_off_failed(&sender->back_off, clock_mono_ms());
    metric_count(METRIC_BILLING_EVENTS, PROVIDER_KIND_NAMES[PROVIDER_FILE], "retry");
    return false;
}

/* Sent, synced, written, acknowledged: a row that may be in the file never looks as if it were not. */
static bool deliver(struct file_sender *sender, struct epoch_rows rows, const char *directory)
{
    char name[PROVIDER_FILE_NAME_BYTES];
    provider_file_name(&row_states_at(sender->states, rows.first)->row.name.epoch, name);
    if (!mark(sender, rows, ROW_SENT))
        return put_off(sender, "the states");
    if (!encode(sender, rows) || !provider_file_deliver(directory, name, buffer_text(&sender->content)))
        return put_off(sender, "the directory");
    return mark(sender, rows, ROW_ACKED) || put_off(sender, "the states");
}

/* @count rows were due. */
static void note_delivered(struct file_sender *sender, size_t count)
{
    const char *const labels[METRIC_LABELS_MAX] = {PROVIDER_KIND_NAMES[PROVIDER_FILE], "acked"};
    metric_add(metric_series(METRIC_BILLING_EVENTS, labels), (int64_t) count);
    back_off_worked(&sender->back_off);
    sender->trouble[0] = '\0';
}

static size_t due_count(const struct file_sender *sender, struct epoch_rows rows)
{
    size_t count = 0;
    for (size_t i = rows.first; i < rows.end; i++)
        count += row_state_is_due(row_states_at(sender->states, i)->state);
    return count;
}

bool file_sender_turn(struct file_sender *sender, const struct policy *policy, mono_ms until)
{
    struct epoch_rows rows;
    const struct provider_policy *provider = policy_provider(policy, PROVIDER_FILE);
    if (provider != NULL && !back_off_is_over(&sender->back_off, clock_mono_ms()))
        return false;
    while (find_epoch(sender, &rows)) {
        if (provider == NULL) {
            text_copy(sender->trouble, sizeof sender->trouble,
                      TEXT("the configuration does not name the provider file"));
            return false;
        }
        size_t count = due_count(sender, rows);
        if (clock_mono_ms() >= until)
            return true;
        if (!deliver(sender, rows, provider->directory))
            return false;
        note_delivered(sender, count);
    }
    sender->trouble[0] = '\0';
    return false;
}

void file_sender_look_again(struct file_sender *sender)
{
    sender->next = 0;
    sender->back_off = (struct back_off){0};
}

const char *file_sender_trouble(const struct file_sender *sender)
{
    return sender->trouble;
}
