/* Facts about processes and their sockets, read from /proc. */
#ifndef BACKENDS_PROCESS_TREE_H
#define BACKENDS_PROCESS_TREE_H

#include <stdbool.h>
#include <stdint.h>

/* One process as /proc/<pid>/stat tells it. A value. */
struct process_facts {
    int pid;
    int parent;
    int group;
    bool zombie;
    uint64_t start_time; /* field 22, in clock ticks since boot; with the pid it names a process for ever */
};

/* False, leaving @ret alone, when there is no such process. */
bool process_facts_read(int pid, struct process_facts *ret);
/* The same from the bytes of a stat file (NUL-terminated). Pure; false when they are none. */
bool process_facts_parse(const char *stat, struct process_facts *ret);
/* Field 22 of /proc/<pid>/stat, or 0 when there is no such process. */
uint64_t process_start_time(int pid);

/* Every process of the machine that we can see, once. */
void process_each(void (*receive)(void *owner, const struct process_facts *facts), void *owner);

/* @pid is @ancestor, is in the process group it leads, or descends from one of these. */
bool process_belongs_to(int pid, int ancestor);
/* SIGKILL to the process group of @ancestor and to every process that belongs to it. @ancestor must lead its group and
 * be known to be the process meant: our own child that was not reaped, or one whose start time was compared. */
void process_tree_kill(int ancestor);

/* A process that belongs to @ancestor listens on TCP @port (IPv4 or IPv6). */
bool process_tree_listens(int ancestor, int port);
/* The process that listens on the unix socket @path, by SO_PEERCRED of a fresh connection; 0 = none. Never waits. */
int process_behind_socket(const char *path);

#endif
