/* One worker's append-only journal. One write(2) a loop turn; whoever waits is called when it has returned. */
#include "billing/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "billing/journal_sync.h"

enum {
    PENDING_BYTES_MAX =
        64 * 1024 * 1024, /* a disk that refuses: JOURNAL_OPEN_MAX CLOSEs wait here and are tried again */
    RETRY_MS = 200,
    SLOW_WINDOW_MS = 60000,
    HOUR_MS = 3600 * 1000
};

struct journal {
    struct loop *loop;
    char directory[PATH_MAX];
    char writer_id[WRITER_ID_CHARACTERS + 1];
    int64_t segment_bytes, epoch_ms;
    int fd, next_fd; /* the segment being written; the next, already allocated, or -1 */
    uint32_t segment;
    int64_t offset;             /* of the next byte to be written in the segment */
    uint64_t sequence, written; /* of the last record appended; of the last one that write(2) took whole */
    unsigned open_count;        /* OPENs whose CLOSE is still to come */
    struct buffer pending;      /* appended, not yet written */
    struct journal_wait *waits, **waits_end;
    struct journal_sync_thread *sync; /* GROUP only */
    struct loop_turn_end turn_end;
    struct loop_timer retry, seal;
    const char *write_trouble, *sync_trouble, *space_trouble; /* "" = none */
    struct metric_series *write_seconds;
    int64_t slowest_us, slowest_before_us;
    mono_ms slow_window_began;
    /* the open epoch */
    uint64_t epoch;
    bool epoch_used;
    wall_ms epoch_began, epoch_due, last_when;
};

/* ---- what the disk takes ---- */

static void note_time(struct journal *journal, mono_us began)
{
    int64_t took_us = clock_mono_us() - began;
    metric_observe_us(journal->write_seconds, took_us);
    if (took_us > journal->slowest_us)
        journal->slowest_us = took_us;
}

static void forget_slowness(struct journal *journal)
{
    int64_t age_ms = loop_now(journal->loop) - journal->slow_window_began;
    if (age_ms < SLOW_WINDOW_MS)
        return;
    journal->slowest_before_us = age_ms < 2 * SLOW_WINDOW_MS ? journal->slowest_us : 0;
    journal->slowest_us = 0;
    journal->slow_window_began = loop_now(journal->loop);
}

/* ---- segments ---- */

static bool segment_path(const struct journal *journal, uint32_t number, const char *suffix, char to[PATH_MAX])
{
    struct builder path;
    builder_init(&path, to, PATH_MAX);
    builder_format(&path, "%s/%08u%s", journal->directory, number, suffix);
    (void) builder_string(&path);
    return !path.overflowed;
}

/* Allocated whole, so that a disk that fills up cannot refuse what was promised room. Named .next until what is
 * before it is written (and at level GROUP on the disk): readers go on to a segment when it has its name. */
static int allocate_segment(struct journal *journal, uint32_t number)
{
    char path[PATH_MAX];
    if (!segment_path(journal, number, ".next", path))
        return -1;
    mono_us began = clock_mono_us();
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int error = fd < 0 ? errno : posix_fallocate(fd, 0, journal->segment_bytes);
    note_time(journal, began);
    if (error == 0)
        return fd;
    if (fd >= 0) {
        (void) unlink(path);
        close(fd);
    }
    errno = error;
    return -1;
}

static bool name_segment(const struct journal *journal, uint32_t number)
{
    char from[PATH_MAX], to[PATH_MAX];
    return segment_path(journal, number, ".next", from) && segment_path(journal, number, ".seg", to) &&
           rename(from, to) == 0;
}

static void allocate_next(struct journal *journal)
{
    if (journal->next_fd >= 0)
        return;
    journal->next_fd = allocate_segment(journal, journal->segment + 1);
    if (journal->next_fd >= 0)
        journal->space_trouble = "";
    else if (errno == ENOSPC || errno == EFBIG || errno == EDQUOT)
        journal->space_trouble = "the disk of state_dir is full";
    else
        journal->space_trouble = "the disk of state_dir refuses new files";
}

/* What is promised to the requests that are open now: a CLOSE each, with a SEAL before it if need be (both together are
 * shorter than the longest record could be), and the last SEAL and the end. */
static int64_t reserved_bytes(unsigned open_count)
{
    return ((int64_t) open_count + 3) * RECORD_BYTES_MAX;
}

