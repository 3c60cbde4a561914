#include "tests/lib/unit.h"

#include <string.h>

#include "conf/address.h"

static void listen_addresses_have_their_parts(void **state)
{
    (void) state;
    struct listen_parts parts;
    assert_null(address_parse_listen(TEXT("127.0.0.1:8700"), &parts));
    assert_false(parts.is_unix);
    assert_true(text_equal(parts.host, TEXT("127.0.0.1")));
    assert_int_equal(parts.port, 8700);
    assert_null(address_parse_listen(TEXT("[::1]:0"), &parts));
    assert_true(text_equal(parts.host, TEXT("::1")));
    assert_int_equal(parts.port, 0);
    assert_null(address_parse_listen(TEXT("unix:/run/t.sock"), &parts));
    assert_true(parts.is_unix);
    assert_true(text_equal(parts.path, TEXT("/run/t.sock")));
}

static void bad_listen_addresses_are_refused(void **state)
{
    (void) state;
    static const char *const bad[] = {"",
                                      "8700",
                                      ":8700",
                                      "localhost:8700",
                                      "127.0.0.1",
                                      "127.0.0.1:",
                                      "127.0.0.1:65536",
                                      "127.0.0.1:-1",
                                      "127.0.0.1:80a",
                                      "127.0.0.1:000080",
                                      "::1:80",
                                      "[::1]",
                                      "[::1]80",
                                      "[127.0.0.1]:80",
                                      "256.0.0.1:80",
                                      "1.2.3:80",
                                      "unix:",
                                      "*:80",
                                      "[]:80",
                                      "0x7f.1:80"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct listen_parts parts;
        if (address_parse_listen(text_of(bad[i]), &parts) == NULL)
            fail_msg("\"%s\" was accepted", bad[i]);
    }
}

static void loopback_is_recognised(void **state)
{
    (void) state;
    assert_true(address_is_loopback(TEXT("127.0.0.1")));
    assert_true(address_is_loopback(TEXT("127.9.9.9")));
    assert_true(address_is_loopback(TEXT("::1")));
    assert_false(address_is_loopback(TEXT("0.0.0.0")));
    assert_false(address_is_loopback(TEXT("::")));
    assert_false(address_is_loopback(TEXT("10.0.0.1")));
    assert_false(address_is_loopback(TEXT("128.0.0.1")));
}

static void urls_lose_their_slashes(void **state)
{
    (void) state;
    static const struct {
        const char *written;
        const char *kept;
    } good[] = {
        {"http://127.0.0.1:8000", "http://127.0.0.1:8000"},
        {"http://127.0.0.1:8000/", "http://127.0.0.1:8000"},
        {"https://gpu-2.example", "https://gpu-2.example"},
        {"http://[::1]:80", "http://[::1]:80"},
        {"http://[::1]", "http://[::1]"},
        {"https://example/serve/m/", "https://example/serve/m"},
        {"unix:/run/e.sock", "unix:/run/e.sock"},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct text url;
        assert_null(address_parse_url(text_of(good[i].written), &url));
        assert_true(text_equal(url, text_of(good[i].kept)));
    }
}

static void bad_urls_are_refused(void **state)
{
    (void) state;
    static const char *const bad[] = {"",
                                      "host",
                                      "ftp://h",
                                      "HTTP://h",
                                      "http:/h",
                                      "http://",
                                      "http:///",
                                      "http://u@h",
                                      "http://u:p@h",
                                      "http://h@evil:80",
                                      "http://h/@x",
                                      "http://h?x",
                                      "http://h#x",
                                      "http://h/v1",
                                      "http://h/v1/",
                                      "http://h/a/v1",
                                      "http://h/../a//b",
                                      "http://h/%2e%2e",
                                      "http://h\\@evil",
                                      "http://h:0",
                                      "http://h:65536",
                                      "http://h:",
                                      "http://h:80:80",
                                      "http://::1",
                                      "http://[::1",
                                      "http://[::1]x:80",
                                      "http://h h",
                                      "http://h\nx",
                                      "http://h\x7f",
                                      "unix:"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct text url;
        if (address_parse_url(text_of(bad[i]), &url) == NULL)
            fail_msg("\"%s\" was accepted", bad[i]);
    }
}

static void plain_http_to_others_is_open(void **state)
{
    (void) state;
    static const char *const open[] = {"http://example",           "http://127.0.0.1.example:80", "http://10.0.0.1",
                                       "http://localhost.example", "http://[2001:db8::1]:80/x",   "http://localhosts"};
    static const char *const closed[] = {"https://example", "http://127.0.0.1:12111", "http://localhost:12111/x",
                                         "http://[::1]/x",  "http://127.8.9.1",       "unix:/run/x"};
    for (size_t i = 0; i < sizeof(open) / sizeof(open[0]); i++)
        assert_true(address_url_is_open(text_of(open[i])));
    for (size_t i = 0; i < sizeof(closed) / sizeof(closed[0]); i++)
        assert_false(address_url_is_open(text_of(closed[i])));
}

static void addresses_of_redis_have_their_parts(void **state)
{
    (void) state;
    static const struct {
        const char *text;
        const char *host;
        int port;
        int database;
    } good[] = {
        {"redis://127.0.0.1", "127.0.0.1", 6379, 0},     {"redis://cache.example:7000", "cache.example", 7000, 0},
        {"redis://[::1]:7000/5", "::1", 7000, 5},        {"redis://[::1]", "::1", 6379, 0},
        {"redis://localhost/15", "localhost", 6379, 15}, {"redis://localhost/", "localhost", 6379, 0}};
    struct redis_parts parts;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_null(address_parse_redis(text_of(good[i].text), &parts));
        assert_false(parts.is_unix);
        assert_true(text_equal(parts.host, text_of(good[i].host)));
        assert_int_equal(parts.port, good[i].port);
        assert_int_equal(parts.database, good[i].database);
    }
    assert_null(address_parse_redis(TEXT("unix:/run/redis.sock"), &parts));
    assert_true(parts.is_unix && text_equal(parts.path, TEXT("/run/redis.sock")));
}

static void bad_addresses_of_redis_are_refused(void **state)
{
    (void) state;
    static const char *const bad[] = {"",
                                      "unix:",
                                      "127.0.0.1:6379",
                                      "redis:",
                                      "redis://",
                                      "redis:///0",
                                      "redis://:6379",
                                      "redis://h:0",
                                      "redis://h:65536",
                                      "redis://h/x",
                                      "redis://h/-1",
                                      "redis://h/10000",
                                      "redis://h/0/1",
                                      "redis://h/0?x",
                                      "redis://h#x",
                                      "redis://:word@h",
                                      "redis://user:word@h/0",
                                      "redis://h h",
                                      "REDIS://h",
                                      "rediss://h",
                                      "http://h"};
    struct redis_parts parts;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const char *error = address_parse_redis(text_of(bad[i]), &parts);
        if (error == NULL)
            fail_msg("\"%s\" was accepted", bad[i]);
        assert_null(strstr(error, "word@"));
    }
    assert_non_null(strstr(address_parse_redis(TEXT("rediss://h"), &parts), "TLS"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(listen_addresses_have_their_parts),
        cmocka_unit_test(bad_listen_addresses_are_refused),
        cmocka_unit_test(loopback_is_recognised),
        cmocka_unit_test(urls_lose_their_slashes),
        cmocka_unit_test(bad_urls_are_refused),
        cmocka_unit_test(plain_http_to_others_is_open),
        cmocka_unit_test(addresses_of_redis_have_their_parts),
        cmocka_unit_test(bad_addresses_of_redis_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
