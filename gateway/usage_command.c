/* Windows, paths and tables of the commands about usage. */
#include "gateway/usage_command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "billing/outbox.h"
#include "conf/value.h"
#include "gateway/command.h"

enum { HOUR_MS = 3600 * 1000, HOUR_TEXT_LENGTH = 13, MINUTE_TEXT_LENGTH = 16, DATE_BYTES_MAX = 64, LINES_FIRST = 64 };

/* ---- windows ---- */

/* Also "2026-11-22T16" and "2026-11-22T16:00". */
static bool read_date(struct text given, wall_ms *ret)
{
    char memory[DATE_BYTES_MAX];
    struct builder whole;
    builder_init(&whole, memory, sizeof memory);
    builder_add(&whole, given);
    if (given.length == HOUR_TEXT_LENGTH)
        builder_add_string(&whole, ":00:00Z");
    else if (given.length == MINUTE_TEXT_LENGTH)
        builder_add_string(&whole, ":00Z");
    return !whole.overflowed && value_date(builder_text(&whole), ret) && *ret >= 0;
}

const char *usage_time_text(wall_ms when, char to[CLOCK_TEXT_BYTES])
{
    char whole[CLOCK_TEXT_BYTES];
    snprintf(to, CLOCK_TEXT_BYTES, "%.19sZ", clock_text(when, whole));
    return to;
}

static bool read_hour(const char *command, const char *option, const char *given, wall_ms *ret)
{
    char before[CLOCK_TEXT_BYTES], after[CLOCK_TEXT_BYTES];
    if (given == NULL) {
        command_usage_error(command, "--%s is missing: a full UTC hour, such as 2026-11-22 or 2026-11-22T16", option);
        return false;
    }
    if (!read_date(text_of(given), ret)) {
        command_usage_error(command,
                            "--%s \"%.60s\" is no date: write 2026-11-22, 2026-11-22T16 or 2026-11-22T16:00:00Z",
                            option, given);
        return false;
    }
    wall_ms rest = *ret % HOUR_MS;
    if (rest != 0) {
        command_usage_error(command, "--%s \"%s\" is no full UTC hour: write %.13s or %.13s", option, given,
                            clock_text(*ret - rest, before), clock_text(*ret - rest + HOUR_MS, after));
        return false;
    }
    return true;
}

bool usage_window_read(const char *command, const char *from, const char *to, struct usage_window *ret, int *ret_exit)
{
    struct usage_window window;
    *ret_exit = COMMAND_USAGE;
    if (!read_hour(command, "from", from, &window.from) || !read_hour(command, "to", to, &window.to))
        return false;
    if (window.from >= window.to) {
        command_usage_error(command, "--from must be before --to: the window is from <= time < to");
        return false;
    }
    *ret = window;
    return true;
}

const char *usage_path(const struct policy *policy, const char *name, char to[PATH_MAX])
{
    struct builder path;
    builder_init(&path, to, PATH_MAX);
    builder_format(&path, "%s/%s", policy->state_dir, name);
    return builder_string(&path);
}

/* False after saying what. */
static bool are_states_there(const char *command, const struct policy *policy, enum provider_kind kind)
{
    char billing[PATH_MAX], ledger[PATH_MAX], error[OUTBOX_TROUBLE_BYTES];
    usage_path(policy, "billing", billing);
    usage_path(policy, "ledger", ledger);
    if (outbox_is_directory_gone(billing, ledger))
        command_fail(command, "%s is gone, and %s is there: restore it from a backup", billing, ledger);
    else if (outbox_are_states_gone(billing, kind, error))
        command_fail(command, "%s: %s", policy->state_dir, error);
    else
        return true;
    return false;
}

struct row_states *usage_states_read(const char *command, const struct policy *policy, enum provider_kind kind)
{
    char directory[PATH_MAX];
    if (!are_states_there(command, policy, kind))
        return NULL;
    struct row_states *states = row_states_read(usage_path(policy, "billing", directory), kind);
    if (states == NULL)
        command_fail(command, "%s/%s.states: %s", directory, PROVIDER_KIND_NAMES[kind],
                     errno == EBADMSG ? "it is damaged: somebody changed it, or the disk did" : strerror(errno));
    return states;
}

bool usage_epochs_to_come(const struct policy *policy, const struct row_states *states, enum provider_kind kind,
                          size_t *ret)
{
    char billing[PATH_MAX], ledger[PATH_MAX];
    const struct outbox_options options = {.billing_directory = usage_path(policy, "billing", billing),
                                           .ledger_directory = usage_path(policy, "ledger", ledger),
                                           .install_id = "",
                                           .provider = kind};
    return outbox_count_to_come(&options, states, ret);
}

