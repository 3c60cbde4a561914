/* One request to one engine, over libcurl's multi interface. */
#include "backends/upstream.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "base/transfers.h"

const char *const EXCHANGE_END_NAMES[EXCHANGE_END_COUNT] = {
    "done", "connect_failed", "closed_reused", "closed_early", "broken", "no_first_byte", "stalled", "too_long",
};

enum {
    HEADER_LINES = 7,
    HEADER_LINE_BYTES = 128,
    BEARER_LINE_BYTES = 4096,
    URL_BYTES = 1024,
    IDLE_CONNECTION_SECONDS = 3, /* engines close at 5 s; curl drops what is idle for a whole second more than this */
    RELEASED_MS_MAX = 1000,
    RELEASED_BYTES_MAX = 64 * 1024,
    HANDLES_KEPT_MAX = 256
};

struct upstream {
    struct loop *loop;
    struct transfers *transfers;
    struct exchange *idle; /* finished ones, their curl handles ready for the next */
    unsigned idle_count;
    struct exchange *active; /* for upstream_destroy */
};

struct exchange {
    struct upstream *upstream;
    struct exchange *next, *previous;
    CURL *easy;
    struct exchange_events events;
    void *owner;
    size_t (*read_body)(void *owner, size_t offset, char *to, size_t capacity);
    size_t body_length;
    size_t body_sent;
    struct engine_timeouts timeouts;
    bool streaming;
    mono_ms started, progressed;
    struct loop_timer timer;
    struct exchange_head head;
    size_t head_bytes;
    bool head_told;
    bool got_byte;
    bool paused;
    bool released;
    bool cancelled; /* from inside a call of ours: curl may not be touched now */
    bool ended;     /* `end` is being told: nothing is left to stop */
    bool inside_curl;
    size_t released_bytes;
    struct curl_slist headers[HEADER_LINES];
    char lines[HEADER_LINES][HEADER_LINE_BYTES];
    char bearer[BEARER_LINE_BYTES];
};

/* ---- the end of an exchange ---- */

static void unlink_active(struct exchange *exchange)
{
    struct upstream *upstream = exchange->upstream;
    if (exchange->previous != NULL)
        exchange->previous->next = exchange->next;
    else
        upstream->active = exchange->next;
    if (exchange->next != NULL)
        exchange->next->previous = exchange->previous;
}

static void destroy(struct exchange *exchange)
{
    curl_easy_cleanup(exchange->easy);
    explicit_bzero(exchange->bearer, sizeof exchange->bearer);
    free(exchange);
}

/* Out of every list, the handle kept for the next. Curl no longer has it. */
static void put_away(struct exchange *exchange)
{
    struct upstream *upstream = exchange->upstream;
    loop_timer_cancel(upstream->loop, &exchange->timer);
    unlink_active(exchange);
    explicit_bzero(exchange->bearer, sizeof exchange->bearer);
    if (upstream->idle_count >= HANDLES_KEPT_MAX) {
        destroy(exchange);
        return;
    }
    exchange->next = upstream->idle;
    upstream->idle = exchange;
    upstream->idle_count++;
}

static void finish(struct exchange *exchange, enum exchange_end end, const char *detail)
{
    void (*tell)(void *, enum exchange_end, const char *) = exchange->events.end;
    void *owner = exchange->owner;
    bool silent = exchange->released || exchange->cancelled;
    exchange->ended = true;
    if (!silent)
        tell(owner, end, detail);
    put_away(exchange);
}

/* Stop the transfer from outside curl and tell @end. */
static void stop(struct exchange *exchange, enum exchange_end end, const char *detail)
{
    transfers_remove(exchange->upstream->transfers, exchange->easy);
    finish(exchange, end, detail);
}

