#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "gateway/connection.h"
#include "tests/lib/server_room.h"
#include "tests/lib/unit.h"

#define GET_LATER     "GET /later HTTP/1.1\r\nHost: a\r\n\r\n"
#define GET_LATER_1_0 "GET /later HTTP/1.0\r\n\r\n"
#define POST_LAST     "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nlast"

enum { GONE_MS = 250, SMALL_BUFFER_BYTES = 16 * 1024, PIECE_BYTES = 100 * 1000 };

static struct visit *begin(struct server_room *room, int fd, const char *request, enum reply_kind kind, size_t length)
{
    int count = room->visit_count + 1;
    client_say(room, fd, request);
    struct visit *visit = server_room_visit(room, count);
    while (visit->body_ends == 0)
        loop_run_once(room->loop, 5);
    server_room_reply(visit, kind, length);
    return visit;
}

static void wait_until_closed(struct server_room *room)
{
    while (server_connection_count(room->server) > 0)
        loop_run_once(room->loop, 5);
    assert_int_equal(room->closed, 1);
}

/* ---- streams ---- */

static void test_each_piece_of_a_stream_leaves_at_once_as_a_chunk(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    struct visit *visit = begin(room, fd, GET_LATER, REPLY_STREAM, 0);
    client_read_until(room, fd, "\r\n\r\n");
    assert_non_null(strstr(room->got, "Transfer-Encoding: chunked\r\n"));
    assert_non_null(strstr(room->got, "X-Test: yes\r\n"));
    server_room_run_for(room, 20);
    assert_true(server_write(visit->connection, TEXT("abc")));
    char direct[16];
    assert_int_equal(recv(fd, direct, sizeof(direct), MSG_DONTWAIT), 8); /* without a turn of the loop */
    assert_memory_equal(direct, "3\r\nabc\r\n", 8);
    assert_true(server_write(visit->connection, TEXT("")));
    assert_true(server_write(visit->connection, TEXT("0123456789abcdef")));
    assert_int_equal(server_pending(visit->connection), 0);
    server_write_end(visit->connection, true);
    client_read_until(room, fd, "\r\n0\r\n\r\n");
    assert_string_equal(room->got, "10\r\n0123456789abcdef\r\n0\r\n\r\n");
    server_room_until_end(room, visit);
    assert_true(visit->sent);
    assert_int_equal(visit->gones, 0);
    client_say(room, fd, POST_LAST);
    client_read_until(room, fd, "last");
    close(fd);
}

static void test_what_is_written_before_the_head_has_left_comes_after_it(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    struct visit *visit = begin(room, fd, GET_LATER POST_LAST, REPLY_STREAM, 0);
    assert_true(server_write(visit->connection, TEXT("one")));
    assert_true(server_write(visit->connection, TEXT("two")));
    server_write_end(visit->connection, true);
    client_read_until(room, fd, "last");
    assert_non_null(strstr(room->got, "\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n"));
    close(fd);
}

static void test_http_1_0_gets_the_bytes_as_they_are_and_a_close(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    struct visit *visit = begin(room, fd, GET_LATER_1_0, REPLY_STREAM, 0);
    assert_true(server_write(visit->connection, TEXT("one")));
    server_room_run_for(room, 20);
    assert_true(server_write(visit->connection, TEXT("two")));
    server_write_end(visit->connection, true);
    client_read_to_close(room, fd);
    assert_string_equal(client_body(room), "onetwo");
    assert_null(strstr(room->got, "chunked"));
    server_room_until_end(room, visit);
    assert_true(visit->sent);
}

static void test_a_stream_that_is_cut_has_no_last_chunk(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    struct visit *visit = begin(room, fd, GET_LATER, REPLY_STREAM, 0);
    server_room_run_for(room, 20);
    server_write(visit->connection, TEXT("abc"));
    server_write_end(visit->connection, false);
    client_read_to_close(room, fd);
    assert_string_equal(client_body(room), "3\r\nabc\r\n");
    wait_until_closed(room);
    assert_int_equal(visit->ends, 1);
    assert_false(visit->sent);
}

/* ---- lengths ---- */

static void test_an_answer_of_known_length_comes_in_pieces(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    struct visit *visit = begin(room, fd, GET_LATER, REPLY_LENGTH, 10);
    client_read_until(room, fd, "\r\n\r\n");
    assert_non_null(strstr(room->got, "Content-Length: 10\r\n"));
    server_write(visit->connection, TEXT("0123"));
    client_read_until(room, fd, "0123");
    client_sees_quiet(room, fd, 20);
    server_write(visit->connection, TEXT("45"));
    server_write(visit->connection, TEXT("6789"));
    server_write_end(visit->connection, true);
    client_read_until(room, fd, "456789");
    server_room_until_end(room, visit);
    assert_true(visit->sent);
    client_say(room, fd, POST_LAST);
    client_read_until(room, fd, "last");
    close(fd);
}

