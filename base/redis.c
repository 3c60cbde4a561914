/* hiredis behind time limits. The answers of one call are read before the next, so that none is taken for another's. */
#include "base/redis.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <hiredis/hiredis.h>
#include <openssl/evp.h>

#include "base/panic.h"

enum { HOST_BYTES_MAX = 256, BEFORE_WORDS_MAX = 8, PREFIX_WORDS = 2 };

struct redis {
    char path[PATH_MAX], host[HOST_BYTES_MAX];
    char place[PATH_MAX + HOST_BYTES_MAX]; /* for people */
    struct redis_options options;
    redisContext *context; /* NULL: not connected */
    redisReply *reply;     /* the last answer */
    uint64_t connections;
    int back_off_ms;    /* the next rest; 0 = the last call worked */
    mono_ms rest_until; /* nothing is tried before */
    uint64_t jitter;
    unsigned before_count; /* commands in front of the next, already in the output */
    char error[REDIS_ERROR_BYTES];
    const char *arguments[REDIS_ARGUMENTS_MAX + PREFIX_WORDS];
    size_t lengths[REDIS_ARGUMENTS_MAX + PREFIX_WORDS];
    pthread_mutex_t lock; /* over interrupted and fd */
    bool interrupted;
    int fd; /* the context's, or -1 */
};

/* ---- life ---- */

struct redis *redis_create(const struct redis_options *options)
{
    struct redis *redis = calloc(1, sizeof *redis);
    if (redis == NULL)
        return NULL;
    redis->options = *options;
    redis->fd = -1;
    const char *path = options->path != NULL ? options->path : "", *host = options->host != NULL ? options->host : "";
    if (strlen(path) >= sizeof redis->path || strlen(host) >= sizeof redis->host ||
        getrandom(&redis->jitter, sizeof redis->jitter, 0) != (ssize_t) sizeof redis->jitter) {
        free(redis);
        return NULL;
    }
    text_copy(redis->path, sizeof redis->path, text_of(path));
    text_copy(redis->host, sizeof redis->host, text_of(host));
    if (options->path != NULL)
        snprintf(redis->place, sizeof redis->place, "unix:%s", redis->path);
    else
        snprintf(redis->place, sizeof redis->place, "%s:%d", redis->host, options->port);
    pthread_mutex_init(&redis->lock, NULL);
    return redis;
}

static void forget_reply(struct redis *redis)
{
    if (redis->reply != NULL)
        freeReplyObject(redis->reply);
    redis->reply = NULL;
}

static void disconnect(struct redis *redis)
{
    forget_reply(redis);
    redis->before_count = 0;
    pthread_mutex_lock(&redis->lock);
    redis->fd = -1;
    pthread_mutex_unlock(&redis->lock);
    if (redis->context != NULL)
        redisFree(redis->context);
    redis->context = NULL;
}

void redis_destroy(struct redis **redis_pointer)
{
    struct redis *redis = *redis_pointer;
    *redis_pointer = NULL;
    if (redis == NULL)
        return;
    disconnect(redis);
    pthread_mutex_destroy(&redis->lock);
    free(redis);
}

void redis_interrupt(struct redis *redis)
{
    pthread_mutex_lock(&redis->lock);
    redis->interrupted = true;
    if (redis->fd >= 0)
        (void) shutdown(redis->fd, SHUT_RDWR);
    pthread_mutex_unlock(&redis->lock);
}

/* False: nothing may be asked any more. */
static bool publish_fd(struct redis *redis, int fd)
{
    pthread_mutex_lock(&redis->lock);
    bool may_go_on = !redis->interrupted;
    if (may_go_on && fd >= 0)
        redis->fd = fd;
    pthread_mutex_unlock(&redis->lock);
    return may_go_on;
}

/* ---- failures ---- */

const char *redis_error(const struct redis *redis)
{
    return redis->error;
}

uint64_t redis_connections(const struct redis *redis)
{
    return redis->connections;
}

__attribute__((format(printf, 2, 3))) static void set_error(struct redis *redis, const char *format, ...)
{
    struct builder text;
    char line[REDIS_ERROR_BYTES + PATH_MAX + HOST_BYTES_MAX];
    va_list arguments;
    builder_init(&text, line, sizeof line);
    va_start(arguments, format);
    builder_format_list(&text, format, arguments);
    va_end(arguments);
    text_copy(redis->error, sizeof redis->error, builder_text(&text));
}

