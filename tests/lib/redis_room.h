/* A real Redis on a unix socket in a directory that is removed: started, killed, hung up, robbed of what it kept. */
#ifndef TESTS_LIB_REDIS_ROOM_H
#define TESTS_LIB_REDIS_ROOM_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/redis.h"
#include "billing/private_redis.h"
#include "tests/lib/unit.h"

enum { REDIS_ROOM_START_MS = 30000 };

struct redis_room {
    char directory[64];
    struct private_redis redis;
    struct redis_options options;
    struct redis *client; /* the test's own look at it */
    pid_t pid;            /* 0: not running */
};

/* The program: REDIS_SERVER of the environment, or where scripts/setup_tests.sh puts it. Never skipped. */
static inline const char *redis_room_program(void)
{
    const char *program = getenv("REDIS_SERVER");
    if (program == NULL)
        program = "build/tools/redis-server";
    if (access(program, X_OK) != 0)
        fail_msg("%s is missing: scripts/setup_tests.sh fetches it; REDIS_SERVER names another one", program);
    return program;
}

static inline void redis_room_init(struct redis_room *room)
{
    (void) signal(SIGPIPE, SIG_IGN);
    *room = (struct redis_room){.directory = "/tmp/tollgate-redis-XXXXXX"};
    assert_non_null(mkdtemp(room->directory));
    assert_true(private_redis_prepare(redis_room_program(), room->directory, room->directory, &room->redis));
    room->options = (struct redis_options){
        .path = room->redis.socket, .connect_ms = 5000, .command_ms = 20000, .back_off_ms = 1, .back_off_max_ms = 10};
    room->client = redis_create(&room->options);
    assert_non_null(room->client);
}

static inline void redis_room_run(const struct redis_room *room)
{
    int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(nowhere, 0);
    dup2(nowhere, 1);
    dup2(nowhere, 2);
    char *arguments[PRIVATE_REDIS_ARGUMENTS_MAX];
    memcpy(arguments, room->redis.arguments, sizeof arguments);
    execv(arguments[0], arguments);
    _exit(127);
}

/* Start it and wait until it has loaded its data. */
static inline void redis_room_start(struct redis_room *room)
{
    assert_int_equal(room->pid, 0);
    room->pid = fork();
    assert_true(room->pid >= 0);
    if (room->pid == 0)
        redis_room_run(room);
    mono_ms until = clock_mono_ms() + REDIS_ROOM_START_MS;
    while (!redis_is_ready(room->client)) {
        if (clock_mono_ms() > until)
            fail_msg("Redis does not start: %s", redis_error(room->client));
        usleep(5000);
    }
}

static inline void redis_room_signal(const struct redis_room *room, int number)
{
    assert_true(room->pid > 0 && kill(room->pid, number) == 0);
}

/* kill -9, or the end of what somebody else killed. */
static inline void redis_room_kill(struct redis_room *room)
{
    if (room->pid == 0)
        return;
    (void) kill(room->pid, SIGKILL);
    assert_int_equal(waitpid(room->pid, NULL, 0), room->pid);
    room->pid = 0;
}

static inline int redis_room_remove(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void) status;
    (void) type;
    (void) where;
    return remove(path);
}

static inline void redis_room_finish(struct redis_room *room)
{
    redis_destroy(&room->client);
    redis_room_kill(room);
    nftw(room->directory, redis_room_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* What a late write(2) or a power cut leaves behind: a random part of the log's end is gone. Not while it runs. */
static inline void redis_room_lose_tail(const struct redis_room *room)
{
    char path[PATH_MAX + 64];
    struct stat status;
    assert_int_equal(room->pid, 0);
    snprintf(path, sizeof path, "%s/appendonlydir/appendonly.aof.1.incr.aof", room->redis.directory);
    assert_int_equal(stat(path, &status), 0);
    if (status.st_size > 0)
        assert_int_equal(truncate(path, (off_t) unit_random_below((size_t) status.st_size)), 0);
}

/* Copies of everything it keeps, for a restored backup. */
static inline void redis_room_copy(const char *from, const char *to)
{
    pid_t pid = fork();
    int status = 0;
    if (pid == 0) {
        execlp("cp", "cp", "-a", from, to, (char *) NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* The answer to a command of up to four words, asked by the test itself. */
static inline const struct redis_reply *redis_room_ask(struct redis_room *room, const char *const words[4])
{
    struct text texts[4];
    size_t count = 0;
    const struct redis_reply *reply = NULL;
    for (; count < 4 && words[count] != NULL; count++)
        texts[count] = text_of(words[count]);
    for (int i = 0; i < 100; i++) {
        enum redis_result result = redis_ask(room->client, texts, count, &reply);
        if (result == REDIS_DONE)
            return reply;
        if (result == REDIS_REFUSED)
            fail_msg("%s", redis_error(room->client));
        usleep(10000); /* a new connection after a restart */
    }
    fail_msg("%s", redis_error(room->client));
    return NULL;
}

#define REDIS_ROOM_ASK(room, ...) redis_room_ask(room, (const char *const[4]){__VA_ARGS__})

#endif