static int64_t free_bytes(const struct journal *journal)
{
    int64_t used = journal->offset + (int64_t) buffer_length(&journal->pending);
    int64_t left = journal->segment_bytes - used;
    /* A record never spans two segments: the last bytes of one may stay unused. */
    return left - RECORD_BYTES_MAX + (journal->next_fd >= 0 ? journal->segment_bytes - RECORD_BYTES_MAX : 0);
}

/* For the CLOSE of one more request, or for a record that promises nothing. */
static bool has_room(const struct journal *journal)
{
    return journal->open_count < JOURNAL_OPEN_MAX &&
           free_bytes(journal) >= reserved_bytes(journal->open_count + 1) + RECORD_BYTES_MAX;
}

static bool write_pending(struct journal *journal)
{
    while (buffer_length(&journal->pending) > 0) {
        struct text bytes = buffer_text(&journal->pending);
        mono_us before = clock_mono_us();
        ssize_t written = pwrite(journal->fd, bytes.at, bytes.length, journal->offset);
        note_time(journal, before);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            journal->write_trouble = "the disk of state_dir refuses writes";
            return false;
        }
        journal->offset += written;
        buffer_consume(&journal->pending, (size_t) written);
    }
    journal->written = journal->sequence;
    journal->write_trouble = "";
    return true;
}

/* At level GROUP the sync thread does this. */
static bool leave_segment(struct journal *journal)
{
    mono_us began = clock_mono_us();
    bool named = name_segment(journal, journal->segment + 1);
    if (named)
        close(journal->fd);
    note_time(journal, began);
    return named;
}

/* Go on in the next segment. Everything pending belongs to this one and must be on its way first. */
static bool switch_segment(struct journal *journal)
{
    if (!write_pending(journal) || (journal->sync != NULL && journal_sync_is_full(journal->sync)))
        return false;
    allocate_next(journal);
    if (journal->next_fd < 0 || (journal->sync == NULL && !leave_segment(journal)))
        return false;
    if (journal->sync != NULL)
        journal_sync_switch(journal->sync, journal->offset, journal->next_fd, journal->segment + 1);
    journal->fd = journal->next_fd;
    journal->next_fd = -1;
    journal->segment++;
    journal->offset = 0;
    allocate_next(journal);
    return true;
}

/* ---- the end of a turn ---- */

static void remove_wait(struct journal *journal, struct journal_wait **at)
{
    struct journal_wait *wait = *at;
    *at = wait->_next;
    if (*at == NULL)
        journal->waits_end = at;
    wait->_sequence = 0;
}

/* Call those whose records are after @after and up to @through. A call may append, forget and wait anew. */
static void tell_waits(struct journal *journal, uint64_t after, uint64_t through, bool ok)
{
    for (;;) {
        struct journal_wait **at = &journal->waits;
        while (*at != NULL && (*at)->_sequence <= after)
            at = &(*at)->_next;
        struct journal_wait *wait = *at;
        if (wait == NULL || wait->_sequence > through)
            return;
        remove_wait(journal, at);
        wait->durable(wait, ok);
    }
}

static void on_synced(void *owner, uint64_t durable, uint64_t refused)
{
    struct journal *journal = owner;
    bool ok = refused <= durable;
    journal->sync_trouble = ok ? "" : "the disk of state_dir refuses to sync";
    tell_waits(journal, 0, durable, true);
    if (!ok)
        tell_waits(journal, durable, refused, false);
}

/* What did not work is tried again later, also when no request comes any more. */
static void flush(struct journal *journal)
{
    forget_slowness(journal);
    bool written = write_pending(journal);
    bool has_grown = journal->offset > journal->segment_bytes && !switch_segment(journal);
    if (written && journal->next_fd >= 0 && !has_grown)
        loop_timer_cancel(journal->loop, &journal->retry);
    else if (!loop_timer_is_set(&journal->retry))
        loop_timer_set(journal->loop, &journal->retry, loop_now(journal->loop) + RETRY_MS);
    if (!written)
        tell_waits(journal, journal->written, journal->sequence, false);
    else if (journal->sync != NULL)
        journal_sync_ask(journal->sync, journal->sequence, journal->offset);
    else
        tell_waits(journal, 0, journal->sequence, true);
}

static void on_turn_end(struct loop_turn_end *end)
{
    flush(end->owner);
}

static void on_retry(struct loop_timer *timer)
{
    struct journal *journal = timer->owner;
    allocate_next(journal);
    flush(journal);
}

