/* The numbers of an entry, and its texts one behind the other. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "billing/row_state_private.h"

struct row_packed {
    wall_ms when, first_sent, began, ended;
    uint64_t epoch;
    int64_t quantity;
    unsigned revision;
    uint8_t state, measure;
    bool metered, undecided;
    char texts[]; /* the id is the first */
};

static const size_t TEXTS[] = {
    offsetof(struct row_entry, row.id),          offsetof(struct row_entry, row.name.epoch.writer),
    offsetof(struct row_entry, row.name.tenant), offsetof(struct row_entry, row.name.meter),
    offsetof(struct row_entry, row.model),       offsetof(struct row_entry, row.event_name),
    offsetof(struct row_entry, customer),        offsetof(struct row_entry, reason),
};

enum { TEXT_COUNT = sizeof TEXTS / sizeof TEXTS[0] };

struct row_packed *row_pack(const struct row_entry *entry)
{
    const struct row *row = &entry->row;
    size_t sizes[TEXT_COUNT], size = sizeof(struct row_packed);
    for (int i = 0; i < TEXT_COUNT; i++)
        size += sizes[i] = strlen((const char *) entry + TEXTS[i]) + 1;
    struct row_packed *packed = malloc(size);
    if (packed == NULL)
        return NULL;
    *packed = (struct row_packed){.when = entry->when,
                                  .first_sent = entry->first_sent,
                                  .began = row->began,
                                  .ended = row->ended,
                                  .epoch = row->name.epoch.epoch,
                                  .quantity = row->quantity,
                                  .revision = entry->revision,
                                  .state = (uint8_t) entry->state,
                                  .measure = (uint8_t) row->measure,
                                  .metered = row->metered,
                                  .undecided = entry->undecided};
    char *at = packed->texts;
    for (int i = 0; i < TEXT_COUNT; i++) {
        memcpy(at, (const char *) entry + TEXTS[i], sizes[i]);
        at += sizes[i];
    }
    return packed;
}

void row_unpack(const struct row_packed *packed, enum provider_kind provider, struct row_entry *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->when = packed->when;
    ret->first_sent = packed->first_sent;
    ret->revision = packed->revision;
    ret->state = (enum row_state) packed->state;
    ret->undecided = packed->undecided;
    struct row *row = &ret->row;
    row->name.provider = provider;
    row->name.epoch.epoch = packed->epoch;
    row->quantity = packed->quantity;
    row->measure = (enum measure) packed->measure;
    row->metered = packed->metered;
    row->began = packed->began;
    row->ended = packed->ended;
    const char *at = packed->texts;
    for (int i = 0; i < TEXT_COUNT; i++) {
        size_t size = strlen(at) + 1;
        memcpy((char *) ret + TEXTS[i], at, size);
        at += size;
    }
}

const char *row_packed_id(const struct row_packed *packed)
{
    return packed->texts;
}
