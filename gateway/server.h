/* An HTTP/1.1 server on one loop: heads in, bodies in, answers out. The only room that knows libmicrohttpd. */
#ifndef GATEWAY_SERVER_H
#define GATEWAY_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/loop.h"
#include "base/text.h"
#include "gateway/guard.h"

struct server;
struct connection; /* gateway/connection.h */

enum {
    SERVER_DISCARD_BYTES_MAX = 16 * 1024 * 1024, /* of a refused body, read so that the client sees the answer */
    SERVER_DISCARD_MS = 2000,
    SERVER_IDLE_MS = 60000, /* between requests */
    SERVER_HEAD_MS = 5000,  /* from a head's first byte to its end */
    SERVER_BODY_MS = 30000, /* from the head's end to the body's */
    SERVER_SEND_MS = 30000, /* for a finished answer, from one part that the kernel takes to the next */
    SERVER_REPLY_HEADERS_MAX = 24
};

/* What the owner of a request says after each piece of it. */
enum server_verdict {
    SERVER_GO_ON, /* read the body, or (after its end) wait: server_reply will come */
    SERVER_REPLY  /* server_reply was called; what is left of the body is read and dropped first */
};

/* Whose requests these are. All on the loop's thread. */
struct server_handlers {
    /* A head has come in; @head lives until @end. Sets *ret_request, or NULL when memory is exhausted: the connection
     * is closed. */
    enum server_verdict (*head)(void *owner, struct connection *connection, const struct http_head *head,
                                void **ret_request);
    enum server_verdict (*body)(void *request, struct text piece);
    enum server_verdict (*body_end)(void *request);
    /* What was written has mostly been sent: more may come. */
    void (*writable)(void *request);
    /* The client is gone while an answer was due: cancel the work. @end follows; no reply is needed. */
    void (*gone)(void *request);
    /* The answer has been handed to the kernel whole, or will never be (@sent false). The request's memory may go. */
    void (*end)(void *request, bool sent);
    /* A connection from @address is closed. May be NULL. */
    void (*closed)(void *owner, const char *address);
};

enum reply_kind {
    REPLY_WHOLE,  /* the body is here; it must stay as it is until @end */
    REPLY_LENGTH, /* server_write brings it, exactly content_length bytes */
    REPLY_STREAM  /* server_write brings it, each piece leaving as a chunk at once */
};

struct reply_header {
    const char *name;
    const char *value;
};

struct reply {
    int status;
    enum reply_kind kind;
    struct text body;      /* WHOLE */
    size_t content_length; /* LENGTH */
    bool close;            /* end the connection; the body that may still come is not read */
    size_t header_count;
    struct reply_header headers[SERVER_REPLY_HEADERS_MAX]; /* texts must live until @end */
};

/* NULL when the library or the kernel refuses. @handlers is copied. */
struct server *server_create(struct loop *loop, const struct server_handlers *handlers, void *owner);
/* No request may be active; idle connections are closed. NULLs. */
void server_destroy(struct server **server);
/* Serve an accepted, non-blocking socket, which is the server's from now on, also on failure. */
bool server_adopt(struct server *server, int fd, const struct sockaddr *address, socklen_t address_length);
/* Shut every connection's socket, also those in the middle of a request: all of them end within the next turns. */
void server_shut_all(struct server *server);
/* Open connections. */
unsigned server_connection_count(const struct server *server);

/* Answer the request of @connection, once; from a handler or at any time between body_end and gone. */
void server_reply(struct connection *connection, const struct reply *reply);
/* After server_reply with LENGTH or STREAM: the next bytes. Buffered when the client reads slowly: look at
 * server_pending. False when the buffer's limit is exceeded: the caller must end the answer. No-op when the client is
 * gone. */
bool server_write(struct connection *connection, struct text bytes);
/* The end of that answer. @whole false: the connection is cut so that the client sees that something is missing. */
void server_write_end(struct connection *connection, bool whole);
/* Bytes written that the kernel has not taken yet. */
size_t server_pending(const struct connection *connection);
/* "127.0.0.1", "::1" or "unix"; lives as long as the connection. */
const char *server_client_address(const struct connection *connection);

#endif
