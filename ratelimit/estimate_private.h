/* Inside of the estimator, for estimate.c and estimate_text.c only. */
#ifndef RATELIMIT_ESTIMATE_PRIVATE_H
#define RATELIMIT_ESTIMATE_PRIVATE_H

#include <pthread.h>

#include "ratelimit/estimate_table.h"

struct estimator {
    pthread_mutex_t lock;
    struct estimate_table *table; /* under the lock, also the pointer: reading a file replaces it */
    uint64_t first_contents;      /* under the lock */
};

#endif
