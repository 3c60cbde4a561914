/* What the scripted engine writes down for the tests: its own count in a file, and the last requests as they came. */
#ifndef TESTS_TOOLS_SCRIPTED_RECORD_H
#define TESTS_TOOLS_SCRIPTED_RECORD_H

#include "scripted_request.h"
#include "scripted_string.h"

enum { SEEN_MAX = 100 };

/* Open the count file for appending; NULL = none. Ends the process when it cannot. */
void count_open(const char *path);
/* One JSON line in one write(2), before the bytes it speaks of leave: {id, pid, serial, endpoint, event, tokens,
 * at_ms}.
 * @event: "begin" (then @tokens are the input's), "token" (the total of each
 * choice so far), "end", "gone" (the client hung up), or a fault's name. */
void count_add(const struct request *request, long serial, const char *event, long tokens);

/* Remember the request (taking copies). Forgets the oldest beyond SEEN_MAX. */
void seen_add(const struct request *request, long connection);
/* {"requests": [{"connection", "method", "path", "headers", "body"}, …]}, oldest first. */
void seen_write(struct string *to);

#endif
