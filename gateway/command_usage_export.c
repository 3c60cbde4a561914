/* `tollgate usage export`: usage and what it costs as a file, for whatever reads files. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "billing/completeness.h"
#include "billing/export.h"
#include "conf/suggest.h"
#include "gateway/command.h"
#include "gateway/usage_command.h"

static const char NAME[] = "usage export";

enum { REASON_BYTES = 512, REASONS_MAX = 6 };

/* What was asked for, as it stands in argv; NULL = not given. */
struct wish {
    const char *config, *from, *to, *format, *group_by, *out;
    bool json;
};

/* Why the window is not complete, a sentence each. */
struct reasons {
    size_t count;
    char texts[REASONS_MAX][REASON_BYTES];
};

/* ---- the command line ---- */

static bool read_format(const char *given, enum export_format *ret)
{
    for (size_t i = 0; given != NULL && i < EXPORT_FORMAT_COUNT; i++) {
        if (strcmp(given, EXPORT_FORMAT_NAMES[i]) == 0) {
            *ret = (enum export_format) i;
            return true;
        }
    }
    if (given == NULL)
        command_usage_error(NAME, "--format is missing: csv or jsonl");
    else
        command_usage_error(NAME, "--format must be csv or jsonl, not \"%s\"", given);
    return false;
}

static bool read_group(struct text word, unsigned *bits)
{
    struct suggestion near = {0};
    for (size_t i = 0; i < EXPORT_GROUP_COUNT; i++) {
        suggest_look_at(&near, word, EXPORT_GROUP_NAMES[i]);
        if (text_equal(word, text_of(EXPORT_GROUP_NAMES[i]))) {
            *bits |= 1u << i;
            return true;
        }
    }
    command_usage_error(NAME, "--group-by: \"%.*s\" is none of tenant, key, model, hour%s%s%s", TEXT_ARGUMENTS(word),
                        near.best != NULL ? "; did you mean \"" : "", near.best != NULL ? near.best : "",
                        near.best != NULL ? "\"?" : "");
    return false;
}

/* Words with commas between them; all of them when nothing is given. */
static bool read_groups(const char *given, unsigned *ret)
{
    unsigned bits = 0;
    bool good = true;
    if (given == NULL) {
        *ret = (1u << EXPORT_GROUP_COUNT) - 1;
        return true;
    }
    for (const char *at = given; good && at != NULL;) {
        size_t length = strcspn(at, ",");
        good = read_group((struct text){at, length}, &bits);
        at = at[length] == ',' ? at + length + 1 : NULL;
    }
    *ret = bits;
    return good;
}

/* ---- whether it is complete ---- */

__attribute__((format(printf, 2, 3))) static void add_reason(struct reasons *reasons, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reasons->texts[reasons->count++], REASON_BYTES, format, arguments);
    va_end(arguments);
}

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static void find_reasons(const struct completeness *found, const struct usage_window *window, struct reasons *ret)
{
    char to[CLOCK_TEXT_BYTES];
    usage_time_text(window->to, to);
    if (found->is_too_old)
        add_reason(ret, "the window begins before billing.retention: older sums may have been removed");
    if (found->damaged_journals > 0)
        add_reason(ret,
                   "%llu journal%s cannot be read to the end, one of them the writer %s's: see `tollgate journal "
                   "verify`",
                   (unsigned long long) found->damaged_journals, plural(found->damaged_journals),
                   found->damaged_writer);
    if (found->is_future)
        add_reason(ret, "it is not over yet: ask again after %s", to);
    if (found->open_requests > 0)
        add_reason(ret,
                   "%llu request%s began before its end and may still count: ask again when they are over (a dead "
                   "gateway's: once the next one runs)",
                   (unsigned long long) found->open_requests, plural(found->open_requests));
    if (found->open_epochs > 0)
        add_reason(ret, "%llu epoch%s not sealed yet: ask again in a minute, while the gateway runs",
                   (unsigned long long) found->open_epochs, found->open_epochs == 1 ? " of it is" : "s of it are");
    if (found->missing_epochs > 0)
        add_reason(ret, "%llu sealed epoch%s not in the ledger yet: ask again in a minute, while the gateway runs",
                   (unsigned long long) found->missing_epochs,
                   found->missing_epochs == 1 ? " of it is" : "s of it are");
}

/* False after saying so. */
static bool look(const struct policy *policy, const struct usage_window *window, struct completeness *ret)
{
    static char journals[PATH_MAX], ledger[PATH_MAX]; /* too much for a stack with sanitizers */
    const struct completeness_question question = {
        .journal_directory = usage_path(policy, "journal", journals),
        .ledger_directory = usage_path(policy, "ledger", ledger),
        .from = window->from,
        .to = window->to,
        .now = clock_wall_ms(),
        .retention_ms = policy->billing.retention_ms,
    };
    if (completeness_read(&question, ret))
        return true;
    usage_not_read(NAME, policy);
    return false;
}

/* ---- what came of it ---- */

/* The manifest holds the sums; NULL after saying so. */
static json_t *read_manifest(const char *path)
{
    json_t *manifest = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    if (manifest == NULL)
        command_fail(NAME, "%s: what was written cannot be read back", path);
    return manifest;
}

