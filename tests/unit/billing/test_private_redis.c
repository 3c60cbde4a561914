/* billing/private_redis: what it hands out; that a server started with it works is seen by all tests with a Redis. */
#include <errno.h>
#include <limits.h>

#include "tests/lib/redis_room.h"

static char directory[64];

static int set_up(void **state)
{
    (void) state;
    strcpy(directory, "/tmp/tollgate-private-XXXXXX");
    return mkdtemp(directory) != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    (void) state;
    return nftw(directory, redis_room_remove, 8, FTW_DEPTH | FTW_PHYS);
}

static void socket_and_data_of_one_that_runs_stay(void **state)
{
    struct private_redis redis;
    struct stat status;
    char path[PATH_MAX + 16];
    (void) state;
    for (int i = 0; i < 2; i++) {
        assert_true(private_redis_prepare("redis-server", directory, directory, &redis));
        assert_int_equal(stat(redis.directory, &status), 0);
        assert_int_equal(status.st_mode & 0777, 0700);
        assert_int_equal(access(redis.socket, F_OK), i == 0 ? -1 : 0);
        snprintf(path, sizeof path, "%s/data", redis.directory);
        assert_int_equal(access(path, F_OK), i == 0 ? -1 : 0);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fclose(file);
        file = fopen(redis.socket, "w");
        assert_non_null(file);
        fclose(file);
    }
}

static void all_look_for_it_at_one_place(void **state)
{
    struct private_redis redis;
    char socket[PRIVATE_REDIS_SOCKET_BYTES], expected[128];
    (void) state;
    assert_true(private_redis_prepare("redis-server", directory, directory, &redis));
    assert_true(private_redis_socket(directory, socket));
    assert_string_equal(socket, redis.socket);
    snprintf(expected, sizeof expected, "%s/redis.sock", directory);
    assert_string_equal(socket, expected);
}

static void no_port_is_opened(void **state)
{
    struct private_redis redis;
    size_t count = 0;
    (void) state;
    assert_true(private_redis_prepare("redis-server", directory, directory, &redis));
    while (redis.arguments[count] != NULL)
        count++;
    assert_true(count < PRIVATE_REDIS_ARGUMENTS_MAX);
    assert_string_equal(redis.arguments[0], "redis-server");
    assert_string_equal(redis.arguments[1], "--port");
    assert_string_equal(redis.arguments[2], "0");
}

static void troubles_are_told(void **state)
{
    struct private_redis redis;
    char longest[200], missing[128];
    (void) state;
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_false(private_redis_prepare("redis-server", directory, longest, &redis));
    assert_int_equal(errno, ENAMETOOLONG);
    char socket[PRIVATE_REDIS_SOCKET_BYTES];
    errno = 0;
    assert_false(private_redis_socket(longest, socket));
    assert_int_equal(errno, ENAMETOOLONG);
    snprintf(missing, sizeof missing, "%s/missing", directory);
    assert_false(private_redis_prepare("redis-server", missing, directory, &redis));
    assert_int_equal(errno, ENOENT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(socket_and_data_of_one_that_runs_stay),
        TEST(all_look_for_it_at_one_place),
        TEST(no_port_is_opened),
        TEST(troubles_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
