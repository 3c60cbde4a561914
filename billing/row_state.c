/* States as lines of JSON, each with its CRC behind a blank. */
#include "billing/row_state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/panic.h"

const char *const ROW_STATE_NAMES[ROW_STATE_COUNT] = {"pending", "sent", "acked", "duplicate", "rejected", "held"};

enum { LINE_BYTES_MAX = 8192, CRC_CHARACTERS = 8, SLOTS_FIRST = 64 };

struct row_states {
    enum provider_kind provider;
    int fd;       /* -1 = to look at only */
    off_t length; /* of the whole lines in the file */
    struct row_entry *entries;
    size_t count;
    size_t capacity;
    uint32_t *slots; /* by id: 1 + the entry's place; 0 = free. A power of two, at most half full */
    size_t slot_count;
    uint64_t moves;
};

bool row_state_may_move(enum row_state from, enum row_state to)
{
    static const unsigned MOVES[ROW_STATE_COUNT] = {
        [ROW_PENDING] = 1u << ROW_SENT | 1u << ROW_HELD,
        [ROW_SENT] = 1u << ROW_SENT | 1u << ROW_PENDING | 1u << ROW_ACKED | 1u << ROW_DUPLICATE | 1u << ROW_REJECTED |
                     1u << ROW_HELD,
        [ROW_REJECTED] = 1u << ROW_PENDING,
        [ROW_HELD] = 1u << ROW_PENDING | 1u << ROW_ACKED,
    };
    return (MOVES[from] >> to & 1) != 0;
}

/* ---- the table ---- */

static uint32_t *find_slot(const struct row_states *states, const char *id)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (const char *at = id; *at != '\0'; at++)
        hash = (hash ^ (uint8_t) *at) * 0x100000001b3;
    size_t mask = states->slot_count - 1, at = (size_t) (hash ^ hash >> 32) & mask;
    while (states->slots[at] != 0 && strcmp(states->entries[states->slots[at] - 1].row.id, id) != 0)
        at = (at + 1) & mask;
    return &states->slots[at];
}

/* Room for one more entry. */
static bool make_room(struct row_states *states)
{
    if (states->count == states->capacity) {
        size_t capacity = states->capacity == 0 ? SLOTS_FIRST : states->capacity * 2;
        struct row_entry *entries = realloc(states->entries, capacity * sizeof *entries);
        if (entries == NULL)
            return false;
        states->entries = entries;
        states->capacity = capacity;
    }
    if ((states->count + 1) * 2 <= states->slot_count)
        return true;
    size_t slot_count = states->slot_count == 0 ? SLOTS_FIRST : states->slot_count * 2;
    uint32_t *slots = calloc(slot_count, sizeof *slots);
    if (slots == NULL)
        return false;
    free(states->slots);
    states->slots = slots;
    states->slot_count = slot_count;
    for (size_t i = 0; i < states->count; i++)
        *find_slot(states, states->entries[i].row.id) = (uint32_t) i + 1;
    return true;
}

/* Take @entry over, as a new one or in place of the one there is. There is room. */
static void keep(struct row_states *states, const struct row_entry *entry)
{
    uint32_t *slot = find_slot(states, entry->row.id);
    if (*slot == 0)
        *slot = (uint32_t) ++states->count;
    states->entries[*slot - 1] = *entry;
}

/* ---- lines ---- */

static void add_if_any(struct builder *line, const char *name, const char *value)
{
    if (value[0] == '\0')
        return;
    builder_format(line, ",\"%s\":", name);
    builder_add_json(line, text_of(value));
}

/* The length, or 0 when it cannot be a line. */
static size_t make_line(const struct row_entry *entry, char to[LINE_BYTES_MAX])
{
    const struct row *row = &entry->row;
    struct builder line;
    builder_init(&line, to, LINE_BYTES_MAX);
    builder_format(&line, "{\"row\":\"%s\",\"state\":\"%s\",\"at\":%" PRId64 ",\"sent\":%" PRId64 ",\"revision\":%u,",
                   row->id, ROW_STATE_NAMES[entry->state], entry->when, entry->first_sent, entry->revision);
    builder_format(&line, "\"reason\":");
    builder_add_json_repaired(&line, text_of(entry->reason));
    builder_format(&line, ",\"writer\":\"%s\",\"epoch\":%" PRIu64 ",\"tenant\":", row->name.epoch.writer,
                   row->name.epoch.epoch);
    builder_add_json(&line, text_of(row->name.tenant));
    builder_format(&line, ",\"meter\":");
    builder_add_json(&line, text_of(row->name.meter));
    builder_format(&line, ",\"model\":");
    builder_add_json(&line, text_of(row->model));
    builder_format(
        &line, ",\"metered\":%s,\"measure\":\"%s\",\"quantity\":%" PRId64 ",\"began\":%" PRId64 ",\"ended\":%" PRId64,
        row->metered ? "true" : "false", MEASURE_NAMES[row->measure], row->quantity, row->began, row->ended);
    add_if_any(&line, "event", row->event_name);
    add_if_any(&line, "customer", entry->customer);
    builder_add_string(&line, entry->undecided ? ",\"undecided\":true}" : "}");
    uint32_t crc = crc32c(0, line.at, line.length);
    builder_format(&line, " %08" PRIx32 "\n", crc);
    return line.overflowed ? 0 : line.length;
}

