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
    int wait_status;    /* as of waitpid */
    bool was_asked;     /* we had sent STOP */
    const char *reason; /* "" or why it never ran ("No such file or directory: ./llama_engine") */
};

/* All on the control loop's thread. */
struct children_events {
    void (*started)(void *owner, const char *name, int pid, uint64_t start_time);
    void (*exited)(void *owner, const struct child_exit *exit);
    void (*log_tail)(void *owner, const char *name, struct text bytes);
};

/* Blocking, once at boot, before the loop runs: ask the master LIST and wait (bounded) for its answer. @socket is
 * MASTER_SOCKET_FD. NULL when the master does not answer. */
struct children *children_connect(int socket);
void children_destroy(struct children **children);
/* What LIST told. */
void children_each(struct children *children, void (*receive)(void *owner, const struct child_info *info), void *owner);
/* A kept descriptor of LIST, now the caller's (once), or -1. */
int children_take_fd(struct children *children, const char *name);
bool children_keep_fd(struct children *children, const char *name, int fd);

/* From now on the loop watches the socket. @shut_down: the master wants a drain; @master_gone: it died (end everything:
 * the process groups of all known children have been killed before the call). */
bool children_attach(struct children *children, struct loop *loop, void (*shut_down)(void *owner),
                     void (*master_gone)(void *owner), void *owner);
/* Who hears of children (backends/fleet.c); set before children_attach. */
void children_listen(struct children *children, const struct children_events *events, void *owner);

struct child_start {
    const char *name;
    const char *note;
    const char *working_directory;
    const char *const *arguments;   /* NULL-terminated, nothing left to substitute */
    const char *const *environment; /* the whole environment, NULL-terminated */
};
bool children_start(struct children *children, const struct child_start *start);
bool children_stop(struct children *children, const char *name, int64_t grace_ms);
bool children_mark(struct children *children, const char *name, int64_t mark);
bool children_ask_logs(struct children *children, const char *name);
/* The gateway itself serves now. */
bool children_gateway_ready(struct children *children);
bool children_set_drain(struct children *children, int64_t drain_ms);

#endif
