#include "backends/upstream.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/transfers.h"
#include "tests/lib/unit.h"
#include "tests/lib/upstream_room.h"

static void test_an_answer_comes_whole_and_the_connection_is_used_again(void **state)
{
    struct upstream_room *room = *state;
    int fd = -1;
    for (int i = 0; i < 5; i++) {
        struct asker asker = {.read_most = 7};
        fd = engine_serve(room, fd, &asker, ANSWER_2);
        assert_int_equal(asker.end, EXCHANGE_DONE);
        assert_int_equal(asker.heads, 1);
        assert_int_equal(asker.head.status, 200);
        assert_true(asker.head.is_json);
        assert_false(asker.head.is_event_stream);
        assert_int_equal(asker.head.content_length, 2);
        assert_int_equal(asker.head.retry_after_ms, -1);
        assert_string_equal(asker.text, "{}");
        asker_forget(&asker);
    }
    assert_int_equal(room->accepted, 1);
    close(fd);
}

static void test_two_at_once_have_two_connections(void **state)
{
    struct upstream_room *room = *state;
    struct asker one = {0}, two = {0};
    asker_start(room, &one);
    asker_start(room, &two);
    int first = engine_accept(room), second = engine_accept(room);
    engine_read(room, first);
    engine_read(room, second);
    engine_write(second, ANSWER_2);
    engine_write(first, ANSWER_2);
    asker_until_end(&one);
    asker_until_end(&two);
    asker_forget(&one);
    asker_forget(&two);
    close(first);
    close(second);
}

/* Everything up to the body, line by line: nothing of the client's request but what is named here. */
static void test_the_headers_are_exactly_the_allowed_ones(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    char expected[512];
    const char *traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    snprintf(expected, sizeof(expected),
             "POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: "
             "application/json\r\nx-request-id: req_1\r\nContent-Length: %zu\r\n\r\n" ASKED_BODY,
             room->base_url + strlen("http://"), sizeof(ASKED_BODY) - 1);
    int fd = engine_serve(room, -1, &asker, ANSWER_2);
    assert_string_equal(room->got, expected);
    asker_forget(&asker);

    room->target.api_key = "engine-secret";
    room->request.traceparent = text_of(traceparent);
    room->request.streaming = true;
    snprintf(expected, sizeof(expected),
             "POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: "
             "text/event-stream\r\nx-request-id: req_1\r\ntraceparent: %s\r\nAuthorization: Bearer "
             "engine-secret\r\nContent-Length: %zu\r\n\r\n" ASKED_BODY,
             room->base_url + strlen("http://"), traceparent, sizeof(ASKED_BODY) - 1);
    engine_serve(room, fd, &asker, ANSWER_2);
    assert_string_equal(room->got, expected);
    asker_forget(&asker);

    /* The same handle again: nothing of the exchange before is left. */
    room->target.api_key = NULL;
    room->request.traceparent = (struct text){NULL, 0};
    engine_serve(room, fd, &asker, ANSWER_2);
    assert_null(strstr(room->got, "Authorization"));
    assert_null(strstr(room->got, "traceparent"));
    asker_forget(&asker);
    close(fd);
}

static void test_heads_are_read(void **state)
{
    static const struct {
        const char *head;
        int64_t retry_after_ms;
        bool is_event_stream, is_json;
    } cases[] = {
        {"Retry-After: 3\r\n", 3000, false, false},
        {"Retry-After: 3\r\nretry-after-ms: 250\r\n", 250, false, false},
        {"retry-after-ms: 250\r\nRetry-After: 3\r\n", 250, false, false},
        {"Retry-After: Sun, 22 Nov 2026 10:00:00 GMT\r\n", -1, false, false},
        {"Retry-After: -3\r\n", -1, false, false},
        {"CONTENT-TYPE:text/event-stream\r\n", -1, true, false},
        {"content-type:  Application/JSON; charset=utf-8\r\n", -1, false, true},
        {"content-type: text/html\r\n", -1, false, false},
    };
    struct upstream_room *room = *state;
    int fd = -1;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct asker asker = {0};
        char answer[256];
        snprintf(answer, sizeof(answer),
                 "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\n%sContent-Length: 0\r\n\r\n", cases[i].head);
        fd = engine_serve(room, fd, &asker, answer);
        assert_int_equal(asker.heads, 1);
        assert_int_equal(asker.head.status, 503);
        assert_int_equal(asker.head.retry_after_ms, cases[i].retry_after_ms);
        assert_int_equal(asker.head.is_event_stream, cases[i].is_event_stream);
        assert_int_equal(asker.head.is_json, cases[i].is_json);
        asker_forget(&asker);
    }
    close(fd);
}

