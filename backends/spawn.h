/* How a spawned engine is started: its socket or port, its arguments, its environment, its note. Control thread only.
 */
#ifndef BACKENDS_SPAWN_H
#define BACKENDS_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What arguments may ask for; replaced wherever it stands, also inside an argument. */
#define SPAWN_SOCKET "{socket}"
#define SPAWN_PORT   "{port}"

enum { SPAWN_SOCKET_PATH_BYTES_MAX = 107, SPAWN_NOTE_BYTES = 128 };

/* Some argument holds @placeholder. */
bool spawn_wants(const char *const *arguments, const char *placeholder);

/* "<runtime_dir>/<name>.sock", where every byte that is not plain in a file name is written so that no two names
 * collide. The caller frees. NULL when memory is exhausted. May be longer than a socket's address allows. */
char *spawn_socket_path(const char *runtime_dir, const char *name);
/* Make the directory (0700) unless it is there. False, with the reason, when it cannot be made, is no directory, is not
 * ours or can be written by others. */
bool spawn_prepare_directory(const char *runtime_dir, char *ret_why, size_t capacity);
/* A port of 127.0.0.1 that was free a moment ago, or 0. */
int spawn_find_port(void);

/* @arguments with the placeholders replaced; each string and the array are the caller's (spawn_free_strings). NULL when
 * memory is exhausted. */
char **spawn_arguments(const char *const *arguments, const char *socket_path, int port);
/* The whole environment of the child: what is on our allow-list from ours, then the engine's own @extra, which wins.
 * Nothing else: our environment may hold secrets. As above. */
char **spawn_environment(const char *const *extra);
void spawn_free_strings(char ***strings);

/* What the master keeps with the child: which settings it was started from and its port. */
void spawn_note_write(char to[SPAWN_NOTE_BYTES], const uint8_t settings_hash[32], int port);
/* False, leaving the results alone, when @note is none of ours. */
bool spawn_note_read(const char *note, uint8_t ret_settings_hash[32], int *ret_port);

#endif
