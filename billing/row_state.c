/* The rows in a table by their ids, and the file they are written to. */
#include "billing/row_state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/panic.h"
#include "billing/row_state_private.h"

const char *const ROW_STATE_NAMES[ROW_STATE_COUNT] = {"pending", "sent", "acked", "duplicate", "rejected", "held"};

enum { PACK_LINES = 4096 }; /* of a long file: what is read needs not more memory than what is kept */

bool row_state_may_move(enum row_state from, enum row_state to)
{
    static const unsigned MOVES[ROW_STATE_COUNT] = {
        [ROW_PENDING] = 1u << ROW_SENT | 1u << ROW_HELD,
        [ROW_SENT] = 1u << ROW_SENT | 1u << ROW_PENDING | 1u << ROW_ACKED | 1u << ROW_DUPLICATE | 1u << ROW_REJECTED |
                     1u << ROW_HELD,
        [ROW_REJECTED] = 1u << ROW_PENDING | 1u << ROW_ACKED | 1u << ROW_HELD,
        [ROW_HELD] = 1u << ROW_PENDING | 1u << ROW_ACKED,
    };
    return (MOVES[from] >> to & 1) != 0;
}

bool row_state_is_due(enum row_state state)
{
    return state == ROW_PENDING || state == ROW_SENT;
}

bool row_state_is_delivered(enum row_state state)
{
    return state == ROW_ACKED || state == ROW_DUPLICATE;
}

bool row_entry_is_by_hand(const struct row_entry *entry)
{
    return entry->state == ROW_ACKED && entry->first_sent == 0;
}

/* ---- the file ---- */

/* One line more. What a failing disk took of it is cut off again. */
static bool append_line(struct row_states *states, const char *line, size_t length)
{
    ENSURE(length > 0 && states->fd >= 0);
    size_t written = 0;
    while (written < length) {
        ssize_t count = pwrite(states->fd, line + written, length - written, states->length + (off_t) written);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0) {
            int error = count == 0 ? ENOSPC : errno;
            (void) !ftruncate(states->fd, states->length);
            errno = error;
            return false;
        }
        written += (size_t) count;
    }
    states->length += (off_t) length;
    states->lines++;
    return true;
}

static bool append(struct row_states *states, const struct row_entry *entry)
{
    char line[ROW_LINE_BYTES_MAX];
    return append_line(states, line, row_line_make(entry, line));
}

static bool take_entry(struct row_states *states, struct row_entry *entry)
{
    struct row_mark *mark = row_table_mark(states, entry->row.name.epoch.writer);
    struct row_kept *kept = row_table_find(states, entry->row.id);
    entry->row.name.provider = states->provider;
    if (mark == NULL)
        return false;
    row_mark_raise(mark, entry->row.name.epoch.epoch);
    if (kept == NULL)
        return row_table_make_room(states) && row_table_add(states, entry, false);
    if (!row_table_make_whole(states, kept))
        return false;
    row_table_change(states, kept, entry);
    return true;
}

/* Take a line over. False with EBADMSG when it is damaged. */
static bool take_line(struct row_states *states, struct text line)
{
    union row_line_content content;
    struct row_mark *mark;
    states->lines++;
    if (states->fd >= 0 && states->lines % PACK_LINES == 0)
        row_table_pack(states);
    switch (row_line_read(line, &content)) {
    case ROW_LINE_ENTRY:
        return take_entry(states, &content.entry);
    case ROW_LINE_MARK:
        mark = row_table_mark(states, content.mark.writer);
        if (mark != NULL)
            row_mark_raise(mark, content.mark.made);
        return mark != NULL;
    case ROW_LINE_GONE:
        states->gone = content.gone;
        states->last_delivered = content.gone.last_delivered;
        return true;
    case ROW_LINE_ALIVE:
        states->alive = content.alive;
        return true;
    case ROW_LINE_DAMAGED:
        break;
    }
    errno = EBADMSG;
    return false;
}

