#include "ratelimit/estimate_content.h"

enum { MICRO = 1000000, MILLI = 1000 };

static const int64_t SUM_MAX = (int64_t) CONTENT_COUNT_MAX * MILLI * (CONTENT_ANSWERS_WEIGHED + 1);

/* ---- learning ---- */

static void decay_and_add(int64_t *sum, int64_t value)
{
    *sum += value - *sum / CONTENT_ANSWERS_WEIGHED;
}

static void add(struct decayed_sums *sums, int64_t tokens_milli, int64_t pieces_milli)
{
    decay_and_add(&sums->tokens, tokens_milli);
    decay_and_add(&sums->pieces, pieces_milli);
}

/* In thousandths. Where a chunk holds several tokens, the last one holds what was left: it counts by its bytes. */
static int64_t full_chunks_milli(const struct content_sample *sample)
{
    int64_t others = sample->chunks - 1, other_bytes = sample->bytes - sample->last_chunk_bytes;
    if (sample->tokens < sample->chunks || sample->choices > 1 || others == 0 || other_bytes <= 0)
        return sample->chunks * MILLI;
    int64_t last_milli = sample->last_chunk_bytes * others / other_bytes >= 1
                             ? MILLI
                             : sample->last_chunk_bytes * others * MILLI / other_bytes;
    return others * MILLI + last_milli;
}

static void learn_chunks(struct content_costs *costs, const struct content_sample *sample)
{
    /* A token that ends an answer is counted and has no content: those streams have one token a chunk. */
    bool is_one_each = sample->tokens >= sample->chunks && sample->tokens <= sample->chunks + sample->choices;
    if (is_one_each)
        add(&costs->chunks, sample->chunks * MILLI, sample->chunks * MILLI);
    else
        add(&costs->chunks, sample->tokens * MILLI, full_chunks_milli(sample));
}

static bool can_be_learned(int64_t count)
{
    return count > 0 && count <= CONTENT_COUNT_MAX;
}

void content_costs_learn(struct content_costs *costs, const struct content_sample *sample)
{
    if (!can_be_learned(sample->tokens) || !can_be_learned(sample->bytes))
        return;
    add(&costs->bytes, sample->tokens * MILLI, sample->bytes * MILLI);
    if (can_be_learned(sample->chunks) && sample->last_chunk_bytes <= sample->bytes)
        learn_chunks(costs, sample);
}

static bool are_valid(const struct decayed_sums *sums)
{
    bool both = (sums->tokens > 0) == (sums->pieces > 0);
    return both && sums->tokens >= 0 && sums->tokens <= SUM_MAX && sums->pieces >= 0 && sums->pieces <= SUM_MAX;
}

bool content_costs_valid(const struct content_costs *costs)
{
    return are_valid(&costs->chunks) && are_valid(&costs->bytes);
}

/* ---- counting ---- */

static int64_t rate_micro(const struct decayed_sums *sums)
{
    if (sums->pieces == 0)
        return 0;
    int64_t rate = sums->tokens * MICRO / sums->pieces;
    if (rate > (int64_t) CONTENT_CHUNK_TOKENS_MAX * MICRO)
        return (int64_t) CONTENT_CHUNK_TOKENS_MAX * MICRO;
    return rate > 0 ? rate : 1;
}

struct content_rates content_costs_rates(const struct content_costs *costs)
{
    return (struct content_rates){.chunk_micro = rate_micro(&costs->chunks), .byte_micro = rate_micro(&costs->bytes)};
}

static int64_t tokens_of(int64_t pieces, int64_t piece_micro)
{
    int64_t product;
    if (pieces <= 0)
        return 0;
    if (__builtin_mul_overflow(pieces, piece_micro, &product) || product > INT64_MAX - MICRO)
        return INT64_MAX / MICRO;
    int64_t tokens = (product + MICRO / 2) / MICRO;
    return tokens > 0 ? tokens : 1;
}

int64_t content_tokens_of_chunks(const struct content_rates *rates, int64_t chunks)
{
    return tokens_of(chunks, rates->chunk_micro > 0 ? rates->chunk_micro : MICRO);
}

int64_t content_tokens_of_bytes(const struct content_rates *rates, int64_t bytes)
{
    return tokens_of(bytes, rates->byte_micro > 0 ? rates->byte_micro : MICRO / CONTENT_UNLEARNED_BYTES);
}
