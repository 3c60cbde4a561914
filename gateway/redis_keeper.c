#include "gateway/redis_keeper.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/backoff.h"
#include "backends/children.h"
#include "backends/random.h"
#include "backends/spawn.h"
#include "base/buffer.h"
#include "base/log.h"
#include "base/text.h"
#include "billing/private_redis.h"

enum {
    TROUBLE_BYTES = 512,
    NOTE_BYTES = 2 * SHA256_DIGEST_LENGTH + 1,
    LAST_WORDS_BYTES = 600,
    STOP_GRACE_MS = 10 * 1000,
    /* Who lives so long has read its data and listens: its end is no failed start. */
    READY_MS = 2 * 1000,
    /* No longer than that it has for making its socket, however often it was replaced for want of one. */
    SOCKET_MAX_MS = 120 * 1000,
    VARIABLES_MAX = 4,
    WORDS_BYTES_MAX = 64 * 1024
};

static const char child_name[] = "redis";
static const char program_name[] = "redis-server";
/* Debian's redis-tools has the server without its daemon: its checker is the server when it is called so. */
static const char checker_name[] = "redis-check-rdb";
static const char how_to_get_one[] =
    "install redis-tools or redis-server, or name a server that runs: redis: { url: … }";

struct redis_keeper {
    struct loop *loop;
    struct children *children;
    struct private_redis redis;
    char runtime_dir[PATH_MAX];
    char note[NOTE_BYTES]; /* of what it is started with */
    bool is_replacing;     /* one that is of no use to us was told to stop */
    int64_t socket_ms;     /* how long the next one has for its socket; doubled each time in vain */
    mono_ms started_at;    /* -1: it does not run */
    struct backoff backoff;
    uint64_t random_state;
    struct loop_timer again;
    char trouble[TROUBLE_BYTES];
};

/* ---- start ---- */

/* What a program needs to be found and to run; nothing of what the rest of our environment may hold. */
static void inherit(const char *environment[VARIABLES_MAX + 1])
{
    static const struct text names[] = {{"PATH=", 5}, {"HOME=", 5}, {"TMPDIR=", 7}, {"LD_LIBRARY_PATH=", 16}};
    _Static_assert(sizeof names / sizeof *names == VARIABLES_MAX, "each has a place");
    size_t count = 0;
    for (char **variable = environ; *variable != NULL; variable++) {
        for (size_t i = 0; i < VARIABLES_MAX && count < VARIABLES_MAX; i++) {
            if (text_starts_with(text_of(*variable), names[i]))
                environment[count++] = *variable;
        }
    }
    environment[count] = NULL;
}

static void fail_start(struct redis_keeper *keeper, const char *why);

static void start(struct redis_keeper *keeper)
{
    char why[TROUBLE_BYTES];
    const char *environment[VARIABLES_MAX + 1];
    const struct child_start order = {.name = child_name,
                                      .note = keeper->note,
                                      .working_directory = keeper->redis.directory,
                                      .arguments = keeper->redis.arguments,
                                      .environment = environment};
    if (!spawn_prepare_directory(keeper->runtime_dir, why, sizeof why)) {
        fail_start(keeper, why);
        return;
    }
    inherit(environment);
    keeper->started_at = clock_mono_ms();
    if (!children_start(keeper->children, &order))
        fail_start(keeper, "the master process does not take the order");
}

static void on_again(struct loop_timer *timer)
{
    start(timer->owner);
}

/* ---- its ends ---- */

/* It does not run, because of @why; @status tells ends apart. */
static void start_later(struct redis_keeper *keeper, const char *why, int status)
{
    mono_ms now = clock_mono_ms();
    int64_t lived_ms = keeper->started_at < 0 ? -1 : now - keeper->started_at;
    struct backoff_decision next = backoff_exited(&keeper->backoff, now, status, lived_ms >= READY_MS ? lived_ms : -1,
                                                  random_fraction(&keeper->random_state));
    keeper->started_at = -1;
    snprintf(keeper->trouble, sizeof keeper->trouble, "%s", why);
    log_event(LOG_WARNING, "redis",
              "the private redis-server does not run: %s; usage waits in the journals, next "
              "start in %.1f s",
              why, (double) next.delay_ms / 1000);
    loop_timer_set(keeper->loop, &keeper->again, now + next.delay_ms);
}

