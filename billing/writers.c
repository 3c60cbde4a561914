/* A sorted table of writers, each with its harvest; they take turns. */
#include "billing/writers.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "billing/back_off.h"
#include "billing/recover.h"

enum { SLICE_MS = 10, TROUBLE_BYTES = 256 };

struct writer {
    struct harvest *harvest;
    bool is_dead; /* nobody writes to it any more */
    bool was_seen;
    struct back_off back_off;
    char trouble[TROUBLE_BYTES];
};

struct writers {
    char journal_directory[PATH_MAX], ledger_directory[PATH_MAX];
    struct store *store;
    harvest_sealed *sealed;
    void *owner;
    const atomic_bool *stop;
    struct writer *entries; /* STORE_WRITERS_MAX, sorted by id */
    size_t count;
    size_t turn; /* whose turn is first next time */
    bool is_full;
    struct writers_recovered recovered;
    char trouble[TROUBLE_BYTES];
};

/* ---- which there are ---- */

/* Where @id stands, or would stand. */
static size_t place_of(const struct writers *writers, const char *id, bool *ret_found)
{
    size_t low = 0, high = writers->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(harvest_writer_id(writers->entries[middle].harvest), id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_found = low < writers->count && strcmp(harvest_writer_id(writers->entries[low].harvest), id) == 0;
    return low;
}

static void meet(struct writers *writers, const char *name, const char *id, bool is_dead)
{
    char path[PATH_MAX];
    bool is_known = false;
    size_t place = place_of(writers, id, &is_known);
    if (is_known) {
        writers->entries[place].was_seen = true;
        return;
    }
    int length = snprintf(path, sizeof path, "%s/%s", writers->journal_directory, name);
    bool fits = length > 0 && (size_t) length < sizeof path && writers->count < STORE_WRITERS_MAX;
    writers->is_full |= !fits;
    if (fits && is_dead && rmdir(path) == 0)
        return; /* it ended before its first segment, or after its last */
    struct harvest *harvest = fits ? harvest_create(path, id, writers->ledger_directory) : NULL;
    if (harvest == NULL)
        return; /* the next look tries again */
    struct writer *at = writers->entries + place;
    memmove(at + 1, at, (writers->count - place) * sizeof *at);
    *at = (struct writer){.harvest = harvest, .is_dead = is_dead, .was_seen = true};
    writers->count++;
}

/* Those whose directories somebody removed are forgotten. */
static void drop_unseen(struct writers *writers)
{
    size_t kept = 0;
    for (size_t i = 0; i < writers->count; i++) {
        if (writers->entries[i].was_seen)
            writers->entries[kept++] = writers->entries[i];
        else
            harvest_destroy(&writers->entries[i].harvest);
    }
    writers->count = kept;
}

static bool look(struct writers *writers, bool is_dead)
{
    DIR *listing = opendir(writers->journal_directory);
    if (listing == NULL)
        return false;
    writers->is_full = false;
    for (size_t i = 0; i < writers->count; i++)
        writers->entries[i].was_seen = false;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        const char *id = journal_writer_in(entry->d_name);
        if (id != NULL)
            meet(writers, entry->d_name, id, is_dead);
    }
    closedir(listing);
    drop_unseen(writers);
    return true;
}

void writers_look(struct writers *writers)
{
    (void) look(writers, false); /* a later one tells more */
}

struct writers *writers_create(const struct writers_options *options)
{
    struct writers *writers = calloc(1, sizeof *writers);
    if (writers == NULL)
        return NULL;
    text_copy(writers->journal_directory, sizeof writers->journal_directory, text_of(options->journal_directory));
    text_copy(writers->ledger_directory, sizeof writers->ledger_directory, text_of(options->ledger_directory));
    writers->store = options->store;
    writers->sealed = options->sealed;
    writers->owner = options->owner;
    writers->stop = options->stop;
    writers->entries = calloc(STORE_WRITERS_MAX, sizeof *writers->entries);
    if (writers->entries == NULL || !look(writers, true)) {
        int error = errno;
        writers_destroy(&writers);
        errno = error;
    }
    return writers;
}

void writers_destroy(struct writers **writers_pointer)
{
    struct writers *writers = *writers_pointer;
    *writers_pointer = NULL;
    if (writers == NULL)
        return;
    for (size_t i = 0; i < writers->count; i++)
        harvest_destroy(&writers->entries[i].harvest);
    free(writers->entries);
    free(writers);
}

/* ---- turns ---- */

static void put_off(struct writer *writer, const char *trouble)
{
    struct log_line line;
    back_off_failed(&writer->back_off, clock_mono_ms());
    if (strcmp(writer->trouble, trouble) == 0)
        return; /* said already */
    text_copy(writer->trouble, sizeof writer->trouble, text_of(trouble));
    log_begin(&line, LOG_ERROR, "journal");
    log_add_string(&line, "writer", harvest_writer_id(writer->harvest));
    log_add_string(&line, "trouble", trouble);
    log_end(&line);
}

static void is_well(struct writer *writer)
{
    back_off_worked(&writer->back_off);
    writer->trouble[0] = '\0';
}

static void tell_recovery(const struct writer *writer, const struct recovery *found)
{
    struct log_line line;
    log_begin(&line, found->torn_bytes > 0 ? LOG_WARNING : LOG_INFO, "journal_recovered");
    log_add_string(&line, "writer", harvest_writer_id(writer->harvest));
    log_add_int(&line, "records", (int64_t) found->records);
    log_add_int(&line, "crashed_requests", (int64_t) found->crashed_requests);
    log_add_int(&line, "torn_bytes", (int64_t) found->torn_bytes);
    log_end(&line);
}