static void test_an_answer_of_known_length_that_is_cut_is_too_short(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    struct visit *visit = begin(room, fd, GET_LATER, REPLY_LENGTH, 10);
    server_write(visit->connection, TEXT("0123"));
    server_room_run_for(room, 20);
    server_write_end(visit->connection, false);
    client_read_to_close(room, fd);
    assert_string_equal(client_body(room), "0123");
    wait_until_closed(room);
    assert_int_equal(visit->ends, 1);
    assert_false(visit->sent);
}

/* ---- slow readers ---- */

static char *piece_of(char byte)
{
    char *piece = malloc(PIECE_BYTES + 1);
    memset(piece, byte, PIECE_BYTES);
    piece[PIECE_BYTES] = '\0';
    return piece;
}

static void test_a_slow_reader_is_waited_for(void **state)
{
    static const enum reply_kind kinds[] = {REPLY_STREAM, REPLY_LENGTH};
    enum { PIECES = 20 };
    struct server_room *room = *state;
    char *piece = piece_of('x');
    for (int i = 0; i < 2; i++) {
        int fd = client_connect(room, SMALL_BUFFER_BYTES);
        struct visit *visit = begin(room, fd, GET_LATER, kinds[i], PIECES * PIECE_BYTES);
        for (int k = 0; k < PIECES; k++) {
            assert_true(server_write(visit->connection, (struct text){piece, PIECE_BYTES}));
            server_room_run_for(room, 5);
        }
        size_t pending = server_pending(visit->connection);
        assert_in_range(pending, CONNECTION_LOW_WATER_BYTES + 1, PIECES * (PIECE_BYTES + 16));
        int writables = visit->writables; /* the kernel took the first pieces at once */
        server_room_run_for(room, 50);
        assert_int_equal(visit->writables, writables);
        room->got_bytes = 0;
        while (visit->writables == writables) {
            ssize_t count = recv(fd, room->got + room->got_bytes, 4096, MSG_DONTWAIT);
            room->got_bytes += count > 0 ? (size_t) count : 0;
            loop_run_once(room->loop, 1);
        }
        assert_true(server_pending(visit->connection) <= CONNECTION_LOW_WATER_BYTES);
        assert_true(room->got_bytes > PIECE_BYTES);
        server_write_end(visit->connection, true);
        size_t before = room->got_bytes;
        size_t framing = kinds[i] == REPLY_STREAM ? PIECES * strlen("186a0\r\n\r\n") + strlen("0\r\n\r\n") : 0;
        size_t head = (size_t) (client_body(room) - room->got);
        char *rest = room->got + before;
        size_t left = head + PIECES * PIECE_BYTES + framing - before;
        while (left > 0) {
            ssize_t count = recv(fd, rest, left, MSG_DONTWAIT);
            rest += count > 0 ? count : 0;
            left -= count > 0 ? (size_t) count : 0;
            loop_run_once(room->loop, 1);
        }
        server_room_until_end(room, visit);
        assert_true(visit->sent);
        assert_int_equal(visit->writables, writables + 1);
        size_t seen = 0;
        for (const char *at = client_body(room); at < rest; at++)
            seen += *at == 'x';
        assert_int_equal(seen, PIECES * PIECE_BYTES);
        client_say(room, fd, POST_LAST);
        client_read_until(room, fd, "last");
        close(fd);
    }
    free(piece);
}

/* What does not fit leaves nothing behind: the frames before it, and one that fits after it, stay whole. */
static void test_too_much_for_a_slow_reader_is_refused_whole(void **state)
{
    struct server_room *room = *state;
    char *piece = piece_of('x');
    int fd = client_connect(room, SMALL_BUFFER_BYTES);
    struct visit *visit = begin(room, fd, GET_LATER, REPLY_STREAM, 0);
    size_t taken = 0;
    server_room_run_for(room, 20);
    while (server_write(visit->connection, (struct text){piece, PIECE_BYTES}))
        taken++;
    size_t pending = server_pending(visit->connection);
    assert_in_range(pending, CONNECTION_PENDING_BYTES_MAX - PIECE_BYTES - 16, CONNECTION_PENDING_BYTES_MAX);
    assert_true(server_write(visit->connection, TEXT("bye")));
    server_write_end(visit->connection, true);
    client_read_until(room, fd, "\r\n3\r\nbye\r\n0\r\n\r\n");
    size_t expected = taken * (PIECE_BYTES + strlen("186a0\r\n\r\n")) + strlen("3\r\nbye\r\n0\r\n\r\n");
    assert_int_equal(room->got_bytes - (size_t) (client_body(room) - room->got), expected);
    close(fd);
    free(piece);
}

static void test_a_cut_waits_for_what_is_pending(void **state)
{
    struct server_room *room = *state;
    char *piece = piece_of('x');
    int fd = client_connect(room, SMALL_BUFFER_BYTES);
    struct visit *visit = begin(room, fd, GET_LATER, REPLY_STREAM, 0);
    for (int i = 0; i < 20; i++)
        server_write(visit->connection, (struct text){piece, PIECE_BYTES});
    server_room_run_for(room, 20);
    server_write_end(visit->connection, false);
    server_room_run_for(room, 20);
    assert_int_equal(visit->ends, 0);
    client_read_to_close(room, fd);
    assert_int_equal(strlen(client_body(room)), 20 * (PIECE_BYTES + strlen("186a0\r\n\r\n")));
    wait_until_closed(room);
    free(piece);
}

