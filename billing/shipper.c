/* Nothing is remembered over a restart: the mark that Redis returns says where to go on, whatever happened to either.
 */
#include "billing/shipper.h"

#include <limits.h>
#include <stdlib.h>

#include "billing/journal.h"
#include "billing/recover.h"

enum { MARKS_MAX = 32 };

struct shipper {
    char directory[PATH_MAX];
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
};

struct shipper *shipper_create(const char *writer_directory, const char *writer_id, int64_t retention_s)
{
    struct shipper *shipper = calloc(1, sizeof *shipper);
    if (shipper == NULL)
        return NULL;
    text_copy(shipper->directory, sizeof shipper->directory, text_of(writer_directory));
    text_copy(shipper->writer_id, sizeof shipper->writer_id, text_of(writer_id));
    shipper->retention_s = retention_s;
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
    if (*shipper != NULL)
        shipper_rest(*shipper);
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

bool shipper_is_finished(const struct shipper *shipper)
{
    return shipper->finish != 0 && shipper->shipped >= shipper->finish;
}

wall_ms shipper_oldest_unshipped(const struct shipper *shipper)
{
    return shipper->oldest_unshipped;
}

uint64_t shipper_regressions(const struct shipper *shipper)
{
    return shipper->regressions;
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

/* Open the reader so that the next record it gives is the one after shipped, or an earlier one. */
static bool open_reader(struct shipper *shipper)
{
    if (shipper->reader != NULL)
        return true;
    while (shipper->mark_count > 0 && shipper->marks[shipper->mark_count - 1].sequence > shipper->shipped)
        shipper->mark_count--;
    const struct journal_position *from = shipper->mark_count > 0 ? &shipper->marks[shipper->mark_count - 1] : NULL;
    shipper->reader = journal_reader_create(shipper->directory, from);
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

enum fill { FILL_READY, FILL_HOLE, FILL_STUCK };

/* A record that Redis has already. */
static enum fill skip(struct shipper *shipper, const struct record *record)
{
    if (record->type != RECORD_FINISH)
        return FILL_READY;
    shipper->finish = record->sequence;
    if (record->sequence == shipper->shipped)
        return FILL_READY;
    stuck(shipper, "Redis has records that the journal lost: its sums of this writer are not those of the ledger");
    return FILL_STUCK;
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
            result = FILL_HOLE;
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

/* The journal begins later than what Redis is known to have: its first segments were no longer needed. */
static enum shipper_result cross_hole(struct shipper *shipper, struct ship_batch *batch, struct redis *redis)
{
    uint64_t known = shipper->shipped;
    rewind_to_shipped(shipper);
    enum shipper_result result = shipper_check(shipper, batch, redis);
    if (result != SHIPPER_IDLE)
        return result;
    if (shipper->shipped > known)
        return SHIPPER_MORE;
    return stuck(shipper, "Redis lacks records that the journal no longer has: only the ledger has them");
}

enum shipper_result shipper_turn(struct shipper *shipper, struct ship_batch *batch, struct redis *redis)
{
    struct journal_position end = {0};
    uint64_t mark = 0;
    if (!open_reader(shipper))
        return stuck(shipper, "no memory to read the journal");
    ship_begin(batch, shipper->writer_id, shipper->shipped, shipper->retention_s);
    enum fill filled = fill(shipper, batch, &end);
    if (filled == FILL_HOLE && ship_count(batch) == 0)
        return cross_hole(shipper, batch, redis);
    if (filled == FILL_STUCK)
        return SHIPPER_STUCK;
    shipper->trouble = "";
    if (ship_count(batch) == 0) {
        shipper->oldest_unshipped = 0;
        return SHIPPER_IDLE;
    }
    enum shipper_result result = apply(shipper, batch, redis, &mark);
    if (result != SHIPPER_MORE)
        return result;
    if (mark >= ship_last(batch))
        keep_mark(shipper, end);
    return take_mark(shipper, mark, ship_last(batch));
}
