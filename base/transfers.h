/* One curl multi handle on one loop: its sockets and timer; who finished is told by a callback. */
#ifndef BASE_TRANSFERS_H
#define BASE_TRANSFERS_H

#include <stdbool.h>

#include "base/loop.h"

struct transfers;

/* @easy is a CURL *, whose CURLOPT_PRIVATE is the caller's; @result a CURLcode. Called from the loop (a ready socket or
 * curl's timer), never from inside transfers_add, and never after transfers_remove. The handle is already removed; it
 * may be freed or added again, and others may be added or removed. */
typedef void transfer_done(void *owner, void *easy, int result);

/* NULL when curl refuses. curl_global_init must have run (once per process, before threads): transfers_global_init. */
bool transfers_global_init(void);
struct transfers *transfers_create(struct loop *loop, transfer_done *done, void *owner);
/* All handles must be removed. Closes the idle connections. Not from inside @done. */
void transfers_destroy(struct transfers **transfers);
/* The handle must stay until @done or transfers_remove. */
bool transfers_add(struct transfers *transfers, void *easy);
/* Cancel: the connection is closed at once. Not from inside a write callback: return an error there instead. */
void transfers_remove(struct transfers *transfers, void *easy);

#endif