/* ---- append ---- */

static bool append(struct journal *journal, struct record *record, struct journal_wait *wait)
{
    char bytes[RECORD_BYTES_MAX];
    record->sequence = journal->sequence + 1;
    size_t length = record_encode(record, bytes);
    int64_t used = journal->offset + (int64_t) buffer_length(&journal->pending);
    /* When there is no switching now, this segment grows: better than to lose a record. */
    if (used + (int64_t) length > journal->segment_bytes)
        (void) switch_segment(journal);
    if (!buffer_add(&journal->pending, (struct text){bytes, length}))
        return false;
    journal->sequence++;
    if (wait != NULL) {
        wait->_sequence = journal->sequence;
        wait->_next = NULL;
        *journal->waits_end = wait;
        journal->waits_end = &wait->_next;
    }
    loop_at_turn_end(journal->loop, &journal->turn_end);
    return true;
}

/* ---- epochs: cut by length and at the UTC hour, so that no row spans an hour ---- */

static void seal_epoch(struct journal *journal)
{
    struct record seal = {
        .type = RECORD_SEAL, .when = journal->last_when, .epoch = journal->epoch, .epoch_began = journal->epoch_began};
    loop_timer_cancel(journal->loop, &journal->seal);
    if (!journal->epoch_used || !append(journal, &seal, NULL))
        return;
    journal->epoch++;
    journal->epoch_used = false;
}

static void use_epoch(struct journal *journal, wall_ms when)
{
    wall_ms hour = clock_hour(when);
    bool is_outside = when < journal->epoch_began || when >= journal->epoch_due;
    if (journal->epoch_used && is_outside)
        seal_epoch(journal);
    if (!journal->epoch_used) {
        journal->epoch_used = true;
        journal->epoch_began = journal->last_when = when;
        journal->epoch_due = when + journal->epoch_ms < hour + HOUR_MS ? when + journal->epoch_ms : hour + HOUR_MS;
        loop_timer_set(journal->loop, &journal->seal, loop_now(journal->loop) + (journal->epoch_due - when) + 1);
    }
    if (when > journal->last_when)
        journal->last_when = when;
}

static void on_seal(struct loop_timer *timer)
{
    seal_epoch(timer->owner);
}

/* ---- what workers call ---- */

bool journal_open(struct journal *journal, const struct record *open, struct journal_wait *wait)
{
    struct record record = *open;
    ENSURE(record.type == RECORD_OPEN);
    if (journal_trouble(journal)[0] != '\0' || !append(journal, &record, wait))
        return false;
    journal->open_count++;
    return true;
}

void journal_progress(struct journal *journal, struct text request_id, int64_t output_tokens, wall_ms when)
{
    struct record record = {
        .type = RECORD_PROGRESS, .request_id = request_id, .output_tokens = output_tokens, .when = when};
    if (journal_trouble(journal)[0] == '\0')
        (void) append(journal, &record, NULL);
}

void journal_close(struct journal *journal, const struct record *close_record, struct journal_wait *wait)
{
    struct record record = *close_record;
    ENSURE(record.type == RECORD_CLOSE && journal->open_count > 0);
    use_epoch(journal, record.when);
    record.epoch = journal->epoch;
    journal->open_count--;
    /* There is room for it on the disk and in PENDING_BYTES_MAX: only memory can be missing. */
    if (!append(journal, &record, wait) && wait != NULL)
        wait->durable(wait, false);
}

void journal_forget(struct journal *journal, struct journal_wait *wait)
{
    struct journal_wait **at = &journal->waits;
    if (wait->_sequence == 0)
        return;
    while (*at != wait)
        at = &(*at)->_next;
    remove_wait(journal, at);
}

const char *journal_trouble(const struct journal *journal)
{
    if (journal->write_trouble[0] != '\0')
        return journal->write_trouble;
    if (journal->sync_trouble[0] != '\0')
        return journal->sync_trouble;
    if (journal->space_trouble[0] != '\0')
        return journal->space_trouble;
    return has_room(journal) ? "" : "the journal has no room for more open requests";
}

const char *journal_writer_id(const struct journal *journal)
{
    return journal->writer_id;
}

int64_t journal_slowest_write_us(const struct journal *journal)
{
    if (loop_now(journal->loop) - journal->slow_window_began >= 2 * SLOW_WINDOW_MS)
        return 0; /* nothing was written since */
    return journal->slowest_us > journal->slowest_before_us ? journal->slowest_us : journal->slowest_before_us;
}

