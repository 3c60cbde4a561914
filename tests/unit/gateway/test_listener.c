#include "gateway/listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/worker.h"
#include "tests/lib/unit.h"

enum { HANG_SECONDS = 60, QUIET_MS = 100, ALLOWED = 16 };

/* ---- workers that only take what is dealt ---- */

static struct worker workers[3];
static int dealt[3][64];
static atomic_int dealt_count[3];

/* In the place of gateway/worker.c's. */
void worker_deal(struct worker *worker, int fd, const struct sockaddr_storage *address, socklen_t address_length)
{
    size_t index = (size_t) (worker - workers);
    assert_true(address_length > 0 && address->ss_family != AF_UNSPEC);
    worker->connections++;
    dealt[index][dealt_count[index]] = fd;
    dealt_count[index]++;
}

static int dealt_to_all(void)
{
    return dealt_count[0] + dealt_count[1] + dealt_count[2];
}

static void until_dealt(int count)
{
    while (dealt_to_all() < count)
        poll(NULL, 0, 5);
    assert_int_equal(dealt_to_all(), count);
}

static void forget_dealt(void)
{
    for (size_t i = 0; i < 3; i++) {
        for (int k = 0; k < dealt_count[i]; k++)
            close(dealt[i][k]);
        dealt_count[i] = 0;
        workers[i].connections = 0;
    }
}

/* ---- addresses ---- */

static struct listen_address tcp(const char *host, int port)
{
    return (struct listen_address){.kind = LISTEN_TCP, .host = host, .port = port, .text = "the address"};
}

static int port_of(int fd)
{
    struct sockaddr_in address;
    socklen_t length = sizeof(address);
    assert_int_equal(getsockname(fd, (struct sockaddr *) &address, &length), 0);
    return ntohs(address.sin_port);
}

static int connect_to(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t) port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *) &address, sizeof(address)), 0);
    return fd;
}

static int bound(void)
{
    char error[LISTENER_ERROR_BYTES];
    struct listen_address where = tcp("127.0.0.1", 0);
    int fd = listener_bind(&where, error);
    assert_true(fd >= 0);
    return fd;
}

/* ---- bind ---- */

static void test_a_port_in_use_is_an_error(void **state)
{
    char error[LISTENER_ERROR_BYTES] = "";
    (void) state;
    int fd = bound();
    struct listen_address again = tcp("127.0.0.1", port_of(fd));
    assert_int_equal(listener_bind(&again, error), -1);
    assert_non_null(strstr(error, "cannot listen on the address"));
    assert_non_null(strstr(error, "another process listens there"));
    close(fd);
    fd = listener_bind(&again, error);
    assert_true(fd >= 0);
    close(fd);
}

static void test_an_address_that_is_not_ours(void **state)
{
    char error[LISTENER_ERROR_BYTES];
    struct listen_address foreign = tcp("192.0.2.1", 0), nonsense = tcp("no address", 0);
    (void) state;
    assert_int_equal(listener_bind(&foreign, error), -1);
    assert_non_null(strstr(error, "cannot listen"));
    assert_int_equal(listener_bind(&nonsense, error), -1);
}

static void test_unix_paths(void **state)
{
    char directory[] = "/tmp/listener-XXXXXX", path[64], error[LISTENER_ERROR_BYTES];
    struct stat found;
    (void) state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/socket", directory);
    struct listen_address where = {.kind = LISTEN_UNIX, .path = path, .text = "the path"};
    int fd = listener_bind(&where, error);
    assert_true(fd >= 0);
    assert_int_equal(stat(path, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0660);

    /* Somebody listens: not replaced. */
    assert_int_equal(listener_bind(&where, error), -1);
    assert_non_null(strstr(error, "another process listens there"));

    /* Nor when his backlog is full. */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    assert_int_equal(listen(fd, 0), 0);
    (void) !connect(client, (struct sockaddr *) &address, sizeof(address));
    assert_int_equal(listener_bind(&where, error), -1);
    assert_non_null(strstr(error, "another process listens there"));
    close(client);

    /* Nobody does any more: replaced. */
    close(fd);
    fd = listener_bind(&where, error);
    assert_true(fd >= 0);
    close(fd);
    unlink(path);

    /* No socket at all: never removed. */
    FILE *file = fopen(path, "w");
    fputs("precious", file);
    fclose(file);
    assert_int_equal(listener_bind(&where, error), -1);
    assert_int_equal(stat(path, &found), 0);
    assert_int_equal(found.st_size, strlen("precious"));
    unlink(path);
    rmdir(directory);
}

/* ---- accept ---- */

static void test_connections_go_to_whom_has_the_fewest(void **state)
{
    struct worker *all[3] = {&workers[0], &workers[1], &workers[2]};
    int clients[6];
    (void) state;
    int fd = bound();
    workers[0].connections = 2;
    workers[1].connections = 1;
    struct listener *listener = listener_create(fd, all, 3);
    for (int i = 0; i < 6; i++) {
        clients[i] = connect_to(port_of(fd));
        until_dealt(i + 1);
    }
    assert_int_equal(dealt_count[0], 1);
    assert_int_equal(dealt_count[1], 2);
    assert_int_equal(dealt_count[2], 3);
    listener_destroy(&listener);
    assert_null(listener);
    listener_destroy(&listener);
    for (int i = 0; i < 6; i++)
        close(clients[i]);
    forget_dealt();
    close(fd);
}

/* The descriptor stays the caller's, and what comes meanwhile waits in the backlog. */
static void test_a_destroyed_listener_leaves_the_backlog(void **state)
{
    struct worker *all[1] = {&workers[0]};
    (void) state;
    int fd = bound();
    struct listener *listener = listener_create(fd, all, 1);
    listener_destroy(&listener);
    int client = connect_to(port_of(fd));
    poll(NULL, 0, QUIET_MS);
    assert_int_equal(dealt_to_all(), 0);
    listener = listener_create(fd, all, 1);
    until_dealt(1);
    listener_destroy(&listener);
    close(client);
    forget_dealt();
    close(fd);
}

static void test_there_is_a_bound_of_all(void **state)
{
    struct worker *all[2] = {&workers[0], &workers[1]};
    struct rlimit before, few;
    int clients[ALLOWED + 1];
    char byte;
    (void) state;
    getrlimit(RLIMIT_NOFILE, &before);
    few = (struct rlimit){.rlim_cur = 200, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    int fd = bound();
    struct listener *listener = listener_create(fd, all, 2);
    for (int i = 0; i <= ALLOWED; i++)
        clients[i] = connect_to(port_of(fd));
    assert_int_equal(recv(clients[ALLOWED], &byte, 1, 0), 0);
    until_dealt(ALLOWED);
    /* One leaves, another may come. */
    listener_forget("127.0.0.1");
    workers[0].connections--;
    close(clients[ALLOWED]);
    clients[ALLOWED] = connect_to(port_of(fd));
    until_dealt(ALLOWED + 1);
    listener_destroy(&listener);
    for (int i = 0; i <= ALLOWED; i++)
        close(clients[i]);
    forget_dealt();
    close(fd);
    setrlimit(RLIMIT_NOFILE, &before);
}

static int set_up(void **state)
{
    (void) state;
    alarm(HANG_SECONDS);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_port_in_use_is_an_error),
        cmocka_unit_test(test_an_address_that_is_not_ours),
        cmocka_unit_test(test_unix_paths),
        cmocka_unit_test(test_connections_go_to_whom_has_the_fewest),
        cmocka_unit_test(test_a_destroyed_listener_leaves_the_backlog),
        cmocka_unit_test(test_there_is_a_bound_of_all),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
