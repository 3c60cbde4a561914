/* `tollgate usage reconcile`, the part that reads and asks: everything that should be the same, side by side. For
 * processes that end soon, with SIGPIPE ignored. */
#ifndef GATEWAY_USAGE_AUDIT_H
#define GATEWAY_USAGE_AUDIT_H

#include <stdbool.h>
#include <stddef.h>

#include "billing/audit.h"
#include "conf/policy.h"
#include "gateway/usage_command.h"

enum { USAGE_AUDIT_REASON_BYTES = 512, USAGE_AUDIT_REASONS_MAX = 16 };

/* A cell that differs. */
struct usage_audit_cell {
    struct ledger_name epoch;
    char tenant[RECORD_NAME_BYTES_MAX + 1], key[RECORD_NAME_BYTES_MAX + 1], model[RECORD_NAME_BYTES_MAX + 1];
    enum measure measure;
    enum count_source source;
    int64_t quantities[AUDIT_SIDE_COUNT];
    bool is_known[AUDIT_SIDE_COUNT];
};

/* One provider's lines. */
struct usage_audit_provider {
    const struct provider_policy *policy;
    struct row_states *states;
    struct audit_rows *rows;
    struct reconcile_known known;
    struct json_t *unasked; /* its members are the lines whose totals could not be asked; NULL = none */
};

struct usage_audit {
    const char *command; /* who asks, for complaints */
    const struct policy *policy;
    struct usage_window window;
    /* What was found: */
    size_t epochs, cells; /* of the ledger, compared */
    /* Of these epochs those that ended too long ago to be in Redis (STORE_KEPT_MS): not compared with it. */
    size_t epochs_too_old_for_redis;
    struct usage_audit_cell *differing;
    size_t differing_count, differing_capacity;
    struct usage_audit_provider providers[PROVIDER_KIND_COUNT];
    size_t provider_count;
    /* Why something is unknown, a sentence each. */
    size_t reason_count;
    char reasons[USAGE_AUDIT_REASONS_MAX][USAGE_AUDIT_REASON_BYTES];
};

/* Read and ask everything. False after saying why nothing can be said. */
bool usage_audit_run(struct usage_audit *audit);
void usage_audit_finish(struct usage_audit *audit);

/* What is known of this line of the provider's. */
struct reconcile_known usage_audit_known(const struct usage_audit_provider *provider,
                                         const struct reconcile_line *line);

/* For the parts of it. One that was given before is passed over, and so are too many. */
__attribute__((format(printf, 2, 3))) void usage_audit_reason(struct usage_audit *audit, const char *format, ...);
/* What the providers have: Stripe is asked, the files of `file` are read. False after saying why: memory. */
bool usage_audit_ask_providers(struct usage_audit *audit);

#endif
