/* GET /admin/v1/limits: every bucket, or those of one subject, as JSON. Control thread only. */
#ifndef GATEWAY_ADMIN_LIMITS_H
#define GATEWAY_ADMIN_LIMITS_H

#include "base/buffer.h"
#include "conf/policy.h"

struct limiter;

enum {
    ADMIN_LIMITS_MAX = 5000,       /* buckets told at once; "complete" says whether these are all */
    ADMIN_LIMITS_NAME_BYTES = 513, /* of a name in the query, with its NUL */
    ADMIN_LIMITS_MESSAGE_BYTES = 256
};

/* Append to @to what @query ("tenant=acme&key=ci&model=gemma&user=alice", each optional; at == NULL: all buckets) asks
 * for: {"tenant","key","user","model","limits":[{"kind","scope","name","origin","limit","capacity","balance","held",
 * "full_in_ms","on_exceed"}],"complete"}. Names are those of @policy, the one in force; the user is the key's unless
 * given; a model may be called by its alias. Returns the HTTP status: 200, or with a message for the client 400 (not
 * understood), 404 (no such tenant, key or model), 500 (it does not fit). */
int admin_limits_write(struct limiter *limiter, const struct policy *policy, struct text query, struct buffer *to,
                       char ret_message[ADMIN_LIMITS_MESSAGE_BYTES]);

#endif