/* Everything that is there was read, and no FINISH was among it. */
static void recover(struct writers *writers, struct writer *writer, bool bill_crash)
{
    struct recovery found = {0};
    char trouble[TROUBLE_BYTES];
    if (!journal_recover_unless(writers->stop, harvest_directory(writer->harvest), bill_crash, &found)) {
        if (errno == ECANCELED)
            return;
        const char *why = errno == EBADMSG ? "it is damaged" : strerror(errno);
        snprintf(trouble, sizeof trouble, "the journal of writer %s cannot be recovered: %s",
                 harvest_writer_id(writer->harvest), why);
        put_off(writer, trouble);
        return;
    }
    harvest_rest(writer->harvest);
    writers->recovered.writers++;
    writers->recovered.crashed_requests += found.crashed_requests;
    tell_recovery(writer, &found);
}

/* True: it has more. */
static bool serve(struct writers *writers, struct writer *writer, bool bill_crash, mono_ms until)
{
    mono_ms now = clock_mono_ms();
    if (!back_off_is_over(&writer->back_off, now) || harvest_is_finished(writer->harvest))
        return false;
    mono_ms slice = now + SLICE_MS < until ? now + SLICE_MS : until;
    enum harvest_result result = harvest_turn(writer->harvest, slice, writers->sealed, writers->owner);
    if (result == HARVEST_FAILED) {
        put_off(writer, harvest_trouble(writer->harvest));
        return false;
    }
    bool is_unfinished = writer->is_dead && result == HARVEST_IDLE && !harvest_is_finished(writer->harvest);
    if (!is_unfinished) {
        is_well(writer);
        if (writer->is_dead)
            harvest_rest(writer->harvest); /* there may be many: only one is in memory */
        return result == HARVEST_MORE;
    }
    if (atomic_load(writers->stop))
        return false;
    recover(writers, writer, bill_crash);
    return writer->trouble[0] == '\0';
}

/* A trouble lasts until its writer is served again. */
static void gather_trouble(struct writers *writers)
{
    text_copy(writers->trouble, sizeof writers->trouble,
              writers->is_full ? TEXT("a journal is not read: there are too many") : TEXT(""));
    for (size_t i = 0; i < writers->count && writers->trouble[0] == '\0'; i++)
        memcpy(writers->trouble, writers->entries[i].trouble, sizeof writers->trouble);
}

bool writers_turn(struct writers *writers, bool bill_crash, mono_ms until)
{
    bool has_more = writers->count > 0;
    while (has_more && clock_mono_ms() < until) {
        has_more = false;
        for (size_t i = 0; i < writers->count && clock_mono_ms() < until; i++) {
            writers->turn = (writers->turn + 1) % writers->count;
            has_more |= serve(writers, &writers->entries[writers->turn], bill_crash, until);
        }
    }
    gather_trouble(writers);
    return has_more;
}

/* ---- questions ---- */

bool writers_is_shipped(const struct writers *writers, const struct ledger_name *epoch)
{
    bool is_known = false;
    uint64_t sequence = 0;
    size_t place = place_of(writers, epoch->writer, &is_known);
    if (!is_known)
        return true;
    return harvest_seal_of(writers->entries[place].harvest, epoch->epoch, &sequence) &&
           store_shipped(writers->store, epoch->writer) >= sequence;
}

bool writers_may_hold(const struct writers *writers, const struct ledger_name *epoch)
{
    bool is_known = false;
    size_t place = place_of(writers, epoch->writer, &is_known);
    return is_known && harvest_may_hold(writers->entries[place].harvest, epoch->epoch);
}

wall_ms writers_oldest(const struct writers *writers)
{
    wall_ms oldest = 0;
    for (size_t i = 0; i < writers->count; i++) {
        wall_ms when = harvest_oldest(writers->entries[i].harvest);
        if (when != 0 && (oldest == 0 || when < oldest))
            oldest = when;
    }
    return oldest;
}

const char *writers_trouble(const struct writers *writers)
{
    return writers->trouble;
}

struct writers_recovered writers_recovered(const struct writers *writers)
{
    return writers->recovered;
}

size_t writers_count(const struct writers *writers)
{
    return writers->count;
}

struct harvest *writers_at(const struct writers *writers, size_t place)
{
    return writers->entries[place].harvest;
}

size_t writers_find(const struct writers *writers, const char *writer_id)
{
    bool is_known = false;
    size_t place = place_of(writers, writer_id, &is_known);
    return is_known ? place : writers->count;
}

/* Segments that were allocated and not begun. */
static void remove_unbegun(const char *directory)
{
    DIR *listing = opendir(directory);
    if (listing == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        struct text name = text_of(entry->d_name);
        if (name.length == 13 && text_equal(text_of(name.at + 8), TEXT(".next")))
            (void) unlinkat(dirfd(listing), name.at, 0);
    }
    closedir(listing);
}

bool writers_remove(struct writers *writers, size_t place)
{
    struct writer *at = writers->entries + place;
    const char *directory = harvest_directory(at->harvest);
    remove_unbegun(directory);
    if (rmdir(directory) != 0 && errno != ENOENT)
        return false;
    harvest_destroy(&at->harvest);
    writers->count--;
    memmove(at, at + 1, (writers->count - place) * sizeof *at);
    return true;
}
