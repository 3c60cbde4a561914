/* The words of one call of ship.lua, which is part of the program, as forget.lua is. */
#include "billing/ship.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

enum {
    MEASURES_MAX = 4,    /* of one record */
    INCREMENT_WORDS = 3, /* sequence, field, quantity */
    KEY_BYTES = 96,      /* of each of the four keys */
    NUMBER_BYTES = 24,   /* 20 digits */
    FIELD_BYTES_MAX = 3 * RECORD_NAME_BYTES_MAX + 32,
    MEMORY_BYTES = SHIP_RECORDS_MAX * MEASURES_MAX * (FIELD_BYTES_MAX + 2 * NUMBER_BYTES)
};

/* Where each word stands: the count of keys, the keys, the arguments. */
enum {
    WORD_KEY_COUNT,
    WORD_MARK,
    WORD_CELLS,
    WORD_SEALED,
    WORD_FIRST,
    WORD_LAST,
    WORD_RETENTION,
    WORD_EPOCH,
    WORD_SEAL,
    WORD_SEAL_TIMES,
    WORD_INCREMENTS
};
enum { WORDS_MAX = WORD_INCREMENTS + SHIP_RECORDS_MAX * MEASURES_MAX * INCREMENT_WORDS };
_Static_assert((int) WORDS_MAX <= (int) REDIS_ARGUMENTS_MAX, "a batch is one command");

struct ship_batch {
    struct redis_script script, forget_script;
    char writer_id[33];
    uint64_t after, last, epoch; /* epoch 0: none known yet */
    int64_t retention_s;
    size_t count, word_count;
    uint64_t seal; /* sequence of the SEAL, or 0 */
    struct text words[WORDS_MAX];
    char keys[3][KEY_BYTES], numbers[5][NUMBER_BYTES], seal_times[2 * NUMBER_BYTES];
    size_t used; /* of memory */
    char memory[MEMORY_BYTES];
};

/* billing/ship.lua and forget.lua themselves; the assembler reads them. */
__asm__(".pushsection .rodata\n"
        ".hidden ship_script_begin\n"
        ".global ship_script_begin\n"
        "ship_script_begin:\n"
        ".incbin \"billing/ship.lua\"\n"
        ".hidden ship_script_end\n"
        ".global ship_script_end\n"
        "ship_script_end:\n"
        ".byte 0\n"
        ".hidden forget_script_begin\n"
        ".global forget_script_begin\n"
        "forget_script_begin:\n"
        ".incbin \"billing/forget.lua\"\n"
        ".hidden forget_script_end\n"
        ".global forget_script_end\n"
        "forget_script_end:\n"
        ".byte 0\n"
        ".popsection\n");
extern const char ship_script_begin[], ship_script_end[], forget_script_begin[], forget_script_end[];

struct ship_batch *ship_batch_create(void)
{
    struct ship_batch *batch = calloc(1, sizeof *batch);
    struct text source = {ship_script_begin, (size_t) (ship_script_end - ship_script_begin)};
    struct text forget_source = {forget_script_begin, (size_t) (forget_script_end - forget_script_begin)};
    if (batch != NULL &&
        !(redis_script_init(&batch->script, source) && redis_script_init(&batch->forget_script, forget_source)))
        ship_batch_destroy(&batch);
    return batch;
}

void ship_batch_destroy(struct ship_batch **batch)
{
    free(*batch);
    *batch = NULL;
}

void ship_begin(struct ship_batch *batch, const char *writer_id, uint64_t after, int64_t retention_s)
{
    ENSURE(retention_s > 0);
    text_copy(batch->writer_id, sizeof batch->writer_id, text_of(writer_id));
    batch->after = batch->last = after;
    batch->retention_s = retention_s;
    batch->count = batch->used = 0;
    batch->epoch = batch->seal = 0;
    batch->word_count = WORD_INCREMENTS;
    batch->seal_times[0] = '\0';
}

uint64_t ship_last(const struct ship_batch *batch)
{
    return batch->last;
}

size_t ship_count(const struct ship_batch *batch)
{
    return batch->count;
}

bool ship_is_full(const struct ship_batch *batch)
{
    return batch->count == SHIP_RECORDS_MAX || batch->seal != 0;
}

/* ---- words ---- */

__attribute__((format(printf, 2, 3))) static void add_word(struct ship_batch *batch, const char *format, ...)
{
    struct builder to;
    va_list arguments;
    builder_init(&to, batch->memory + batch->used, sizeof batch->memory - batch->used);
    va_start(arguments, format);
    builder_format_list(&to, format, arguments);
    va_end(arguments);
    (void) builder_string(&to);
    ENSURE(!to.overflowed && batch->word_count < WORDS_MAX);
    batch->words[batch->word_count++] = builder_text(&to);
    batch->used += to.length + 1;
}

