/* The thread that accepts: one listening socket, per-address caps, each connection to the worker with the fewest. */
#ifndef GATEWAY_LISTENER_H
#define GATEWAY_LISTENER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"
#include "conf/policy.h"

struct worker;
struct listener;

enum { LISTENER_BACKLOG = 1024, LISTENER_ERROR_BYTES = 256 };

/* Bind and listen. The descriptor, or -1 with a message that says what to do in @error. A unix path that nobody listens
 * on is replaced; a TCP port in use is an error. */
int listener_bind(const struct listen_address *address, char error[LISTENER_ERROR_BYTES]);

/* Accept from @fd (which stays the caller's) and deal to @workers, until listener_destroy. NULL when the thread cannot
 * start. */
struct listener *listener_create(int fd, struct worker *const *workers, int worker_count);
void listener_destroy(struct listener **listener);

/* A connection from @address was closed. Any thread. */
void listener_forget(const char *address);

#endif
