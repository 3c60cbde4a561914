#include "gateway/server.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/lib/server_room.h"
#include "tests/lib/unit.h"

#define GET(path)          "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"
#define POST(path, length) "POST " path " HTTP/1.1\r\nHost: a\r\nContent-Length: " length "\r\n\r\n"
#define POST_CHUNKED(path) "POST " path " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

static int count_of(const char *in, const char *piece)
{
    int count = 0;
    for (const char *at = in; (at = strstr(at, piece)) != NULL; at += strlen(piece))
        count++;
    return count;
}

static void expect_status(const struct server_room *room, int status)
{
    char line[32];
    snprintf(line, sizeof(line), "HTTP/1.1 %d ", status);
    assert_memory_equal(room->got, line, strlen(line));
}

/* ---- requests ---- */

static void test_a_connection_is_kept_and_its_end_is_told(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    for (int i = 1; i <= 3; i++) {
        client_say(room, fd, POST("/echo", "5") "hello");
        client_read_until(room, fd, "\r\n\r\nhello");
        expect_status(room, 200);
        struct visit *visit = server_room_visit(room, i);
        server_room_until_end(room, visit);
        assert_true(visit->sent);
        assert_int_equal(visit->gones, 0);
    }
    assert_int_equal(server_connection_count(room->server), 1);
    assert_int_equal(room->closed, 0);
    close(fd);
    while (server_connection_count(room->server) > 0)
        loop_run_once(room->loop, 5);
    assert_int_equal(room->closed, 1);
    assert_string_equal(room->closed_address, "127.0.0.1");
}

static void test_pipelined_requests_are_answered_in_order(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    client_say(room, fd, POST("/echo", "3") "one" POST("/refuse", "3") "two" POST("/echo", "5") "three");
    client_read_until(room, fd, "three");
    const char *one = strstr(room->got, "\r\n\r\none"), *refused = strstr(room->got, "\r\n\r\nrefused");
    assert_true(one != NULL && refused != NULL && one < refused);
    assert_int_equal(count_of(room->got, "HTTP/1.1 "), 3);
    close(fd);
}

static void test_a_hundred_pipelined_requests(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(send(fd, GET("/echo"), sizeof(GET("/echo")) - 1, 0), sizeof(GET("/echo")) - 1);
    client_say(room, fd, POST("/echo", "4") "last");
    client_read_until(room, fd, "last");
    assert_int_equal(count_of(room->got, "HTTP/1.1 200 "), 101);
    close(fd);
}

/* A request waits in the library until the one before it, suspended, has its answer. */
static void test_the_next_request_waits_for_the_answer_before(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    client_say(room, fd, GET("/later") POST("/echo", "4") "last");
    struct visit *visit = server_room_visit(room, 1);
    client_sees_quiet(room, fd, 50);
    assert_int_equal(room->visit_count, 1);
    server_room_reply(visit, REPLY_STREAM, 0);
    server_write(visit->connection, TEXT("abc"));
    server_write_end(visit->connection, true);
    client_read_until(room, fd, "last");
    assert_non_null(strstr(room->got, "\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n"));
    close(fd);
}

static void test_a_chunked_body_comes_in_bytes(void **state)
{
    static const char request[] = POST_CHUNKED("/echo") "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: t\r\n\r\n";
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    for (size_t i = 0; i < sizeof(request) - 1; i++) {
        assert_int_equal(send(fd, &request[i], 1, MSG_NOSIGNAL), 1);
        server_room_run_for(room, 1);
    }
    client_read_until(room, fd, "\r\n\r\nhello world");
    assert_int_equal(server_room_visit(room, 1)->body_ends, 1);
    close(fd);
}

