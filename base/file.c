/* Whole writes to a descriptor; files and names that a power cut does not take back. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

bool file_write_all(int fd, struct text bytes)
{
    while (bytes.length > 0) {
        ssize_t written = write(fd, bytes.at, bytes.length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        bytes.at += written;
        bytes.length -= (size_t) written;
    }
    return true;
}

bool file_close_after(int fd, bool good)
{
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return good;
}

bool file_sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return file_close_after(fd, fd >= 0 && fsync(fd) == 0);
}

bool file_sync_directory_and_name(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int parent = fd < 0 ? -1 : openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = parent >= 0 && fsync(fd) == 0 && fsync(parent) == 0;
    return file_close_after(fd, file_close_after(parent, good));
}

bool file_make_directory(const char *path, mode_t mode)
{
    if (mkdir(path, mode) != 0)
        return errno == EEXIST;
    if (file_sync_directory_and_name(path))
        return true;
    int error = errno;
    (void) rmdir(path); /* else the next attempt would take its name for one that is on the disk */
    errno = error;
    return false;
}

bool file_replace(int directory_fd, const char *name, struct text content, mode_t mode)
{
    char temporary[NAME_MAX + 8]; /* what does not fit is longer than any file's name, and refused */
    snprintf(temporary, sizeof temporary, ".%s.tmp", name);
    int fd = openat(directory_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0)
        return false;
    bool good = file_write_all(fd, content) && fsync(fd) == 0;
    if (file_close_after(fd, good) && renameat(directory_fd, temporary, directory_fd, name) == 0)
        return fsync(directory_fd) == 0;
    int error = errno;
    (void) unlinkat(directory_fd, temporary, 0);
    errno = error;
    return false;
}
