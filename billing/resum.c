/* Journals read from their first segment to their end. */
#include "billing/resum.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uthash.h>

#include "base/panic.h"
#include "billing/recover.h"

/* Segments that nobody needs any more may go while they are read; then the writer is read anew. */
enum { ROUNDS_MAX = 8, SEGMENT_DIGITS = 8 };

/* A request whose CLOSE has not been seen. */
struct open_request {
    UT_hash_handle hh;
    char id[RECORD_ID_BYTES_MAX];
    wall_ms last_sign;
};

/* One writer. */
struct reading {
    const struct resum_visitor *visitor;
    struct resum_epoch epoch; /* cell_count of its head counts CLOSEs until it is visited */
    struct cells *cells;      /* of the epoch; NULL before its first CLOSE */
    struct open_request *open;
    uint64_t visited; /* the last epoch that was; 0 = none */
    bool starts_whole;
};

static void forget_request(struct reading *reading, struct open_request *request)
{
    HASH_DEL(reading->open, request);
    free(request);
}

static struct open_request *find(struct reading *reading, struct text id)
{
    struct open_request *request = NULL;
    HASH_FIND(hh, reading->open, id.at, (unsigned) id.length, request);
    return request;
}

static bool note_open(struct reading *reading, const struct record *record)
{
    struct open_request *request = calloc(1, sizeof *request);
    size_t length = record->request_id.length < sizeof request->id ? record->request_id.length : sizeof request->id;
    if (request == NULL)
        return false;
    if (length > 0)
        memcpy(request->id, record->request_id.at, length);
    request->last_sign = record->when;
    HASH_ADD_KEYPTR(hh, reading->open, request->id, (unsigned) length, request);
    return true;
}

/* ---- epochs ---- */

static void begin_epoch(struct reading *reading, const struct record *close)
{
    struct ledger_head *head = &reading->epoch.head;
    head->name.epoch = close->epoch;
    head->began = head->ended = close->when;
    reading->epoch.is_sealed = false;
}

static bool note_close(struct reading *reading, const struct record *record)
{
    struct open_request *request = find(reading, record->request_id);
    struct ledger_head *head = &reading->epoch.head;
    if (request != NULL)
        forget_request(reading, request);
    if (reading->cells == NULL) {
        reading->cells = cells_create();
        begin_epoch(reading, record);
    }
    head->began = record->when < head->began ? record->when : head->began;
    head->ended = record->when > head->ended ? record->when : head->ended;
    return reading->cells != NULL && cells_add_close(reading->cells, record);
}

/* The epoch at hand is over, sealed or with the journal. */
static bool end_epoch(struct reading *reading)
{
    struct resum_epoch *epoch = &reading->epoch;
    bool is_new = epoch->head.name.epoch > reading->visited;
    bool goes_on = true;
    if (reading->cells == NULL)
        return true;
    epoch->cells = reading->cells;
    epoch->head.cell_count = cells_count(reading->cells);
    epoch->is_whole = reading->starts_whole;
    if (is_new)
        goes_on = reading->visitor->epoch(reading->visitor->owner, epoch);
    if (epoch->is_sealed && is_new)
        reading->visited = epoch->head.name.epoch;
    cells_destroy(&reading->cells);
    return goes_on;
}

static bool note_seal(struct reading *reading, const struct record *record)
{
    reading->epoch.is_sealed = true;
    reading->epoch.head.began = record->epoch_began;
    reading->epoch.head.ended = record->when;
    bool goes_on = end_epoch(reading);
    reading->starts_whole = true;
    return goes_on;
}

static bool note(struct reading *reading, const struct record *record)
{
    struct open_request *request;
    switch (record->type) {
    case RECORD_OPEN:
        return note_open(reading, record);
    case RECORD_PROGRESS:
        request = find(reading, record->request_id);
        if (request != NULL)
            request->last_sign = record->when;
        return true;
    case RECORD_CLOSE:
        return note_close(reading, record);
    case RECORD_SEAL:
        return note_seal(reading, record);
    case RECORD_FINISH:
        return true;
    }
    UNREACHABLE("a record type that nothing writes");
}

/* ---- one writer ---- */

static bool tell_open(struct reading *reading)
{
    struct open_request *request, *next;
    bool goes_on = true;
    HASH_ITER(hh, reading->open, request, next)
    {
        goes_on = goes_on && reading->visitor->open_request(reading->visitor->owner, reading->epoch.head.name.writer,
                                                            request->last_sign);
        forget_request(reading, request);
    }
    return goes_on;
}

