/* Levels by name: a chained hash table over chunks that never move, and the bounded ring of users in it. */
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "ratelimit/limiter_private.h"

/* The second name of the level that users share when the table is full; no user is called so. */
static const char EVERYBODY_ELSE[] = "";

/* SipHash-1-3 (Aumasson, Bernstein): user names come from outside, and must not be able to meet in one chain. */
struct sip {
    uint64_t a, b, c, d;
    uint64_t word;
    size_t length;
};

static uint64_t rotated(uint64_t word, int by)
{
    return word << by | word >> (64 - by);
}

static void sip_round(struct sip *sip)
{
    sip->a += sip->b;
    sip->b = rotated(sip->b, 13) ^ sip->a;
    sip->a = rotated(sip->a, 32);
    sip->c += sip->d;
    sip->d = rotated(sip->d, 16) ^ sip->c;
    sip->a += sip->d;
    sip->d = rotated(sip->d, 21) ^ sip->a;
    sip->c += sip->b;
    sip->b = rotated(sip->b, 17) ^ sip->c;
    sip->c = rotated(sip->c, 32);
}

static void sip_add_byte(struct sip *sip, uint8_t byte)
{
    sip->word |= (uint64_t) byte << (8 * (sip->length & 7));
    if ((++sip->length & 7) != 0)
        return;
    sip->d ^= sip->word;
    sip_round(sip);
    sip->a ^= sip->word;
    sip->word = 0;
}

/* With its NUL, so that "a", "bc" and "ab", "c" differ. */
static void sip_add_string(struct sip *sip, const char *string)
{
    do {
        sip_add_byte(sip, (uint8_t) *string);
    } while (*string++ != '\0');
}

static uint64_t sip_end(struct sip *sip)
{
    uint64_t last = sip->word | (uint64_t) (sip->length & 0xff) << 56;
    sip->d ^= last;
    sip_round(sip);
    sip->a ^= last;
    sip->c ^= 0xff;
    for (int round = 0; round < 3; round++)
        sip_round(sip);
    return sip->a ^ sip->b ^ sip->c ^ sip->d;
}

static uint64_t name_hash(const struct limiter *limiter, const struct level_name *name)
{
    uint64_t low = limiter->hash_keys[0], high = limiter->hash_keys[1];
    struct sip sip = {.a = low ^ 0x736f6d6570736575,
                      .b = high ^ 0x646f72616e646f6d,
                      .c = low ^ 0x6c7967656e657261,
                      .d = high ^ 0x7465646279746573};
    sip_add_byte(&sip, (uint8_t) name->scope);
    sip_add_string(&sip, name->first);
    sip_add_string(&sip, name->second);
    return sip_end(&sip);
}

struct level *level_at(const struct limiter *limiter, uint32_t index)
{
    ENSURE(index < limiter->level_count);
    return &limiter->chunks[index / LEVELS_PER_CHUNK][index % LEVELS_PER_CHUNK];
}

bool levels_make_room(struct limiter *limiter, size_t count)
{
    uint32_t wanted = 64;
    while (wanted < count && wanted < UINT32_C(1) << 30)
        wanted *= 2;
    if (limiter->heads != NULL && wanted <= limiter->head_mask + 1)
        return true;
    uint32_t *heads = malloc(wanted * sizeof *heads);
    if (heads == NULL)
        return false;
    for (uint32_t head = 0; head < wanted; head++)
        heads[head] = NO_LEVEL;
    for (uint32_t index = 0; index < limiter->level_count; index++) {
        struct level *level = level_at(limiter, index);
        if (!level->in_use)
            continue;
        uint32_t *head = &heads[level->hash & (wanted - 1)];
        level->next_in_chain = *head;
        *head = index;
    }
    free(limiter->heads);
    limiter->heads = heads;
    limiter->head_mask = wanted - 1;
    return true;
}

