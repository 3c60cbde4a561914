#include "gateway/state_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    /* A gateway whose master was killed ends within a second. */
    PREDECESSOR_MS = 2000,
    LOOK_AGAIN_MS = 20,
    PID_BYTES = 16
};

/* False with errno: EWOULDBLOCK = somebody else has it. */
static bool take(int fd)
{
    mono_ms deadline = clock_mono_ms() + PREDECESSOR_MS;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || clock_mono_ms() >= deadline)
            return false;
        usleep(LOOK_AGAIN_MS * 1000);
    }
    return true;
}

/* Who has it, as far as it could say so. */
static void read_holder(int fd, char to[PID_BYTES])
{
    ssize_t length = pread(fd, to, PID_BYTES - 1, 0);
    to[length > 0 ? length : 0] = '\0';
    to[strspn(to, "0123456789")] = '\0';
}

/* For people only: a full disk is no reason not to have the lock. */
static void write_holder(int fd)
{
    char line[PID_BYTES];
    int length = snprintf(line, sizeof line, "%d\n", (int) getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, line, (size_t) length, 0) != length)
        return;
}

int state_lock_take(const char *state_dir, char error[STATE_LOCK_ERROR_BYTES])
{
    char path[PATH_MAX], holder[PID_BYTES] = "";
    int length = snprintf(path, sizeof path, "%s/lock", state_dir);
    int fd = -1;
    if (length < 0 || (size_t) length >= sizeof path)
        errno = ENAMETOOLONG;
    else
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0 && take(fd)) {
        write_holder(fd);
        return fd;
    }
    if (fd >= 0 && errno == EWOULDBLOCK) {
        read_holder(fd, holder);
        snprintf(
            error, STATE_LOCK_ERROR_BYTES,
            "another gateway (process %s) uses state_dir %s: stop that one, or give this one a state_dir of its own",
            *holder != '\0' ? holder : "unknown", state_dir);
    } else {
        snprintf(error, STATE_LOCK_ERROR_BYTES, "cannot lock state_dir %s: %s", state_dir, strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

void state_lock_release(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}