bool row_lines_read(struct row_states *states, FILE *file, row_line_take *take, off_t *ret_length)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    bool good = true, is_torn = false;
    *ret_length = 0;
    while (good && (length = getline(&line, &capacity, file)) > 0) {
        struct text text = {line, (size_t) length - 1};
        good = !is_torn;
        if (!good) {
            errno = EBADMSG;
        } else if (line[length - 1] == '\n' && take(states, text)) {
            *ret_length += length;
        } else {
            is_torn = line[length - 1] != '\n' || errno == EBADMSG;
            good = is_torn;
        }
    }
    free(line);
    return good && !ferror(file);
}

static struct row_states *create(const char *directory, enum provider_kind provider)
{
    struct row_states *states = calloc(1, sizeof *states);
    if (states == NULL)
        return NULL;
    states->provider = provider;
    states->fd = -1;
    states->directory = strdup(directory);
    states->look = calloc(1, sizeof *states->look);
    if (states->directory == NULL || states->look == NULL || !row_table_make_room(states))
        row_states_close(&states);
    return states;
}

/* @fd is closed. False with errno. */
static bool read_states(struct row_states *states, int fd)
{
    FILE *file = fdopen(fd, "r");
    if (file == NULL)
        return file_close_after(fd, false);
    bool good = row_lines_read(states, file, take_line, &states->length);
    int error = errno;
    fclose(file);
    errno = error;
    return good;
}

static const char *path_of(const char *directory, enum provider_kind provider, char to[PATH_MAX])
{
    struct builder path;
    builder_init(&path, to, PATH_MAX);
    builder_format(&path, "%s/%s.states", directory, PROVIDER_KIND_NAMES[provider]);
    return builder_string(&path);
}

static struct row_states *close_unless(struct row_states *states, bool good)
{
    int error = errno;
    if (!good)
        row_states_close(&states);
    errno = error;
    return states;
}

struct row_states *row_states_read(const char *directory, enum provider_kind provider)
{
    char path[PATH_MAX];
    struct row_states *states = create(directory, provider);
    if (states == NULL)
        return NULL;
    int fd = open(path_of(directory, provider, path), O_RDONLY | O_CLOEXEC);
    return close_unless(states, fd < 0 ? errno == ENOENT : read_states(states, fd));
}

bool row_states_sync_directory(struct row_states *states)
{
    states->must_sync_directory = !file_sync_directory(states->directory);
    return !states->must_sync_directory;
}

/* What an earlier process wrote is on the disk as well. */
static bool begin_writing(struct row_states *states)
{
    struct stat status;
    if (fstat(states->fd, &status) != 0)
        return false;
    bool is_torn = status.st_size != states->length;
    return (!is_torn || ftruncate(states->fd, states->length) == 0) && fdatasync(states->fd) == 0 &&
           row_states_sync_directory(states);
}

