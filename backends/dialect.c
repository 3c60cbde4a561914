#include "backends/dialect.h"

#include "base/panic.h"

static const struct dialect DIALECTS[DIALECT_COUNT] = {
    [DIALECT_OPENAI] =
        {
            .name = "openai",
        },
    [DIALECT_VLLM] =
        {
            .name = "vllm",
            .context_key = "max_model_len",
            .knows_continuous_usage = true,
        },
    [DIALECT_LLAMACPP] =
        {
            .name = "llamacpp",
            .slots_path = "/props",
            .slots_key = "total_slots",
            .context_key = "default_generation_settings.n_ctx",
            .stream_closes_connection = true,
            .usage_on_finish_chunk = true,
            .usage_covers_one_choice = true,
        },
};

const struct dialect *dialect_of(enum engine_dialect dialect)
{
    ENSURE(dialect < DIALECT_COUNT);
    return &DIALECTS[dialect];
}
