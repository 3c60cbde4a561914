/* Which epochs Redis lacks is asked for many at a time; each of those is read and put, in calls of bounded length. */
#include "billing/restore.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/panic.h"
#include "billing/ship.h"

enum {
    ASK_MAX = 256,        /* epochs in one question */
    STEP_CELLS_MAX = 500, /* in one call of the script */
    KEY_BYTES = 96,
    NUMBER_BYTES = 24,
    TIMES_BYTES = 2 * NUMBER_BYTES,
    TOKEN_BYTES = 8,
    PROGRESS_BYTES = 2 * TOKEN_BYTES + NUMBER_BYTES,
    CELL_BYTES_MAX = 3 * RECORD_NAME_BYTES_MAX + 32 + NUMBER_BYTES
};

/* Where each word stands: the count of keys, the keys, the arguments. */
enum {
    WORD_KEY_COUNT,
    WORD_MARK,
    WORD_CELLS,
    WORD_SEALED,
    WORD_RESTORING,
    WORD_EXPECTED,
    WORD_PROGRESS,
    WORD_RETENTION,
    WORD_EPOCH,
    WORD_SEAL_TIMES,
    WORD_NEW_MARK,
    WORD_PAIRS
};
enum { WORDS_MAX = WORD_PAIRS + 2 * STEP_CELLS_MAX };
_Static_assert((int) WORDS_MAX <= (int) REDIS_ARGUMENTS_MAX, "a step is one command");

struct restore {
    struct redis_script script;
    char directory[PATH_MAX];
    char writer_id[WRITER_ID_CHARACTERS + 1];
    wall_ms since;
    int64_t retention_s;
    uint64_t mark;
    struct ledger_name *names;
    size_t count;
    size_t next;  /* Redis has those before it */
    size_t asked; /* and of those from there up to here it is known */
    bool is_missing[ASK_MAX];
    size_t put;
    char token[2 * TOKEN_BYTES + 1];
    char progress[PROGRESS_BYTES]; /* what Redis was told last; "" = nothing is begun */
    uint64_t steps;
    char keys[4][KEY_BYTES], numbers[3][NUMBER_BYTES], times[TIMES_BYTES], following[PROGRESS_BYTES];
    struct text words[WORDS_MAX];
    size_t word_count;
    char memory[STEP_CELLS_MAX * CELL_BYTES_MAX];
};

/* billing/restore.lua itself; the assembler reads it. */
__asm__(".pushsection .rodata\n"
        ".hidden restore_script_begin\n"
        ".global restore_script_begin\n"
        "restore_script_begin:\n"
        ".incbin \"billing/restore.lua\"\n"
        ".hidden restore_script_end\n"
        ".global restore_script_end\n"
        "restore_script_end:\n"
        ".byte 0\n"
        ".popsection\n");
extern const char restore_script_begin[], restore_script_end[];

/* ---- life ---- */

/* It ended too long ago, or so long ago that its file went. One that cannot be read is somebody's trouble. */
static bool is_old(const struct restore *restore, const struct ledger_name *name)
{
    struct ledger_head head;
    if (!ledger_read(restore->directory, name, &head, NULL))
        return errno == ENOENT;
    return head.ended < restore->since;
}

/* How many of a writer's epochs, which ended one after the other, are old. */
static size_t count_old(const struct restore *restore, const struct ledger_name *names, size_t count)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (is_old(restore, &names[middle]))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool fill_in(struct restore *restore, const struct restore_options *options)
{
    uint8_t random[TOKEN_BYTES];
    struct text source = {restore_script_begin, (size_t) (restore_script_end - restore_script_begin)};
    ENSURE(options->retention_s > 0);
    restore->since = options->since;
    restore->retention_s = options->retention_s;
    restore->mark = options->mark;
    text_copy(restore->directory, sizeof restore->directory, text_of(options->ledger_directory));
    text_copy(restore->writer_id, sizeof restore->writer_id, text_of(options->writer_id));
    size_t old = count_old(restore, options->names, options->count);
    restore->count = options->count - old;
    restore->names = calloc(restore->count + 1, sizeof *restore->names);
    if (restore->names == NULL || getrandom(random, sizeof random, 0) != (ssize_t) sizeof random)
        return false;
    for (size_t i = 0; i < restore->count; i++)
        restore->names[i] = options->names[old + i];
    text_hex(restore->token, random, sizeof random);
    errno = ENOMEM;
    return redis_script_init(&restore->script, source);
}

