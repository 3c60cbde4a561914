/* A program that stands for redis-server under a real master: started, adopted, replaced, started again. */
#include "gateway/redis_keeper.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/children.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/text.h"
#include "tests/lib/keeper.h"
#include "tests/lib/redis_room.h"
#include "tests/lib/unit.h"

enum { DRAIN_MS = 600 * 1000 };

static struct keeper master;
static struct keeper_gateway process;
static struct loop *loop;
static struct children *children;
static struct redis_keeper *keeper;
static char directory[64], program[96];

static void hear_nothing(void *owner)
{
    (void) owner;
}

/* A gateway process before it begins to serve. */
static void open_gateway(void)
{
    assert_true(keeper_accept(&master, &process));
    loop = loop_create();
    children = children_connect(process.socket);
    assert_non_null(children);
    process.socket = -1;
    keeper = redis_keeper_create(loop, children, directory, directory);
    assert_non_null(keeper);
    assert_true(children_attach(children, loop, hear_nothing, hear_nothing, NULL));
    assert_true(children_gateway_ready(children));
}

static void close_gateway(void)
{
    children_destroy(&children);
    redis_keeper_destroy(&keeper);
    loop_destroy(loop);
}

static void succeed(void)
{
    keeper_gateway_kill(&process);
    keeper_gateway_close(&process);
    close_gateway();
    open_gateway();
}

static void write_program(const char *script)
{
    FILE *file = fopen(program, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\n%s\n", script);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(program, 0700), 0);
}

static int set_up(void **state)
{
    (void) state;
    strcpy(directory, "/tmp/tollgate-keeper-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(program, sizeof program, "%s/redis-server", directory);
    write_program("exec sleep 600");
    assert_int_equal(setenv("REDIS_SERVER", program, 1), 0);
    log_configure(LOG_FORMAT_JSON, LOG_ERROR);
    keeper_start(&master, "obey", DRAIN_MS);
    open_gateway();
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    close_gateway();
    keeper_finish(&master);
    keeper_gateway_close(&process);
    return nftw(directory, redis_room_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* The pid of the child, once there is one that is not @old. */
static int await_child(int old)
{
    struct child_info info;
    for (mono_ms deadline = clock_mono_ms() + KEEPER_WAIT_MS; clock_mono_ms() < deadline; loop_run_once(loop, 20)) {
        if (children_find(children, "redis", &info) && info.pid != old && *redis_keeper_trouble(keeper) == '\0')
            return info.pid;
    }
    fail_msg("there is no such child: %s", redis_keeper_trouble(keeper));
    return 0;
}

static void await_trouble(void)
{
    for (mono_ms deadline = clock_mono_ms() + KEEPER_WAIT_MS; *redis_keeper_trouble(keeper) == '\0';) {
        assert_true(clock_mono_ms() < deadline);
        loop_run_once(loop, 20);
    }
}

static void the_next_gateway_keeps_it(void **state)
{
    (void) state;
    redis_keeper_begin(keeper);
    int pid = await_child(0);
    succeed();
    redis_keeper_begin(keeper);
    assert_int_equal(await_child(0), pid);
    assert_true(keeper_is_alive(pid));
}

static void one_with_other_words_is_replaced(void **state)
{
    (void) state;
    const char *const environment[] = {NULL}, *const arguments[] = {"/bin/sleep", "600", NULL};
    const struct child_start other = {.name = "redis",
                                      .note = "of other words",
                                      .working_directory = "",
                                      .arguments = arguments,
                                      .environment = environment};
    assert_true(children_start(children, &other));
    int pid = await_child(0);
    succeed();
    redis_keeper_begin(keeper);
    assert_true(await_child(pid) != pid);
    assert_true(keeper_is_gone(pid, KEEPER_WAIT_MS));
}

static void one_that_dies_is_started_again(void **state)
{
    (void) state;
    redis_keeper_begin(keeper);
    int pid = await_child(0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    await_trouble();
    assert_non_null(strstr(redis_keeper_trouble(keeper), "killed by signal 9"));
    assert_true(await_child(pid) != pid);
}

static void a_missing_program_is_told_and_looked_for_again(void **state)
{
    (void) state;
    assert_int_equal(unlink(program), 0);
    redis_keeper_begin(keeper);
    await_trouble();
    assert_non_null(strstr(redis_keeper_trouble(keeper), "cannot execute"));
    assert_non_null(strstr(redis_keeper_trouble(keeper), "install"));
    write_program("exec sleep 600");
    await_child(0);
}

static void it_inherits_no_secret(void **state)
{
    (void) state;
    char line[256], path[128];
    int lines = 0;
    write_program("env >environment.new && mv environment.new environment; exec sleep 600");
    assert_int_equal(setenv("SECRET_OF_THE_TEST", "canary", 1), 0);
    redis_keeper_begin(keeper);
    await_child(0);
    snprintf(path, sizeof path, "%s/redis/environment", directory);
    for (mono_ms deadline = clock_mono_ms() + KEEPER_WAIT_MS; access(path, R_OK) != 0; usleep(10000))
        assert_true(clock_mono_ms() < deadline);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    for (; fgets(line, sizeof line, file) != NULL; lines++)
        assert_null(strstr(line, "canary"));
    fclose(file);
    assert_in_range(lines, 1, 8);
}

/* Begin anew as a gateway whose PATH is @path and which is told no program. */
static void succeed_with_path(const char *path)
{
    static char before[4096];
    text_copy(before, sizeof before, text_of(getenv("PATH")));
    assert_int_equal(unsetenv("REDIS_SERVER"), 0);
    assert_int_equal(setenv("PATH", path, 1), 0);
    succeed();
    assert_int_equal(setenv("PATH", before, 1), 0);
    redis_keeper_begin(keeper);
}

static void the_checker_of_redis_tools_is_a_server_too(void **state)
{
    char checker[96], path[256], wanted[128];
    (void) state;
    snprintf(checker, sizeof checker, "%s/redis-check-rdb", directory);
    assert_int_equal(rename(program, checker), 0);
    snprintf(path, sizeof path, "/nonexistent::%s", directory);
    succeed_with_path(path);
    int pid = await_child(0);
    snprintf(wanted, sizeof wanted, "%s/redis/redis-server", directory);
    assert_true(readlink(wanted, path, sizeof path) > 0);
    assert_memory_equal(path, checker, strlen(checker));
    succeed_with_path(directory);
    assert_int_equal(await_child(0), pid);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    keeper_become_gateway(argc, argv);
    const struct CMUnitTest tests[] = {
        TEST(the_next_gateway_keeps_it),      TEST(one_with_other_words_is_replaced),
        TEST(one_that_dies_is_started_again), TEST(a_missing_program_is_told_and_looked_for_again),
        TEST(it_inherits_no_secret),          TEST(the_checker_of_redis_tools_is_a_server_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
