/* What the process itself uses, as gauges. */
#ifndef GATEWAY_PROCESS_METRICS_H
#define GATEWAY_PROCESS_METRICS_H

/* Read /proc/self now and set the gauges. */
void process_metrics_update(void);

#endif
