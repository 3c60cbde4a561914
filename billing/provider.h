/* The providers: what each can do, as data; how rows become what it takes; what its answers mean. Pure, but for the
 * file that provider_file_deliver writes. */
#ifndef BILLING_PROVIDER_H
#define BILLING_PROVIDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "billing/row_state.h"

#define PROVIDER_FOREVER INT64_MAX

struct provider_capabilities {
    int64_t dedup_window_ms; /* how long it surely knows an identifier that it took; PROVIDER_FOREVER */
    int64_t backdate_ms;     /* a row that ended longer ago is refused; PROVIDER_FOREVER */
    int64_t future_ms;       /* so is one that ends so much later; PROVIDER_FOREVER */
    int64_t quantity_max;    /* of one row */
    int64_t call_gap_ms;     /* between the beginnings of two calls */
    bool needs_customer;
    bool needs_meter;
    bool one_at_a_time; /* one call in flight for each (customer, meter) */
    bool can_tell;      /* can be asked for the total of a (customer, meter, hour) */
};
const struct provider_capabilities *provider_capabilities(enum provider_kind kind);

/* The customer of the tenant called @tenant; "" when it has none, NULL when the tenant is not there any more. */
const char *provider_customer(const struct policy *policy, const char *tenant);
/* For whom a row goes: as it went, when it did, else as @policy (may be NULL) says; "" or NULL as above. */
const char *provider_row_customer(const struct policy *policy, const struct row_entry *entry);

/* Whether @row cannot be sent before a person has done something; @ret_reason says what. @customer as above. */
bool provider_holds(const struct row *row, const char *customer, wall_ms now,
                    char ret_reason[ROW_REASON_BYTES_MAX + 1]);

/* How long until the provider takes @row, which may have ended ahead of a clock that was set back; 0 = it does now. */
int64_t provider_early_ms(const struct row *row, wall_ms now);

/* ---- one HTTP call for one row: Stripe's meter events, v1 ---- */

/* Answers have the form of this version whatever the account's default is. */
#define STRIPE_VERSION_HEADER "Stripe-Version: 2026-10-28.endive"

enum { PROVIDER_URL_BYTES = 1024, PROVIDER_KEY_BYTES = 80, PROVIDER_BODY_BYTES = 2048 };

struct provider_call {
    char url[PROVIDER_URL_BYTES];
    char idempotency_key[PROVIDER_KEY_BYTES];
    const char *version_header;     /* a constant: "Stripe-Version: …" */
    char body[PROVIDER_BODY_BYTES]; /* application/x-www-form-urlencoded */
};

/* One row on its way. */
struct provider_event {
    const struct row *row;
    const char *customer;
    const char *identifier; /* of the row's present revision */
    /* How many answers to this identifier the provider may have stored as failed: each try after one has an idempotency
     * key of its own, because the stored answer comes back under the old one. */
    unsigned generation;
};

/* Add @value as a part of a form or a query. */
void stripe_add_encoded(struct builder *to, const char *value);
/* False when a name is too long for the call. */
bool stripe_encode(const struct provider_policy *provider, const struct provider_event *event,
                   struct provider_call *ret);

struct provider_answer {
    int status;          /* 0 = none came */
    bool connect_failed; /* none came, because nothing was sent */
    struct text body;
    int64_t retry_after_ms; /* -1 = not said */
};

enum provider_verdict {
    VERDICT_ACKED,
    VERDICT_DUPLICATE, /* it was there already */
    VERDICT_RETRY,     /* may have been taken: the same identifier again */
    VERDICT_STORED,    /* as RETRY, and the answer is stored: the next generation */
    VERDICT_LATER,     /* surely not taken: again, later */
    VERDICT_REJECTED,  /* never taken as it is */
    VERDICT_HOLD_ALL   /* nothing of this provider goes at the moment: the key, the address */
};

struct provider_outcome {
    enum provider_verdict verdict;
    int64_t after_ms;                      /* not before; 0 = not said */
    bool next_key;                         /* with VERDICT_LATER: the answer may be stored: the next generation */
    char reason[ROW_REASON_BYTES_MAX + 1]; /* "" when taken */
};

struct provider_outcome stripe_classify(const struct provider_answer *answer, const char *identifier);

/* The value of a Retry-After header in milliseconds, an hour at most; -1 when it is no number of seconds. */
int64_t provider_retry_after_ms(struct text value);

/* ---- all rows of an epoch in one file ---- */

enum { PROVIDER_FILE_NAME_BYTES = 80 };

/* "usage-<writer>-<epoch>.jsonl": the same for ever. */
void provider_file_name(const struct ledger_name *epoch, char to[PROVIDER_FILE_NAME_BYTES]);
/* One line a row, in the order given; the same bytes for the same rows. False when @to is full. */
bool provider_file_encode(const struct row *rows, size_t count, struct buffer *to);
/* Write @content as @name into @directory, which is made when its parent is there and readable: whole and synced, or
 * not at all. Once more with the same content changes nothing. False with errno. */
bool provider_file_deliver(const char *directory, const char *name, struct text content);

#endif
