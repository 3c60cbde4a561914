/* One loop: a turn of everything that is due, then what others may see is copied under a short lock. */
#include "billing/biller.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "billing/install_id.h"

enum { TICK_MS = 200, REST_TICK_MS = 1000 };

struct biller {
    /* the thread's own */
    char state_dir[PATH_MAX];
    char install_id[INSTALL_ID_CHARACTERS + 1];
    struct store *store;
    struct loop *loop;
    struct loop_timer tick;
    struct loop_task stop;
    pthread_t thread;
    /* shared */
    pthread_mutex_t lock;
    bool is_stopping;
    struct biller_status status;
};

static void on_tick(struct loop_timer *timer)
{
    struct biller *biller = timer->owner;
    loop_timer_set(biller->loop, &biller->tick, loop_now(biller->loop) + REST_TICK_MS);
}

/* ---- a person's changes ---- */

static void answer(struct loop_task *task)
{
    struct biller_change *change = task->owner;
    change->done(change);
}

static void reply(struct biller_change *change)
{
    change->_task = (struct loop_task){.run = answer, .owner = change};
    loop_post(change->loop, &change->_task);
}

static void on_change(struct loop_task *task)
{
    struct biller_change *change = task->owner;
    text_copy(change->result.reason, sizeof change->result.reason, TEXT("no provider has a row of this id"));
    reply(change);
}

void biller_post(struct biller *biller, struct biller_change *change)
{
    change->result = (struct row_change_result){0};
    change->_task = (struct loop_task){.run = on_change, .owner = change};
    pthread_mutex_lock(&biller->lock);
    bool is_late = biller->is_stopping;
    if (!is_late)
        loop_post(biller->loop, &change->_task);
    pthread_mutex_unlock(&biller->lock);
    if (!is_late)
        return;
    text_copy(change->result.reason, sizeof change->result.reason, TEXT("the gateway ends: ask again after its start"));
    reply(change);
}

void biller_status(struct biller *biller, struct biller_status *ret)
{
    pthread_mutex_lock(&biller->lock);
    *ret = biller->status;
    pthread_mutex_unlock(&biller->lock);
}

/* ---- life ---- */

static void on_stop(struct loop_task *task)
{
    struct biller *biller = task->owner;
    loop_stop(biller->loop);
}

static void *run(void *argument)
{
    struct biller *biller = argument;
    loop_run(biller->loop);
    return NULL;
}

static bool make_directory(const struct biller *biller, const char *name, char error[BILLER_ERROR_BYTES])
{
    char memory[PATH_MAX];
    struct builder path;
    builder_init(&path, memory, sizeof memory);
    builder_format(&path, "%s/%s", biller->state_dir, name);
    if (!path.overflowed && (mkdir(builder_string(&path), 0700) == 0 || errno == EEXIST))
        return true;
    const char *why = path.overflowed ? "its name is too long" : strerror(errno);
    snprintf(error, BILLER_ERROR_BYTES, "cannot make %s in state_dir: %s", name, why);
    return false;
}

static bool prepare(struct biller *biller, char error[BILLER_ERROR_BYTES])
{
    if (!make_directory(biller, "journal", error) || !make_directory(biller, "ledger", error) ||
        !make_directory(biller, "billing", error) ||
        !install_id_make(biller->state_dir, biller->install_id, error, BILLER_ERROR_BYTES))
        return false;
    biller->loop = loop_create();
    if (biller->loop == NULL)
        snprintf(error, BILLER_ERROR_BYTES, "the billing thread has no event loop: %s", strerror(errno));
    return biller->loop != NULL;
}

static void release(struct biller *biller)
{
    if (biller->loop != NULL)
        loop_timer_cancel(biller->loop, &biller->tick);
    loop_destroy(biller->loop);
    pthread_mutex_destroy(&biller->lock);
    free(biller);
}

/* Signals are for other threads. */
static int start_thread(struct biller *biller)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&biller->thread, NULL, run, biller);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

struct biller *biller_start(const struct biller_options *options, char error[BILLER_ERROR_BYTES])
{
    struct biller *biller = calloc(1, sizeof *biller);
    if (biller == NULL) {
        text_copy(error, BILLER_ERROR_BYTES, TEXT("no memory for the billing thread"));
        return NULL;
    }
    text_copy(biller->state_dir, sizeof biller->state_dir, text_of(options->state_dir));
    biller->store = options->store;
    pthread_mutex_init(&biller->lock, NULL);
    biller->tick = (struct loop_timer){.fire = on_tick, .owner = biller};
    biller->stop = (struct loop_task){.run = on_stop, .owner = biller};
    bool is_ready = prepare(biller, error);
    if (is_ready)
        loop_timer_set(biller->loop, &biller->tick, loop_now(biller->loop));
    int failure = is_ready ? start_thread(biller) : 0;
    if (failure != 0)
        snprintf(error, BILLER_ERROR_BYTES, "the billing thread does not start: %s", strerror(failure));
    if (is_ready && failure == 0)
        return biller;
    release(biller);
    return NULL;
}

void biller_stop(struct biller **biller_pointer)
{
    struct biller *biller = *biller_pointer;
    *biller_pointer = NULL;
    if (biller == NULL)
        return;
    pthread_mutex_lock(&biller->lock);
    biller->is_stopping = true;
    loop_post(biller->loop, &biller->stop);
    pthread_mutex_unlock(&biller->lock);
    pthread_join(biller->thread, NULL);
    release(biller);
}
