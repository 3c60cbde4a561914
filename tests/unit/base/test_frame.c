#include "base/frame.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/lib/unit.h"

static int ends[2];
static char sent_memory[FRAME_BYTES_MAX], received_memory[FRAME_BYTES_MAX];

static int set_up(void **state)
{
    (void) state;
    alarm(60);
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
}

static int tear_down(void **state)
{
    (void) state;
    close(ends[0]);
    close(ends[1]);
    return 0;
}

static enum frame_result receive(struct frame_reader *reader)
{
    return frame_receive(ends[1], received_memory, sizeof(received_memory), reader);
}

static int count_open_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void fields_come_back_in_order(void **state)
{
    (void) state;
    struct frame_writer writer;
    frame_begin(&writer, sent_memory, sizeof(sent_memory), 200);
    frame_add_int(&writer, INT64_MIN);
    frame_add_text(&writer, TEXT("two\0words"));
    frame_add_text(&writer, (struct text){NULL, 0});
    frame_add_int(&writer, 7);
    assert_true(frame_send(ends[0], &writer, -1, 0));

    struct frame_reader reader;
    assert_int_equal(receive(&reader), FRAME_RECEIVED);
    assert_int_equal(reader.type, 200);
    assert_int_equal(reader.fd, -1);
    assert_true(frame_read_int(&reader) == INT64_MIN);
    assert_true(text_equal(frame_read_text(&reader), TEXT("two\0words")));
    assert_int_equal(frame_read_text(&reader).length, 0);
    assert_int_equal(frame_read_int(&reader), 7);
    assert_false(reader.broken);
    assert_int_equal(reader.rest.length, 0);
    assert_int_equal(frame_read_int(&reader), 0);
    assert_true(reader.broken);
}

static void a_field_of_the_other_kind_breaks_the_frame(void **state)
{
    (void) state;
    struct frame_writer writer;
    frame_begin(&writer, sent_memory, sizeof(sent_memory), 1);
    frame_add_int(&writer, 5);
    frame_add_int(&writer, 6);
    assert_true(frame_send(ends[0], &writer, -1, 0));
    struct frame_reader reader;
    assert_int_equal(receive(&reader), FRAME_RECEIVED);
    assert_int_equal(frame_read_text(&reader).length, 0);
    assert_true(reader.broken);
    assert_int_equal(frame_read_int(&reader), 0);
}

static void nothing_yet_never_blocks(void **state)
{
    (void) state;
    struct frame_reader reader;
    assert_int_equal(receive(&reader), FRAME_NOTHING_YET);
}

static void the_end_of_the_peer_is_told(void **state)
{
    (void) state;
    struct frame_writer writer;
    frame_begin(&writer, sent_memory, sizeof(sent_memory), 3);
    assert_true(frame_send(ends[0], &writer, -1, 0));
    close(ends[0]);
    ends[0] = -1;
    struct frame_reader reader;
    assert_int_equal(receive(&reader), FRAME_RECEIVED);
    assert_int_equal(reader.rest.length, 0);
    assert_int_equal(receive(&reader), FRAME_CLOSED);
    assert_false(frame_send(ends[1], &writer, -1, 1000));
}

static void the_largest_frame_passes(void **state)
{
    (void) state;
    static char field[FRAME_FIELD_BYTES_MAX];
    memset(field, 'f', sizeof(field));
    struct frame_writer writer;
    frame_begin(&writer, sent_memory, sizeof(sent_memory), 9);
    frame_add_text(&writer, (struct text){field, sizeof(field)});
    size_t rest = FRAME_BYTES_MAX - 1 - writer.builder.length - 5;
    frame_add_text(&writer, (struct text){field, rest});
    assert_int_equal(writer.builder.length, FRAME_BYTES_MAX - 1);
    assert_true(frame_send(ends[0], &writer, -1, 0));
    struct frame_reader reader;
    assert_int_equal(receive(&reader), FRAME_RECEIVED);
    assert_int_equal(frame_read_text(&reader).length, sizeof(field));
    assert_int_equal(frame_read_text(&reader).length, rest);
    assert_false(reader.broken);
}

static void what_does_not_fit_is_not_sent(void **state)
{
    (void) state;
    static char field[FRAME_FIELD_BYTES_MAX + 1];
    struct frame_writer writer;
    frame_begin(&writer, sent_memory, sizeof(sent_memory), 9);
    frame_add_text(&writer, (struct text){field, sizeof(field)});
    assert_false(frame_send(ends[0], &writer, -1, 0));
    frame_begin(&writer, sent_memory, 8, 9);
    frame_add_int(&writer, 1);
    assert_false(frame_send(ends[0], &writer, -1, 0));
    struct frame_reader reader;
    assert_int_equal(receive(&reader), FRAME_NOTHING_YET);
}

