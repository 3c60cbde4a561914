/* Facts about processes and their sockets, read from /proc. */
#ifndef BACKENDS_PROCESS_TREE_H
#define BACKENDS_PROCESS_TREE_H

#include <stdbool.h>
#include <stdint.h>

/* Field 22 of /proc/<pid>/stat, or 0 when there is no such process. */
uint64_t process_start_time(int pid);
/* @pid is @ancestor or descends from it, or is in its process group. */
bool process_belongs_to(int pid, int ancestor);
/* A process that belongs to @ancestor listens on TCP @port (IPv4 or IPv6). */
bool process_tree_listens(int ancestor, int port);
/* The process that listens on the unix socket @path, by SO_PEERCRED of a fresh connection; 0 = none. */
int process_behind_socket(const char *path);

#endif
