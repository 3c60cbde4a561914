#include <stdlib.h>
#include <string.h>

#include "backends/fleet.h"
#include "backends/fleet_private.h"
#include "base/metrics.h"

const char *const LEASE_VERDICT_NAMES[LEASE_VERDICT_COUNT] = {
    [LEASE_TAKEN] = "taken",           [LEASE_WAITING] = "waiting",     [LEASE_QUEUE_FULL] = "queue_full",
    [LEASE_ALL_FAILED] = "all_failed", [LEASE_TIMED_OUT] = "timed_out", [LEASE_DRAINING] = "draining",
};

const char *const LEASE_OUTCOME_NAMES[LEASE_OUTCOME_COUNT] = {
    [LEASE_UNUSED] = "unused",
    [LEASE_OK] = "ok",
    [LEASE_BUSY] = "busy",
    [LEASE_CONNECT_FAILED] = "connect_failed",
    [LEASE_CLOSED_EARLY] = "closed_early",
    [LEASE_SERVER_ERROR] = "server_error",
    [LEASE_TIMED_OUT_FIRST] = "timed_out_first",
    [LEASE_TIMED_OUT_LATER] = "timed_out_later",
};

enum lease_verdict lease_take(struct fleet *fleet, const char *model, const char *except, struct lease_waiter *waiter,
                              struct lease **ret_lease)
{
    struct lease *spare;
    struct line *line;
    enum lease_verdict verdict;

    waiter->_ticket = NULL;
    if (atomic_load(&fleet->refusing))
        return LEASE_DRAINING;
    spare = calloc(1, sizeof(*spare));
    if (spare == NULL)
        return LEASE_QUEUE_FULL;
    line = fleet_lock_line(fleet, model);
    if (line == NULL) {
        free(spare);
        return LEASE_ALL_FAILED;
    }
    verdict = line_take(line, except != NULL ? except : "", waiter, &spare);
    pthread_mutex_unlock(&line->lock);
    if (verdict == LEASE_WAITING)
        fleet_want_sweep(fleet);
    if (verdict == LEASE_TAKEN)
        *ret_lease = spare;
    else
        free(spare);
    return verdict;
}

void lease_abandon(struct fleet *fleet, struct lease_waiter *waiter)
{
    struct ticket *ticket = waiter->_ticket;

    (void) fleet;
    if (ticket == NULL)
        return;
    waiter->_ticket = NULL;
    line_abandon(ticket);
}

const struct lease_target *lease_target(const struct lease *lease)
{
    return &lease->target;
}

static bool is_failure(enum lease_outcome outcome)
{
    return outcome != LEASE_UNUSED && outcome != LEASE_OK && outcome != LEASE_BUSY;
}

void lease_end(struct lease **lease, enum lease_outcome outcome)
{
    struct lease *dying = *lease;

    if (dying == NULL)
        return;
    *lease = NULL;
    if (is_failure(outcome)) {
        const char *labels[METRIC_LABELS_MAX] = {dying->instance->model, dying->instance->name,
                                                 LEASE_OUTCOME_NAMES[outcome]};

        metric_add(metric_series(METRIC_ENGINE_FAILURES, labels), 1);
    }
    line_end(dying, outcome);
    free(dying);
}

void lease_progress(struct lease *lease)
{
    _Atomic mono_ms *last = &lease->instance->last_progress;
    mono_ms now = clock_mono_ms();

    /* Many threads tell, many times a millisecond: one of them writes. */
    if (atomic_load_explicit(last, memory_order_relaxed) != now)
        atomic_store_explicit(last, now, memory_order_relaxed);
}

bool fleet_retry_allowed(struct fleet *fleet, const char *model)
{
    struct line *line = fleet_lock_line(fleet, model);
    bool allowed;

    if (line == NULL)
        return false;
    allowed = retry_budget_take(&line->retries, clock_mono_ms());
    pthread_mutex_unlock(&line->lock);
    return allowed;
}
