/* How a Redis of our own is started when the configuration names none: plain values for whoever starts children. */
#ifndef BILLING_PRIVATE_REDIS_H
#define BILLING_PRIVATE_REDIS_H

#include <limits.h>
#include <stdbool.h>

enum { PRIVATE_REDIS_ARGUMENTS_MAX = 40, PRIVATE_REDIS_SOCKET_BYTES = 108 };

/* Holds no pointer into anything but itself and constants: not to be copied. */
struct private_redis {
    char directory[PATH_MAX];                           /* its data, and its working directory */
    char socket[PRIVATE_REDIS_SOCKET_BYTES];            /* only its user may connect; no port is opened */
    const char *arguments[PRIVATE_REDIS_ARGUMENTS_MAX]; /* NULL-terminated; the program first */
    char _program[PATH_MAX];
};

/* Where its socket is. False with errno: too long a path. */
bool private_redis_socket(const char *runtime_directory, char ret[PRIVATE_REDIS_SOCKET_BYTES]);

/* Make state_dir/redis (0700) and fill in @ret. @program is looked for in PATH unless it has a slash. One that runs is
 * not touched; an old socket is removed by the server that is started. It is ready when redis_is_ready through the
 * socket says so. False with errno: the directory, or too long a path. */
bool private_redis_prepare(const char *program, const char *state_directory, const char *runtime_directory,
                           struct private_redis *ret);

#endif
