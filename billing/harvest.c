/* A reader, the cells of the open epoch, and a table of the segments. */
#include "billing/harvest.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uthash.h>

#include "base/file.h"
#include "billing/recover.h"

enum { RECORDS_PER_LOOK = 256, OPEN_REQUESTS_MAX = 2 * JOURNAL_OPEN_MAX };

/* A request whose CLOSE was not read. */
struct open_request {
    UT_hash_handle hh;
    uint32_t segment;
    unsigned id_length;
    char id[RECORD_ID_BYTES_MAX];
};

struct seal {
    uint64_t epoch, sequence;
};

struct harvest {
    char directory[PATH_MAX], ledger_directory[PATH_MAX];
    char writer_id[WRITER_ID_CHARACTERS + 1];
    struct journal_reader *reader; /* NULL: opened at the next turn, at the position */
    struct journal_position position;
    struct cells *cells; /* of the open epoch */
    wall_ms oldest;      /* its first CLOSE; 0 = none */
    wall_ms last_when;
    bool is_behind; /* there is more than was read */
    bool is_finished;
    bool must_start_over;    /* with fresh cells */
    bool was_idle;           /* at least once: the first epoch there is would have been seen */
    struct ledger_head head; /* of the epoch whose SEAL was read, */
    uint64_t head_sequence;  /* and the SEAL's sequence; 0 = it is in the ledger */
    uint32_t synced_segment; /* what stands before it is on the disk; 0 = nothing is for sure */
    struct seal *seals;      /* ascending */
    size_t seal_count, seal_capacity;
    struct harvest_segment *segments; /* ascending; the last is being read */
    size_t segment_count, segment_capacity;
    struct open_request *open;
    char trouble[HARVEST_TROUBLE_BYTES];
};

struct harvest *harvest_create(const char *writer_directory, const char *writer_id, const char *ledger_directory)
{
    struct harvest *harvest = calloc(1, sizeof *harvest);
    struct cells *cells = cells_create();
    if (harvest == NULL || cells == NULL) {
        cells_destroy(&cells);
        free(harvest);
        return NULL;
    }
    harvest->cells = cells;
    text_copy(harvest->directory, sizeof harvest->directory, text_of(writer_directory));
    text_copy(harvest->ledger_directory, sizeof harvest->ledger_directory, text_of(ledger_directory));
    text_copy(harvest->writer_id, sizeof harvest->writer_id, text_of(writer_id));
    return harvest;
}

void harvest_rest(struct harvest *harvest)
{
    if (harvest->reader != NULL)
        journal_reader_destroy(&harvest->reader);
}

static void forget_request(struct harvest *harvest, struct open_request *request)
{
    HASH_DEL(harvest->open, request);
    free(request);
}

void harvest_destroy(struct harvest **harvest_pointer)
{
    struct harvest *harvest = *harvest_pointer;
    struct open_request *request, *next;
    *harvest_pointer = NULL;
    if (harvest == NULL)
        return;
    harvest_rest(harvest);
    HASH_ITER(hh, harvest->open, request, next)
    {
        forget_request(harvest, request);
    }
    cells_destroy(&harvest->cells);
    free(harvest->seals);
    free(harvest->segments);
    free(harvest);
}

static enum harvest_result fail(struct harvest *harvest, const char *what, const char *why)
{
    snprintf(harvest->trouble, sizeof harvest->trouble, "%s of writer %s: %s", what, harvest->writer_id, why);
    return HARVEST_FAILED;
}

/* A record was read and could not be kept: the sums of its epoch are of no use. What is in the ledger stays as it is.
 */
static void start_over(struct harvest *harvest)
{
    struct open_request *request, *next;
    harvest_rest(harvest);
    HASH_ITER(hh, harvest->open, request, next)
    {
        forget_request(harvest, request);
    }
    harvest->position = (struct journal_position){0};
    harvest->seal_count = harvest->segment_count = 0;
    harvest->oldest = 0;
    harvest->is_finished = harvest->was_idle = false;
    harvest->must_start_over = true;
}

/* ---- segments ---- */

/* Doubled when @count entries of @size fill it. */
static bool make_room(void **entries, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return true;
    size_t more = *capacity == 0 ? 16 : *capacity * 2;
    void *grown = realloc(*entries, more * size);
    if (grown == NULL)
        return false;
    *entries = grown;
    *capacity = more;
    return true;
}

static struct harvest_segment *last_segment(struct harvest *harvest)
{
    return &harvest->segments[harvest->segment_count - 1];
}

/* The reader went on to another one. False: no memory. */
static bool note_segment(struct harvest *harvest, uint32_t number)
{
    if (harvest->segment_count > 0 && last_segment(harvest)->number == number)
        return true;
    void *segments = harvest->segments;
    if (!make_room(&segments, &harvest->segment_capacity, harvest->segment_count, sizeof *harvest->segments))
        return false;
    harvest->segments = segments;
    harvest->segments[harvest->segment_count++] = (struct harvest_segment){.number = number};
    return true;
}

