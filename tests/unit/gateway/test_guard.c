#include "gateway/guard.h"

#include <jansson.h>
#include <string.h>

#include "tests/lib/unit.h"

#define TRACEPARENT "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
#define VECTORS     "tests/vectors/http/http_vectors.json"

enum { RAW_BYTES_MAX = 256 * 1024 };

/* ---- the vectors ---- */

/* What the guard cannot see: it is in the body, or the library repairs or refuses it before a handler is called. The
 * end-to-end tests play these. */
static const char *const NOT_SEEN[] = {
    "chunk-size-underscore",
    "chunk-ext-lf",
    "chunk-bare-cr-size",
    "chunk-size-plus",
    "chunk-size-trail-junk",
    "chunk-size-0x",
    "chunk-nul-size",
    "chunk-size-empty",
    "chunk-bare-lf-data",
    "chunk-size-ffff",
    "chunk-ext-16k",
    "cl-nul",
    "obs-fold",
    "empty-name",
    "first-hdr-space",
    "bare-lf-header",
    "bare-lf-all",
    "nul-header-name",
    "cl-1tb",
};

static bool is_seen(const char *id)
{
    for (size_t i = 0; i < sizeof(NOT_SEEN) / sizeof(NOT_SEEN[0]); i++) {
        if (strcmp(id, NOT_SEEN[i]) == 0)
            return false;
    }
    return true;
}

static size_t decode_base64(const char *from, char *to)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    size_t length = 0;
    int count = 0;
    for (; *from != '\0' && *from != '='; from++) {
        const char *digit = strchr(digits, *from);
        assert_non_null(digit);
        bits = bits << 6 | (uint32_t) (digit - digits);
        if (++count % 4 != 1)
            to[length++] = (char) (bits >> (6 - 2 * ((count - 1) % 4)));
    }
    return length;
}

static struct text cut_at(struct text *rest, const char *separator)
{
    const char *at = memmem(rest->at, rest->length, separator, strlen(separator));
    struct text piece = {rest->at, at != NULL ? (size_t) (at - rest->at) : rest->length};
    size_t used = at != NULL ? piece.length + strlen(separator) : rest->length;
    *rest = (struct text){rest->at + used, rest->length - used};
    return piece;
}

/* As a lax parser would hand it over: names as they stand before the colon, values trimmed. */
static enum guard_verdict judge(struct http_head *head, struct text raw)
{
    struct text line = cut_at(&raw, "\r\n");
    if (line.length == 0)
        line = cut_at(&raw, "\r\n");
    struct text method = cut_at(&line, " "), uri = cut_at(&line, " ");
    guard_begin(head, method, uri, line);
    for (line = cut_at(&raw, "\r\n"); line.length > 0; line = cut_at(&raw, "\r\n")) {
        struct text name = cut_at(&line, ":");
        guard_header(head, name, text_trimmed(line));
    }
    return guard_end(head);
}

static void test_vectors(void **state)
{
    static char raw[RAW_BYTES_MAX];
    json_error_t error;
    json_t *vectors = json_load_file(VECTORS, 0, &error);
    size_t index, judged = 0;
    json_t *vector;
    (void) state;
    assert_int_equal(json_array_size(vectors), 81);
    json_array_foreach(vectors, index, vector)
    {
        const char *id = json_string_value(json_object_get(vector, "id"));
        const char *must = json_string_value(json_object_get(vector, "must"));
        size_t length = decode_base64(json_string_value(json_object_get(vector, "raw_b64")), raw);
        struct http_head head;
        enum guard_verdict verdict = judge(&head, (struct text){raw, length});
        if (strcmp(must, "either") == 0 || !is_seen(id))
            continue;
        judged++;
        if ((verdict == GUARD_OK) != (strcmp(must, "accept") == 0))
            fail_msg("%s: %s", id, GUARD_ANSWERS[verdict].label);
    }
    assert_true(judged > 45);
    json_decref(vectors);
}

/* ---- every verdict ---- */

#define HEAD(line) line " HTTP/1.1\r\nHost: a\r\n"

