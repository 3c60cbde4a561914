/* Blocks in a list; the first one is bumped, large pieces get a block of their own behind it. */
#include "base/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

enum { BLOCK_BYTES = 4096, LARGE_BYTES = BLOCK_BYTES / 4 };
/* Behind each block's bytes: whoever wrote past his piece is found at arena_finish at the latest. */
static const uint64_t red_zone = 0x746f6c6c67617465;

struct arena_block {
    struct arena_block *next;
    size_t used_bytes;
    size_t capacity_bytes;
    alignas(max_align_t) char bytes[];
};

void arena_init(struct arena *arena, size_t limit_bytes)
{
    *arena = (struct arena){._limit_bytes = limit_bytes};
}

static void check_red_zone(const struct arena_block *block)
{
    ENSURE(memcmp(block->bytes + block->capacity_bytes, &red_zone, sizeof(red_zone)) == 0);
}

void arena_finish(struct arena *arena)
{
    while (arena->_blocks != NULL) {
        struct arena_block *block = arena->_blocks;
        arena->_blocks = block->next;
        check_red_zone(block);
        free(block);
    }
    arena_init(arena, arena->_limit_bytes);
}

void arena_clear(struct arena *arena)
{
    struct arena_block *kept = NULL;
    while (arena->_blocks != NULL) {
        struct arena_block *block = arena->_blocks;
        arena->_blocks = block->next;
        check_red_zone(block);
        if (kept == NULL && block->capacity_bytes == BLOCK_BYTES) {
            kept = block;
            kept->next = NULL;
            kept->used_bytes = 0;
        } else {
            free(block);
        }
    }
    arena_init(arena, arena->_limit_bytes);
    arena->_blocks = kept;
}

static struct arena_block *block_create(size_t capacity_bytes)
{
    struct arena_block *block = malloc(sizeof(*block) + capacity_bytes + sizeof(red_zone));
    if (block == NULL)
        return NULL;
    *block = (struct arena_block){.capacity_bytes = capacity_bytes};
    memcpy(block->bytes + capacity_bytes, &red_zone, sizeof(red_zone));
    return block;
}

/* A block with room for @count bytes, in the list. NULL when memory is exhausted. */
static struct arena_block *block_with_room(struct arena *arena, size_t count)
{
    struct arena_block *first = arena->_blocks;
    if (first != NULL && count <= first->capacity_bytes - first->used_bytes)
        return first;

    bool large = count > LARGE_BYTES;
    struct arena_block *block = block_create(large ? count : BLOCK_BYTES);
    if (block == NULL)
        return NULL;
    /* Small pieces go on filling the first block: at most a quarter of each block is ever wasted. */
    if (large && first != NULL) {
        block->next = first->next;
        first->next = block;
    } else {
        block->next = first;
        arena->_blocks = block;
    }
    return block;
}

void *arena_take(struct arena *arena, size_t count)
{
    size_t alignment = alignof(max_align_t);
    size_t rounded = (count + alignment - 1) / alignment * alignment;
    if (rounded == 0)
        rounded = alignment;
    if (rounded < count || count > arena->_limit_bytes || rounded > arena->_limit_bytes - arena->_used_bytes) {
        arena->_overflowed = true;
        return NULL;
    }
    struct arena_block *block = block_with_room(arena, rounded);
    if (block == NULL) {
        arena->_overflowed = true;
        return NULL;
    }
    void *taken = block->bytes + block->used_bytes;
    block->used_bytes += rounded;
    arena->_used_bytes += rounded;
    memset(taken, 0, rounded);
    return taken;
}

struct text arena_copy(struct arena *arena, struct text from)
{
    char *copy = from.length < SIZE_MAX ? arena_take(arena, from.length + 1) : NULL;
    if (copy == NULL)
        return (struct text){NULL, 0};
    text_copy(copy, from.length + 1, from);
    return (struct text){copy, from.length};
}

char *arena_copy_string(struct arena *arena, struct text from)
{
    char *copy = from.length < SIZE_MAX ? arena_take(arena, from.length + 1) : NULL;
    if (copy != NULL)
        text_copy(copy, from.length + 1, from);
    return copy;
}

bool arena_overflowed(const struct arena *arena)
{
    return arena->_overflowed;
}