static void add_increment(struct ship_batch *batch, const struct record *close, const char *measure,
                          enum count_source source, int64_t quantity)
{
    if (quantity == 0)
        return;
    add_word(batch, "%llu", (unsigned long long) close->sequence);
    add_word(batch, SHIP_FIELD, TEXT_ARGUMENTS(close->tenant), TEXT_ARGUMENTS(close->key), TEXT_ARGUMENTS(close->model),
             measure, COUNT_SOURCE_NAMES[source]);
    add_word(batch, "%lld", (long long) quantity);
}

static bool is_possible(int64_t quantity)
{
    return quantity >= 0 && quantity <= SHIP_QUANTITY_MAX;
}

static void add_close(struct ship_batch *batch, const struct record *close)
{
    add_increment(batch, close, "requests", COUNT_NONE, 1);
    add_increment(batch, close, "input_tokens", close->input_source, close->input_tokens);
    add_increment(batch, close, "cached_input_tokens", close->input_source, close->cached_input_tokens);
    add_increment(batch, close, "output_tokens", close->output_source, close->output_tokens);
}

enum ship_add ship_add(struct ship_batch *batch, const struct record *record)
{
    bool has_epoch = record->type == RECORD_CLOSE || record->type == RECORD_SEAL;
    ENSURE(record->sequence == batch->last + 1);
    if (ship_is_full(batch))
        return SHIP_FULL;
    if (has_epoch && batch->epoch != 0 && batch->epoch != record->epoch)
        return SHIP_FULL;
    bool is_billed = record->type == RECORD_CLOSE && record->billed;
    if (is_billed && !(is_possible(record->input_tokens) && is_possible(record->cached_input_tokens) &&
                       is_possible(record->output_tokens)))
        return SHIP_IMPOSSIBLE;
    if (has_epoch)
        batch->epoch = record->epoch;
    if (is_billed)
        add_close(batch, record);
    if (record->type == RECORD_SEAL) {
        batch->seal = record->sequence;
        snprintf(batch->seal_times, sizeof batch->seal_times, "%lld,%lld", (long long) record->epoch_began,
                 (long long) record->when);
    }
    batch->last = record->sequence;
    batch->count++;
    return SHIP_ADDED;
}

/* ---- the call ---- */

static void set_number(struct ship_batch *batch, size_t word, size_t slot, uint64_t number)
{
    snprintf(batch->numbers[slot], NUMBER_BYTES, "%llu", (unsigned long long) number);
    batch->words[word] = text_of(batch->numbers[slot]);
}

static void set_head(struct ship_batch *batch)
{
    batch->words[WORD_KEY_COUNT] = TEXT("3");
    snprintf(batch->keys[0], KEY_BYTES, "tg:{%s}:hw", batch->writer_id);
    snprintf(batch->keys[1], KEY_BYTES, "tg:{%s}:cells:%llu", batch->writer_id, (unsigned long long) batch->epoch);
    snprintf(batch->keys[2], KEY_BYTES, "tg:{%s}:sealed", batch->writer_id);
    for (size_t i = 0; i < 3; i++)
        batch->words[WORD_MARK + i] = text_of(batch->keys[i]);
    set_number(batch, WORD_FIRST, 0, batch->after + 1);
    set_number(batch, WORD_LAST, 1, batch->last);
    set_number(batch, WORD_RETENTION, 2, (uint64_t) batch->retention_s + SHIP_MARGIN_S);
    set_number(batch, WORD_EPOCH, 3, batch->epoch);
    set_number(batch, WORD_SEAL, 4, batch->seal);
    batch->words[WORD_SEAL_TIMES] = text_of(batch->seal_times);
}

enum redis_result ship_apply(struct ship_batch *batch, struct redis *redis, uint64_t *ret_mark)
{
    const struct text writers[] = {TEXT("SADD"), TEXT("tg:writers"), text_of(batch->writer_id)};
    const struct redis_reply *reply = NULL;
    int64_t mark = 0;
    set_head(batch);
    redis_ask_before(redis, writers, sizeof writers / sizeof *writers);
    enum redis_result result = redis_run(redis, &batch->script, batch->words, batch->word_count, &reply);
    if (result != REDIS_DONE)
        return result;
    if (!redis_reply_integer(reply, &mark) || mark < 0)
        return REDIS_REFUSED;
    *ret_mark = (uint64_t) mark;
    return REDIS_DONE;
}

enum redis_result ship_forget(struct ship_batch *batch, struct redis *redis)
{
    char cells[KEY_BYTES];
    batch->epoch = 0;
    set_head(batch);
    snprintf(cells, sizeof cells, "tg:{%s}:cells:", batch->writer_id);
    const struct text words[] = {TEXT("2"), text_of(batch->keys[0]), text_of(batch->keys[2]), text_of(cells)};
    return redis_run(redis, &batch->forget_script, words, sizeof words / sizeof *words, NULL);
}