/* Rest between one and one and a half times the back-off: those who were cut off together do not return together. */
static enum redis_result fail(struct redis *redis)
{
    disconnect(redis);
    int doubled =
        redis->back_off_ms * 2 > redis->options.back_off_ms ? redis->back_off_ms * 2 : redis->options.back_off_ms;
    redis->back_off_ms = doubled < redis->options.back_off_max_ms ? doubled : redis->options.back_off_max_ms;
    redis->jitter = redis->jitter * 6364136223846793005U + 1442695040888963407U;
    int more = (int) ((redis->jitter >> 33) % (uint64_t) (redis->back_off_ms / 2 + 1));
    redis->rest_until = clock_mono_ms() + redis->back_off_ms + more;
    return REDIS_DOWN;
}

static enum redis_result fail_to_talk(struct redis *redis)
{
    const redisContext *context = redis->context;
    if (context->err == REDIS_ERR_IO)
        set_error(redis, "Redis at %s: no answer within %d ms, or the connection broke", redis->place,
                  redis->options.command_ms);
    else
        set_error(redis, "Redis at %s: %s", redis->place, context->errstr);
    return fail(redis);
}

/* ---- connecting ---- */

static struct timeval timeval_of(int ms)
{
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
}

static bool open_connection(struct redis *redis)
{
    const struct redis_options *options = &redis->options;
    struct timeval limit = timeval_of(options->connect_ms);
    redis->context = options->path != NULL ? redisConnectUnixWithTimeout(redis->path, limit)
                                           : redisConnectWithTimeout(redis->host, options->port, limit);
    if (redis->context == NULL) {
        set_error(redis, "no memory");
        return false;
    }
    if (redis->context->err != 0) {
        set_error(redis, "no connection to Redis at %s: %s", redis->place, redis->context->errstr);
        return false;
    }
    (void) fcntl(redis->context->fd, F_SETFD, FD_CLOEXEC);
    if (!publish_fd(redis, redis->context->fd) ||
        redisSetTimeout(redis->context, timeval_of(options->command_ms)) != REDIS_OK) {
        set_error(redis, "the connection to Redis at %s is given up", redis->place);
        return false;
    }
    redis->connections++;
    return true;
}

/* Take the next answer, in order. */
static enum redis_result take_reply(struct redis *redis)
{
    void *reply = NULL;
    forget_reply(redis);
    if (redisGetReply(redis->context, &reply) != REDIS_OK || reply == NULL)
        return fail_to_talk(redis);
    redis->reply = reply;
    if (redis->reply->type != REDIS_REPLY_ERROR)
        return REDIS_DONE;
    bool wants_password = strncmp(redis->reply->str, "NOAUTH", 6) == 0;
    set_error(redis, "Redis at %s: %s%s", redis->place, redis->reply->str,
              wants_password ? " (passwords are not supported: use a unix socket or loopback)" : "");
    return REDIS_REFUSED;
}

static bool append(struct redis *redis, const struct text *words, size_t count, const struct text prefix[PREFIX_WORDS])
{
    size_t total = 0;
    ENSURE(count >= 1 && count <= REDIS_ARGUMENTS_MAX);
    for (size_t i = 0; prefix != NULL && i < PREFIX_WORDS; i++, total++) {
        redis->arguments[total] = prefix[i].at;
        redis->lengths[total] = prefix[i].length;
    }
    for (size_t i = 0; i < count; i++, total++) {
        redis->arguments[total] = words[i].length > 0 ? words[i].at : "";
        redis->lengths[total] = words[i].length;
    }
    return redisAppendCommandArgv(redis->context, (int) total, redis->arguments, redis->lengths) == REDIS_OK;
}

static enum redis_result select_database(struct redis *redis)
{
    char number[16];
    if (redis->options.database == 0)
        return REDIS_DONE;
    snprintf(number, sizeof number, "%d", redis->options.database);
    const struct text words[] = {TEXT("SELECT"), text_of(number)};
    if (!append(redis, words, 2, NULL))
        return fail_to_talk(redis);
    enum redis_result result = take_reply(redis);
    /* Without its database everything would land in another one. */
    return result == REDIS_REFUSED ? fail(redis) : result;
}

static enum redis_result connect_if_needed(struct redis *redis)
{
    if (redis->context != NULL)
        return REDIS_DONE;
    if (clock_mono_ms() < redis->rest_until || !publish_fd(redis, -1))
        return REDIS_DOWN;
    return open_connection(redis) ? select_database(redis) : fail(redis);
}

