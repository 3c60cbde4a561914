/* `tollgate limits explain`: every bucket that a key's request for a model has to fit into, and what is in it. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "auth/key.h"
#include "gateway/ask_admin.h"
#include "gateway/command.h"
#include "ratelimit/answer.h"

static const char NAME[] = "limits explain";

enum { CELL_BYTES = 160, ROWS_MAX = 32, KEY_BYTES_MAX = 4096 };

/* What was asked for, as it stands in argv; NULL = not given. */
struct wish {
    const char *config;
    const char *key;
    const char *model;
    const char *user;
    bool json;
};

/* ---- which key and model ---- */

static const struct key *key_named(const struct policy *policy, struct text wanted)
{
    for (size_t i = 0; i < policy->key_count; i++) {
        const struct key *key = &policy->keys[i];
        struct text tenant = text_of(key->tenant->name), name = text_of(key->name);
        if (wanted.length != tenant.length + 1 + name.length || wanted.at[tenant.length] != '/')
            continue;
        struct text rest = {wanted.at + tenant.length + 1, name.length};
        if (text_starts_with(wanted, tenant) && text_equal(rest, name))
            return key;
    }
    return NULL;
}

static const struct key *key_with_text(const struct policy *policy, struct text bearer)
{
    uint8_t sha256[32];
    return key_digest(bearer, sha256) ? policy_key(policy, sha256) : NULL;
}

/* One line of standard input. */
static const struct key *key_from_input(const struct policy *policy)
{
    char line[KEY_BYTES_MAX];
    setvbuf(stdin, NULL, _IONBF, 0); /* no copy of the secret in a heap block that nobody wipes */
    const struct key *key = NULL;
    if (fgets(line, sizeof line, stdin) != NULL)
        key = key_with_text(policy, (struct text){line, strcspn(line, "\r\n")});
    explicit_bzero(line, sizeof line);
    return key;
}

/* NULL after saying so. What was typed may be a key: it is never printed. */
static const struct key *choose_key(const struct policy *policy, const char *wanted)
{
    bool from_input = strcmp(wanted, "-") == 0;
    const struct key *key = from_input ? key_from_input(policy) : key_named(policy, text_of(wanted));
    if (key == NULL && !from_input)
        key = key_with_text(policy, text_of(wanted));
    if (key == NULL)
        command_fail(NAME,
                     "--key: no key is called so (TENANT/NAME), and none has its digest: see `tollgate keys list`");
    return key;
}

/* ---- the table ---- */

enum column { SCOPE, WHOSE, KIND, LIMIT, BURST, BALANCE, HELD, FULL_IN, ON_EXCEED, WHERE, COLUMN_COUNT };
static const char *const HEADINGS[COLUMN_COUNT] = {"SCOPE",   "NAME", "KIND",    "LIMIT",     "BURST",
                                                   "BALANCE", "HELD", "FULL IN", "ON EXCEED", "FROM"};

struct table {
    size_t count; /* with the headings */
    char cells[ROWS_MAX + 1][COLUMN_COUNT][CELL_BYTES];
};

static const char *string_in(json_t *row, const char *member)
{
    const char *value = json_string_value(json_object_get(row, member));
    return value != NULL ? value : "";
}

/* What does not fit keeps its end: of a path that is the file, the line and the column. */
static void put(char cell[CELL_BYTES], const char *value)
{
    size_t length = strlen(value);
    snprintf(cell, CELL_BYTES, "%s%s", length < CELL_BYTES ? "" : "...",
             length < CELL_BYTES ? value : value + length - (CELL_BYTES - 4));
}

/* Whole or with up to three digits behind the point. */
static void put_number(char cell[CELL_BYTES], json_t *row, const char *member)
{
    struct builder number;
    builder_init(&number, cell, CELL_BYTES);
    builder_format(&number, "%.3f", json_number_value(json_object_get(row, member)));
    const char *digits = builder_string(&number);
    const char *point = strchr(digits, '.');
    if (point == NULL)
        return;
    while (cell[number.length - 1] == '0')
        number.length--;
    if (cell[number.length - 1] == '.')
        number.length--;
    builder_string(&number);
}

static int64_t microseconds_in(json_t *row, const char *member)
{
    json_int_t milliseconds = json_integer_value(json_object_get(row, member));
    int64_t microseconds;
    return __builtin_mul_overflow(milliseconds, 1000, &microseconds) ? INT64_MAX : microseconds;
}

static void add_row(struct table *table, json_t *row)
{
    char(*cells)[CELL_BYTES] = table->cells[table->count++];
    const char *kind = string_in(row, "kind");
    bool seats = strcmp(kind, LIMIT_KIND_NAMES[LIMIT_SEATS]) == 0;
    bool tokens = strcmp(kind, LIMIT_KIND_NAMES[LIMIT_TOKENS]) == 0;
    char full_in[LIMIT_HEADER_BYTES];
    limit_duration(microseconds_in(row, "full_in_ms"), full_in);
    put(cells[SCOPE], string_in(row, "scope"));
    put(cells[WHOSE], string_in(row, "name"));
    put(cells[KIND], kind);
    put_number(cells[LIMIT], row, "limit");
    if (!seats)
        strcat(cells[LIMIT], "/min");
    put_number(cells[BURST], row, "capacity");
    put_number(cells[BALANCE], row, "balance");
    put_number(cells[HELD], row, "held");
    put(cells[FULL_IN], seats ? "-" : full_in);
    put(cells[ON_EXCEED], tokens ? string_in(row, "on_exceed") : "-");
    put(cells[WHERE], string_in(row, "origin"));
}

