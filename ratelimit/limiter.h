/* Principal plus estimate to reservation: request, token and seat limits of key, user, tenant and model, all or
 * nothing. A pure function of (limits, clock, events) but for its lock: time comes in, nothing goes out.
 *
 * The bound of each bucket: what is admitted in any window of length d, and used in the end, is at most capacity + rate
 * * d, plus the debt stated at the window's end. For that, nothing flows into a bucket while its balance and what open
 * reservations may still give back make up its capacity; who streams for long says what he has spent, so that his hold
 * does not keep it empty. */
#ifndef RATELIMIT_LIMITER_H
#define RATELIMIT_LIMITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "conf/policy.h"

/* Every bucket of this process, shared by all workers; one short lock inside. */
struct limiter;

enum limit_kind { LIMIT_REQUESTS, LIMIT_TOKENS, LIMIT_SEATS, LIMIT_KIND_COUNT };
/* "requests", "tokens", "seats": metric labels and the `type` of a 429's error. */
extern const char *const LIMIT_KIND_NAMES[LIMIT_KIND_COUNT];
enum limit_scope { SCOPE_KEY, SCOPE_USER, SCOPE_TENANT, SCOPE_MODEL, SCOPE_TENANT_MODEL, LIMIT_SCOPE_COUNT };
/* "key", "user", "tenant", "model", "tenant and model" */
extern const char *const LIMIT_SCOPE_NAMES[LIMIT_SCOPE_COUNT];

enum { LIMITER_BUCKETS_PER_REQUEST = (int) LIMIT_SCOPE_COUNT * (int) LIMIT_KIND_COUNT, LIMITER_USERS_MAX = 100000 };

/* NULL when memory or random numbers are exhausted. Without buckets until limiter_apply. */
struct limiter *limiter_create(void);
/* No reservation may be open. NULLs. */
void limiter_destroy(struct limiter **limiter);
/* Make the buckets be what @policy says, matched by name: a changed limit takes effect with the next reservation and
 * never refills (a balance above what of the new capacity is not held is cut to that, never into debt; holds and debts
 * stay; of seats exactly the taken ones stay taken); new buckets start full; buckets that are gone stay until their
 * last hold is settled. False, with nothing changed, when memory is exhausted. Any thread. */
bool limiter_apply(struct limiter *limiter, const struct policy *policy, mono_us now);

/* Whose request for what. Texts are read during the call. */
struct limit_subject {
    const char *tenant;
    const char *key;
    const char *user; /* "" = none: no user bucket */
    const char *model;
};

/* What a request will probably cost. */
struct limit_demand {
    int64_t tokens;     /* input plus expected output, >= 0 */
    int64_t tokens_cap; /* input plus the most the engine may give, >= tokens: what `on_exceed: hard` reserves */
    /* What it needs for certain (the input), or 0 = all of @tokens. A `soft` or `cut` bucket that is smaller than the
     * guess
     * @tokens, but not than this, admits it when full: else a limit below the first guess would lock out for ever. */
    int64_t tokens_least;
};

/* What one request holds in each bucket that applies to it. A plain value; private but for @open and @tokens. */
struct reservation {
    bool open;
    int64_t tokens; /* what every token bucket holds at least, top-ups included */
    size_t _count;
    struct {
        uint32_t index;      /* of the bucket */
        uint32_t generation; /* guards against a bucket that has been replaced */
        int64_t held_milli;  /* may still come back */
        int64_t spent_milli; /* does not */
    } _holds[LIMITER_BUCKETS_PER_REQUEST];
};

enum limit_verdict {
    LIMIT_ADMITTED,
    LIMIT_REFUSED,  /* not now; retry_after_ms says when it would be admitted if nothing else came */
    LIMIT_TOO_LARGE /* never: it needs more than the bucket's capacity */
};

/* A bucket as a client may see it. */
struct limit_view {
    bool present; /* false: no limit of this kind applies */
    enum limit_scope scope;
    int64_t limit;     /* capacity, whole units */
    int64_t remaining; /* >= 0, whole units, after this request */
    int64_t reset_us;  /* until full again, were everything held spent now; seats: 0 */
};

/* The answer to a reservation, for headers and bodies. */
struct limit_answer {
    enum limit_verdict verdict;
    /* the limit that refused: the one with the longest wait, or the one it is too large for */
    enum limit_kind kind;
    enum limit_scope scope;
    int64_t limit;     /* as configured: per minute, or seats */
    int64_t capacity;  /* whole units: what a burst may take; @limit unless `burst` or `strict_window` say otherwise */
    int64_t used;      /* whole units gone from it now, debt included */
    int64_t requested; /* whole units asked */
    /* >= 1 when REFUSED. Exact for who is alone on the bucket, with nothing of it in flight. A stated guess, 1000 or
     * longer where it cannot be as soon: for seats, and where the end of somebody's hold has to be waited for. */
    int64_t retry_after_ms;
    /* of each kind the bucket nearest to its end (least remaining / limit) */
    struct limit_view nearest[LIMIT_KIND_COUNT];
};

/* Reserve in every bucket that applies, or in none. @ret_reservation is open only when ADMITTED. A refusal changes no
 * counter. */
enum limit_verdict limiter_reserve(struct limiter *limiter, const struct limit_subject *subject,
                                   const struct limit_demand *demand, mono_us now, struct reservation *ret_reservation,
                                   struct limit_answer *ret_answer);
/* @tokens more while it streams. False: a `cut` limit has not enough, nothing was taken, the stream is to be ended.
 * `soft` limits always give (as debt). No-op (true) when no token limit applies. */
bool limiter_top_up(struct limiter *limiter, struct reservation *reservation, int64_t tokens, mono_us now);
/* An engine has the request: it is counted, whatever becomes of it, and of the tokens @tokens_so_far in all
 * (cumulative; less than before changes nothing, no more than what is held is spent) are spent. What is spent is
 * charged at the end even if less was used, so let it be what is certain. It no longer keeps the buckets from
 * refilling. Seats stay held. No-op on a closed reservation. */
void limiter_spend(struct limiter *limiter, struct reservation *reservation, int64_t tokens_so_far, mono_us now);
/* The end: seats come back, tokens are settled to @tokens_used, or what was spent if that is more (what is not used
 * comes back, excess is debt, always charged); the request itself stays counted. Closes the reservation. No-op on a
 * closed one. */
void limiter_settle(struct limiter *limiter, struct reservation *reservation, int64_t tokens_used, mono_us now);
/* It never reached an engine (nothing of it was spent): everything comes back. Closes the reservation. No-op on a
 * closed one. */
void limiter_cancel(struct limiter *limiter, struct reservation *reservation, mono_us now);

/* One bucket, for people: `tollgate limits explain`, GET /admin/v1/limits. Valid during the call. */
struct limit_status {
    enum limit_kind kind;
    enum limit_scope scope;
    const char *name;   /* "acme/ci", "acme/user/alice", "acme", "gemma-3-270m", "acme/gemma-3-270m" */
    const char *origin; /* "tollgate.yaml:12:7" */
    int64_t limit;      /* per minute, or seats */
    int64_t capacity;   /* whole units */
    double balance;     /* units; negative = debt */
    double held;        /* units that open reservations may give back */
    int64_t full_in_ms;
    enum on_exceed on_exceed;
};
typedef void limit_status_receiver(void *owner, const struct limit_status *status);
/* Those that apply to @subject, or (NULL) all of them, at most @most. Under the lock: the receiver must be quick. */
void limiter_each(struct limiter *limiter, const struct limit_subject *subject, size_t most, mono_us now,
                  limit_status_receiver *receive, void *owner);

#endif
