/* A small HTTP server of threads, on a port of its own or a unix socket, that answers as the test says. */
#ifndef TESTS_LIB_HTTP_STUB_H
#define TESTS_LIB_HTTP_STUB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct http_stub;

enum { HTTP_STUB_TEXT_BYTES = 4096 };

struct http_stub_request {
    char method[16];
    char path[256];
    char authorization[256];         /* "" = none */
    char head[HTTP_STUB_TEXT_BYTES]; /* all of it, cut to fit */
    char body[HTTP_STUB_TEXT_BYTES];
};

struct http_stub_answer {
    int status;         /* 0 = close without an answer */
    const char *body;   /* a constant */
    const char *header; /* one more header line without its end, or NULL */
    size_t body_bytes;  /* > 0: so many 'x' instead of @body */
    bool hang;          /* no answer until the client goes or the stub ends */
};

/* Called on a thread of the connection, one at a time; @answer is a 200 with "{}" until changed. */
typedef void http_stub_handler(void *owner, const struct http_stub_request *request, struct http_stub_answer *answer);

/* @address: NULL = any port of 127.0.0.1, ":8123" = that one, else the path of a unix socket. Fails the test when it
 * cannot listen. */
struct http_stub *http_stub_start(const char *address, http_stub_handler *handler, void *owner);
/* Ends every connection and joins all threads. NULLs. */
void http_stub_stop(struct http_stub **stub);
int http_stub_port(const struct http_stub *stub);
/* "http://127.0.0.1:<port>"; lives as long as the stub. */
const char *http_stub_url(const struct http_stub *stub);
/* Counted since the start. */
int http_stub_connections(const struct http_stub *stub);
int http_stub_requests(const struct http_stub *stub);
/* Open now. */
int http_stub_open(const struct http_stub *stub);

#endif
