/* What the files of the limiter share: levels (one name's limits) and the table they are found in. */
#ifndef RATELIMIT_LIMITER_PRIVATE_H
#define RATELIMIT_LIMITER_PRIVATE_H

#include <pthread.h>

#include "ratelimit/bucket.h"
#include "ratelimit/limiter.h"

enum {
    LEVELS_PER_CHUNK = 256,
    /* How many users' levels are looked at for one that may be forgotten, when there is no room for a new one. */
    USER_EVICTION_LOOKS = 8
};
#define NO_LEVEL UINT32_MAX /* an index that no level has */

/* One kind of limit of one level. */
struct limit_part {
    bool present;        /* as the policy says now; an absent one lives on while it is held */
    uint32_t hold_count; /* open reservations */
    int64_t limit;       /* as configured */
    struct bucket bucket;
};

/* Who a level belongs to. @second is "" for scopes with one name. */
struct level_name {
    enum limit_scope scope;
    const char *first;
    const char *second;
};

/* One name in one scope with its up to three buckets: what `limits:` of one place in YAML became. */
struct level {
    bool in_use;
    bool fresh; /* a user's, from which nothing was ever taken */
    uint32_t index;
    uint32_t generation; /* grows when a name leaves: what is held can never be given to the next one */
    uint32_t next_in_chain;
    uint64_t hash;
    enum limit_scope scope;
    char *first; /* owns the memory of the two below, too */
    const char *second;
    const char *shown;
    enum on_exceed on_exceed;
    char *origin;                     /* NULL for users: theirs is the limiter's */
    uint32_t user_before, user_after; /* the ring of users' levels */
    struct limit_part parts[LIMIT_KIND_COUNT];
    /* While a policy is being applied: */
    const struct limits *next_limits;
    char *next_origin;
};

struct limiter {
    pthread_mutex_t lock;
    uint64_t hash_keys[2]; /* random: nobody who chooses user names can choose their places */

    struct level **chunks;
    size_t chunk_count;
    uint32_t level_count; /* ever used, free ones included */
    uint32_t first_free;  /* chained by next_in_chain */
    uint32_t *heads;      /* of the chains */
    uint32_t head_mask;

    size_t user_count;
    uint32_t user_hand;        /* where the next look for a level to forget begins; NO_LEVEL when there are no users */
    bool users_limited;        /* each user of each tenant has a level */
    struct limits user_limits; /* .origin is user_origin */
    char *user_origin;
};

/* The levels that apply to one request, in the order of enum limit_scope. */
struct levels {
    size_t count;
    struct level *at[LIMIT_SCOPE_COUNT];
};

/* -- limiter_table.c; all under the lock -- */

/* Room for @count levels without long chains. False when memory is exhausted. */
bool levels_make_room(struct limiter *limiter, size_t count);
/* The level at @index, which must have been given out. */
struct level *level_at(const struct limiter *limiter, uint32_t index);
struct level *level_find(const struct limiter *limiter, const struct level_name *name);
/* A new one without any limit; NULL when memory is exhausted. Not there yet. */
struct level *level_create(struct limiter *limiter, const struct level_name *name);
/* Forget a fresh one: nothing was taken from it, and nothing will be. */
void level_forget_if_fresh(struct limiter *limiter, struct level *level);
/* Forget @level when it has no limit and nobody holds anything of it. */
void level_forget_if_idle(struct limiter *limiter, struct level *level);
/* The level that counts @user of @tenant; made when it is not there, taking the place of a user whose buckets are full;
 * else one that all users of the tenant share who found no room. NULL when memory is exhausted. */
struct level *level_of_user(struct limiter *limiter, const char *tenant, const char *user, mono_us now);
/* Those there are for @subject, but for the user's. */
void levels_find(struct limiter *limiter, const struct limit_subject *subject, struct levels *ret);
void levels_destroy(struct limiter *limiter);

/* -- limiter_apply.c -- */

bool limits_anything(const struct limits *limits);

/* Set the buckets of @level to @limits; those of a kind that was not limited begin full. */
void level_set_limits(struct level *level, const struct limits *limits, mono_us now);

/* -- limiter_view.c; @now = the time of the refill -- */

/* When somebody else's hold ends nobody knows: a guess, and said to be one. */
#define RETRY_GUESS_US INT64_C(1000000)

/* Microseconds until @milli, no more than the capacity, are there if nothing else happens, also when the clock has
 * stepped back behind the last refill. Where that takes the end of a hold, RETRY_GUESS_US, or longer when it cannot be
 * as soon. */
int64_t part_wait_us(const struct limit_part *part, int64_t milli, mono_us now);
/* Keep in @view the one that is nearer to its end. */
void view_nearer(struct limit_view *view, const struct level *level, enum limit_kind kind, mono_us now);

#endif
