/* One provider's rows: made of the ledger's epochs since the provider is there, each epoch once, whole or not at all.
 */
#ifndef BILLING_OUTBOX_H
#define BILLING_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "billing/row_state.h"

/* For one thread. */
struct outbox;

enum {
    OUTBOX_TROUBLE_BYTES = 256,
    OUTBOX_ALIVE_MS = 10 * 60 * 1000, /* so often the states get to know that they are in use; */
    OUTBOX_STALE_MS = 3600 * 1000,    /* after that without it they may come from a backup */
    OUTBOX_DUE_MAX = 20000 /* pending and sent rows; more come when these are gone, but each epoch's at once */
};

struct outbox_options {
    const char *billing_directory, *ledger_directory; /* existing; copied */
    const char *install_id;                           /* copied */
    enum provider_kind provider;
};

/* What the states say is known; epochs that were being added when the gateway died are whole again. When the states
 * were not in use for OUTBOX_STALE_MS, and the provider forgets identifiers, others may have followed them: what is
 * pending or held, and all rows of epochs that have ended by now, may have arrived. NULL with @error in words for a
 * person. */
struct outbox *outbox_open(const struct outbox_options *options, char error[OUTBOX_TROUBLE_BYTES]);
/* NULLs; no-op on NULL. */
void outbox_close(struct outbox **outbox);

/* What @policy says now. From the first policy that names the provider on, each epoch that ends makes rows, also while
 * a later policy does not name it: these are made when one does again. False with outbox_trouble: it is named and not
 * in use; call again. */
bool outbox_follow(struct outbox *outbox, const struct policy *policy);
/* The epoch has its ledger file. More than once is once. */
void outbox_sealed(struct outbox *outbox, const struct ledger_name *epoch);

/* Make rows of what Redis has (@may_go), in order of each writer's epochs. True: @until came first. */
typedef bool outbox_may_go(void *owner, const struct ledger_name *epoch);
struct outbox_turn {
    const struct policy *policy; /* whose provider, customers and meters count */
    outbox_may_go *may_go;
    void *owner;
    wall_ms now;
    mono_ms until;
    bool all_are_read; /* the journals: each epoch that has ended is in the ledger */
};
bool outbox_turn(struct outbox *outbox, const struct outbox_turn *turn);

/* Let go what was delivered long ago: now and then. False with errno: nothing is lost. */
bool outbox_tidy(struct outbox *outbox, wall_ms now);

/* The policy that was followed last names the provider. */
bool outbox_is_active(const struct outbox *outbox);
struct row_states *outbox_states(const struct outbox *outbox);
/* Of the epochs that still wait for their rows: the first that any writer has, 0 = none; and when the oldest of them
 * that was looked at began, 0 = none. */
uint64_t outbox_first_waiting(const struct outbox *outbox, const char *writer_id);
wall_ms outbox_oldest_waiting(const struct outbox *outbox);
/* What fails at the moment, "" = nothing. */
const char *outbox_trouble(const struct outbox *outbox);

/* When the provider first appeared in a policy in force: <billing_directory>/<provider>.since. False with errno: ENOENT
 * = never, EBADMSG = the file is damaged. Any thread. */
bool outbox_since(const char *billing_directory, enum provider_kind provider, wall_ms *ret);

/* What was known of the provider's rows is gone, and it may take again what it took before: @ret_error in words for a
 * person. outbox_open would refuse. Any thread. */
bool outbox_are_states_gone(const char *billing_directory, enum provider_kind provider,
                            char ret_error[OUTBOX_TROUBLE_BYTES]);
/* The billing directory is not there and epochs are in the ledger: a gateway makes the one before the others. */
bool outbox_is_directory_gone(const char *billing_directory, const char *ledger_directory);
/* How many epochs of the ledger have no rows in @states yet and get some. False with errno. */
bool outbox_count_to_come(const struct outbox_options *options, const struct row_states *states, size_t *ret);

#endif
