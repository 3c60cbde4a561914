/* Nothing is remembered over a restart: the mark that Redis returns says where to go on, whatever happened to either.
 */
#include "billing/shipper.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "billing/journal.h"
#include "billing/recover.h"
#include "billing/restore.h"

enum { MARKS_MAX = 32 };

struct shipper {
    char directory[PATH_MAX];
    const char *ledger_directory;
    char writer_id[WRITER_ID_CHARACTERS + 1];
    int64_t retention_s;
    struct journal_reader *reader;            /* NULL: opened at the next turn, at the best mark up to shipped */
    uint64_t shipped;                         /* Redis confirmed up to here */
    struct journal_position marks[MARKS_MAX]; /* where to start anew: ascending, behind the begin */
    unsigned mark_count;
    wall_ms oldest_unshipped;
    uint64_t regressions;
    uint64_t finish; /* sequence of the FINISH, or 0 */
    const char *trouble;
    bool was_behind;         /* Redis had records that the journal lost */
    struct restore *restore; /* of what comes before the oldest segment; NULL: none is under way */
    uint64_t restore_mark;   /* Redis has it when that is done */
    uint64_t restored;       /* epochs, by restorations that are over */
};

struct shipper *shipper_create(const struct shipper_options *options)
{
    struct shipper *shipper = calloc(1, sizeof *shipper);
    if (shipper == NULL)
        return NULL;
    text_copy(shipper->directory, sizeof shipper->directory, text_of(options->writer_directory));
    text_copy(shipper->writer_id, sizeof shipper->writer_id, text_of(options->writer_id));
    shipper->ledger_directory = options->ledger_directory;
    shipper->retention_s = options->retention_s;
    shipper->trouble = "";
    return shipper;
}

void shipper_rest(struct shipper *shipper)
{
    if (shipper->reader != NULL)
        journal_reader_destroy(&shipper->reader);
}

void shipper_destroy(struct shipper **shipper)
{
    if (*shipper != NULL) {
        shipper_rest(*shipper);
        restore_destroy(&(*shipper)->restore);
    }
    free(*shipper);
    *shipper = NULL;
}

const char *shipper_writer_id(const struct shipper *shipper)
{
    return shipper->writer_id;
}

uint64_t shipper_shipped(const struct shipper *shipper)
{
    return shipper->shipped;
}

bool shipper_was_behind(const struct shipper *shipper)
{
    return shipper->was_behind;
}

bool shipper_is_bare(const struct shipper *shipper)
{
    if (shipper->reader == NULL)
        return false;
    struct journal_position at = journal_reader_position(shipper->reader);
    return at.sequence == 0 && at.segment > 1;
}

bool shipper_is_finished(const struct shipper *shipper)
{
    return shipper->finish != 0 && shipper->shipped >= shipper->finish;
}

wall_ms shipper_oldest_unshipped(const struct shipper *shipper)
{
    return shipper_is_finished(shipper) ? 0 : shipper->oldest_unshipped; /* nobody reads on there to see the end */
}

uint64_t shipper_regressions(const struct shipper *shipper)
{
    return shipper->regressions;
}

uint64_t shipper_restored(const struct shipper *shipper)
{
    return shipper->restored + (shipper->restore != NULL ? restore_count(shipper->restore) : 0);
}

const char *shipper_trouble(const struct shipper *shipper)
{
    return shipper->trouble;
}

/* ---- where to read ---- */

/* Keep the last confirmed position, and one of each segment before it: a Redis that lost its last second is not worth
 * reading everything. */
static void keep_mark(struct shipper *shipper, struct journal_position position)
{
    struct journal_position *last = shipper->mark_count > 0 ? &shipper->marks[shipper->mark_count - 1] : NULL;
    if (last != NULL && last->segment == position.segment) {
        bool is_second = shipper->mark_count > 1 && last[-1].segment == position.segment;
        if (is_second) {
            *last = position;
            return;
        }
    }
    if (shipper->mark_count == MARKS_MAX) {
        for (unsigned i = 1; i < MARKS_MAX; i++)
            shipper->marks[i - 1] = shipper->marks[i];
        shipper->mark_count--;
    }
    shipper->marks[shipper->mark_count++] = position;
}

static bool has_segment(const struct shipper *shipper, uint32_t number)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/%08u.seg", shipper->directory, number);
    return access(path, F_OK) == 0;
}

/* Where to go on from, or NULL: at the oldest segment. Segments that nobody needs any more go, and the marks with them.
 */
static const struct journal_position *best_mark(struct shipper *shipper)
{
    while (shipper->mark_count > 0 && shipper->marks[shipper->mark_count - 1].sequence > shipper->shipped)
        shipper->mark_count--;
    if (shipper->mark_count > 0 && !has_segment(shipper, shipper->marks[shipper->mark_count - 1].segment))
        shipper->mark_count = 0;
    return shipper->mark_count > 0 ? &shipper->marks[shipper->mark_count - 1] : NULL;
}

