/* `tollgate check`: every problem of a configuration at its place, and what the file amounts to. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "gateway/command.h"

/* "1 model", "2 models". */
static void add_count(struct builder *to, size_t count, const char *noun)
{
    builder_format(to, "%zu %s%s", count, noun, count == 1 ? "" : "s");
}

static void print_text(const char *file, const struct policy *policy, const struct problem_list *problems)
{
    char memory[256];
    struct builder line;
    builder_init(&line, memory, sizeof(memory));
    if (policy != NULL) {
        builder_add_string(&line, "ok (");
        add_count(&line, policy->model_count, "model");
        builder_add_string(&line, ", ");
        add_count(&line, policy->tenant_count, "tenant");
        builder_add_string(&line, ", ");
        add_count(&line, policy->key_count, "key");
        builder_add_string(&line, ")");
    } else {
        add_count(&line, (size_t) problems->errors, "error");
    }
    if (problems->warnings > 0) {
        builder_add_string(&line, ", ");
        add_count(&line, (size_t) problems->warnings, "warning");
    }
    command_print_problems(problems);
    fprintf(policy != NULL ? stdout : stderr, "%s: %s\n", file, builder_string(&line));
}

/* Take the ":123" at the end of @text off it; 0 when there is none. */
static int64_t take_number(struct text *text)
{
    const char *colon = text->length == 0 ? NULL : memrchr(text->at, ':', text->length);
    int64_t number = 0;
    if (colon != NULL &&
        text_to_int64((struct text){colon + 1, (size_t) (text->at + text->length - colon - 1)}, &number)) {
        text->length = (size_t) (colon - text->at);
    }
    return number;
}

/* One "file:line:column: error: message". */
static json_t *problem_json(struct text line)
{
    static const struct text LEVELS[] = {{": error: ", 9}, {": warning: ", 11}};
    for (size_t i = 0; i < sizeof(LEVELS) / sizeof(LEVELS[0]); i++) {
        const char *level = memmem(line.at, line.length, LEVELS[i].at, LEVELS[i].length);
        if (level == NULL) {
            continue;
        }
        struct text place = {line.at, (size_t) (level - line.at)};
        const char *message = level + LEVELS[i].length;
        int64_t column = take_number(&place);
        int64_t row = take_number(&place);
        return json_pack("{s:s%, s:I, s:I, s:s%, s:s%}", "file", place.at, place.length, "line", (json_int_t) row,
                         "column", (json_int_t) column, "level", LEVELS[i].at + 2, LEVELS[i].length - 4, "message",
                         message, (size_t) (line.at + line.length - message));
    }
    return json_pack("{s:s%}", "message", line.at, line.length);
}

static json_t *problems_json(struct text lines)
{
    json_t *list = json_array();
    while (lines.length > 0) {
        const char *end = memchr(lines.at, '\n', lines.length);
        size_t length = end == NULL ? lines.length : (size_t) (end - lines.at);
        json_array_append_new(list, problem_json((struct text){lines.at, length}));
        size_t taken = end == NULL ? length : length + 1;
        lines.at += taken;
        lines.length -= taken;
    }
    return list;
}

static int print_json(const char *file, const struct policy *policy, const struct problem_list *problems)
{
    json_t *json =
        json_pack("{s:s, s:b, s:i, s:i, s:o}", "file", file, "ok", policy != NULL, "errors", problems->errors,
                  "warnings", problems->warnings, "problems", problems_json(buffer_text(&problems->text)));
    if (json != NULL && policy != NULL) {
        json_object_set_new(json, "models", json_integer((json_int_t) policy->model_count));
        json_object_set_new(json, "tenants", json_integer((json_int_t) policy->tenant_count));
        json_object_set_new(json, "keys", json_integer((json_int_t) policy->key_count));
    }
    return command_print_json("check", json);
}

static int check(const char *file, bool json)
{
    struct problem_list problems;
    problem_list_init(&problems);
    struct bundle *bundle = bundle_read(file, &problems);
    const struct policy *policy = bundle == NULL ? NULL : policy_load(bundle, LOAD_CHECK, &problems);
    int exit_code = policy != NULL ? COMMAND_DONE : COMMAND_FAILED;
    if (!json) {
        print_text(file, policy, &problems);
    } else if (print_json(file, policy, &problems) != COMMAND_DONE) {
        exit_code = COMMAND_FAILED;
    }
    policy_drop(&policy);
    bundle_destroy(&bundle);
    problem_list_finish(&problems);
    return exit_code;
}

int command_check(int argc, char **argv)
{
    const char *config = NULL;
    bool json = false;
    const struct command_option options[] = {COMMAND_OPTION_CONFIG(&config), COMMAND_OPTION_JSON(&json)};
    const struct command_usage usage = {
        .name = "check",
        .synopsis = "[--config FILE] [--json]",
        .about = "Read a configuration as `run` and `reload` would, contact nothing and start nothing.\n"
                 "Problems go to standard error as file:line:column. A missing secret, engine program or\n"
                 "environment variable is a warning here, because it may be there where the gateway runs.\n\n"
                 "Exit codes: 0 no errors, 1 errors, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code)) {
        return exit_code;
    }
    const char *file = command_config_file("check", config);
    return file == NULL ? COMMAND_FAILED : check(file, json);
}
