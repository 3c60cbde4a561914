/* Its file keeps every write for restarts, synced each second: what a power cut takes is shipped again from the
 * journal. */
#include "billing/private_redis.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/text.h"

static bool is_written(int length, size_t capacity)
{
    bool fits = length >= 0 && (size_t) length < capacity;
    if (!fits)
        errno = ENAMETOOLONG;
    return fits;
}

static void set_arguments(struct private_redis *redis)
{
    const char *const arguments[] = {redis->_program,
                                     "--port",
                                     "0",
                                     "--unixsocket",
                                     redis->socket,
                                     "--unixsocketperm",
                                     "700",
                                     "--dir",
                                     redis->directory,
                                     "--databases",
                                     "1",
                                     "--save",
                                     "",
                                     "--appendonly",
                                     "yes",
                                     "--appendfsync",
                                     "everysec",
                                     "--aof-load-truncated",
                                     "yes",
                                     "--maxmemory",
                                     "0",
                                     "--maxmemory-policy",
                                     "noeviction",
                                     "--daemonize",
                                     "no",
                                     "--logfile",
                                     "",
                                     "--loglevel",
                                     "warning",
                                     NULL};
    _Static_assert(sizeof arguments <= sizeof redis->arguments, "all arguments have a place");
    for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++)
        redis->arguments[i] = arguments[i];
}

bool private_redis_socket(const char *runtime_directory, char ret[PRIVATE_REDIS_SOCKET_BYTES])
{
    return is_written(snprintf(ret, PRIVATE_REDIS_SOCKET_BYTES, "%s/redis.sock", runtime_directory),
                      PRIVATE_REDIS_SOCKET_BYTES);
}

bool private_redis_prepare(const char *program, const char *state_directory, const char *runtime_directory,
                           struct private_redis *ret)
{
    int directory = snprintf(ret->directory, sizeof ret->directory, "%s/redis", state_directory);
    int name = snprintf(ret->_program, sizeof ret->_program, "%s", program);
    if (!is_written(directory, sizeof ret->directory) || !private_redis_socket(runtime_directory, ret->socket) ||
        !is_written(name, sizeof ret->_program))
        return false;
    if (mkdir(ret->directory, 0700) != 0 && errno != EEXIST)
        return false;
    set_arguments(ret);
    return true;
}
