/* Delivered rows leave: first they are in the file of their hour, synced, then the others, written anew, get the
 * name of all, then memory forgets them. A crash between two of these leaves a row in both, which is the same row. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/panic.h"
#include "billing/row_state_private.h"

enum { HOUR_MS = 3600 * 1000, HOUR_CHARACTERS = 13, NAME_BYTES = 64, FIRST = 16 };

static wall_ms hour_of(wall_ms when)
{
    return clock_hour(when);
}

/* @file in it; "" = the directory itself. */
static const char *path_in(const struct row_states *states, const char *file, char to[PATH_MAX])
{
    struct builder path;
    builder_init(&path, to, PATH_MAX);
    builder_format(&path, "%s/delivered/%s", states->directory, file);
    return builder_string(&path);
}

static const char *name_of(const struct row_states *states, wall_ms hour, char to[NAME_BYTES])
{
    char date[HOUR_CHARACTERS + 1];
    time_t seconds = (time_t) (hour / 1000);
    struct tm parts;
    gmtime_r(&seconds, &parts);
    strftime(date, sizeof date, "%Y-%m-%dT%H", &parts);
    snprintf(to, NAME_BYTES, "%s-%s.states", PROVIDER_KIND_NAMES[states->provider], date);
    return to;
}

static const char *file_of(const struct row_states *states, wall_ms hour, char to[PATH_MAX])
{
    char name[NAME_BYTES];
    return path_in(states, name_of(states, hour, name), to);
}

static bool close_file(FILE *file, bool good)
{
    int error = errno;
    if (fclose(file) != 0 && good)
        return false;
    errno = error;
    return good;
}

/* ---- which go ---- */

struct tidying {
    struct row_states *states;
    wall_ms now;
    bool *leaves; /* by place */
    size_t count; /* of those that go, and did not before */
    size_t *places;
    bool *is_written;     /* as @places */
    struct row_gone gone; /* with them */
    FILE *file;           /* the others, under a temporary name */
    size_t lines;         /* in it */
    char line[ROW_LINE_BYTES_MAX];
    char path[PATH_MAX], temporary[PATH_MAX + 4];
};

static bool is_old(const struct tidying *tidying, const struct row_entry *entry)
{
    return row_state_is_delivered(entry->state) && entry->row.ended + ROW_KEPT_MS <= tidying->now &&
           entry->when + ROW_KEPT_MS <= tidying->now;
}

static bool is_one_epoch(const struct ledger_name *a, const struct ledger_name *b)
{
    return a->epoch == b->epoch && strcmp(a->writer, b->writer) == 0;
}

/* Those of the epoch that begins at @first. Returns where the next one begins. */
static size_t choose_epoch(struct tidying *tidying, size_t first)
{
    const struct row_states *states = tidying->states;
    const struct ledger_name epoch = row_states_at(states, first)->row.name.epoch;
    bool go_together = states->provider == PROVIDER_FILE, all = true;
    size_t end = first;
    for (; end < states->count; end++) {
        const struct row_entry *entry = row_states_at(states, end);
        if (!is_one_epoch(&entry->row.name.epoch, &epoch))
            break;
        tidying->leaves[end] = is_old(tidying, entry);
        all = all && tidying->leaves[end];
    }
    for (size_t i = first; i < end; i++) {
        tidying->leaves[i] = tidying->leaves[i] && (all || !go_together);
        if (tidying->leaves[i] && !states->kept[i].went)
            tidying->places[tidying->count++] = i;
        tidying->leaves[i] = tidying->leaves[i] || states->kept[i].went;
    }
    return end;
}

static bool choose(struct tidying *tidying)
{
    size_t count = tidying->states->count;
    tidying->leaves = calloc(count + 1, sizeof *tidying->leaves);
    tidying->places = calloc(count + 1, sizeof *tidying->places);
    tidying->is_written = calloc(count + 1, sizeof *tidying->is_written);
    if (tidying->leaves == NULL || tidying->places == NULL || tidying->is_written == NULL)
        return false;
    for (size_t i = 0; i < count;)
        i = choose_epoch(tidying, i);
    return true;
}

/* ---- into the files of their hours ---- */

/* What a crash left of a line. */
static bool cut_torn_tail(int fd, char tail[ROW_LINE_BYTES_MAX])
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return false;
    off_t from = status.st_size > ROW_LINE_BYTES_MAX ? status.st_size - ROW_LINE_BYTES_MAX : 0;
    ssize_t count = pread(fd, tail, ROW_LINE_BYTES_MAX, from);
    if (count < 0)
        return false;
    const char *newline = memrchr(tail, '\n', (size_t) count);
    if (newline == NULL && from > 0) {
        errno = EBADMSG;
        return false;
    }
    off_t whole = newline == NULL ? 0 : from + (newline - tail) + 1;
    return whole == status.st_size || ftruncate(fd, whole) == 0;
}

