#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/transfers.h"
#include "tests/lib/unit.h"
#include "tests/lib/upstream_room.h"

/* ---- timers ---- */

static void test_no_first_byte(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    room->request.streaming = true;
    room->target.timeouts.first_token_ms = UPSTREAM_ROOM_SHORT_MS;
    asker_start(room, &asker);
    int fd = engine_accept(room);
    engine_read(room, fd);
    engine_write(fd, STREAM_HEAD "2\r\n:\n\r\n"); /* a comment: no progress, since its reader tells of none */
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_NO_FIRST_BYTE);
    asker_forget(&asker);
    engine_sees_close(room, fd);
}

/* The first token came long before its own deadline: the stall is found by the shorter timer. */
static void test_a_stream_that_stalls(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    room->target.timeouts.inter_chunk_ms = UPSTREAM_ROOM_SHORT_MS;
    int fd = engine_begin_stream(room, &asker);
    exchange_progress(asker.exchange);
    mono_ms began = clock_mono_ms();
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_STALLED);
    assert_true(clock_mono_ms() - began < UPSTREAM_ROOM_LONG_MS / 2);
    asker_forget(&asker);
    engine_sees_close(room, fd);
}

static void test_a_stream_that_goes_on_does_not_stall(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    room->target.timeouts.inter_chunk_ms = 4 * UPSTREAM_ROOM_SHORT_MS;
    int fd = engine_begin_stream(room, &asker);
    for (int i = 0; i < 12; i++) {
        exchange_progress(asker.exchange);
        room_run_for(room, UPSTREAM_ROOM_SHORT_MS / 2);
        engine_write(fd, STREAM_HELLO);
    }
    engine_write(fd, "0\r\n\r\n");
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_DONE);
    assert_int_equal(asker.length, 13 * 5);
    asker_forget(&asker);
    close(fd);
}

static void test_the_total_timer_rules_whatever_comes(void **state)
{
    struct upstream_room *room = *state;
    for (int streaming = 0; streaming < 2; streaming++) {
        struct asker asker = {0};
        room->request.streaming = streaming;
        room->target.timeouts.total_ms = UPSTREAM_ROOM_SHORT_MS;
        asker_start(room, &asker);
        int fd = engine_accept(room);
        engine_read(room, fd);
        engine_write(fd, STREAM_HEAD STREAM_HELLO);
        while (asker.ends == 0) {
            loop_run_once(room->loop, 5);
            if (asker.ends == 0)
                exchange_progress(asker.exchange);
        }
        assert_int_equal(asker.end, EXCHANGE_TOO_LONG);
        asker_forget(&asker);
        engine_sees_close(room, fd);
    }
}

static void test_only_the_total_timer_rules_what_is_no_stream(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    room->target.timeouts.first_token_ms = room->target.timeouts.inter_chunk_ms = UPSTREAM_ROOM_SHORT_MS / 4;
    asker_start(room, &asker);
    int fd = engine_accept(room);
    engine_read(room, fd);
    room_run_for(room, UPSTREAM_ROOM_SHORT_MS);
    engine_write(fd, ANSWER_2);
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_DONE);
    asker_forget(&asker);
    close(fd);
}

/* ---- pause ---- */

static void test_what_is_not_taken_comes_again(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {.pausing = true};
    int fd = engine_begin_stream(room, &asker);
    room_run_for(room, 50);
    engine_write(fd, STREAM_HELLO "0\r\n\r\n");
    room_run_for(room, 50);
    assert_int_equal(asker.heads, 1);
    assert_int_equal(asker.bodies + (size_t) asker.ends, 0);
    exchange_continue(asker.exchange);
    assert_int_equal(asker.bodies, 0);
    asker.pausing = false;
    room_run_for(room, 50);
    assert_int_equal(asker.bodies, 0);
    exchange_continue(asker.exchange);
    exchange_continue(asker.exchange);
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_DONE);
    assert_string_equal(asker.text, "hellohello");
    asker_forget(&asker);
    close(fd);
}

