/* Bearer to principal: may this credential call this endpoint and model? Pure but for the clock value passed in. */
#ifndef AUTH_AUTH_H
#define AUTH_AUTH_H

#include <stdbool.h>

#include "conf/policy.h"

/* Who asks. A value; its pointers live as long as the policy it was checked against. Never holds the credential. */
struct principal {
    const struct tenant *tenant;
    const struct key *key;
    const char *user; /* "" = none */
};

/* Everything but OK is answered with the same 401; the difference is for the metric only. */
enum auth_verdict {
    AUTH_OK,
    AUTH_MISSING,
    AUTH_MALFORMED,
    AUTH_UNKNOWN,
    AUTH_EXPIRED,
    AUTH_DISABLED,
    AUTH_VERDICT_COUNT
};
extern const char *const AUTH_VERDICT_NAMES[AUTH_VERDICT_COUNT];

enum { AUTH_BEARER_BYTES_MAX = 4096 };

/* @authorization is the whole header value (at == NULL: no such header). The scheme is case-insensitive (RFC
 * 9110, 11.1). Unknown, wrong, expired and disabled credentials do the same work: one SHA-256 and one look-up. @ret
 * only on AUTH_OK. */
enum auth_verdict auth_check(const struct policy *policy, struct text authorization, wall_ms now,
                             struct principal *ret);

/* Both the key's and its tenant's scopes allow it. */
bool auth_allows_endpoint(const struct principal *who, enum endpoint endpoint);
bool auth_allows_model(const struct principal *who, const struct model *model);

#endif
