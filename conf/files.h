/* Files and paths that the configuration names: bounded reads, and paths relative to the file that names them. */
#ifndef CONF_FILES_H
#define CONF_FILES_H

#include <sys/types.h>

#include "base/arena.h"
#include "base/text.h"

struct file_content {
    char *bytes; /* malloc'ed, NUL-terminated; the caller's */
    size_t length;
    mode_t mode;
    uid_t owner;
};
/* 0, or an errno: EFBIG when it is larger than @bytes_max, EINVAL when it is no regular file. Never waits for a writer.
 */
int file_read(const char *path, size_t bytes_max, struct file_content *ret);
/* What an errno of file_read says to a user. */
const char *file_error_text(int error);

/* @path seen from the directory of the absolute @from_file: absolute, without "." and empty parts. NUL-terminated in
 * @arena; empty with at == NULL when memory is exhausted. */
struct text file_path_from(const char *from_file, struct text path, struct arena *arena);
/* @path seen from the current directory, likewise. */
struct text file_path_absolute(struct text path, struct arena *arena);
/* Up to the last '/', without it ("/" for files of the root). */
struct text file_directory(struct text path);

#endif
