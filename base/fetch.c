#include "base/fetch.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/panic.h"
#include "base/transfers.h"

struct fetcher {
    struct loop *loop;
    struct transfers *transfers;
    struct fetch *first;
};

struct fetch {
    struct fetcher *fetcher;
    CURL *easy;
    struct curl_slist *headers;
    struct buffer body;
    bool body_cut;
    char error[CURL_ERROR_SIZE];
    fetch_done *done;
    void *owner;
    struct fetch *next;
    struct fetch *previous;
};

enum { FETCH_BEARER_BYTES_MAX = 8192 };

static size_t on_body(char *at, size_t size, size_t count, void *owner)
{
    struct fetch *fetch = owner;
    size_t length = size * count;
    size_t room = FETCH_BODY_BYTES_MAX - buffer_length(&fetch->body);
    size_t taken = length < room ? length : room;

    if (!buffer_add(&fetch->body, (struct text){at, taken}))
        return 0;
    fetch->body_cut = taken < length;
    return taken;
}

static void unlink_fetch(struct fetch *fetch)
{
    if (fetch->previous != NULL)
        fetch->previous->next = fetch->next;
    else
        fetch->fetcher->first = fetch->next;
    if (fetch->next != NULL)
        fetch->next->previous = fetch->previous;
}

static void free_fetch(struct fetch *fetch)
{
    if (fetch->easy != NULL)
        curl_easy_cleanup(fetch->easy);
    for (struct curl_slist *header = fetch->headers; header != NULL; header = header->next)
        explicit_bzero(header->data, strlen(header->data)); /* one may hold a secret */
    curl_slist_free_all(fetch->headers);
    buffer_finish(&fetch->body);
    free(fetch);
}

static struct fetch_result result_of(struct fetch *fetch, CURLcode code)
{
    struct fetch_result result = {.error = "", .body = buffer_text(&fetch->body)};
    struct curl_header *retry_after = NULL;
    curl_off_t before_request_us = 0;
    long status = 0;

    if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && fetch->body_cut)) {
        curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
        result.status = (int) status;
        if (curl_easy_header(fetch->easy, "Retry-After", 0, CURLH_HEADER, -1, &retry_after) == CURLHE_OK)
            result.retry_after = text_of(retry_after->value);
        return result;
    }
    curl_easy_getinfo(fetch->easy, CURLINFO_PRETRANSFER_TIME_T, &before_request_us);
    result.connect_failed = before_request_us == 0;
    result.error = fetch->error[0] != '\0' ? fetch->error : curl_easy_strerror(code);
    return result;
}

static void on_done(void *owner, void *easy, int code)
{
    struct fetch *fetch = NULL;
    struct fetch_result result;

    (void) owner;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &fetch);
    ENSURE(fetch != NULL);
    unlink_fetch(fetch);
    result = result_of(fetch, (CURLcode) code);
    fetch->done(fetch->owner, &result);
    free_fetch(fetch);
}

struct fetcher *fetcher_create(struct loop *loop)
{
    struct fetcher *fetcher = calloc(1, sizeof(*fetcher));

    if (fetcher == NULL)
        return NULL;
    fetcher->loop = loop;
    fetcher->transfers = transfers_create(loop, on_done, fetcher);
    if (fetcher->transfers == NULL) {
        free(fetcher);
        return NULL;
    }
    return fetcher;
}

void fetcher_destroy(struct fetcher **fetcher)
{
    struct fetcher *dying = *fetcher;

    if (dying == NULL)
        return;
    *fetcher = NULL;
    while (dying->first != NULL) {
        struct fetch *fetch = dying->first;

        fetch_cancel(&fetch);
    }
    transfers_destroy(&dying->transfers);
    free(dying);
}

static bool add_header(struct fetch *fetch, const char *line)
{
    struct curl_slist *longer = curl_slist_append(fetch->headers, line);

    if (longer == NULL)
        return false;
    fetch->headers = longer;
    return true;
}

static bool add_headers(struct fetch *fetch, const struct fetch_request *request)
{
    char line[FETCH_BEARER_BYTES_MAX];
    struct builder builder;
    bool added;

    if (!add_header(fetch, "Expect:"))
        return false;
    if (request->json_body != NULL && !add_header(fetch, "Content-Type: application/json"))
        return false;
    if (request->form_body != NULL && !add_header(fetch, "Content-Type: application/x-www-form-urlencoded"))
        return false;
    for (const char *const *more = request->headers; more != NULL && *more != NULL; more++) {
        if (!add_header(fetch, *more))
            return false;
    }
    if (request->bearer == NULL)
        return true;
    builder_init(&builder, line, sizeof(line));
    builder_add_string(&builder, "Authorization: Bearer ");
    builder_add_string(&builder, request->bearer);
    added = !builder.overflowed && add_header(fetch, builder_string(&builder));
    explicit_bzero(line, sizeof(line));
    return added;
}

/* Only what the configuration names is contacted: no proxy from the environment, no netrc, no redirect, no other
 * protocol, no certificate that does not verify. Never a kept connection: an idle one takes one of a small engine's few
 * HTTP threads. */
static bool set_options(struct fetch *fetch, const struct fetch_request *request)
{
    CURL *easy = fetch->easy;
    const char *body = request->json_body != NULL ? request->json_body : request->form_body;
    bool set = true;

    set = set && curl_easy_setopt(easy, CURLOPT_URL, request->url) == CURLE_OK;
    set = set && curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK;
    set = set && curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
    set = set && curl_easy_setopt(easy, CURLOPT_USERAGENT, "tollgate") == CURLE_OK;
    if (request->socket_path != NULL)
        set = set && curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, request->socket_path) == CURLE_OK;
    if (body != NULL)
        set = set && curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, body) == CURLE_OK;
    set = set && curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK;
    set = set && curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK;
    curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
    curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) request->timeout_ms);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) request->connect_timeout_ms);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->error);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, fetch->headers);
    return set;
}

struct fetch *fetch_start(struct fetcher *fetcher, const struct fetch_request *request, fetch_done *done, void *owner)
{
    struct fetch *fetch = calloc(1, sizeof(*fetch));

    ENSURE(request->timeout_ms > 0 && request->connect_timeout_ms > 0);
    ENSURE(request->json_body == NULL || request->form_body == NULL);
    if (fetch == NULL)
        return NULL;
    fetch->fetcher = fetcher;
    fetch->done = done;
    fetch->owner = owner;
    buffer_init(&fetch->body, FETCH_BODY_BYTES_MAX);
    fetch->easy = curl_easy_init();
    if (fetch->easy == NULL || !add_headers(fetch, request) || !set_options(fetch, request) ||
        !transfers_add(fetcher->transfers, fetch->easy)) {
        free_fetch(fetch);
        return NULL;
    }
    fetch->next = fetcher->first;
    if (fetch->next != NULL)
        fetch->next->previous = fetch;
    fetcher->first = fetch;
    return fetch;
}

void fetch_cancel(struct fetch **fetch)
{
    struct fetch *dying = *fetch;

    if (dying == NULL)
        return;
    *fetch = NULL;
    unlink_fetch(dying);
    transfers_remove(dying->fetcher->transfers, dying->easy);
    free_fetch(dying);
}