static const struct {
    const char *raw;
    enum guard_verdict verdict;
} verdicts[] = {
    {HEAD("GET /health"), GUARD_OK},
    {HEAD("GET /v1/models/org%2Fname:tag@1?x=%00"), GUARD_OK},
    {HEAD("OPTIONS /v1/models"), GUARD_OK},
    {HEAD("POST /v1/completions") "Transfer-Encoding: Chunked\r\n", GUARD_OK},
    {HEAD("POST /v1/completions") "Content-Length: 999999999999999\r\n", GUARD_OK},
    {HEAD("POST /v1/completions") "Content-Length: 0\r\nExpect: 100-Continue\r\n", GUARD_OK},
    {HEAD("GET /health") "X: \t\x80\xff~\r\n", GUARD_OK},
    {"GET /health HTTP/1.0\r\n", GUARD_OK},
    {"GET /health HTTP/1.0\r\nHost: [::1]:8700\r\n", GUARD_OK},
    {HEAD("GET /health") "X y: z\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") ": z\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "X(y): z\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "X: a\x01\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "X: a\x7f\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "X: a\rB: c\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "Content-Length : 3\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "Transfer-Encodingchunked: \r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "Transfer_Encoding: chunked\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "transfer: chunked\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "CONTENT_LENGTH: 3\r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "Content-Length5: \r\n", GUARD_BAD_HEADER},
    {HEAD("GET /health") "Host: b\r\n", GUARD_BAD_HOST},
    {"GET /health HTTP/1.1\r\n", GUARD_BAD_HOST},
    {"GET /health HTTP/1.1\r\nHost: \r\n", GUARD_BAD_HOST},
    {"GET /health HTTP/1.1\r\nHost: a/b\r\n", GUARD_BAD_HOST},
    {"GET /health HTTP/1.1\r\nHost: user@a\r\n", GUARD_BAD_HOST},
    {HEAD("POST /x") "Content-Length: 3\r\nContent-Length: 3\r\n", GUARD_BAD_LENGTH},
    {HEAD("POST /x") "Content-Length: \r\n", GUARD_BAD_LENGTH},
    {HEAD("POST /x") "Content-Length: -3\r\n", GUARD_BAD_LENGTH},
    {HEAD("POST /x") "Content-Length: +3\r\n", GUARD_BAD_LENGTH},
    {HEAD("POST /x") "Content-Length: 3, 3\r\n", GUARD_BAD_LENGTH},
    {HEAD("POST /x") "Content-Length: 0x3\r\n", GUARD_BAD_LENGTH},
    {HEAD("POST /x") "Content-Length: 1000000000000000\r\n", GUARD_BAD_LENGTH},
    {HEAD("POST /x") "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", GUARD_BAD_TRANSFER},
    {HEAD("POST /x") "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", GUARD_BAD_TRANSFER},
    {HEAD("POST /x") "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", GUARD_BAD_TRANSFER},
    {HEAD("POST /x") "Transfer-Encoding: gzip, chunked\r\n", GUARD_BAD_TRANSFER},
    {HEAD("POST /x") "Transfer-Encoding: \r\n", GUARD_BAD_TRANSFER},
    {"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", GUARD_BAD_TRANSFER},
    {HEAD("GET /x") "Authorization: a\r\nauthorization: a\r\n", GUARD_BAD_AUTHORIZATION},
    {HEAD("POST /x") "Expect: 200-ok\r\n", GUARD_BAD_EXPECT},
    {"GET /x HTTP/1.2\r\nHost: a\r\n", GUARD_BAD_VERSION},
    {"GET /x HTTP/2.0\r\nHost: a\r\n", GUARD_BAD_VERSION},
    {"GET /x http/1.1\r\nHost: a\r\n", GUARD_BAD_VERSION},
    {HEAD("PUT /x"), GUARD_BAD_METHOD},
    {HEAD("get /x"), GUARD_BAD_METHOD},
    {HEAD("TRACE /x"), GUARD_BAD_METHOD},
    {HEAD("GET x"), GUARD_BAD_PATH},
    {HEAD("OPTIONS *"), GUARD_BAD_PATH},
    {HEAD("GET //x"), GUARD_BAD_PATH},
    {HEAD("GET /v1/../x"), GUARD_BAD_PATH},
    {HEAD("GET /v1%2fx"), GUARD_BAD_PATH},
    {HEAD("GET /v1/x#y"), GUARD_BAD_PATH},
    {HEAD("GET http://a/x"), GUARD_BAD_PATH},
    {HEAD("GET /x?a=\x01"), GUARD_BAD_PATH},
    /* The first broken rule stays. */
    {HEAD("PUT //x") "X y: z\r\nHost: b\r\n", GUARD_BAD_METHOD},
};

static void test_every_verdict(void **state)
{
    bool seen[GUARD_VERDICT_COUNT] = {false};
    (void) state;
    for (size_t i = 0; i < sizeof(verdicts) / sizeof(verdicts[0]); i++) {
        struct http_head head;
        enum guard_verdict verdict = judge(&head, text_of(verdicts[i].raw));
        if (verdict != verdicts[i].verdict)
            fail_msg("%s: %s", verdicts[i].raw, GUARD_ANSWERS[verdict].label);
        assert_int_equal(head.verdict, verdict);
        seen[verdict] = true;
    }
    for (int i = 0; i < GUARD_VERDICT_COUNT; i++) {
        assert_true(seen[i] || i == GUARD_TOO_MANY_HEADERS);
        assert_true(i == GUARD_OK || GUARD_ANSWERS[i].status >= 400);
        assert_true(i == GUARD_OK || strlen(GUARD_ANSWERS[i].message) > 0);
    }
}

