/* What turns usage into money, as a part of the gateway process: where the journals are, a Redis of our own, the store
 * thread, the billing thread. Control thread only, but for what its parts allow. */
#ifndef GATEWAY_MONEY_H
#define GATEWAY_MONEY_H

#include <limits.h>
#include <stdbool.h>

#include "base/loop.h"
#include "base/redis.h"
#include "billing/biller.h"
#include "billing/journal.h"
#include "billing/store.h"
#include "conf/policy.h"

struct buffer;
struct children;
struct redis_keeper;

/* One per process, zeroed before money_prepare. */
struct money {
    struct loop *loop;
    char journal_directory[PATH_MAX];
    struct journal_options journal; /* of every worker, but for its slot; lives as long as this */
    struct redis_keeper *keeper;    /* NULL: the configuration names a Redis */
    struct store *store;
    struct biller *biller;
    /* What was last said in the log. */
    struct loop_timer look;
    mono_ms started_at;
    bool redis_was_up, redis_was_told;
    char durability_told[REDIS_DURABILITY_BYTES];
    char error_told[BILLER_ERROR_BYTES];
};

/* Before children_attach, with the lock on state_dir held; false with a message on standard error. */
bool money_prepare(struct money *money, struct loop *loop, struct children *children, const struct policy *policy);
/* After children_attach and before any worker: journals that are there now are dead writers'. Likewise. */
bool money_start(struct money *money, const struct policy *policy);
/* The workers have ended. What waits for a person's change is answered in the loop's next turn. */
void money_stop(struct money *money);
/* After children_destroy. Both are no-ops for what was not begun. */
void money_finish(struct money *money);

/* A line each of GET /readyz: neither makes the gateway unready, for usage waits on disk. */
void money_write_readiness(struct money *money, struct buffer *lines);
/* Why Redis does not answer, also when that is because the private one does not run; "" = nothing is known. Until the
 * loop runs next, and as long as @status. */
const char *money_redis_trouble(const struct money *money, const struct store_status *status);
/* The gauges, as of now. */
void money_update_metrics(struct money *money);

#endif