/* Open the reader so that the next record it gives is the one after shipped, or an earlier one. */
static bool open_reader(struct shipper *shipper)
{
    if (shipper->reader != NULL)
        return true;
    shipper->reader = journal_reader_create(shipper->directory, best_mark(shipper));
    return shipper->reader != NULL;
}

/* Whatever was read and not confirmed will be read again. */
static void rewind_to_shipped(struct shipper *shipper)
{
    shipper_rest(shipper);
}

/* ---- a batch ---- */

static enum shipper_result stuck(struct shipper *shipper, const char *trouble)
{
    rewind_to_shipped(shipper);
    shipper->trouble = trouble;
    return SHIPPER_STUCK;
}

enum fill { FILL_READY, FILL_HOLE, FILL_STUCK, FILL_BEHIND };

/* A record that Redis has already. */
static enum fill skip(struct shipper *shipper, const struct record *record)
{
    if (record->type != RECORD_FINISH)
        return FILL_READY;
    shipper->finish = record->sequence;
    if (record->sequence == shipper->shipped)
        return FILL_READY;
    return FILL_BEHIND;
}

/* The record after the last of the batch. */
static enum fill add(struct shipper *shipper, struct ship_batch *batch, const struct record *record)
{
    enum ship_add added = ship_add(batch, record);
    if (added == SHIP_ADDED) {
        if (ship_count(batch) == 1)
            shipper->oldest_unshipped = record->when;
        if (record->type == RECORD_FINISH)
            shipper->finish = record->sequence;
        return FILL_READY;
    }
    if (added == SHIP_IMPOSSIBLE && ship_count(batch) == 0) {
        stuck(shipper, "the journal holds a quantity that no request can have");
        return FILL_STUCK;
    }
    /* The reader has gone past this record; the next turn wants it. */
    rewind_to_shipped(shipper);
    return FILL_READY;
}

/* Records are missing before this one. */
static enum fill note_hole(struct shipper *shipper, const struct record *record)
{
    shipper->oldest_unshipped = record->when;
    return FILL_HOLE;
}

/* Add what comes after shipped, until the batch is full or the journal ends; @ret_end is where that was. */
static enum fill fill(struct shipper *shipper, struct ship_batch *batch, struct journal_position *ret_end)
{
    struct record record;
    enum fill result = FILL_READY;
    while (result == FILL_READY && shipper->reader != NULL) {
        *ret_end = journal_reader_position(shipper->reader);
        enum journal_read read =
            ship_is_full(batch) ? JOURNAL_NO_MORE_YET : journal_read_next(shipper->reader, &record);
        if (read == JOURNAL_NO_MORE_YET || (read == JOURNAL_DAMAGED && ship_count(batch) > 0))
            return FILL_READY;
        if (read == JOURNAL_DAMAGED) {
            stuck(shipper, "the journal is damaged");
            return FILL_STUCK;
        }
        if (record.sequence <= ship_last(batch))
            result = skip(shipper, &record);
        else if (record.sequence == ship_last(batch) + 1)
            result = add(shipper, batch, &record);
        else
            result = note_hole(shipper, &record);
    }
    return result;
}

/* Believe what Redis says that it has. */
static enum shipper_result take_mark(struct shipper *shipper, uint64_t mark, uint64_t last)
{
    if (mark < shipper->shipped)
        shipper->regressions++;
    if (mark < last)
        rewind_to_shipped(shipper);
    shipper->shipped = mark;
    return SHIPPER_MORE;
}

static enum shipper_result apply(struct shipper *shipper, struct ship_batch *batch, struct redis *redis,
                                 uint64_t *ret_mark)
{
    enum redis_result result = ship_apply(batch, redis, ret_mark);
    if (result == REDIS_DONE)
        return SHIPPER_MORE;
    rewind_to_shipped(shipper);
    return result == REDIS_DOWN ? SHIPPER_DOWN : SHIPPER_REFUSED;
}

enum shipper_result shipper_check(struct shipper *shipper, struct ship_batch *batch, struct redis *redis)
{
    uint64_t mark = 0;
    ship_begin(batch, shipper->writer_id, shipper->shipped, shipper->retention_s);
    enum shipper_result result = apply(shipper, batch, redis, &mark);
    if (result != SHIPPER_MORE)
        return result;
    (void) take_mark(shipper, mark, shipper->shipped);
    return SHIPPER_IDLE;
}

/* ---- what the journal no longer has ---- */

/* This writer's part of a sorted list. */
static const struct ledger_name *own_part(const struct shipper *shipper, const struct ledger_name *names, size_t total,
                                          size_t *ret_count)
{
    size_t first = 0;
    while (first < total && strcmp(names[first].writer, shipper->writer_id) < 0)
        first++;
    size_t end = first;
    while (end < total && strcmp(names[end].writer, shipper->writer_id) == 0)
        end++;
    *ret_count = end - first;
    return names + first;
}

/* Segments only go when all their epochs have ledger files: those that there are now have all that came before @first.
 */
