/* What an engine says, as it comes: the calls of one exchange, and how each way it can end is answered. */
#ifndef GATEWAY_ANSWER_H
#define GATEWAY_ANSWER_H

#include "gateway/request.h"

/* The owner of the calls is the request. */
extern const struct exchange_events ANSWER_EVENTS;

/* The attempt failed before any answer and is not made again: decide the error. */
enum step_result answer_refuse_attempt(struct request *request);
/* An answer cannot be finished: an error if it has not begun, else an error event to a stream and a cut to the others.
 */
void answer_break(struct request *request, enum outcome outcome, enum lease_outcome how);
/* Write the last bytes of the answer, as @closing says; after everything that must precede them. Once. */
void answer_close(struct request *request);
/* What the last attempt says about its instance. */
enum lease_outcome answer_lease_outcome(const struct request *request);

#endif