/* ---- asking ---- */

/* The answers of what was put before, then the one that was waited for. */
static enum redis_result finish_ask(struct redis *redis, const struct redis_reply **ret)
{
    enum redis_result before = REDIS_DONE;
    char error[REDIS_ERROR_BYTES] = "";
    for (; redis->before_count > 0; redis->before_count--) {
        enum redis_result result = take_reply(redis);
        if (result == REDIS_DOWN)
            return result;
        if (result == REDIS_REFUSED) {
            before = result;
            memcpy(error, redis->error, sizeof error);
        }
    }
    enum redis_result result = take_reply(redis);
    if (result == REDIS_DOWN)
        return result;
    redis->back_off_ms = 0;
    if (result == REDIS_DONE && before == REDIS_REFUSED) {
        memcpy(redis->error, error, sizeof error);
        return before;
    }
    if (result == REDIS_DONE && ret != NULL)
        *ret = (const struct redis_reply *) redis->reply;
    return result;
}

enum redis_result redis_ask(struct redis *redis, const struct text *words, size_t count, const struct redis_reply **ret)
{
    if (connect_if_needed(redis) != REDIS_DONE)
        return REDIS_DOWN;
    if (!append(redis, words, count, NULL))
        return fail_to_talk(redis);
    return finish_ask(redis, ret);
}

void redis_ask_before(struct redis *redis, const struct text *words, size_t count)
{
    ENSURE(count <= BEFORE_WORDS_MAX && redis->before_count == 0);
    /* When there is no connection, there will be none for what follows: its call says so. */
    if (connect_if_needed(redis) != REDIS_DONE)
        return;
    if (append(redis, words, count, NULL))
        redis->before_count++;
    else
        (void) fail_to_talk(redis);
}

bool redis_script_init(struct redis_script *ret, struct text source)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    ret->source = source;
    if (EVP_Digest(source.at, source.length, digest, &length, EVP_sha1(), NULL) != 1 || length != 20)
        return false;
    text_hex(ret->sha1, digest, length);
    return true;
}

enum redis_result redis_run(struct redis *redis, const struct redis_script *script, const struct text *words,
                            size_t count, const struct redis_reply **ret)
{
    const struct text by_digest[PREFIX_WORDS] = {TEXT("EVALSHA"), text_of(script->sha1)};
    const struct text by_source[PREFIX_WORDS] = {TEXT("EVAL"), script->source};
    if (connect_if_needed(redis) != REDIS_DONE)
        return REDIS_DOWN;
    if (!append(redis, words, count, by_digest))
        return fail_to_talk(redis);
    enum redis_result result = finish_ask(redis, ret);
    bool is_unknown = result == REDIS_REFUSED && redis->reply->type == REDIS_REPLY_ERROR &&
                      strncmp(redis->reply->str, "NOSCRIPT", 8) == 0;
    if (!is_unknown)
        return result;
    if (!append(redis, words, count, by_source))
        return fail_to_talk(redis);
    return finish_ask(redis, ret);
}

bool redis_is_ready(struct redis *redis)
{
    const struct text words[] = {TEXT("PING")};
    return redis_ask(redis, words, 1, NULL) == REDIS_DONE;
}

/* ---- answers ---- */

static const redisReply *reply_of(const struct redis_reply *reply)
{
    return (const redisReply *) reply;
}

bool redis_reply_integer(const struct redis_reply *reply, int64_t *ret)
{
    if (reply_of(reply)->type != REDIS_REPLY_INTEGER)
        return false;
    *ret = reply_of(reply)->integer;
    return true;
}

struct text redis_reply_text(const struct redis_reply *reply)
{
    bool is_text = reply_of(reply)->type == REDIS_REPLY_STRING || reply_of(reply)->type == REDIS_REPLY_STATUS;
    return is_text ? (struct text){reply_of(reply)->str, reply_of(reply)->len} : TEXT("");
}

size_t redis_reply_count(const struct redis_reply *reply)
{
    return reply_of(reply)->type == REDIS_REPLY_ARRAY ? reply_of(reply)->elements : 0;
}

const struct redis_reply *redis_reply_entry(const struct redis_reply *reply, size_t index)
{
    ENSURE(index < redis_reply_count(reply));
    return (const struct redis_reply *) reply_of(reply)->element[index];
}

/* ---- what it keeps ---- */

