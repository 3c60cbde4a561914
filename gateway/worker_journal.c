/* The worker's journal: made when the disk allows it, watched, and how it is told to other threads. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gateway/worker.h"

enum { LOOK_EVERY_MS = 1000 };

static void publish(struct worker *worker, const char *trouble)
{
    pthread_mutex_lock(&worker->journal_lock);
    struct worker_journal *status = &worker->journal_status;
    bool is_new = strcmp(status->trouble, trouble) != 0;
    text_copy(status->trouble, sizeof status->trouble, text_of(trouble));
    status->slowest_write_us = worker->journal != NULL ? journal_slowest_write_us(worker->journal) : 0;
    pthread_mutex_unlock(&worker->journal_lock);
    if (is_new && trouble[0] != '\0')
        log_event(LOG_ERROR, "journal", "worker %d refuses new requests: %s", worker->index, trouble);
    else if (is_new)
        log_event(LOG_INFO, "journal", "worker %d records usage again", worker->index);
}

static void make(struct worker *worker)
{
    char trouble[WORKER_TROUBLE_BYTES];
    worker->journal = journal_create(worker->loop, &worker->journal_options);
    if (worker->journal != NULL)
        return;
    snprintf(trouble, sizeof trouble, "a journal cannot be made in state_dir: %s", strerror(errno));
    publish(worker, trouble);
}

void worker_journal_look(struct worker *worker)
{
    if (worker->journal != NULL)
        publish(worker, journal_trouble(worker->journal));
}

static void on_look(struct loop_timer *timer)
{
    struct worker *worker = timer->owner;
    if (worker->journal == NULL)
        make(worker);
    worker_journal_look(worker);
    loop_timer_set(worker->loop, timer, loop_now(worker->loop) + LOOK_EVERY_MS);
}

bool worker_journal_begin(struct worker *worker, const struct journal_options *options)
{
    worker->journal_directory = strdup(options->directory);
    if (worker->journal_directory == NULL || pthread_mutex_init(&worker->journal_lock, NULL) != 0)
        return false;
    worker->journal_options = *options;
    worker->journal_options.directory = worker->journal_directory;
    worker->journal_options.slot = worker->index;
    worker->journal_look = (struct loop_timer){.fire = on_look, .owner = worker};
    loop_timer_set(worker->loop, &worker->journal_look, clock_mono_ms() + LOOK_EVERY_MS);
    make(worker);
    return true;
}

void worker_journal_end(struct worker *worker)
{
    if (worker->journal_directory == NULL)
        return;
    loop_timer_cancel(worker->loop, &worker->journal_look);
    journal_destroy(&worker->journal);
    pthread_mutex_destroy(&worker->journal_lock);
    free(worker->journal_directory);
}

void worker_journal(struct worker *worker, struct worker_journal *ret)
{
    pthread_mutex_lock(&worker->journal_lock);
    *ret = worker->journal_status;
    pthread_mutex_unlock(&worker->journal_lock);
}
