/* backends/answer_scan: findings do not depend on the cut (the first byte says how), JSON never breaks the scan, and a
 * body without its usage is JSON still. */
#include "backends/answer_scan.h"

#include "base/json.h"
#include "tests/fuzz/pieces.h"

static bool same_usage(struct engine_usage a, struct engine_usage b)
{
    return a.seen == b.seen && a.input_tokens == b.input_tokens && a.output_tokens == b.output_tokens &&
           a.cached_input_tokens == b.cached_input_tokens;
}

static void check_same(const struct answer_scan *a, const struct answer_scan *b)
{
    MUST(same_usage(answer_usage(a), answer_usage(b)));
    MUST(a->has_usage_member == b->has_usage_member && a->usage_is_null == b->usage_is_null);
    MUST(a->usage_member_begin == b->usage_member_begin && a->usage_member_end == b->usage_member_end);
    MUST(a->usage_value_begin == b->usage_value_begin && a->has_error == b->has_error);
    MUST(a->has_choices == b->has_choices && a->choice_count == b->choice_count);
    MUST(a->content_choices == b->content_choices && a->content_bytes == b->content_bytes);
    MUST(memcmp(a->content_bits, b->content_bits, sizeof(a->content_bits)) == 0);
    MUST(a->finish_count == b->finish_count && a->complete == b->complete && a->broken == b->broken);
}

static bool is_json(struct text whole)
{
    struct json_scan scan;
    json_begin(&scan, whole);
    return json_skip_value(&scan, NULL) && json_next(&scan) == JSON_END;
}

static void check_bounds(const struct answer_scan *scan, size_t length)
{
    struct engine_usage usage = answer_usage(scan);
    MUST(usage.input_tokens >= 0 && usage.output_tokens >= 0);
    MUST(usage.cached_input_tokens >= 0 && usage.cached_input_tokens <= usage.input_tokens);
    MUST(scan->content_bytes <= length && scan->content_choices <= scan->choice_count);
    MUST(scan->usage_member_end <= length);
}

static void check_cut(const struct answer_scan *scan, struct text whole, bool json)
{
    struct text before, after;
    if (!answer_usage_cut(scan, whole, &before, &after))
        return;
    char *joined = malloc(whole.length);
    MUST(joined != NULL && before.length + after.length < whole.length);
    memcpy(joined, before.at, before.length);
    memcpy(joined + before.length, after.at, after.length);
    MUST(!json || is_json((struct text){joined, before.length + after.length}));
    free(joined);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct answer_scan scan, in_pieces;
    struct text whole = text_exact(data + 1, size - 1), rest = whole;
    uint32_t seed = data[0];
    answer_begin(&scan);
    answer_feed(&scan, whole);
    answer_begin(&in_pieces);
    while (rest.length > 0) {
        struct text part = take_piece(&rest, &seed), piece = text_exact(part.at, part.length);
        answer_feed(&in_pieces, piece);
        text_drop(piece);
    }
    check_same(&scan, &in_pieces);
    check_bounds(&scan, whole.length);
    bool json = is_json(whole);
    MUST(!json || !scan.broken);
    check_cut(&scan, whole, json);
    text_drop(whole);
    return 0;
}
