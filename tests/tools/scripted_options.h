/* What the scripted engine is told: its command line, the engines it can pose as, and the words in a prompt. */
#ifndef TESTS_TOOLS_SCRIPTED_OPTIONS_H
#define TESTS_TOOLS_SCRIPTED_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

/* How an engine really behaves, as measured (llama.cpp) or read (vLLM). */
struct dialect {
    const char *name;
    bool has_props;                  /* GET /props with total_slots */
    bool models_tell_context;        /* max_model_len in /v1/models */
    bool models_list_twice;          /* `models` beside `data` */
    bool has_model_by_id;            /* GET /v1/models/{id} */
    bool numeric_error_code;         /* error.code is the HTTP status */
    bool head_waits_for_first_token; /* a stream's 200 leaves with its first event */
    bool finish_has_own_chunk;       /* else finish_reason stands on the last content chunk */
    bool usage_on_completion_finish; /* completions: usage beside the last choice, asked or not, and no extra chunk */
    bool usage_covers_one_choice;    /* n > 1 or a prompt list: completion_tokens of one choice only */
    bool usage_before_data;          /* embeddings */
    bool closes_after_stream;        /* says keep-alive, then closes */
    bool everything_waits_for_load;  /* 503 on every route while loading, not on /health only */
    bool knows_continuous_usage;     /* stream_options.continuous_usage_stats */
    bool adds_timings;               /* a non-standard `timings` beside usage */
    bool completion_ids_say_chat;    /* completion ids start with chatcmpl- */
};

/* Every way to misbehave, by its name on the command line and in `[[fault=NAME]]` or `[[fault=NAME=VALUE]]`, with the
 * value it has when none is given. */
#define FAULTS(X)                                                                                                      \
    X(none, 0)                                                                                                         \
    X(hang_before_headers, 0)  /* reads the request and says nothing */                                                \
    X(hang_after_headers, 0)   /* 200 and its headers, then nothing */                                                 \
    X(stall_after, 2)          /* nothing more after VALUE tokens */                                                   \
    X(reset_before_headers, 0) /* RST instead of an answer */                                                          \
    X(reset_after, 2)          /* RST after VALUE tokens (or half of a whole answer) */                                \
    X(close_after, 2)          /* the same with a plain close: the body is cut */                                      \
    X(close_without_byte, 0)   /* reads the request, closes */                                                         \
    X(close_reused, 0)         /* that, but only on a connection that has served a request before */                   \
    X(truncated_json, 0)       /* complete HTTP, JSON cut in the middle */                                             \
    X(garbage_sse, 2)          /* after VALUE tokens bytes that are neither SSE nor JSON, then a proper end */         \
    X(no_usage, 0)             /* never any usage */                                                                   \
    X(late_usage, 300)         /* the usage chunk comes VALUE ms after the finish */                                   \
    X(zero_usage, 0)           /* usage with zeros */                                                                  \
    X(usage_on_finish, 0)      /* usage beside the last choice, no chunk of its own */                                 \
    X(error_in_stream, 2)      /* data: {"error": …} after VALUE tokens, then [DONE] */                              \
    X(no_done, 0)              /* everything but [DONE] */                                                             \
    X(no_finish_reason, 0)     /* content, then [DONE] */                                                              \
    X(status, 500)             /* VALUE as the HTTP status */                                                          \
    X(huge_event, 1000000)     /* the first event carries VALUE bytes of content */                                    \
    X(slow_reader, 0)          /* reads the request 4 KiB every 10 ms */                                               \
    X(multi_token_chunks, 3)   /* VALUE tokens in every event */                                                       \
    X(crash, 0)                /* the process aborts after VALUE tokens */                                             \
    X(hold, 0)                 /* nothing until POST /__release, or until --release-after requests are held */

enum fault_kind {
#define X(name, value) FAULT_##name,
    FAULTS(X)
#undef X
        FAULT_KINDS
};

struct fault {
    enum fault_kind kind;
    long value;
};

/* What one request is to be: the command line's values, changed by `[[name=value]]` words anywhere in its body. */
struct script {
    struct fault fault;
    long tokens; /* the natural length of an answer */
    long first_token_ms;
    long token_interval_ms;
    long tokens_per_chunk;
    long comment_interval_ms; /* 0 = no `: ping` lines */
    long cached_tokens;       /* 0 = no prompt_tokens_details */
};

struct options {
    const char *socket_path; /* or NULL */
    int port;                /* 0 = any free one; its number is printed */
    const char *model;
    const struct dialect *dialect;
    const char *count_file; /* or NULL */
    long slots;             /* requests at once; more wait in line */
    long context_tokens;
    long load_ms;
    long keep_alive_ms;  /* idle connections are closed after it */
    long release_after;  /* held requests that release all; 0 = never */
    long fault_after;    /* the command line's fault spares this many generating requests */
    long exit_after_ms;  /* 0 = stays */
    bool ignore_sigterm; /* for the test of SIGKILL */
    bool grandchild;     /* leave a process behind that called setsid() */
    struct script script;
};

/* Fills @ret from argv; prints what is wrong and exits with 2. */
void options_read(int argc, char **argv, struct options *ret);
/* False when there is no such fault. @text: NAME or NAME=VALUE. */
bool fault_read(const char *text, size_t length, struct fault *ret);
/* Apply the `[[…]]` words of @body. */
void script_read(struct script *script, const char *body, size_t length);

#endif
