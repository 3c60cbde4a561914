/* May this gateway be sent requests? */
#include "gateway/gateway.h"

struct tally {
    struct buffer *lines;
    int models, ready, settled;
};

static void add_model(void *owner, const struct model_status *status)
{
    struct tally *tally = owner;
    bool has_failed = status->instances > 0 && status->failed == status->instances;
    tally->models++;
    tally->ready += status->ready > 0;
    tally->settled += status->ready > 0 || has_failed;
    (void) buffer_format(tally->lines, "[%c]model %s: %d of %d engines ready, %d of %d slots in use, %d waiting\n",
                         status->ready > 0 ? '+' : '-', status->model, status->ready, status->instances,
                         status->in_flight, status->slots, status->waiting);
}

/* Before the first start is complete every model must have been READY or FAILED once; later one model that serves is
 * enough: a broken engine must not take the other models out of a load balancer. */
bool gateway_is_ready(struct gateway *gateway, struct buffer *lines)
{
    struct tally tally = {.lines = lines};
    fleet_each_model(gateway->fleet, add_model, &tally);
    if (tally.models > 0 && tally.settled == tally.models)
        gateway->startup_complete = true;
    (void) buffer_format(lines, "[%c]start complete\n[%c]not shutting down\n", gateway->startup_complete ? '+' : '-',
                         gateway->draining ? '-' : '+');
    return gateway->startup_complete && tally.ready > 0 && !gateway->draining;
}
