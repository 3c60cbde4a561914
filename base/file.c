/* Whole writes to a descriptor. */
#include "base/file.h"

#include <errno.h>
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