/* The place of @name among @count names, or @count. */
static int place_of(const char *name, const char *const *names, int count)
{
    int place = 0;
    while (place < count && strcmp(name, names[place]) != 0)
        place++;
    return place;
}

static bool copy_name(char *to, size_t capacity, const char *from)
{
    return text_copy(to, capacity, text_of(from)) == strlen(from);
}

static bool fill_entry(json_t *object, struct row_entry *ret)
{
    const char *id, *state, *reason, *writer, *tenant, *meter, *model, *measure;
    json_int_t when, sent, revision, epoch, quantity, began, ended;
    int metered;
    if (json_unpack(object, "{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:I, s:s, s:s, s:s, s:b, s:s, s:I, s:I, s:I}", "row",
                    &id, "state", &state, "at", &when, "sent", &sent, "revision", &revision, "reason", &reason,
                    "writer", &writer, "epoch", &epoch, "tenant", &tenant, "meter", &meter, "model", &model, "metered",
                    &metered, "measure", &measure, "quantity", &quantity, "began", &began, "ended", &ended) != 0)
        return false;
    int state_place = place_of(state, ROW_STATE_NAMES, ROW_STATE_COUNT);
    int measure_place = place_of(measure, MEASURE_NAMES, MEASURE_COUNT);
    text_copy(ret->reason, sizeof ret->reason, text_of(reason)); /* what was repaired may be longer now */
    ret->state = (enum row_state) state_place;
    ret->when = when;
    ret->first_sent = sent;
    ret->revision = (unsigned) revision;
    struct row *row = &ret->row;
    row->name.epoch.epoch = (uint64_t) epoch;
    row->metered = metered != 0;
    row->measure = (enum measure) measure_place;
    row->quantity = quantity;
    row->began = began;
    row->ended = ended;
    return state_place < ROW_STATE_COUNT && measure_place < MEASURE_COUNT && revision >= 0 &&
           revision <= ROW_REVISION_MAX && copy_name(row->id, sizeof row->id, id) &&
           copy_name(row->name.epoch.writer, sizeof row->name.epoch.writer, writer) &&
           copy_name(row->name.tenant, sizeof row->name.tenant, tenant) &&
           copy_name(row->name.meter, sizeof row->name.meter, meter) && copy_name(row->model, sizeof row->model, model);
}

/* What only some lines have. */
static bool fill_rest(json_t *object, struct row_entry *ret)
{
    const char *event_name = "", *customer = "";
    int undecided = 0;
    if (json_unpack(object, "{s?s, s?s, s?b}", "event", &event_name, "customer", &customer, "undecided", &undecided) !=
        0)
        return false;
    ret->undecided = undecided != 0;
    return copy_name(ret->row.event_name, sizeof ret->row.event_name, event_name) &&
           copy_name(ret->customer, sizeof ret->customer, customer);
}

/* @line is without its newline. */
static bool read_line(struct text line, struct row_entry *ret)
{
    char expected[CRC_CHARACTERS + 2];
    if (line.length <= CRC_CHARACTERS + 1)
        return false;
    struct text object_text = {line.at, line.length - CRC_CHARACTERS - 1};
    snprintf(expected, sizeof expected, " %08" PRIx32, crc32c(0, object_text.at, object_text.length));
    struct text crc = {line.at + object_text.length, CRC_CHARACTERS + 1};
    if (!text_equal(crc, text_of(expected)))
        return false;
    json_t *object = json_loadb(object_text.at, object_text.length, JSON_REJECT_DUPLICATES, NULL);
    bool good = object != NULL && fill_entry(object, ret) && fill_rest(object, ret);
    json_decref(object);
    return good;
}

/* ---- files ---- */

/* One line more. What a failing disk took of it is cut off again. */
static bool append(struct row_states *states, const struct row_entry *entry)
{
    char line[LINE_BYTES_MAX];
    size_t length = make_line(entry, line);
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
    return true;
}

/* Take a line over. False when it is damaged. */
static bool take_line(struct row_states *states, struct text line)
{
    struct row_entry entry = {.row.name.provider = states->provider};
    if (!read_line(line, &entry)) {
        errno = EBADMSG;
        return false;
    }
    if (!make_room(states))
        return false;
    keep(states, &entry);
    return true;
}

