/* What one `scopes:` entry allows. Pure; a key's and its tenant's are joined in auth.c. */
#ifndef AUTH_SCOPE_H
#define AUTH_SCOPE_H

#include <stdbool.h>

#include "conf/policy.h"

/* The endpoint is listed, or endpoints are not limited. */
bool scopes_allow_endpoint(const struct scopes *scopes, enum endpoint endpoint);
/* Some glob matches the whole of @canonical_name (byte for byte: names are case-sensitive), or models are not limited.
 * A list without patterns allows no model. Never pass an alias: what a name may mean is for the policy to say. */
bool scopes_allow_model(const struct scopes *scopes, const char *canonical_name);

#endif
