/* The memory of one request: bump allocation with a hard limit, freed all at once. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"

struct arena_block;

/* Not thread-safe: one owner. Fields are private. */
struct arena {
    struct arena_block *_blocks;
    size_t _used_bytes;
    size_t _limit_bytes;
    bool _overflowed;
};

/* Allocates nothing yet. */
void arena_init(struct arena *arena, size_t limit_bytes);
/* Frees everything; the arena may be initialised again. */
void arena_finish(struct arena *arena);
/* As arena_finish and arena_init with the same limit, but one block is kept for the next user. */
void arena_clear(struct arena *arena);
/* @count bytes aligned for any type, zeroed, or NULL when the limit or memory is exhausted (then arena_overflowed). */
void *arena_take(struct arena *arena, size_t count);
/* A NUL-terminated copy of @from, or NULL as above. */
char *arena_copy_string(struct arena *arena, struct text from);
/* A copy of @from (also NUL-terminated); empty with at == NULL when exhausted. */
struct text arena_copy(struct arena *arena, struct text from);
/* Sticky: some arena_take returned NULL since arena_init. */
bool arena_overflowed(const struct arena *arena);

#endif