static enum exchange_end end_of_result(const struct exchange *exchange, CURLcode result)
{
    long connects = 0;
    (void) curl_easy_getinfo(exchange->easy, CURLINFO_NUM_CONNECTS, &connects);
    bool reused = connects == 0;
    /* curl has no objection to a head that was cut off. */
    if (result == CURLE_OK)
        return exchange->head_told || exchange->released ? EXCHANGE_DONE : EXCHANGE_CLOSED_EARLY;
    /* curl found the reused connection dead and wanted to send the body again, which our seek refuses. */
    if (result == CURLE_SEND_FAIL_REWIND)
        return EXCHANGE_CLOSED_REUSED;
    bool connecting = result == CURLE_COULDNT_CONNECT || result == CURLE_COULDNT_RESOLVE_HOST ||
                      result == CURLE_COULDNT_RESOLVE_PROXY || result == CURLE_SSL_CONNECT_ERROR ||
                      result == CURLE_PEER_FAILED_VERIFICATION ||
                      (result == CURLE_OPERATION_TIMEDOUT && exchange->body_sent == 0);
    if (connecting)
        return EXCHANGE_CONNECT_FAILED;
    bool closed = result == CURLE_GOT_NOTHING || result == CURLE_RECV_ERROR || result == CURLE_SEND_ERROR;
    if (closed && reused && !exchange->got_byte)
        return EXCHANGE_CLOSED_REUSED;
    if (closed || result == CURLE_PARTIAL_FILE)
        return EXCHANGE_CLOSED_EARLY;
    return EXCHANGE_BROKEN;
}

static void on_done(void *owner, void *easy, int result)
{
    struct exchange *exchange = NULL;
    (void) owner;
    (void) curl_easy_getinfo((CURL *) easy, CURLINFO_PRIVATE, (char **) &exchange);
    finish(exchange, end_of_result(exchange, (CURLcode) result), curl_easy_strerror((CURLcode) result));
}

/* ---- timers: one loop timer, moved lazily since progress is frequent ---- */

static mono_ms next_deadline(const struct exchange *exchange, enum exchange_end *ret_end)
{
    mono_ms total = exchange->started + exchange->timeouts.total_ms;
    *ret_end = EXCHANGE_TOO_LONG;
    if (!exchange->streaming || exchange->paused)
        return total;
    bool waiting = exchange->progressed == 0;
    mono_ms quiet = waiting ? exchange->started + exchange->timeouts.first_token_ms
                            : exchange->progressed + exchange->timeouts.inter_chunk_ms;
    if (quiet >= total)
        return total;
    *ret_end = waiting ? EXCHANGE_NO_FIRST_BYTE : EXCHANGE_STALLED;
    return quiet;
}

static void on_timer(struct loop_timer *timer)
{
    struct exchange *exchange = timer->owner;
    enum exchange_end end;
    if (exchange->released) {
        stop(exchange, EXCHANGE_DONE, "");
        return;
    }
    mono_ms due = next_deadline(exchange, &end);
    if (due > loop_now(exchange->upstream->loop)) {
        loop_timer_set(exchange->upstream->loop, timer, due);
        return;
    }
    stop(exchange, end, "the engine was silent for too long");
}

/* To the next deadline, which may have come nearer. */
static void set_timer(struct exchange *exchange)
{
    enum exchange_end end;
    loop_timer_set(exchange->upstream->loop, &exchange->timer, next_deadline(exchange, &end));
}

void exchange_progress(struct exchange *exchange)
{
    bool is_first = exchange->progressed == 0;
    exchange->progressed = loop_now(exchange->upstream->loop);
    if (is_first && !exchange->ended && !exchange->released)
        set_timer(exchange);
}

/* ---- curl's calls ---- */

static size_t on_read(char *to, size_t size, size_t count, void *cls)
{
    struct exchange *exchange = cls;
    if (exchange->cancelled || exchange->released)
        return CURL_READFUNC_ABORT;
    exchange->inside_curl = true;
    size_t copied = exchange->read_body(exchange->owner, exchange->body_sent, to, size * count);
    exchange->inside_curl = false;
    exchange->body_sent += copied;
    return exchange->cancelled || exchange->released ? CURL_READFUNC_ABORT : copied;
}

