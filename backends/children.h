/* The gateway's side of the master: what should run, and what it hears of what runs. Control thread only. */
#ifndef BACKENDS_CHILDREN_H
#define BACKENDS_CHILDREN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/text.h"

struct children;

/* A child the master runs. Text is valid during the call only. */
struct child_info {
    const char *name;
    const char *note; /* what START gave: opaque to the master */
    int pid;
    uint64_t start_time; /* field 22 of /proc/<pid>/stat */
    int64_t mark;
    int64_t running_ms;
};

struct child_exit {
    const char *name;
    int pid;
    int wait_status;    /* as of waitpid; all of its process group got SIGKILL */
    bool was_asked;     /* we had sent STOP */
    const char *reason; /* "" or why it never ran ("cannot execute ./llama_engine: No such file or directory"); pid 0
                           when there was not even a process ("already running") */
};

/* All on the control loop's thread. */
struct children_events {
    void (*started)(void *owner, const char *name, int pid, uint64_t start_time);
    void (*exited)(void *owner, const struct child_exit *exit);
    void (*log_tail)(void *owner, const char *name, struct text bytes);
};

/* Blocking, once at boot, before the loop runs: ask the master LIST and wait (5 s at most) for its answer. @socket is
 * MASTER_SOCKET_FD; it becomes theirs and close-on-exec. NULL, the socket still the caller's, when the master does not
 * answer. */
struct children *children_connect(int socket);
/* Children run on; descriptors of LIST that nobody took are closed. NULL is a no-op. Not from within an event. */
void children_destroy(struct children **children);
/* The children that run, as far as is known (after connecting: what LIST told); without those that children_listen_to
 * named. */
void children_each(struct children *children, void (*receive)(void *owner, const struct child_info *info), void *owner);
/* The child called @name, whoever listens to it; false when none runs. The texts in @ret are valid until the loop runs.
 */
bool children_find(struct children *children, const char *name, struct child_info *ret);
/* A kept descriptor of LIST, now the caller's (once), or -1. */
int children_take_fd(struct children *children, const char *name);
bool children_keep_fd(struct children *children, const char *name, int fd);

/* From now on the loop watches the socket. @shut_down: the master wants a drain; @master_gone: it died (end everything:
 * the process groups of all known children have been killed before the call). */
bool children_attach(struct children *children, struct loop *loop, void (*shut_down)(void *owner),
                     void (*master_gone)(void *owner), void *owner);
/* Who hears of children (backends/fleet.c); set before children_attach. */
void children_listen(struct children *children, const struct children_events *events, void *owner);
enum { CHILDREN_APART_MAX = 4 };
/* Who hears of the child called @name, a constant; nobody else does. Set before children_each and children_attach; at
 * most CHILDREN_APART_MAX. */
void children_listen_to(struct children *children, const char *name, const struct children_events *events, void *owner);

struct child_start {
    const char *name;
    const char *note;
    const char *working_directory;  /* "" = the master's; paths with a slash are relative to it */
    const char *const *arguments;   /* NULL-terminated, nothing left to substitute */
    const char *const *environment; /* the whole environment, NULL-terminated */
};
/* These wait up to 1 s for a master that is slow to read. False when it is gone, does not read, or would not take that
 * much (the limits of backends/master.h). */
/* `started` follows once it was executed, or `exited` with the reason. */
bool children_start(struct children *children, const struct child_start *start);
/* `exited` follows, after @grace_ms at most. Asked again, only a shorter grace counts. */
bool children_stop(struct children *children, const char *name, int64_t grace_ms);
/* A number for the next gateway's child_info. */
bool children_mark(struct children *children, const char *name, int64_t mark);
/* `log_tail` follows: what a running or ended child wrote last; empty for an unknown one. */
bool children_ask_logs(struct children *children, const char *name);
/* The gateway itself serves now. */
bool children_gateway_ready(struct children *children);
bool children_set_drain(struct children *children, int64_t drain_ms);

#endif
