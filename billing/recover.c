/* What a dead writer left open. */
#include "billing/recover.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>

#include "base/panic.h"

enum { HOUR_MS = 3600 * 1000, BLOCK_BYTES = 8192 };

/* A request whose CLOSE has not been seen. */
struct open_request {
    UT_hash_handle hh;
    char id[RECORD_ID_BYTES_MAX];
    char tenant[RECORD_NAME_BYTES_MAX], key[RECORD_NAME_BYTES_MAX], model[RECORD_NAME_BYTES_MAX];
    struct text id_text, tenant_text, key_text, model_text; /* of the arrays above */
    bool has_progress;
    int64_t input_tokens, output_tokens;
    wall_ms when;
};

struct recovering {
    const char *directory;
    const atomic_bool *stop; /* NULL: nobody stops it */
    struct open_request *open;
    struct journal_position end;
    bool finished, failed;
    bool epoch_known; /* some CLOSE or SEAL said it */
    bool bill_crash;
    uint64_t epoch; /* the next CLOSE is part of it */
    bool epoch_used;
    wall_ms epoch_began, last_when;
    int fd; /* the last segment */
    struct recovery found;
};

static bool segment_path(const struct recovering *state, uint32_t number, const char *suffix, char to[PATH_MAX])
{
    struct builder path;
    builder_init(&path, to, PATH_MAX);
    builder_format(&path, "%s/%08u%s", state->directory, number, suffix);
    (void) builder_string(&path);
    return !path.overflowed;
}

/* ---- reading ---- */

static struct text keep(char *to, size_t capacity, struct text from)
{
    size_t length = from.length < capacity ? from.length : capacity;
    if (length > 0)
        memcpy(to, from.at, length);
    return (struct text){to, length};
}

static void note_open(struct recovering *state, const struct record *record)
{
    struct open_request *request = calloc(1, sizeof *request);
    if (request == NULL) {
        state->failed = true;
        return;
    }
    request->id_text = keep(request->id, sizeof request->id, record->request_id);
    request->tenant_text = keep(request->tenant, sizeof request->tenant, record->tenant);
    request->key_text = keep(request->key, sizeof request->key, record->key);
    request->model_text = keep(request->model, sizeof request->model, record->model);
    request->input_tokens = record->input_tokens;
    request->when = record->when;
    HASH_ADD_KEYPTR(hh, state->open, request->id, (unsigned) request->id_text.length, request);
}

static struct open_request *find(struct recovering *state, struct text id)
{
    struct open_request *request = NULL;
    HASH_FIND(hh, state->open, id.at, (unsigned) id.length, request);
    return request;
}

static void note_progress(struct recovering *state, const struct record *record)
{
    struct open_request *request = find(state, record->request_id);
    if (request == NULL)
        return;
    request->has_progress = true;
    request->output_tokens = record->output_tokens;
    request->when = record->when;
}

static void widen_epoch(struct recovering *state, wall_ms when)
{
    if (when > state->last_when)
        state->last_when = when;
    if (when < state->epoch_began)
        state->epoch_began = when;
}

static void note_close(struct recovering *state, const struct record *record)
{
    struct open_request *request = find(state, record->request_id);
    if (request != NULL) {
        HASH_DEL(state->open, request);
        free(request);
    }
    if (!state->epoch_used || record->epoch != state->epoch) {
        state->epoch_began = record->when;
        state->last_when = record->when;
    }
    state->epoch = record->epoch;
    state->epoch_known = state->epoch_used = true;
    widen_epoch(state, record->when);
}

static void note(struct recovering *state, const struct record *record)
{
    state->found.records++;
    switch (record->type) {
    case RECORD_OPEN:
        note_open(state, record);
        return;
    case RECORD_PROGRESS:
        note_progress(state, record);
        return;
    case RECORD_CLOSE:
        note_close(state, record);
        return;
    case RECORD_SEAL:
        state->epoch = record->epoch + 1;
        state->epoch_known = true;
        state->epoch_used = false;
        return;
    case RECORD_FINISH:
        state->finished = true;
        return;
    }
    UNREACHABLE("a record type that nothing writes");
}

