/* Counters, gauges and histograms in Prometheus' text exposition format. */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include <stdint.h>

#include "base/buffer.h"

/* The families, one row each in metrics.def: X(identifier, kind, "name", "label,label", buckets, "help"). */
enum metric {
#define X(identifier, kind, name, labels, buckets, help) METRIC_##identifier,
#include "base/metrics.def"
#undef X
    METRIC_COUNT
};

enum { METRIC_LABELS_MAX = 4, METRIC_SERIES_MAX = 8192 };

/* One family with one set of label values; lives for ever. Any thread; no lock; relaxed atomics. */
struct metric_series;

/* Find or make the series of @metric with the label values given in the row's order (NULL = ""). Lock-free; the label
 * text is copied (and cut after 127 bytes). Never NULL: when METRIC_SERIES_MAX are in use, or memory is, the series
 * whose values are all "other" is returned. */
struct metric_series *metric_series(enum metric metric, const char *const values[METRIC_LABELS_MAX]);

/* Counters and gauges. A gauge may go down; a counter's @by is >= 0. */
void metric_add(struct metric_series *series, int64_t by);
void metric_set(struct metric_series *series, int64_t value);
int64_t metric_value(const struct metric_series *series);
/* Histograms: one observation, in microseconds. Rows give their buckets in seconds. */
void metric_observe_us(struct metric_series *series, int64_t microseconds);

/* Short forms for families without labels and with one or two. */
void metric_count(enum metric metric, const char *first, const char *second);

/* Append all families that have a series; escaped, HELP and TYPE first. False when @to is full. */
bool metrics_write(struct buffer *to);

#endif