struct restore *restore_create(const struct restore_options *options)
{
    struct restore *restore = calloc(1, sizeof *restore);
    if (restore != NULL && !fill_in(restore, options))
        restore_destroy(&restore);
    return restore;
}

void restore_destroy(struct restore **restore)
{
    if (*restore != NULL)
        free((*restore)->names);
    free(*restore);
    *restore = NULL;
}

void restore_skip(struct restore *restore)
{
    restore->next++;
}

bool restore_is_empty(const struct restore *restore)
{
    return restore->count == 0;
}

size_t restore_count(const struct restore *restore)
{
    return restore->put;
}

/* ---- a step ---- */

static void begin_anew(struct restore *restore)
{
    restore->next = restore->asked = 0;
    restore->progress[0] = '\0';
}

static struct text number_word(struct restore *restore, size_t slot, uint64_t number)
{
    snprintf(restore->numbers[slot], NUMBER_BYTES, "%llu", (unsigned long long) number);
    return text_of(restore->numbers[slot]);
}

/* The words of a step that has no cells and completes no epoch. */
static void set_head(struct restore *restore, uint64_t epoch)
{
    const char *writer = restore->writer_id;
    snprintf(restore->keys[0], KEY_BYTES, "tg:{%s}:hw", writer);
    snprintf(restore->keys[1], KEY_BYTES, "tg:{%s}:cells:%llu", writer, (unsigned long long) epoch);
    snprintf(restore->keys[2], KEY_BYTES, "tg:{%s}:sealed", writer);
    snprintf(restore->keys[3], KEY_BYTES, "tg:{%s}:restoring", writer);
    restore->words[WORD_KEY_COUNT] = TEXT("4");
    for (size_t i = 0; i < 4; i++)
        restore->words[WORD_MARK + i] = text_of(restore->keys[i]);
    restore->words[WORD_RETENTION] = number_word(restore, 0, (uint64_t) restore->retention_s + SHIP_MARGIN_S);
    restore->words[WORD_EPOCH] = number_word(restore, 1, epoch);
    restore->words[WORD_SEAL_TIMES] = TEXT("");
    restore->words[WORD_NEW_MARK] = TEXT("0");
    restore->word_count = WORD_PAIRS;
}

enum step { STEP_TAKEN, STEP_LOST, STEP_DOWN, STEP_REFUSED };

/* Whatever it was that did not come back: only from the beginning it is sure what Redis has. */
static enum step take_step(struct restore *restore, struct redis *redis, bool is_end)
{
    const struct text writers[] = {TEXT("SADD"), TEXT("tg:writers"), text_of(restore->writer_id)};
    const struct redis_reply *reply = NULL;
    int64_t taken = 0;
    restore->following[0] = '\0';
    if (!is_end)
        snprintf(restore->following, sizeof restore->following, "%s:%llu", restore->token,
                 (unsigned long long) ++restore->steps);
    restore->words[WORD_EXPECTED] = text_of(restore->progress);
    restore->words[WORD_PROGRESS] = text_of(restore->following);
    redis_ask_before(redis, writers, sizeof writers / sizeof *writers);
    enum redis_result result = redis_run(redis, &restore->script, restore->words, restore->word_count, &reply);
    if (result == REDIS_DONE && redis_reply_integer(reply, &taken) && taken == 1) {
        memcpy(restore->progress, restore->following, sizeof restore->progress);
        return STEP_TAKEN;
    }
    begin_anew(restore);
    if (result == REDIS_DONE)
        return STEP_LOST;
    return result == REDIS_DOWN ? STEP_DOWN : STEP_REFUSED;
}

static enum restore_result result_of(enum step step)
{
    if (step == STEP_DOWN)
        return RESTORE_DOWN;
    return step == STEP_REFUSED ? RESTORE_REFUSED : RESTORE_MORE;
}

static enum restore_result begin(struct restore *restore, struct redis *redis)
{
    set_head(restore, 0);
    return result_of(take_step(restore, redis, false));
}

static enum restore_result end(struct restore *restore, struct redis *redis)
{
    if (restore->mark == 0)
        return RESTORE_DONE;
    set_head(restore, 0);
    restore->words[WORD_NEW_MARK] = number_word(restore, 2, restore->mark);
    enum step step = take_step(restore, redis, true);
    return step == STEP_TAKEN ? RESTORE_DONE : result_of(step);
}

/* ---- which ---- */

