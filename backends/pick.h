/* Which instance gets the next request: the least loaded one that has room. Pure. */
#ifndef BACKENDS_PICK_H
#define BACKENDS_PICK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One instance as picking sees it. A value. */
struct pick_candidate {
    bool allowed; /* READY, not excepted, breaker admits */
    int in_flight;
    int slots;  /* in_flight < slots has room */
    int weight; /* >= 1 */
};

#define PICK_NONE SIZE_MAX

/* The position of the allowed candidate with room and the least in_flight / weight, ties broken by @random (uniform
 * over 64 bits); PICK_NONE when there is none. */
size_t pick_least_loaded(const struct pick_candidate *candidates, size_t count, uint64_t random);

#endif