static void note_record(struct harvest *harvest, const struct record *record)
{
    struct harvest_segment *segment = last_segment(harvest);
    bool has_epoch = record->type == RECORD_CLOSE || record->type == RECORD_SEAL;
    segment->last_sequence = record->sequence;
    if (record->when > segment->last_when)
        segment->last_when = record->when;
    harvest->last_when = record->when;
    if (has_epoch && segment->first_epoch == 0)
        segment->first_epoch = record->epoch;
    if (has_epoch)
        segment->last_epoch = record->epoch;
}

/* One that cannot be remembered keeps its segment until FINISH. */
static void note_open(struct harvest *harvest, const struct record *record)
{
    struct harvest_segment *segment = last_segment(harvest);
    segment->open_count++;
    bool is_room = HASH_COUNT(harvest->open) < OPEN_REQUESTS_MAX && record->request_id.length <= RECORD_ID_BYTES_MAX;
    struct open_request *request = is_room ? calloc(1, sizeof *request) : NULL;
    if (request == NULL)
        return;
    request->segment = segment->number;
    request->id_length = (unsigned) record->request_id.length;
    if (request->id_length > 0)
        memcpy(request->id, record->request_id.at, request->id_length);
    HASH_ADD_KEYPTR(hh, harvest->open, request->id, request->id_length, request);
}

static void note_closed(struct harvest *harvest, struct text id)
{
    struct open_request *request = NULL;
    HASH_FIND(hh, harvest->open, id.at, (unsigned) id.length, request);
    if (request == NULL)
        return;
    for (size_t i = 0; i < harvest->segment_count; i++)
        harvest->segments[i].open_count -= harvest->segments[i].number == request->segment;
    forget_request(harvest, request);
}

bool harvest_oldest_segment(const struct harvest *harvest, struct harvest_segment *ret)
{
    if (harvest->segment_count == 0 || (harvest->segment_count == 1 && !harvest->is_finished))
        return false;
    *ret = harvest->segments[0];
    return true;
}

bool harvest_remove_segment(struct harvest *harvest)
{
    char memory[PATH_MAX];
    struct builder path;
    builder_init(&path, memory, sizeof memory);
    builder_format(&path, "%s/%08u.seg", harvest->directory, harvest->segments[0].number);
    if (unlink(builder_string(&path)) != 0 && errno != ENOENT)
        return false;
    harvest->segment_count--;
    memmove(harvest->segments, harvest->segments + 1, harvest->segment_count * sizeof *harvest->segments);
    return true;
}

/* ---- epochs ---- */

static enum harvest_result add_close(struct harvest *harvest, const struct record *close)
{
    note_closed(harvest, close->request_id);
    if (harvest->oldest == 0)
        harvest->oldest = close->when;
    if (cells_add_close(harvest->cells, close))
        return HARVEST_MORE;
    int error = errno;
    start_over(harvest);
    return fail(harvest, "an epoch", error == E2BIG ? "it has too many different cells" : strerror(error));
}

static bool empty_cells(struct harvest *harvest)
{
    struct cells *fresh = cells_create();
    if (fresh == NULL)
        return false;
    cells_destroy(&harvest->cells);
    harvest->cells = fresh;
    harvest->oldest = 0;
    return true;
}

/* A segment that is gone was needed no more. */
static bool sync_segment(const struct harvest *harvest, uint32_t number)
{
    char memory[PATH_MAX];
    struct builder path;
    builder_init(&path, memory, sizeof memory);
    builder_format(&path, "%s/%08u.seg", harvest->directory, number);
    int fd = open(builder_string(&path), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT;
    return file_close_after(fd, fdatasync(fd) == 0);
}

/* The SEAL is on the disk before the ledger says what it sealed: after a power cut, recovery would seal the same epoch
 * with other requests, and the ledger would not take them. */
static bool sync_journal(struct harvest *harvest)
{
    uint32_t last = harvest->position.segment, first = harvest->synced_segment;
    bool good = first == last || file_sync_directory_and_name(harvest->directory);
    for (uint32_t number = first != 0 ? first : harvest->segments[0].number; good && number <= last; number++)
        good = sync_segment(harvest, number);
    if (good)
        harvest->synced_segment = last;
    return good;
}

/* The epoch whose SEAL was read becomes a file. */
static bool write_epoch(struct harvest *harvest)
{
    void *seals = harvest->seals;
    bool is_room = make_room(&seals, &harvest->seal_capacity, harvest->seal_count, sizeof *harvest->seals);
    harvest->seals = seals;
    if (!sync_journal(harvest)) {
        (void) fail(harvest, "the journal", strerror(errno));
        return false;
    }
    /* Written already and out of memory for the next one: the second write changes nothing. */
    if (!is_room || !ledger_write(harvest->ledger_directory, &harvest->head, harvest->cells) || !empty_cells(harvest)) {
        (void) fail(harvest, "the ledger file", strerror(errno));
        return false;
    }
    harvest->seals[harvest->seal_count++] = (struct seal){harvest->head.name.epoch, harvest->head_sequence};
    harvest->head_sequence = 0;
    return true;
}

static void take_seal(struct harvest *harvest, const struct record *seal)
{
    harvest->head = (struct ledger_head){.name.epoch = seal->epoch, .began = seal->epoch_began, .ended = seal->when};
    memcpy(harvest->head.name.writer, harvest->writer_id, sizeof harvest->head.name.writer);
    harvest->head_sequence = seal->sequence;
}

bool harvest_seal_of(const struct harvest *harvest, uint64_t epoch, uint64_t *ret_sequence)
{
    size_t low = 0, high = harvest->seal_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (harvest->seals[middle].epoch < epoch)
            low = middle + 1;
        else
            high = middle;
    }
    bool is_known = low < harvest->seal_count && harvest->seals[low].epoch == epoch;
    *ret_sequence = is_known ? harvest->seals[low].sequence : 0;
    return is_known || !harvest_may_hold(harvest, epoch);
}

