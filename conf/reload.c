/* One pointer under one short lock; everything slow happens beside it. */
#include "conf/reload.h"

#include <pthread.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "conf/problems.h"
#include "conf/snapshot.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct policy *in_force; /* under lock; holds one reference */

static void show_time(const struct policy *policy)
{
    const char *const no_labels[METRIC_LABELS_MAX] = {NULL};
    metric_set(metric_series(METRIC_RELOAD_TIME, no_labels), policy->loaded_wall_ms / 1000);
}

void reload_install(const struct policy **first)
{
    ENSURE(*first != NULL);
    show_time(*first);
    pthread_mutex_lock(&lock);
    ENSURE(in_force == NULL);
    in_force = *first;
    pthread_mutex_unlock(&lock);
    *first = NULL;
}

const struct policy *reload_current(void)
{
    pthread_mutex_lock(&lock);
    ENSURE(in_force != NULL);
    const struct policy *policy = policy_hold(in_force);
    pthread_mutex_unlock(&lock);
    return policy;
}

/* Takes over @next's reference and drops that of the policy before it. */
static void swap(const struct policy **next)
{
    pthread_mutex_lock(&lock);
    const struct policy *before = in_force;
    in_force = *next;
    pthread_mutex_unlock(&lock);
    *next = NULL;
    policy_drop(&before);
}

bool reload_now(struct bundle **ret_bundle, struct problem_list *problems)
{
    const struct policy *current = reload_current();
    struct bundle *bundle = bundle_read(current->file, problems);
    const struct policy *next = bundle != NULL ? policy_load(bundle, LOAD_RUN, problems) : NULL;
    bool accepted = next != NULL && policy_may_replace(current, next, problems);
    metric_count(METRIC_RELOADS, accepted ? "accepted" : "refused", NULL);
    if (accepted) {
        show_time(next);
        snapshot_keep_created(next, current);
        swap(&next);
        *ret_bundle = bundle;
    } else {
        policy_drop(&next);
        bundle_destroy(&bundle);
    }
    policy_drop(&current);
    return accepted;
}