static void test_trailers_are_no_second_head(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    int fd =
        engine_serve(room, -1, &asker, STREAM_HEAD STREAM_HELLO "0\r\nContent-Type: application/json\r\nX: y\r\n\r\n");
    assert_int_equal(asker.heads, 1);
    assert_int_equal(asker.end, EXCHANGE_DONE);
    assert_string_equal(asker.text, "hello");
    asker_forget(&asker);
    close(fd);
}

static void test_nobody_listens(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    close(room->listener);
    asker_start(room, &asker);
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_CONNECT_FAILED);
    assert_true(asker.detail[0] != '\0');
    assert_int_equal(asker.reads + (size_t) asker.heads, 0);
    asker_forget(&asker);
    room->listener = -1;
}

/* A backlog of one that is full: the kernel drops what comes more. */
static void test_a_connect_that_takes_too_long(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof(address);
    int fds[3];
    getsockname(room->listener, (struct sockaddr *) &address, &length);
    assert_int_equal(listen(room->listener, 0), 0);
    for (int i = 0; i < 3; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void) !connect(fds[i], (struct sockaddr *) &address, length);
    }
    room->target.timeouts.connect_ms = UPSTREAM_ROOM_SHORT_MS;
    asker_start(room, &asker);
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_CONNECT_FAILED);
    asker_forget(&asker);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
}

static void test_a_reused_connection_that_dies_is_told_and_nothing_is_sent_again(void **state)
{
    struct upstream_room *room = *state;
    for (int is_reset = 0; is_reset < 2; is_reset++) {
        struct asker asker = {0};
        int before = room->accepted, more;
        int fd = engine_serve(room, -1, &asker, ANSWER_2);
        asker_forget(&asker);
        asker_start(room, &asker);
        engine_read(room, fd);
        if (is_reset)
            engine_reset(fd);
        else
            close(fd);
        asker_until_end(&asker);
        assert_int_equal(asker.end, EXCHANGE_CLOSED_REUSED);
        assert_int_equal(asker.heads, 0);
        room_run_for(room, 50);
        /* curl connects anew before it finds that the body cannot be sent again. */
        if (engine_may_accept(room, &more))
            engine_sees_close(room, more);
        assert_in_range(room->accepted, before + 1, before + 2);
        asker_forget(&asker);
    }
}

static void test_a_reused_connection_that_dies_after_a_byte_is_an_early_close(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    int more;
    int fd = engine_serve(room, -1, &asker, ANSWER_2);
    asker_forget(&asker);
    asker_start(room, &asker);
    engine_read(room, fd);
    engine_write(fd, "HTTP/1.1 200 OK\r\nContent-Le");
    close(fd);
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_CLOSED_EARLY);
    room_run_for(room, 50);
    assert_false(engine_may_accept(room, &more));
    asker_forget(&asker);
}

static void test_a_fresh_connection_that_dies_is_an_early_close(void **state)
{
    static const char *const answers[] = {"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
                                          STREAM_HEAD STREAM_HELLO};
    struct upstream_room *room = *state;
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        struct asker asker = {0};
        int more;
        asker_start(room, &asker);
        int fd = engine_accept(room);
        engine_read(room, fd);
        engine_write(fd, answers[i]);
        room_run_for(room, 20);
        close(fd);
        asker_until_end(&asker);
        assert_int_equal(asker.end, EXCHANGE_CLOSED_EARLY);
        room_run_for(room, 20);
        assert_false(engine_may_accept(room, &more));
        asker_forget(&asker);
    }
}

static void test_fresh_and_forgotten_connections(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    int first = engine_serve(room, -1, &asker, ANSWER_2);
    asker_forget(&asker);
    room->request.fresh_connection = true;
    int second = engine_serve(room, -1, &asker, ANSWER_2);
    assert_int_equal(room->accepted, 2);
    asker_forget(&asker);
    close(first);
    close(second);
    room_run_for(room, 20);

    room->request.fresh_connection = false;
    room->request.forget_connection = true;
    int third = engine_serve(room, -1, &asker, ANSWER_2);
    assert_int_equal(asker.end, EXCHANGE_DONE);
    engine_sees_close(room, third);
    asker_forget(&asker);
}

static void test_what_is_no_http_is_broken(void **state)
{
    static const char *const answers[] = {
        "hello, I am a mail server\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}",
    };
    struct upstream_room *room = *state;
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        struct asker asker = {0};
        int fd = engine_serve(room, -1, &asker, answers[i]);
        assert_int_equal(asker.end, EXCHANGE_BROKEN);
        asker_forget(&asker);
        engine_sees_close(room, fd);
    }
}

