/* What a person may do with a row: try a rejected one again, release a held one, hold one back, close one that was
 * billed by hand; and what would come of it. */
#ifndef BILLING_ROW_CHANGE_H
#define BILLING_ROW_CHANGE_H

#include <stdbool.h>

#include "billing/row_state.h"

/* How a row would go. */
struct row_going {
    const char *customer; /* the entry's, or the policy's: for a provider that needs one, never NULL or "" */
    const struct meter_policy *meter; /* the policy's, for a row that no meter took; NULL: it has one, or needs none */
};
/* Whether a row that is not delivered could go now, a held one once it is released and a rejected one once it is tried
 * again: as it went, when it may have arrived, else with what @policy says. False with @ret_reason: what to do. */
bool row_can_go(const struct row_entry *entry, const struct policy *policy, wall_ms now, struct row_going *ret,
                char ret_reason[ROW_REASON_BYTES_MAX + 1]);

enum row_verb {
    ROW_RETRY,     /* rejected -> pending, as the next revision, if it can go */
    ROW_RELEASE,   /* held -> pending: what it lacked (customer, meter) is looked up in the policy now */
    ROW_HOLD,      /* pending, sent or rejected -> held */
    ROW_DELIVERED, /* held or rejected -> acked: the person has seen it at the provider, or billed it by hand */
    ROW_VERB_COUNT
};
extern const char *const ROW_VERB_NAMES[ROW_VERB_COUNT]; /* "retry", "release", "hold", "delivered" */

struct row_change_result {
    bool changed;
    bool is_known;                         /* there is such a row */
    enum row_state state;                  /* after it; of no meaning when the row is not known */
    char reason[ROW_REASON_BYTES_MAX + 1]; /* why nothing was changed, and what to do; "" when it was */
};

/* Change the row @id of @states, synced; false in the result when it is not known, when its state does not allow the
 * verb, or when a released row still lacks what it was held for. */
struct row_change_result row_change(struct row_states *states, const struct policy *policy, const char *id,
                                    enum row_verb verb, wall_ms now);

#endif
