/* The command table and the choice among its rows. */
#include <stdio.h>
#include <string.h>

#include "conf/suggest.h"
#include "gateway/command.h"

/* In the order of the help. Two words are one name: no row may be called as another's first word. */
static const struct command COMMANDS[] = {
    {"run", "start the gateway and the engines its configuration names", command_run},
    {"gateway", NULL, command_gateway},
    {"check", "say what is wrong with a configuration, by file, line and column", command_check},
    {"schema", "print the configuration's JSON Schema, or its reference", command_schema},
    {"keys new", "make an API key for a tenant", command_keys_new},
    {"keys list", "list the API keys, never the secrets", command_keys_list},
    {"limits explain", "say which limits a key's requests for a model have to keep, and what is left",
     command_limits_explain},
    {"journal dump", "print the records of the usage journals", command_journal_dump},
    {"journal verify", "check that the usage journals are whole and keep their rules", command_journal_verify},
    {"price", "say what so many tokens of a model cost, part by part", command_price},
    {"reload", "make the running gateway read its configuration again", command_reload},
    {"simulate", "replay a recorded load against the limits: what would be refused", command_simulate},
    {"billing retry", "send a rejected row of usage once more, or show what would be sent", command_billing_retry},
    {"billing release", "let a held row of usage go", command_billing_release},
    {"billing hold", "hold back a row of usage", command_billing_hold},
    {"usage status", "say where usage stands at each provider, and what waits for you", command_usage_status},
    {"usage export", "write usage and what it costs into a file", command_usage_export},
    {"usage reconcile", "compare journals, ledger, Redis, rows and providers", command_usage_reconcile},
    {"version", "print the version", command_version},
};
enum { COMMAND_COUNT = sizeof(COMMANDS) / sizeof(COMMANDS[0]) };

static bool is_in_group(const struct command *command, const char *group)
{
    size_t length = strlen(group);
    return strncmp(command->name, group, length) == 0 && command->name[length] == ' ';
}

/* The first word of some two-word name: "keys". */
static bool is_group(const char *word)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (is_in_group(&COMMANDS[i], word)) {
            return true;
        }
    }
    return false;
}

/* @group: NULL = all. */
static void print_help(FILE *to, const char *group)
{
    if (group != NULL)
        fprintf(to, "Usage: tollgate %s COMMAND [OPTIONS]\n\nCommands:\n", group);
    else
        fputs("Usage: tollgate COMMAND [OPTIONS]\n\n"
              "An OpenAI-compatible gateway for people who serve their own language models.\n\nCommands:\n",
              to);
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (COMMANDS[i].summary != NULL && (group == NULL || is_in_group(&COMMANDS[i], group))) {
            fprintf(to, "  %-15s %s\n", COMMANDS[i].name, COMMANDS[i].summary);
        }
    }
    fputs("\n`tollgate COMMAND --help` explains one. Exit codes: 0 done, 1 failed, 2 usage, 3 incomplete.\n", to);
}

/* How many of @argv's words spell the row's name; 0 = another name. */
static int words_of(const struct command *command, int argc, char **argv)
{
    const char *space = strchr(command->name, ' ');
    if (space == NULL) {
        return strcmp(argv[1], command->name) == 0 ? 1 : 0;
    }
    struct text first = {command->name, (size_t) (space - command->name)};
    return argc > 2 && text_equal(text_of(argv[1]), first) && strcmp(argv[2], space + 1) == 0 ? 2 : 0;
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

/* No row is called what was typed: say so, and which one was probably meant. */
static int unknown_command(int argc, char **argv)
{
    char memory[64];
    struct builder typed;
    builder_init(&typed, memory, sizeof(memory));
    builder_format(&typed, "%.30s", argv[1]);
    if (is_group(argv[1]) && argc > 2) {
        builder_format(&typed, " %.30s", argv[2]);
    }
    struct suggestion near = {0};
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (COMMANDS[i].summary != NULL) {
            suggest_look_at(&near, builder_text(&typed), COMMANDS[i].name);
        }
    }
    const char *kind = argv[1][0] == '-' ? "option" : "command";
    fprintf(stderr, "tollgate: unknown %s \"%s\"", kind, builder_string(&typed));
    if (near.best != NULL) {
        fprintf(stderr, "; did you mean \"%s\"?", near.best);
    }
    fputs("\nTry `tollgate --help`.\n", stderr);
    return COMMAND_USAGE;
}

/* Data is only written when standard output took all of it: a full disk must not look like success. */
static int flushed(int exit_code)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return exit_code;
    }
    perror("tollgate: standard output");
    return exit_code == COMMAND_DONE ? COMMAND_FAILED : exit_code;
}

int main(int argc, char **argv)
{
    if (argc < 2 || (argc == 2 && is_group(argv[1]))) {
        print_help(stderr, argc < 2 ? NULL : argv[1]);
        return COMMAND_USAGE;
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        int words = words_of(&COMMANDS[i], argc, argv);
        if (words > 0) {
            return flushed(COMMANDS[i].run(argc - words, argv + words));
        }
    }
    if (is_help(argv[1]) || (is_group(argv[1]) && argc > 2 && is_help(argv[2]))) {
        print_help(stdout, is_help(argv[1]) ? NULL : argv[1]);
        return flushed(COMMAND_DONE);
    }
    if (strcmp(argv[1], "--version") == 0) {
        return flushed(command_version(argc - 1, argv + 1));
    }
    return unknown_command(argc, argv);
}
