/* `tollgate usage status`: where usage stands at each provider, and what waits for a person. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "gateway/admin_usage.h"
#include "gateway/ask_admin.h"
#include "gateway/command.h"
#include "gateway/usage_command.h"

static const char NAME[] = "usage status";

enum { ROW_JSON_BYTES = 8192 };

struct wish {
    const char *config;
    bool json;
};

/* ---- for people ---- */

static const char *string_in(json_t *object, const char *member)
{
    const char *value = json_string_value(json_object_get(object, member));
    return value != NULL ? value : "";
}

static json_int_t number_in(json_t *object, const char *member)
{
    return json_integer_value(json_object_get(object, member));
}

/* Something that is counted, in the singular. */
static const char *plural(json_int_t count)
{
    return count == 1 ? "" : "s";
}

static void print_waiting(json_t *row)
{
    const char *id = string_in(row, "row");
    bool is_held = strcmp(string_in(row, "state"), ROW_STATE_NAMES[ROW_HELD]) == 0;
    printf("  %-8s %s\n           %s, %s: %" JSON_INTEGER_FORMAT " of %s\n           %s\n", string_in(row, "state"), id,
           string_in(row, "tenant"), string_in(row, "meter"), number_in(row, "quantity"), string_in(row, "ended"),
           string_in(row, "reason"));
    printf("           then: tollgate billing %s %s\n", is_held ? "release" : "retry", id);
    if (is_held && strstr(string_in(row, "reason"), "arrived") != NULL)
        printf("           or, when the provider has it: tollgate billing release --delivered %s\n", id);
}

/* Without a gateway: what will be rows. */
static void print_to_come(json_int_t epochs)
{
    if (epochs > 0)
        printf("           and %" JSON_INTEGER_FORMAT " epoch%s not rows yet\n", epochs, epochs == 1 ? " is" : "s are");
}

static void print_provider(json_t *provider, json_int_t epochs_to_come)
{
    json_t *rows = json_object_get(provider, "rows"), *row, *waiting = json_object_get(provider, "waiting");
    json_int_t pending = number_in(rows, "pending"), sent = number_in(rows, "sent");
    json_int_t held = number_in(rows, "held"), rejected = number_in(rows, "rejected");
    const char *oldest = string_in(provider, "oldest"), *acked = string_in(provider, "last_acked");
    size_t place;
    printf("%s\n", string_in(provider, "provider"));
    printf("  pending  %" JSON_INTEGER_FORMAT " row%s, %" JSON_INTEGER_FORMAT " more sent without an answer%s%s\n",
           pending, plural(pending), sent, oldest[0] != '\0' ? "; the oldest of " : "", oldest);
    print_to_come(epochs_to_come);
    printf("  taken    %" JSON_INTEGER_FORMAT " row%s%s%s\n", number_in(rows, "acked") + number_in(rows, "duplicate"),
           plural(number_in(rows, "acked") + number_in(rows, "duplicate")), acked[0] != '\0' ? ", the last at " : "",
           acked);
    printf("  waiting for you: %" JSON_INTEGER_FORMAT " held, %" JSON_INTEGER_FORMAT " rejected\n", held, rejected);
    json_array_foreach(waiting, place, row)
    {
        print_waiting(row);
    }
    json_int_t more = held + rejected - (json_int_t) json_array_size(waiting);
    if (more > 0)
        printf("  and %" JSON_INTEGER_FORMAT " more: `tollgate usage status --json` lists all\n", more);
    putchar('\n');
}

static void print_redis(json_t *redis)
{
    if (!json_is_object(redis))
        return;
    bool is_up = json_is_true(json_object_get(redis, "up"));
    const char *error = string_in(redis, "error"), *durability = string_in(redis, "durability");
    const char *oldest = string_in(redis, "oldest_unshipped");
    printf("redis: %s%s%s%s%s%s%s\n", is_up ? "up" : "away", error[0] != '\0' ? ": " : "", error,
           durability[0] != '\0' ? "; " : "", durability, oldest[0] != '\0' ? "; not there yet: what is since " : "",
           oldest);
}

