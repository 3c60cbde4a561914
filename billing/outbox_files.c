/* Rows of one epoch stand in <directory>/adding/<provider>.states, whole, before the first of them stands in the
 * states: a crash between two of them, and another configuration after it, changes nothing. */
#include "billing/outbox_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "billing/outbox.h"
#include "billing/provider.h"

enum { SINCE_BYTES = 32, NAME_BYTES = 32 };

static const char *path_in(const char *directory, const char *name, char to[PATH_MAX])
{
    struct builder path;
    builder_init(&path, to, PATH_MAX);
    builder_format(&path, "%s/%s", directory, name);
    return builder_string(&path);
}

/* ---- since ---- */

static bool parse_since(struct text line, wall_ms *ret)
{
    if (line.length > 0 && line.at[line.length - 1] == '\n' &&
        text_to_int64((struct text){line.at, line.length - 1}, ret) && *ret >= 0)
        return true;
    errno = EBADMSG;
    return false;
}

bool outbox_since(const char *billing_directory, enum provider_kind provider, wall_ms *ret)
{
    char path[PATH_MAX], name[NAME_BYTES], line[SINCE_BYTES];
    snprintf(name, sizeof name, "%s.since", PROVIDER_KIND_NAMES[provider]);
    int fd = open(path_in(billing_directory, name, path), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, line, sizeof line);
    return file_close_after(fd, length >= 0 && parse_since((struct text){line, (size_t) length}, ret));
}

bool outbox_files_since(const char *directory, enum provider_kind provider, wall_ms first_seen, wall_ms *ret)
{
    char name[NAME_BYTES], line[SINCE_BYTES];
    if (outbox_since(directory, provider, ret))
        return true;
    if (errno != ENOENT)
        return false;
    snprintf(name, sizeof name, "%s.since", PROVIDER_KIND_NAMES[provider]);
    snprintf(line, sizeof line, "%" PRId64 "\n", first_seen);
    *ret = first_seen;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return file_close_after(fd, fd >= 0 && file_replace(fd, name, text_of(line), 0600));
}

/* The states are made before the file .since is. Without them everything in the ledger looks new, and a provider that
 * keeps identifiers for a day would take again what it took before. */
bool outbox_are_states_gone(const char *billing_directory, enum provider_kind provider,
                            char ret_error[OUTBOX_TROUBLE_BYTES])
{
    const char *kind = PROVIDER_KIND_NAMES[provider];
    char path[PATH_MAX], name[NAME_BYTES];
    wall_ms since;
    if (provider_capabilities(provider)->dedup_window_ms == PROVIDER_FOREVER)
        return false;
    snprintf(name, sizeof name, "%s.states", kind);
    if (access(path_in(billing_directory, name, path), F_OK) == 0 || errno != ENOENT ||
        (!outbox_since(billing_directory, provider, &since) && errno == ENOENT))
        return false;
    snprintf(ret_error, OUTBOX_TROUBLE_BYTES,
             "billing/%s.states in state_dir is gone: restore it from a backup, or what was delivered would be "
             "billed twice. To bill only from now on, remove billing/%s.since too",
             kind, kind);
    return true;
}

bool outbox_is_directory_gone(const char *billing_directory, const char *ledger_directory)
{
    struct ledger_name *names = NULL;
    size_t count = 0;
    bool is_gone = access(billing_directory, F_OK) != 0 && errno == ENOENT &&
                   ledger_list(ledger_directory, &names, &count) && count > 0;
    free(names);
    return is_gone;
}

/* ---- epochs without rows ---- */

/* One that cannot be read gets its rows when it can. */
static bool gets_rows(const struct outbox_options *options, const struct ledger_name *epoch, wall_ms since)
{
    struct ledger_head head;
    return ledger_read(options->ledger_directory, epoch, &head, NULL) ? head.ended >= since : errno != ENOENT;
}

bool outbox_count_to_come(const struct outbox_options *options, const struct row_states *states, size_t *ret)
{
    struct ledger_name *names = NULL;
    size_t count = 0;
    wall_ms since;
    *ret = 0;
    if (!outbox_since(options->billing_directory, options->provider, &since))
        return errno == ENOENT;
    bool good = ledger_list(options->ledger_directory, &names, &count);
    for (size_t i = 0; good && i < count; i++)
        *ret += names[i].epoch > row_states_made(states, names[i].writer) && gets_rows(options, &names[i], since);
    free(names);
    return good;
}