/* ---- clients that leave ---- */

/* How a client may leave. */
enum leaving { CLOSES, HALF_CLOSES, RESETS, LEAVING_COUNT };

static void leave(int fd, enum leaving how)
{
    struct linger now = {.l_onoff = 1};
    if (how == RESETS)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    if (how == HALF_CLOSES)
        shutdown(fd, SHUT_WR);
    else
        close(fd);
}

/* The kind of answer that is due, -1 = none yet; @pending: more was written than the kernel takes. */
static void expect_gone(struct server_room *room, int kind, bool pending, enum leaving how)
{
    char *piece = piece_of('x');
    int fd = client_connect(room, SMALL_BUFFER_BYTES);
    int count = room->visit_count + 1;
    client_say(room, fd, GET_LATER);
    struct visit *visit = server_room_visit(room, count);
    room->closed = 0;
    if (kind >= 0)
        server_room_reply(visit, (enum reply_kind) kind, 100 * PIECE_BYTES);
    for (int i = 0; kind >= 0 && i < (pending ? 20 : 0); i++)
        server_write(visit->connection, (struct text){piece, PIECE_BYTES});
    server_room_run_for(room, 20);
    assert_int_equal(visit->gones + visit->ends, 0);

    mono_ms left = clock_mono_ms();
    leave(fd, how);
    while (visit->gones == 0)
        loop_run_once(room->loop, 5);
    assert_true(visit->gone_at - left <= 4 * GONE_MS);
    if (visit->connection != NULL && kind >= 0) {
        assert_true(server_write(visit->connection, (struct text){piece, PIECE_BYTES}));
        server_write_end(visit->connection, false);
    }
    server_room_until_end(room, visit);
    assert_int_equal(visit->gones, 1);
    assert_false(visit->sent);
    wait_until_closed(room);
    if (how == HALF_CLOSES)
        close(fd);
    free(piece);
}

static void test_a_client_that_leaves_is_noticed_once(void **state)
{
    for (enum leaving how = CLOSES; how < LEAVING_COUNT; how++) {
        expect_gone(*state, -1, false, how);
        expect_gone(*state, REPLY_STREAM, false, how);
        expect_gone(*state, REPLY_LENGTH, false, how);
        expect_gone(*state, REPLY_STREAM, true, how);
        expect_gone(*state, REPLY_LENGTH, true, how);
    }
}

/* The answer is due at the same time as the client leaves, both in one turn. */
static void test_a_client_that_leaves_as_the_answer_comes(void **state)
{
    struct server_room *room = *state;
    for (int end = 0; end < 2; end++) {
        int fd = client_connect(room, 0);
        struct visit *visit = begin(room, fd, GET_LATER, REPLY_STREAM, 0);
        room->closed = 0;
        leave(fd, RESETS);
        server_write(visit->connection, TEXT("abc"));
        if (end)
            server_write_end(visit->connection, true);
        server_room_until_end(room, visit);
        wait_until_closed(room);
    }
}

/* A client that has read the last byte of its answer and leaves is not one who left before. */
static void test_leaving_after_the_answer_is_no_leaving(void **state)
{
    struct server_room *room = *state;
    int fd = client_connect(room, 0);
    struct visit *visit = begin(room, fd, GET_LATER, REPLY_STREAM, 0);
    server_write(visit->connection, TEXT("abc"));
    server_write_end(visit->connection, true);
    client_read_until(room, fd, "0\r\n\r\n");
    close(fd);
    server_room_until_end(room, visit);
    assert_true(visit->sent);
    assert_int_equal(visit->gones, 0);
    wait_until_closed(room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVER_TEST(test_each_piece_of_a_stream_leaves_at_once_as_a_chunk),
        SERVER_TEST(test_what_is_written_before_the_head_has_left_comes_after_it),
        SERVER_TEST(test_http_1_0_gets_the_bytes_as_they_are_and_a_close),
        SERVER_TEST(test_a_stream_that_is_cut_has_no_last_chunk),
        SERVER_TEST(test_an_answer_of_known_length_comes_in_pieces),
        SERVER_TEST(test_an_answer_of_known_length_that_is_cut_is_too_short),
        SERVER_TEST(test_a_slow_reader_is_waited_for),
        SERVER_TEST(test_too_much_for_a_slow_reader_is_refused_whole),
        SERVER_TEST(test_a_cut_waits_for_what_is_pending),
        SERVER_TEST(test_a_client_that_leaves_is_noticed_once),
        SERVER_TEST(test_a_client_that_leaves_as_the_answer_comes),
        SERVER_TEST(test_leaving_after_the_answer_is_no_leaving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
