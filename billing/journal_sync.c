/* The thread that calls fdatasync for one journal. */
#include "billing/journal_sync.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

struct journal_sync_thread {
    struct loop *loop;
    journal_synced *synced;
    void *owner;
    pthread_t thread;
    struct loop_task told; /* posted while @tell is false */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under the lock */
    int fd;
    int old_fd; /* to be synced and closed first, or -1 */
    uint64_t asked, done;
    bool ok, told_posted, stopping;
};

static void tell(struct loop_task *task)
{
    struct journal_sync_thread *sync = task->owner;
    pthread_mutex_lock(&sync->lock);
    sync->told_posted = false;
    uint64_t done = sync->done;
    bool ok = sync->ok, stopping = sync->stopping;
    pthread_mutex_unlock(&sync->lock);
    if (!stopping)
        sync->synced(sync->owner, done, ok);
}

/* With the lock held; it is let go while the disk works. */
static void sync_once(struct journal_sync_thread *sync)
{
    int fd = sync->fd, old_fd = sync->old_fd;
    uint64_t asked = sync->asked;
    sync->old_fd = -1;
    pthread_mutex_unlock(&sync->lock);
    bool ok = old_fd < 0 || fdatasync(old_fd) == 0;
    if (old_fd >= 0)
        close(old_fd);
    ok = fdatasync(fd) == 0 && ok;
    pthread_mutex_lock(&sync->lock);
    sync->done = asked;
    sync->ok = ok;
    if (!sync->told_posted && !sync->stopping) {
        sync->told_posted = true;
        loop_post(sync->loop, &sync->told);
    }
}

static void *run(void *context)
{
    struct journal_sync_thread *sync = context;
    pthread_mutex_lock(&sync->lock);
    for (;;) {
        while (sync->asked == sync->done && !sync->stopping)
            pthread_cond_wait(&sync->wake, &sync->lock);
        bool stopping = sync->stopping;
        if (sync->asked != sync->done || stopping)
            sync_once(sync);
        if (stopping)
            break;
    }
    pthread_mutex_unlock(&sync->lock);
    return NULL;
}

struct journal_sync_thread *journal_sync_create(struct loop *loop, int fd, journal_synced *synced, void *owner)
{
    struct journal_sync_thread *sync = calloc(1, sizeof *sync);
    if (sync == NULL)
        return NULL;
    *sync = (struct journal_sync_thread){
        .loop = loop, .synced = synced, .owner = owner, .fd = fd, .old_fd = -1, .ok = true};
    sync->told = (struct loop_task){.run = tell, .owner = sync};
    pthread_mutex_init(&sync->lock, NULL);
    pthread_cond_init(&sync->wake, NULL);
    if (pthread_create(&sync->thread, NULL, run, sync) != 0) {
        free(sync);
        return NULL;
    }
    return sync;
}

void journal_sync_ask(struct journal_sync_thread *sync, uint64_t sequence)
{
    pthread_mutex_lock(&sync->lock);
    if (sequence > sync->asked) {
        sync->asked = sequence;
        pthread_cond_signal(&sync->wake);
    }
    pthread_mutex_unlock(&sync->lock);
}

void journal_sync_switch(struct journal_sync_thread *sync, int old_fd, int next_fd)
{
    pthread_mutex_lock(&sync->lock);
    if (sync->old_fd >= 0) {
        /* Two segments filled within one sync: rare, and then waiting for the disk is right. */
        (void) fdatasync(sync->old_fd);
        close(sync->old_fd);
    }
    sync->old_fd = old_fd;
    sync->fd = next_fd;
    pthread_mutex_unlock(&sync->lock);
}

void journal_sync_destroy(struct journal_sync_thread **sync_pointer)
{
    struct journal_sync_thread *sync = *sync_pointer;
    *sync_pointer = NULL;
    if (sync == NULL)
        return;
    pthread_mutex_lock(&sync->lock);
    sync->stopping = true;
    pthread_cond_signal(&sync->wake);
    pthread_mutex_unlock(&sync->lock);
    pthread_join(sync->thread, NULL);
    pthread_mutex_destroy(&sync->lock);
    pthread_cond_destroy(&sync->wake);
    free(sync);
}
