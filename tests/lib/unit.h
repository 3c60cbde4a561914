/* What every unit test starts with: cmocka in the order it wants, and a seeded random generator. */
#ifndef TESTS_LIB_UNIT_H
#define TESTS_LIB_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* splitmix64. The seed is fixed, so that a failure repeats; TEST_SEED in the environment tries another. */
static uint64_t unit_random_state;

static inline uint64_t unit_random(void)
{
    uint64_t mixed = unit_random_state += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
}

/* From 0 to @bound - 1. */
static inline size_t unit_random_below(size_t bound)
{
    return (size_t) (unit_random() % bound);
}

static inline void unit_random_seed(void)
{
    const char *seed = getenv("TEST_SEED");
    unit_random_state = seed != NULL ? strtoull(seed, NULL, 10) : 20261122;
    print_message("seed %llu\n", (unsigned long long) unit_random_state);
}

#endif
