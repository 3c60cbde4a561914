/* A journal of its own on a loop of its own, in a directory that is removed; and what the files say afterwards. */
#ifndef TESTS_LIB_JOURNAL_ROOM_H
#define TESTS_LIB_JOURNAL_ROOM_H

#include <ftw.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "billing/journal.h"
#include "billing/recover.h"
#include "tests/lib/unit.h"

enum { ROOM_HANG_SECONDS = 120, ROOM_HOUR_MS = 3600 * 1000, ROOM_EPOCH_MS = 300 * 1000 };

/* 2026-11-22T16:00:00Z */
static const wall_ms ROOM_HOUR = 1795363200000;

struct room {
    char directory[64];
    char writer[PATH_MAX];
    struct loop *loop;
    struct journal *journal;
    struct journal_options options;
};

/* A request's wait and what it was told. */
struct room_wait {
    struct journal_wait wait;
    int calls;
    bool ok;
};

static inline void room_told(struct journal_wait *wait, bool ok)
{
    struct room_wait *told = wait->owner;
    told->calls++;
    told->ok = ok;
}

static inline struct room_wait *room_wait_init(struct room_wait *wait)
{
    *wait = (struct room_wait){.wait = {.durable = room_told, .owner = wait}};
    return wait;
}

static inline void room_init(struct room *room)
{
    alarm(ROOM_HANG_SECONDS);
    *room = (struct room){.directory = "/tmp/tollgate-journal-XXXXXX"};
    assert_non_null(mkdtemp(room->directory));
    room->loop = loop_create();
    assert_non_null(room->loop);
    room->options = (struct journal_options){.directory = room->directory,
                                             .sync = JOURNAL_OS,
                                             .segment_bytes = JOURNAL_SEGMENT_BYTES,
                                             .epoch_ms = ROOM_EPOCH_MS};
}

static inline void room_begin(struct room *room)
{
    room->journal = journal_create(room->loop, &room->options);
    assert_non_null(room->journal);
    struct builder writer;
    builder_init(&writer, room->writer, sizeof room->writer);
    builder_format(&writer, "%s/%d-%s", room->directory, room->options.slot, journal_writer_id(room->journal));
    (void) builder_string(&writer);
}

static inline int room_remove(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void) status;
    (void) type;
    (void) where;
    return remove(path);
}

static inline void room_finish(struct room *room)
{
    journal_destroy(&room->journal);
    loop_destroy(room->loop);
    nftw(room->directory, room_remove, 8, FTW_DEPTH | FTW_PHYS);
    alarm(0);
}

static inline void room_turn(struct room *room)
{
    loop_run_once(room->loop, 0);
}

/* The id of request @number; valid until the fourth next call. */
static inline struct text room_id(unsigned number)
{
    static _Thread_local char ids[4][RECORD_ID_BYTES_MAX];
    static _Thread_local unsigned next;
    char *id = ids[next++ % 4];
    snprintf(id, RECORD_ID_BYTES_MAX, "req-%08u", number);
    return text_of(id);
}

static inline struct record room_open_record(unsigned number, wall_ms when)
{
    return (struct record){.type = RECORD_OPEN,
                           .request_id = room_id(number),
                           .tenant = TEXT("acme"),
                           .key = TEXT("key-1"),
                           .model = TEXT("gemma"),
                           .when = when,
                           .input_tokens = 11};
}

static inline struct record room_close_record(unsigned number, wall_ms when)
{
    struct record record = room_open_record(number, when);
    record.type = RECORD_CLOSE;
    record.output_tokens = 22;
    record.input_source = record.output_source = COUNT_ENGINE;
    record.end = END_COMPLETE;
    record.billed = true;
    return record;
}

static inline bool room_open(struct room *room, unsigned number, wall_ms when, struct room_wait *wait)
{
    struct record record = room_open_record(number, when);
    return journal_open(room->journal, &record, wait != NULL ? &room_wait_init(wait)->wait : NULL);
}

static inline void room_close(struct room *room, unsigned number, wall_ms when, struct room_wait *wait)
{
    struct record record = room_close_record(number, when);
    journal_close(room->journal, &record, wait != NULL ? &room_wait_init(wait)->wait : NULL);
}

/* What a whole journal amounts to, its rules checked on the way. */
struct room_sum {
    unsigned records, opens, progresses, closes, seals, finishes;
    unsigned crashed;
    uint64_t last_epoch; /* sealed */
    enum journal_read end;
};

enum { ROOM_REQUESTS_MAX = 20000 };

/* Every CLOSE stands in the epoch that is sealed next, and that epoch in one hour. */
static inline struct room_sum room_read(const char *writer)
{
    static _Thread_local uint8_t opened[ROOM_REQUESTS_MAX], closed[ROOM_REQUESTS_MAX];
    struct room_sum sum = {0};
    struct record record;
    struct journal_reader *reader = journal_reader_create(writer, NULL);
    wall_ms began = -1, ended = -1; /* of the CLOSEs since the last SEAL */
    memset(opened, 0, sizeof opened);
    memset(closed, 0, sizeof closed);
    while ((sum.end = journal_read_next(reader, &record)) == JOURNAL_RECORD) {
        unsigned number = record.request_id.length > 4 ? (unsigned) strtoul(record.request_id.at + 4, NULL, 10) : 0;
        assert_int_equal(record.sequence, ++sum.records);
        assert_int_equal(sum.finishes, 0);
        assert_true(number < ROOM_REQUESTS_MAX);
        sum.opens += record.type == RECORD_OPEN;
        sum.progresses += record.type == RECORD_PROGRESS;
        sum.finishes += record.type == RECORD_FINISH;
        if (record.type == RECORD_OPEN)
            assert_int_equal(++opened[number], 1);
        if (record.type == RECORD_CLOSE) {
            sum.closes++;
            sum.crashed += record.end == END_CRASH;
            assert_int_equal(opened[number], 1);
            assert_int_equal(++closed[number], 1);
            assert_int_equal(record.epoch, sum.last_epoch + 1);
            began = began < 0 || record.when < began ? record.when : began;
            ended = record.when > ended ? record.when : ended;
        }
        if (record.type == RECORD_SEAL) {
            assert_int_equal(record.epoch, ++sum.last_epoch);
            assert_true(began >= 0 && record.epoch_began == began && record.when == ended);
            assert_int_equal(began / ROOM_HOUR_MS, ended / ROOM_HOUR_MS);
            sum.seals++;
            began = ended = -1;
        }
    }
    assert_true(sum.finishes == 0 || began < 0);
    journal_reader_destroy(&reader);
    return sum;
}

#endif
