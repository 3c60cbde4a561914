/* The routes, as two tables. */
#include "gateway/routes.h"

static const struct {
    struct text path;
    enum http_method method;
    enum route_kind kind;
    enum endpoint endpoint;
} served[] = {
    {{"/v1/completions", 15}, HTTP_POST, ROUTE_GENERATE, ENDPOINT_COMPLETIONS},
    {{"/v1/chat/completions", 20}, HTTP_POST, ROUTE_GENERATE, ENDPOINT_CHAT},
    {{"/v1/embeddings", 14}, HTTP_POST, ROUTE_GENERATE, ENDPOINT_EMBEDDINGS},
    {{"/v1/models", 10}, HTTP_GET, ROUTE_MODELS, ENDPOINT_MODELS},
    {{"/health", 7}, HTTP_GET, ROUTE_HEALTH, ENDPOINT_COUNT},
};

/* First parts of OpenAI's other routes (its OpenAPI description, 2026-08). */
static const struct text known[] = {
    {"/v1/assistants", 14},   {"/v1/audio", 9},          {"/v1/batches", 11},  {"/v1/chat/completions", 20},
    {"/v1/containers", 14},   {"/v1/conversations", 17}, {"/v1/evals", 9},     {"/v1/files", 9},
    {"/v1/fine_tuning", 15},  {"/v1/images", 10},        {"/v1/messages", 12}, {"/v1/moderations", 15},
    {"/v1/organization", 16}, {"/v1/realtime", 12},      {"/v1/rerank", 10},   {"/v1/responses", 13},
    {"/v1/skills", 10},       {"/v1/threads", 11},       {"/v1/uploads", 11},  {"/v1/vector_stores", 17},
    {"/v1/videos", 10},       {"/v1/edits", 9},          {"/v1/engines", 11},  {"/v1/chatkit", 11},
};

enum route_result route_find(enum http_method method, struct text path, struct route *ret)
{
    const struct text models = TEXT("/v1/models/");
    if (method == HTTP_OPTIONS) {
        *ret = (struct route){.kind = ROUTE_OPTIONS, .endpoint = ENDPOINT_COUNT};
        return ROUTE_FOUND;
    }
    if (text_starts_with(path, models) && path.length > models.length) {
        struct text model = {path.at + models.length, path.length - models.length};
        *ret = (struct route){.kind = ROUTE_MODEL, .endpoint = ENDPOINT_MODELS, .model = model};
        return method == HTTP_GET ? ROUTE_FOUND : ROUTE_WRONG_METHOD;
    }
    for (size_t i = 0; i < sizeof served / sizeof served[0]; i++) {
        if (!text_equal(path, served[i].path))
            continue;
        *ret = (struct route){.kind = served[i].kind, .endpoint = served[i].endpoint};
        return method == served[i].method ? ROUTE_FOUND : ROUTE_WRONG_METHOD;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!text_starts_with(path, known[i]))
            continue;
        if (path.length == known[i].length || path.at[known[i].length] == '/')
            return ROUTE_NOT_SERVED;
    }
    return ROUTE_UNKNOWN;
}