static enum restore_result ask(struct restore *restore, struct redis *redis)
{
    struct text words[2 + ASK_MAX] = {TEXT("HMGET")};
    char epochs[ASK_MAX][NUMBER_BYTES];
    const struct redis_reply *reply = NULL;
    size_t count = restore->count - restore->next < ASK_MAX ? restore->count - restore->next : ASK_MAX;
    set_head(restore, 0);
    words[1] = restore->words[WORD_SEALED];
    for (size_t i = 0; i < count; i++) {
        snprintf(epochs[i], NUMBER_BYTES, "%llu", (unsigned long long) restore->names[restore->next + i].epoch);
        words[2 + i] = text_of(epochs[i]);
    }
    enum redis_result result = redis_ask(redis, words, 2 + count, &reply);
    if (result != REDIS_DONE) {
        begin_anew(restore);
        return result == REDIS_DOWN ? RESTORE_DOWN : RESTORE_REFUSED;
    }
    for (size_t i = 0; i < count; i++)
        restore->is_missing[i] =
            i >= redis_reply_count(reply) || redis_reply_text(redis_reply_entry(reply, i)).length == 0;
    restore->asked = restore->next + count;
    return RESTORE_MORE;
}

/* ---- an epoch ---- */

static void add_cell(struct restore *restore, struct builder *to, const struct cell *cell)
{
    const char *field = to->at + to->length;
    builder_format(to, SHIP_FIELD, TEXT_ARGUMENTS(cell->tenant), TEXT_ARGUMENTS(cell->key), TEXT_ARGUMENTS(cell->model),
                   MEASURE_NAMES[cell->measure], COUNT_SOURCE_NAMES[cell->source]);
    const char *sum = to->at + to->length;
    builder_add_int(to, cell->quantity, 1);
    ENSURE(!to->overflowed);
    restore->words[restore->word_count++] = (struct text){field, (size_t) (sum - field)};
    restore->words[restore->word_count++] = (struct text){sum, (size_t) (to->at + to->length - sum)};
}

/* Its cells in one or more steps; the last of them notes that it is sealed. */
static enum step put_cells(struct restore *restore, struct redis *redis, const struct ledger_head *head,
                           const struct cell *cells)
{
    enum step step = STEP_TAKEN;
    size_t done = 0, count = head->cell_count;
    snprintf(restore->times, sizeof restore->times, "%lld,%lld", (long long) head->began, (long long) head->ended);
    do {
        struct builder to;
        size_t until = count - done < STEP_CELLS_MAX ? count : done + STEP_CELLS_MAX;
        builder_init(&to, restore->memory, sizeof restore->memory);
        set_head(restore, head->name.epoch);
        for (; done < until; done++)
            add_cell(restore, &to, &cells[done]);
        if (done == count)
            restore->words[WORD_SEAL_TIMES] = text_of(restore->times);
        step = take_step(restore, redis, done == count && restore->mark == 0);
    } while (step == STEP_TAKEN && done < count);
    return step;
}

static enum restore_result put_epoch(struct restore *restore, struct redis *redis)
{
    struct ledger_head head;
    struct cells *cells = NULL;
    if (!ledger_read(restore->directory, &restore->names[restore->next], &head, &cells)) {
        if (errno != ENOENT)
            return RESTORE_UNREADABLE;
        restore->next++;
        return RESTORE_MORE;
    }
    if (head.ended < restore->since) {
        cells_destroy(&cells);
        restore->next++;
        return RESTORE_MORE;
    }
    struct cell *sorted = cells_sorted(cells);
    enum restore_result result = RESTORE_UNREADABLE;
    if (sorted != NULL) {
        size_t place = restore->next + 1;
        enum step step = put_cells(restore, redis, &head, sorted);
        result = result_of(step);
        if (step == STEP_TAKEN) {
            restore->next = place;
            restore->put++;
        }
    }
    free(sorted);
    cells_destroy(&cells);
    return result;
}

enum restore_result restore_turn(struct restore *restore, struct redis *redis)
{
    size_t base = restore->asked > 0 ? (restore->asked - 1) / ASK_MAX * ASK_MAX : 0;
    if (restore->mark != 0 && restore->progress[0] == '\0')
        return begin(restore, redis);
    while (restore->next < restore->asked && !restore->is_missing[restore->next - base])
        restore->next++;
    if (restore->next == restore->count)
        return end(restore, redis);
    if (restore->next == restore->asked)
        return ask(restore, redis);
    return put_epoch(restore, redis);
}
