/* `tollgate reload`: ask the running gateway, over its admin listener, to read its configuration again. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "gateway/ask_admin.h"
#include "gateway/command.h"

static const char NAME[] = "reload";

/* 200 {"result":"accepted"} or 422 {"result":"refused","problems":"lines"}. */
static int answered(void *owner, const struct admin_question *question, int status, struct text body)
{
    const bool *print_json = owner;
    if (status != 200 && status != 422) {
        return ask_admin_unexpected_status(question, status);
    }
    json_t *json = json_loadb(body.at, body.length, JSON_REJECT_DUPLICATES, NULL);
    const char *word = json_string_value(json_object_get(json, "result"));
    bool accepted = status == 200 && word != NULL && strcmp(word, "accepted") == 0;
    bool refused = status == 422 && word != NULL && strcmp(word, "refused") == 0;
    int exit_code = accepted ? COMMAND_DONE : COMMAND_FAILED;
    const char *problems = json_string_value(json_object_get(json, "problems"));
    if (!accepted && !refused) {
        exit_code = ask_admin_not_understood(question);
    } else if (*print_json) {
        printf("%.*s\n", TEXT_ARGUMENTS(text_trimmed(body)));
    } else {
        fputs(problems != NULL ? problems : "", stderr); /* of an accepted file: its warnings */
        fprintf(accepted ? stdout : stderr, "%s: %s\n", question->file,
                accepted ? "reloaded" : "refused; the gateway keeps the configuration it has");
    }
    json_decref(json);
    return exit_code;
}

int command_reload(int argc, char **argv)
{
    const char *config = NULL;
    bool json = false;
    const struct command_option options[] = {COMMAND_OPTION_CONFIG(&config), COMMAND_OPTION_JSON(&json)};
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "[--config FILE] [--json]",
        .about = "Make the running gateway read its configuration again, and say what it thinks of it. A bad\n"
                 "configuration changes nothing. FILE says where the gateway's admin listener and its token\n"
                 "are; the gateway reads the file that it was started with.\n\n"
                 "Exit codes: 0 accepted, 1 refused or not asked, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code)) {
        return exit_code;
    }
    const char *file = command_config_file(NAME, config);
    const struct policy *policy = file == NULL ? NULL : command_load(NAME, file);
    if (policy == NULL) {
        return COMMAND_FAILED;
    }
    const struct admin_question question = {
        .command = NAME,
        .file = file,
        .policy = policy,
        .path = "/admin/v1/reload",
        .json_body = "{}",
        .without_port = "send SIGHUP instead",
    };
    exit_code = ask_admin(&question, answered, &json);
    policy_drop(&policy);
    return exit_code;
}
