/* May this gateway be sent requests? */
#include "gateway/gateway.h"

/* The disk stands in the way of every worker that writes to it. */
enum { SLOW_WRITE_US = 1000 * 1000 };

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

/* A line for each worker that is in trouble, else one for all. False when some worker refuses new requests. */
static bool add_journals(const struct gateway *gateway, struct buffer *lines)
{
    bool is_well = true, is_slow = false;
    for (int i = 0; i < gateway->worker_count; i++) {
        struct worker_journal journal;
        worker_journal(gateway->workers[i], &journal);
        bool refuses = journal.trouble[0] != '\0', was_slow = journal.slowest_write_us > SLOW_WRITE_US;
        if (refuses)
            (void) buffer_format(lines, "[-]journal of worker %d refuses new requests: %s\n", i, journal.trouble);
        if (was_slow)
            (void) buffer_format(lines, "[-]journal of worker %d: a write took %.1f s in the last minute\n", i,
                                 (double) journal.slowest_write_us / 1e6);
        is_well = is_well && !refuses;
        is_slow = is_slow || was_slow;
    }
    if (is_well && !is_slow)
        (void) buffer_add(lines, TEXT("[+]journal\n"));
    return is_well;
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
    bool records = add_journals(gateway, lines);
    money_write_readiness(&gateway->money, lines);
    return gateway->startup_complete && records && tally.ready > 0 && !gateway->draining;
}
