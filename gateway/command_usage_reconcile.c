/* `tollgate usage reconcile`: is what was used, what was kept, what was sent and what the provider says the same? */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "gateway/command.h"
#include "gateway/usage_audit.h"

static const char NAME[] = "usage reconcile";

enum { NUMBER_BYTES = 32, NAME_BYTES = 64, PRINTED_MAX = 1000 };

struct wish {
    const char *config, *from, *to;
    bool json, verbose;
};

struct found {
    size_t lines, differing_lines;
};

/* ---- cells ---- */

enum cell_column {
    EPOCH,
    TENANT,
    KEY,
    MODEL,
    MEASURE,
    SOURCE,
    FIRST_SIDE,
    CELL_COLUMNS = FIRST_SIDE + AUDIT_SIDE_COUNT
};
static const char *const CELL_HEADINGS[CELL_COLUMNS] = {"EPOCH",  "TENANT",  "KEY",    "MODEL", "MEASURE",
                                                        "SOURCE", "JOURNAL", "LEDGER", "REDIS"};

static const char *epoch_text(const struct ledger_name *name, char to[NAME_BYTES])
{
    snprintf(to, NAME_BYTES, "%s-%08" PRIu64, name->writer, name->epoch);
    return to;
}

static bool add_cell(struct usage_table *table, const struct usage_audit_cell *cell)
{
    char epoch[NAME_BYTES], numbers[AUDIT_SIDE_COUNT][NUMBER_BYTES];
    const char *cells[CELL_COLUMNS] = {
        epoch_text(&cell->epoch, epoch), cell->tenant, cell->key, cell->model, MEASURE_NAMES[cell->measure],
        COUNT_SOURCE_NAMES[cell->source]};
    for (size_t i = 0; i < AUDIT_SIDE_COUNT; i++) {
        snprintf(numbers[i], NUMBER_BYTES, "%" PRId64, cell->quantities[i]);
        cells[FIRST_SIDE + i] = cell->is_known[i] ? numbers[i] : "-";
    }
    return usage_table_add(table, cells);
}

static bool print_cells(const struct usage_audit *audit)
{
    struct usage_table *table = usage_table_create(CELL_HEADINGS, CELL_COLUMNS, ~0u << FIRST_SIDE);
    bool good = table != NULL;
    for (size_t i = 0; good && i < audit->differing_count && i < PRINTED_MAX; i++)
        good = add_cell(table, &audit->differing[i]);
    if (good && usage_table_count(table) > 0) {
        puts("cells that differ");
        usage_table_print(table);
        if (audit->differing_count > PRINTED_MAX)
            printf("and %zu more\n", audit->differing_count - PRINTED_MAX);
        putchar('\n');
    }
    usage_table_destroy(&table);
    return good;
}

/* ---- lines ---- */

enum line_column {
    TO,
    LINE_TENANT,
    METER,
    HOUR,
    FIRST_COLUMN,
    MARK = FIRST_COLUMN + RECONCILE_COLUMN_COUNT,
    LINE_COLUMNS
};
static const char *const LINE_HEADINGS[LINE_COLUMNS] = {"TO",       "TENANT",    "METER",    "HOUR",    "LEDGER",
                                                        "REDIS",    "DELIVERED", "BY HAND",  "PENDING", "SENT",
                                                        "REJECTED", "HELD",      "PROVIDER", ""};

static bool is_known(struct reconcile_known known, size_t column)
{
    return column != RECONCILE_PROVIDER || known.provider;
}

static bool differs(const struct usage_audit_provider *provider, const struct reconcile_line *line)
{
    return reconcile_differs(line, usage_audit_known(provider, line));
}

static bool add_line(struct usage_table *table, const struct usage_audit_provider *provider,
                     const struct reconcile_line *line)
{
    struct reconcile_known known = usage_audit_known(provider, line);
    char hour[CLOCK_TEXT_BYTES], numbers[RECONCILE_COLUMN_COUNT][NUMBER_BYTES];
    const char *cells[LINE_COLUMNS] = {PROVIDER_KIND_NAMES[provider->policy->kind], line->tenant, line->meter,
                                       usage_time_text(line->hour, hour)};
    for (size_t i = 0; i < RECONCILE_COLUMN_COUNT; i++) {
        snprintf(numbers[i], NUMBER_BYTES, "%" PRId64, line->quantities[i]);
        cells[FIRST_COLUMN + i] = is_known(known, i) ? numbers[i] : "-";
    }
    cells[MARK] = reconcile_differs(line, known) ? "differs" : "";
    return usage_table_add(table, cells);
}