static void forget_all(struct reading *reading)
{
    struct open_request *request, *next;
    HASH_ITER(hh, reading->open, request, next)
    {
        forget_request(reading, request);
    }
    cells_destroy(&reading->cells);
}

/* @segment went while there are others: what was read is not all. */
static bool has_moved_on(const char *directory, uint32_t segment)
{
    DIR *listing = opendir(directory);
    bool is_there = false, any = false;
    int64_t number;
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;) {
        struct text name = text_of(entry->d_name), digits = {name.at, SEGMENT_DIGITS};
        bool is_segment = name.length == SEGMENT_DIGITS + 4 && text_to_int64(digits, &number) &&
                          text_equal(text_of(name.at + SEGMENT_DIGITS), TEXT(".seg"));
        any = any || is_segment;
        is_there = is_there || (is_segment && number == segment);
    }
    if (listing != NULL)
        closedir(listing);
    return any && !is_there;
}

/* The writer went on in a segment that has not got its name yet; when it is dead, recovery gives it one. */
static bool has_nameless(const char *directory, struct journal_position end)
{
    char path[PATH_MAX], bytes[RECORD_BYTES_MAX];
    struct record record;
    size_t length;
    snprintf(path, sizeof path, "%s/%08u.next", directory, end.segment + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = fd >= 0 ? pread(fd, bytes, sizeof bytes, 0) : -1;
    if (fd >= 0)
        close(fd);
    return count > 0 && record_decode((struct text){bytes, (size_t) count}, &record, &length) == RECORD_DECODED &&
           record.sequence == end.sequence + 1;
}

enum reading_end { READ_ALL, READ_AGAIN, READ_DAMAGED, READ_FAILED };

static enum reading_end read_once(struct reading *reading, const char *directory)
{
    struct journal_reader *reader = journal_reader_create(directory, NULL);
    struct record record;
    enum journal_read result = JOURNAL_RECORD;
    bool goes_on = reader != NULL, is_first = true;
    while (goes_on && (result = journal_read_next(reader, &record)) == JOURNAL_RECORD) {
        if (is_first)
            reading->starts_whole = record.sequence == 1;
        is_first = false;
        goes_on = note(reading, &record);
    }
    int error = errno;
    struct journal_position end = {0};
    if (reader != NULL)
        end = journal_reader_position(reader);
    journal_reader_destroy(&reader);
    errno = error;
    if (!goes_on)
        return READ_FAILED;
    if (has_moved_on(directory, end.segment))
        return READ_AGAIN;
    return result == JOURNAL_DAMAGED || has_nameless(directory, end) ? READ_DAMAGED : READ_ALL;
}

static bool read_writer(const struct resum_visitor *visitor, const char *directory, const char *writer)
{
    struct reading reading = {.visitor = visitor};
    enum reading_end end = READ_AGAIN;
    text_copy(reading.epoch.head.name.writer, sizeof reading.epoch.head.name.writer, text_of(writer));
    for (int round = 0; round < ROUNDS_MAX && end == READ_AGAIN; round++) {
        forget_all(&reading);
        end = read_once(&reading, directory);
    }
    bool goes_on = end != READ_FAILED && end_epoch(&reading) && tell_open(&reading);
    if (goes_on && end != READ_ALL)
        goes_on = visitor->damaged(visitor->owner, writer);
    int error = errno;
    forget_all(&reading);
    errno = error;
    return goes_on;
}

/* ---- all ---- */

static int writers_only(const struct dirent *entry)
{
    return journal_writer_in(entry->d_name) != NULL;
}

bool resum(const char *journal_directory, const struct resum_visitor *visitor)
{
    struct dirent **listing = NULL;
    char memory[PATH_MAX];
    int count = scandir(journal_directory, &listing, writers_only, alphasort);
    bool goes_on = count >= 0;
    for (int i = 0; i < count; i++) {
        struct builder path;
        builder_init(&path, memory, sizeof memory);
        builder_format(&path, "%s/%s", journal_directory, listing[i]->d_name);
        if (goes_on)
            goes_on = read_writer(visitor, builder_string(&path), journal_writer_in(listing[i]->d_name));
        int error = errno;
        free(listing[i]);
        errno = error;
    }
    int error = errno;
    free(listing);
    errno = error;
    return goes_on;
}
