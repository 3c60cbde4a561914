/* Whole writes to a descriptor; files and names that a power cut does not take back. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/text.h"

/* Write all of @bytes to the blocking @fd, however many calls it takes. False with errno; a part may have been written.
 */
bool file_write_all(int fd, struct text bytes);

/* Close @fd, unless it is below 0. Returns @good, and errno is what it was: the end of what was done with @fd. */
bool file_close_after(int fd, bool good);

/* What is in the directory @path has its names on the disk. False with errno. */
bool file_sync_directory(const char *path);

/* The same, and so has the directory, in the one it is in, which must be readable. */
bool file_sync_directory_and_name(const char *path);

/* Make the directory @path with @mode (less the umask), its name on the disk. One that is there stays as it is and is
 * not synced. False with errno: it was not made. What it is to be in must be readable. */
bool file_make_directory(const char *path, mode_t mode);

/* Let @name in @directory_fd be a file with all of @content, on the disk when this returns; new ones with @mode (less
 * the umask). Whenever it ends, the whole old content or the whole new one is there; a crash may leave ".<name>.tmp"
 * beside it, which the next call overwrites. @name has at most NAME_MAX - 5 characters, and one writer at a time. False
 * with errno: the old content is there, or the new one is and a power cut may take it back. */
bool file_replace(int directory_fd, const char *name, struct text content, mode_t mode);

#endif