static struct level *find_hashed(const struct limiter *limiter, const struct level_name *name, uint64_t hash)
{
    uint32_t index = limiter->heads[hash & limiter->head_mask];
    while (index != NO_LEVEL) {
        struct level *level = level_at(limiter, index);
        if (level->hash == hash && level->scope == name->scope && strcmp(level->first, name->first) == 0 &&
            strcmp(level->second, name->second) == 0)
            return level;
        index = level->next_in_chain;
    }
    return NULL;
}

struct level *level_find(const struct limiter *limiter, const struct level_name *name)
{
    return find_hashed(limiter, name, name_hash(limiter, name));
}

static bool add_chunk(struct limiter *limiter)
{
    struct level **chunks = realloc(limiter->chunks, (limiter->chunk_count + 1) * sizeof(*chunks));
    if (chunks == NULL)
        return false;
    limiter->chunks = chunks;
    struct level *chunk = calloc(LEVELS_PER_CHUNK, sizeof *chunk);
    if (chunk == NULL)
        return false;
    chunks[limiter->chunk_count++] = chunk;
    return true;
}

static struct level *take_free(struct limiter *limiter)
{
    if (limiter->first_free != NO_LEVEL) {
        struct level *level = level_at(limiter, limiter->first_free);
        limiter->first_free = level->next_in_chain;
        return level;
    }
    if (limiter->level_count == limiter->chunk_count * LEVELS_PER_CHUNK && !add_chunk(limiter))
        return NULL;
    uint32_t index = limiter->level_count++;
    struct level *level = level_at(limiter, index);
    level->index = index;
    return level;
}

static const char *infix(const struct level_name *name)
{
    if (name->scope == SCOPE_USER)
        return name->second[0] != '\0' ? "/user/" : "/user/ (all that found no room)";
    return name->second[0] != '\0' ? "/" : "";
}

/* The two names and the one for people, behind each other in one piece of memory. */
static bool copy_names(struct level *level, const struct level_name *name)
{
    size_t first = strlen(name->first), second = strlen(name->second), between = strlen(infix(name));
    char *memory = malloc(first + 1 + second + 1 + first + between + second + 1);
    if (memory == NULL)
        return false;
    memcpy(memory, name->first, first + 1);
    memcpy(memory + first + 1, name->second, second + 1);
    char *shown = memory + first + 1 + second + 1;
    memcpy(shown, name->first, first);
    memcpy(shown + first, infix(name), between);
    memcpy(shown + first + between, name->second, second + 1);
    level->first = memory;
    level->second = memory + first + 1;
    level->shown = shown;
    return true;
}

static void give_to_free(struct limiter *limiter, struct level *level)
{
    level->in_use = false;
    level->next_in_chain = limiter->first_free;
    limiter->first_free = level->index;
}

struct level *level_create(struct limiter *limiter, const struct level_name *name)
{
    struct level *level = take_free(limiter);
    if (level == NULL)
        return NULL;
    *level = (struct level){.in_use = true,
                            .index = level->index,
                            .generation = level->generation,
                            .scope = name->scope,
                            .hash = name_hash(limiter, name)};
    if (!copy_names(level, name)) {
        give_to_free(limiter, level);
        return NULL;
    }
    uint32_t *head = &limiter->heads[level->hash & limiter->head_mask];
    level->next_in_chain = *head;
    *head = level->index;
    return level;
}

static void users_add(struct limiter *limiter, struct level *level)
{
    limiter->user_count++;
    if (limiter->user_hand == NO_LEVEL) {
        level->user_before = level->user_after = level->index;
        limiter->user_hand = level->index;
        return;
    }
    struct level *hand = level_at(limiter, limiter->user_hand);
    level->user_after = hand->index;
    level->user_before = hand->user_before;
    level_at(limiter, hand->user_before)->user_after = level->index;
    hand->user_before = level->index;
}

static void users_remove(struct limiter *limiter, struct level *level)
{
    limiter->user_count--;
    level_at(limiter, level->user_before)->user_after = level->user_after;
    level_at(limiter, level->user_after)->user_before = level->user_before;
    if (limiter->user_hand == level->index)
        limiter->user_hand = level->user_after == level->index ? NO_LEVEL : level->user_after;
}

