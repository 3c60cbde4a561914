/* A limiter with a policy of one tenant, one key and one model, for tests. */
#ifndef TESTS_LIB_LIMITER_ROOM_H
#define TESTS_LIB_LIMITER_ROOM_H

#include "ratelimit/limiter.h"

enum { SECOND = 1000000, ROWS_MAX = 64 };

/* A policy of one tenant, one key and one model, to be filled in, a limiter, and the time. */
struct room {
    struct tenant_model share;
    struct tenant tenant;
    struct key key;
    struct model model;
    struct policy policy;
    struct limiter *limiter;
    mono_us now;
};

/* Key ci of tenant acme asks for model gemma; without a user, and as alice. */
extern const struct limit_subject SUBJECT, ALICE;

/* Nothing is limited and nothing applied. */
void room_open(struct room *room);
void room_close(struct room *room);
void room_apply(struct room *room);

/* Reserve @tokens, with twice as many as the cap. */
enum limit_verdict room_reserve_as(struct room *room, const struct limit_subject *subject, int64_t tokens,
                                   struct reservation *reservation, struct limit_answer *answer);
enum limit_verdict room_reserve(struct room *room, int64_t tokens, struct reservation *reservation);

/* All buckets there are, or those of a subject, in a form that memcmp compares. */
struct dump {
    size_t count;
    struct dump_row {
        enum limit_kind kind;
        enum limit_scope scope;
        char name[48];
        double balance, held;
        int64_t capacity, full_in_ms;
    } rows[ROWS_MAX];
};

void room_dump(struct room *room, const struct limit_subject *subject, struct dump *dump);
/* Of SUBJECT; the test fails when there is no such bucket. */
double room_balance(struct room *room, enum limit_scope scope, enum limit_kind kind);
double room_held(struct room *room, enum limit_scope scope, enum limit_kind kind);

#endif
