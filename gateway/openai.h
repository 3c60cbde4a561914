/* OpenAI's request shapes: what a body asks for, found in one linear scan, and what we splice into it. Pure. */
#ifndef GATEWAY_OPENAI_H
#define GATEWAY_OPENAI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/text.h"
#include "conf/policy.h"

/* Facts of one request body. Slices point into the body or the arena. */
struct openai_request {
    struct text model; /* decoded */
    bool stream;
    bool include_usage;    /* the client asked for the usage chunk */
    bool continuous_usage; /* the client asked for stream_options.continuous_usage_stats */
    int64_t cap_tokens;    /* the largest of max_tokens, max_completion_tokens (chat), n_predict; -1 = none was sent */
    int64_t choices;       /* n (or llama.cpp's n_cmpl), at least 1 */
    int64_t best_of;       /* at least n; = choices when not given */
    int64_t prompts;       /* completions and embeddings: elements of a list of prompts, else 1 */
    int64_t messages;      /* chat */
    uint64_t input_text_bytes; /* decoded bytes of prompts, message contents, tool definitions; without data: URLs */
    int64_t input_token_ids;   /* elements of integer-array prompts: exact tokens */
    int64_t images;            /* image parts */
    /* where things stand in the body; empty when absent */
    struct text model_span;          /* the value with its quotes */
    struct text stream_options_span; /* the value: an object or null */
    struct text include_usage_span;  /* the value inside stream_options */
    struct text continuous_usage_span;
    struct text cap_null_span; /* an explicit `"max_tokens": null`: the null */
    size_t object_inside;      /* offset just after the body's '{' */
};

/* Why a body is refused: an OpenAI error. Texts live in the arena or are constants. */
struct openai_refusal {
    int status;        /* 400 */
    const char *param; /* or NULL */
    const char *code;  /* or NULL */
    const char *message;
};

/* Parse @body for @endpoint (COMPLETIONS, CHAT, EMBEDDINGS). False with @ret_refusal when it is not JSON, not an
 * object, lacks model or prompt/messages/input, repeats a governed key (also in other letter case: some engines match
 * keys loosely), has a wrong type or an absurd value (n > 128, best_of > 20 or < n or, above n, with stream, caps
 * that are no integer of 0 to 2^31 - 1, logprobs > 20, messages > 4096, list of prompts > 2048), or names an upstream
 * (api_base, base_url, custom_host, api_key, extra_headers, user_config and the like). null counts as absent. Unknown
 * fields pass. */
bool openai_parse(enum endpoint endpoint, struct text body, struct arena *arena, struct openai_request *ret,
                  struct openai_refusal *ret_refusal);

/* One replacement of body bytes [begin, end) by @with. */
struct splice {
    size_t begin, end;
    struct text with;
};
enum { SPLICES_MAX = 4 };
/* In order, not overlapping. */
struct splices {
    struct splice items[SPLICES_MAX];
    size_t count;
};

struct openai_rewrite {
    const char *engine_model;
    int64_t cap_tokens;          /* spliced in when > 0 and the client sent none */
    bool force_continuous_usage; /* the engine knows continuous_usage_stats and the policy wants it */
};
/* What has to change in @body, parsed as @request, before it goes to an engine: model, the cap (`max_tokens`), and for
 * streams `stream_options.include_usage: true`. False when the arena is exhausted. */
bool openai_splice(enum endpoint endpoint, const struct openai_request *request, struct text body,
                   const struct openai_rewrite *rewrite, struct arena *arena, struct splices *ret);
/* Length of @body after the splices, and any part of it: copy up to @capacity bytes from @offset; returns the count. */
size_t splices_length(struct text body, const struct splices *splices);
size_t splices_read(struct text body, const struct splices *splices, size_t offset, char *to, size_t capacity);

/* {"error":{"message","type","param","code"}} appended to @to; NULL param or code become null. */
void openai_error_json(struct builder *to, const char *message, const char *type, const char *param, const char *code);

#endif
