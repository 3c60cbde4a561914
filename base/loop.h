/* One thread's event loop: epoll, timers, an inbox for other threads, and work for the end of each turn. */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

struct loop;

/* A watched descriptor, in the caller's memory, which must stay until loop_unwatch. */
struct loop_watch {
    int fd;
    /* Called on the loop's thread with EPOLL* bits. May unwatch (and free) any watch, also this one. */
    void (*ready)(struct loop_watch *watch, uint32_t events);
    void *owner;
    bool _watched;
};

/* A one-shot timer, in the caller's memory, which must stay until it fired or was cancelled. Zeroed memory is an idle
 * timer. */
struct loop_timer {
    /* Called on the loop's thread, the timer being idle again: it may be set anew or freed. */
    void (*fire)(struct loop_timer *timer);
    void *owner;
    mono_ms _due;
    uint64_t _set_number; /* orders timers that are due at the same time */
    size_t _heap_index;   /* 1-based; 0 = idle */
};

/* Something another thread wants done here, in the caller's memory, which must stay until @run is called. */
struct loop_task {
    void (*run)(struct loop_task *task);
    void *owner;
    struct loop_task *_next;
};

/* Work for the end of the current turn, after all ready descriptors, timers and tasks; in the caller's memory. */
struct loop_turn_end {
    void (*run)(struct loop_turn_end *end);
    void *owner;
    struct loop_turn_end *_next;
    bool _queued;
};

/* NULL when the kernel refuses a descriptor. Only the creating thread may use it, but for loop_post. */
struct loop *loop_create(void);
/* All watches, timers and tasks must be gone. NULL is a no-op. */
void loop_destroy(struct loop *loop);

/* @events as for epoll (EPOLLIN, EPOLLET, ...). False when the kernel refuses. */
bool loop_watch(struct loop *loop, struct loop_watch *watch, uint32_t events);
bool loop_watch_change(struct loop *loop, struct loop_watch *watch, uint32_t events);
/* No further call of @ready, also for events already read in this turn. No-op when not watched. Call before close(2).
 */
void loop_unwatch(struct loop *loop, struct loop_watch *watch);

/* Set or move the timer to @due (mono_ms of base/clock.h); past times fire in the next turn, which does not
 * wait, or in this one if its timers have not run yet. Timers due at the same time fire in the order they were set.
 * Ends the process when there is no memory for one more. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, mono_ms due);
/* No-op when idle. */
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer);
bool loop_timer_is_set(const struct loop_timer *timer);

/* Run @task on @loop's thread soon. From any thread; tasks of one thread run in order, those posted
 * while tasks run in the next turn. Never blocks, never fails. */
void loop_post(struct loop *loop, struct loop_task *task);

/* Run @end once when this turn's work is done; queueing twice is once. What is queued while these run, also by @end
 * itself, runs in the same turn. */
void loop_at_turn_end(struct loop *loop, struct loop_turn_end *end);
/* It will not run. No-op when not queued. */
void loop_turn_end_cancel(struct loop *loop, struct loop_turn_end *end);

/* The monotonic time read once at the start of this turn's work. */
mono_ms loop_now(const struct loop *loop);

/* One turn: wait at most @wait_ms (-1 = until something happens), then run everything that is due: descriptors, timers,
 * tasks, turn ends. Not from inside a call of this loop. */
void loop_run_once(struct loop *loop, int wait_ms);
/* Turns until loop_stop. */
void loop_run(struct loop *loop);
/* From the loop's own thread (a task, a timer): loop_run returns after this turn. */
void loop_stop(struct loop *loop);

#endif
