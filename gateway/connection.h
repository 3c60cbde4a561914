/* One client's socket beside libmicrohttpd: deadlines, hang-ups, and answers written past it. Private to server.c and
 * connection.c. */
#ifndef GATEWAY_CONNECTION_H
#define GATEWAY_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/loop.h"
#include "gateway/server.h"

struct MHD_Connection;

enum {
    CONNECTION_PENDING_BYTES_MAX = 8 * 1024 * 1024,
    CONNECTION_LOW_WATER_BYTES = 64 * 1024, /* below it, writable is told */
    CONNECTION_URI_BYTES_MAX = 2048,
    CONNECTION_ADDRESS_BYTES = 64
};

/* Where the connection is, and so which deadline runs. */
enum connection_phase {
    CONNECTION_IDLE,    /* SERVER_IDLE_MS */
    CONNECTION_HEAD,    /* SERVER_HEAD_MS */
    CONNECTION_BODY,    /* SERVER_BODY_MS */
    CONNECTION_DISCARD, /* SERVER_DISCARD_MS: the answer is known, the rest of the body is dropped */
    CONNECTION_ANSWER,  /* none: the request's own timers rule */
    CONNECTION_CUT,     /* an answer was written past the library; closed after SERVER_DISCARD_MS */
    CONNECTION_PHASE_COUNT
};

struct connection {
    struct server *server;
    struct MHD_Connection *library;
    int fd;
    struct loop_watch watch;
    struct loop_timer deadline;
    enum connection_phase phase;
    bool input_seen;     /* bytes came in while an answer was due: the next head may have begun */
    bool idle_checked;   /* IDLE: the first look for a head that was begun and not finished has been taken */
    bool used_unknown;   /* a chunked body: how many bytes it took on the wire is not told */
    uint64_t used_bytes; /* of all heads and bodies so far */
    bool gone;           /* the client hung up, or we cut it off */
    bool gone_told;      /* the request knows */
    bool suspended;
    bool resume_queued;
    struct connection *resume_next;
    struct connection *next, *previous; /* among the server's open ones */
    char address[CONNECTION_ADDRESS_BYTES];
    char uri[CONNECTION_URI_BYTES_MAX];
    size_t uri_length;
    /* the current request */
    struct http_head head;
    void *request;
    bool body_done;
    size_t discarded_bytes;
    bool reply_ready;
    bool reply_queued;
    struct reply reply;
    struct buffer out;
    bool stream_open; /* the head has left; frames may be written to the fd */
    bool write_ended;
    bool write_whole;
    bool writable_due; /* the high water was passed: writable is to be told */
};

/* Begin watching @fd. False when the kernel refuses. */
bool connection_init(struct connection *connection, struct loop *loop, int fd);
/* Stop watching; the fd is the library's to close. */
void connection_finish(struct connection *connection);
/* One setter: moves to @phase and sets its deadline. */
void connection_set_phase(struct connection *connection, enum connection_phase phase);
/* The answer is finished on our side: the client has SERVER_SEND_MS to take more of it. Again whenever it has taken
 * some. */
void connection_expect_reading(struct connection *connection);
/* Write a STREAM piece as one chunk (HTTP/1.0: as it is), past the library when the stream is open. */
bool connection_write_frame(struct connection *connection, struct text bytes);
/* Send what is pending of an open STREAM. */
void connection_flush(struct connection *connection);
/* The answer @reply written straight to the socket, for a body that will not be read to its end; then only the close is
 * left. */
void connection_cut_with_answer(struct connection *connection, const struct reply *reply);
/* The client is gone: tell the request once, wake the library. */
void connection_lost(struct connection *connection);

/* server.c, for connection.c: resume at this turn's end. */
void server_resume_later(struct connection *connection);
const struct server_handlers *server_handlers_of(const struct server *server);
struct loop *server_loop(const struct server *server);
/* "Reason Phrase" of a status. */
const char *server_status_text(int status);

#endif
