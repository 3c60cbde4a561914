/* One writer's journal on its way to Redis: in order, in batches, again when Redis forgot; and from the ledger files
 * what Redis forgot and the journal no longer has. */
#ifndef BILLING_SHIPPER_H
#define BILLING_SHIPPER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/redis.h"
#include "billing/ship.h"

/* For one thread. */
struct shipper;

struct shipper_options {
    const char *writer_directory;
    const char *ledger_directory; /* outlives the shipper */
    const char *writer_id;
    int64_t retention_s; /* of sums in Redis; what ended longer ago is not put back from ledger files */
};

/* Touches no file yet. NULL: no memory. */
struct shipper *shipper_create(const struct shipper_options *options);
/* NULLs; no-op on NULL. */
void shipper_destroy(struct shipper **shipper);

enum shipper_result {
    SHIPPER_MORE, /* something was shipped or put back, or Redis forgot something: call again */
    SHIPPER_IDLE, /* Redis has all that the journal has */
    SHIPPER_DOWN, /* redis_error says why */
    SHIPPER_REFUSED,
    SHIPPER_STUCK /* shipper_trouble says why; somebody has to look at the journal */
};
/* Ship one batch. @batch may be shared by all shippers of a thread. */
enum shipper_result shipper_turn(struct shipper *shipper, struct ship_batch *batch, struct redis *redis);
/* Ask Redis whether it still has what it confirmed; then call shipper_turn. IDLE: it has. */
enum shipper_result shipper_check(struct shipper *shipper, struct ship_batch *batch, struct redis *redis);
/* Give back the open file and its memory until the next turn; for a writer from which nothing more comes. */
void shipper_rest(struct shipper *shipper);

const char *shipper_writer_id(const struct shipper *shipper);
/* Of the last record that Redis confirmed, here. */
uint64_t shipper_shipped(const struct shipper *shipper);
/* The journal has its FINISH, and Redis had all of it when it last answered. */
bool shipper_is_finished(const struct shipper *shipper);
/* Wall time of the first record of which Redis did not confirm that it has it; 0 = there is none. */
wall_ms shipper_oldest_unshipped(const struct shipper *shipper);
/* No segment that is left has a record: nothing says what Redis should have of it. As of the last turn. */
bool shipper_is_bare(const struct shipper *shipper);
/* Redis had more than the journal, as after a power cut at level OS, and was made to forget it. */
bool shipper_was_behind(const struct shipper *shipper);
/* How many epochs were put back from ledger files. */
uint64_t shipper_restored(const struct shipper *shipper);
/* How often Redis had less than it had confirmed. */
uint64_t shipper_regressions(const struct shipper *shipper);
/* "" = none. */
const char *shipper_trouble(const struct shipper *shipper);

#endif