/* The lines that differ, or all. False: no memory. */
static bool add_lines(struct usage_table *table, const struct usage_audit_provider *provider, bool all,
                      struct found *found)
{
    size_t count;
    const struct reconcile_line *lines = audit_rows_lines(provider->rows, &count);
    bool good = lines != NULL;
    for (size_t i = 0; good && i < count; i++) {
        bool is_different = differs(provider, &lines[i]);
        found->lines++;
        found->differing_lines += is_different;
        if (all || (is_different && usage_table_count(table) < PRINTED_MAX))
            good = add_line(table, provider, &lines[i]);
    }
    return good;
}

static bool print_lines(const struct usage_audit *audit, bool all, struct found *found)
{
    unsigned numbers = (1u << MARK) - (1u << FIRST_COLUMN);
    struct usage_table *table = usage_table_create(LINE_HEADINGS, LINE_COLUMNS, numbers);
    bool good = table != NULL;
    for (size_t i = 0; good && i < audit->provider_count; i++)
        good = add_lines(table, &audit->providers[i], all, found);
    if (good && usage_table_count(table) > 0) {
        puts(all ? "rows by provider" : "rows that differ, by provider");
        usage_table_print(table);
        putchar('\n');
    }
    usage_table_destroy(&table);
    return good;
}

/* ---- the result ---- */

static int exit_code_of(const struct usage_audit *audit, const struct found *found)
{
    if (audit->differing_count > 0 || found->differing_lines > 0)
        return COMMAND_FAILED;
    return audit->reason_count > 0 ? COMMAND_INCOMPLETE : COMMAND_DONE;
}

static int print_text(const struct usage_audit *audit, const struct wish *wish)
{
    struct found found = {0};
    if (!print_cells(audit) || !print_lines(audit, wish->verbose, &found))
        return command_fail(NAME, "memory is exhausted");
    int exit_code = exit_code_of(audit, &found);
    if (exit_code == COMMAND_FAILED)
        printf("differing: cells %zu, lines of rows %zu\n", audit->differing_count, found.differing_lines);
    else
        puts(exit_code == COMMAND_DONE ? "all agree" : "what could be asked agrees");
    printf("compared: epochs %zu, cells %zu, lines of rows %zu\n", audit->epochs, audit->cells, found.lines);
    if (audit->epochs_too_old_for_redis > 0)
        printf("not compared with Redis, which has the last days only: epochs %zu\n", audit->epochs_too_old_for_redis);
    for (size_t i = 0; i < audit->reason_count; i++)
        command_fail(NAME, "not complete: %s", audit->reasons[i]);
    return exit_code;
}

/* ---- JSON ---- */

static json_t *cell_json(const struct usage_audit_cell *cell)
{
    json_t *object =
        json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:s}", "writer", cell->epoch.writer, "epoch",
                  (json_int_t) cell->epoch.epoch, "tenant", cell->tenant, "key", cell->key, "model", cell->model,
                  "measure", MEASURE_NAMES[cell->measure], "source", COUNT_SOURCE_NAMES[cell->source]);
    for (size_t i = 0; i < AUDIT_SIDE_COUNT; i++)
        json_object_set_new(object, AUDIT_SIDE_NAMES[i],
                            cell->is_known[i] ? json_integer(cell->quantities[i]) : json_null());
    return object;
}

static json_t *line_json(const struct usage_audit_provider *provider, const struct reconcile_line *line)
{
    struct reconcile_known known = usage_audit_known(provider, line);
    char hour[CLOCK_TEXT_BYTES];
    json_t *quantities = json_object();
    for (size_t i = 0; i < RECONCILE_COLUMN_COUNT; i++)
        json_object_set_new(quantities, RECONCILE_COLUMN_NAMES[i],
                            is_known(known, i) ? json_integer(line->quantities[i]) : json_null());
    return json_pack("{s:s, s:s, s:s, s:s, s:b, s:o}", "provider", PROVIDER_KIND_NAMES[provider->policy->kind],
                     "tenant", line->tenant, "meter", line->meter, "hour", usage_time_text(line->hour, hour), "differs",
                     reconcile_differs(line, known) ? 1 : 0, "quantities", quantities);
}

