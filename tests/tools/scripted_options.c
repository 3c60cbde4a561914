#include "scripted_options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct dialect dialects[] = {
    {
        .name = "openai",
        .has_model_by_id = true,
        .finish_has_own_chunk = true,
    },
    {
        .name = "vllm",
        .models_tell_context = true,
        .has_model_by_id = true,
        .numeric_error_code = true,
        .knows_continuous_usage = true,
    },
    {
        .name = "llamacpp",
        .has_props = true,
        .models_list_twice = true,
        .numeric_error_code = true,
        .head_waits_for_first_token = true,
        .finish_has_own_chunk = true,
        .usage_on_completion_finish = true,
        .usage_covers_one_choice = true,
        .usage_before_data = true,
        .closes_after_stream = true,
        .everything_waits_for_load = true,
        .adds_timings = true,
        .completion_ids_say_chat = true,
    },
};

static const struct {
    const char *name;
    long value;
} faults[] = {
#define X(name, value) {#name, value},
    FAULTS(X)
#undef X
};

bool fault_read(const char *text, size_t length, struct fault *ret)
{
    const char *equals = memchr(text, '=', length);
    size_t name_length = equals == NULL ? length : (size_t) (equals - text);
    for (size_t i = 0; i < FAULT_KINDS; i++) {
        if (strlen(faults[i].name) != name_length || memcmp(faults[i].name, text, name_length) != 0)
            continue;
        ret->kind = (enum fault_kind) i;
        ret->value = equals == NULL ? faults[i].value : strtol(equals + 1, NULL, 10);
        return true;
    }
    return false;
}

static void word_read(struct script *script, const char *word, size_t length)
{
    const char *equals = memchr(word, '=', length);
    if (equals == NULL)
        return;
    size_t name_length = (size_t) (equals - word);
    if (name_length == 5 && memcmp(word, "fault", 5) == 0) {
        fault_read(equals + 1, length - 6, &script->fault);
        return;
    }
    const struct {
        const char *name;
        long *value;
    } numbers[] = {
        {"tokens", &script->tokens},
        {"first_ms", &script->first_token_ms},
        {"interval_ms", &script->token_interval_ms},
        {"per_chunk", &script->tokens_per_chunk},
        {"comment_ms", &script->comment_interval_ms},
        {"cached", &script->cached_tokens},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strlen(numbers[i].name) == name_length && memcmp(numbers[i].name, word, name_length) == 0)
            *numbers[i].value = strtol(equals + 1, NULL, 10);
}

void script_read(struct script *script, const char *body, size_t length)
{
    const char *at = body, *end = body + length;
    while (at < end && (at = memmem(at, (size_t) (end - at), "[[", 2)) != NULL) {
        at += 2;
        const char *close = memmem(at, (size_t) (end - at), "]]", 2);
        if (close == NULL)
            break;
        if (close - at < 64)
            word_read(script, at, (size_t) (close - at));
    }
    if (script->tokens_per_chunk < 1)
        script->tokens_per_chunk = 1;
    if (script->fault.kind == FAULT_multi_token_chunks)
        script->tokens_per_chunk = script->fault.value;
}

enum option_kind { OPTION_FLAG, OPTION_NUMBER, OPTION_TEXT, OPTION_DIALECT, OPTION_FAULT, OPTION_PORT };

struct option_row {
    const char *name;
    enum option_kind kind;
    void *value;
};

static void refuse(const char *what, const char *value)
{
    fprintf(stderr, "scripted_engine: %s: %s\n", what, value);
    exit(2);
}

static long number_read(const char *text)
{
    char *end;
    long number = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || number < 0)
        refuse("not a number", text);
    return number;
}

static const struct dialect *dialect_named(const char *name)
{
    for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++)
        if (strcmp(dialects[i].name, name) == 0)
            return &dialects[i];
    refuse("no such dialect", name);
    return NULL;
}

static void option_set(const struct option_row *row, const char *text)
{
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *) row->value = true;
        break;
    case OPTION_NUMBER:
        *(long *) row->value = number_read(text);
        break;
    case OPTION_PORT:
        *(int *) row->value = (int) number_read(text);
        break;
    case OPTION_TEXT:
        *(const char **) row->value = text;
        break;
    case OPTION_DIALECT:
        *(const struct dialect **) row->value = dialect_named(text);
        break;
    case OPTION_FAULT:
        if (!fault_read(text, strlen(text), row->value))
            refuse("no such fault", text);
        break;
    }
}

void options_read(int argc, char **argv, struct options *ret)
{
    *ret = (struct options){.model = "scripted",
                            .dialect = &dialects[0],
                            .slots = 1000,
                            .context_tokens = 4096,
                            .keep_alive_ms = 5000,
                            .script = {.tokens = 16, .tokens_per_chunk = 1}};
    const struct option_row rows[] = {
        {"socket", OPTION_TEXT, &ret->socket_path},
        {"port", OPTION_PORT, &ret->port},
        {"model", OPTION_TEXT, &ret->model},
        {"dialect", OPTION_DIALECT, &ret->dialect},
        {"count-file", OPTION_TEXT, &ret->count_file},
        {"slots", OPTION_NUMBER, &ret->slots},
        {"context", OPTION_NUMBER, &ret->context_tokens},
        {"load-ms", OPTION_NUMBER, &ret->load_ms},
        {"keep-alive-ms", OPTION_NUMBER, &ret->keep_alive_ms},
        {"release-after", OPTION_NUMBER, &ret->release_after},
        {"fault", OPTION_FAULT, &ret->script.fault},
        {"fault-after", OPTION_NUMBER, &ret->fault_after},
        {"exit-after-ms", OPTION_NUMBER, &ret->exit_after_ms},
        {"ignore-sigterm", OPTION_FLAG, &ret->ignore_sigterm},
        {"grandchild", OPTION_FLAG, &ret->grandchild},
        {"tokens", OPTION_NUMBER, &ret->script.tokens},
        {"first-token-ms", OPTION_NUMBER, &ret->script.first_token_ms},
        {"token-interval-ms", OPTION_NUMBER, &ret->script.token_interval_ms},
        {"tokens-per-chunk", OPTION_NUMBER, &ret->script.tokens_per_chunk},
        {"comment-interval-ms", OPTION_NUMBER, &ret->script.comment_interval_ms},
    };
    enum { ROWS = sizeof rows / sizeof *rows };
    struct option known[ROWS + 1] = {{0}};
    for (size_t i = 0; i < ROWS; i++)
        known[i] = (struct option){.name = rows[i].name,
                                   .has_arg = rows[i].kind == OPTION_FLAG ? no_argument : required_argument};
    int row, result;
    while ((result = getopt_long(argc, argv, "", known, &row)) != -1) {
        if (result != 0)
            exit(2);
        option_set(&rows[row], optarg);
    }
    if (optind < argc)
        refuse("unexpected", argv[optind]);
}