static void test_a_head_without_end_is_broken(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    char line[1000 + 3];
    snprintf(line, sizeof(line), "X-Long: %0992d\r\n", 7);
    asker_start(room, &asker);
    int fd = engine_accept(room);
    engine_read(room, fd);
    engine_write(fd, "HTTP/1.1 200 OK\r\n");
    for (int i = 0; i < 80 && asker.ends == 0; i++) {
        (void) !send(fd, line, strlen(line), MSG_NOSIGNAL);
        room_run_for(room, 5);
    }
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_BROKEN);
    assert_int_equal(asker.heads, 0);
    asker_forget(&asker);
    engine_sees_close(room, fd);
}

static void test_a_unix_socket(void **state)
{
    struct upstream_room *room = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char directory[] = "/tmp/upstream-XXXXXX";
    struct asker asker = {0};
    assert_non_null(mkdtemp(directory));
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", directory);
    close(room->listener);
    room->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(room->listener, (struct sockaddr *) &address, sizeof(address)), 0);
    assert_int_equal(listen(room->listener, 16), 0);

    room->target.base_url = "http://localhost";
    room->target.socket_path = address.sun_path;
    int fd = engine_serve(room, -1, &asker, ANSWER_2);
    assert_non_null(strstr(room->got, "\r\nHost: localhost\r\n"));
    asker_forget(&asker);
    assert_int_equal(engine_serve(room, fd, &asker, ANSWER_2), fd);
    assert_int_equal(room->accepted, 1);
    asker_forget(&asker);
    unlink(address.sun_path);
    rmdir(directory);
    close(fd);
}

static void test_a_large_body_goes_out_in_pieces_and_a_large_answer_comes_in(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {.read_most = 1};
    enum { LARGE_BYTES = 200 * 1000 };
    char *answer = calloc(1, LARGE_BYTES + 256);
    int head = sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", LARGE_BYTES);
    memset(answer + head, 'x', LARGE_BYTES);
    int fd = engine_serve(room, -1, &asker, answer);
    assert_int_equal(asker.end, EXCHANGE_DONE);
    assert_int_equal(asker.length, LARGE_BYTES);
    assert_true(asker.reads >= sizeof(ASKED_BODY) - 1);
    asker_forget(&asker);
    free(answer);
    close(fd);
}

static void test_an_address_that_is_too_long_starts_nothing(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {.room = room};
    struct exchange_events none = {0};
    char url[2000];
    snprintf(url, sizeof(url), "http://%01900d", 1);
    room->target.base_url = url;
    assert_null(exchange_start(room->upstream, &room->request, &none, &asker));
    exchange_cancel(&asker.exchange);
    exchange_release(&asker.exchange);
}

/* Engines close after 5 s without a request: what is as old as that is not used any more. */
static void test_an_idle_connection_is_used_for_less_than_five_seconds(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    int first = engine_serve(room, -1, &asker, ANSWER_2);
    asker_forget(&asker);
    room_run_for(room, 4300);
    int second = engine_serve(room, -1, &asker, ANSWER_2);
    assert_int_equal(room->accepted, 2);
    asker_forget(&asker);
    close(first);
    close(second);
}

#define ROOM_TEST(test) cmocka_unit_test_setup_teardown(test, upstream_room_set_up, upstream_room_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOM_TEST(test_an_answer_comes_whole_and_the_connection_is_used_again),
        ROOM_TEST(test_two_at_once_have_two_connections),
        ROOM_TEST(test_the_headers_are_exactly_the_allowed_ones),
        ROOM_TEST(test_heads_are_read),
        ROOM_TEST(test_trailers_are_no_second_head),
        ROOM_TEST(test_nobody_listens),
        ROOM_TEST(test_a_connect_that_takes_too_long),
        ROOM_TEST(test_a_reused_connection_that_dies_is_told_and_nothing_is_sent_again),
        ROOM_TEST(test_a_reused_connection_that_dies_after_a_byte_is_an_early_close),
        ROOM_TEST(test_a_fresh_connection_that_dies_is_an_early_close),
        ROOM_TEST(test_fresh_and_forgotten_connections),
        ROOM_TEST(test_what_is_no_http_is_broken),
        ROOM_TEST(test_a_head_without_end_is_broken),
        ROOM_TEST(test_a_unix_socket),
        ROOM_TEST(test_a_large_body_goes_out_in_pieces_and_a_large_answer_comes_in),
        ROOM_TEST(test_an_address_that_is_too_long_starts_nothing),
        ROOM_TEST(test_an_idle_connection_is_used_for_less_than_five_seconds),
    };
    return transfers_global_init() ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