static void print_journals(json_t *journals)
{
    json_t *journal;
    size_t place;
    json_array_foreach(journals, place, journal)
    {
        const char *trouble = string_in(journal, "trouble");
        if (trouble[0] != '\0')
            printf("journal of worker %" JSON_INTEGER_FORMAT ": %s\n", number_in(journal, "worker"), trouble);
    }
}

/* @policy: of the file, which the gateway may not have read, or not have looked at yet. */
static void print_status(json_t *status, const struct policy *policy)
{
    json_t *providers = json_object_get(status, "providers"), *provider;
    json_t *to_come = json_object_get(status, "epochs_without_rows");
    const char *oldest = string_in(status, "oldest_unflushed"), *error = string_in(status, "error");
    size_t place;
    json_array_foreach(providers, place, provider)
    {
        print_provider(provider, number_in(to_come, string_in(provider, "provider")));
    }
    if (json_array_size(providers) == 0 && policy->billing.provider_count > 0)
        puts("no provider is in use, although the configuration names one: the gateway looks within a second of a "
             "reload\n");
    else if (json_array_size(providers) == 0)
        puts("no provider: usage is recorded, and `tollgate usage export` writes it\n");
    if (oldest[0] != '\0')
        printf("the oldest usage that is not with every provider: %s\n", oldest);
    print_redis(json_object_get(status, "redis"));
    print_journals(json_object_get(status, "journals"));
    if (error[0] != '\0')
        printf("trouble: %s\n", error);
}

/* ---- all rows that wait ---- */

