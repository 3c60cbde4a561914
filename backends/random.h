/* Random numbers for jitter and ties; never for secrets. Pure: the state is the caller's. */
#ifndef BACKENDS_RANDOM_H
#define BACKENDS_RANDOM_H

#include <stdint.h>

/* Uniform over 64 bits. Any value is a good first @state. */
uint64_t random_next(uint64_t *state);
/* Uniform in [0, 1). */
double random_fraction(uint64_t *state);

#endif
