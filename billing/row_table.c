/* Rows by their ids, in order, and those that are not delivered in a chain. */
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "billing/row_state_private.h"

enum { SLOTS_FIRST = 64 };

struct row_mark_held {
    UT_hash_handle hh;
    struct row_mark mark;
};

static uint32_t hash_of(const char *id)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (const char *at = id; *at != '\0'; at++)
        hash = (hash ^ (uint8_t) *at) * 0x100000001b3;
    return (uint32_t) (hash ^ hash >> 32);
}

static const char *id_of(const struct row_kept *kept)
{
    return kept->entry != NULL ? kept->entry->row.id : row_packed_id(kept->packed);
}

static uint32_t *find_slot(const struct row_states *states, const char *id, uint32_t hash)
{
    size_t mask = states->slot_count - 1, at = hash & mask;
    for (; states->slots[at] != 0; at = (at + 1) & mask) {
        const struct row_kept *kept = &states->kept[states->slots[at] - 1];
        if (kept->hash == hash && strcmp(id_of(kept), id) == 0)
            break;
    }
    return &states->slots[at];
}

struct row_kept *row_table_find(const struct row_states *states, const char *id)
{
    uint32_t number = *find_slot(states, id, hash_of(id));
    return number == 0 ? NULL : &states->kept[number - 1];
}

/* All ids are different. */
static void fill_slots(struct row_states *states)
{
    size_t mask = states->slot_count - 1;
    memset(states->slots, 0, states->slot_count * sizeof *states->slots);
    for (size_t i = 0; i < states->count; i++) {
        size_t at = states->kept[i].hash & mask;
        while (states->slots[at] != 0)
            at = (at + 1) & mask;
        states->slots[at] = (uint32_t) i + 1;
    }
}

bool row_table_make_room(struct row_states *states)
{
    if (states->count == states->capacity) {
        size_t capacity = states->capacity == 0 ? SLOTS_FIRST : states->capacity * 2;
        struct row_kept *kept = realloc(states->kept, capacity * sizeof *kept);
        if (kept == NULL)
            return false;
        states->kept = kept;
        states->capacity = capacity;
    }
    if ((states->count + 1) * 2 <= states->slot_count)
        return true;
    size_t slot_count = states->slot_count == 0 ? SLOTS_FIRST : states->slot_count * 2;
    uint32_t *slots = malloc(slot_count * sizeof *slots);
    if (slots == NULL)
        return false;
    free(states->slots);
    states->slots = slots;
    states->slot_count = slot_count;
    fill_slots(states);
    return true;
}

/* Behind the others that are not delivered. */
static void link_in(struct row_states *states, struct row_kept *kept)
{
    uint32_t number = (uint32_t) (kept - states->kept) + 1;
    kept->previous = states->last;
    kept->next = 0;
    if (states->last != 0)
        states->kept[states->last - 1].next = number;
    else
        states->first = number;
    states->last = number;
}

static void link_out(struct row_states *states, struct row_kept *kept)
{
    uint32_t *before = kept->previous != 0 ? &states->kept[kept->previous - 1].next : &states->first;
    uint32_t *behind = kept->next != 0 ? &states->kept[kept->next - 1].previous : &states->last;
    *before = kept->next;
    *behind = kept->previous;
    kept->previous = kept->next = 0;
}

static void note_delivered(struct row_states *states, const struct row_entry *entry)
{
    if (row_state_is_delivered(entry->state) && entry->when > states->last_delivered)
        states->last_delivered = entry->when;
}

bool row_table_add(struct row_states *states, const struct row_entry *entry, bool went)
{
    struct row_entry *copy = malloc(sizeof *copy);
    if (copy == NULL)
        return false;
    *copy = *entry;
    struct row_kept *kept = &states->kept[states->count];
    *kept = (struct row_kept){.entry = copy, .state = entry->state, .hash = hash_of(entry->row.id), .went = went};
    *find_slot(states, entry->row.id, kept->hash) = (uint32_t) ++states->count;
    if (!row_state_is_delivered(kept->state))
        link_in(states, kept);
    if (!went)
        states->counts[kept->state]++;
    note_delivered(states, entry);
    return true;
}

