/* The life of one instance on the control thread: started, asked until it is ready, watched, stopped, started again. */
#ifndef BACKENDS_UPKEEP_H
#define BACKENDS_UPKEEP_H

#include <stdint.h>

#include "backends/children.h"
#include "backends/instance.h"

enum {
    UPKEEP_FIRST_PROBE_MS = 250,
    UPKEEP_PROBE_MS = 1000,     /* between two rounds while it starts */
    UPKEEP_BRISK_MS = 5 * 1000, /* so long after the start it is asked every UPKEEP_FIRST_PROBE_MS */
    UPKEEP_LIVENESS_MS = 5 * 1000,
    UPKEEP_REMOTE_RETRY_MS_MIN = 2000, /* an unreachable remote engine is asked again after this ... */
    UPKEEP_REMOTE_RETRY_MS_MAX = 4000, /* ... to this */
    UPKEEP_STOP_GRACE_MS = 10 * 1000   /* from SIGTERM to SIGKILL */
};

/* STOPPED, BACKOFF or FAILED: start it, or begin to ask a remote one. */
void upkeep_begin(struct instance *instance);
/* STOPPED, and the master already runs its process @child. READY at once when it was READY under the gateway before us
 * and still has its socket or port. */
void upkeep_adopt(struct instance *instance, const struct child_info *child, int port);
/* Its settings are no longer wanted: drain and stop. It may be gone when this returns. */
void upkeep_leave(struct instance *instance);
/* DRAINING, but wanted again. */
void upkeep_stay(struct instance *instance);
/* DRAINING: stop it when nothing is in flight or the bound has passed. Stopped and leaving: let it go when no lease is
 * held. It may be gone when this returns. */
void upkeep_sweep(struct instance *instance, mono_ms now);
/* Stop timers and probes, whatever the state; before instance_destroy at the end of the fleet. */
void upkeep_abandon(struct instance *instance);

/* What the master tells of the instance's process. */
void upkeep_started(struct instance *instance, int pid);
void upkeep_exited(struct instance *instance, const struct child_exit *exit);
void upkeep_logged(struct instance *instance, struct text bytes);

#endif
