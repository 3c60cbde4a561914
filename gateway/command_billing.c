/* `tollgate billing retry`, `release` and `hold`: what a person decides about one row. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "billing/row_change.h"
#include "gateway/ask_admin.h"
#include "gateway/billing_preview.h"
#include "gateway/command.h"

enum { BODY_BYTES = 128 };

/* One command's words, NULL = not given. */
struct wish {
    const char *name;
    enum row_verb verb;
    const char *row, *config;
    bool dry_run, json;
};

static bool is_row_id(const char *word)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
    return strlen(word) == ROW_ID_CHARACTERS && strncmp(word, "tg1-", 4) == 0 &&
           strspn(word + 4, alphabet) == ROW_ID_CHARACTERS - 4;
}

/* 200 {"row","state"}; 404 and 409 {"error":{"message"}}. */
static int answered(void *owner, const struct admin_question *question, int status, struct text body)
{
    const struct wish *wish = owner;
    if (status != 200 && status != 404 && status != 409)
        return ask_admin_unexpected_status(question, status);
    json_t *answer = json_loadb(body.at, body.length, JSON_REJECT_DUPLICATES, NULL);
    const char *state = json_string_value(json_object_get(answer, "state"));
    const char *message = json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
    int exit_code = COMMAND_DONE;
    if (status == 200 ? state == NULL : message == NULL)
        exit_code = ask_admin_not_understood(question);
    else if (status != 200)
        exit_code = command_fail(wish->name, "%s: %s", wish->row, message);
    else if (wish->json)
        fwrite(body.at, 1, body.length, stdout);
    else
        printf("%s: %s\n", wish->row, state);
    json_decref(answer);
    return exit_code;
}

static int ask(const struct wish *wish, const struct policy *policy, const char *file)
{
    char body[BODY_BYTES];
    snprintf(body, sizeof body, "{\"action\":\"%s\",\"row\":\"%s\"}", ROW_VERB_NAMES[wish->verb], wish->row);
    const struct admin_question question = {
        .command = wish->name,
        .file = file,
        .policy = policy,
        .path = "/admin/v1/billing",
        .json_body = body,
        .without_port = "give it one, or POST to /admin/v1/billing there",
    };
    struct wish asked = *wish;
    return ask_admin(&question, answered, &asked);
}

static int run(const struct wish *wish)
{
    if (wish->row == NULL && !wish->dry_run)
        return command_usage_error(wish->name, "which row? `tollgate usage status` lists those that wait for you");
    if (wish->row != NULL && !is_row_id(wish->row))
        return command_usage_error(wish->name,
                                   "\"%.60s\" is no row: \"tg1-\" and 40 characters, as in `tollgate usage "
                                   "status`",
                                   wish->row);
    const char *file = command_config_file(wish->name, wish->config);
    const struct policy *policy = file == NULL ? NULL : command_load(wish->name, file);
    if (policy == NULL)
        return COMMAND_FAILED;
    const struct billing_preview preview = {wish->name, policy, wish->row, wish->json};
    int exit_code = wish->dry_run ? billing_preview(&preview) : ask(wish, policy, file);
    policy_drop(&policy);
    return exit_code;
}

#define OPTION_DRY_RUN(target)                                                                                         \
    {                                                                                                                  \
        .name = "dry-run", .help = "print what would be sent, and change nothing", .flag = (target)                    \
    }

int command_billing_retry(int argc, char **argv)
{
    struct wish wish = {.name = "billing retry", .verb = ROW_RETRY};
    const struct command_option options[] = {OPTION_DRY_RUN(&wish.dry_run), COMMAND_OPTION_CONFIG(&wish.config),
                                             COMMAND_OPTION_JSON(&wish.json)};
    const struct command_usage usage = {
        .name = wish.name,
        .synopsis = "ROW [--dry-run] [--config FILE] [--json]",
        .about = "Send a rejected row once more, under a new identifier: after its reason is repaired.\n\n"
                 "With --dry-run only print the request that would be sent, never the API key; without ROW for\n"
                 "everything that is pending, sent without an answer, or rejected. Reads only files, and needs no\n"
                 "gateway.\n\n"
                 "Exit codes: 0 done, 1 refused or not asked, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .word = &wish.row,
    };
    int exit_code = COMMAND_DONE;
    return command_parse(&usage, argc, argv, &exit_code) ? run(&wish) : exit_code;
}

int command_billing_release(int argc, char **argv)
{
    struct wish wish = {.name = "billing release", .verb = ROW_RELEASE};
    bool delivered = false;
    const struct command_option options[] = {
        {.name = "delivered",
         .help = "you have seen it at the provider, or billed it by hand: it is not sent; a rejected row, too",
         .flag = &delivered},
        OPTION_DRY_RUN(&wish.dry_run),
        COMMAND_OPTION_CONFIG(&wish.config),
        COMMAND_OPTION_JSON(&wish.json)};
    const struct command_usage usage = {
        .name = wish.name,
        .synopsis = "ROW [--delivered] [--dry-run] [--config FILE] [--json]",
        .about = "Let a held row go: after what its reason asks for (a customer, a meter) is in the configuration\n"
                 "that the gateway has loaded. With --dry-run only print the request that would be sent.\n\n"
                 "Exit codes: 0 done, 1 refused or not asked, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .word = &wish.row,
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    if (delivered && wish.dry_run)
        return command_usage_error(wish.name, "--delivered sends nothing: there is nothing to show with --dry-run");
    if (wish.row == NULL && wish.dry_run)
        return command_usage_error(wish.name, "which row? `tollgate usage status` lists those that wait for you");
    wish.verb = delivered ? ROW_DELIVERED : ROW_RELEASE;
    return run(&wish);
}

int command_billing_hold(int argc, char **argv)
{
    struct wish wish = {.name = "billing hold", .verb = ROW_HOLD};
    const struct command_option options[] = {COMMAND_OPTION_CONFIG(&wish.config), COMMAND_OPTION_JSON(&wish.json)};
    const struct command_usage usage = {
        .name = wish.name,
        .synopsis = "ROW [--config FILE] [--json]",
        .about = "Hold back a row that is pending, sent without an answer or rejected, until `tollgate billing\n"
                 "release`.\n\n"
                 "Exit codes: 0 done, 1 refused or not asked, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .word = &wish.row,
    };
    int exit_code = COMMAND_DONE;
    return command_parse(&usage, argc, argv, &exit_code) ? run(&wish) : exit_code;
}