static void fail_start(struct redis_keeper *keeper, const char *why)
{
    start_later(keeper, why, -1);
}

static void describe(const struct redis_keeper *keeper, const struct child_exit *exit, char to[TROUBLE_BYTES])
{
    int status = exit->wait_status;
    if (exit->reason[0] != '\0')
        snprintf(to, TROUBLE_BYTES, "%s: %s", exit->reason, how_to_get_one);
    else if (WIFEXITED(status))
        snprintf(to, TROUBLE_BYTES,
                 "exit status %d; if its data is damaged, remove %.300s/appendonlydir: it is filled again",
                 WEXITSTATUS(status), keeper->redis.directory);
    else
        snprintf(to, TROUBLE_BYTES, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
}

/* ---- what the master tells ---- */

static void on_started(void *owner, const char *name, int pid, uint64_t start_time)
{
    struct redis_keeper *keeper = owner;
    (void) name;
    (void) start_time;
    keeper->trouble[0] = '\0';
    log_event(LOG_INFO, "redis", "started the private redis-server, pid %d, data in %s", pid, keeper->redis.directory);
}

static void on_exited(void *owner, const struct child_exit *exit)
{
    struct redis_keeper *keeper = owner;
    char why[TROUBLE_BYTES];
    if (keeper->is_replacing) {
        keeper->is_replacing = false;
        start(keeper);
        return;
    }
    describe(keeper, exit, why);
    start_later(keeper, why, exit->wait_status);
    (void) children_ask_logs(keeper->children, child_name);
}

static void on_log_tail(void *owner, const char *name, struct text bytes)
{
    (void) owner;
    (void) name;
    if (bytes.length > LAST_WORDS_BYTES) {
        bytes.at += bytes.length - LAST_WORDS_BYTES;
        bytes.length = LAST_WORDS_BYTES;
    }
    if (bytes.length > 0)
        log_event(LOG_WARNING, "redis", "it said last: %.*s", TEXT_ARGUMENTS(bytes));
}

static const struct children_events child_events = {on_started, on_exited, on_log_tail};

/* ---- which program ---- */

static bool find_in_path(const char *name, char to[PATH_MAX])
{
    for (const char *at = getenv("PATH"); at != NULL && *at != '\0';) {
        size_t length = strcspn(at, ":");
        int written = snprintf(to, PATH_MAX, "%.*s/%s", (int) length, at, name);
        if (length > 0 && written > 0 && written < PATH_MAX && access(to, X_OK) == 0)
            return true;
        at += length + (at[length] == ':' ? 1 : 0);
    }
    return false;
}

/* Prepare for REDIS_SERVER, or PATH's redis-server, or PATH's checker under a name of ours in the server's directory.
 * False with errno. */
static bool prepare(struct private_redis *redis, const char *state_dir, const char *runtime_dir)
{
    char found[PATH_MAX], named[PATH_MAX];
    const char *given = getenv("REDIS_SERVER");
    if (given != NULL && *given != '\0')
        return private_redis_prepare(given, state_dir, runtime_dir, redis);
    if (find_in_path(program_name, found) || !find_in_path(checker_name, found))
        return private_redis_prepare(program_name, state_dir, runtime_dir, redis);
    int length = snprintf(named, sizeof named, "%s/redis/%s", state_dir, program_name);
    if (length < 0 || (size_t) length >= sizeof named) {
        errno = ENAMETOOLONG;
        return false;
    }
    return private_redis_prepare(named, state_dir, runtime_dir, redis) && (unlink(named) == 0 || errno == ENOENT) &&
           symlink(found, named) == 0;
}

/* ---- life ---- */

/* What the next gateway compares: a digest of the words it is started with. */
static bool write_note(struct redis_keeper *keeper)
{
    struct buffer words;
    uint8_t digest[SHA256_DIGEST_LENGTH];
    bool is_whole = true;
    buffer_init(&words, WORDS_BYTES_MAX);
    for (size_t i = 0; keeper->redis.arguments[i] != NULL; i++)
        is_whole = is_whole && buffer_format(&words, "%s\n", keeper->redis.arguments[i]);
    SHA256((const uint8_t *) buffer_text(&words).at, buffer_length(&words), digest);
    text_hex(keeper->note, digest, sizeof digest);
    buffer_finish(&words);
    return is_whole;
}

struct redis_keeper *redis_keeper_create(struct loop *loop, struct children *children, const char *state_dir,
                                         const char *runtime_dir)
{
    struct redis_keeper *keeper = calloc(1, sizeof *keeper);
    if (keeper == NULL)
        return NULL;
    if (!prepare(&keeper->redis, state_dir, runtime_dir) || !write_note(keeper)) {
        int error = errno;
        free(keeper);
        errno = error;
        return NULL;
    }
    keeper->loop = loop;
    keeper->children = children;
    keeper->started_at = -1;
    keeper->socket_ms = READY_MS;
    keeper->random_state = (uint64_t) clock_mono_us();
    keeper->again = (struct loop_timer){.fire = on_again, .owner = keeper};
    text_copy(keeper->runtime_dir, sizeof keeper->runtime_dir, text_of(runtime_dir));
    children_listen_to(children, child_name, &child_events, keeper);
    return keeper;
}

static void replace(struct redis_keeper *keeper)
{
    keeper->is_replacing = true;
    (void) children_stop(keeper->children, child_name, STOP_GRACE_MS);
}

void redis_keeper_begin(struct redis_keeper *keeper)
{
    struct child_info running;
    if (!children_find(keeper->children, child_name, &running)) {
        start(keeper);
        return;
    }
    if (strcmp(running.note, keeper->note) == 0) {
        keeper->started_at = clock_mono_ms() - running.running_ms;
        log_event(LOG_INFO, "redis", "the private redis-server runs on, pid %d", running.pid);
        return;
    }
    log_event(LOG_INFO, "redis", "the private redis-server, pid %d, was started otherwise: it is replaced",
              running.pid);
    replace(keeper);
}

void redis_keeper_look(struct redis_keeper *keeper, bool answers)
{
    if (answers)
        keeper->socket_ms = READY_MS;
    if (answers || keeper->is_replacing || keeper->started_at < 0 ||
        clock_mono_ms() < keeper->started_at + keeper->socket_ms)
        return;
    if (access(keeper->redis.socket, F_OK) == 0 || errno != ENOENT)
        return;
    keeper->socket_ms = keeper->socket_ms * 2 < SOCKET_MAX_MS ? keeper->socket_ms * 2 : SOCKET_MAX_MS;
    snprintf(keeper->trouble, sizeof keeper->trouble, "somebody removed %.300s: it is started anew",
             keeper->redis.socket);
    log_event(LOG_WARNING, "redis", "the private redis-server runs without its socket: %s", keeper->trouble);
    replace(keeper);
}

void redis_keeper_destroy(struct redis_keeper **keeper_pointer)
{
    struct redis_keeper *keeper = *keeper_pointer;
    *keeper_pointer = NULL;
    if (keeper == NULL)
        return;
    loop_timer_cancel(keeper->loop, &keeper->again);
    free(keeper);
}

const char *redis_keeper_socket(const struct redis_keeper *keeper)
{
    return keeper->redis.socket;
}

const char *redis_keeper_trouble(const struct redis_keeper *keeper)
{
    return keeper->trouble;
}
