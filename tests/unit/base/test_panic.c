#include "base/panic.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/unit.h"

static void break_a_rule(void)
{
    int answer = 42;
    ENSURE(answer == 41);
}

static void reach_the_unreachable(void)
{
    UNREACHABLE("nobody comes here");
}

/* Runs @act in a child; its standard error goes to @words. Returns its wait status. */
static int run_in_child(void (*act)(void), char *words, size_t capacity)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        act();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    ssize_t count;
    while ((count = read(ends[0], words + length, capacity - 1 - length)) > 0)
        length += (size_t) count;
    words[length] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

/* A broken rule names its place and itself, then the process is gone by SIGABRT. */
static void ensure_aborts_with_the_condition(void **state)
{
    (void) state;
    char words[1024];
    int status = run_in_child(break_a_rule, words, sizeof(words));
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_ptr_equal(strstr(words, "panic: "), words);
    assert_non_null(strstr(words, "test_panic.c:"));
    assert_non_null(strstr(words, ": answer == 41\n"));
}

static void unreachable_says_why(void **state)
{
    (void) state;
    char words[1024];
    int status = run_in_child(reach_the_unreachable, words, sizeof(words));
    assert_true(WIFSIGNALED(status));
    assert_non_null(strstr(words, ": nobody comes here\n"));
}

static void a_rule_that_holds_does_nothing(void **state)
{
    (void) state;
    int evaluated = 0;
    ENSURE(++evaluated == 1);
    assert_int_equal(evaluated, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ensure_aborts_with_the_condition),
        cmocka_unit_test(unreachable_says_why),
        cmocka_unit_test(a_rule_that_holds_does_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
