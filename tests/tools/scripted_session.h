/* One connection of the scripted engine: reads requests, follows their scripts, token by token. */
#ifndef TESTS_TOOLS_SCRIPTED_SESSION_H
#define TESTS_TOOLS_SCRIPTED_SESSION_H

#include <stdbool.h>

#include "scripted_options.h"
#include "scripted_request.h"
#include "scripted_string.h"

enum session_state {
    SESSION_READING,    /* waits for a request, or for the rest of it */
    SESSION_WAITING,    /* all slots are taken */
    SESSION_HELD,       /* until released */
    SESSION_GENERATING, /* `due_ms` says when it goes on */
    SESSION_SILENT,     /* will say nothing more; leaves when the client does */
    SESSION_RESETTING,  /* RST at `due_ms` */
    SESSION_CLOSED      /* to be destroyed by the loop */
};

struct session {
    int fd;
    long number; /* of the connection */
    enum session_state state;
    struct string in, out;
    struct request request;
    struct script script;
    long long due_ms;         /* 0 = nothing planned */
    long long comment_due_ms; /* 0 = none */
    long serial;              /* of the request over all connections */
    long served;              /* requests answered on this connection */
    long generated, wanted;
    const char *finish_reason;
    bool holds_slot, head_sent, role_sent, finish_sent, close_when_flushed, continue_sent;
    struct session *next;
};

/* What all sessions share. */
struct engine {
    struct options options;
    long long started_ms, now_ms;
    struct session *sessions; /* newest first */
    long slots_taken, held, serials, generating_requests, connections, gone;
};

struct session *session_create(struct engine *engine, int fd);
void session_destroy(struct session *session);
/* More bytes are in session->in, or the state allows the next request. */
void session_read(struct engine *engine, struct session *session);
/* `due_ms` or `comment_due_ms` is over. */
void session_due(struct engine *engine, struct session *session);
/* The client closed or reset the connection. */
void session_gone(struct engine *engine, struct session *session);
/* Everything in session->out has left. */
void session_flushed(struct engine *engine, struct session *session);
/* Let the held ones go. */
void engine_release(struct engine *engine);

#endif
