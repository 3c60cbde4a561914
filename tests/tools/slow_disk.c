/* LD_PRELOAD: while the file that SLOW_DISK_FILE names exists, every write and sync of a usage journal takes as many
 * milliseconds longer as it says. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, DELAY_MS_MAX = 5000 };

static long delay_ms(void)
{
    const char *name = getenv("SLOW_DISK_FILE");
    char text[16] = "";
    int fd = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (read(fd, text, sizeof text - 1) < 0)
        text[0] = '\0';
    close(fd);
    long wanted = strtol(text, NULL, 10);
    return wanted < DELAY_MS_MAX ? wanted : DELAY_MS_MAX;
}

static void delay(int fd)
{
    char link[64], path[PATH_BYTES];
    long wanted_ms = delay_ms();
    if (wanted_ms <= 0)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return;
    path[length] = '\0';
    if (strstr(path, "/journal/") == NULL)
        return;
    nanosleep(&(struct timespec){.tv_sec = wanted_ms / 1000, .tv_nsec = wanted_ms % 1000 * 1000000}, NULL);
}

typedef ssize_t writer(int fd, const void *bytes, size_t count, off_t offset);
typedef int syncer(int fd);

/* Compiled as the gateway is: both call it by the same name, with large offsets. */
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    delay(fd);
    return ((writer *) dlsym(RTLD_NEXT, "pwrite64"))(fd, bytes, count, offset);
}

int fdatasync(int fd)
{
    delay(fd);
    return ((syncer *) dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
