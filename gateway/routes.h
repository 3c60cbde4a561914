/* Which paths are served, and what is said about those that are not. Pure. */
#ifndef GATEWAY_ROUTES_H
#define GATEWAY_ROUTES_H

#include <stdbool.h>

#include "base/text.h"
#include "conf/policy.h"
#include "gateway/guard.h"

/* What a route answers. */
enum route_kind { ROUTE_GENERATE, ROUTE_MODELS, ROUTE_MODEL, ROUTE_HEALTH, ROUTE_OPTIONS };

enum route_result { ROUTE_FOUND, ROUTE_UNKNOWN, ROUTE_WRONG_METHOD, ROUTE_NOT_SERVED };

struct route {
    enum route_kind kind;
    enum endpoint endpoint; /* GENERATE, MODELS, MODEL */
    struct text model;      /* MODEL: the last part of the path, still escaped */
};

/* NOT_SERVED: OpenAI's API has this route, we do not. */
enum route_result route_find(enum http_method method, struct text path, struct route *ret);

#endif
