/* gateway/openai: a body that is accepted is still accepted after the splices, and asks for what we meant. The first
 * byte chooses the endpoint and what is spliced. */
#include "gateway/openai.h"

#include "tests/fuzz/pieces.h"

enum { ARENA_BYTES = 64 * 1024, CAP_TOKENS = 16 };

static struct text spliced(struct text body, const struct splices *splices, uint32_t seed)
{
    size_t length = splices_length(body, splices), at = 0;
    char *result = malloc(length + 1);
    MUST(result != NULL);
    while (at < length) {
        seed = seed * 1664525u + 1013904223u;
        size_t count = splices_read(body, splices, at, result + at, 1 + (seed >> 26));
        MUST(count > 0 && count <= length - at);
        at += count;
    }
    MUST(splices_read(body, splices, length, result, 1) == 0);
    return (struct text){result, length};
}

static void check_after(enum endpoint endpoint, const struct openai_request *before, struct text body,
                        const struct openai_rewrite *rewrite)
{
    struct arena arena;
    struct openai_request after;
    struct openai_refusal refusal;
    arena_init(&arena, ARENA_BYTES);
    MUST(openai_parse(endpoint, body, &arena, &after, &refusal));
    MUST(text_equal(after.model, text_of(rewrite->engine_model)));
    MUST(after.stream == before->stream && after.choices == before->choices && after.best_of == before->best_of);
    MUST(after.input_text_bytes == before->input_text_bytes && after.input_token_ids == before->input_token_ids);
    MUST(after.prompts == before->prompts && after.messages == before->messages && after.images == before->images);
    if (endpoint != ENDPOINT_EMBEDDINGS) {
        int64_t expected = before->cap_tokens < 0 && rewrite->cap_tokens > 0 ? rewrite->cap_tokens : before->cap_tokens;
        MUST(after.cap_tokens == expected);
        MUST(!after.stream || after.include_usage);
        MUST(!after.stream || !rewrite->force_continuous_usage || after.continuous_usage);
    }
    arena_finish(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    enum endpoint endpoint = (enum endpoint)(data[0] % 3u);
    struct openai_rewrite rewrite = {"engine \"model\"", (data[0] & 8u) != 0 ? CAP_TOKENS : 0, (data[0] & 16u) != 0};
    struct text body = text_exact(data + 1, size - 1);
    struct arena arena;
    struct openai_request request;
    struct openai_refusal refusal = {0};
    struct splices splices;
    arena_init(&arena, ARENA_BYTES);
    if (openai_parse(endpoint, body, &arena, &request, &refusal)) {
        MUST(openai_splice(endpoint, &request, body, &rewrite, &arena, &splices));
        struct text after = spliced(body, &splices, data[0]);
        check_after(endpoint, &request, after, &rewrite);
        text_drop(after);
    } else {
        MUST(refusal.status == 400 && refusal.message != NULL && refusal.message[0] != '\0');
    }
    arena_finish(&arena);
    text_drop(body);
    return 0;
}