/* False: none is, any more. */
static bool find_damaged(const char *ledger, struct ledger_name *ret)
{
    struct ledger_name *names = NULL;
    size_t count = 0;
    bool is_found = false;
    if (!ledger_list(ledger, &names, &count))
        return false;
    for (size_t i = 0; i < count && !is_found; i++) {
        struct ledger_head head;
        struct cells *cells = NULL;
        is_found = !ledger_read(ledger, &names[i], &head, &cells) && errno == EBADMSG;
        cells_destroy(&cells);
        *ret = names[i];
    }
    free(names);
    return is_found;
}

int usage_not_read(const char *command, const struct policy *policy)
{
    char ledger[PATH_MAX], journals[PATH_MAX];
    struct ledger_name damaged;
    int error = errno;
    usage_path(policy, "ledger", ledger);
    usage_path(policy, "journal", journals);
    if (error == EBADMSG && find_damaged(ledger, &damaged))
        return command_fail(command, "%s/%s-%08" PRIu64 ".jsonl is damaged: put it back from a backup", ledger,
                            damaged.writer, damaged.epoch);
    if (error == ENOENT && access(journals, F_OK) != 0 && errno == ENOENT)
        return command_fail(command,
                            "%s is not there: no gateway has run with this state_dir, or it was removed. Restore it "
                            "from a backup, or make it anew: then usage that is in no ledger file is lost",
                            journals);
    return command_fail(command, "%s: %s", policy->state_dir, strerror(error));
}

/* ---- tables ---- */

struct usage_table {
    const char *const *headings;
    size_t columns;
    unsigned right;
    char **cells; /* @columns a line */
    size_t count, capacity;
};

struct usage_table *usage_table_create(const char *const *headings, size_t columns, unsigned right)
{
    struct usage_table *table = calloc(1, sizeof *table);
    if (table != NULL)
        *table = (struct usage_table){.headings = headings, .columns = columns, .right = right};
    return table;
}

bool usage_table_add(struct usage_table *table, const char *const *cells)
{
    if (table->count == table->capacity) {
        size_t capacity = table->capacity == 0 ? LINES_FIRST : table->capacity * 2;
        char **more = realloc(table->cells, capacity * table->columns * sizeof *more);
        if (more == NULL)
            return false;
        table->cells = more;
        table->capacity = capacity;
    }
    char **line = table->cells + table->count * table->columns;
    bool copied = true;
    for (size_t i = 0; i < table->columns; i++) {
        line[i] = strdup(cells[i]);
        copied = copied && line[i] != NULL;
    }
    table->count++;
    return copied;
}

size_t usage_table_count(const struct usage_table *table)
{
    return table->count;
}

static size_t width_of(const struct usage_table *table, size_t column)
{
    size_t width = strlen(table->headings[column]);
    for (size_t line = 0; line < table->count; line++) {
        size_t length = strlen(table->cells[line * table->columns + column]);
        width = length > width ? length : width;
    }
    return width;
}

/* Nothing stands behind the last cell that says something. */
static void print_line(const struct usage_table *table, const char *const *cells, const int *widths)
{
    size_t count = table->columns;
    while (count > 1 && cells[count - 1][0] == '\0')
        count--;
    for (size_t i = 0; i < count; i++) {
        bool is_right = (table->right >> i & 1) != 0, is_last = i + 1 == count;
        printf(is_right ? "%*s" : "%-*s", is_last && !is_right ? 0 : widths[i], cells[i]);
        fputs(is_last ? "\n" : "  ", stdout);
    }
}

void usage_table_print(const struct usage_table *table)
{
    int *widths = calloc(table->columns, sizeof *widths);
    if (table->count == 0 || widths == NULL) {
        free(widths);
        return;
    }
    for (size_t i = 0; i < table->columns; i++)
        widths[i] = (int) width_of(table, i);
    print_line(table, table->headings, widths);
    for (size_t line = 0; line < table->count; line++)
        print_line(table, (const char *const *) (table->cells + line * table->columns), widths);
    free(widths);
}

void usage_table_destroy(struct usage_table **table)
{
    struct usage_table *dying = *table;
    *table = NULL;
    if (dying == NULL)
        return;
    for (size_t i = 0; i < dying->count * dying->columns; i++)
        free(dying->cells[i]);
    free(dying->cells);
    free(dying);
}
