/* Strict HTTP rules, one gate a paragraph. */
#include "gateway/guard.h"

#include <string.h>

const struct guard_answer GUARD_ANSWERS[GUARD_VERDICT_COUNT] = {
#define X(identifier, status, label, message) {status, label, message},
    GUARD_VERDICTS(X)
#undef X
};

static bool is_letter_or_digit(unsigned char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9');
}

static bool is_one_of(unsigned char byte, const char *set)
{
    return byte != 0 && strchr(set, byte) != NULL;
}

/* RFC 9110, 5.6.2: token. The letters, digits and hyphens that nearly all names are made of come first. */
static bool is_token(struct text name)
{
    if (name.length == 0)
        return false;
    for (size_t i = 0; i < name.length; i++) {
        unsigned char byte = (unsigned char) name.at[i];
        if (!is_letter_or_digit(byte) && byte != '-' && !is_one_of(byte, "!#$%&'*+.^_`|~"))
            return false;
    }
    return true;
}

/* RFC 9110, 5.5: no control characters but the tab. */
static bool is_field_value(struct text value)
{
    for (size_t i = 0; i < value.length; i++) {
        unsigned char byte = (unsigned char) value.at[i];
        if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
            return false;
    }
    return true;
}

static bool is_host(struct text value)
{
    if (value.length == 0)
        return false;
    for (size_t i = 0; i < value.length; i++) {
        unsigned char byte = (unsigned char) value.at[i];
        if (!is_letter_or_digit(byte) && !is_one_of(byte, ".-_:[]"))
            return false;
    }
    return true;
}

/* '%' and ':' occur in model names after /v1/models/ only; what they decode to is that route's affair. */
static bool is_path(struct text path)
{
    bool is_model = text_starts_with(path, TEXT("/v1/models/"));
    if (path.length == 0 || path.at[0] != '/' || path.length > GUARD_PATH_BYTES_MAX)
        return false;
    for (size_t i = 0; i < path.length; i++) {
        unsigned char byte = (unsigned char) path.at[i];
        if (!is_letter_or_digit(byte) && !is_one_of(byte, "/._-") && !(is_model && is_one_of(byte, "%:@")))
            return false;
        if (i > 0 && (byte == '/' || byte == '.') && path.at[i - 1] == (char) byte)
            return false;
    }
    return true;
}

static void refuse(struct http_head *head, enum guard_verdict verdict)
{
    if (head->verdict == GUARD_OK)
        head->verdict = verdict;
}

void guard_begin(struct http_head *head, struct text method, struct text uri, struct text version)
{
    *head = (struct http_head){.content_length = -1, .method = HTTP_OTHER};
    const char *mark = uri.length > 0 ? memchr(uri.at, '?', uri.length) : NULL;
    head->path = uri;
    if (mark != NULL) {
        head->path.length = (size_t) (mark - uri.at);
        head->query = (struct text){mark + 1, uri.length - head->path.length - 1};
    }

    if (text_equal(version, TEXT("HTTP/1.0")))
        head->is_http_1_0 = true;
    else if (!text_equal(version, TEXT("HTTP/1.1")))
        refuse(head, GUARD_BAD_VERSION);

    if (text_equal(method, TEXT("GET")))
        head->method = HTTP_GET;
    else if (text_equal(method, TEXT("POST")))
        head->method = HTTP_POST;
    else if (text_equal(method, TEXT("OPTIONS")))
        head->method = HTTP_OPTIONS;
    else
        refuse(head, GUARD_BAD_METHOD);

    if (!is_path(head->path) || !is_field_value(head->query))
        refuse(head, GUARD_BAD_PATH);
}

static void read_length(struct http_head *head, struct text value)
{
    int64_t length = 0;
    bool digits_only = value.length > 0 && value.length <= GUARD_LENGTH_DIGITS_MAX && value.at[0] != '-';
    if (++head->_lengths > 1 || !digits_only || !text_to_int64(value, &length)) {
        refuse(head, GUARD_BAD_LENGTH);
        return;
    }
    head->content_length = length;
}

