/* Rows of one epoch stand in <directory>/adding/<provider>.states, whole, before the first of them stands in the
 * states: a crash between two of them, and another configuration after it, changes nothing. */
#include "billing/outbox_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
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

static int open_directory(const char *directory)
{
    return open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Closes @fd and keeps errno. */
static bool close_after(int fd, bool good)
{
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return good;
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
    return close_after(fd, length >= 0 && parse_since((struct text){line, (size_t) length}, ret));
}

static bool write_since(int directory, const char *name, wall_ms when)
{
    char line[SINCE_BYTES], temporary[NAME_BYTES];
    snprintf(line, sizeof line, "%" PRId64 "\n", when);
    snprintf(temporary, sizeof temporary, "%.24s.tmp", name);
    int fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool good = fd >= 0 && file_write_all(fd, text_of(line)) && fsync(fd) == 0;
    return close_after(fd, good) && renameat(directory, temporary, directory, name) == 0 && fsync(directory) == 0;
}

bool outbox_files_since(const char *directory, enum provider_kind provider, wall_ms first_seen, wall_ms *ret)
{
    char name[NAME_BYTES];
    if (outbox_since(directory, provider, ret))
        return true;
    if (errno != ENOENT)
        return false;
    snprintf(name, sizeof name, "%s.since", PROVIDER_KIND_NAMES[provider]);
    *ret = first_seen;
    int fd = open_directory(directory);
    return close_after(fd, fd >= 0 && write_since(fd, name, first_seen));
}

/* ---- rows that are being added ---- */

static bool add_all(struct row_states *states, const struct outbox_rows *rows)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    bool good = true;
    for (size_t i = 0; i < rows->count && good; i++) {
        const char *customer = provider_customer(rows->policy, rows->rows[i].name.tenant);
        bool is_held = provider_holds(&rows->rows[i], customer, rows->now, reason);
        good =
            row_states_add(states, &rows->rows[i], is_held ? ROW_HELD : ROW_PENDING, rows->now, is_held ? reason : "");
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

/* In @directory; its name survives a power cut. */
static bool make_directory(const char *directory, const char *name)
{
    char path[PATH_MAX];
    if (mkdir(path_in(directory, name, path), 0700) != 0)
        return errno == EEXIST;
    int fd = open_directory(directory);
    return close_after(fd, fd >= 0 && fsync(fd) == 0);
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
    if (!make_directory(directory, "making") || !make_directory(directory, "adding"))
        return false;
    if (unlink(path_of_states(directory, "making", rows->provider, from)) != 0 && errno != ENOENT)
        return false;
    if (!write_rows(path_in(directory, "making", to), rows) ||
        rename(from, path_of_states(directory, "adding", rows->provider, to)) != 0)
        return false;
    int fd = open_directory(path_in(directory, "adding", to));
    return close_after(fd, fd >= 0 && fsync(fd) == 0);
}

bool outbox_files_finish(const char *directory, struct row_states *states, enum provider_kind provider)
{
    char path[PATH_MAX];
    struct row_states *noted = row_states_read(path_in(directory, "adding", path), provider);
    bool good = noted != NULL;
    for (size_t i = 0; good && i < row_states_count(noted); i++) {
        const struct row_entry *entry = row_states_at(noted, i);
        good = row_states_add(states, &entry->row, entry->state, entry->when, entry->reason);
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
    int fd = open_directory(path_in(directory, "adding", path));
    if (fd < 0)
        return errno == ENOENT;
    return close_after(fd, fsync(fd) == 0);
}

bool outbox_files_add(const char *directory, struct row_states *states, const struct outbox_rows *rows)
{
    if (rows->count <= 1)
        return add_all(states, rows); /* one line is there or not */
    return note_rows(directory, rows) && outbox_files_finish(directory, states, rows->provider);
}