/* NULL: no memory. */
static json_t *waiting_json(const struct row_states *states)
{
    size_t count;
    struct usage_waiting *all = usage_waiting_all(states, &count);
    json_t *list = all == NULL ? NULL : json_array();
    for (size_t i = 0; list != NULL && i < count; i++) {
        char memory[ROW_JSON_BYTES];
        struct builder json;
        builder_init(&json, memory, sizeof memory);
        admin_usage_waiting_json(&all[i], &json);
        if (json_array_append_new(list, json_loads(builder_string(&json), JSON_REJECT_DUPLICATES, NULL)) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    free(all);
    return list;
}

/* The gateway tells the oldest, its files have them all. False after saying why not. */
static bool list_all(const struct policy *policy, json_t *provider)
{
    json_t *told = json_object_get(provider, "waiting");
    const char *name = string_in(provider, "provider");
    int kind = 0;
    while (kind < PROVIDER_KIND_COUNT && strcmp(PROVIDER_KIND_NAMES[kind], name) != 0)
        kind++;
    if (kind == PROVIDER_KIND_COUNT || number_in(provider, "waiting_total") <= (json_int_t) json_array_size(told))
        return true;
    struct row_states *states = usage_states_read(NAME, policy, (enum provider_kind) kind);
    json_t *all = states == NULL ? NULL : waiting_json(states);
    row_states_close(&states);
    if (json_array_size(all) > json_array_size(told)) {
        json_object_set_new(provider, "waiting", all);
        return true;
    }
    json_decref(all);
    command_fail(NAME, "%s: only the %zu oldest of the rows that wait are listed: the others are in %s", name,
                 json_array_size(told), policy->state_dir);
    return false;
}

/* Drops @status. */
static int print_json(json_t *status, const struct policy *policy)
{
    json_t *provider;
    size_t place;
    bool is_whole = true;
    json_array_foreach(json_object_get(status, "providers"), place, provider)
    {
        is_whole = list_all(policy, provider) && is_whole;
    }
    int exit_code = command_print_json(NAME, status);
    return exit_code != COMMAND_DONE || is_whole ? exit_code : COMMAND_INCOMPLETE;
}

static int answered(void *owner, const struct admin_question *question, int status, struct text body)
{
    const struct wish *wish = owner;
    if (status != 200)
        return ask_admin_unexpected_status(question, status);
    json_t *answer = json_loadb(body.at, body.length, JSON_REJECT_DUPLICATES, NULL);
    int exit_code = COMMAND_DONE;
    if (!json_is_array(json_object_get(answer, "providers")))
        exit_code = ask_admin_not_understood(question);
    else if (wish->json)
        exit_code = print_json(json_incref(answer), question->policy);
    else
        print_status(answer, question->policy);
    json_decref(answer);
    return exit_code;
}

/* ---- from the files ---- */

/* Of one provider of the configuration. False after saying so. */
static bool add_provider(const struct policy *policy, enum provider_kind kind, json_t *to_come, struct builder *to)
{
    struct usage_status status;
    size_t epochs;
    struct row_states *states = usage_states_read(NAME, policy, kind);
    if (states == NULL)
        return false;
    usage_status_of(states, kind, &status);
    bool is_counted = usage_epochs_to_come(policy, states, kind, &epochs);
    row_states_close(&states);
    if (!is_counted)
        command_fail(NAME, "%s/ledger: %s", policy->state_dir, strerror(errno));
    else
        json_object_set_new(to_come, PROVIDER_KIND_NAMES[kind], json_integer((json_int_t) epochs));
    admin_usage_provider_json(&status, to);
    return is_counted;
}

/* What a gateway would answer, as far as files tell. */
static int read_files(const struct policy *policy, const struct wish *wish)
{
    static char memory[ADMIN_USAGE_BYTES_MAX];
    struct builder json;
    json_t *to_come = json_object();
    builder_init(&json, memory, sizeof memory);
    builder_add_string(&json, "{\"running\":false,\"providers\":[");
    for (size_t i = 0; i < policy->billing.provider_count; i++) {
        builder_add_string(&json, i > 0 ? "," : "");
        if (!add_provider(policy, policy->billing.providers[i].kind, to_come, &json)) {
            json_decref(to_come);
            return COMMAND_FAILED;
        }
    }
    builder_add_string(&json, "]}");
    fprintf(stderr, "tollgate %s: no gateway answers at %s: this is what the files say, and nothing is being sent\n",
            NAME, policy->admin_listen.text);
    json_t *status = json_loads(builder_string(&json), JSON_REJECT_DUPLICATES, NULL);
    json_object_set_new(status, "epochs_without_rows", to_come);
    if (wish->json || status == NULL)
        return print_json(status, policy);
    print_status(status, policy);
    json_decref(status);
    return COMMAND_DONE;
}

static int look(const struct policy *policy, const char *file, struct wish *wish)
{
    bool absent = false;
    const struct admin_question question = {
        .command = NAME,
        .file = file,
        .policy = policy,
        .path = "/admin/v1/usage",
        .absent = &absent,
    };
    int exit_code = ask_admin(&question, answered, wish);
    return absent ? read_files(policy, wish) : exit_code;
}

int command_usage_status(int argc, char **argv)
{
    struct wish wish = {0};
    const struct command_option options[] = {COMMAND_OPTION_CONFIG(&wish.config), COMMAND_OPTION_JSON(&wish.json)};
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "[--config FILE] [--json]",
        .about = "Ask the running gateway where usage stands at each provider: how much is pending and since when,\n"
                 "what was taken last, and which rows are held or rejected, why, and what lets them go. Without a\n"
                 "gateway the same is read from its files. Nothing is judged: what waits for you is no failure.\n"
                 "Of the rows that wait the 20 oldest of each provider are shown, and all of them with --json.\n\n"
                 "Exit codes: 0 done, 1 not asked or not readable, 2 usage, 3 not all rows could be listed.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    const char *file = command_config_file(NAME, wish.config);
    const struct policy *policy = file == NULL ? NULL : command_load(NAME, file);
    if (policy == NULL)
        return COMMAND_FAILED;
    exit_code = look(policy, file, &wish);
    policy_drop(&policy);
    return exit_code;
}
