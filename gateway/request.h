/* One client request and the steps it goes through; the only place where keys, limits, engines and bytes meet. */
#ifndef GATEWAY_REQUEST_H
#define GATEWAY_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "auth/auth.h"
#include "backends/fleet.h"
#include "backends/upstream.h"
#include "base/arena.h"
#include "base/clock.h"
#include "billing/journal.h"
#include "conf/policy.h"
#include "gateway/body.h"
#include "gateway/guard.h"
#include "gateway/openai.h"
#include "gateway/relay.h"
#include "gateway/routes.h"
#include "gateway/server.h"
#include "ratelimit/answer.h"
#include "ratelimit/estimate.h"
#include "ratelimit/limiter.h"

struct worker;
struct request;

/* The life of a request, top to bottom. X(step, what it does). A step returns NEXT, WAIT (it is called again when
 * something it waits for has come) or REPLY (the answer is decided: on to the end). */
#define REQUEST_STEPS(X)                                                                                               \
    X(guard)     /* strict HTTP rules; which route */                                                                  \
    X(identify)  /* bearer to principal, and may it call this endpoint; before any body is read */                     \
    X(read_body) /* bounded */                                                                                         \
    X(parse)     /* one linear scan */                                                                                 \
    X(authorize) /* model, its scope, parameter bounds */                                                              \
    X(estimate)  /* what it will probably cost; the token cap, and what is spliced into the body */                    \
    X(reserve)   /* that much of every limit, or of none */                                                            \
    X(route)     /* a lease on an instance, or a place in the model's queue */                                         \
    X(forward)   /* into the journal, then to the engine; again if the retry rule allows */                            \
    X(relay)     /* the engine's bytes to the client */                                                                \
    X(settle)    /* the reservation, on what was really used */                                                        \
    X(record)    /* what was used, in the journal before the last bytes leave */                                       \
    X(finish)    /* the last bytes leave; nothing open is left behind */

enum step_result { STEP_NEXT, STEP_WAIT, STEP_REPLY };

struct step {
    const char *name;
    enum step_result (*run)(struct request *request);
};

enum outcome {
#define X(identifier, status, type, code, label, message) OUTCOME_##identifier,
#include "gateway/outcomes.def"
#undef X
    OUTCOME_COUNT
};

struct outcome_row {
    int status;
    const char *type;
    const char *code;
    const char *label;
    const char *message;
};
extern const struct outcome_row OUTCOMES[OUTCOME_COUNT];

enum { REQUEST_ID_BYTES = 32, REQUEST_ARENA_BYTES = 256 * 1024 };

/* How the answer's last bytes look; decided by whoever ends it, written by the step `finish`, after `settle`. */
enum closing {
    CLOSING_NONE,         /* not decided, or the answer was sent whole already */
    CLOSING_REFUSAL,      /* the outcome's error, as a whole answer */
    CLOSING_DONE_EVENT,   /* the usage chunk if it is owed, `[DONE]` */
    CLOSING_LENGTH_EVENT, /* the same after finish_reason "length" */
    CLOSING_ERROR_EVENT,  /* the outcome's error, and the stream's end */
    CLOSING_WHOLE,        /* what is held of a whole answer */
    CLOSING_CUT_OFF       /* nothing: the connection is cut */
};

/* Where the request stands in the journal; steps_record.c moves it. */
enum recording {
    RECORDING_NONE,    /* no OPEN, and so no CLOSE */
    RECORDING_OPENING, /* the OPEN is on its way to the disk */
    RECORDING_REFUSED, /* there is no OPEN: the disk refused it */
    RECORDING_OPEN,
    RECORDING_CLOSING, /* the CLOSE is on its way to the disk */
    RECORDING_CLOSED
};

/* `billing.bill` of the policy the request was judged by. */
struct bill_rules {
    bool client_gone, engine_error, estimated;
};