/* While it is paused the engine is not the one who is slow; afterwards it may be. */
static void test_a_paused_stream_does_not_stall_but_a_continued_one_may(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {.pausing = true};
    room->target.timeouts.first_token_ms = UPSTREAM_ROOM_SHORT_MS;
    room->target.timeouts.inter_chunk_ms = UPSTREAM_ROOM_SHORT_MS;
    int fd = engine_begin_stream(room, &asker);
    room_run_for(room, 4 * UPSTREAM_ROOM_SHORT_MS);
    assert_int_equal(asker.ends, 0);
    asker.pausing = false;
    mono_ms began = clock_mono_ms();
    exchange_continue(asker.exchange);
    asker_until_end(&asker);
    assert_int_equal(asker.end, EXCHANGE_STALLED);
    assert_true(clock_mono_ms() - began < UPSTREAM_ROOM_LONG_MS / 2);
    assert_string_equal(asker.text, "hello");
    asker_forget(&asker);
    engine_sees_close(room, fd);
}

/* ---- leaving ---- */

static void expect_silence(struct upstream_room *room, struct asker *asker, int fd)
{
    engine_sees_close(room, fd);
    room_run_for(room, 20);
    assert_null(asker->exchange);
    assert_int_equal(asker->ends, 0);
    asker_forget(asker);
}

static void test_cancel_at_any_time(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    asker_start(room, &asker);
    exchange_cancel(&asker.exchange);
    assert_null(asker.exchange);
    exchange_cancel(&asker.exchange);
    room_run_for(room, 20);
    assert_int_equal(asker.ends, 0);
    asker_forget(&asker);

    asker_start(room, &asker);
    int fd = engine_accept(room);
    engine_read(room, fd);
    exchange_cancel(&asker.exchange);
    expect_silence(room, &asker, fd);

    fd = engine_begin_stream(room, &asker);
    exchange_cancel(&asker.exchange);
    expect_silence(room, &asker, fd);

    asker.pausing = true;
    fd = engine_begin_stream(room, &asker);
    room_run_for(room, 20);
    exchange_cancel(&asker.exchange);
    expect_silence(room, &asker, fd);
}

static void test_cancel_from_inside_head_and_body(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {.on_head = CANCEL};
    int fd = engine_begin_stream(room, &asker);
    assert_int_equal(asker.bodies, 0);
    expect_silence(room, &asker, fd);

    asker.on_body = CANCEL;
    fd = engine_begin_stream(room, &asker);
    assert_int_equal(asker.bodies, 1);
    expect_silence(room, &asker, fd);
}

static void test_cancel_from_inside_read_body(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {.on_read = CANCEL, .read_most = 3};
    asker_start(room, &asker);
    int fd = engine_accept(room);
    room_run_for(room, 50);
    assert_int_equal(asker.reads, 1);
    while (recv(fd, room->got, sizeof(room->got), 0) > 0)
        ;
    expect_silence(room, &asker, fd);
}

/* The body comes from inside exchange_continue: nothing of curl happens afterwards that would end it. */
static void test_cancel_from_inside_continue(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {.pausing = true, .on_body = CANCEL};
    int fd = engine_begin_stream(room, &asker);
    room_run_for(room, 50);
    struct exchange *exchange = asker.exchange;
    asker.pausing = false;
    exchange_continue(exchange);
    mono_ms began = clock_mono_ms();
    expect_silence(room, &asker, fd);
    assert_true(clock_mono_ms() - began < 10 * 1000);
}

/* The handle is put away once, and the next exchanges do not share one. */
static void test_cancel_and_release_from_inside_end(void **state)
{
    struct upstream_room *room = *state;
    for (enum then then = CANCEL; then <= RELEASE; then++) {
        struct asker first = {.on_end = then}, second = {0}, third = {0};
        int fd = engine_serve(room, -1, &first, ANSWER_2);
        assert_int_equal(first.end, EXCHANGE_DONE);
        asker_start(room, &second);
        asker_start(room, &third);
        assert_ptr_not_equal(second.exchange, third.exchange);
        engine_read(room, fd);
        int other = engine_accept(room);
        engine_read(room, other);
        engine_write(fd, ANSWER_2);
        engine_write(other, ANSWER_2);
        asker_until_end(&second);
        asker_until_end(&third);
        asker_forget(&first);
        asker_forget(&second);
        asker_forget(&third);
        close(fd);
        close(other);
        room_run_for(room, 20);
    }
}

