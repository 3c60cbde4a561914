/* GET /admin/v1/usage, where usage stands, and POST /admin/v1/billing, what a person wants with one row of it. Control
 * thread only, but for what is pure. */
#ifndef GATEWAY_ADMIN_USAGE_H
#define GATEWAY_ADMIN_USAGE_H

#include <stdbool.h>

#include "base/buffer.h"
#include "billing/biller.h"
#include "gateway/worker.h"

struct gateway;

enum { ADMIN_USAGE_BYTES_MAX = 1024 * 1024 }; /* of an answer, with the longest names there can be */

/* Append the answer. False when it does not fit. */
bool admin_usage_write(struct gateway *gateway, struct buffer *to);

/* What the answer is made of. */
struct admin_usage {
    const struct worker_journal *journals; /* by worker */
    int journal_count;
    const struct store_status *redis;
    const char *redis_error; /* "" = none */
    const struct biller_status *billing;
};
/* Pure. Dates are RFC 3339 or null. */
void admin_usage_json(const struct admin_usage *usage, struct builder *to);
/* One of its providers, also for who reads the files. Likewise. */
void admin_usage_provider_json(const struct usage_status *status, struct builder *to);
/* One of those that wait. Likewise. */
void admin_usage_waiting_json(const struct usage_waiting *row, struct builder *to);

/* A change on its way through the billing thread. */
struct admin_change {
    enum row_verb verb;
    char id[ROW_ID_CHARACTERS + 1];
    /* The status and a JSON body, once, not from within admin_change_begin. NULL: nobody waits any more. */
    void (*answer)(void *owner, int status, struct text body);
    void *owner;
    struct biller_change _change;
};
/* Read {"action":"retry|release|hold|delivered","row":"tg1-…"} into @ret's first two: pure. NULL, or a sentence that
 * says what is wrong. */
const char *admin_change_parse(struct text body, struct admin_change *ret);
/* Ask for it; @change is of malloc() and frees itself after its answer, which comes on @loop's thread. */
void admin_change_begin(struct biller *biller, struct loop *loop, struct admin_change *change);

#endif
