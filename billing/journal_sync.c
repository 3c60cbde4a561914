/* The thread that calls fdatasync for one journal. */
#include "billing/journal_sync.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/panic.h"

enum { SEGMENTS_MAX = 8, RETRY_MS = 200, COPY_BYTES = 8192, NAME_BYTES = 24 };

struct segment {
    int fd;
    uint32_t number;
    bool is_named; /* .seg; until what is before it is on the disk, .next */
    int64_t written_bytes, synced_bytes;
};

struct journal_sync_thread {
    struct loop *loop;
    journal_synced *synced;
    void *owner;
    pthread_t thread;
    struct loop_watch told; /* an eventfd */
    int directory_fd;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under the lock */
    struct segment segments[SEGMENTS_MAX]; /* oldest first; the last is being written and stays the journal's */
    int segment_count;
    uint64_t asked, durable, refused;
    bool stopping;
};

static void on_told(struct loop_watch *watch, uint32_t events)
{
    struct journal_sync_thread *sync = watch->owner;
    uint64_t count = 0;
    (void) events;
    (void) !read(watch->fd, &count, sizeof count);
    pthread_mutex_lock(&sync->lock);
    uint64_t durable = sync->durable, refused = sync->refused;
    pthread_mutex_unlock(&sync->lock);
    sync->synced(sync->owner, durable, refused);
}

static void tell(struct journal_sync_thread *sync)
{
    uint64_t one = 1;
    (void) !write(sync->told.fd, &one, sizeof one);
}

/* After a failed fdatasync the kernel takes the pages for clean and the next one succeeds without having written them:
 * make them dirty again. */
static bool write_again(const struct segment *segment)
{
    char bytes[COPY_BYTES];
    for (int64_t at = segment->synced_bytes; at < segment->written_bytes;) {
        int64_t left = segment->written_bytes - at;
        ssize_t length = pread(segment->fd, bytes, left < COPY_BYTES ? (size_t) left : COPY_BYTES, at);
        if (length <= 0 || pwrite(segment->fd, bytes, (size_t) length, at) != length)
            return false;
        at += length;
    }
    return true;
}

static bool name_segment(struct journal_sync_thread *sync, struct segment *segment)
{
    char from[NAME_BYTES], to[NAME_BYTES];
    snprintf(from, sizeof from, "%08u.next", segment->number);
    snprintf(to, sizeof to, "%08u.seg", segment->number);
    segment->is_named = segment->is_named || renameat(sync->directory_fd, from, sync->directory_fd, to) == 0;
    return segment->is_named;
}

/* In their order: what comes later does not count without what came before. */
static bool sync_all(struct journal_sync_thread *sync, struct segment segments[], int count, bool is_retry)
{
    for (int i = 0; i < count; i++) {
        bool ok = (i == 0 || name_segment(sync, &segments[i])) && (!is_retry || write_again(&segments[i])) &&
                  fdatasync(segments[i].fd) == 0;
        if (!ok)
            return false;
        segments[i].synced_bytes = segments[i].written_bytes;
    }
    return count == 1 || fsync(sync->directory_fd) == 0; /* the names */
}

/* All but the last of the @count segments that have been synced are done with. */
static void close_synced(struct journal_sync_thread *sync, int count)
{
    int done = count - 1;
    for (int i = 0; i < done; i++)
        close(sync->segments[i].fd);
    sync->segment_count -= done;
    for (int i = 0; i < sync->segment_count; i++)
        sync->segments[i] = sync->segments[i + done];
}

/* With the lock held; it is let go while the disk works. */
static void sync_once(struct journal_sync_thread *sync)
{
    struct segment segments[SEGMENTS_MAX];
    int count = sync->segment_count;
    uint64_t asked = sync->asked;
    bool is_retry = sync->refused > sync->durable;
    for (int i = 0; i < count; i++)
        segments[i] = sync->segments[i];
    pthread_mutex_unlock(&sync->lock);
    bool ok = sync_all(sync, segments, count, is_retry);
    pthread_mutex_lock(&sync->lock);
    for (int i = 0; i < count; i++) {
        sync->segments[i].synced_bytes = segments[i].synced_bytes;
        sync->segments[i].is_named = segments[i].is_named;
    }
    if (ok) {
        close_synced(sync, count);
        sync->durable = asked;
    } else {
        sync->refused = asked;
    }
    tell(sync);
}

