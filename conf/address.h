/* Addresses as ops write them: what to listen on, and where an engine is. Pure. */
#ifndef CONF_ADDRESS_H
#define CONF_ADDRESS_H

#include <stdbool.h>

#include "base/text.h"

/* A unix socket's path holds 107 bytes; the rest is for names we add ourselves. */
enum { SOCKET_PATH_BYTES_MAX = 100 };

/* A listen address in its parts, which point into the text it was parsed from. */
struct listen_parts {
    bool is_unix;
    struct text host; /* numeric, without brackets */
    int port;
    struct text path;
};
/* NULL, or what is wrong and what to write instead. */
const char *address_parse_listen(struct text text, struct listen_parts *ret);
/* The numeric @host is 127.0.0.0/8 or ::1. */
bool address_is_loopback(struct text host);

/* NULL, or what is wrong with an engine's URL; never quotes it, it might hold a password. @ret is the URL without
 * trailing slashes; "unix:" ones keep their path as written. */
const char *address_parse_url(struct text text, struct text *ret);

/* http:// to a host that is not this machine: what is sent there can be read on the way. @url is a good one. */
bool address_url_is_open(struct text url);

/* The address of a Redis in its parts, which point into the text it was parsed from. */
struct redis_parts {
    bool is_unix;
    struct text path; /* UNIX, as written */
    struct text host; /* TCP, without brackets */
    int port;
    int database;
};
/* NULL, or what is wrong and what to write instead; never quotes it, it might hold a password. */
const char *address_parse_redis(struct text text, struct redis_parts *ret);
/* The host is numeric and loopback, or "localhost". */
bool address_is_this_machine(struct text host);

#endif
