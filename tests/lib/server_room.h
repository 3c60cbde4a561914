/* A server on a loop whose requests behave as their path says, and clients whose sockets the test reads and writes
 * itself. What must come and does not, hangs until the test's alarm. */
#ifndef TESTS_LIB_SERVER_ROOM_H
#define TESTS_LIB_SERVER_ROOM_H

#include <stdbool.h>
#include <stddef.h>

#include "gateway/server.h"

enum { SERVER_ROOM_VISITS = 512, SERVER_ROOM_GOT_BYTES = 32 * 1024 * 1024, SERVER_ROOM_BODY_BYTES = 4096 };

/* One request, as its owner sees it. By its path:
 * /echo   answers with its body when that has ended     /later  leaves the answer to the test
 * /refuse is answered 401 at the head                   /large  is answered 413 at the first piece of its body
 * /close  as /refuse, and the connection is to end      /none   there is no memory for it */
struct visit {
    struct connection *connection;
    char path[64];
    char body[SERVER_ROOM_BODY_BYTES]; /* its first bytes */
    size_t body_bytes;
    int body_ends, writables, gones, ends;
    bool sent;
    int64_t gone_at;
};

struct server_room {
    struct loop *loop;
    struct server *server;
    int listener;
    int visit_count;
    struct visit visits[SERVER_ROOM_VISITS];
    int closed;
    char closed_address[64];
    char *got; /* what client_read read, with a NUL */
    size_t got_bytes;
};

/* Fixtures; *state is the room. */
int server_room_set_up(void **state);
int server_room_tear_down(void **state);
#define SERVER_TEST(test) cmocka_unit_test_setup_teardown(test, server_room_set_up, server_room_tear_down)
void server_room_run_for(struct server_room *room, int ms);
/* The newest request, once there are @count of them. */
struct visit *server_room_visit(struct server_room *room, int count);
/* Run until the request has ended, once. */
void server_room_until_end(struct server_room *room, struct visit *visit);
/* server_reply with 200 and one header. */
void server_room_reply(struct visit *visit, enum reply_kind kind, size_t content_length);

/* A connection the server has adopted; non-blocking. @receive_bytes > 0: a small receive buffer. */
int client_connect(struct server_room *room, int receive_bytes);
/* All of it, the loop running meanwhile; false when the server has gone. */
bool client_send(struct server_room *room, int fd, const char *bytes, size_t length);
void client_say(struct server_room *room, int fd, const char *text);
/* Read into got, from its start, until @end has come last. */
void client_read_until(struct server_room *room, int fd, const char *end);
/* Read on into got until the server closes. */
void client_read_to_close(struct server_room *room, int fd);
/* Nothing comes for @ms, and the connection stays open. */
void client_sees_quiet(struct server_room *room, int fd, int ms);
/* The body of got: behind the first empty line. */
const char *client_body(const struct server_room *room);

#endif
