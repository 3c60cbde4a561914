/* Endpoint bits and globs over model names. */
#include "auth/scope.h"

#include "base/panic.h"
#include "base/text.h"

bool scopes_allow_endpoint(const struct scopes *scopes, enum endpoint endpoint)
{
    ENSURE(endpoint < ENDPOINT_COUNT);
    return !scopes->endpoints_limited || (scopes->endpoint_bits & (1u << endpoint)) != 0;
}

bool scopes_allow_model(const struct scopes *scopes, const char *canonical_name)
{
    if (!scopes->models_limited) {
        return true;
    }
    struct text name = text_of(canonical_name);
    for (size_t i = 0; i < scopes->model_pattern_count; i++) {
        if (text_matches_glob(name, text_of(scopes->model_patterns[i]))) {
            return true;
        }
    }
    return false;
}