static void read_transfer(struct http_head *head, struct text value)
{
    head->is_chunked = true;
    if (++head->_transfers > 1 || !text_equal_ignoring_case(value, TEXT("chunked")))
        refuse(head, GUARD_BAD_TRANSFER);
}

static void read_host(struct http_head *head, struct text value)
{
    if (++head->_hosts > 1 || !is_host(value))
        refuse(head, GUARD_BAD_HOST);
    head->host = value;
}

static void read_authorization(struct http_head *head, struct text value)
{
    if (++head->_authorizations > 1)
        refuse(head, GUARD_BAD_AUTHORIZATION);
    head->authorization = value;
}

static void read_expect(struct http_head *head, struct text value)
{
    head->expects_continue = true;
    if (!text_equal_ignoring_case(value, TEXT("100-continue")))
        refuse(head, GUARD_BAD_EXPECT);
}

static void read_content_encoding(struct http_head *head, struct text value)
{
    head->content_encoding = value;
}

/* W3C Trace Context, 3.2: version 00 has exactly this length; anything else is not passed on. */
static void read_traceparent(struct http_head *head, struct text value)
{
    if (value.length == GUARD_TRACEPARENT_BYTES && text_starts_with(value, TEXT("00-")))
        head->traceparent = value;
}

static void read_request_id(struct http_head *head, struct text value)
{
    head->client_request_id = value;
}

static void read_retry_count(struct http_head *head, struct text value)
{
    head->retry_count = value;
}

static const struct {
    struct text name;
    void (*read)(struct http_head *head, struct text value);
} readers[] = {
    {{"content-length", 14}, read_length},
    {{"transfer-encoding", 17}, read_transfer},
    {{"host", 4}, read_host},
    {{"authorization", 13}, read_authorization},
    {{"expect", 6}, read_expect},
    {{"content-encoding", 16}, read_content_encoding},
    {{"traceparent", 11}, read_traceparent},
    {{"x-request-id", 12}, read_request_id},
    {{"x-stainless-retry-count", 23}, read_retry_count},
};

static bool contains_ignoring_case(struct text whole, struct text piece)
{
    for (size_t i = 0; i + piece.length <= whole.length; i++) {
        if (text_equal_ignoring_case((struct text){whole.at + i, piece.length}, piece))
            return true;
    }
    return false;
}

/* A folded line garbles its name ("Transfer-Encodingchunked"): names that only look like a framing header are refused.
 */
static bool resembles_framing(struct text name)
{
    struct text start = {name.at, name.length < 8 ? name.length : 8};
    if (text_equal_ignoring_case(start, TEXT("transfer")))
        return true;
    start.length = name.length < 7 ? name.length : 7;
    return text_equal_ignoring_case(start, TEXT("content")) && contains_ignoring_case(name, TEXT("length"));
}

void guard_header(struct http_head *head, struct text name, struct text value)
{
    if (++head->_headers > GUARD_HEADERS_MAX || value.length > GUARD_VALUE_BYTES_MAX)
        refuse(head, GUARD_TOO_MANY_HEADERS);
    if (!is_token(name) || !is_field_value(value))
        refuse(head, GUARD_BAD_HEADER);

    for (size_t i = 0; i < sizeof readers / sizeof readers[0]; i++) {
        if (text_equal_ignoring_case(name, readers[i].name)) {
            readers[i].read(head, value);
            return;
        }
    }
    if (resembles_framing(name))
        refuse(head, GUARD_BAD_HEADER);
}

enum guard_verdict guard_end(struct http_head *head)
{
    if (head->_transfers > 0 && (head->_lengths > 0 || head->is_http_1_0))
        refuse(head, GUARD_BAD_TRANSFER);
    if (head->_hosts == 0 && !head->is_http_1_0)
        refuse(head, GUARD_BAD_HOST);
    return head->verdict;
}

bool guard_has_body(const struct http_head *head)
{
    return head->is_chunked || head->content_length > 0;
}