static enum shipper_result begin_restore(struct shipper *shipper, uint64_t first)
{
    struct ledger_name *names = NULL;
    size_t total = 0, count = 0;
    if (!ledger_list(shipper->ledger_directory, &names, &total))
        return stuck(shipper, "Redis needs what is in ledger files, and their list cannot be read");
    const struct ledger_name *own = own_part(shipper, names, total, &count);
    struct restore_options options = {.ledger_directory = shipper->ledger_directory,
                                      .writer_id = shipper->writer_id,
                                      .names = own,
                                      .count = count,
                                      .since = clock_wall_ms() - shipper->retention_s * 1000,
                                      .retention_s = shipper->retention_s,
                                      .mark = first - 1};
    shipper->restore_mark = first - 1;
    shipper->restore = restore_create(&options);
    free(names);
    if (shipper->restore == NULL)
        return stuck(shipper, "no memory to put back what Redis lost");
    log_event(count > 0 ? LOG_INFO : LOG_WARNING, "store",
              "Redis lacks records of writer %s that its journal no longer has; there are %zu ledger files of it",
              shipper->writer_id, count);
    return SHIPPER_MORE;
}

static void end_restore(struct shipper *shipper)
{
    shipper->restored += restore_count(shipper->restore);
    restore_destroy(&shipper->restore);
}

static enum shipper_result go_on_restoring(struct shipper *shipper, struct redis *redis)
{
    enum restore_result result = restore_turn(shipper->restore, redis);
    shipper->trouble = "";
    switch (result) {
    case RESTORE_MORE:
        return SHIPPER_MORE;
    case RESTORE_DOWN:
        return SHIPPER_DOWN;
    case RESTORE_REFUSED:
        return SHIPPER_REFUSED;
    case RESTORE_UNREADABLE:
        end_restore(shipper);
        return stuck(shipper, errno == EBADMSG ? "a ledger file, which Redis needs, is damaged"
                                               : "a ledger file, which Redis needs, cannot be read");
    case RESTORE_DONE:
        break;
    }
    end_restore(shipper);
    shipper->shipped = shipper->restore_mark;
    return SHIPPER_MORE;
}

/* The journal begins with record @first, later than what Redis is known to have: what was before was no longer needed.
 */
static enum shipper_result cross_hole(struct shipper *shipper, struct ship_batch *batch, struct redis *redis,
                                      uint64_t first)
{
    rewind_to_shipped(shipper);
    enum shipper_result result = shipper_check(shipper, batch, redis);
    if (result != SHIPPER_IDLE)
        return result;
    return shipper->shipped + 1 >= first ? SHIPPER_MORE : begin_restore(shipper, first);
}

/* The journal's end is before what Redis has: a power cut took what nobody was promised. The journal is what counts. */
static enum shipper_result catch_up(struct shipper *shipper, struct ship_batch *batch, struct redis *redis)
{
    rewind_to_shipped(shipper);
    enum redis_result result = ship_forget(batch, redis);
    if (result != REDIS_DONE)
        return result == REDIS_DOWN ? SHIPPER_DOWN : SHIPPER_REFUSED;
    log_event(LOG_WARNING, "store",
              "Redis had records of writer %s that its journal lost: it gets what the journal has", shipper->writer_id);
    shipper->was_behind = true;
    shipper->shipped = 0;
    return SHIPPER_MORE;
}

/* ---- a turn ---- */

/* The journal says nothing more: it has ended, or the segment in which it is read has gone. */
static enum shipper_result end_of_journal(struct shipper *shipper)
{
    struct journal_position at = journal_reader_position(shipper->reader);
    if (!has_segment(shipper, at.segment) && access(shipper->directory, F_OK) == 0)
        rewind_to_shipped(shipper);
    shipper->oldest_unshipped = 0;
    return SHIPPER_IDLE;
}

enum shipper_result shipper_turn(struct shipper *shipper, struct ship_batch *batch, struct redis *redis)
{
    struct journal_position end = {0};
    uint64_t mark = 0;
    if (shipper->restore != NULL)
        return go_on_restoring(shipper, redis);
    if (!open_reader(shipper))
        return stuck(shipper, "no memory to read the journal");
    ship_begin(batch, shipper->writer_id, shipper->shipped, shipper->retention_s);
    enum fill filled = fill(shipper, batch, &end);
    if (filled == FILL_HOLE && ship_count(batch) == 0)
        return cross_hole(shipper, batch, redis, journal_reader_position(shipper->reader).sequence);
    if (filled == FILL_BEHIND)
        return catch_up(shipper, batch, redis);
    if (filled == FILL_STUCK)
        return SHIPPER_STUCK;
    shipper->trouble = "";
    if (ship_count(batch) == 0)
        return end_of_journal(shipper);
    enum shipper_result result = apply(shipper, batch, redis, &mark);
    if (result != SHIPPER_MORE)
        return result;
    if (mark >= ship_last(batch))
        keep_mark(shipper, end);
    return take_mark(shipper, mark, ship_last(batch));
}
