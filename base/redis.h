/* One thread's connection to a Redis: blocking calls with time limits, reconnecting, and scripts sent once. */
#ifndef BASE_REDIS_H
#define BASE_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/text.h"

/* Everything is for the thread that owns the connection, except redis_interrupt. That thread must have SIGPIPE blocked
 * or ignored. */
struct redis;

enum { REDIS_ERROR_BYTES = 256, REDIS_ARGUMENTS_MAX = 4096 };

struct redis_options {
    const char *path; /* of a unix socket; NULL: TCP */
    const char *host; /* TCP: a name or a numeric address without brackets */
    int port;
    int database;
    int connect_ms;      /* how long a connection may take to come about; a name is looked up before, by libc's rules */
    int command_ms;      /* how long Redis may be silent while an answer is awaited */
    int back_off_ms;     /* rest after the first failure; doubled by each further one, and jittered */
    int back_off_max_ms; /* the longest rest */
};

enum redis_result {
    REDIS_DONE,
    REDIS_REFUSED, /* an error is the answer; the connection is fine */
    REDIS_DOWN     /* no connection, or it broke: what was asked may or may not have been done */
};

/* Connects at the first call that needs it. Copies the strings. NULL: no memory, or too long a path or name. */
struct redis *redis_create(const struct redis_options *options);
/* NULLs; no-op on NULL. */
void redis_destroy(struct redis **redis);
/* Any thread: what is being waited for, and everything from now on, fails soon with REDIS_DOWN. For the end. */
void redis_interrupt(struct redis *redis);

/* A part of an answer; valid until the next call for this connection. */
struct redis_reply;
/* False when it is no integer. */
bool redis_reply_integer(const struct redis_reply *reply, int64_t *ret);
/* Empty when it is no string. */
struct text redis_reply_text(const struct redis_reply *reply);
/* The entries of a list; 0 when it is none. */
size_t redis_reply_count(const struct redis_reply *reply);
const struct redis_reply *redis_reply_entry(const struct redis_reply *reply, size_t index);

/* Send a command of 1 to REDIS_ARGUMENTS_MAX words and wait for its answer. Within a rest after a failure it fails at
 * once. @ret may be NULL; it is set only with REDIS_DONE. */
enum redis_result redis_ask(struct redis *redis, const struct text *words, size_t count,
                            const struct redis_reply **ret);
/* Put a command in front of the next redis_ask or redis_run, in the same write. An error as its answer makes that call
 * REDIS_REFUSED, though what was asked there may have been done. One at a time, of at most 8 short words. */
void redis_ask_before(struct redis *redis, const struct text *words, size_t count);

/* A script that Redis keeps by its digest. */
struct redis_script {
    struct text source;
    char sha1[41];
};
/* @source must live as long as @ret. */
bool redis_script_init(struct redis_script *ret, struct text source);
/* Run it: @words are the number of keys, the keys, the arguments. Sends the source when Redis does not have it. */
enum redis_result redis_run(struct redis *redis, const struct redis_script *script, const struct text *words,
                            size_t count, const struct redis_reply **ret);

/* True: PONG, it has loaded its data and takes commands. */
bool redis_is_ready(struct redis *redis);
/* The last call that was not DONE, in words without a secret; "" before any. Valid until the next call. */
const char *redis_error(const struct redis *redis);
/* How often a connection came about: another number means that Redis may be another one, or have forgotten. */
uint64_t redis_connections(const struct redis *redis);

enum { REDIS_DURABILITY_BYTES = 256 };
enum redis_keeping {
    REDIS_KEEPS,   /* all but perhaps the last seconds */
    REDIS_FORGETS, /* much, when it dies; or nobody knows */
    REDIS_EVICTS   /* single keys, while it runs: useless for sums */
};
/* What this Redis keeps, as its CONFIG or INFO says, in one line, with what to set when that is not enough. REDIS_DOWN
 * leaves the line empty. */
enum redis_keeping redis_durability(struct redis *redis, char line[REDIS_DURABILITY_BYTES]);
/* Pure: the same, from the three settings; empty = unknown. */
enum redis_keeping redis_judge_durability(struct text appendonly, struct text appendfsync, struct text maxmemory_policy,
                                          char line[REDIS_DURABILITY_BYTES]);

#endif
