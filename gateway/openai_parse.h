/* The parse of one request body in progress: shared by openai.c and openai_input.c, and by nobody else. */
#ifndef GATEWAY_OPENAI_PARSE_H
#define GATEWAY_OPENAI_PARSE_H

#include "base/json.h"
#include "gateway/openai.h"

struct openai_parse {
    struct json_scan scan;
    struct arena *arena;
    struct openai_request request;
    struct openai_refusal refusal;
};

/* Record a refusal and return false. @param and @code may be NULL and are copied by nobody: constants or arena. */
__attribute__((format(printf, 4, 5))) bool openai_refuse(struct openai_parse *parse, const char *param,
                                                         const char *code, const char *format, ...);
/* The last token is not @expected ("an integer"): refuse, with the syntax error if it is one. */
bool openai_refuse_type(struct openai_parse *parse, const char *param, const char *expected);

/* Each is called with the value's first token just read, takes the whole value, and adds to the request's counts; false
 * when it refused. @param is the member's name. */

/* A string, a list of strings, a list of token ids or a list of such lists. */
bool openai_take_prompts(struct openai_parse *parse, const char *param);
/* A list of message objects. */
bool openai_take_messages(struct openai_parse *parse, const char *param);
/* Any value that engines render into the prompt as JSON: tools, functions, documents. */
bool openai_take_definitions(struct openai_parse *parse, const char *param);
/* One string that is input. */
bool openai_take_text(struct openai_parse *parse, const char *param);

#endif