/* A line that is torn can only be the last. */
static bool read_lines(struct row_states *states, FILE *file)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    bool good = true, is_torn = false;
    while (good && (length = getline(&line, &capacity, file)) > 0) {
        bool is_whole = line[length - 1] == '\n';
        struct text text = {line, (size_t) length - (is_whole ? 1 : 0)};
        good = !is_torn;
        if (good && !take_line(states, text)) {
            is_torn = errno == EBADMSG;
            good = is_torn;
        }
    }
    if (!good && is_torn)
        errno = EBADMSG;
    free(line);
    return good && !ferror(file);
}

struct row_states *row_states_read(const char *directory, enum provider_kind provider)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s.states", directory, PROVIDER_KIND_NAMES[provider]);
    struct row_states *states = calloc(1, sizeof *states);
    if (states == NULL)
        return NULL;
    states->provider = provider;
    states->fd = -1;
    FILE *file = make_room(states) ? fopen(path, "re") : NULL;
    bool good = file != NULL ? read_lines(states, file) : states->slots != NULL && errno == ENOENT;
    int error = errno;
    if (file != NULL)
        fclose(file);
    if (!good)
        row_states_close(&states);
    errno = error;
    return states;
}

static bool write_anew(struct row_states *states, const char *temporary, const char *path, int directory)
{
    states->fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool good = states->fd >= 0;
    for (size_t i = 0; i < states->count && good; i++)
        good = append(states, &states->entries[i]);
    return good && fsync(states->fd) == 0 && rename(temporary, path) == 0 && fsync(directory) == 0;
}

struct row_states *row_states_open(const char *directory, enum provider_kind provider)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    const char *name = PROVIDER_KIND_NAMES[provider];
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct row_states *states = fd < 0 ? NULL : row_states_read(directory, provider);
    bool fits = snprintf(path, sizeof path, "%s/%s.states", directory, name) < (int) sizeof path &&
                snprintf(temporary, sizeof temporary, "%s/%s.states.tmp", directory, name) < (int) sizeof temporary;
    if (!fits)
        errno = ENAMETOOLONG;
    bool good = states != NULL && fits && write_anew(states, temporary, path, fd);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (!good)
        row_states_close(&states);
    errno = error;
    return states;
}

void row_states_close(struct row_states **states)
{
    struct row_states *dying = *states;
    *states = NULL;
    if (dying == NULL)
        return;
    if (dying->fd >= 0)
        close(dying->fd);
    free(dying->entries);
    free(dying->slots);
    free(dying);
}

/* ---- moves ---- */

bool row_states_add(struct row_states *states, const struct row *row, enum row_state state, wall_ms when,
                    const char *reason)
{
    ENSURE(state == ROW_PENDING || state == ROW_HELD);
    ENSURE(row->name.provider == states->provider);
    if (row_states_find(states, row->id) != NULL)
        return true;
    struct row_entry entry = {.row = *row, .state = state, .when = when};
    text_copy(entry.reason, sizeof entry.reason, text_of(reason));
    if (!make_room(states) || !append(states, &entry))
        return false;
    keep(states, &entry);
    return true;
}

/* Take over what became of a row. */
static bool put(struct row_states *states, const struct row_entry *entry)
{
    if (!append(states, entry))
        return false;
    keep(states, entry);
    states->moves++;
    return true;
}

/* No try of it has arrived. */
static void clear_tries(struct row_entry *entry)
{
    entry->first_sent = 0;
    entry->undecided = false;
    memset(entry->customer, 0, sizeof entry->customer);
}

/* The row as it is after the move. */
static struct row_entry moved(const struct row_states *states, const char *id, enum row_state state, wall_ms when,
                              const char *reason)
{
    const struct row_entry *known = row_states_find(states, id);
    ENSURE(known != NULL && row_state_may_move(known->state, state));
    struct row_entry entry = *known;
    if (known->state == ROW_REJECTED)
        entry.revision++;
    if (known->state == ROW_REJECTED || (known->state == ROW_SENT && state == ROW_PENDING) || known->undecided)
        clear_tries(&entry);
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
    return fdatasync(states->fd) == 0;
}

const struct row_entry *row_states_find(const struct row_states *states, const char *id)
{
    uint32_t number = *find_slot(states, id);
    return number == 0 ? NULL : &states->entries[number - 1];
}

uint64_t row_states_moves(const struct row_states *states)
{
    return states->moves;
}

size_t row_states_count(const struct row_states *states)
{
    return states->count;
}

const struct row_entry *row_states_at(const struct row_states *states, size_t place)
{
    ENSURE(place < states->count);
    return &states->entries[place];
}
