/* The command line: one table of commands, one way to read options, help and complain. */
#ifndef GATEWAY_COMMAND_H
#define GATEWAY_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"
#include "conf/load.h"

#define TOLLGATE_VERSION "0.1.0"

/* What a command's process ends with; every command's help lists those it uses. */
enum command_exit {
    COMMAND_DONE = 0,
    COMMAND_FAILED = 1,    /* tried and failed, or a check found a mismatch */
    COMMAND_USAGE = 2,     /* the command line itself is wrong; nothing was tried */
    COMMAND_INCOMPLETE = 3 /* part of it was done */
};

/* A row of the command table (gateway/main.c). */
struct command {
    const char *name;    /* as typed: "run", "keys new" */
    const char *summary; /* a clause for the list in the help; NULL = hidden */
    /* @argv[0] is the name's last word, the rest is what followed it. Returns the exit code. Standard output is
     * flushed, and its failure turned into COMMAND_FAILED, by the caller. */
    int (*run)(int argc, char **argv);
};

/* An option of one command, usually in a local array of the command's function. */
struct command_option {
    const char *name;       /* without its dashes */
    const char *value_name; /* "FILE"; NULL = a flag without a value */
    const char *help;       /* one line */
    const char **value;     /* where the value goes, NULL before; points into argv */
    bool *flag;             /* where `true` goes, for a flag */
};

/* What a command is, for its help. */
struct command_usage {
    const char *name;     /* as in the table */
    const char *synopsis; /* what follows the name: "[--config FILE] [--json]" */
    const char *about;    /* paragraphs, each line with its newline */
    const struct command_option *options;
    size_t option_count;
    const char **word; /* where the one argument that is no option goes, NULL before; NULL = the command takes none */
};

/* The row that nearly all commands have. */
#define COMMAND_OPTION_CONFIG(target)                                                                                  \
    {                                                                                                                  \
        .name = "config", .value_name = "FILE",                                                                        \
        .help = "the configuration; default ./tollgate.yaml, then /etc/tollgate/tollgate.yaml", .value = (target)      \
    }
#define COMMAND_OPTION_JSON(target)                                                                                    \
    {                                                                                                                  \
        .name = "json", .help = "print JSON", .flag = (target)                                                         \
    }

/* Read all of @argv after [0] by @usage ("--name VALUE", "--name=VALUE", "--flag"; each at most once; one other
 * argument where it has a place), --help and -h included. False: help was printed (@ret_exit is COMMAND_DONE) or the
 * mistake was (then it is COMMAND_USAGE), and the command should return that. */
bool command_parse(const struct command_usage *usage, int argc, char **argv, int *ret_exit);
/* "tollgate NAME: message" and where the help is, to standard error. Returns COMMAND_USAGE. */
__attribute__((format(printf, 2, 3))) int command_usage_error(const char *name, const char *format, ...);
/* "tollgate NAME: message" to standard error. Returns COMMAND_FAILED. */
__attribute__((format(printf, 2, 3))) int command_fail(const char *name, const char *format, ...);

/* The configuration file to use: @given, or else the first default that exists. NULL when there is none: said on
 * standard error. Valid for ever. */
const char *command_config_file(const char *name, const char *given);
/* All their lines, to standard error. */
void command_print_problems(const struct problem_list *problems);
/* Load @file statically (LOAD_CHECK), with one reference that the caller drops. NULL when it has errors, which were
 * printed to standard error; warnings are not. */
const struct policy *command_load(const char *name, const char *file);

/* The model of `--model @wanted`, by its name or an alias. NULL when there is none: said, with the nearest name. */
const struct model *command_find_model(const char *name, const struct policy *policy, const char *wanted);

struct json_t; /* jansson's, which is used for output here, never for requests */
/* Print @value and a newline to standard output and drop the reference. Returns COMMAND_DONE, or COMMAND_FAILED (said)
 * when @value is NULL (no memory, or a text that is not UTF-8) or cannot be written. */
int command_print_json(const char *name, struct json_t *value);

/* The rows, each in gateway/command_<name>.c; run and gateway in gateway/run.c. */
int command_run(int argc, char **argv);
/* The gateway process that the master starts: not for people. */
int command_gateway(int argc, char **argv);
int command_check(int argc, char **argv);
int command_schema(int argc, char **argv);
int command_keys_new(int argc, char **argv);
int command_keys_list(int argc, char **argv);
int command_limits_explain(int argc, char **argv);
int command_journal_dump(int argc, char **argv);
int command_journal_verify(int argc, char **argv);
int command_price(int argc, char **argv);
int command_reload(int argc, char **argv);
int command_simulate(int argc, char **argv);
int command_billing_hold(int argc, char **argv);
int command_billing_release(int argc, char **argv);
int command_billing_retry(int argc, char **argv);
int command_usage_export(int argc, char **argv);
int command_usage_reconcile(int argc, char **argv);
int command_usage_status(int argc, char **argv);
int command_version(int argc, char **argv);

#endif
