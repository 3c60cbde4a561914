/* What the files of the master share; nobody else includes this. */
#ifndef BACKENDS_MASTER_PRIVATE_H
#define BACKENDS_MASTER_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/log_ring.h"
#include "backends/master.h"
#include "base/clock.h"
#include "base/frame.h"
#include "base/log.h"
#include "base/loop.h"

enum {
    MASTER_STOP_GRACE_MS = 5 * 1000,   /* engines, when the master stops */
    MASTER_GRACE_MS_MAX = 3600 * 1000, /* what a STOP may ask for */
    MASTER_DRAIN_MS_MAX = 24 * 3600 * 1000,
    MASTER_SEND_WAIT_MS = 1000 /* a gateway that leaves its socket full for longer is hung */
};

struct master;

/* ---- processes being made (master_spawn.c) ---- */

/* What an engine is started with; strings are NUL-terminated, arrays NULL-terminated. */
struct spawn_order {
    const char *working_directory; /* "" = the master's own */
    char *const *arguments;
    char *const *environment;
};

struct spawned {
    int pid;
    int output;      /* reading end of its standard output and error; non-blocking */
    int exec_status; /* reading end: end-of-file = it was executed, else the reason why not; non-blocking */
};

/* Start an engine: own process group, dies with the master, no descriptor but 0 to 2. Returns false with errno when
 * there is no process; what happens later comes through exec_status. The descriptors are the caller's. */
bool spawn_engine(const struct spawn_order *order, struct spawned *ret);
/* Start the gateway process; @ret_socket is the master's end of a fresh socketpair, the caller's. Its pid, or -1 with
 * errno. A failing exec is told on standard error by the process itself, which exits 1. */
int spawn_gateway(const struct master_options *options, int *ret_socket);

/* ---- engines (master_child.c) ---- */

struct child {
    struct master *master;
    char name[MASTER_NAME_BYTES_MAX + 1];
    char note[MASTER_NOTE_BYTES_MAX + 1];
    int pid; /* 0 = it ended: only the log is kept */
    uint64_t start_time;
    int64_t mark;
    mono_ms started;
    mono_ms ended;                            /* when pid became 0 */
    mono_ms kill_at;                          /* when the grace timer is set */
    bool was_asked;                           /* STOP was sent */
    char reason[MASTER_REASON_BYTES_MAX + 1]; /* why it could not be executed */
    struct loop_watch output;                 /* fd -1 when all writers are gone */
    struct loop_watch exec_status;            /* fd -1 once it is known */
    struct loop_timer grace;
    struct log_ring log;
};

/* The child of that name, ended ones included; NULL = none. */
struct child *child_find(struct master *master, struct text name);
/* The running child with that pid, or NULL. */
struct child *child_of_pid(struct master *master, int pid);
/* Tell STARTED or EXITED, now or later. @name and @note are within their bounds. */
void child_start(struct master *master, struct text name, struct text note, const struct spawn_order *order);
/* SIGTERM to its group, and SIGKILL to all that belongs to it after @grace_ms. */
void child_stop(struct child *child, int64_t grace_ms);
/* SIGKILL to all that belongs to it, now. */
void child_kill(struct child *child);
/* It was reaped: tell EXITED. */
void child_exited(struct child *child, int wait_status);
/* How many run. */
int children_running(const struct master *master);
/* Free every record; none may run but for processes that even SIGKILL could not end. */
void children_forget(struct master *master);
/* SIGKILL to processes that fell to us because their parent, an engine, ended. Returns how many there still are. */
int orphans_kill(struct master *master);

/* ---- the gateway process (master_gateway.c) ---- */

struct gateway {
    int pid;           /* 0 = none runs */
    bool ready;        /* this one said so */
    bool ever_ready;   /* one of them did */
    bool wants_reload; /* a SIGHUP came before it was ready */
    int quick_deaths;  /* in a row */
    mono_ms started;
    struct loop_watch socket; /* fd -1 when there is none */
    struct loop_timer restart;
};

/* The first start. False with errno when there is no process. */
bool gateway_start_first(struct master *master);
void gateway_ready(struct master *master);
void gateway_reload(struct master *master);
/* Ask it to drain and exit. */
void gateway_shut_down(struct master *master);
/* SIGKILL; its death is handled when it is reaped. No-op when none runs. */
void gateway_kill(struct master *master);
/* It was reaped: start the next one, or end the master. */
void gateway_died(struct master *master, int wait_status);
/* Close its socket, cancel its timer. */
void gateway_forget(struct master *master);

/* ---- frames (master_protocol.c) ---- */

struct kept_fd {
    char name[MASTER_NAME_BYTES_MAX + 1];
    int fd; /* -1 = free slot */
};

/* Receive what the gateway sent and do it. False when its socket is at its end. */
bool protocol_receive(struct master *master);
/* All are dropped when no gateway is there to hear; a gateway that does not take them is killed: its picture of the
 * children would be wrong from then on. */
void protocol_tell_started(struct master *master, const struct child *child);
void protocol_tell_exited(struct master *master, const struct child *child, int pid, int wait_status);
/* The same for a child that was refused. */
void protocol_tell_refused(struct master *master, struct text name, const char *reason);
bool protocol_tell_shut_down(struct master *master);
void kept_fds_close(struct master *master);

/* ---- the whole (master.c) ---- */

/* How far the master is on its way out; only ever upwards. */
enum master_stage {
    STAGE_SERVING,
    STAGE_DRAINING, /* the gateway was asked to exit */
    STAGE_STOPPING, /* no gateway any more; engines were told to exit */
    STAGE_CLEARING  /* no engine either; what engines left behind is being killed */
};

struct master {
    const struct master_options *options;
    struct loop *loop;
    enum master_stage stage;
    struct loop_timer stage_timer;
    int exit_status;
    int64_t drain_ms;
    mono_ms orphans_until; /* an engine ended a moment ago: new children of ours that we do not know were its own */
    uint64_t began;        /* start time of the first gateway: older processes are none of ours */
    struct loop_watch signals;
    struct gateway gateway;
    struct child *children[MASTER_CHILDREN_MAX];
    struct kept_fd kept[MASTER_KEPT_FDS_MAX];
    /* Scratch memory of protocol_receive and of what is told. */
    char frame_in[FRAME_BYTES_MAX];
    char frame_out[FRAME_BYTES_MAX];
    char strings[FRAME_BYTES_MAX];
    char *arguments[MASTER_STRINGS_MAX + 1];
    char *environment[MASTER_STRINGS_MAX + 1];
};

/* The gateway is gone for good: stop everything, then return @exit_status from master_run. */
void master_end(struct master *master, int exit_status);
/* One line to standard error, dropped rather than waited for when nobody reads it. */
__attribute__((format(printf, 2, 3))) void master_say(enum log_level level, const char *format, ...);
/* "exited with status 3", "was killed by signal 9 (Killed)", into @to; returns @to. */
const char *wait_status_text(int wait_status, char *to, size_t capacity);

#endif
