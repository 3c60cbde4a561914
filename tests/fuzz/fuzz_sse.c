/* backends/sse: the events of a stream do not depend on how it was cut. The first byte says how. */
#include "backends/sse.h"

#include "tests/fuzz/pieces.h"

/* FNV-1a over all events, and how many there were. */
struct digest {
    uint64_t hash;
    size_t count;
};

static void mix(struct digest *digest, struct text bytes)
{
    for (size_t i = 0; i < bytes.length; i++)
        digest->hash = (digest->hash ^ (unsigned char) bytes.at[i]) * UINT64_C(0x100000001b3);
    digest->hash = (digest->hash ^ 0x100) * UINT64_C(0x100000001b3);
}

static bool receive(void *owner, const struct sse_event *event)
{
    struct digest *digest = owner;
    MUST(event->raw.length >= 5 && event->data.length <= event->raw.length);
    char last = event->raw.at[event->raw.length - 1];
    MUST(last == '\n' || last == '\r');
    mix(digest, event->data);
    mix(digest, event->raw);
    digest->count++;
    return digest->count < 1000;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct sse_parser whole_parser, pieces_parser;
    struct digest whole = {0}, pieces = {0};
    struct text rest = text_exact(data + 1, size - 1), copy = rest;
    uint32_t seed = data[0];
    sse_begin(&whole_parser);
    sse_begin(&pieces_parser);
    bool whole_on = sse_feed(&whole_parser, rest, receive, &whole), pieces_on = true;
    while (rest.length > 0 && pieces_on) {
        struct text part = take_piece(&rest, &seed), piece = text_exact(part.at, part.length);
        pieces_on = sse_feed(&pieces_parser, piece, receive, &pieces);
        text_drop(piece);
    }
    MUST(whole_on == pieces_on && whole.count == pieces.count && whole.hash == pieces.hash);
    MUST(!whole_on || sse_has_rest(&whole_parser) == sse_has_rest(&pieces_parser));
    sse_finish(&whole_parser);
    sse_finish(&pieces_parser);
    text_drop(copy);
    return 0;
}