static void wait_for_work(struct journal_sync_thread *sync)
{
    struct timespec until;
    while (sync->asked == sync->durable && !sync->stopping)
        pthread_cond_wait(&sync->wake, &sync->lock);
    if (sync->refused <= sync->durable || sync->stopping)
        return;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += RETRY_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    while (!sync->stopping && pthread_cond_timedwait(&sync->wake, &sync->lock, &until) == 0) {
    }
}

static void *run(void *context)
{
    struct journal_sync_thread *sync = context;
    bool stopping = false;
    pthread_mutex_lock(&sync->lock);
    while (!stopping) {
        wait_for_work(sync);
        stopping = sync->stopping;
        sync_once(sync);
    }
    pthread_mutex_unlock(&sync->lock);
    return NULL;
}

/* Signals are for the threads that wait for them. */
static bool start(struct journal_sync_thread *sync)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    errno = pthread_create(&sync->thread, NULL, run, sync);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return errno == 0;
}

static void release(struct journal_sync_thread *sync)
{
    int error = errno;
    loop_unwatch(sync->loop, &sync->told);
    if (sync->told.fd >= 0)
        close(sync->told.fd);
    if (sync->directory_fd >= 0)
        close(sync->directory_fd);
    pthread_mutex_destroy(&sync->lock);
    pthread_cond_destroy(&sync->wake);
    free(sync);
    errno = error;
}

struct journal_sync_thread *journal_sync_create(struct loop *loop, const char *directory, int fd,
                                                journal_synced *synced, void *owner)
{
    struct journal_sync_thread *sync = calloc(1, sizeof *sync);
    pthread_condattr_t attributes;
    if (sync == NULL)
        return NULL;
    *sync = (struct journal_sync_thread){
        .loop = loop, .synced = synced, .owner = owner, .segments = {{.fd = fd, .is_named = true}}, .segment_count = 1};
    sync->told = (struct loop_watch){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_told, .owner = sync};
    sync->directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    pthread_mutex_init(&sync->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&sync->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    if (sync->told.fd < 0 || sync->directory_fd < 0 || !file_sync_directory_and_name(directory) ||
        !loop_watch(loop, &sync->told, EPOLLIN) || !start(sync)) {
        release(sync);
        return NULL;
    }
    return sync;
}

void journal_sync_ask(struct journal_sync_thread *sync, uint64_t sequence, int64_t written_bytes)
{
    pthread_mutex_lock(&sync->lock);
    sync->segments[sync->segment_count - 1].written_bytes = written_bytes;
    if (sequence > sync->asked) {
        sync->asked = sequence;
        pthread_cond_signal(&sync->wake);
    }
    pthread_mutex_unlock(&sync->lock);
}

bool journal_sync_is_full(struct journal_sync_thread *sync)
{
    pthread_mutex_lock(&sync->lock);
    bool is_full = sync->segment_count == SEGMENTS_MAX;
    pthread_mutex_unlock(&sync->lock);
    return is_full;
}

void journal_sync_switch(struct journal_sync_thread *sync, int64_t written_bytes, int next_fd, uint32_t next_number)
{
    pthread_mutex_lock(&sync->lock);
    ENSURE(sync->segment_count < SEGMENTS_MAX);
    sync->segments[sync->segment_count - 1].written_bytes = written_bytes;
    sync->segments[sync->segment_count++] = (struct segment){.fd = next_fd, .number = next_number};
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
    close_synced(sync, sync->segment_count); /* also when the disk refused to the last */
    release(sync);
}
