/* Makes the k-th allocation of one .c file fail: a test includes this and then that file itself. */
#ifndef TESTS_LIB_FAULT_H
#define TESTS_LIB_FAULT_H

#include <stdbool.h>
#include <stdlib.h>

/* How many allocations still succeed; below 0 = all do. Once one has failed, all do until this is set again. */
static _Atomic long fault_countdown = -1;
/* Allocations asked for so far. */
static _Atomic unsigned long fault_calls;
/* Called once by the next allocation: what another thread might do just then. */
static void (*fault_meanwhile)(void);

static inline bool fault_now(void)
{
    fault_calls++;
    void (*meanwhile)(void) = fault_meanwhile;
    if (meanwhile != NULL) {
        fault_meanwhile = NULL;
        meanwhile();
    }
    if (fault_countdown > 0)
        fault_countdown--;
    else if (fault_countdown == 0)
        return true;
    return false;
}

static inline void *fault_malloc(size_t size)
{
    return fault_now() ? NULL : malloc(size);
}

static inline void *fault_calloc(size_t count, size_t size)
{
    return fault_now() ? NULL : calloc(count, size);
}

static inline void *fault_realloc(void *old, size_t size)
{
    return fault_now() ? NULL : realloc(old, size);
}

#define malloc(size)        fault_malloc(size)
#define calloc(count, size) fault_calloc(count, size)
#define realloc(old, size)  fault_realloc(old, size)

#endif