static FILE *open_hour(struct tidying *tidying, wall_ms hour)
{
    char path[PATH_MAX];
    int fd = open(file_of(tidying->states, hour, path), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    FILE *file = fd >= 0 && cut_torn_tail(fd, tidying->line) ? fdopen(fd, "a") : NULL;
    if (file == NULL)
        (void) file_close_after(fd, false);
    return file;
}

static wall_ms hour_at(const struct tidying *tidying, size_t i)
{
    return hour_of(row_states_at(tidying->states, tidying->places[i])->row.ended);
}

static bool put_line(const struct tidying *tidying, FILE *file, size_t length)
{
    ENSURE(length > 0);
    return fwrite(tidying->line, 1, length, file) == length;
}

static bool put_row(struct tidying *tidying, FILE *file, size_t place)
{
    return put_line(tidying, file, row_line_make(row_states_at(tidying->states, place), tidying->line));
}

/* All that go of one hour, from the first of them on. */
static bool put_hour(struct tidying *tidying, size_t first, FILE *file)
{
    wall_ms hour = hour_at(tidying, first);
    bool good = true;
    for (size_t i = first; i < tidying->count && good; i++) {
        if (tidying->is_written[i] || hour_at(tidying, i) != hour)
            continue;
        good = put_row(tidying, file, tidying->places[i]);
        tidying->is_written[i] = true;
    }
    return good && fflush(file) == 0 && fsync(fileno(file)) == 0;
}

/* As if nothing of it was written, when not all of it was. */
static bool write_hour(struct tidying *tidying, size_t first)
{
    FILE *file = open_hour(tidying, hour_at(tidying, first));
    struct stat before;
    if (file == NULL)
        return false;
    bool good = fstat(fileno(file), &before) == 0 && put_hour(tidying, first, file);
    int error = errno;
    if (!good)
        (void) !ftruncate(fileno(file), before.st_size);
    errno = error;
    return close_file(file, good);
}

static bool write_hours(struct tidying *tidying)
{
    char path[PATH_MAX];
    if (tidying->count == 0)
        return true;
    path_in(tidying->states, "", path);
    bool good = mkdir(path, 0700) == 0 || errno == EEXIST;
    for (size_t i = 0; i < tidying->count && good; i++)
        good = tidying->is_written[i] || write_hour(tidying, i);
    return good && file_sync_directory(path) && file_sync_directory(tidying->states->directory);
}

/* ---- the others ---- */

static void sum_up(struct tidying *tidying)
{
    const struct row_states *states = tidying->states;
    tidying->gone = states->gone;
    tidying->gone.last_delivered = states->last_delivered;
    for (size_t i = 0; i < tidying->count; i++) {
        bool is_duplicate = states->kept[tidying->places[i]].state == ROW_DUPLICATE;
        tidying->gone.duplicate += is_duplicate;
        tidying->gone.acked += !is_duplicate;
    }
}

static bool write_others(struct tidying *tidying)
{
    const struct row_states *states = tidying->states;
    FILE *file = tidying->file;
    bool good = put_line(tidying, file, row_line_make_gone(&tidying->gone, tidying->line)) &&
                put_line(tidying, file, row_line_make_alive(states->alive, tidying->line));
    tidying->lines = 2 + row_table_mark_count(states);
    for (const struct row_mark *mark = NULL; good && (mark = row_table_next_mark(states, mark)) != NULL;)
        good = put_line(tidying, file, row_line_make_mark(mark, tidying->line));
    for (size_t i = 0; i < states->count && good; i++) {
        if (tidying->leaves[i])
            continue;
        good = put_row(tidying, file, i);
        tidying->lines++;
    }
    return good && fflush(file) == 0 && fsync(fileno(file)) == 0;
}

/* The new file is the one to be written from now on, also when its name is not surely on the disk. */
static void take_over(struct tidying *tidying)
{
    struct row_states *states = tidying->states;
    int fd = fileno(tidying->file);
    ENSURE(dup3(fd, states->fd, O_CLOEXEC) >= 0);
    states->length = ftello(tidying->file);
    states->lines = tidying->lines;
    states->gone = tidying->gone;
    states->must_sync_directory = true;
}

static bool write_all(struct tidying *tidying)
{
    struct builder name;
    builder_init(&name, tidying->path, sizeof tidying->path);
    builder_format(&name, "%s/%s.states", tidying->states->directory, PROVIDER_KIND_NAMES[tidying->states->provider]);
    snprintf(tidying->temporary, sizeof tidying->temporary, "%s.tmp", builder_string(&name));
    int fd = open(tidying->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    tidying->file = fd < 0 ? NULL : fdopen(fd, "r+");
    if (tidying->file == NULL)
        return file_close_after(fd, false);
    sum_up(tidying);
    bool good = write_others(tidying) && write_hours(tidying) && rename(tidying->temporary, tidying->path) == 0;
    if (good)
        take_over(tidying);
    return close_file(tidying->file, good);
}

/* ---- tidy ---- */

/* It is worth the others' lines. */
static bool is_worth_it(const struct tidying *tidying)
{
    const struct row_states *states = tidying->states;
    size_t stay = 0;
    for (size_t i = 0; i < states->count; i++)
        stay += !tidying->leaves[i];
    size_t needed = stay + row_table_mark_count(states) + 2;
    size_t gain = states->lines > needed ? states->lines - needed : 0;
    return gain >= ROW_TIDY_MIN && gain >= needed / 2;
}

/* Only those that were recalled. */
static void keep_others(struct tidying *tidying)
{
    for (size_t i = 0; i < tidying->states->count; i++)
        tidying->leaves[i] = tidying->states->kept[i].went;
    tidying->count = 0;
}

static bool tidy(struct tidying *tidying)
{
    struct row_states *states = tidying->states;
    if (!choose(tidying))
        return false;
    bool is_anew = is_worth_it(tidying);
    if (!is_anew)
        keep_others(tidying);
    else if (!write_all(tidying))
        return false;
    if (is_anew || states->recalled_count > 0)
        row_table_forget(states, tidying->leaves);
    states->recalled_count = 0;
    row_table_pack(states);
    return !is_anew || row_states_sync_directory(states);
}

bool row_states_tidy(struct row_states *states, wall_ms now)
{
    struct tidying *tidying = calloc(1, sizeof *tidying);
    if (tidying == NULL)
        return false;
    tidying->states = states;
    tidying->now = now;
    bool good = tidy(tidying);
    int error = errno;
    free(tidying->leaves);
    free(tidying->places);
    free(tidying->is_written);
    free(tidying);
    errno = error;
    return good;
}

/* ---- recall ---- */

static bool is_recalled(const struct row_states *states, wall_ms hour)
{
    for (size_t i = 0; i < states->recalled_count; i++) {
        if (states->recalled[i] == hour)
            return true;
    }
    return false;
}

static bool note_recalled(struct row_states *states, wall_ms hour)
{
    if (states->recalled_count == states->recalled_capacity) {
        size_t capacity = states->recalled_capacity == 0 ? FIRST : states->recalled_capacity * 2;
        wall_ms *more = realloc(states->recalled, capacity * sizeof *more);
        if (more == NULL)
            return false;
        states->recalled = more;
        states->recalled_capacity = capacity;
    }
    states->recalled[states->recalled_count++] = hour;
    return true;
}

/* A row that is here as well had not left yet when somebody looked, or a crash came between. */
static bool take_gone(struct row_states *states, struct text line)
{
    union row_line_content content;
    if (row_line_read(line, &content) != ROW_LINE_ENTRY || !row_state_is_delivered(content.entry.state)) {
        errno = EBADMSG;
        return false;
    }
    content.entry.row.name.provider = states->provider;
    return row_table_find(states, content.entry.row.id) != NULL ||
           (row_table_make_room(states) && row_table_add(states, &content.entry, true));
}

static bool recall_hour(struct row_states *states, wall_ms hour)
{
    char path[PATH_MAX];
    off_t length;
    FILE *file = fopen(file_of(states, hour, path), "re");
    if (file == NULL)
        return errno == ENOENT && note_recalled(states, hour);
    bool good = row_lines_read(states, file, take_gone, &length);
    return close_file(file, good) && note_recalled(states, hour);
}

/* False: it is no file of ours. */
static bool read_name(const struct row_states *states, const char *name, wall_ms *ret)
{
    char again[NAME_BYTES];
    struct tm parts = {0};
    size_t common = strlen(PROVIDER_KIND_NAMES[states->provider]) + 1;
    if (strlen(name) <= common || strptime(name + common, "%Y-%m-%dT%H", &parts) == NULL)
        return false;
    *ret = (wall_ms) timegm(&parts) * 1000;
    return strcmp(name, name_of(states, *ret, again)) == 0;
}

/* No more than the hours that have files. */
static bool narrow(const struct row_states *states, wall_ms *from, wall_ms *to)
{
    char path[PATH_MAX];
    wall_ms first = INT64_MAX, last = INT64_MIN, hour;
    DIR *entries = opendir(path_in(states, "", path));
    if (entries == NULL && errno != ENOENT)
        return false;
    for (const struct dirent *entry = NULL; entries != NULL && (entry = readdir(entries)) != NULL;) {
        if (!read_name(states, entry->d_name, &hour))
            continue;
        first = hour < first ? hour : first;
        last = hour > last ? hour : last;
    }
    if (entries != NULL)
        closedir(entries);
    *from = *from > first ? *from : first;
    *to = *to <= last ? *to : last == INT64_MIN ? last : last + 1;
    return true;
}

bool row_states_recall(struct row_states *states, wall_ms from, wall_ms to)
{
    bool is_short = to - HOUR_MS <= from; /* the other way round, all of time would overflow */
    bool good = is_short || narrow(states, &from, &to);
    for (wall_ms hour = hour_of(from); hour < to && good; hour += HOUR_MS)
        good = is_recalled(states, hour) || recall_hour(states, hour);
    return good;
}

/* ---- expire ---- */

void row_states_expire(struct row_states *states, wall_ms before)
{
    char path[PATH_MAX];
    DIR *entries = opendir(path_in(states, "", path));
    if (entries == NULL)
        return;
    wall_ms hour;
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        if (read_name(states, entry->d_name, &hour) && hour < hour_of(before))
            (void) unlinkat(dirfd(entries), entry->d_name, 0);
    }
    closedir(entries);
}
