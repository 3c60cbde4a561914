/* One epoll, a binary heap of timers, a lock-free inbox with an eventfd, and a list for the end of the turn. */
#include "base/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/panic.h"

enum { EVENTS_PER_TURN = 256, TIMERS_LEAST = 64 };

struct loop {
    int epoll_fd;
    mono_ms now;
    bool running;
    bool stopped;

    /* What epoll returned in this turn; entries before next_event have been handed out. */
    struct epoll_event events[EVENTS_PER_TURN];
    int event_count;
    int next_event;

    /* heap[0] is due first; among equals, the one set first. */
    struct loop_timer **heap;
    size_t timer_count;
    size_t heap_capacity;
    uint64_t timers_set;

    struct loop_turn_end *turn_end_first;
    struct loop_turn_end *turn_end_last;

    struct loop_watch inbox_watch;
    bool inbox_called;
    /* Newest first. Shared with the threads that post. */
    _Atomic(struct loop_task *) _inbox;
};

static void inbox_ready(struct loop_watch *watch, uint32_t events)
{
    (void) events;
    struct loop *loop = watch->owner;
    uint64_t count;
    if (read(watch->fd, &count, sizeof(count)) == (ssize_t) sizeof(count))
        loop->inbox_called = true;
}

struct loop *loop_create(void)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL)
        return NULL;
    atomic_init(&loop->_inbox, NULL);
    loop->now = clock_mono_ms();
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0)
        goto err_after_alloc;
    loop->inbox_watch = (struct loop_watch){.ready = inbox_ready, .owner = loop};
    loop->inbox_watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->inbox_watch.fd < 0)
        goto err_after_epoll;
    if (!loop_watch(loop, &loop->inbox_watch, EPOLLIN))
        goto err_after_eventfd;
    return loop;

err_after_eventfd:
    close(loop->inbox_watch.fd);
err_after_epoll:
    close(loop->epoll_fd);
err_after_alloc:
    free(loop);
    return NULL;
}

void loop_destroy(struct loop *loop)
{
    if (loop == NULL)
        return;
    ENSURE(!loop->running);
    ENSURE(loop->timer_count == 0);
    ENSURE(atomic_load(&loop->_inbox) == NULL);
    close(loop->inbox_watch.fd);
    close(loop->epoll_fd);
    free(loop->heap);
    free(loop);
}

/* Watches */

bool loop_watch(struct loop *loop, struct loop_watch *watch, uint32_t events)
{
    ENSURE(!watch->_watched);
    struct epoll_event event = {.events = events, .data.ptr = watch};
    watch->_watched = epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, watch->fd, &event) == 0;
    return watch->_watched;
}

bool loop_watch_change(struct loop *loop, struct loop_watch *watch, uint32_t events)
{
    ENSURE(watch->_watched);
    struct epoll_event event = {.events = events, .data.ptr = watch};
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) == 0;
}

void loop_unwatch(struct loop *loop, struct loop_watch *watch)
{
    if (!watch->_watched)
        return;
    watch->_watched = false;
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    /* By address now, while it is still this watch's: the memory may be another watch's before its turn comes. */
    for (int i = loop->next_event; i < loop->event_count; i++) {
        if (loop->events[i].data.ptr == watch)
            loop->events[i].data.ptr = NULL;
    }
}

static void run_ready(struct loop *loop)
{
    while (loop->next_event < loop->event_count) {
        const struct epoll_event *event = &loop->events[loop->next_event++];
        struct loop_watch *watch = event->data.ptr;
        if (watch != NULL)
            watch->ready(watch, event->events);
    }
    loop->next_event = 0;
    loop->event_count = 0;
}

/* Timers */

static bool due_before(const struct loop_timer *a, const struct loop_timer *b)
{
    return a->_due < b->_due || (a->_due == b->_due && a->_set_number < b->_set_number);
}

static void heap_put(struct loop *loop, size_t index, struct loop_timer *timer)
{
    loop->heap[index] = timer;
    timer->_heap_index = index + 1;
}