enum { SETTING_BYTES = 32 };

enum redis_keeping redis_judge_durability(struct text appendonly, struct text appendfsync, struct text maxmemory_policy,
                                          char line[REDIS_DURABILITY_BYTES])
{
    struct builder to;
    enum redis_keeping keeping = REDIS_KEEPS;
    builder_init(&to, line, REDIS_DURABILITY_BYTES);
    if (appendonly.length == 0)
        builder_add_string(&to, "Redis does not say what it keeps when it dies");
    else if (!text_equal(appendonly, TEXT("yes")))
        builder_add_string(&to, "Redis forgets what came after its last snapshot when it dies: set appendonly yes");
    else if (text_equal(appendfsync, TEXT("always")))
        builder_add_string(&to, "Redis keeps whatever it confirmed (appendfsync always)");
    else
        builder_format(&to, "Redis may forget its last seconds when it dies (appendfsync %.*s)",
                       TEXT_ARGUMENTS(appendfsync));
    builder_add_string(&to, "; what it forgets is shipped again");
    if (!text_equal(appendonly, TEXT("yes")))
        keeping = REDIS_FORGETS;
    if (maxmemory_policy.length > 0 && !text_equal(maxmemory_policy, TEXT("noeviction"))) {
        builder_format(&to, "; it may drop sums when its memory is full (maxmemory-policy %.*s): set noeviction",
                       TEXT_ARGUMENTS(maxmemory_policy));
        keeping = REDIS_EVICTS;
    }
    (void) builder_string(&to);
    return keeping;
}

static enum redis_result ask_setting(struct redis *redis, const char *name, char ret[SETTING_BYTES])
{
    const struct text words[] = {TEXT("CONFIG"), TEXT("GET"), text_of(name)};
    const struct redis_reply *reply = NULL;
    enum redis_result result = redis_ask(redis, words, 3, &reply);
    ret[0] = '\0';
    if (result == REDIS_DONE && redis_reply_count(reply) == 2)
        text_copy(ret, SETTING_BYTES, redis_reply_text(redis_reply_entry(reply, 1)));
    return result;
}

/* The value of "name:value\r\n" in an INFO. */
static enum redis_result ask_info(struct redis *redis, const char *section, const char *name, char ret[SETTING_BYTES])
{
    const struct text words[] = {TEXT("INFO"), text_of(section)};
    const struct redis_reply *reply = NULL;
    enum redis_result result = redis_ask(redis, words, 2, &reply);
    ret[0] = '\0';
    if (result != REDIS_DONE)
        return result;
    struct text whole = redis_reply_text(reply), wanted = text_of(name);
    const char *at = whole.length > 0 ? memmem(whole.at, whole.length, wanted.at, wanted.length) : NULL;
    if (at == NULL)
        return result;
    at += wanted.length;
    size_t length = 0, left = whole.length - (size_t) (at - whole.at);
    while (length < left && at[length] != '\r' && at[length] != '\n')
        length++;
    text_copy(ret, SETTING_BYTES, (struct text){at, length});
    return result;
}

enum redis_keeping redis_durability(struct redis *redis, char line[REDIS_DURABILITY_BYTES])
{
    char appendonly[SETTING_BYTES], appendfsync[SETTING_BYTES] = "", policy[SETTING_BYTES] = "";
    line[0] = '\0';
    enum redis_result result = ask_setting(redis, "appendonly", appendonly);
    if (result == REDIS_DONE)
        result = ask_setting(redis, "appendfsync", appendfsync);
    if (result == REDIS_DONE)
        result = ask_setting(redis, "maxmemory-policy", policy);
    /* Rented ones often hide CONFIG; INFO says less. */
    if (result == REDIS_REFUSED)
        result = ask_info(redis, "memory", "maxmemory_policy:", policy);
    if (result == REDIS_DONE && appendonly[0] == '\0') {
        char enabled[SETTING_BYTES];
        result = ask_info(redis, "persistence", "aof_enabled:", enabled);
        if (enabled[0] != '\0')
            text_copy(appendonly, sizeof appendonly, enabled[0] == '1' ? TEXT("yes") : TEXT("no"));
        text_copy(appendfsync, sizeof appendfsync, TEXT("unknown"));
    }
    if (result == REDIS_DOWN)
        return REDIS_FORGETS;
    return redis_judge_durability(text_of(appendonly), text_of(appendfsync), text_of(policy), line);
}
