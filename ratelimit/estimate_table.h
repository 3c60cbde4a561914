/* What an estimator has learned, by (tenant, model) and by model: bounded, the least recently used goes. Not locked. */
#ifndef RATELIMIT_ESTIMATE_TABLE_H
#define RATELIMIT_ESTIMATE_TABLE_H

#include <stddef.h>

#include "base/text.h"
#include "ratelimit/estimate.h"
#include "ratelimit/estimate_input.h"
#include "ratelimit/estimate_output.h"

/* Histograms of an entry: one over all inputs, one for each octave of the input's length. */
enum { ESTIMATE_OCTAVES = 24, HISTOGRAM_OF_ALL = 0, ENTRY_HISTOGRAMS = ESTIMATE_OCTAVES + 1 };
enum { ESTIMATE_SLOTS = 32768 };

struct estimate_entry {
    struct estimate_entry *_next_in_slot;
    struct estimate_entry *_newer, *_older;
    const char *tenant; /* "" = of the model, whoever asks */
    const char *model;
    struct input_costs input;
    struct content_costs content;                          /* of a model only */
    struct output_histogram *histograms[ENTRY_HISTOGRAMS]; /* NULL = nothing learned */
    char _names[];
};

struct estimate_table {
    struct estimate_entry *slots[ESTIMATE_SLOTS]; /* lists by _next_in_slot, for those who write everything down */
    struct estimate_entry *_newest, *_oldest;
    size_t count;
    size_t histogram_count;
    size_t _count_max, _histogram_count_max;
};

/* With the bounds given; at least 2 pairs. NULL when memory is exhausted. */
struct estimate_table *estimate_table_create(size_t pairs_max, size_t histograms_max);
void estimate_table_destroy(struct estimate_table **table);

/* NULL when there is none. What is found is the most recently used from then on. The entry lives until it is the least
 * recently used one and room is needed: never before two others were found or added. */
struct estimate_entry *estimate_table_find(struct estimate_table *table, struct text tenant, struct text model);
/* NULL when memory is exhausted or a name is none. */
struct estimate_entry *estimate_table_find_or_add(struct estimate_table *table, struct text tenant, struct text model);
/* The histogram at @index of @entry, which was found or added last or last but one; made if need be. NULL when memory
 * or the bound is exhausted. */
struct output_histogram *estimate_table_histogram(struct estimate_table *table, struct estimate_entry *entry,
                                                  size_t index);

#endif
