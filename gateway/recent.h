/* The last requests, for people: GET /admin/v1/requests. No bodies, no credentials. */
#ifndef GATEWAY_RECENT_H
#define GATEWAY_RECENT_H

#include <stdbool.h>

#include "base/buffer.h"

struct request;

enum { RECENT_REQUESTS_MAX = 200 };

/* Note an ended request. Any worker's thread; one short lock. */
void recent_add(const struct request *request);
/* {"requests":[newest first]} appended to @to. Any thread. False when @to is full. */
bool recent_write_json(struct buffer *to);

#endif