/* A request body is never sent twice behind our back (research/backends.md, "libcurl silently runs a generation
 * twice"). */
static int on_seek(void *cls, curl_off_t offset, int origin)
{
    (void) cls;
    (void) offset;
    (void) origin;
    return CURL_SEEKFUNC_FAIL;
}

static void read_status_line(struct exchange *exchange, struct text line)
{
    int64_t status = 0;
    const char *space = memchr(line.at, ' ', line.length);
    size_t at = space != NULL ? (size_t) (space - line.at) + 1 : line.length;
    struct text digits = {line.at + at, line.length - at < 3 ? line.length - at : 3};
    exchange->head = (struct exchange_head){.content_length = -1, .retry_after_ms = -1};
    if (text_to_int64(digits, &status))
        exchange->head.status = (int) status;
}

static void read_field(struct exchange *exchange, struct text name, struct text value)
{
    int64_t number = 0;
    if (text_equal_ignoring_case(name, TEXT("content-type"))) {
        struct text stream = {value.at, value.length < 17 ? value.length : 17};
        struct text json = {value.at, value.length < 16 ? value.length : 16};
        exchange->head.is_event_stream = text_equal_ignoring_case(stream, TEXT("text/event-stream"));
        exchange->head.is_json = text_equal_ignoring_case(json, TEXT("application/json"));
    } else if (text_equal_ignoring_case(name, TEXT("content-length")) && text_to_int64(value, &number)) {
        exchange->head.content_length = number;
    } else if (text_equal_ignoring_case(name, TEXT("retry-after-ms")) && text_to_int64(value, &number) && number >= 0) {
        exchange->head.retry_after_ms = number;
    } else if (text_equal_ignoring_case(name, TEXT("retry-after")) && exchange->head.retry_after_ms < 0 &&
               text_to_int64(value, &number) && number >= 0 && number <= 86400) {
        exchange->head.retry_after_ms = number * 1000;
    }
}

static size_t on_header(char *at, size_t size, size_t count, void *cls)
{
    struct exchange *exchange = cls;
    struct text line = {at, size * count};
    exchange->head_bytes += line.length;
    if (exchange->cancelled || exchange->head_bytes > EXCHANGE_HEAD_BYTES_MAX)
        return 0;
    exchange->got_byte = true;
    while (line.length > 0 && (line.at[line.length - 1] == '\n' || line.at[line.length - 1] == '\r'))
        line.length--;
    const char *colon = line.length > 0 ? memchr(line.at, ':', line.length) : NULL;
    if (text_starts_with(line, TEXT("HTTP/"))) {
        read_status_line(exchange, line);
    } else if (colon != NULL) {
        size_t name_length = (size_t) (colon - line.at);
        struct text value = {colon + 1, line.length - name_length - 1};
        read_field(exchange, (struct text){line.at, name_length}, text_trimmed(value));
    } else if (line.length == 0 && exchange->head.status >= 200 && !exchange->released) {
        exchange->head_told = true;
        exchange->inside_curl = true;
        exchange->events.head(exchange->owner, &exchange->head);
        exchange->inside_curl = false;
    }
    return exchange->cancelled ? 0 : size * count;
}