static bool add_lines_json(json_t *list, const struct usage_audit_provider *provider, bool all, struct found *found)
{
    size_t count;
    const struct reconcile_line *lines = audit_rows_lines(provider->rows, &count);
    for (size_t i = 0; lines != NULL && i < count; i++) {
        bool is_different = differs(provider, &lines[i]);
        found->lines++;
        found->differing_lines += is_different;
        if (all || is_different)
            json_array_append_new(list, line_json(provider, &lines[i]));
    }
    return lines != NULL;
}

static int print_json(const struct usage_audit *audit, const struct wish *wish)
{
    json_t *cells = json_array(), *lines = json_array(), *missing = json_array();
    struct found found = {0};
    bool good = true;
    for (size_t i = 0; i < audit->differing_count; i++)
        json_array_append_new(cells, cell_json(&audit->differing[i]));
    for (size_t i = 0; i < audit->provider_count; i++)
        good = add_lines_json(lines, &audit->providers[i], wish->verbose, &found) && good;
    for (size_t i = 0; i < audit->reason_count; i++)
        json_array_append_new(missing, json_string(audit->reasons[i]));
    int exit_code = exit_code_of(audit, &found);
    json_t *all =
        json_pack("{s:b, s:b, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "agrees", exit_code != COMMAND_FAILED, "complete",
                  audit->reason_count == 0, "epochs", (json_int_t) audit->epochs, "cells", (json_int_t) audit->cells,
                  "epochs_too_old_for_redis", (json_int_t) audit->epochs_too_old_for_redis, "lines",
                  (json_int_t) found.lines, "differing_cells", cells, "rows", lines, "missing", missing);
    int printed = command_print_json(NAME, all);
    if (!good)
        return command_fail(NAME, "memory is exhausted");
    return printed != COMMAND_DONE ? printed : exit_code;
}

/* ---- the command ---- */

static int reconcile(const struct policy *policy, const struct usage_window *window, const struct wish *wish)
{
    struct usage_audit *audit = calloc(1, sizeof *audit);
    if (audit == NULL)
        return command_fail(NAME, "memory is exhausted");
    *audit = (struct usage_audit){.command = NAME, .policy = policy, .window = *window};
    int exit_code = COMMAND_FAILED;
    if (usage_audit_run(audit))
        exit_code = wish->json ? print_json(audit, wish) : print_text(audit, wish);
    usage_audit_finish(audit);
    free(audit);
    return exit_code;
}

static int run(const struct wish *wish)
{
    struct usage_window window = {0, INT64_MAX};
    int exit_code;
    bool has_window = wish->from != NULL || wish->to != NULL;
    if (has_window && !usage_window_read(NAME, wish->from, wish->to, &window, &exit_code))
        return exit_code;
    const char *file = command_config_file(NAME, wish->config);
    const struct policy *policy = file == NULL ? NULL : command_load(NAME, file);
    if (policy == NULL)
        return COMMAND_FAILED;
    signal(SIGPIPE, SIG_IGN); /* a Redis that goes away is an answer */
    exit_code = reconcile(policy, &window, wish);
    policy_drop(&policy);
    return exit_code;
}

int command_usage_reconcile(int argc, char **argv)
{
    struct wish wish = {0};
    const struct command_option options[] = {
        {.name = "from",
         .value_name = "TIME",
         .help = "the first hour: 2026-11-22, 2026-11-22T16; default the first there is",
         .value = &wish.from},
        {.name = "to", .value_name = "TIME", .help = "the hour behind the last one", .value = &wish.to},
        {.name = "verbose", .help = "show what agrees as well", .flag = &wish.verbose},
        COMMAND_OPTION_CONFIG(&wish.config),
        COMMAND_OPTION_JSON(&wish.json),
    };
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "[--from TIME --to TIME] [--verbose] [--config FILE] [--json]",
        .about = "Compare what should be the same: the journals that are still there, the ledger and Redis, cell by\n"
                 "cell; and for each tenant, meter and hour the ledger, the rows made of it by their states, and\n"
                 "what the provider says it has. Prints what differs. Reads files, asks Redis and the providers,\n"
                 "changes nothing; a provider's total may be some minutes behind. Redis has the last 7 days, or\n"
                 "billing.retention when that is less; older epochs are counted as not compared with it.\n\n"
                 "Exit codes: 0 all agree, 1 something differs, or failed, 2 usage, 3 something could not be asked.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    return run(&wish);
}