/* ---- life ---- */

static bool make_directory(struct journal *journal, const struct journal_options *options)
{
    uint8_t random[WRITER_ID_CHARACTERS / 2];
    if (getrandom(random, sizeof random, 0) != (ssize_t) sizeof random)
        return false;
    text_hex(journal->writer_id, random, sizeof random);
    int length =
        snprintf(journal->directory, PATH_MAX, "%s/%d-%s", options->directory, options->slot, journal->writer_id);
    if (length < 0 || length >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return false;
    }
    return mkdir(journal->directory, 0700) == 0;
}

static bool make_first_segment(struct journal *journal)
{
    journal->fd = allocate_segment(journal, 1);
    journal->segment = 1;
    return journal->fd >= 0 && name_segment(journal, 1);
}

/* A journal that could not begin leaves nothing to recover. */
static void remove_files(const struct journal *journal)
{
    char path[PATH_MAX];
    if (segment_path(journal, 1, ".next", path))
        (void) unlink(path);
    if (segment_path(journal, 1, ".seg", path))
        (void) unlink(path);
    (void) rmdir(journal->directory);
}

static void release(struct journal *journal)
{
    journal_sync_destroy(&journal->sync);
    if (journal->fd >= 0)
        close(journal->fd);
    if (journal->next_fd >= 0) {
        char path[PATH_MAX];
        if (segment_path(journal, journal->segment + 1, ".next", path))
            (void) unlink(path);
        close(journal->next_fd);
    }
    buffer_finish(&journal->pending);
    free(journal);
}

struct journal *journal_create(struct loop *loop, const struct journal_options *options)
{
    struct journal *journal = calloc(1, sizeof *journal);
    if (journal == NULL)
        return NULL;
    journal->loop = loop;
    journal->segment_bytes = options->segment_bytes;
    journal->epoch_ms = options->epoch_ms;
    journal->fd = journal->next_fd = -1;
    journal->epoch = 1;
    journal->write_trouble = journal->sync_trouble = journal->space_trouble = "";
    journal->waits_end = &journal->waits;
    journal->write_seconds = metric_series(METRIC_JOURNAL_WRITE_SECONDS, (const char *const[METRIC_LABELS_MAX]){NULL});
    journal->slow_window_began = clock_mono_ms();
    journal->turn_end = (struct loop_turn_end){.run = on_turn_end, .owner = journal};
    journal->retry = (struct loop_timer){.fire = on_retry, .owner = journal};
    journal->seal = (struct loop_timer){.fire = on_seal, .owner = journal};
    buffer_init(&journal->pending, PENDING_BYTES_MAX);
    bool made = make_directory(journal, options) && make_first_segment(journal);
    if (made && options->sync == JOURNAL_GROUP) {
        journal->sync = journal_sync_create(loop, journal->directory, journal->fd, on_synced, journal);
        made = journal->sync != NULL;
    }
    if (!made) {
        int error = errno;
        remove_files(journal);
        release(journal);
        errno = error;
        return NULL;
    }
    allocate_next(journal);
    if (journal->next_fd < 0)
        loop_timer_set(loop, &journal->retry, clock_mono_ms() + RETRY_MS);
    return journal;
}

void journal_destroy(struct journal **journal_pointer)
{
    struct journal *journal = *journal_pointer;
    struct record finish = {.type = RECORD_FINISH};
    *journal_pointer = NULL;
    if (journal == NULL)
        return;
    ENSURE(journal->waits == NULL);
    seal_epoch(journal);
    finish.when = journal->last_when;
    /* Requests that are still open are for recovery, which passes finished journals by. */
    bool is_finished = journal->open_count == 0 && append(journal, &finish, NULL);
    bool is_written = write_pending(journal);
    /* What nobody writes any more need not be kept for it; where it fails, it goes with the segment. */
    if (is_finished && is_written)
        (void) !ftruncate(journal->fd, journal->offset);
    if (is_written && journal->sync != NULL)
        journal_sync_ask(journal->sync, journal->sequence, journal->offset);
    loop_turn_end_cancel(journal->loop, &journal->turn_end);
    loop_timer_cancel(journal->loop, &journal->retry);
    loop_timer_cancel(journal->loop, &journal->seal);
    release(journal);
}