static size_t on_body(char *at, size_t size, size_t count, void *cls)
{
    struct exchange *exchange = cls;
    size_t length = size * count;
    if (exchange->cancelled)
        return 0;
    if (exchange->released) {
        exchange->released_bytes += length;
        return exchange->released_bytes > RELEASED_BYTES_MAX ? 0 : length;
    }
    bool was_inside = exchange->inside_curl;
    exchange->inside_curl = true;
    enum body_verdict verdict = exchange->events.body(exchange->owner, (struct text){at, length});
    exchange->inside_curl = was_inside;
    if (exchange->cancelled)
        return 0;
    if (verdict == BODY_PAUSE) {
        exchange->paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    return length;
}

void exchange_continue(struct exchange *exchange)
{
    if (!exchange->paused)
        return;
    exchange->paused = false;
    exchange->progressed = loop_now(exchange->upstream->loop);
    set_timer(exchange);
    (void) curl_easy_pause(exchange->easy, CURLPAUSE_CONT);
    /* Cancelled by a call from inside that: curl would notice at the engine's next byte only. */
    if (exchange->cancelled)
        stop(exchange, EXCHANGE_CLOSED_EARLY, "");
}

/* ---- start ---- */

/* Options that never change; the handle is used for many exchanges. */
static bool set_constant_options(struct exchange *exchange)
{
    CURL *easy = exchange->easy;
    CURLcode bad = CURLE_OK;
#define SET(option, value) bad |= curl_easy_setopt(easy, option, value)
    SET(CURLOPT_PRIVATE, exchange);
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_READFUNCTION, on_read);
    SET(CURLOPT_READDATA, exchange);
    SET(CURLOPT_SEEKFUNCTION, on_seek);
    SET(CURLOPT_SEEKDATA, exchange);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, exchange);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, exchange);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_NOPROGRESS, 1L);
    SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
    SET(CURLOPT_TCP_NODELAY, 1L);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_TCP_KEEPIDLE, 15L);
    SET(CURLOPT_TCP_KEEPINTVL, 15L);
    SET(CURLOPT_MAXAGE_CONN, (long) IDLE_CONNECTION_SECONDS);
    SET(CURLOPT_HTTP_TRANSFER_DECODING, 1L);
#undef SET
    return bad == CURLE_OK;
}

static struct exchange *take_handle(struct upstream *upstream)
{
    struct exchange *exchange = upstream->idle;
    if (exchange != NULL) {
        upstream->idle = exchange->next;
        upstream->idle_count--;
        return exchange;
    }
    exchange = calloc(1, sizeof *exchange);
    if (exchange == NULL)
        return NULL;
    exchange->upstream = upstream;
    exchange->easy = curl_easy_init();
    if (exchange->easy == NULL || !set_constant_options(exchange)) {
        destroy(exchange);
        return NULL;
    }
    return exchange;
}

/* The list curl sends, in memory of ours: nothing is allocated. Only what is named here reaches an engine. */
static void set_headers(struct exchange *exchange, const struct exchange_request *request)
{
    size_t count = 0;
    snprintf(exchange->lines[count++], HEADER_LINE_BYTES, "Content-Type: application/json");
    snprintf(exchange->lines[count++], HEADER_LINE_BYTES, "Expect:");
    snprintf(exchange->lines[count++], HEADER_LINE_BYTES, "Accept: %s",
             request->streaming ? "text/event-stream" : "application/json");
    snprintf(exchange->lines[count++], HEADER_LINE_BYTES, "x-request-id: %s", request->request_id);
    if (request->traceparent.at != NULL) {
        struct builder line;
        builder_init(&line, exchange->lines[count++], HEADER_LINE_BYTES);
        builder_add_string(&line, "traceparent: ");
        builder_add(&line, request->traceparent);
        (void) builder_string(&line);
    }
    for (size_t i = 0; i < count; i++)
        exchange->headers[i].data = exchange->lines[i];
    if (request->target->api_key != NULL) {
        snprintf(exchange->bearer, sizeof exchange->bearer, "Authorization: Bearer %s", request->target->api_key);
        exchange->headers[count++].data = exchange->bearer;
    }
    ENSURE(count <= HEADER_LINES);
    for (size_t i = 0; i < count; i++)
        exchange->headers[i].next = i + 1 < count ? &exchange->headers[i + 1] : NULL;
}

static bool set_request_options(struct exchange *exchange, const struct exchange_request *request)
{
    CURL *easy = exchange->easy;
    CURLcode bad = CURLE_OK;
    char url[URL_BYTES];
    int length = snprintf(url, sizeof url, "%s%s", request->target->base_url, request->path);
    if (length < 0 || (size_t) length >= sizeof url)
        return false;
    set_headers(exchange, request);
#define SET(option, value) bad |= curl_easy_setopt(easy, option, value)
    SET(CURLOPT_URL, url);
    SET(CURLOPT_UNIX_SOCKET_PATH, request->target->socket_path);
    SET(CURLOPT_HTTPHEADER, exchange->headers);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_length);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long) request->target->timeouts.connect_ms);
    SET(CURLOPT_FRESH_CONNECT, request->fresh_connection ? 1L : 0L);
    SET(CURLOPT_FORBID_REUSE, request->forget_connection ? 1L : 0L);
