/* What each engine does differently from OpenAI's API, as one table. */
#ifndef BACKENDS_DIALECT_H
#define BACKENDS_DIALECT_H

#include <stdbool.h>

#include "conf/policy.h"

struct dialect {
    const char *name;
    const char *slots_path;  /* GET: an object with `slots_key`; NULL = the engine does not say */
    const char *slots_key;   /* top-level integer: how many requests it runs at once */
    const char *context_key; /* tokens of context, a dotted path: in that answer when there is a slots_path, else in the
                                model's entry of /v1/models; NULL = unknown */
    bool stream_closes_connection; /* says keep-alive after a stream and closes: never reuse that connection */
    bool usage_on_finish_chunk;    /* completions streams carry usage beside the last choice, asked or not */
    bool usage_covers_one_choice;  /* n > 1 or a prompt list reports completion_tokens of one choice only */
    bool knows_continuous_usage;   /* stream_options.continuous_usage_stats */
};

const struct dialect *dialect_of(enum engine_dialect dialect);

#endif
