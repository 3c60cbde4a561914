/* What a journal amounts to, added up here on its own, and whether Redis says the same, cell by cell. */
#ifndef TESTS_LIB_LEDGER_ROOM_H
#define TESTS_LIB_LEDGER_ROOM_H

#include "tests/lib/journal_room.h"
#include "tests/lib/redis_room.h"

enum { LEDGER_CELLS_MAX = 128, LEDGER_EPOCHS_MAX = 256 };

struct ledger_cell {
    char field[128];
    int64_t sum;
};
struct ledger_epoch {
    size_t cells;
    struct ledger_cell cell[LEDGER_CELLS_MAX];
    char sealed[64]; /* "" = it is open */
};
struct ledger {
    uint64_t records, last_epoch;
    struct ledger_epoch epochs[LEDGER_EPOCHS_MAX];
};

static inline void ledger_add(struct ledger_epoch *epoch, const struct record *close, const char *rest,
                              int64_t quantity)
{
    char field[128];
    size_t i = 0;
    if (quantity == 0)
        return;
    snprintf(field, sizeof field, "%.*s\x1f%.*s\x1f%.*s\x1f%s", TEXT_ARGUMENTS(close->tenant),
             TEXT_ARGUMENTS(close->key), TEXT_ARGUMENTS(close->model), rest);
    while (i < epoch->cells && strcmp(epoch->cell[i].field, field) != 0)
        i++;
    assert_true(i < LEDGER_CELLS_MAX);
    if (i == epoch->cells)
        memcpy(epoch->cell[epoch->cells++].field, field, sizeof field);
    epoch->cell[i].sum += quantity;
}

static inline void ledger_add_close(struct ledger_epoch *epoch, const struct record *close)
{
    static const char *const names[] = {"none", "engine", "counted", "estimated"};
    char rest[64];
    ledger_add(epoch, close, "requests\x1fnone", 1);
    snprintf(rest, sizeof rest, "input_tokens\x1f%s", names[close->input_source]);
    ledger_add(epoch, close, rest, close->input_tokens);
    snprintf(rest, sizeof rest, "cached_input_tokens\x1f%s", names[close->input_source]);
    ledger_add(epoch, close, rest, close->cached_input_tokens);
    snprintf(rest, sizeof rest, "output_tokens\x1f%s", names[close->output_source]);
    ledger_add(epoch, close, rest, close->output_tokens);
}

static inline void ledger_add_record(struct ledger *ledger, const struct record *record)
{
    bool has_epoch = record->type == RECORD_CLOSE || record->type == RECORD_SEAL;
    ledger->records = record->sequence;
    assert_true(!has_epoch || record->epoch < LEDGER_EPOCHS_MAX);
    struct ledger_epoch *epoch = &ledger->epochs[has_epoch ? record->epoch : 0];
    if (has_epoch)
        ledger->last_epoch = record->epoch;
    if (record->type == RECORD_CLOSE && record->billed)
        ledger_add_close(epoch, record);
    if (record->type == RECORD_SEAL)
        snprintf(epoch->sealed, sizeof epoch->sealed, "%lld,%lld", (long long) record->epoch_began,
                 (long long) record->when);
}

static inline struct ledger *ledger_room_read(const char *writer_directory)
{
    struct ledger *ledger = calloc(1, sizeof *ledger);
    struct journal_reader *reader = journal_reader_create(writer_directory, NULL);
    struct record record;
    assert_true(ledger != NULL && reader != NULL);
    while (journal_read_next(reader, &record) == JOURNAL_RECORD)
        ledger_add_record(ledger, &record);
    journal_reader_destroy(&reader);
    return ledger;
}

/* The same fields with the same sums, and no other. */
static inline bool ledger_epoch_equals(const struct ledger_epoch *epoch, const struct redis_reply *hash)
{
    if (redis_reply_count(hash) != 2 * epoch->cells)
        return false;
    for (size_t i = 0; i < redis_reply_count(hash); i += 2) {
        struct text field = redis_reply_text(redis_reply_entry(hash, i));
        int64_t sum = 0;
        size_t j = 0;
        while (j < epoch->cells && !text_equal(field, text_of(epoch->cell[j].field)))
            j++;
        if (j == epoch->cells || !text_to_int64(redis_reply_text(redis_reply_entry(hash, i + 1)), &sum) ||
            sum != epoch->cell[j].sum)
            return false;
    }
    return true;
}

/* Redis says of @writer_id's epochs what the ledger says. */
static inline bool ledger_has_epochs(struct redis_room *redis, const struct ledger *ledger, const char *writer_id)
{
    char key[128], number[32];
    bool is_exact = true;
    for (uint64_t i = 1; is_exact && i <= ledger->last_epoch; i++) {
        snprintf(number, sizeof number, "%llu", (unsigned long long) i);
        snprintf(key, sizeof key, "tg:{%s}:cells:%s", writer_id, number);
        is_exact = ledger_epoch_equals(&ledger->epochs[i], REDIS_ROOM_ASK(redis, "HGETALL", key));
        snprintf(key, sizeof key, "tg:{%s}:sealed", writer_id);
        struct text sealed = redis_reply_text(REDIS_ROOM_ASK(redis, "HGET", key, number));
        is_exact = is_exact && text_equal(sealed, text_of(ledger->epochs[i].sealed));
    }
    return is_exact;
}

/* And of its last record. */
static inline bool ledger_equals(struct redis_room *redis, const struct ledger *ledger, const char *writer_id)
{
    char key[128];
    int64_t mark = 0;
    snprintf(key, sizeof key, "tg:{%s}:hw", writer_id);
    return text_to_int64(redis_reply_text(REDIS_ROOM_ASK(redis, "GET", key)), &mark) &&
           (uint64_t) mark == ledger->records && ledger_has_epochs(redis, ledger, writer_id);
}

/* Redis says of @writer_id what its journal says. */
static inline bool ledger_is_exact(struct redis_room *redis, const char *writer_directory, const char *writer_id)
{
    struct ledger *ledger = ledger_room_read(writer_directory);
    bool is_exact = ledger_equals(redis, ledger, writer_id);
    free(ledger);
    return is_exact;
}

/* A random request's CLOSE: three tenants, two models, some of it not billed. */
static inline struct record ledger_close_record(unsigned number, wall_ms when)
{
    static const char *const tenants[] = {"acme", "beta", "tenant of many words"}, *const models[] = {"gemma", "qwen"};
    struct record close = room_close_record(number, when);
    close.tenant = text_of(tenants[unit_random_below(3)]);
    close.model = text_of(models[unit_random_below(2)]);
    close.billed = unit_random_below(10) != 0;
    close.input_tokens = (int64_t) unit_random_below(5000);
    close.cached_input_tokens = (int64_t) unit_random_below((size_t) close.input_tokens + 1);
    close.output_tokens = (int64_t) unit_random_below(3000);
    close.input_source = (enum count_source)(1 + unit_random_below(3));
    close.output_source = (enum count_source)(1 + unit_random_below(3));
    return close;
}

/* @count more requests, @apart_ms from each other. */
static inline void ledger_room_write(struct room *room, unsigned *number, unsigned count, wall_ms apart_ms)
{
    for (unsigned i = 0; i < count; i++) {
        wall_ms when = ROOM_HOUR + (wall_ms) *number * apart_ms;
        struct record close = ledger_close_record(*number, when);
        assert_true(room_open(room, *number, when, NULL));
        journal_close(room->journal, &close, NULL);
        ++*number;
        if (i % 16 == 15 || i + 1 == count)
            room_turn(room);
    }
}

#endif