/* ---- rows that are being added ---- */

static bool is_held(const struct outbox_rows *rows, size_t place, char ret_reason[ROW_REASON_BYTES_MAX + 1])
{
    const struct row *row = &rows->rows[place];
    return provider_holds(row, provider_customer(rows->policy, row->name.tenant), rows->now, ret_reason);
}

static bool add_all(struct row_states *states, const struct outbox_rows *rows)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    bool good = true;
    for (size_t i = 0; i < rows->count && good; i++) {
        bool is_to_wait = is_held(rows, i, reason);
        good = (rows->are_doubtful ? row_states_add_doubtful : row_states_add)(
            states, &rows->rows[i], is_to_wait ? ROW_HELD : ROW_PENDING, rows->now, is_to_wait ? reason : "");
    }
    return good && row_states_sync(states);
}

/* "making" and "adding" are directories beside the states. */
static const char *path_of_states(const char *directory, const char *place, enum provider_kind provider,
                                  char to[PATH_MAX])
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s/%s.states", place, PROVIDER_KIND_NAMES[provider]);
    return path_in(directory, name, to);
}

static bool write_rows(const char *making, const struct outbox_rows *rows)
{
    struct row_states *states = row_states_open(making, rows->provider);
    bool good = states != NULL && add_all(states, rows);
    int error = errno;
    row_states_close(&states);
    errno = error;
    return good;
}

/* The rows in a file of their own, whole before it has its name. */
static bool note_rows(const char *directory, const struct outbox_rows *rows)
{
    char from[PATH_MAX], to[PATH_MAX];
    if (!file_make_directory(path_in(directory, "making", from), 0700) ||
        !file_make_directory(path_in(directory, "adding", to), 0700))
        return false;
    if (unlink(path_of_states(directory, "making", rows->provider, from)) != 0 && errno != ENOENT)
        return false;
    if (!write_rows(path_in(directory, "making", to), rows) ||
        rename(from, path_of_states(directory, "adding", rows->provider, to)) != 0)
        return false;
    return file_sync_directory(path_in(directory, "adding", to));
}

bool outbox_files_finish(const char *directory, struct row_states *states, enum provider_kind provider)
{
    char path[PATH_MAX];
    struct row_states *noted = row_states_read(path_in(directory, "adding", path), provider);
    bool good = noted != NULL;
    for (size_t i = 0; good && i < row_states_count(noted); i++) {
        const struct row_entry *entry = row_states_at(noted, i);
        bool is_doubtful = entry->first_sent != 0;
        good = (is_doubtful ? row_states_add_doubtful : row_states_add)(states, &entry->row, entry->state, entry->when,
                                                                        entry->reason);
    }
    good = good && (row_states_count(noted) == 0 || row_states_sync(states));
    int error = errno;
    row_states_close(&noted);
    errno = error;
    return good && (unlink(path_of_states(directory, "adding", provider, path)) == 0 || errno == ENOENT);
}

bool outbox_files_settle(const char *directory)
{
    char path[PATH_MAX];
    return file_sync_directory(path_in(directory, "adding", path)) || errno == ENOENT;
}

static void tell(const struct outbox_rows *rows, size_t count, const char *reason)
{
    if (count > 0)
        log_event(LOG_WARNING, "billing", "%s: %zu rows of epoch %" PRIu64 " of writer %s are held: %s",
                  PROVIDER_KIND_NAMES[rows->provider], count, rows->rows->name.epoch.epoch,
                  rows->rows->name.epoch.writer, reason);
}

/* Rows of a tenant stand together: a line each reason of each, at most. */
static void tell_held(const struct outbox_rows *rows)
{
    char told[ROW_REASON_BYTES_MAX + 1] = "", reason[ROW_REASON_BYTES_MAX + 1];
    size_t count = 0;
    for (size_t i = 0; i < rows->count; i++) {
        if (!is_held(rows, i, reason))
            continue;
        if (strcmp(told, reason) != 0) {
            tell(rows, count, told);
            count = 0;
            memcpy(told, reason, sizeof told);
        }
        count++;
    }
    tell(rows, count, told);
}

bool outbox_files_add(const char *directory, struct row_states *states, const struct outbox_rows *rows)
{
    bool good = rows->count <= 1 ? add_all(states, rows) /* one line is there or not */
                                 : note_rows(directory, rows) && outbox_files_finish(directory, states, rows->provider);
    if (good)
        tell_held(rows);
    return good;
}
