/* A recorded load replayed against the limits of a policy, in simulated time: what would have been refused. */
#ifndef GATEWAY_SIMULATION_H
#define GATEWAY_SIMULATION_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/policy.h"
#include "gateway/trace.h"
#include "ratelimit/limiter.h"

enum { SIMULATION_RUNNING_MAX = 100000, SIMULATION_TOKEN_MS = 20 };

struct simulation_load {
    const struct trace *trace;
    struct limit_subject subject; /* who sends all of it */
    int64_t cap_tokens;           /* > 0: what each request may generate; longer answers are cut to it */
    int64_t token_us;             /* >= 0: an engine's time for one output token, which says when a request ends */
};

struct simulation_result {
    int64_t requests;
    int64_t admitted;
    int64_t refused[LIMIT_KIND_COUNT][LIMIT_SCOPE_COUNT];   /* not then; a client may try again, this one does not */
    int64_t too_large[LIMIT_KIND_COUNT][LIMIT_SCOPE_COUNT]; /* never */
    int64_t limits[LIMIT_KIND_COUNT][LIMIT_SCOPE_COUNT];    /* those that refused something, as configured */
    bool limited;                                           /* some limit applies at all */
    int64_t refused_tokens;                                 /* of the refused and of the too large */
    int64_t used_tokens;
    int64_t reserved_tokens;              /* before dispatch, of the admitted */
    int64_t over_requests, over_tokens;   /* reserved more than used */
    int64_t under_requests, under_tokens; /* reserved less than used: what top-ups have to add */
    int64_t top_ups;
    int64_t debt_tokens;  /* used above reservation and top-ups */
    int64_t capped;       /* longer than the cap */
    int64_t cut;          /* ended by `on_exceed: cut` */
    int64_t running_most; /* at once */
    int64_t duration_us;  /* from the first arrival to the last end */
};

/* Buckets begin full and the estimator knows nothing. The input's tokens are taken as known. False when memory is
 * exhausted or more than SIMULATION_RUNNING_MAX requests run at once. */
bool simulate(const struct policy *policy, const struct simulation_load *load, struct simulation_result *ret);

#endif
