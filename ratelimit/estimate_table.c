#include "ratelimit/estimate_table.h"

#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "conf/schema.h"

struct estimate_table *estimate_table_create(size_t pairs_max, size_t histograms_max)
{
    ENSURE(pairs_max >= 2);
    struct estimate_table *table = calloc(1, sizeof(*table));
    if (table != NULL) {
        table->_count_max = pairs_max;
        table->_histogram_count_max = histograms_max;
    }
    return table;
}

/* FNV-1a: the names are those of the configuration, nobody chooses them to collide. */
static uint64_t hash_more(uint64_t hash, struct text name)
{
    for (size_t i = 0; i < name.length; i++) {
        hash = (hash ^ (unsigned char) name.at[i]) * 0x100000001b3;
    }
    return (hash ^ 0xff) * 0x100000001b3;
}

static struct estimate_entry **slot_of(struct estimate_table *table, struct text tenant, struct text model)
{
    uint64_t hash = hash_more(hash_more(0xcbf29ce484222325, tenant), model);
    return &table->slots[(hash ^ hash >> 32) % ESTIMATE_SLOTS];
}

static void unlink_from_ages(struct estimate_table *table, struct estimate_entry *entry)
{
    *(entry->_newer != NULL ? &entry->_newer->_older : &table->_newest) = entry->_older;
    *(entry->_older != NULL ? &entry->_older->_newer : &table->_oldest) = entry->_newer;
}

static void link_as_newest(struct estimate_table *table, struct estimate_entry *entry)
{
    entry->_newer = NULL;
    entry->_older = table->_newest;
    *(entry->_older != NULL ? &entry->_older->_newer : &table->_oldest) = entry;
    table->_newest = entry;
}

static void drop_oldest(struct estimate_table *table)
{
    struct estimate_entry *entry = table->_oldest;
    struct estimate_entry **link = slot_of(table, text_of(entry->tenant), text_of(entry->model));
    while (*link != entry) {
        link = &(*link)->_next_in_slot;
    }
    *link = entry->_next_in_slot;
    unlink_from_ages(table, entry);
    for (size_t i = 0; i < ENTRY_HISTOGRAMS; i++) {
        table->histogram_count -= entry->histograms[i] != NULL;
        free(entry->histograms[i]);
    }
    table->count--;
    free(entry);
}

void estimate_table_destroy(struct estimate_table **table)
{
    if (*table == NULL) {
        return;
    }
    while ((*table)->_oldest != NULL) {
        drop_oldest(*table);
    }
    free(*table);
    *table = NULL;
}

struct estimate_entry *estimate_table_find(struct estimate_table *table, struct text tenant, struct text model)
{
    struct estimate_entry *entry = *slot_of(table, tenant, model);
    while (entry != NULL && !(text_equal(text_of(entry->tenant), tenant) && text_equal(text_of(entry->model), model))) {
        entry = entry->_next_in_slot;
    }
    if (entry != NULL && entry != table->_newest) {
        unlink_from_ages(table, entry);
        link_as_newest(table, entry);
    }
    return entry;
}

static struct estimate_entry *entry_create(struct text tenant, struct text model)
{
    struct estimate_entry *entry = calloc(1, sizeof(*entry) + tenant.length + model.length + 2);
    if (entry == NULL) {
        return NULL;
    }
    text_copy(entry->_names, tenant.length + 1, tenant);
    text_copy(entry->_names + tenant.length + 1, model.length + 1, model);
    entry->tenant = entry->_names;
    entry->model = entry->_names + tenant.length + 1;
    return entry;
}

struct estimate_entry *estimate_table_find_or_add(struct estimate_table *table, struct text tenant, struct text model)
{
    struct estimate_entry *entry = estimate_table_find(table, tenant, model);
    if (entry != NULL) {
        return entry;
    }
    if (!setting_is_name(model) || (tenant.length > 0 && !setting_is_name(tenant))) {
        return NULL;
    }
    entry = entry_create(tenant, model);
    if (entry == NULL) {
        return NULL;
    }
    if (table->count == table->_count_max) {
        drop_oldest(table);
    }
    struct estimate_entry **slot = slot_of(table, tenant, model);
    entry->_next_in_slot = *slot;
    *slot = entry;
    link_as_newest(table, entry);
    table->count++;
    return entry;
}

struct output_histogram *estimate_table_histogram(struct estimate_table *table, struct estimate_entry *entry,
                                                  size_t index)
{
    ENSURE(index < ENTRY_HISTOGRAMS);
    if (entry->histograms[index] != NULL) {
        return entry->histograms[index];
    }
    /* The two newest are in use. */
    while (table->histogram_count >= table->_histogram_count_max && table->count > 2) {
        drop_oldest(table);
    }
    if (table->histogram_count >= table->_histogram_count_max) {
        return NULL;
    }
    entry->histograms[index] = calloc(1, sizeof(*entry->histograms[index]));
    table->histogram_count += entry->histograms[index] != NULL;
    return entry->histograms[index];
}
