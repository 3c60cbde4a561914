/* The bytes of the scripted engine's answers, by dialect. Pure: nothing here knows a socket or a clock. */
#ifndef TESTS_TOOLS_SCRIPTED_ANSWER_H
#define TESTS_TOOLS_SCRIPTED_ANSWER_H

#include "scripted_options.h"
#include "scripted_request.h"
#include "scripted_string.h"

/* What an answer is about. Nothing is owned. */
struct answer {
    const struct options *options;
    const struct request *request;
    const struct script *script;
    long serial;    /* makes its id */
    long generated; /* tokens of each choice so far */
    long wanted;    /* tokens of each choice in the end */
    const char *finish_reason;
};

/* A whole answer with its head; 429 and 503 say Retry-After. @type NULL = application/json. */
void answer_whole(struct string *to, const struct request *request, int status, const char *type,
                  const struct string *body);
void answer_error(struct string *to, const struct options *options, const struct request *request, int status,
                  const char *message);
/* The body of a completion, chat completion or embeddings answer that is not streamed. */
void answer_body(struct string *to, const struct answer *answer);

/* A stream: its head, then events, then the end of the chunked coding. */
void stream_head(struct string *to, const struct answer *answer);
/* Raw bytes of an event, in the stream's framing. */
void stream_bytes(struct string *to, const struct answer *answer, const char *bytes, size_t length);
/* The first chunk of a chat: the role of every choice. */
void stream_role(struct string *to, const struct answer *answer);
/* Tokens [@from, answer->generated) of every choice. */
void stream_tokens(struct string *to, const struct answer *answer, long from);
/* The finish chunks, where the dialect has them. */
void stream_finish(struct string *to, const struct answer *answer);
/* The usage chunk, where this request is to get one. */
bool stream_wants_usage_chunk(const struct answer *answer);
void stream_usage(struct string *to, const struct answer *answer);
/* An event whose JSON breaks off. */
void stream_broken_event(struct string *to, const struct answer *answer);
void stream_end(struct string *to, const struct answer *answer);

/* The small routes. */
void answer_models(struct string *to, const struct options *options);
void answer_props(struct string *to, const struct options *options);

#endif