/* ---- limits ---- */

static void begin(struct http_head *head, const char *uri)
{
    guard_begin(head, TEXT("GET"), text_of(uri), TEXT("HTTP/1.1"));
    guard_header(head, TEXT("Host"), TEXT("a"));
}

static void test_limits(void **state)
{
    static char long_text[GUARD_VALUE_BYTES_MAX + 2];
    struct http_head head;
    (void) state;
    for (int count = GUARD_HEADERS_MAX; count <= GUARD_HEADERS_MAX + 1; count++) {
        begin(&head, "/x");
        for (int i = 1; i < count; i++)
            guard_header(&head, TEXT("X"), TEXT("y"));
        assert_int_equal(guard_end(&head), count > GUARD_HEADERS_MAX ? GUARD_TOO_MANY_HEADERS : GUARD_OK);
    }
    memset(long_text, 'x', sizeof(long_text));
    for (size_t length = GUARD_VALUE_BYTES_MAX; length <= GUARD_VALUE_BYTES_MAX + 1; length++) {
        begin(&head, "/x");
        guard_header(&head, TEXT("Authorization"), (struct text){long_text, length});
        assert_int_equal(guard_end(&head), length > GUARD_VALUE_BYTES_MAX ? GUARD_TOO_MANY_HEADERS : GUARD_OK);
    }
    for (size_t length = GUARD_PATH_BYTES_MAX; length <= GUARD_PATH_BYTES_MAX + 1; length++) {
        struct text uri = {long_text, length};
        long_text[0] = '/';
        guard_begin(&head, TEXT("GET"), uri, TEXT("HTTP/1.1"));
        guard_header(&head, TEXT("Host"), TEXT("a"));
        assert_int_equal(guard_end(&head), length > GUARD_PATH_BYTES_MAX ? GUARD_BAD_PATH : GUARD_OK);
    }
}

/* ---- facts ---- */

static void test_facts_of_a_head(void **state)
{
    struct http_head head;
    (void) state;
    judge(&head, TEXT("POST /v1/models/a%2Fb?c=d?e HTTP/1.1\r\nHOST: h:1\r\nauthorization: Bearer k\r\n"
                      "content-encoding: gzip\r\nTraceParent: " TRACEPARENT "\r\nX-Request-ID: mine\r\n"
                      "x-stainless-retry-count: 2\r\nContent-Length: 7\r\nExpect: 100-continue\r\n"));
    assert_int_equal(head.verdict, GUARD_OK);
    assert_int_equal(head.method, HTTP_POST);
    assert_true(text_equal(head.path, TEXT("/v1/models/a%2Fb")));
    assert_true(text_equal(head.query, TEXT("c=d?e")));
    assert_true(text_equal(head.host, TEXT("h:1")));
    assert_true(text_equal(head.authorization, TEXT("Bearer k")));
    assert_true(text_equal(head.content_encoding, TEXT("gzip")));
    assert_true(text_equal(head.traceparent, TEXT(TRACEPARENT)));
    assert_true(text_equal(head.client_request_id, TEXT("mine")));
    assert_true(text_equal(head.retry_count, TEXT("2")));
    assert_int_equal(head.content_length, 7);
    assert_true(head.expects_continue);
    assert_false(head.is_http_1_0 || head.is_chunked);
    assert_true(guard_has_body(&head));

    judge(&head, TEXT("GET /health HTTP/1.0\r\ntraceparent: 00-1\r\n"));
    assert_null(head.traceparent.at); /* no such thing: dropped */
    assert_true(head.is_http_1_0);
    assert_int_equal(head.content_length, -1);
    assert_null(head.query.at);
    assert_null(head.authorization.at);
    assert_false(guard_has_body(&head));
}

static void test_any_method_may_have_a_body(void **state)
{
    struct http_head head;
    (void) state;
    assert_int_equal(judge(&head, TEXT(HEAD("GET /x") "Content-Length: 35\r\n")), GUARD_OK);
    assert_true(guard_has_body(&head));
    assert_int_equal(judge(&head, TEXT(HEAD("GET /x") "Transfer-Encoding: chunked\r\n")), GUARD_OK);
    assert_true(guard_has_body(&head));
    assert_int_equal(judge(&head, TEXT(HEAD("POST /x") "Content-Length: 0\r\n")), GUARD_OK);
    assert_false(guard_has_body(&head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_every_verdict),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_facts_of_a_head),
        cmocka_unit_test(test_any_method_may_have_a_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
