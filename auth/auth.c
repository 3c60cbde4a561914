/* The bearer's way in: header syntax, one digest, one look-up, then what the record says. */
#include "auth/auth.h"

#include "auth/key.h"
#include "auth/scope.h"
#include "base/panic.h"

const char *const AUTH_VERDICT_NAMES[AUTH_VERDICT_COUNT] = {
    [AUTH_OK] = "ok",           [AUTH_MISSING] = "missing", [AUTH_MALFORMED] = "malformed",
    [AUTH_UNKNOWN] = "unknown", [AUTH_EXPIRED] = "expired", [AUTH_DISABLED] = "disabled",
};

static bool is_visible_ascii(char c)
{
    return c > ' ' && c < 0x7f;
}

/* `Bearer` 1*SP token. Wider than RFC 6750's b64token on purpose: keys made by others are imported by their digest,
 * so any visible ASCII may stand in them. */
static bool parse_bearer(struct text authorization, struct text *ret_bearer)
{
    static const struct text SCHEME = {"Bearer", 6};
    struct text value = text_trimmed(authorization); /* white space around a field is not part of it (RFC 9110, 5.5) */
    if (value.length <= SCHEME.length || value.at[SCHEME.length] != ' ') {
        return false;
    }
    if (!text_equal_ignoring_case((struct text){value.at, SCHEME.length}, SCHEME)) {
        return false;
    }
    size_t start = SCHEME.length;
    while (start < value.length && value.at[start] == ' ') {
        start++;
    }
    struct text bearer = {value.at + start, value.length - start};
    if (bearer.length == 0 || bearer.length > AUTH_BEARER_BYTES_MAX) {
        return false;
    }
    for (size_t i = 0; i < bearer.length; i++) {
        if (!is_visible_ascii(bearer.at[i])) {
            return false;
        }
    }
    *ret_bearer = bearer;
    return true;
}

/* What the record says, once the credential has been proved to be its own. */
static enum auth_verdict judge(const struct key *key, wall_ms now)
{
    if (key->disabled || key->tenant->disabled) {
        return AUTH_DISABLED;
    }
    if (key->expires_wall_ms != 0 && now >= key->expires_wall_ms) {
        return AUTH_EXPIRED;
    }
    return AUTH_OK;
}

enum auth_verdict auth_check(const struct policy *policy, struct text authorization, wall_ms now, struct principal *ret)
{
    if (authorization.at == NULL) {
        return AUTH_MISSING;
    }
    struct text bearer;
    if (!parse_bearer(authorization, &bearer)) {
        return AUTH_MALFORMED;
    }
    uint8_t sha256[32];
    if (!key_digest(bearer, sha256)) {
        return AUTH_UNKNOWN; /* memory is exhausted: nobody gets in without a digest */
    }
    const struct key *key = policy_key(policy, sha256);
    if (key == NULL) {
        return AUTH_UNKNOWN;
    }
    enum auth_verdict verdict = judge(key, now);
    if (verdict == AUTH_OK) {
        ENSURE(key->user != NULL);
        *ret = (struct principal){.tenant = key->tenant, .key = key, .user = key->user};
    }
    return verdict;
}

bool auth_allows_endpoint(const struct principal *who, enum endpoint endpoint)
{
    return scopes_allow_endpoint(&who->tenant->scopes, endpoint) && scopes_allow_endpoint(&who->key->scopes, endpoint);
}

bool auth_allows_model(const struct principal *who, const struct model *model)
{
    return scopes_allow_model(&who->tenant->scopes, model->name) && scopes_allow_model(&who->key->scopes, model->name);
}