/* A killed writer of level GROUP may have gone on in a segment that had not got its name yet. */
static bool adopt_next(const struct recovering *state, struct journal_position end)
{
    char from[PATH_MAX], to[PATH_MAX], bytes[RECORD_BYTES_MAX];
    struct record record;
    size_t record_length = 0;
    if (state->finished || !segment_path(state, end.segment + 1, ".next", from) ||
        !segment_path(state, end.segment + 1, ".seg", to))
        return false;
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd >= 0 ? pread(fd, bytes, sizeof bytes, 0) : -1;
    if (fd >= 0)
        close(fd);
    return length > 0 &&
           record_decode((struct text){bytes, (size_t) length}, &record, &record_length) == RECORD_DECODED &&
           record.sequence == end.sequence + 1 && rename(from, to) == 0;
}

static bool is_stopped(const struct recovering *state)
{
    return state->stop != NULL && atomic_load_explicit(state->stop, memory_order_relaxed);
}

static bool read_all(struct recovering *state)
{
    struct journal_reader *reader = journal_reader_create(state->directory, NULL);
    struct record record;
    enum journal_read result;
    if (reader == NULL)
        return false;
    do {
        while ((result = journal_read_next(reader, &record)) == JOURNAL_RECORD && !is_stopped(state))
            note(state, &record);
    } while (result == JOURNAL_NO_MORE_YET && adopt_next(state, journal_reader_position(reader)));
    state->end = journal_reader_position(reader);
    journal_reader_destroy(&reader);
    /* Its epochs went with segments that are gone. Each SEAL has a sequence number, so this epoch is a new one. */
    if (!state->epoch_known && state->found.records < state->end.sequence)
        state->epoch = state->end.sequence + 1;
    if (result == JOURNAL_RECORD)
        errno = ECANCELED;
    if (result == JOURNAL_DAMAGED)
        errno = EBADMSG;
    if (state->failed)
        errno = ENOMEM;
    return result == JOURNAL_NO_MORE_YET && !state->failed;
}

/* ---- the tail ---- */

static bool open_last(struct recovering *state)
{
    char path[PATH_MAX];
    if (segment_path(state, state->end.segment, ".seg", path))
        state->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return state->fd >= 0;
}

static bool write_whole(int fd, const char *bytes, size_t length, off_t at)
{
    ssize_t written = pwrite(fd, bytes, length, at);
    if (written >= 0 && written != (ssize_t) length)
        errno = ENOSPC;
    return written == (ssize_t) length;
}

/* Segments that were allocated but not begun, or begun after what a power cut took. */
static void remove_next(const struct recovering *state)
{
    char path[PATH_MAX];
    uint32_t number = state->end.segment;
    while (segment_path(state, ++number, ".next", path) && unlink(path) == 0) {
    }
}

static void note_torn(struct recovering *state, const char *bytes, size_t length, off_t at)
{
    while (length > 0 && bytes[length - 1] == 0)
        length--;
    if (length > 0)
        state->found.torn_bytes = (uint64_t) at + length - state->end.offset;
}

/* Everything after the last whole record becomes zeros: the reader found no other record there. */
static bool clear_tail(struct recovering *state)
{
    static const char zeros[BLOCK_BYTES];
    char bytes[BLOCK_BYTES];
    for (off_t at = (off_t) state->end.offset;;) {
        ssize_t length = pread(state->fd, bytes, sizeof bytes, at);
        if (length <= 0)
            return length == 0;
        note_torn(state, bytes, (size_t) length, at);
        if (memcmp(bytes, zeros, (size_t) length) != 0 && !write_whole(state->fd, zeros, (size_t) length, at))
            return false;
        at += length;
    }
}

