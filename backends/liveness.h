/* Whether a silent engine is busy or dead. Pure. An engine that generates is alive, whatever its probes say: llama.cpp
 * with all slots busy answers none for half a minute. */
#ifndef BACKENDS_LIVENESS_H
#define BACKENDS_LIVENESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

enum {
    LIVENESS_FAILURES_MAX = 3,        /* in a row */
    LIVENESS_PROGRESS_MS = 30 * 1000, /* progress within it: a failed probe is no failure */
    LIVENESS_WEDGED_MS = 120 * 1000   /* requests, but no progress for so long: asked for a token */
};

struct liveness {
    int failures;
};

struct liveness_facts {
    mono_ms now;
    int in_flight;
    mono_ms last_progress;
    mono_ms silent_since; /* when the first request came that was followed by no progress; <= last_progress: none */
    int64_t wedged_ms;    /* how long requests may be silent */
};

enum liveness_verdict { LIVENESS_ALIVE, LIVENESS_SUSPECT, LIVENESS_DEAD };

/* How long an engine with these request timers may be silent before it is asked for a token. */
int64_t liveness_wedged_ms(int64_t first_token_ms, int64_t inter_chunk_ms);
/* /health is no proof: ask for a token. */
bool liveness_wants_token(const struct liveness_facts *facts);
void liveness_passed(struct liveness *liveness);
enum liveness_verdict liveness_failed(struct liveness *liveness, const struct liveness_facts *facts);

#endif
