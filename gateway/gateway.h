/* The gateway process: what its control thread owns, and the order in which it starts and ends. */
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include <stdbool.h>

#include "backends/children.h"
#include "backends/fleet.h"
#include "base/buffer.h"
#include "base/loop.h"
#include "conf/policy.h"
#include "gateway/listener.h"
#include "gateway/money.h"
#include "gateway/worker.h"

struct admin;
struct bundle;

enum { GATEWAY_TOKEN_BYTES = 128, GATEWAY_WORKERS_MAX = 256 };

/* One per process. Control thread only, but for the atomics of what it points to. */
struct gateway {
    struct loop *loop;
    struct children *children;
    struct fleet *fleet;
    struct limiter *limiter;
    struct estimator *estimator;
    struct loop_timer save; /* of what the estimator learned */
    mono_ms save_due;
    uint64_t saved_contents; /* estimator_first_contents at the last save */
    struct worker *workers[GATEWAY_WORKERS_MAX];
    int worker_count;
    struct money money;
    struct listener *listener;
    struct admin *admin;
    int listen_fd;
    int admin_fd;
    int lock_fd; /* of state_dir, for as long as this process lives */
    int signal_fd;
    struct loop_watch signals;
    char admin_token[GATEWAY_TOKEN_BYTES];
    struct loop_timer drain;
    mono_ms drain_deadline;
    bool draining;
    bool cut;
    bool master_gone;
    bool startup_complete; /* every model has been READY or FAILED once */
};

/* boot.c: from the configuration file to serving. False with a message on standard error. */
bool gateway_boot(struct gateway *gateway, const char *config_file);
/* drain.c: no new work; when nothing is active or the limit is reached, the loop stops. */
void gateway_drain(struct gateway *gateway);
/* drain.c: the master died: end what runs and leave within a second. */
void gateway_master_gone(struct gateway *gateway);
/* drain.c: leave at once, as after a crash: what is in the journals is enough to go on. */
_Noreturn void gateway_leave(void);
/* boot.c: after the loop: threads joined, everything closed. */
void gateway_finish(struct gateway *gateway);

/* reload.c of this folder is conf/reload.h plus what has to follow: read the files again; on success the fleet follows
 * and the master keeps the new bytes. False with the problems appended to @problems ("file:line:col: error: …" lines).
 */
bool gateway_reload_config(struct gateway *gateway, struct buffer *problems);
/* Give the master the accepted bytes, for a successor of this process. */
bool gateway_keep_config(struct gateway *gateway, const struct bundle *bundle);

/* Requests that have not ended, of all workers. */
int gateway_active_requests(const struct gateway *gateway);
/* Serves, and some model has a READY engine. The lines say which; at most one line a check is appended to @lines. */
bool gateway_is_ready(struct gateway *gateway, struct buffer *lines);

#endif