/* Times of one request, mono_us; 0 = not reached. */
struct request_times {
    mono_us head, body_end, dispatched, first_byte, first_content, last_content, ended;
    mono_us waited; /* a duration: in the model's queue */
};

struct request {
    struct worker *worker;
    struct request *next, *previous; /* among the worker's active requests */
    struct connection *connection;   /* NULL, as is the head, when it lingers without */
    const char *client_address;
    struct text client_request_id, client_retry_count; /* at == NULL: not given */
    const struct step *at;
    struct loop_turn_end later; /* steps run on at the end of a loop turn, never inside a call of curl */
    bool later_queued;
    bool ended; /* the server has let go of it; only @later still points here */
    char id[REQUEST_ID_BYTES];
    wall_ms began_wall_ms;
    struct request_times times;
    struct arena arena;
    const struct http_head *head;
    enum route_kind route;
    struct text route_model; /* MODEL: the part of the path, still escaped */
    enum endpoint endpoint;

    /* the policy this request was judged by; dropped at dispatch, so what later steps need is copied into the arena */
    const struct policy *policy;
    struct principal who;
    const char *tenant, *key, *user; /* "" until identified */
    const char *model;               /* canonical; "" until authorized */
    const char *model_asked;         /* as the client called it; "" until parsed */
    enum auth_verdict auth_verdict;

    struct body body;
    bool body_whole;
    struct openai_request asked;
    struct openai_refusal refusal;
    struct splices splices;
    const struct model *model_policy; /* in the policy above; NULL again at dispatch */
    int64_t cap_tokens;               /* of one choice, that the engine was told; -1 = none */
    struct estimate_question question;
    struct estimate estimate;
    struct reservation reservation;
    struct limit_headers limit_headers; /* none before the reservation was tried */

    struct lease_waiter waiter;
    bool waiting;
    mono_us waiting_since;
    enum lease_verdict lease_verdict;
    struct lease *lease;
    char engine[128]; /* the last instance asked; "" = none */
    const struct dialect *dialect;
    int attempts;
    bool retried_fresh; /* the one second try on the same instance was made */
    bool retrying;      /* the next lease is for a second attempt, on another instance */
    bool paused;        /* the only instance was given a moment, since it could not be reached */
    struct loop_timer pause;
    struct exchange *exchange;
    enum exchange_end exchange_end;
    bool exchange_over;
    int engine_status; /* of the engine's answer; 0 = none */
    int64_t engine_retry_after_ms;
    int64_t engine_content_length;
    bool engine_paused;
    struct metric_series *inter_token;
    struct relay relay;
    bool relay_over;
    struct usage usage; /* its input_source is NONE when nothing is owed */
    enum recording recording;
    struct journal_wait journal_wait;
    struct bill_rules bill;
    int64_t progress_tokens; /* output of the last PROGRESS, and when it was */
    mono_ms progress_at;
    bool reached_engine;  /* some engine may have read it: from here on it counts */
    bool sent_whole;      /* in the present attempt; before that no engine can have begun with it */
    bool reached_earlier; /* an attempt before the present one did, or this one has an answer */
    int64_t spent_chunks; /* content chunks of the stream when the limits were last told */
    struct loop_timer ping;
    mono_ms written_at; /* the last bytes for the client */

    enum outcome outcome;
    int status;         /* of the answer */
    const char *detail; /* overrides the outcome's message; arena or constant */
    const char *param;
    const char *type;       /* overrides the outcome's error type */
    const char *code;       /* overrides the outcome's code */
    int64_t retry_after_ms; /* 0 = none */
    bool decided;           /* the outcome stands */
    enum closing closing;
    bool replied;
    bool client_gone;
    bool lingering; /* the client is gone; only the engine's count is still waited for */
    struct loop_timer linger;
    char processing_ms[24], retry_after_text[24], retry_after_ms_text[24];
};