static void forget(struct limiter *limiter, struct level *level)
{
    uint32_t *link = &limiter->heads[level->hash & limiter->head_mask];
    while (*link != level->index)
        link = &level_at(limiter, *link)->next_in_chain;
    *link = level->next_in_chain;
    if (level->scope == SCOPE_USER)
        users_remove(limiter, level);
    free(level->first);
    free(level->origin);
    level->first = level->origin = NULL;
    level->generation++;
    give_to_free(limiter, level);
}

void level_forget_if_idle(struct limiter *limiter, struct level *level)
{
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
        if (level->parts[kind].present || level->parts[kind].hold_count > 0)
            return;
    }
    forget(limiter, level);
}

void level_forget_if_fresh(struct limiter *limiter, struct level *level)
{
    if (level->fresh)
        forget(limiter, level);
}

/* A level with full buckets that nobody holds is as good as a new one. */
static bool may_be_forgotten(struct level *level, mono_us now)
{
    for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++) {
        struct limit_part *part = &level->parts[kind];
        if (part->hold_count > 0)
            return false;
        if (!part->present)
            continue;
        bucket_refill(&part->bucket, now);
        if (!bucket_covers(&part->bucket, part->bucket.capacity_milli))
            return false;
    }
    return true;
}

static bool evict_one_user(struct limiter *limiter, mono_us now)
{
    for (int look = 0; look < USER_EVICTION_LOOKS && limiter->user_hand != NO_LEVEL; look++) {
        struct level *level = level_at(limiter, limiter->user_hand);
        limiter->user_hand = level->user_after;
        if (may_be_forgotten(level, now)) {
            forget(limiter, level);
            return true;
        }
    }
    return false;
}

static struct level *create_user(struct limiter *limiter, const struct level_name *name, mono_us now)
{
    struct level *level = level_create(limiter, name);
    if (level == NULL)
        return NULL;
    level->fresh = true;
    users_add(limiter, level);
    level_set_limits(level, &limiter->user_limits, now);
    return level;
}

struct level *level_of_user(struct limiter *limiter, const char *tenant, const char *user, mono_us now)
{
    struct level_name name = {SCOPE_USER, tenant, user};
    struct level *level = level_find(limiter, &name);
    if (level != NULL)
        return level;
    if (limiter->user_count < LIMITER_USERS_MAX || evict_one_user(limiter, now))
        return create_user(limiter, &name, now);
    name.second = EVERYBODY_ELSE;
    level = level_find(limiter, &name);
    return level != NULL ? level : create_user(limiter, &name, now);
}

void levels_find(struct limiter *limiter, const struct limit_subject *subject, struct levels *ret)
{
    const struct level_name names[] = {{SCOPE_KEY, subject->tenant, subject->key},
                                       {SCOPE_TENANT, subject->tenant, ""},
                                       {SCOPE_MODEL, subject->model, ""},
                                       {SCOPE_TENANT_MODEL, subject->tenant, subject->model}};
    ret->count = 0;
    for (size_t name = 0; name < sizeof names / sizeof names[0]; name++) {
        struct level *level = level_find(limiter, &names[name]);
        if (level != NULL)
            ret->at[ret->count++] = level;
    }
}

void levels_destroy(struct limiter *limiter)
{
    for (uint32_t index = 0; index < limiter->level_count; index++) {
        struct level *level = level_at(limiter, index);
        if (!level->in_use)
            continue;
        for (int kind = 0; kind < LIMIT_KIND_COUNT; kind++)
            ENSURE(level->parts[kind].hold_count == 0);
        free(level->first);
        free(level->origin);
    }
    for (size_t chunk = 0; chunk < limiter->chunk_count; chunk++)
        free(limiter->chunks[chunk]);
    free(limiter->chunks);
    free(limiter->heads);
}