bool harvest_may_hold(const struct harvest *harvest, uint64_t epoch)
{
    for (size_t i = 0; i < harvest->segment_count; i++) {
        if (harvest->segments[i].first_epoch != 0)
            return epoch >= harvest->segments[i].first_epoch;
    }
    return !harvest->was_idle;
}

/* ---- turns ---- */

static enum harvest_result take(struct harvest *harvest, const struct record *record)
{
    if (!note_segment(harvest, harvest->position.segment)) {
        start_over(harvest);
        return fail(harvest, "the journal", strerror(ENOMEM));
    }
    note_record(harvest, record);
    switch (record->type) {
    case RECORD_OPEN:
        note_open(harvest, record);
        return HARVEST_MORE;
    case RECORD_PROGRESS:
        return HARVEST_MORE;
    case RECORD_CLOSE:
        return add_close(harvest, record);
    case RECORD_SEAL:
        take_seal(harvest, record);
        return HARVEST_MORE;
    case RECORD_FINISH:
        harvest->is_finished = true;
        return HARVEST_MORE;
    }
    return HARVEST_MORE;
}

static enum harvest_result fail_damaged(struct harvest *harvest)
{
    struct journal_position at = journal_reader_position(harvest->reader);
    char why[64];
    snprintf(why, sizeof why, "it is damaged, or its disk fails, at %08u.seg:%llu", at.segment,
             (unsigned long long) at.offset);
    harvest_rest(harvest);
    return fail(harvest, "the journal", why);
}

/* MORE: a record was taken. */
static enum harvest_result read_one(struct harvest *harvest)
{
    struct record record;
    if (harvest->reader == NULL)
        harvest->reader =
            journal_reader_create(harvest->directory, harvest->position.segment > 0 ? &harvest->position : NULL);
    if (harvest->reader == NULL)
        return fail(harvest, "the journal", strerror(ENOMEM));
    switch (journal_read_next(harvest->reader, &record)) {
    case JOURNAL_RECORD:
        harvest->position = journal_reader_position(harvest->reader);
        return take(harvest, &record);
    case JOURNAL_NO_MORE_YET:
        return HARVEST_IDLE;
    case JOURNAL_DAMAGED:
        return fail_damaged(harvest);
    }
    return HARVEST_IDLE;
}

static enum harvest_result read_on(struct harvest *harvest, mono_ms until, harvest_sealed *sealed, void *owner)
{
    enum harvest_result result = HARVEST_MORE;
    for (unsigned i = 1; result == HARVEST_MORE; i++) {
        if (harvest->head_sequence != 0) {
            if (!write_epoch(harvest))
                return HARVEST_FAILED;
            sealed(owner, &harvest->head.name);
            i = RECORDS_PER_LOOK;
        }
        if (harvest->is_finished)
            return HARVEST_IDLE;
        if (i % RECORDS_PER_LOOK == 0 && clock_mono_ms() >= until)
            return HARVEST_MORE;
        result = read_one(harvest);
    }
    return result;
}

enum harvest_result harvest_turn(struct harvest *harvest, mono_ms until, harvest_sealed *sealed, void *owner)
{
    if (harvest->must_start_over && !empty_cells(harvest))
        return fail(harvest, "an epoch", strerror(ENOMEM));
    harvest->must_start_over = false;
    enum harvest_result result = read_on(harvest, until, sealed, owner);
    harvest->is_behind = result == HARVEST_MORE;
    if (result == HARVEST_IDLE)
        harvest->was_idle = true;
    if (result != HARVEST_FAILED)
        harvest->trouble[0] = '\0';
    if (harvest->is_finished)
        harvest_rest(harvest);
    return result;
}

const char *harvest_writer_id(const struct harvest *harvest)
{
    return harvest->writer_id;
}

const char *harvest_directory(const struct harvest *harvest)
{
    return harvest->directory;
}

const char *harvest_trouble(const struct harvest *harvest)
{
    return harvest->trouble;
}

bool harvest_is_finished(const struct harvest *harvest)
{
    return harvest->is_finished && harvest->head_sequence == 0;
}

wall_ms harvest_oldest(const struct harvest *harvest)
{
    return harvest->oldest == 0 && harvest->is_behind ? harvest->last_when : harvest->oldest;
}