static void print_table(const struct table *table)
{
    int widths[COLUMN_COUNT] = {0};
    for (size_t row = 0; row < table->count; row++) {
        for (size_t column = 0; column + 1 < COLUMN_COUNT; column++) {
            int width = (int) strlen(table->cells[row][column]);
            widths[column] = width > widths[column] ? width : widths[column];
        }
    }
    for (size_t row = 0; row < table->count; row++) {
        for (size_t column = 0; column < COLUMN_COUNT; column++) {
            bool is_number = column >= LIMIT && column <= FULL_IN;
            printf(is_number ? "%*s" : "%-*s", widths[column], table->cells[row][column]);
            fputs(column + 1 < COLUMN_COUNT ? "  " : "\n", stdout);
        }
    }
}

static void print_list(json_t *answer, json_t *limits)
{
    static struct table table;
    const char *user = string_in(answer, "user");
    printf("key %s/%s%s%s, model %s: ", string_in(answer, "tenant"), string_in(answer, "key"),
           user[0] != '\0' ? ", user " : "", user, string_in(answer, "model"));
    size_t count = json_array_size(limits);
    if (count == 0) {
        puts("nothing is limited");
        return;
    }
    printf("%zu limit%s\n\n", count, count == 1 ? "" : "s");
    table.count = 1;
    for (size_t column = 0; column < COLUMN_COUNT; column++)
        put(table.cells[0][column], HEADINGS[column]);
    for (size_t i = 0; i < count && i < ROWS_MAX; i++)
        add_row(&table, json_array_get(limits, i));
    print_table(&table);
}

/* ---- the question ---- */

static int not_found(const struct admin_question *question, json_t *answer)
{
    const char *message = json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
    if (message == NULL)
        return ask_admin_unexpected_status(question, 404);
    return command_fail(NAME, "%s: %s Has %s been reloaded?", question->policy->admin_listen.text, message,
                        question->file);
}

static int answered(void *owner, const struct admin_question *question, int status, struct text body)
{
    const struct wish *wish = owner;
    if (status != 200 && status != 404)
        return ask_admin_unexpected_status(question, status);
    json_t *answer = json_loadb(body.at, body.length, JSON_REJECT_DUPLICATES, NULL);
    json_t *limits = json_object_get(answer, "limits");
    int exit_code = COMMAND_DONE;
    if (status == 404)
        exit_code = not_found(question, answer);
    else if (!json_is_array(limits))
        exit_code = ask_admin_not_understood(question);
    else if (wish->json)
        fwrite(body.at, 1, body.length, stdout);
    else
        print_list(answer, limits);
    json_decref(answer);
    return exit_code;
}

static void add_parameter(struct builder *to, const char *name, const char *value)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    builder_format(to, "%c%s=", strchr(to->at, '?') == NULL ? '?' : '&', name);
    for (const char *at = value; *at != '\0'; at++)
        builder_format(to, strchr(plain, *at) != NULL ? "%c" : "%%%02X", (unsigned char) *at);
    builder_string(to);
}

static int explain(const struct policy *policy, const char *file, struct wish *wish)
{
    const struct key *key = choose_key(policy, wish->key);
    const struct model *model = key == NULL ? NULL : command_find_model(NAME, policy, wish->model);
    if (model == NULL)
        return COMMAND_FAILED;
    char memory[ADMIN_PATH_BYTES_MAX];
    struct builder path;
    builder_init(&path, memory, sizeof memory);
    builder_add_string(&path, "/admin/v1/limits");
    builder_string(&path);
    add_parameter(&path, "tenant", key->tenant->name);
    add_parameter(&path, "key", key->name);
    add_parameter(&path, "model", model->name);
    if (wish->user != NULL)
        add_parameter(&path, "user", wish->user);
    if (path.overflowed)
        return command_usage_error(NAME, "--user is too long");
    const struct admin_question question = {
        .command = NAME,
        .file = file,
        .policy = policy,
        .path = memory,
        .without_port = "give it one, or ask GET /admin/v1/limits there",
    };
    return ask_admin(&question, answered, wish);
}

int command_limits_explain(int argc, char **argv)
{
    struct wish wish = {0};
    const struct command_option options[] = {
        COMMAND_OPTION_CONFIG(&wish.config),
        {.name = "key",
         .value_name = "KEY",
         .help = "TENANT/NAME, or the key itself, or - to read it",
         .value = &wish.key},
        {.name = "model", .value_name = "MODEL", .help = "its name or an alias", .value = &wish.model},
        {.name = "user", .value_name = "USER", .help = "somebody else than the key's user", .value = &wish.user},
        COMMAND_OPTION_JSON(&wish.json),
    };
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "--key KEY --model MODEL [--user USER] [--config FILE] [--json]",
        .about = "Ask the running gateway for every limit that the key's requests for the model have to keep: how\n"
                 "much it allows and how much at once (BURST), what is left now (BALANCE; negative = debt), what\n"
                 "running requests hold of it, and where in the configuration it comes from. A key given as such\n"
                 "is looked up by its digest, and neither sent nor printed; `--key -` reads it from standard\n"
                 "input, where other users of the machine do not see it.\n\n"
                 "Exit codes: 0 done, 1 not asked or not known, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    if (wish.key == NULL || wish.model == NULL)
        return command_usage_error(NAME, "--%s is missing", wish.key == NULL ? "key" : "model");
    const char *file = command_config_file(NAME, wish.config);
    const struct policy *policy = file == NULL ? NULL : command_load(NAME, file);
    if (policy == NULL)
        return COMMAND_FAILED;
    exit_code = explain(policy, file, &wish);
    policy_drop(&policy);
    return exit_code;
}
