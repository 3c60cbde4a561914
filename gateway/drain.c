/* How the gateway process ends: on request, or because its master died. */
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "conf/reload.h"
#include "gateway/gateway.h"

enum { LOOK_AGAIN_MS = 20, AFTER_CUT_MS = 500, MASTER_GONE_MS = 600 };

int gateway_active_requests(const struct gateway *gateway)
{
    int active = 0;
    for (int i = 0; i < gateway->worker_count; i++)
        active += atomic_load_explicit(&gateway->workers[i]->active_requests, memory_order_relaxed);
    return active;
}

static void cut_all(struct gateway *gateway)
{
    gateway->cut = true;
    listener_destroy(&gateway->listener); /* or those who are cut come back, for as long as they like */
    gateway->drain_deadline = loop_now(gateway->loop) + AFTER_CUT_MS;
    for (int i = 0; i < gateway->worker_count; i++)
        worker_cut_all(gateway->workers[i]);
}

static void shut_all(struct gateway *gateway)
{
    gateway->drain_deadline = loop_now(gateway->loop) + AFTER_CUT_MS;
    for (int i = 0; i < gateway->worker_count; i++)
        worker_shut_all(gateway->workers[i]);
}

static void look(struct loop_timer *timer)
{
    struct gateway *gateway = timer->owner;
    int active = gateway_active_requests(gateway);
    if (active == 0) {
        loop_stop(gateway->loop);
        return;
    }
    if (loop_now(gateway->loop) >= gateway->drain_deadline) {
        if (gateway->cut)
            shut_all(gateway); /* clients that do not read, bodies that do not come */
        else
            cut_all(gateway);
    }
    loop_timer_set(gateway->loop, timer, loop_now(gateway->loop) + LOOK_AGAIN_MS);
}

static void begin(struct gateway *gateway, int64_t limit_ms)
{
    gateway->draining = true;
    fleet_refuse_new(gateway->fleet);
    gateway->drain_deadline = loop_now(gateway->loop) + limit_ms;
    gateway->drain = (struct loop_timer){.fire = look, .owner = gateway};
    loop_timer_set(gateway->loop, &gateway->drain, loop_now(gateway->loop) + LOOK_AGAIN_MS);
}

void gateway_drain(struct gateway *gateway)
{
    if (gateway->draining)
        return;
    const struct policy *policy = reload_current();
    log_event(LOG_INFO, "shutdown", "draining %d requests, for at most %lld ms", gateway_active_requests(gateway),
              (long long) policy->drain_timeout_ms);
    begin(gateway, policy->drain_timeout_ms);
    policy_drop(&policy);
}

void gateway_leave(void)
{
    log_stop_writer();
    _exit(1);
}

/* Who is cut has its CLOSE in the journal since the worker's next turn, whether or not its client reads the rest. */
static void leave(struct loop_timer *timer)
{
    (void) timer;
    gateway_leave();
}

void gateway_master_gone(struct gateway *gateway)
{
    static struct loop_timer last;
    log_event(LOG_ERROR, "shutdown", "the master process is gone: ending all requests");
    gateway->master_gone = true;
    if (!gateway->draining)
        begin(gateway, 0);
    cut_all(gateway);
    last = (struct loop_timer){.fire = leave};
    loop_timer_set(gateway->loop, &last, loop_now(gateway->loop) + MASTER_GONE_MS);
}
