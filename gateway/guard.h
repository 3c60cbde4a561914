/* Strict HTTP rules over what libmicrohttpd's lax parser let through, and the few facts of a head that we use. Pure.
 * Rules: research/reliability.md section 2; RFC 9110 and 9112, stricter in places. */
#ifndef GATEWAY_GUARD_H
#define GATEWAY_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum {
    GUARD_HEADERS_MAX = 100,
    GUARD_VALUE_BYTES_MAX = 8192,
    GUARD_PATH_BYTES_MAX = 1024,
    GUARD_LENGTH_DIGITS_MAX = 15,
    GUARD_TRACEPARENT_BYTES = 55
};

/* Every refusal closes the connection: its framing cannot be trusted. Columns: identifier, HTTP status, metric label,
 * message. */
#define GUARD_VERDICTS(X)                                                                                              \
    X(OK, 200, "ok", "")                                                                                               \
    X(BAD_HEADER, 400, "header", "A header name or value has characters that HTTP does not allow.")                    \
    X(TOO_MANY_HEADERS, 431, "header_count", "The request has too many headers, or one of them is too long.")          \
    X(BAD_HOST, 400, "host", "HTTP/1.1 needs exactly one valid Host header.")                                          \
    X(BAD_LENGTH, 400, "content_length", "The request's Content-Length is not one plain number.")                      \
    X(BAD_TRANSFER, 400, "transfer_encoding",                                                                          \
      "The only Transfer-Encoding accepted is one 'chunked', without Content-Length.")                                 \
    X(BAD_AUTHORIZATION, 400, "authorization", "The request has more than one Authorization header.")                  \
    X(BAD_EXPECT, 417, "expect", "The only Expect value accepted is 100-continue.")                                    \
    X(BAD_VERSION, 505, "version", "Only HTTP/1.1 and HTTP/1.0 are served.")                                           \
    X(BAD_METHOD, 405, "method", "Only GET, POST and OPTIONS are served.")                                             \
    X(BAD_PATH, 404, "path", "The path has characters or segments that no route here has.")

enum guard_verdict {
#define X(identifier, status, label, message) GUARD_##identifier,
    GUARD_VERDICTS(X)
#undef X
        GUARD_VERDICT_COUNT
};

struct guard_answer {
    int status;
    const char *label;
    const char *message;
};
extern const struct guard_answer GUARD_ANSWERS[GUARD_VERDICT_COUNT];

enum http_method { HTTP_GET, HTTP_POST, HTTP_OPTIONS, HTTP_OTHER };

/* A request's head, as far as anything here reads it. Slices live as long as the server keeps the head. */
struct http_head {
    enum guard_verdict verdict;
    enum http_method method;
    struct text path;  /* before '?' */
    struct text query; /* after '?', or at == NULL */
    bool is_http_1_0;
    int64_t content_length; /* -1 = not given */
    bool is_chunked;
    bool expects_continue;
    struct text host;
    struct text authorization; /* at == NULL = absent; so are the others */
    struct text content_encoding;
    struct text traceparent;
    struct text client_request_id; /* what the client calls it: logged, never used as ours */
    struct text retry_count;       /* x-stainless-retry-count */
    /* private to the guard */
    unsigned _headers, _hosts, _lengths, _transfers, _authorizations;
};

/* Begin with the request line: @uri is the raw target, undecoded. */
void guard_begin(struct http_head *head, struct text method, struct text uri, struct text version);
/* Each header as received. The first broken rule stays the verdict. */
void guard_header(struct http_head *head, struct text name, struct text value);
/* After the last header. The verdict also stands in @head. */
enum guard_verdict guard_end(struct http_head *head);
/* The request announces a body. */
bool guard_has_body(const struct http_head *head);

#endif
