/* Small wrappers around open, read and paths. */
#include "conf/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIRECTORY_BYTES_MAX = 4096 };

/* Up to @capacity bytes; -1 with errno. */
static ssize_t read_all(int fd, char *to, size_t capacity)
{
    size_t length = 0;
    while (length < capacity) {
        ssize_t got = read(fd, to + length, capacity - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        length += (size_t) got;
    }
    return (ssize_t) length;
}

static int read_open_file(int fd, size_t bytes_max, struct file_content *ret)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return errno;
    if (S_ISDIR(status.st_mode))
        return EISDIR;
    if (!S_ISREG(status.st_mode))
        return EINVAL;
    if (status.st_size < 0 || (size_t) status.st_size > bytes_max)
        return EFBIG;
    /* One more than it has: a file that grew meanwhile is noticed. */
    size_t capacity = (size_t) status.st_size + 1;
    char *bytes = malloc(capacity);
    if (bytes == NULL)
        return ENOMEM;
    ssize_t length = read_all(fd, bytes, capacity);
    if (length < 0 || (size_t) length == capacity) {
        int error = length < 0 ? errno : EAGAIN;
        free(bytes);
        return error;
    }
    bytes[length] = '\0';
    *ret = (struct file_content){bytes, (size_t) length, status.st_mode, status.st_uid};
    return 0;
}

int file_read(const char *path, size_t bytes_max, struct file_content *ret)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return errno;
    int error = read_open_file(fd, bytes_max, ret);
    close(fd);
    return error;
}

const char *file_error_text(int error)
{
    if (error == EINVAL)
        return "it is not a regular file";
    if (error == EFBIG)
        return "it is too large";
    if (error == EAGAIN)
        return "it changed while it was read";
    const char *text = strerrordesc_np(error);
    return text != NULL ? text : "unknown error";
}

struct text file_directory(struct text path)
{
    const char *slash = path.length > 0 ? memrchr(path.at, '/', path.length) : NULL;
    if (slash == NULL)
        return TEXT(".");
    size_t length = (size_t) (slash - path.at);
    return (struct text){path.at, length > 0 ? length : 1};
}

/* Leave ".." alone: behind a symbolic link it is not what it looks like. */
static void add_parts(struct builder *to, struct text path)
{
    for (size_t start = 0; start < path.length;) {
        size_t end = start;
        while (end < path.length && path.at[end] != '/')
            end++;
        struct text part = {path.at + start, end - start};
        if (part.length > 0 && !text_equal(part, TEXT("."))) {
            builder_add_string(to, "/");
            builder_add(to, part);
        }
        start = end + 1;
    }
}

static struct text join(struct text directory, struct text path, struct arena *arena)
{
    size_t capacity = directory.length + path.length + 4;
    char *memory = arena_take(arena, capacity);
    if (memory == NULL)
        return (struct text){NULL, 0};
    struct builder to;
    builder_init(&to, memory, capacity);
    if (!text_starts_with(path, TEXT("/")))
        add_parts(&to, directory);
    add_parts(&to, path);
    if (to.length == 0)
        builder_add_string(&to, "/");
    (void) builder_string(&to);
    return builder_text(&to);
}

struct text file_path_from(const char *from_file, struct text path, struct arena *arena)
{
    return join(file_directory(text_of(from_file)), path, arena);
}

struct text file_path_absolute(struct text path, struct arena *arena)
{
    char directory[DIRECTORY_BYTES_MAX];
    if (getcwd(directory, sizeof(directory)) == NULL)
        directory[0] = '\0';
    return join(text_of(directory), path, arena);
}