/* The same file, another number, closed on exec; the sender keeps his. */
static void a_descriptor_travels(void **state)
{
    (void) state;
    int pipe_ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    struct frame_writer writer;
    frame_begin(&writer, sent_memory, sizeof(sent_memory), 4);
    frame_add_text(&writer, TEXT("listener"));
    assert_true(frame_send(ends[0], &writer, pipe_ends[1], 0));
    struct frame_reader reader;
    assert_int_equal(receive(&reader), FRAME_RECEIVED);
    assert_true(reader.fd >= 0);
    assert_true((fcntl(reader.fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(write(reader.fd, "hello", 5), 5);
    char hello[5];
    assert_int_equal(read(pipe_ends[0], hello, sizeof(hello)), 5);
    assert_true(text_equal(frame_read_text(&reader), TEXT("listener")));
    close(reader.fd);
    assert_int_equal(close(pipe_ends[1]), 0);
    close(pipe_ends[0]);
}

/* A packet as no frame_send makes it. */
static void send_raw(const char *bytes, size_t length, const int *fds, size_t fd_count)
{
    struct iovec part = {.iov_base = memcpy(sent_memory, bytes, length), .iov_len = length};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * 16)];
    } control;
    memset(&control, 0, sizeof(control));
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (header == NULL)
            abort();
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * fd_count);
    }
    assert_int_equal(sendmsg(ends[0], &message, 0), length);
}

/* More than one descriptor is refused, and none stays open: neither those we took nor those there was no room for. */
static void many_descriptors_close_and_leak_nothing(void **state)
{
    (void) state;
    int fds[12];
    for (size_t i = 0; i < 12; i++)
        fds[i] = STDERR_FILENO;
    int open_before = count_open_fds();
    for (size_t count = 2; count <= 12; count++) {
        send_raw("x", 1, fds, count);
        struct frame_reader reader;
        assert_int_equal(receive(&reader), FRAME_CLOSED);
        assert_int_equal(count_open_fds(), open_before);
    }
}

static void a_cut_packet_is_closed_and_leaks_nothing(void **state)
{
    (void) state;
    int open_before = count_open_fds();
    int fd = STDERR_FILENO;
    send_raw("12345678", 8, &fd, 1);
    char small[7];
    struct frame_reader reader;
    assert_int_equal(frame_receive(ends[1], small, sizeof(small), &reader), FRAME_CLOSED);
    assert_int_equal(count_open_fds(), open_before);
}

static void an_empty_packet_is_no_frame(void **state)
{
    (void) state;
    send_raw("", 0, NULL, 0);
    struct frame_reader reader;
    assert_int_equal(receive(&reader), FRAME_CLOSED);
}

/* Fill the socket until a send without waiting fails. */
static int fill(struct frame_writer *writer)
{
    static char field[10000];
    frame_begin(writer, sent_memory, sizeof(sent_memory), 5);
    frame_add_text(writer, (struct text){field, sizeof(field)});
    int sent = 0;
    while (frame_send(ends[0], writer, -1, 0))
        sent++;
    assert_in_range((uint64_t) sent, 1, 10000);
    return sent;
}

static void a_full_socket_is_given_up_after_the_wait(void **state)
{
    (void) state;
    struct frame_writer writer;
    int sent = fill(&writer);
    mono_ms before = clock_mono_ms();
    assert_false(frame_send(ends[0], &writer, -1, 30));
    assert_true(clock_mono_ms() - before >= 29);
    struct frame_reader reader;
    for (; sent > 0; sent--)
        assert_int_equal(receive(&reader), FRAME_RECEIVED);
    assert_int_equal(receive(&reader), FRAME_NOTHING_YET);
}

static void *drain_later(void *unused)
{
    (void) unused;
    usleep(50000);
    struct frame_reader reader;
    while (receive(&reader) == FRAME_RECEIVED) {
    }
    return NULL;
}

static void a_full_socket_is_waited_for(void **state)
{
    (void) state;
    struct frame_writer writer;
    fill(&writer);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, drain_later, NULL), 0);
    assert_true(frame_send(ends[0], &writer, -1, 30000));
    pthread_join(thread, NULL);
}

/* Whatever the bytes: reading stays inside them and comes to an end. */
static void hostile_fields_stay_inside(void **state)
{
    (void) state;
    for (int round = 0; round < 100000; round++) {
        size_t length = unit_random_below(40);
        char *bytes = malloc(length + 1);
        assert_non_null(bytes);
        for (size_t i = 0; i < length; i++)
            bytes[i] = unit_random_below(3) == 0 ? (char) unit_random() : "it\0\0\1\2"[unit_random_below(6)];
        struct frame_reader reader = {.fd = -1, .rest = {bytes, length}};
        for (int i = 0; i < 10; i++) {
            if (unit_random_below(2) == 0) {
                frame_read_int(&reader);
                continue;
            }
            struct text value = frame_read_text(&reader);
            assert_true(value.length == 0 || (value.at >= bytes && value.at + value.length <= bytes + length));
        }
        assert_true(reader.broken);
        free(bytes);
    }
}

int main(void)
{
    unit_random_seed();
#define FRAME_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        FRAME_TEST(fields_come_back_in_order),
        FRAME_TEST(a_field_of_the_other_kind_breaks_the_frame),
        FRAME_TEST(nothing_yet_never_blocks),
        FRAME_TEST(the_end_of_the_peer_is_told),
        FRAME_TEST(the_largest_frame_passes),
        FRAME_TEST(what_does_not_fit_is_not_sent),
        FRAME_TEST(a_descriptor_travels),
        FRAME_TEST(many_descriptors_close_and_leak_nothing),
        FRAME_TEST(a_cut_packet_is_closed_and_leaks_nothing),
        FRAME_TEST(an_empty_packet_is_no_frame),
        FRAME_TEST(a_full_socket_is_given_up_after_the_wait),
        FRAME_TEST(a_full_socket_is_waited_for),
        FRAME_TEST(hostile_fields_stay_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
