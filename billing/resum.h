/* All journals of a directory once more, epoch by epoch: what the ledger has to be. Only reads, also while a gateway
 * writes. */
#ifndef BILLING_RESUM_H
#define BILLING_RESUM_H

#include <stdbool.h>

#include "billing/ledger.h"

struct resum_epoch {
    struct ledger_head head;   /* its times are those of its CLOSEs so far */
    const struct cells *cells; /* its billed CLOSEs; valid during the call */
    bool is_sealed;
    bool is_whole; /* else its beginning may have gone with an earlier segment */
};

/* What is found, as calls. One that returns false ends everything: resum then returns false, with errno as it was left.
 */
struct resum_visitor {
    void *owner;
    /* Every epoch that has a CLOSE; those of a writer in their order, one that is not sealed last. */
    bool (*epoch)(void *owner, const struct resum_epoch *epoch);
    /* A request that has no CLOSE: when its writer last wrote of it. */
    bool (*open_request)(void *owner, const char *writer, wall_ms last_sign);
    /* The rest of this journal cannot be read, or not yet. */
    bool (*damaged)(void *owner, const char *writer);
};

/* Visit every writer in @journal_directory. False with errno: the directory (ENOENT: no gateway has run), memory, or a
 * visitor. */
bool resum(const char *journal_directory, const struct resum_visitor *visitor);

#endif
