/* Bounded HTTP exchanges with a deadline, for everything that is not a client's request: probes, providers. */
#ifndef BASE_FETCH_H
#define BASE_FETCH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/loop.h"
#include "base/text.h"

enum { FETCH_BODY_BYTES_MAX = 256 * 1024 };

struct fetcher;
struct fetch; /* one exchange in flight */

struct fetch_request {
    const char *url;
    const char *socket_path;    /* unix socket, or NULL */
    const char *bearer;         /* or NULL; never logged */
    const char *json_body;      /* POST when not NULL */
    const char *form_body;      /* POST as application/x-www-form-urlencoded when not NULL; not both. Neither: GET */
    const char *const *headers; /* more of them, "Name: value", NULL-terminated; or NULL. Never logged */
    int timeout_ms;             /* of the whole exchange; > 0 */
    int connect_timeout_ms;     /* > 0 */
};

struct fetch_result {
    int status;              /* 0 = no HTTP answer: see error */
    const char *error;       /* a constant or curl's text; "" on success */
    bool connect_failed;     /* no request was sent */
    struct text retry_after; /* the header's value; empty when there is none; valid during the call */
    struct text body;        /* cut at FETCH_BODY_BYTES_MAX; valid during the call */
};
/* The fetch is over when this is called: its handle must not be cancelled any more. Others may be started and
 * cancelled from inside; the fetcher must not be destroyed. */
typedef void fetch_done(void *owner, const struct fetch_result *result);

struct fetcher *fetcher_create(struct loop *loop);
/* Cancels what is in flight, without calls. */
void fetcher_destroy(struct fetcher **fetcher);
/* @done is called once, later, on the loop's thread. Texts are copied. Every exchange has a connection of its own, that
 * is closed after it. NULL when memory is exhausted or curl refuses an option. */
struct fetch *fetch_start(struct fetcher *fetcher, const struct fetch_request *request, fetch_done *done, void *owner);
/* No call will come. NULLs. No-op on NULL. */
void fetch_cancel(struct fetch **fetch);

#endif