#undef SET
    return bad == CURLE_OK;
}

static void reset(struct exchange *exchange, const struct exchange_request *request,
                  const struct exchange_events *events, void *owner)
{
    exchange->events = *events;
    exchange->owner = owner;
    exchange->read_body = request->read_body;
    exchange->body_length = request->body_length;
    exchange->body_sent = 0;
    exchange->timeouts = request->target->timeouts;
    exchange->streaming = request->streaming;
    exchange->started = loop_now(exchange->upstream->loop);
    exchange->progressed = 0;
    exchange->timer = (struct loop_timer){.fire = on_timer, .owner = exchange};
    exchange->head = (struct exchange_head){.content_length = -1, .retry_after_ms = -1};
    exchange->head_bytes = 0;
    exchange->head_told = exchange->got_byte = exchange->paused = false;
    exchange->released = exchange->cancelled = exchange->ended = exchange->inside_curl = false;
    exchange->released_bytes = 0;
}

struct exchange *exchange_start(struct upstream *upstream, const struct exchange_request *request,
                                const struct exchange_events *events, void *owner)
{
    struct exchange *exchange = take_handle(upstream);
    if (exchange == NULL)
        return NULL;
    reset(exchange, request, events, owner);
    if (!set_request_options(exchange, request) || !transfers_add(upstream->transfers, exchange->easy)) {
        destroy(exchange);
        return NULL;
    }
    exchange->previous = NULL;
    exchange->next = upstream->active;
    if (exchange->next != NULL)
        exchange->next->previous = exchange;
    upstream->active = exchange;
    set_timer(exchange);
    return exchange;
}

void exchange_cancel(struct exchange **exchange_pointer)
{
    struct exchange *exchange = *exchange_pointer;
    *exchange_pointer = NULL;
    if (exchange == NULL || exchange->ended)
        return;
    exchange->cancelled = true;
    /* From inside curl the callback's answer ends the transfer; `end` stays silent. */
    if (!exchange->inside_curl)
        stop(exchange, EXCHANGE_CLOSED_EARLY, "");
}

void exchange_release(struct exchange **exchange_pointer)
{
    struct exchange *exchange = *exchange_pointer;
    *exchange_pointer = NULL;
    if (exchange == NULL || exchange->ended)
        return;
    exchange->released = true;
    loop_timer_set(exchange->upstream->loop, &exchange->timer, loop_now(exchange->upstream->loop) + RELEASED_MS_MAX);
    if (exchange->paused && !exchange->inside_curl) {
        exchange->paused = false;
        (void) curl_easy_pause(exchange->easy, CURLPAUSE_CONT);
    }
}

/* ---- life ---- */

struct upstream *upstream_create(struct loop *loop)
{
    struct upstream *upstream = calloc(1, sizeof *upstream);
    if (upstream == NULL)
        return NULL;
    upstream->loop = loop;
    upstream->transfers = transfers_create(loop, on_done, upstream);
    if (upstream->transfers == NULL) {
        free(upstream);
        return NULL;
    }
    return upstream;
}

void upstream_destroy(struct upstream **upstream_pointer)
{
    struct upstream *upstream = *upstream_pointer;
    *upstream_pointer = NULL;
    if (upstream == NULL)
        return;
    while (upstream->active != NULL) {
        ENSURE(upstream->active->released);
        stop(upstream->active, EXCHANGE_DONE, "");
    }
    while (upstream->idle != NULL) {
        struct exchange *exchange = upstream->idle;
        upstream->idle = exchange->next;
        destroy(exchange);
    }
    transfers_destroy(&upstream->transfers);
    free(upstream);
}
