/* The list of ledger files is held while a sweep goes through it, a writer after the other. */
#include "billing/sweep.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "billing/restore.h"

enum { KEY_BYTES = 96 };

struct sweep {
    char directory[PATH_MAX];
    int64_t retention_s;
    bool is_wanted; /* from the beginning */
    struct ledger_name *names;
    size_t count, next;      /* those before next are done with */
    size_t end;              /* of the writer in hand */
    struct restore *restore; /* of that writer; NULL: none is in hand */
    /* Redis had its epochs and is asked whether it still has: the first one, so that also what is lost in the middle of
     * a sweep is noticed. */
    char witness[WRITER_ID_CHARACTERS + 1];
    uint64_t restored;
    const char *trouble;
};

struct sweep *sweep_create(const char *ledger_directory, int64_t retention_s)
{
    struct sweep *sweep = calloc(1, sizeof *sweep);
    if (sweep == NULL)
        return NULL;
    text_copy(sweep->directory, sizeof sweep->directory, text_of(ledger_directory));
    sweep->retention_s = retention_s;
    sweep->trouble = "";
    return sweep;
}

static void end_writer(struct sweep *sweep)
{
    size_t put = sweep->restore != NULL ? restore_count(sweep->restore) : 0;
    if (put > 0)
        log_event(LOG_INFO, "store", "%zu epochs of writer %s, which has no journal any more, are in Redis again", put,
                  sweep->names[sweep->next].writer);
    sweep->restored += put;
    restore_destroy(&sweep->restore);
    sweep->next = sweep->end;
}

static void end_sweep(struct sweep *sweep)
{
    free(sweep->names);
    sweep->names = NULL;
    sweep->count = sweep->next = sweep->end = 0;
}

void sweep_destroy(struct sweep **sweep)
{
    if (*sweep != NULL) {
        restore_destroy(&(*sweep)->restore);
        end_sweep(*sweep);
    }
    free(*sweep);
    *sweep = NULL;
}

void sweep_begin(struct sweep *sweep)
{
    sweep->is_wanted = true;
}

void sweep_note_gone(struct sweep *sweep, const char *writer_id)
{
    if (sweep->witness[0] == '\0')
        text_copy(sweep->witness, sizeof sweep->witness, text_of(writer_id));
}

const char *sweep_trouble(const struct sweep *sweep)
{
    return sweep->trouble;
}

uint64_t sweep_restored(const struct sweep *sweep)
{
    return sweep->restored;
}

/* ---- a writer ---- */

static bool list(struct sweep *sweep)
{
    if (sweep->restore != NULL)
        end_writer(sweep);
    end_sweep(sweep);
    sweep->trouble = "";
    sweep->witness[0] = '\0';
    sweep->is_wanted = !ledger_list(sweep->directory, &sweep->names, &sweep->count);
    if (sweep->is_wanted)
        sweep->trouble = "the list of ledger files cannot be read";
    return !sweep->is_wanted;
}

/* Go on to the next writer. False: there is none, or no memory for it now. */
static bool take_writer(struct sweep *sweep, sweep_is_shipped *is_shipped, void *owner)
{
    while (sweep->next < sweep->count) {
        const struct ledger_name *names = sweep->names + sweep->next;
        size_t count = 1;
        while (sweep->next + count < sweep->count && strcmp(names[count].writer, names->writer) == 0)
            count++;
        sweep->end = sweep->next + count;
        struct restore_options options = {.ledger_directory = sweep->directory,
                                          .writer_id = names->writer,
                                          .names = names,
                                          .count = count,
                                          .since = clock_wall_ms() - sweep->retention_s * 1000,
                                          .retention_s = sweep->retention_s};
        if (!is_shipped(owner, names->writer)) {
            sweep->restore = restore_create(&options);
            return sweep->restore != NULL;
        }
        sweep->next = sweep->end;
    }
    return false;
}

static enum sweep_result go_on(struct sweep *sweep, struct redis *redis)
{
    switch (restore_turn(sweep->restore, redis)) {
    case RESTORE_MORE:
        return SWEEP_MORE;
    case RESTORE_DOWN:
        return SWEEP_DOWN;
    case RESTORE_REFUSED:
        return SWEEP_REFUSED;
    case RESTORE_UNREADABLE:
        sweep->trouble = "a ledger file of which Redis lacks the sums cannot be read";
        restore_skip(sweep->restore);
        return SWEEP_MORE;
    case RESTORE_DONE:
        break;
    }
    if (!restore_is_empty(sweep->restore))
        sweep_note_gone(sweep, sweep->names[sweep->next].writer);
    end_writer(sweep);
    return SWEEP_MORE;
}

enum sweep_result sweep_turn(struct sweep *sweep, struct redis *redis, sweep_is_shipped *is_shipped, void *owner)
{
    if (sweep->is_wanted)
        return list(sweep) ? SWEEP_LISTED : SWEEP_IDLE;
    if (sweep->restore == NULL && !take_writer(sweep, is_shipped, owner)) {
        if (sweep->next == sweep->count)
            end_sweep(sweep);
        return SWEEP_IDLE;
    }
    return go_on(sweep, redis);
}

void sweep_check(struct sweep *sweep, struct redis *redis)
{
    char key[KEY_BYTES];
    const struct redis_reply *reply = NULL;
    int64_t there = 1;
    if (sweep->witness[0] == '\0' || sweep->names != NULL)
        return;
    snprintf(key, sizeof key, "tg:{%s}:sealed", sweep->witness);
    const struct text words[] = {TEXT("EXISTS"), text_of(key)};
    if (redis_ask(redis, words, 2, &reply) == REDIS_DONE && redis_reply_integer(reply, &there) && there == 0)
        sweep_begin(sweep);
}
