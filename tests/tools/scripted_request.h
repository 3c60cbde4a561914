/* One HTTP request as the scripted engine reads it: its bytes, and what its body asks for. Pure. */
#ifndef TESTS_TOOLS_SCRIPTED_REQUEST_H
#define TESTS_TOOLS_SCRIPTED_REQUEST_H

#include <stdbool.h>
#include <stddef.h>

#include "scripted_string.h"

enum request_route { ROUTE_OTHER, ROUTE_COMPLETIONS, ROUTE_CHAT, ROUTE_EMBEDDINGS };

struct request {
    char method[16];
    char path[512];
    char id[128]; /* x-request-id, or "-" */
    enum request_route route;
    bool http10, keep_alive, expects_continue;
    struct string headers; /* a JSON object, names in lower case, repeated ones joined by ", " */
    struct string body;    /* without its framing */
    /* what the body asks for */
    bool is_json_object, stream, include_usage, continuous_usage, wants_base64;
    long max_tokens; /* -1 = not said */
    long choices;    /* n times the number of prompts */
    long inputs;     /* elements of the list of prompts, or 1 */
    long input_tokens;
    char tag[64]; /* `[[tag=…]]` in the body: the test's own name of the request; "" = none */
};

enum request_progress { REQUEST_INCOMPLETE, REQUEST_HEAD, REQUEST_COMPLETE, REQUEST_BROKEN };

/* Read one request from the start of @in. HEAD: the head is there, the body is not yet (method, path and
 * expects_continue are set). COMPLETE: @ret is filled and its bytes are dropped from @in. */
enum request_progress request_read(struct request *ret, struct string *in);
void request_free(struct request *request);

#endif