static void test_continue_is_said_when_it_is_expected(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    client_say(room, fd, "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    client_read_until(room, fd, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_int_equal(server_room_visit(room, 1)->body_ends, 0);
    client_say(room, fd, "hello");
    client_read_until(room, fd, "\r\n\r\nhello");
    close(fd);
}

static void test_continue_is_not_said_to_whom_is_refused(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    client_say(room, fd, "POST /refuse HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    client_read_to_close(room, fd);
    expect_status(room, 401);
    assert_non_null(strstr(room->got, "Connection: close\r\n"));
    assert_null(strstr(room->got, "100 Continue"));
    assert_int_equal(server_room_visit(room, 1)->ends, 1);
}

static void test_no_memory_for_a_request_closes(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    client_say(room, fd, GET("/none"));
    client_read_to_close(room, fd);
    assert_string_equal(room->got, "");
    assert_int_equal(server_room_visit(room, 1)->ends, 0);
    assert_int_equal(room->closed, 1);
}

static void test_a_unix_socket_has_an_address_too(void **state)
{
    struct server_room *room = *state;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    struct sockaddr local = {.sa_family = AF_UNIX};
    assert_true(server_adopt(room->server, pair[0], &local, sizeof(sa_family_t)));
    client_say(room, pair[1], GET("/later"));
    struct visit *visit = server_room_visit(room, 1);
    assert_string_equal(server_client_address(visit->connection), "unix");
    close(pair[1]);
    server_room_until_end(room, visit);
    assert_string_equal(room->closed_address, "unix");
}

/* ---- refusals ---- */

/* The answer comes after the whole body, and the connection goes on. */
static void test_a_refused_body_is_read_to_its_end(void **state)
{
    static const char *const heads[] = {POST("/refuse", "300000"), POST("/large", "300000"),
                                        POST_CHUNKED("/refuse") "493e0\r\n", POST_CHUNKED("/large") "493e0\r\n"};
    struct server_room *room = *state;
    char *body = calloc(1, 300000 + 1);
    memset(body, 'x', 300000);
    for (int i = 0; i < 4; i++) {
        int fd = client_connect(room, 0);
        client_say(room, fd, heads[i]);
        client_sees_quiet(room, fd, 20);
        client_say(room, fd, body);
        if (i >= 2)
            client_say(room, fd, "\r\n0\r\n\r\n");
        client_read_until(room, fd, "\r\n\r\nrefused");
        expect_status(room, i % 2 == 0 ? 401 : 413);
        assert_null(strstr(room->got, "close"));
        client_say(room, fd, POST("/echo", "5") "again");
        client_read_until(room, fd, "again");
        struct visit *visit = &room->visits[2 * i];
        assert_int_equal(visit->ends, 1);
        assert_true(visit->sent);
        assert_int_equal(visit->body_ends + visit->gones, 0);
        close(fd);
    }
    free(body);
}

static void test_a_refused_body_is_not_read_without_end(void **state)
{
    enum { PIECE_BYTES = 64 * 1024 };
    static const char piece[PIECE_BYTES];
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    size_t sent = 0;
    client_say(room, fd, POST("/refuse", "25165824")); /* read to its end it would keep the connection */
    while (sent < 25165824 && client_send(room, fd, piece, PIECE_BYTES))
        sent += PIECE_BYTES;
    assert_true(sent >= SERVER_DISCARD_BYTES_MAX);
    client_read_until(room, fd, "\r\n\r\nrefused");
    expect_status(room, 401);
    assert_non_null(strstr(room->got, "Connection: close\r\n"));
    assert_non_null(strstr(room->got, "Content-Type: text/plain\r\n"));
    close(fd);
    server_room_until_end(room, &room->visits[0]);
    assert_false(room->visits[0].sent);
}

static void test_an_answer_that_closes_does_not_wait_for_the_body(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    client_say(room, fd, POST("/close", "300000"));
    client_read_to_close(room, fd);
    expect_status(room, 401);
    assert_non_null(strstr(room->got, "Connection: close\r\n"));
    assert_non_null(strstr(room->got, "refused"));
}

static void test_a_refusal_whose_client_leaves(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    client_say(room, fd, POST("/refuse", "300000") "hello");
    struct visit *visit = server_room_visit(room, 1);
    close(fd);
    server_room_until_end(room, visit);
    assert_false(visit->sent);
}

/* ---- deadlines: those of seconds, all at once ---- */

static void test_deadlines(void **state)
{
    struct server_room *room = *state;
    int half_head = client_connect(room, 0), half_next = client_connect(room, 0), drip = client_connect(room, 0);
    int kept = client_connect(room, 0), discard = client_connect(room, 0);
    client_say(room, half_next, GET("/echo"));
    client_read_until(room, half_next, "\r\n\r\n");
    client_say(room, kept, POST("/echo", "5"));
    server_room_run_for(room, 20);
    client_say(room, kept, "hello");
    client_read_until(room, kept, "hello");

    mono_ms began = clock_mono_ms();
    client_say(room, discard, POST("/refuse", "300000") "hello");
    client_say(room, half_head, "GET / HTTP/1.1\r\nHost: a\r\n");
    client_say(room, half_next, "G");
    client_say(room, drip, "GET / HTTP/1.1\r\n");
    client_read_until(room, discard, "\r\n\r\nrefused");
    expect_status(room, 401);
    mono_ms discarded = clock_mono_ms() - began;
    assert_in_range(discarded, SERVER_DISCARD_MS - 100, 4 * SERVER_DISCARD_MS);
    close(discard);

    while (clock_mono_ms() - began < SERVER_HEAD_MS - 500) {
        assert_int_equal(send(drip, "X", 1, MSG_NOSIGNAL), 1);
        server_room_run_for(room, 200);
    }
    assert_int_equal(server_connection_count(room->server), 4);
    client_read_to_close(room, drip);
    client_read_to_close(room, half_head);
    client_read_to_close(room, half_next);
    mono_ms closed = clock_mono_ms() - began;
    assert_in_range(closed, SERVER_HEAD_MS - 100, 4 * SERVER_HEAD_MS);

    /* Between requests there is more time: the body that came after its head was no next head. */
    client_sees_quiet(room, kept, 1000);
    client_say(room, kept, GET("/later"));
    server_room_visit(room, 4);
    close(kept);
}

/* ---- all at once ---- */

static void test_shut_all_ends_everything(void **state)
{
    struct server_room *room = *state;
    int fds[6];
    for (int i = 0; i < 6; i++)
        fds[i] = client_connect(room, 0);
    client_say(room, fds[1], "GET / HT");
    client_say(room, fds[2], POST("/echo", "100") "hello");
    for (int i = 3; i < 6; i++)
        client_say(room, fds[i], GET("/later"));
    server_room_visit(room, 4);
    server_room_reply(&room->visits[2], REPLY_STREAM, 0);
    server_write(room->visits[2].connection, TEXT("abc"));
    server_room_reply(&room->visits[3], REPLY_LENGTH, 10);
    server_room_run_for(room, 20);

    server_shut_all(room->server);
    while (server_connection_count(room->server) > 0)
        loop_run_once(room->loop, 5);
    assert_int_equal(room->closed, 6);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(room->visits[i].ends, 1);
        assert_int_equal(room->visits[i].gones, 1);
        assert_false(room->visits[i].sent);
    }
    for (int i = 0; i < 6; i++)
        close(fds[i]);
}

static void test_destroy_closes_what_is_idle(void **state)
{
    struct server_room *room = *state;
    int idle = client_connect(room, 0);
    client_say(room, idle, GET("/echo"));
    client_read_until(room, idle, "\r\n\r\n");
    server_room_run_for(room, 20);
    int adopted = client_connect(room, 0);
    server_destroy(&room->server);
    assert_null(room->server);
    assert_int_equal(room->closed, 2);
    server_room_run_for(room, 20);
    client_read_to_close(room, idle);
    client_read_to_close(room, adopted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVER_TEST(test_a_connection_is_kept_and_its_end_is_told),
        SERVER_TEST(test_pipelined_requests_are_answered_in_order),
        SERVER_TEST(test_a_hundred_pipelined_requests),
        SERVER_TEST(test_the_next_request_waits_for_the_answer_before),
        SERVER_TEST(test_a_chunked_body_comes_in_bytes),
        SERVER_TEST(test_continue_is_said_when_it_is_expected),
        SERVER_TEST(test_continue_is_not_said_to_whom_is_refused),
        SERVER_TEST(test_no_memory_for_a_request_closes),
        SERVER_TEST(test_a_unix_socket_has_an_address_too),
        SERVER_TEST(test_a_refused_body_is_read_to_its_end),
        SERVER_TEST(test_a_refused_body_is_not_read_without_end),
        SERVER_TEST(test_an_answer_that_closes_does_not_wait_for_the_body),
        SERVER_TEST(test_a_refusal_whose_client_leaves),
        SERVER_TEST(test_deadlines),
        SERVER_TEST(test_shut_all_ends_everything),
        SERVER_TEST(test_destroy_closes_what_is_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
