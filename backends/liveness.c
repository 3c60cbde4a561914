#include "backends/liveness.h"

int64_t liveness_wedged_ms(int64_t first_token_ms, int64_t inter_chunk_ms)
{
    int64_t least = first_token_ms < inter_chunk_ms ? first_token_ms : inter_chunk_ms;

    return least > LIVENESS_WEDGED_MS ? least : LIVENESS_WEDGED_MS;
}

bool liveness_wants_token(const struct liveness_facts *facts)
{
    return facts->silent_since > facts->last_progress && facts->now - facts->silent_since >= facts->wedged_ms;
}

void liveness_passed(struct liveness *liveness)
{
    liveness->failures = 0;
}

enum liveness_verdict liveness_failed(struct liveness *liveness, const struct liveness_facts *facts)
{
    if (facts->now - facts->last_progress <= LIVENESS_PROGRESS_MS) {
        liveness->failures = 0;
        return LIVENESS_ALIVE;
    }
    liveness->failures++;
    if (liveness->failures < LIVENESS_FAILURES_MAX)
        return LIVENESS_SUSPECT;
    if (facts->in_flight > 0 && !liveness_wants_token(facts))
        return LIVENESS_SUSPECT;
    return LIVENESS_DEAD;
}
