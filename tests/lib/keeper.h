/* A real master in a process of its own; its gateway process only hands its end of the socket to the test, which then
 * speaks for it, and exits when told. */
#ifndef TESTS_LIB_KEEPER_H
#define TESTS_LIB_KEEPER_H

#include <stdbool.h>
#include <stdint.h>

/* How long anything here waits for what must come; far above every rule it is used for. */
enum { KEEPER_WAIT_MS = 10 * 1000, KEEPER_PATH_BYTES = 64 };

struct keeper {
    int pid;      /* of the master; 0 once it was waited for */
    int listener; /* where gateway processes report */
    char directory[KEEPER_PATH_BYTES];
    char path[KEEPER_PATH_BYTES + 16];
};

/* One gateway process. */
struct keeper_gateway {
    int pid;
    int control; /* to the process: keeper_gateway_exit, keeper_gateway_heard */
    int socket;  /* the gateway's end of the master's socket */
};

/* First thing in main: does not return when this process was started as a gateway process. */
void keeper_become_gateway(int argc, char **argv);

/* @behaviour of every gateway process: "obey", or "exit-<status>" and "crash" to end before it was ready. */
void keeper_start(struct keeper *keeper, const char *behaviour, int64_t drain_ms);
/* The same with an @executable that may not exist. */
void keeper_start_executable(struct keeper *keeper, const char *executable);
/* The next gateway process; false after KEEPER_WAIT_MS. */
bool keeper_accept(struct keeper *keeper, struct keeper_gateway *ret);
/* The wait status of the master; fails the test when it does not end within twice KEEPER_WAIT_MS. */
int keeper_wait(struct keeper *keeper);
/* Kill the master if it still runs, remove the directory. */
void keeper_finish(struct keeper *keeper);

void keeper_gateway_exit(struct keeper_gateway *gateway, int status);
/* The next signal the process got (SIGHUP, SIGTERM), or 0 after @wait_ms. */
int keeper_gateway_heard(struct keeper_gateway *gateway, int wait_ms);
/* kill -9 it. */
void keeper_gateway_kill(struct keeper_gateway *gateway);
/* Close the test's descriptors of it; the process exits, if it still runs. */
void keeper_gateway_close(struct keeper_gateway *gateway);

/* Whether @pid (no zombie) is gone within @wait_ms. */
bool keeper_is_gone(int pid, int wait_ms);
bool keeper_is_alive(int pid);

#endif
