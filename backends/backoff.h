/* When a process that ended is started again, and when it is given up for a while. Pure. */
#ifndef BACKENDS_BACKOFF_H
#define BACKENDS_BACKOFF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

enum {
    BACKOFF_FIRST_MS = 1000,            /* delay = min(60 s, 1 s * 2^n) * U(0.5, 1.5) */
    BACKOFF_DELAY_MS_MAX = 60 * 1000,   /* before the jitter */
    BACKOFF_PROVEN_MS = 10 * 60 * 1000, /* READY for this long: n starts at 0 again */
    BACKOFF_WINDOW_MS = 10 * 60 * 1000, /* BACKOFF_EXITS_MAX ends within it: given up */
    BACKOFF_EXITS_MAX = 5,
    BACKOFF_SAME_EXITS_MAX = 3, /* so many ends in a row before READY, all with the same status: given up */
    BACKOFF_FAILED_RETRY_MS = 5 * 60 * 1000
};

/* What happened so far. Zeroed memory is a process that never ran. */
struct backoff {
    unsigned exponent;
    mono_ms exits[BACKOFF_EXITS_MAX]; /* a ring of the last ends */
    unsigned exit_count;              /* all ends ever */
    unsigned same_exits;
    int last_status;
    bool failed; /* given up; one end before READY is enough to be given up again */
};

struct backoff_decision {
    bool failed; /* give up; @delay_ms is then the time to the next trial */
    int64_t delay_ms;
};

/* The process became READY. */
void backoff_ready(struct backoff *backoff);
/* The process ended at @now with @status (any integer that tells ends apart), having been READY for @ready_ms (-1 =
 * never). @random is uniform in [0, 1). */
struct backoff_decision backoff_exited(struct backoff *backoff, mono_ms now, int status, int64_t ready_ms,
                                       double random);

#endif
