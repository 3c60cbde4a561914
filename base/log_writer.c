/* A ring of bytes under a mutex that nobody holds while writing, and the thread that empties it. */
#include "base/log_writer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/panic.h"

/* A pipe that polls writable takes so much at once (pipe(7)) that the thread never sleeps in write(2); files and
 * devices take any amount. */
enum { PIPE_BYTES_MAX = 4096, WRITE_BYTES_MAX = 65536, POLL_MS = 100 };

/* Lines are gathered for so long, unless so many wait already. */
enum { GATHER_MS = 5, HURRY_BYTES = LOG_RING_BYTES / 4 };

/* Looked at before the mutex, which a forked child may find held for ever. */
static atomic_bool running;
static pthread_t thread;
/* The thread's own lines would wait for itself. */
static _Thread_local bool is_writer;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t filled;
    bool stopping;
    mono_ms give_up; /* while stopping */
    uint64_t taken;  /* bytes ever taken out; the next one is at taken % LOG_RING_BYTES */
    uint64_t put;    /* bytes ever put in */
    int64_t dropped; /* lines since the last line that told about it */
    char bytes[LOG_RING_BYTES];
} _shared = {.mutex = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER};

static void write_now(struct text line)
{
    while (write(STDERR_FILENO, line.at, line.length) < 0 && errno == EINTR) {
    }
}

static void count_dropped_locked(int64_t lines)
{
    _shared.dropped += lines;
    metric_add(metric_series(METRIC_LOG_LINES_DROPPED, (const char *const[METRIC_LABELS_MAX]){NULL}), lines);
}

static void put_locked(struct text line)
{
    if (line.length > LOG_RING_BYTES - (_shared.put - _shared.taken)) {
        count_dropped_locked(1);
        return;
    }
    size_t at = _shared.put % LOG_RING_BYTES;
    size_t before_wrap = line.length < LOG_RING_BYTES - at ? line.length : LOG_RING_BYTES - at;
    memcpy(_shared.bytes + at, line.at, before_wrap);
    memcpy(_shared.bytes, line.at + before_wrap, line.length - before_wrap);
    uint64_t waited = _shared.put - _shared.taken;
    _shared.put += line.length;
    if (waited == 0 || (waited < HURRY_BYTES && waited + line.length >= HURRY_BYTES))
        pthread_cond_signal(&_shared.filled);
}

/* The first line of many: waking this thread for each would cost more than writing them. */
static void wait_for_more_locked(void)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += GATHER_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    while (!_shared.stopping && _shared.put - _shared.taken < HURRY_BYTES) {
        if (pthread_cond_clockwait(&_shared.filled, &_shared.mutex, CLOCK_MONOTONIC, &until) != 0)
            return;
    }
}

/* How many bytes wait. 0 = stopping and nothing is left. */
static uint64_t wait_until_filled(void)
{
    pthread_mutex_lock(&_shared.mutex);
    bool was_empty = _shared.put == _shared.taken;
    while (_shared.put == _shared.taken && !_shared.stopping)
        pthread_cond_wait(&_shared.filled, &_shared.mutex);
    if (was_empty)
        wait_for_more_locked();
    uint64_t waiting = _shared.put - _shared.taken;
    pthread_mutex_unlock(&_shared.mutex);
    return waiting;
}

/* Copy as many of the @waiting bytes as are whole lines and fit. Without the mutex: nobody overwrites them, and only
 * this thread moves taken. */
static size_t copy_lines(char *to, size_t most, uint64_t waiting)
{
    size_t count = waiting < most ? (size_t) waiting : most;
    size_t at = _shared.taken % LOG_RING_BYTES;
    size_t before_wrap = count < LOG_RING_BYTES - at ? count : LOG_RING_BYTES - at;
    memcpy(to, _shared.bytes + at, before_wrap);
    memcpy(to + before_wrap, _shared.bytes, count - before_wrap);
    const char *line_end = memrchr(to, '\n', count);
    return line_end != NULL ? (size_t) (line_end - to) + 1 : 0;
}

static bool may_wait(void)
{
    pthread_mutex_lock(&_shared.mutex);
    bool may = !_shared.stopping || clock_mono_ms() < _shared.give_up;
    pthread_mutex_unlock(&_shared.mutex);
    return may;
}

/* False when standard error stayed full until it was time to stop. An error counts as written: there is nobody to tell.
 */
static bool write_lines(const char *at, size_t length)
{
    while (length > 0) {
        struct pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT};
        if (poll(&room, 1, POLL_MS) == 0) {
            if (!may_wait())
                return false;
            continue;
        }
        ssize_t written = write(STDERR_FILENO, at, length);
        if (written < 0 && errno != EINTR && errno != EAGAIN)
            return true;
        if (written > 0) {
            at += written;
            length -= (size_t) written;
        }
    }
    return true;
}

void log_writer_put(struct text line)
{
    if (is_writer) {
        write_lines(line.at, line.length);
        return;
    }
    if (!atomic_load(&running)) {
        write_now(line);
        return;
    }
    pthread_mutex_lock(&_shared.mutex);
    bool still_running = atomic_load(&running);
    if (still_running)
        put_locked(line);
    pthread_mutex_unlock(&_shared.mutex);
    if (!still_running)
        write_now(line);
}

/* Make the bytes that were written free again; the returned number of lines was dropped since the last call. */
static int64_t take_out(size_t count)
{
    pthread_mutex_lock(&_shared.mutex);
    _shared.taken += count;
    int64_t dropped = _shared.dropped;
    _shared.dropped = 0;
    pthread_mutex_unlock(&_shared.mutex);
    return dropped;
}

static bool takes_any_amount(void)
{
    struct stat status;
    return fstat(STDERR_FILENO, &status) == 0 && !isatty(STDERR_FILENO) &&
           (S_ISREG(status.st_mode) || S_ISCHR(status.st_mode));
}

static void *run_writer(void *unused)
{
    (void) unused;
    is_writer = true;
    static char lines[WRITE_BYTES_MAX];
    size_t most = takes_any_amount() ? WRITE_BYTES_MAX : PIPE_BYTES_MAX;
    for (uint64_t waiting = wait_until_filled(); waiting > 0; waiting = wait_until_filled()) {
        size_t length = copy_lines(lines, most, waiting);
        if (!write_lines(lines, length))
            break;
        int64_t dropped = take_out(length);
        if (dropped == 0)
            continue;
        struct log_line line;
        log_begin(&line, LOG_WARNING, "dropped");
        log_add_int(&line, "lines", dropped);
        log_end(&line);
    }
    /* Whoever logs from now on does so by himself. */
    pthread_mutex_lock(&_shared.mutex);
    atomic_store(&running, false);
    pthread_mutex_unlock(&_shared.mutex);
    return NULL;
}

static void in_forked_child(void)
{
    atomic_store(&running, false);
}

static void register_fork_handler(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

bool log_start_writer(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handler);
    ENSURE(!atomic_load(&running));
    _shared.stopping = false;
    _shared.taken = _shared.put;
    atomic_store(&running, true);

    /* Signals are other threads' work. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&thread, NULL, run_writer, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!started)
        atomic_store(&running, false);
    return started;
}

void log_stop_writer(void)
{
    if (!atomic_load(&running))
        return;
    pthread_mutex_lock(&_shared.mutex);
    _shared.stopping = true;
    _shared.give_up = clock_mono_ms() + LOG_FLUSH_MS_MAX;
    pthread_cond_signal(&_shared.filled);
    pthread_mutex_unlock(&_shared.mutex);
    pthread_join(thread, NULL);
}
