/* One holder at a time, whoever dies how. */
#include "gateway/state_lock.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/redis_room.h"
#include "tests/lib/unit.h"

static char directory[64], error[STATE_LOCK_ERROR_BYTES];

static int set_up(void **state)
{
    (void) state;
    strcpy(directory, "/tmp/tollgate-lock-XXXXXX");
    return mkdtemp(directory) != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    (void) state;
    return nftw(directory, redis_room_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* Another process that holds the lock when this returns, and for @hold_ms more. */
static pid_t start_holder(int hold_ms)
{
    int told[2];
    char byte = 0;
    assert_int_equal(pipe2(told, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        byte = state_lock_take(directory, error) >= 0 ? '+' : '-';
        if (write(told[1], &byte, 1) == 1)
            usleep((useconds_t) hold_ms * 1000);
        _exit(0);
    }
    close(told[1]);
    assert_int_equal(read(told[0], &byte, 1), 1);
    assert_int_equal(byte, '+');
    close(told[0]);
    return pid;
}

static void the_second_is_told_who_has_it(void **state)
{
    char pid_text[16];
    (void) state;
    pid_t holder = start_holder(60 * 1000);
    assert_int_equal(state_lock_take(directory, error), -1);
    snprintf(pid_text, sizeof pid_text, "%d", (int) holder);
    assert_non_null(strstr(error, pid_text));
    assert_non_null(strstr(error, directory));
    assert_non_null(strstr(error, "stop that one"));
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
    int fd = state_lock_take(directory, error);
    assert_true(fd >= 0);
    state_lock_release(&fd);
    assert_int_equal(fd, -1);
    state_lock_release(&fd);
}

static void one_that_is_about_to_end_is_waited_for(void **state)
{
    (void) state;
    pid_t holder = start_holder(300);
    int fd = state_lock_take(directory, error);
    assert_true(fd >= 0);
    state_lock_release(&fd);
    waitpid(holder, NULL, 0);
}

static void a_program_that_is_started_does_not_hold_it(void **state)
{
    (void) state;
    int fd = state_lock_take(directory, error);
    assert_true(fd >= 0);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sleep", "sleep", "60", (char *) NULL);
        _exit(127);
    }
    state_lock_release(&fd);
    fd = state_lock_take(directory, error);
    assert_true(fd >= 0);
    state_lock_release(&fd);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void what_is_no_directory_cannot_be_locked(void **state)
{
    (void) state;
    assert_int_equal(state_lock_take("/nonexistent", error), -1);
    assert_non_null(strstr(error, "/nonexistent"));
    assert_non_null(strstr(error, "No such file"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_second_is_told_who_has_it),
        TEST(one_that_is_about_to_end_is_waited_for),
        TEST(a_program_that_is_started_does_not_hold_it),
        TEST(what_is_no_directory_cannot_be_locked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
