/* The keeper process: starts the gateway, runs the engines it is told to run, keeps its sockets, outlives its crashes.
 */
#ifndef BACKENDS_MASTER_H
#define BACKENDS_MASTER_H

#include <stdint.h>

/* What the gateway process is: argv of the same binary, which finds the control socket in MASTER_SOCKET_FD. */
struct master_options {
    const char *executable;       /* absolute path of this binary */
    const char *const *arguments; /* of the gateway process, NULL-terminated */
    int64_t drain_ms;             /* how long a stopping gateway may take before it is killed */
};

enum { MASTER_SOCKET_FD = 3 };

/* Run until told to stop (SIGTERM, SIGINT; a second one skips draining) or until the gateway cannot be kept alive.
 * SIGHUP is passed on to the gateway. Returns the process's exit status: 0 after a stop, the gateway's own when its
 * first start never became ready, 1 on a crash loop (5 deaths in a row, each within 10 s of its start).
 * Single-threaded. */
int master_run(const struct master_options *options);

/* ---- the protocol, one SOCK_SEQPACKET frame each (base/frame.h); both sides in the same release ---- */

enum {
    MASTER_NAME_BYTES_MAX = 128,
    MASTER_NOTE_BYTES_MAX = 512,
    MASTER_RING_BYTES = 64 * 1024,
    MASTER_CHILDREN_MAX = 256,
    MASTER_KEPT_FDS_MAX = 16,
    MASTER_STRINGS_MAX = 1024, /* arguments and environment of one child, each */
    MASTER_REASON_BYTES_MAX = 512
};

enum master_frame {
    /* gateway to master */
    MASTER_LIST = 1, /* () -> one CHILD per child, one KEPT per descriptor, then LISTED */
    MASTER_START, /* (name, note, cwd, argc, argv…, envc, env…) -> STARTED once it was executed, or EXITED with the
                     reason. A path with a slash is relative to cwd; cwd "" = the master's */
    MASTER_STOP,  /* (name, grace_ms): SIGTERM to the group, SIGKILL after the grace -> EXITED. No answer when no such
                     child runs: its EXITED is on the way */
    MASTER_MARK,  /* (name, mark): an integer kept with the child and told in CHILD; name "" = the gateway itself is
                     ready */
    MASTER_LOGS,  /* (name) -> LOG_TAIL, empty for an unknown name. Also for a child that ended, until it is started
                     again or its memory is needed for another */
    MASTER_KEEP_FD, /* (name) + fd: keep it under this name, replacing an older one; without an fd: forget it */
    MASTER_DRAIN,   /* (drain_ms): the drain limit of the policy in force */
    /* master to gateway */
    MASTER_CHILD,   /* (name, note, pid, start_time, mark, running_ms) */
    MASTER_KEPT,    /* (name) + fd */
    MASTER_LISTED,  /* () */
    MASTER_STARTED, /* (name, pid, start_time) */
    MASTER_EXITED,  /* (name, pid, wait_status, was_asked, reason): wait_status as of waitpid; reason "" or why it never
                       ran, with pid 0 when there never was a process. Its process group got SIGKILL */
    MASTER_LOG_TAIL, /* (name, bytes): at most MASTER_RING_BYTES */
    MASTER_SHUT_DOWN /* (): drain and exit */
};

#endif