static void print_text(json_t *manifest, const char *file, const char *manifest_file)
{
    const char *name;
    json_t *value;
    printf("%s\n%s\n\n", file, manifest_file);
    printf("%-20s %" JSON_INTEGER_FORMAT "\n", "rows", json_integer_value(json_object_get(manifest, "rows")));
    json_object_foreach(json_object_get(manifest, "sums"), name, value)
    {
        printf("%-20s %" JSON_INTEGER_FORMAT "\n", name, json_integer_value(value));
    }
    json_object_foreach(json_object_get(manifest, "amounts"), name, value)
    {
        printf("%-20s %s\n", name, json_string_value(value));
    }
}

static int print_json(json_t *manifest, const char *file, const char *manifest_file, const struct reasons *reasons)
{
    json_t *missing = json_array();
    for (size_t i = 0; i < reasons->count; i++)
        json_array_append_new(missing, json_string(reasons->texts[i]));
    json_object_set_new(manifest, "path", json_string(file));
    json_object_set_new(manifest, "manifest_path", json_string(manifest_file));
    json_object_set_new(manifest, "missing", missing);
    return command_print_json(NAME, json_incref(manifest));
}

static int tell(const struct wish *wish, const struct export_request *request, const struct export_result *result,
                const struct reasons *reasons)
{
    static char file[PATH_MAX + EXPORT_NAME_BYTES], manifest_file[PATH_MAX + EXPORT_NAME_BYTES + 16];
    snprintf(file, sizeof file, "%s/%s", request->out_directory, result->file);
    snprintf(manifest_file, sizeof manifest_file, "%s.manifest.json", file);
    json_t *manifest = read_manifest(manifest_file);
    if (manifest == NULL)
        return COMMAND_FAILED;
    int exit_code = COMMAND_DONE;
    if (wish->json)
        exit_code = print_json(manifest, file, manifest_file, reasons);
    else
        print_text(manifest, file, manifest_file);
    json_decref(manifest);
    for (size_t i = 0; i < reasons->count; i++)
        command_fail(NAME, "not complete: %s", reasons->texts[i]);
    return exit_code != COMMAND_DONE || reasons->count == 0 ? exit_code : COMMAND_INCOMPLETE;
}

/* ---- the export ---- */

static int not_written(const struct export_request *request)
{
    if (errno == EBADMSG)
        return usage_not_read(NAME, request->policy);
    if (errno == EFBIG || errno == EOVERFLOW || errno == E2BIG)
        return command_fail(NAME, "it is too big for one file: export a shorter window, or --group-by less");
    return command_fail(NAME, "%s: %s", request->out_directory, strerror(errno));
}

static int export_window(const struct policy *policy, const struct wish *wish, struct export_request *request)
{
    char ledger[PATH_MAX];
    const struct usage_window window = {request->from, request->to};
    struct completeness found;
    struct export_result result;
    struct reasons reasons = {0};
    request->policy = policy;
    request->ledger_directory = usage_path(policy, "ledger", ledger);
    if (!look(policy, &window, &found)) /* before the ledger is read: what it finds is in there */
        return COMMAND_FAILED;
    find_reasons(&found, &window, &reasons);
    request->complete = found.is_complete;
    if (!export_write(request, &result))
        return not_written(request);
    return tell(wish, request, &result, &reasons);
}

static int run(const struct wish *wish)
{
    struct export_request request = {.out_directory = wish->out != NULL ? wish->out : "."};
    struct usage_window window;
    int exit_code;
    if (!usage_window_read(NAME, wish->from, wish->to, &window, &exit_code))
        return exit_code;
    request.from = window.from;
    request.to = window.to;
    if (!read_format(wish->format, &request.format) || !read_groups(wish->group_by, &request.group_bits))
        return COMMAND_USAGE;
    const char *file = command_config_file(NAME, wish->config);
    const struct policy *policy = file == NULL ? NULL : command_load(NAME, file);
    if (policy == NULL)
        return COMMAND_FAILED;
    exit_code = export_window(policy, wish, &request);
    policy_drop(&policy);
    return exit_code;
}

int command_usage_export(int argc, char **argv)
{
    struct wish wish = {0};
    const struct command_option options[] = {
        {.name = "from",
         .value_name = "TIME",
         .help = "the first hour: 2026-11-22, 2026-11-22T16",
         .value = &wish.from},
        {.name = "to", .value_name = "TIME", .help = "the hour behind the last one", .value = &wish.to},
        {.name = "format", .value_name = "FORMAT", .help = "csv or jsonl", .value = &wish.format},
        {.name = "group-by",
         .value_name = "LIST",
         .help = "of tenant,key,model,hour; default all of them",
         .value = &wish.group_by},
        {.name = "out", .value_name = "DIR", .help = "where the files go; default here", .value = &wish.out},
        COMMAND_OPTION_CONFIG(&wish.config),
        COMMAND_OPTION_JSON(&wish.json),
    };
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "--from TIME --to TIME --format csv|jsonl [--group-by LIST] [--out DIR] [--config FILE] [--json]",
        .about = "Write the usage of from <= time < to, and what it costs, into a file, and its sums and SHA-256 into\n"
                 "a manifest beside it. Times are full hours in UTC. Reads only files, also while the gateway runs.\n"
                 "Once the window is complete the files have the same bytes whenever they are asked for; before,\n"
                 "the manifest says \"complete\":false, and what is missing is said here.\n\n"
                 "Exit codes: 0 done, 1 failed, 2 usage, 3 written, but the window is not complete.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    return run(&wish);
}