/* Put @timer at the free place @index or above it, and what is there one place down. */
static void heap_rise(struct loop *loop, size_t index, struct loop_timer *timer)
{
    while (index > 0 && due_before(timer, loop->heap[(index - 1) / 2])) {
        heap_put(loop, index, loop->heap[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    heap_put(loop, index, timer);
}

/* Put @timer at the free place @index or below it, and what is there one place up. */
static void heap_sink(struct loop *loop, size_t index, struct loop_timer *timer)
{
    for (size_t child = 2 * index + 1; child < loop->timer_count; child = 2 * index + 1) {
        if (child + 1 < loop->timer_count && due_before(loop->heap[child + 1], loop->heap[child]))
            child++;
        if (!due_before(loop->heap[child], timer))
            break;
        heap_put(loop, index, loop->heap[child]);
        index = child;
    }
    heap_put(loop, index, timer);
}

static void heap_remove(struct loop *loop, struct loop_timer *timer)
{
    size_t index = timer->_heap_index - 1;
    ENSURE(index < loop->timer_count && loop->heap[index] == timer);
    timer->_heap_index = 0;
    struct loop_timer *last = loop->heap[--loop->timer_count];
    if (last == timer)
        return;
    if (due_before(last, timer))
        heap_rise(loop, index, last);
    else
        heap_sink(loop, index, last);
}

static void heap_make_room(struct loop *loop)
{
    if (loop->timer_count < loop->heap_capacity)
        return;
    size_t capacity = loop->heap_capacity == 0 ? TIMERS_LEAST : loop->heap_capacity * 2;
    struct loop_timer **larger = realloc(loop->heap, capacity * sizeof(struct loop_timer *));
    if (larger == NULL)
        panic(__FILE__, __LINE__, "no memory for timers");
    loop->heap = larger;
    loop->heap_capacity = capacity;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, mono_ms due)
{
    loop_timer_cancel(loop, timer);
    heap_make_room(loop);
    /* Not before now: else a timer that sets itself into the past would for ever go before those that wait. */
    timer->_due = due > loop->now ? due : loop->now;
    timer->_set_number = loop->timers_set++;
    heap_rise(loop, loop->timer_count++, timer);
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
    if (loop_timer_is_set(timer))
        heap_remove(loop, timer);
}

bool loop_timer_is_set(const struct loop_timer *timer)
{
    return timer->_heap_index != 0;
}

static void run_timers(struct loop *loop)
{
    /* A timer set from here on waits for the next turn, so that descriptors get theirs in between. */
    uint64_t set_before = loop->timers_set;
    while (loop->timer_count > 0) {
        struct loop_timer *timer = loop->heap[0];
        if (timer->_due > loop->now || timer->_set_number >= set_before)
            return;
        heap_remove(loop, timer);
        timer->fire(timer);
    }
}

/* Inbox */

void loop_post(struct loop *loop, struct loop_task *task)
{
    int inbox_fd = loop->inbox_watch.fd;
    struct loop_task *newest = atomic_load_explicit(&loop->_inbox, memory_order_relaxed);
    do {
        task->_next = newest;
    } while (!atomic_compare_exchange_weak_explicit(&loop->_inbox, &newest, task, memory_order_release,
                                                    memory_order_relaxed));
    /* Who found it empty wakes the loop, which takes nothing out before it was woken. So each other poster is done with
     * the loop's memory before its task can run, and with it whatever ends the loop. */
    if (newest != NULL)
        return;
    uint64_t one = 1;
    ssize_t written;
    do {
        written = write(inbox_fd, &one, sizeof(one));
    } while (written < 0 && errno == EINTR);
}

static void run_inbox(struct loop *loop)
{
    if (!loop->inbox_called)
        return;
    loop->inbox_called = false;
    struct loop_task *newest = atomic_exchange_explicit(&loop->_inbox, NULL, memory_order_acquire);
    struct loop_task *oldest = NULL;
    while (newest != NULL) {
        struct loop_task *next = newest->_next;
        newest->_next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        struct loop_task *task = oldest;
        oldest = task->_next;
        task->run(task);
    }
}

/* The end of a turn */

void loop_at_turn_end(struct loop *loop, struct loop_turn_end *end)
{
    if (end->_queued)
        return;
    end->_queued = true;
    end->_next = NULL;
    if (loop->turn_end_last != NULL)
        loop->turn_end_last->_next = end;
    else
        loop->turn_end_first = end;
    loop->turn_end_last = end;
}

void loop_turn_end_cancel(struct loop *loop, struct loop_turn_end *end)
{
    if (!end->_queued)
        return;
    struct loop_turn_end *before = NULL;
    for (struct loop_turn_end *at = loop->turn_end_first; at != end; at = at->_next)
        before = at;
    if (before != NULL)
        before->_next = end->_next;
    else
        loop->turn_end_first = end->_next;
    if (loop->turn_end_last == end)
        loop->turn_end_last = before;
    end->_queued = false;
}

static void run_turn_end(struct loop *loop)
{
    while (loop->turn_end_first != NULL) {
        struct loop_turn_end *end = loop->turn_end_first;
        loop_turn_end_cancel(loop, end);
        end->run(end);
    }
}

/* Turns */

mono_ms loop_now(const struct loop *loop)
{
    return loop->now;
}

/* How long epoll may sleep: until the first timer, at most @wait_ms. */
static int sleep_ms(const struct loop *loop, int wait_ms)
{
    if (loop->turn_end_first != NULL)
        return 0;
    if (loop->timer_count == 0 || wait_ms == 0)
        return wait_ms;
    mono_ms left_ms = loop->heap[0]->_due - clock_mono_ms();
    if (left_ms <= 0)
        return 0;
    if (wait_ms >= 0 && wait_ms < left_ms)
        return wait_ms;
    return left_ms < INT_MAX ? (int) left_ms : INT_MAX;
}

void loop_run_once(struct loop *loop, int wait_ms)
{
    ENSURE(!loop->running);
    loop->running = true;
    int count = epoll_wait(loop->epoll_fd, loop->events, EVENTS_PER_TURN, sleep_ms(loop, wait_ms));
    loop->event_count = count > 0 ? count : 0;
    loop->now = clock_mono_ms();
    run_ready(loop);
    run_timers(loop);
    run_inbox(loop);
    run_turn_end(loop);
    loop->running = false;
}

void loop_run(struct loop *loop)
{
    while (!loop->stopped)
        loop_run_once(loop, -1);
    loop->stopped = false;
}

void loop_stop(struct loop *loop)
{
    loop->stopped = true;
}
