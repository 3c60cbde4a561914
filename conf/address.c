/* Numeric hosts only where we listen: what a name resolves to is not ours to guess. */
#include "conf/address.h"

#include <arpa/inet.h>
#include <string.h>

enum { HOST_BYTES_MAX = 253, PORT_MAX = 65535, REDIS_PORT_USUAL = 6379, REDIS_DATABASE_MAX = 9999 };

static struct text text_from(struct text whole, size_t start)
{
    return (struct text){whole.at + start, whole.length - start};
}

/* The place of the last @character, or the length when there is none. */
static size_t find_last(struct text whole, char character)
{
    const char *found = whole.length > 0 ? memrchr(whole.at, character, whole.length) : NULL;
    return found != NULL ? (size_t) (found - whole.at) : whole.length;
}

static bool contains_any(struct text whole, const char *characters)
{
    for (size_t i = 0; i < whole.length; i++) {
        if (strchr(characters, whole.at[i]) != NULL)
            return true;
    }
    return false;
}

static bool parse_port(struct text text, int least, int *ret)
{
    int64_t port;
    if (text.length > 5 || !text_to_int64(text, &port) || port < least || port > PORT_MAX || text.at[0] == '-')
        return false;
    *ret = (int) port;
    return true;
}

static bool is_numeric_host(struct text host, int family)
{
    char string[INET6_ADDRSTRLEN];
    unsigned char address[sizeof(struct in6_addr)];
    if (host.length >= sizeof(string))
        return false;
    text_copy(string, sizeof(string), host);
    return inet_pton(family, string, address) == 1;
}

static const char *parse_unix_path(struct text path)
{
    if (path.length == 0)
        return "a path must follow unix:";
    if (path.length > SOCKET_PATH_BYTES_MAX)
        return "the path of a unix socket must not be longer than 100 bytes";
    return NULL;
}

const char *address_parse_listen(struct text text, struct listen_parts *ret)
{
    struct listen_parts parts = {0};
    if (text_starts_with(text, TEXT("unix:"))) {
        parts.is_unix = true;
        parts.path = text_from(text, 5);
        const char *error = parse_unix_path(parts.path);
        if (error == NULL)
            *ret = parts;
        return error;
    }
    size_t colon = find_last(text, ':');
    if (colon == text.length)
        return "the port is missing: write host:port, such as 127.0.0.1:8700";
    if (!parse_port(text_from(text, colon + 1), 0, &parts.port))
        return "the port must be a number from 0 to 65535 behind the last colon";
    parts.host = (struct text){text.at, colon};
    bool brackets = colon >= 2 && text.at[0] == '[' && text.at[colon - 1] == ']';
    if (brackets)
        parts.host = (struct text){text.at + 1, colon - 2};
    if (parts.host.length == 0)
        return "the host is missing: write 127.0.0.1 for this machine only, 0.0.0.0 or [::] for all networks";
    if (!is_numeric_host(parts.host, brackets ? AF_INET6 : AF_INET))
        return "the host must be a numeric address: 127.0.0.1, 0.0.0.0, [::1] or [::], for instance";
    *ret = parts;
    return NULL;
}

bool address_is_loopback(struct text host)
{
    return text_starts_with(host, TEXT("127.")) || text_equal(host, TEXT("::1")) ||
           text_starts_with(host, TEXT("::ffff:127."));
}

static bool is_host_name(struct text host)
{
    if (host.length == 0 || host.length > HOST_BYTES_MAX || host.at[0] == '-' || host.at[0] == '.')
        return false;
    for (size_t i = 0; i < host.length; i++) {
        char c = host.at[i];
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                    c == '.' || c == '_';
        if (!good)
            return false;
    }
    return true;
}

/* "host", "host:port", "[v6]", "[v6]:port". @ret_host comes without brackets; @port stays when there is none. */
static const char *parse_authority(struct text authority, struct text *ret_host, int *port)
{
    struct text host = authority, port_text = {0};
    size_t bracket = find_last(authority, ']');
    size_t colon = find_last(authority, ':');
    bool has_port = colon < authority.length && (bracket == authority.length || colon > bracket);
    if (has_port) {
        host.length = colon;
        port_text = text_from(authority, colon + 1);
    }
    if (has_port && !parse_port(port_text, 1, port))
        return "the port must be a number from 1 to 65535";
    bool brackets = host.length >= 2 && host.at[0] == '[' && host.at[host.length - 1] == ']';
    *ret_host = brackets ? (struct text){host.at + 1, host.length - 2} : host;
    bool good = brackets ? is_numeric_host(*ret_host, AF_INET6) : is_host_name(host);
    return good ? NULL : "the host must be a name, an IPv4 address, or an IPv6 one in [ ]";
}

