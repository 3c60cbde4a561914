/* An upstream on a loop, askers that note what they are told, and an engine whose socket the test reads and writes
 * itself. What must come and does not, hangs until the test's alarm. */
#ifndef TESTS_LIB_UPSTREAM_ROOM_H
#define TESTS_LIB_UPSTREAM_ROOM_H

#include <stdbool.h>
#include <stddef.h>

#include "backends/upstream.h"

enum { UPSTREAM_ROOM_SHORT_MS = 200, UPSTREAM_ROOM_LONG_MS = 60 * 1000, UPSTREAM_ROOM_TEXT_BYTES = 256 * 1024 };

#define ASKED_BODY "{\"model\":\"m\",\"prompt\":\"hello\"}"
#define ANSWER_2   "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
#define STREAM_HEAD                                                                                                    \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
#define STREAM_HELLO "5\r\nhello\r\n"

/* What a call does besides noting that it was made. */
enum then { NOTHING, CANCEL, RELEASE, START_ANOTHER };

struct upstream_room {
    struct loop *loop;
    struct upstream *upstream;
    int listener;
    int accepted;
    char base_url[64];
    struct lease_target target;         /* all timers long; may be changed before asker_start */
    struct exchange_request request;    /* of ASKED_BODY, not streaming; likewise */
    char got[UPSTREAM_ROOM_TEXT_BYTES]; /* the last request the engine read */
};

/* One exchange, as its owner sees it. Zeroed memory may be started. */
struct asker {
    struct upstream_room *room;
    struct exchange *exchange;
    int heads, ends;
    size_t reads, bodies;
    struct exchange_head head;
    enum exchange_end end;
    char detail[256];
    size_t length;
    char *text;       /* the answer's body so far */
    bool pausing;     /* bodies are not taken */
    size_t read_most; /* bytes handed over by one read_body; 0 = as many as wanted */
    enum then on_read, on_head, on_body, on_end;
    struct asker *another;
};

/* Fixtures; *state is the room. */
int upstream_room_set_up(void **state);
int upstream_room_tear_down(void **state);
void room_run_for(struct upstream_room *room, int ms);

void asker_start(struct upstream_room *room, struct asker *asker);
/* Run until the exchange ended, which it does once. */
void asker_until_end(struct asker *asker);
/* Free and zero. */
void asker_forget(struct asker *asker);

/* Accept what is there; false and -1 otherwise. */
bool engine_may_accept(struct upstream_room *room, int *ret_fd);
int engine_accept(struct upstream_room *room);
/* The next request, whole, into got. */
void engine_read(struct upstream_room *room, int fd);
void engine_write(int fd, const char *text);
/* The gateway closes this connection, without sending anything more; so does the engine. */
void engine_sees_close(struct upstream_room *room, int fd);
/* It stays open, and nothing more is sent. */
void engine_sees_quiet(struct upstream_room *room, int fd);
/* Close with RST. */
void engine_reset(int fd);
/* One whole exchange on @fd (-1 = a new connection); the connection. */
int engine_serve(struct upstream_room *room, int fd, struct asker *asker, const char *answer);
/* A stream begins: its head and STREAM_HELLO come, unless the asker pauses or leaves before; the connection. */
int engine_begin_stream(struct upstream_room *room, struct asker *asker);

#endif