struct row_states *row_states_open(const char *directory, enum provider_kind provider)
{
    char path[PATH_MAX];
    struct row_states *states = create(directory, provider);
    if (states == NULL)
        return NULL;
    states->fd = open(path_of(directory, provider, path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int fd = states->fd < 0 ? -1 : fcntl(states->fd, F_DUPFD_CLOEXEC, 0);
    bool good = fd >= 0 && read_states(states, fd) && begin_writing(states);
    row_table_pack(states);
    return close_unless(states, good);
}

void row_states_close(struct row_states **states)
{
    struct row_states *dying = *states;
    *states = NULL;
    if (dying == NULL)
        return;
    if (dying->fd >= 0)
        close(dying->fd);
    row_table_finish(dying);
    free(dying->look);
    free(dying->recalled);
    free(dying->directory);
    free(dying);
}

/* ---- moves ---- */

/* One row more, in the file and in memory or in neither. */
static bool add(struct row_states *states, struct row_entry *entry, const char *reason)
{
    ENSURE(entry->row.name.provider == states->provider);
    if (row_table_find(states, entry->row.id) != NULL)
        return true;
    text_copy(entry->reason, sizeof entry->reason, text_of(reason));
    struct row_mark *mark = row_table_mark(states, entry->row.name.epoch.writer);
    off_t length = states->length;
    if (mark == NULL || !row_table_make_room(states) || !append(states, entry))
        return false;
    if (!row_table_add(states, entry, false)) {
        (void) !ftruncate(states->fd, length);
        states->length = length;
        states->lines--;
        errno = ENOMEM;
        return false;
    }
    row_mark_raise(mark, entry->row.name.epoch.epoch);
    return true;
}

/* It may have arrived @since. */
static void doubt(struct row_entry *entry, wall_ms since)
{
    if (entry->state == ROW_PENDING)
        entry->state = ROW_SENT;
    if (entry->first_sent == 0)
        entry->first_sent = since;
}

bool row_states_add(struct row_states *states, const struct row *row, enum row_state state, wall_ms when,
                    const char *reason)
{
    ENSURE(state == ROW_PENDING || state == ROW_HELD);
    struct row_entry entry = {.row = *row, .state = state, .when = when};
    return add(states, &entry, reason);
}

bool row_states_add_doubtful(struct row_states *states, const struct row *row, enum row_state state, wall_ms when,
                             const char *reason)
{
    ENSURE(state == ROW_PENDING || state == ROW_SENT || state == ROW_HELD);
    struct row_entry entry = {.row = *row, .state = state, .when = when};
    doubt(&entry, row->ended);
    return add(states, &entry, reason);
}

/* Take over what became of a row. */
static bool put(struct row_states *states, const struct row_entry *entry)
{
    struct row_kept *kept = row_table_find(states, entry->row.id);
    if (!row_table_make_whole(states, kept) || !append(states, entry))
        return false;
    row_table_change(states, kept, entry);
    states->moves++;
    return true;
}

/* No try of it has arrived. */
static void clear_tries(struct row_entry *entry)
{
    entry->first_sent = 0;
    memset(entry->customer, 0, sizeof entry->customer);
}

/* The row as it is after the move. */
static struct row_entry moved(const struct row_states *states, const char *id, enum row_state state, wall_ms when,
                              const char *reason)
{
    const struct row_entry *known = row_states_find(states, id);
    ENSURE(known != NULL && row_state_may_move(known->state, state));
    struct row_entry entry = *known;
    bool is_by_hand = state == ROW_ACKED && known->state != ROW_SENT;
    if (known->state == ROW_REJECTED && !is_by_hand)
        entry.revision++;
    if (known->state == ROW_REJECTED || (state == ROW_PENDING && (known->state == ROW_SENT || known->undecided)))
        clear_tries(&entry);
    if (is_by_hand)
        entry.first_sent = 0;
    entry.undecided = false;
    if (state == ROW_SENT && entry.first_sent == 0)
        entry.first_sent = when;
    entry.state = state;
    entry.when = when;
    memset(entry.reason, 0, sizeof entry.reason);
    text_copy(entry.reason, sizeof entry.reason, text_of(reason));
    return entry;
}

bool row_states_move(struct row_states *states, const char *id, enum row_state state, wall_ms when, const char *reason)
{
    struct row_entry entry = moved(states, id, state, when, reason);
    if (entry.revision > ROW_REVISION_MAX) {
        errno = EOVERFLOW;
        return false;
    }
    return put(states, &entry);
}

bool row_states_mark_sent(struct row_states *states, const char *id, wall_ms when, const char *customer)
{
    struct row_entry entry = moved(states, id, ROW_SENT, when, "");
    if (entry.customer[0] == '\0')
        text_copy(entry.customer, sizeof entry.customer, text_of(customer));
    return put(states, &entry);
}

bool row_states_doubt(struct row_states *states, const char *id)
{
    const struct row_entry *known = row_states_find(states, id);
    ENSURE(known != NULL && (known->state == ROW_PENDING || known->state == ROW_HELD));
    struct row_entry entry = *known;
    doubt(&entry, entry.when);
    return put(states, &entry);
}

bool row_states_hold_undecided(struct row_states *states, const char *id, wall_ms when, const char *reason)
{
    struct row_entry entry = moved(states, id, ROW_HELD, when, reason);
    entry.undecided = true;
    return put(states, &entry);
}

bool row_states_give_meter(struct row_states *states, const char *id, wall_ms when, const char *event_name)
{
    const struct row_entry *known = row_states_find(states, id);
    ENSURE(known != NULL && known->state == ROW_HELD && !known->row.metered);
    struct row_entry entry = *known;
    entry.when = when;
    entry.row.metered = true;
    text_copy(entry.row.event_name, sizeof entry.row.event_name, text_of(event_name));
    return put(states, &entry);
}

bool row_states_sync(struct row_states *states)
{
    return fdatasync(states->fd) == 0 && (!states->must_sync_directory || row_states_sync_directory(states));
}

/* ---- how far writers are made, and when that was known ---- */

uint64_t row_states_made(const struct row_states *states, const char *writer)
{
    const struct row_mark *mark = row_table_find_mark(states, writer);
    return mark == NULL ? 0 : mark->made;
}

void row_states_note_made(struct row_states *states, const struct ledger_name *epoch)
{
    struct row_mark *mark = row_table_mark(states, epoch->writer);
    if (mark != NULL) /* else it is looked at again after the next start */
        row_mark_raise(mark, epoch->epoch);
}

bool row_states_make_none(struct row_states *states, const struct ledger_name *epoch)
{
    char line[ROW_LINE_BYTES_MAX];
    struct row_mark mark = {.made = epoch->epoch};
    memcpy(mark.writer, epoch->writer, sizeof mark.writer);
    if (!append_line(states, line, row_line_make_mark(&mark, line)))
        return false;
    row_states_note_made(states, epoch);
    return true;
}

wall_ms row_states_alive(const struct row_states *states)
{
    return states->alive;
}

bool row_states_live(struct row_states *states, wall_ms now)
{
    char line[ROW_LINE_BYTES_MAX];
    if (!append_line(states, line, row_line_make_alive(now, line)))
        return false;
    states->alive = now;
    return true;
}

/* ---- questions ---- */

static const struct row_entry *look_at(const struct row_states *states, const struct row_kept *kept)
{
    if (kept->entry != NULL)
        return kept->entry;
    struct row_look *look = states->look;
    struct row_entry *ret = &look->entries[look->next++ % ROW_LOOKS_MAX];
    row_unpack(kept->packed, states->provider, ret);
    return ret;
}

const struct row_entry *row_states_find(const struct row_states *states, const char *id)
{
    const struct row_kept *kept = row_table_find(states, id);
    return kept == NULL ? NULL : look_at(states, kept);
}

uint64_t row_states_moves(const struct row_states *states)
{
    return states->moves;
}

uint64_t row_states_shifts(const struct row_states *states)
{
    return states->shifts;
}

size_t row_states_count(const struct row_states *states)
{
    return states->count;
}

const struct row_entry *row_states_at(const struct row_states *states, size_t place)
{
    ENSURE(place < states->count);
    return look_at(states, &states->kept[place]);
}

size_t row_states_next_undelivered(const struct row_states *states, size_t after)
{
    uint32_t number = after == ROW_STATES_BEGIN ? states->first : states->kept[after].next;
    return number == 0 ? ROW_STATES_END : number - 1;
}

uint64_t row_states_count_of(const struct row_states *states, enum row_state state)
{
    uint64_t gone = state == ROW_ACKED ? states->gone.acked : state == ROW_DUPLICATE ? states->gone.duplicate : 0;
    return states->counts[state] + gone;
}

uint64_t row_states_count_due(const struct row_states *states)
{
    return row_states_count_of(states, ROW_PENDING) + row_states_count_of(states, ROW_SENT);
}

wall_ms row_states_last_delivered(const struct row_states *states)
{
    return states->last_delivered;
}