/* Begin with a head; false when memory is exhausted. The request is the server's until request_end. */
struct request *request_begin(struct worker *worker, struct connection *connection, const struct http_head *head);
/* The worker's end: who lingers ends now, and the memory kept for future requests is freed. */
void requests_finish(struct worker *worker);
/* A piece of the body. REPLY: it was too much, and the refusal is on its way. */
enum step_result request_add_body(struct request *request, struct text piece);
/* Run steps until one waits or the answer is decided and sent. */
void request_run(struct request *request);
/* Something a step waits for has come: the steps run on at the end of this turn. */
void request_wake(struct request *request);
/* The client is gone: everything that works for it is cancelled at once, unless only the engine's count is missing. */
void request_gone(struct request *request);
/* The client has taken most of what was written: a paused engine goes on. */
void request_writable(struct request *request);
/* The gateway ends it: a stream gets an error event, what waits gets 503. */
void request_cut(struct request *request);
/* The last act: one log line, metrics, memory. Asserts that nothing is open. */
void request_end(struct request *request, bool sent);

/* Go back to the step @run, for a second attempt. */
void request_step_back(struct request *request, enum step_result (*run)(struct request *request));
/* account.c: one log line and the metrics of an ended request. */
void request_account(const struct request *request);

/* Decide the outcome, once; later calls change nothing. @detail may be NULL: the row's message. Returns STEP_REPLY, for
 * steps. */
enum step_result request_decide(struct request *request, enum outcome outcome, const char *detail);
/* Send the decided error, or the body given, as a whole JSON answer. */
void request_reply_error(struct request *request);
void request_reply_json(struct request *request, int status, struct text body);
/* Fill @reply's headers that every answer has. */
void request_add_headers(struct request *request, struct reply *reply, const char *content_type);
/* An arena copy of a formatted message; a constant when the arena is exhausted. */
__attribute__((format(printf, 2, 3))) const char *request_format(struct request *request, const char *format, ...);

/* steps_in.c, steps_out.c */
#define X(step) enum step_result step_##step(struct request *request);
REQUEST_STEPS(X)
#undef X
/* steps_limits.c. Close the reservation: settled when an engine may have read the request, else cancelled whole. Called
 * before the answer's last bytes leave, so that who has read them finds seats and tokens where they belong. Repeating
 * it does nothing. */
void request_settle(struct request *request);
/* An engine has read it, for certain: it is counted, and its reservation cannot be cancelled any more. */
void request_reached(struct request *request);
/* The stream has come this far: that much is spent; hold enough for what follows. False: a limit says that it ends
 * here. */
bool request_top_up(struct request *request);
/* What an engine that is still at it has generated so far; nothing when none is, or it has refused. */
void request_keep_partial_usage(struct request *request);
/* How to end the lease of a request that nobody waits for any more: an engine that has said nothing has proved nothing.
 */
enum lease_outcome request_unproved(const struct request *request);
/* steps_record.c. Before the first dispatch: NEXT when the request's OPEN is as durable as the level says. */
enum step_result request_open_record(struct request *request);
/* What `billing.bill` says, while the policy is still there. */
void request_keep_bill_rules(struct request *request);
/* An engine has answered with 200. */
void request_begin_progress(struct request *request);
/* More of the answer has come. */
void request_progress(struct request *request);
/* Nobody waits for the answer any more: what is to be in the journal is on its way. Repeating it does nothing. */
void request_close_record(struct request *request);
/* linger.c. The client has just gone: the stream has told all but the engine's count, which may still come. */
bool request_may_linger(const struct request *request);
/* Wait for that, a second at most: request_end does not end the request, request_end_lingering will. */
void request_linger(struct request *request);
/* The connection's memory goes: what is needed of it is copied. */
void request_detach(struct request *request);
/* It has come, or does not. Not from inside a call of curl. The request is gone afterwards when it was detached. */
void request_end_lingering(struct request *request);
/* request.c: everything that worked for a client that is gone ends now. */
void request_end_gone(struct request *request);
/* Give back what the steps hold: place in the queue, exchange, lease. */
void request_release(struct request *request, enum lease_outcome outcome);

#endif