void row_table_change(struct row_states *states, struct row_kept *kept, const struct row_entry *entry)
{
    bool was_delivered = row_state_is_delivered(kept->state), is_delivered = row_state_is_delivered(entry->state);
    if (is_delivered && !was_delivered)
        link_out(states, kept);
    if (was_delivered && !is_delivered) /* by no rule of ours, but what a file says */
        link_in(states, kept);
    if (!kept->went) {
        states->counts[kept->state]--;
        states->counts[entry->state]++;
    }
    *kept->entry = *entry;
    kept->state = entry->state;
    note_delivered(states, entry);
}

bool row_table_make_whole(struct row_states *states, struct row_kept *kept)
{
    if (kept->entry != NULL)
        return true;
    kept->entry = malloc(sizeof *kept->entry);
    if (kept->entry == NULL)
        return false;
    row_unpack(kept->packed, states->provider, kept->entry);
    free(kept->packed);
    kept->packed = NULL;
    return true;
}

void row_table_pack(struct row_states *states)
{
    for (size_t i = 0; i < states->count; i++) {
        struct row_kept *kept = &states->kept[i];
        if (kept->entry == NULL || row_state_is_due(kept->state))
            continue;
        kept->packed = row_pack(kept->entry);
        if (kept->packed == NULL)
            return;
        free(kept->entry);
        kept->entry = NULL;
    }
}

void row_table_forget(struct row_states *states, const bool *leaves)
{
    size_t left = 0;
    for (size_t i = 0; i < states->count; i++) {
        struct row_kept *kept = &states->kept[i];
        if (!leaves[i]) {
            states->kept[left++] = *kept;
            continue;
        }
        states->counts[kept->state] -= !kept->went;
        free(kept->entry);
        free(kept->packed);
    }
    states->count = left;
    states->first = states->last = 0;
    for (size_t i = 0; i < left; i++) {
        if (!row_state_is_delivered(states->kept[i].state))
            link_in(states, &states->kept[i]);
    }
    fill_slots(states);
    states->shifts++;
}

struct row_mark *row_table_find_mark(const struct row_states *states, const char *writer)
{
    struct row_mark_held *held = NULL;
    HASH_FIND_STR(states->marks, writer, held);
    return held == NULL ? NULL : &held->mark;
}

struct row_mark *row_table_mark(struct row_states *states, const char *writer)
{
    struct row_mark *mark = row_table_find_mark(states, writer);
    struct row_mark_held *held = mark == NULL ? calloc(1, sizeof *held) : NULL;
    if (held == NULL)
        return mark;
    text_copy(held->mark.writer, sizeof held->mark.writer, text_of(writer));
    HASH_ADD_STR(states->marks, mark.writer, held);
    return &held->mark;
}

const struct row_mark *row_table_next_mark(const struct row_states *states, const struct row_mark *mark)
{
    const struct row_mark_held *next = states->marks;
    if (mark != NULL) {
        const void *held = (const char *) mark - offsetof(struct row_mark_held, mark);
        next = ((const struct row_mark_held *) held)->hh.next;
    }
    return next == NULL ? NULL : &next->mark;
}

size_t row_table_mark_count(const struct row_states *states)
{
    return HASH_COUNT(states->marks);
}

void row_table_finish(struct row_states *states)
{
    struct row_mark_held *held, *next;
    for (size_t i = 0; i < states->count; i++) {
        free(states->kept[i].entry);
        free(states->kept[i].packed);
    }
    HASH_ITER(hh, states->marks, held, next)
    {
        HASH_DEL(states->marks, held);
        free(held);
    }
    free(states->kept);
    free(states->slots);
}

void row_mark_raise(struct row_mark *mark, uint64_t epoch)
{
    if (epoch > mark->made)
        mark->made = epoch;
}