static bool append(struct recovering *state, struct record *record)
{
    char bytes[RECORD_BYTES_MAX];
    record->sequence = state->end.sequence + 1;
    size_t length = record_encode(record, bytes);
    /* The last segment may grow beyond its size: nobody else writes here any more. */
    if (!write_whole(state->fd, bytes, length, (off_t) state->end.offset))
        return false;
    state->end.sequence++;
    state->end.offset += length;
    return true;
}

static bool seal(struct recovering *state)
{
    struct record record = {
        .type = RECORD_SEAL, .when = state->last_when, .epoch = state->epoch, .epoch_began = state->epoch_began};
    if (!state->epoch_used)
        return true;
    state->epoch++;
    state->epoch_used = false;
    return append(state, &record);
}

/* The time of its last PROGRESS, and in an epoch of that hour: usage stands in the hour in which it happened. */
static bool close_one(struct recovering *state, const struct open_request *request)
{
    struct record record = {
        .type = RECORD_CLOSE,
        .request_id = request->id_text,
        .tenant = request->tenant_text,
        .key = request->key_text,
        .model = request->model_text,
        .when = request->when,
        .input_tokens = request->has_progress ? request->input_tokens : 0,
        .output_tokens = request->output_tokens,
        .input_source = request->has_progress ? COUNT_ESTIMATED : COUNT_NONE,
        .output_source = request->has_progress ? COUNT_COUNTED : COUNT_NONE,
        .end = END_CRASH,
        .billed = state->bill_crash && request->has_progress,
    };
    bool other_hour = state->epoch_used && state->epoch_began / HOUR_MS != request->when / HOUR_MS;
    if (other_hour && !seal(state))
        return false;
    if (!state->epoch_used) {
        state->epoch_used = true;
        state->epoch_began = state->last_when = request->when;
    }
    widen_epoch(state, request->when);
    record.epoch = state->epoch;
    state->found.crashed_requests++;
    return append(state, &record);
}

static int by_time(const struct open_request *a, const struct open_request *b)
{
    return (a->when > b->when) - (a->when < b->when);
}

static bool close_all(struct recovering *state)
{
    struct open_request *request, *next;
    struct record finish = {.type = RECORD_FINISH};
    HASH_SORT(state->open, by_time);
    HASH_ITER(hh, state->open, request, next)
    {
        if (!close_one(state, request))
            return false;
    }
    finish.when = state->last_when;
    if (!seal(state) || !append(state, &finish))
        return false;
    (void) !ftruncate(state->fd, (off_t) state->end.offset); /* what was kept for these */
    return fdatasync(state->fd) == 0;
}

static void forget_all(struct recovering *state)
{
    struct open_request *request, *next;
    HASH_ITER(hh, state->open, request, next)
    {
        HASH_DEL(state->open, request);
        free(request);
    }
    if (state->fd >= 0)
        close(state->fd);
}

bool journal_recover_unless(const atomic_bool *stop, const char *writer_directory, bool bill_crash,
                            struct recovery *ret)
{
    struct recovering state = {
        .directory = writer_directory, .stop = stop, .epoch = 1, .fd = -1, .bill_crash = bill_crash};
    bool recovered = read_all(&state);
    if (recovered && !state.finished) {
        recovered = open_last(&state) && clear_tail(&state) && close_all(&state);
        remove_next(&state);
    }
    int error = errno;
    forget_all(&state);
    errno = error;
    if (recovered)
        *ret = state.found;
    return recovered;
}

bool journal_recover(const char *writer_directory, bool bill_crash, struct recovery *ret)
{
    return journal_recover_unless(NULL, writer_directory, bill_crash, ret);
}

bool journal_is_finished(const char *writer_directory)
{
    struct journal_reader *reader = journal_reader_create(writer_directory, NULL);
    struct record record = {.type = RECORD_OPEN};
    enum record_type last = RECORD_OPEN;
    if (reader == NULL)
        return false;
    while (journal_read_next(reader, &record) == JOURNAL_RECORD)
        last = record.type;
    journal_reader_destroy(&reader);
    return last == RECORD_FINISH;
}