static const char *check_http(struct text rest)
{
    const char *slash = rest.length > 0 ? memchr(rest.at, '/', rest.length) : NULL;
    size_t length = slash != NULL ? (size_t) (slash - rest.at) : rest.length;
    struct text path = text_from(rest, length);
    if (contains_any((struct text){rest.at, length}, "@"))
        return "a user name or password in a URL is not accepted: put the engine's token into api_key_file";
    if (contains_any(rest, "?#"))
        return "a query (?) or fragment (#) is not accepted: give scheme, host and port";
    if (contains_any(path, "@\\%") || memmem(path.at, path.length, "//", 2) != NULL)
        return "the path must be plain";
    if (path.length >= 3 && text_equal(text_from(path, path.length - 3), TEXT("/v1")))
        return "leave out /v1: it is added to each request";
    struct text host;
    int port = 0;
    return parse_authority((struct text){rest.at, length}, &host, &port);
}

static bool is_printable(struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] <= ' ' || text.at[i] > '~')
            return false;
    }
    return true;
}

const char *address_parse_url(struct text text, struct text *ret)
{
    const char *error = NULL;
    if (text_starts_with(text, TEXT("unix:"))) {
        error = parse_unix_path(text_from(text, 5));
        if (error == NULL)
            *ret = text;
        return error;
    }
    size_t scheme = text_starts_with(text, TEXT("http://")) ? 7 : text_starts_with(text, TEXT("https://")) ? 8 : 0;
    if (scheme == 0)
        return "it must start with http://, https:// or unix:/";
    if (!is_printable(text))
        return "blanks and special characters are not accepted";
    while (text.length > scheme && text.at[text.length - 1] == '/')
        text.length--;
    error = check_http(text_from(text, scheme));
    if (error == NULL)
        *ret = text;
    return error;
}

bool address_is_this_machine(struct text host)
{
    bool numeric = is_numeric_host(host, AF_INET) || is_numeric_host(host, AF_INET6);
    return numeric ? address_is_loopback(host) : text_equal(host, TEXT("localhost"));
}

bool address_url_is_open(struct text url)
{
    if (!text_starts_with(url, TEXT("http://")))
        return false;
    struct text rest = text_from(url, 7), host;
    const char *slash = memchr(rest.at, '/', rest.length);
    if (slash != NULL)
        rest.length = (size_t) (slash - rest.at);
    int port = 0;
    return parse_authority(rest, &host, &port) != NULL || !address_is_this_machine(host);
}

static const char *parse_redis_tcp(struct text rest, struct redis_parts *parts)
{
    if (contains_any(rest, "@"))
        return "a user name or password in the URL is not accepted: let Redis listen where only Tollgate reaches it";
    if (contains_any(rest, "?#"))
        return "a query (?) or fragment (#) is not accepted: write redis://host:port/database";
    const char *slash = rest.length > 0 ? memchr(rest.at, '/', rest.length) : NULL;
    size_t length = slash != NULL ? (size_t) (slash - rest.at) : rest.length;
    struct text database = text_from(rest, length + (slash != NULL));
    int64_t number = 0;
    bool good = database.length == 0 || (database.length <= 5 && database.at[0] >= '0' && database.at[0] <= '9' &&
                                         text_to_int64(database, &number) && number <= REDIS_DATABASE_MAX);
    if (!good)
        return "behind the last / stands the number of a database, such as 0";
    parts->database = (int) number;
    parts->port = REDIS_PORT_USUAL;
    return parse_authority((struct text){rest.at, length}, &parts->host, &parts->port);
}

const char *address_parse_redis(struct text text, struct redis_parts *ret)
{
    struct redis_parts parts = {0};
    const char *error;
    if (text_starts_with(text, TEXT("unix:"))) {
        parts.is_unix = true;
        parts.path = text_from(text, 5);
        error = parse_unix_path(parts.path);
    } else if (text_starts_with(text, TEXT("rediss://"))) {
        error = "TLS to Redis is not possible with the client library used here: use unix:/path, redis:// on this "
                "machine, or redis:// through a tunnel such as stunnel";
    } else if (!text_starts_with(text, TEXT("redis://"))) {
        error = "it must start with unix:/ or redis://";
    } else if (!is_printable(text)) {
        error = "blanks and special characters are not accepted";
    } else {
        error = parse_redis_tcp(text_from(text, 8), &parts);
    }
    if (error == NULL)
        *ret = parts;
    return error;
}