static void test_another_exchange_is_started_from_inside_end(void **state)
{
    struct upstream_room *room = *state;
    struct asker second = {0}, first = {.on_end = START_ANOTHER, .another = &second};
    int fd = engine_serve(room, -1, &first, ANSWER_2);
    engine_read(room, fd);
    engine_write(fd, ANSWER_2);
    asker_until_end(&second);
    assert_int_equal(room->accepted, 1);
    asker_forget(&first);
    asker_forget(&second);
    close(fd);
}

static void test_a_released_exchange_gives_its_connection_back(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {.on_body = RELEASE};
    int fd = engine_begin_stream(room, &asker);
    engine_write(fd, STREAM_HELLO "0\r\n\r\n");
    engine_sees_quiet(room, fd);
    assert_int_equal(asker.bodies, 1);
    assert_int_equal(asker.ends, 0);
    asker_forget(&asker);
    assert_int_equal(engine_serve(room, fd, &asker, ANSWER_2), fd);
    assert_int_equal(room->accepted, 1);
    asker_forget(&asker);
    close(fd);
}

static void test_a_released_exchange_that_goes_on_is_closed(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {0};
    mono_ms began = clock_mono_ms();
    int fd = engine_begin_stream(room, &asker);
    exchange_release(&asker.exchange);
    expect_silence(room, &asker, fd);
    assert_true(clock_mono_ms() - began >= 900);

    /* Ended in time, but too long: not worth the connection. */
    char chunk[9000];
    snprintf(chunk, sizeof(chunk), "2000\r\n%08192d\r\n", 0);
    fd = engine_begin_stream(room, &asker);
    exchange_release(&asker.exchange);
    for (int i = 0; i < 9; i++)
        engine_write(fd, chunk);
    (void) !send(fd, "0\r\n\r\n", 5, MSG_NOSIGNAL);
    expect_silence(room, &asker, fd);
}

static void test_a_paused_exchange_is_released(void **state)
{
    struct upstream_room *room = *state;
    struct asker asker = {.pausing = true};
    int fd = engine_begin_stream(room, &asker);
    room_run_for(room, 50);
    exchange_release(&asker.exchange);
    engine_write(fd, "0\r\n\r\n");
    engine_sees_quiet(room, fd);
    asker_forget(&asker);
    assert_int_equal(engine_serve(room, fd, &asker, ANSWER_2), fd);
    assert_int_equal(room->accepted, 1);
    asker_forget(&asker);
    close(fd);
}

static void test_released_ones_are_dropped_with_the_upstream(void **state)
{
    struct upstream_room *room = *state;
    struct asker one = {0}, two = {0};
    int first = engine_begin_stream(room, &one);
    int second = engine_begin_stream(room, &two);
    exchange_release(&one.exchange);
    exchange_release(&two.exchange);
    upstream_destroy(&room->upstream);
    asker_forget(&one);
    asker_forget(&two);
    close(first);
    close(second);
}

#define ROOM_TEST(test) cmocka_unit_test_setup_teardown(test, upstream_room_set_up, upstream_room_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOM_TEST(test_no_first_byte),
        ROOM_TEST(test_a_stream_that_stalls),
        ROOM_TEST(test_a_stream_that_goes_on_does_not_stall),
        ROOM_TEST(test_the_total_timer_rules_whatever_comes),
        ROOM_TEST(test_only_the_total_timer_rules_what_is_no_stream),
        ROOM_TEST(test_what_is_not_taken_comes_again),
        ROOM_TEST(test_a_paused_stream_does_not_stall_but_a_continued_one_may),
        ROOM_TEST(test_cancel_at_any_time),
        ROOM_TEST(test_cancel_from_inside_head_and_body),
        ROOM_TEST(test_cancel_from_inside_read_body),
        ROOM_TEST(test_cancel_from_inside_continue),
        ROOM_TEST(test_cancel_and_release_from_inside_end),
        ROOM_TEST(test_another_exchange_is_started_from_inside_end),
        ROOM_TEST(test_a_released_exchange_gives_its_connection_back),
        ROOM_TEST(test_a_released_exchange_that_goes_on_is_closed),
        ROOM_TEST(test_a_paused_exchange_is_released),
        ROOM_TEST(test_released_ones_are_dropped_with_the_upstream),
    };
    return transfers_global_init() ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
