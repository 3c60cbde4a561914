/* Engines of a real master: started, heard and stopped. The test speaks the gateway's part of the protocol. */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/process_tree.h"
#include "base/clock.h"
#include "tests/lib/gateway_part.h"
#include "tests/lib/unit.h"

static char *read_proc(int pid, const char *file)
{
    static char content[16 * 1024];
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t length = read(fd, content, sizeof(content) - 1);
    close(fd);
    assert_true(length > 0);
    content[length] = '\0';
    return content;
}

struct zombie_count {
    int parent;
    int zombies;
};

static void count_zombie(void *owner, const struct process_facts *facts)
{
    struct zombie_count *count = owner;
    count->zombies += facts->parent == count->parent && facts->zombie;
}

/* ---- starting ---- */

static void a_started_child_is_told_and_listed(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    part_send(part_gateway.socket, MASTER_MARK, "m/0", &(int64_t){42}, -1);
    part_send(part_gateway.socket, MASTER_LIST, NULL, NULL, -1);
    struct frame_reader frame = part_hear(part_gateway.socket, MASTER_CHILD);
    assert_string_equal(part_heard_name(&frame), "m/0");
    assert_string_equal(part_heard_text(&frame), "a note");
    assert_int_equal(frame_read_int(&frame), pid);
    assert_int_equal(frame_read_int(&frame), process_start_time(pid));
    assert_int_equal(frame_read_int(&frame), 42);
    assert_in_range(frame_read_int(&frame), 0, KEEPER_WAIT_MS);
    assert_false(frame.broken);
    part_hear(part_gateway.socket, MASTER_LISTED);
}

static void an_exit_is_told_with_its_status(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "exit 3");
    struct part_exit exit = part_hear_exited(part_gateway.socket, "m/0");
    assert_int_equal(exit.pid, pid);
    assert_true(WIFEXITED(exit.wait_status));
    assert_int_equal(WEXITSTATUS(exit.wait_status), 3);
    assert_false(exit.was_asked);
    assert_string_equal(exit.reason, "");
    part_send(part_gateway.socket, MASTER_LIST, NULL, NULL, -1);
    part_hear(part_gateway.socket, MASTER_LISTED);
}

static void what_cannot_be_executed_is_told_with_the_reason(void **state)
{
    (void) state;
    const char *const missing[] = {"./llama_engine", NULL};
    part_say_start_in(part_gateway.socket, "m/0", part_keeper.directory, missing, PART_ENVIRONMENT);
    struct part_exit exit = part_hear_exited(part_gateway.socket, "m/0");
    assert_string_equal(exit.reason, "cannot execute ./llama_engine: No such file or directory");
    assert_false(exit.was_asked);
    assert_true(WIFEXITED(exit.wait_status));

    const char *const directory[] = {"/", NULL};
    part_say_start_in(part_gateway.socket, "m/0", "", directory, PART_ENVIRONMENT);
    exit = part_hear_exited(part_gateway.socket, "m/0");
    assert_string_equal(exit.reason, "cannot execute /: Permission denied");

    const char *const fine[] = {"true", NULL};
    part_say_start_in(part_gateway.socket, "m/0", "/nowhere/at all", fine, PART_ENVIRONMENT);
    exit = part_hear_exited(part_gateway.socket, "m/0");
    assert_string_equal(exit.reason, "cannot enter /nowhere/at all: No such file or directory");
}

static void a_relative_path_starts_at_the_directory(void **state)
{
    (void) state;
    char path[sizeof(part_keeper.directory) + 16];
    snprintf(path, sizeof(path), "%s/engine", part_keeper.directory);
    FILE *script = fopen(path, "w");
    assert_non_null(script);
    fputs("#!/bin/sh\necho here: $1; pwd\n", script);
    fclose(script);
    assert_int_equal(chmod(path, 0700), 0);
    const char *const arguments[] = {"./engine", "two words; $HOME", NULL};
    part_say_start_in(part_gateway.socket, "m/0", part_keeper.directory, arguments, PART_ENVIRONMENT);
    part_hear_started(part_gateway.socket, "m/0");
    part_hear_exited(part_gateway.socket, "m/0");
    char expected[256];
    snprintf(expected, sizeof(expected), "here: two words; $HOME\n%s\n", part_keeper.directory);
    assert_string_equal(part_logs(part_gateway.socket, "m/0"), expected);
    unlink(path);
}

static void a_name_without_a_slash_is_looked_up(void **state)
{
    (void) state;
    const char *const arguments[] = {"true", NULL};
    part_say_start_in(part_gateway.socket, "m/0", "", arguments, PART_ENVIRONMENT);
    part_hear_started(part_gateway.socket, "m/0");
    assert_int_equal(part_hear_exited(part_gateway.socket, "m/0").wait_status, 0);
}

static void the_environment_is_what_was_given(void **state)
{
    (void) state;
    const char *const arguments[] = {"/usr/bin/env", NULL};
    const char *const environment[] = {"ONE=1", "TWO=two words=2", "EMPTY=", NULL};
    part_say_start_in(part_gateway.socket, "m/0", "", arguments, environment);
    part_hear_started(part_gateway.socket, "m/0");
    part_hear_exited(part_gateway.socket, "m/0");
    assert_string_equal(part_logs(part_gateway.socket, "m/0"), "ONE=1\nTWO=two words=2\nEMPTY=\n");
    const char *const nothing[] = {NULL};
    part_say_start_in(part_gateway.socket, "m/0", "", arguments, nothing);
    part_hear_started(part_gateway.socket, "m/0");
    part_hear_exited(part_gateway.socket, "m/0");
    assert_string_equal(part_logs(part_gateway.socket, "m/0"), "");
}

static void a_child_inherits_no_descriptor(void **state)
{
    (void) state;
    int kept[2];
    assert_int_equal(pipe(kept), 0);
    part_send(part_gateway.socket, MASTER_KEEP_FD, "kept", NULL, kept[0]);
    int first = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    int pid = part_start(part_gateway.socket, "m/1", "exec sleep 60");
    char one[PART_LINK_BYTES];
    char two[PART_LINK_BYTES];
    assert_int_equal(part_count_descriptors(pid), 3);
    assert_int_equal(part_count_descriptors(first), 3);
    assert_string_equal(part_descriptor(pid, STDIN_FILENO, one), "/dev/null");
    assert_memory_equal(part_descriptor(pid, STDOUT_FILENO, one), "pipe:", 5);
    assert_string_equal(one, part_descriptor(pid, STDERR_FILENO, two));
    assert_string_not_equal(one, part_descriptor(first, STDERR_FILENO, two));
    close(kept[0]);
    close(kept[1]);
}

static void a_child_has_no_powers_and_plain_signals(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    const char *status = read_proc(pid, "status");
    assert_non_null(strstr(status, "\nNoNewPrivs:\t1\n"));
    assert_non_null(strstr(status, "\nUmask:\t0077\n"));
    assert_non_null(strstr(status, "\nSigBlk:\t0000000000000000\n"));
    /* But for 32 and 33, which are glibc's own: no program can change what it inherited there. */
    const char *ignored = strstr(status, "\nSigIgn:\t");
    assert_non_null(ignored);
    assert_int_equal(strtoull(ignored + strlen("\nSigIgn:\t"), NULL, 16) & ~0x180000000ULL, 0);
    const char *core = strstr(read_proc(pid, "limits"), "Max core file size");
    assert_non_null(core);
    int soft = -1;
    int hard = -1;
    assert_int_equal(sscanf(core, "Max core file size %d %d", &soft, &hard), 2);
    assert_int_equal(soft, 0);
    assert_int_equal(hard, 0);
    struct process_facts facts;
    assert_true(process_facts_read(pid, &facts));
    assert_int_equal(facts.group, pid);
    assert_int_equal(facts.parent, part_keeper.pid);
}

static void a_name_that_runs_is_refused(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    part_say_start(part_gateway.socket, "m/0", "exec sleep 60");
    struct part_exit exit = part_hear_exited(part_gateway.socket, "m/0");
    assert_int_equal(exit.pid, 0);
    assert_string_equal(exit.reason, "already running");
    assert_true(keeper_is_alive(pid));
}

static void more_children_than_the_limit_are_refused(void **state)
{
    (void) state;
    char name[16];
    for (int i = 0; i < MASTER_CHILDREN_MAX; i++) {
        snprintf(name, sizeof(name), "m/%d", i);
        part_start(part_gateway.socket, name, "exec sleep 60");
    }
    part_say_start(part_gateway.socket, "one-more", "exec sleep 60");
    assert_string_equal(part_hear_exited(part_gateway.socket, "one-more").reason, "too many children");
    /* A dead one makes room. */
    part_say_stop(part_gateway.socket, "m/0", KEEPER_WAIT_MS);
    part_hear_exited(part_gateway.socket, "m/0");
    part_start(part_gateway.socket, "one-more", "exec sleep 60");
}

/* ---- logs ---- */

static void a_child_that_writes_a_lot_is_not_held_up(void **state)
{
    (void) state;
    part_start(part_gateway.socket, "m/0",
               "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo line $i; done; echo end >&2");
    assert_int_equal(part_hear_exited(part_gateway.socket, "m/0").wait_status, 0);
    const char *text = part_logs(part_gateway.socket, "m/0");
    assert_int_equal(strlen(text), MASTER_RING_BYTES);
    assert_string_equal(text + MASTER_RING_BYTES - 15, "line 30000\nend\n");
}

/* The pipe holds it all when the child is gone; the master reads it in pieces. */
static void what_a_child_wrote_before_it_ended_is_not_lost(void **state)
{
    (void) state;
    for (int i = 0; i < 5; i++) {
        part_start(part_gateway.socket, "m/0", "printf '%060000d\\n' 7");
        part_hear_exited(part_gateway.socket, "m/0");
        const char *text = part_logs(part_gateway.socket, "m/0");
        assert_int_equal(strlen(text), 60001);
        assert_string_equal(text + 60001 - 4, "007\n");
    }
}

static void the_log_of_an_ended_child_stays_until_it_starts_again(void **state)
{
    (void) state;
    part_start(part_gateway.socket, "m/0", "echo last words; exit 1");
    part_hear_exited(part_gateway.socket, "m/0");
    assert_string_equal(part_logs(part_gateway.socket, "m/0"), "last words\n");
    part_start(part_gateway.socket, "m/0", "exit 0");
    part_hear_exited(part_gateway.socket, "m/0");
    assert_string_equal(part_logs(part_gateway.socket, "m/0"), "");
    assert_string_equal(part_logs(part_gateway.socket, "unknown"), "");
}

static void a_survivor_that_holds_the_pipe_holds_up_nothing(void **state)
{
    (void) state;
    part_start(part_gateway.socket, "m/0", "setsid sleep 60 & echo started; exit 4");
    assert_int_equal(WEXITSTATUS(part_hear_exited(part_gateway.socket, "m/0").wait_status), 4);
    assert_string_equal(part_logs(part_gateway.socket, "m/0"), "started\n");
}

/* ---- stopping ---- */

static void a_polite_child_stops_at_once(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "exec sleep 60");
    part_say_stop(part_gateway.socket, "m/0", PART_LONG_MS);
    struct part_exit exit = part_hear_exited(part_gateway.socket, "m/0");
    assert_int_equal(exit.pid, pid);
    assert_true(WIFSIGNALED(exit.wait_status));
    assert_int_equal(WTERMSIG(exit.wait_status), SIGTERM);
    assert_true(exit.was_asked);
    part_say_stop(part_gateway.socket, "m/0", 0); /* too late: no answer */
    assert_string_equal(part_logs(part_gateway.socket, "m/0"), "");
}

static void a_stubborn_family_is_killed_after_the_grace(void **state)
{
    (void) state;
    part_start(part_gateway.socket, "m/0", PART_STUBBORN_FAMILY);
    int pids[3];
    part_logged_pids(part_gateway.socket, "m/0", pids, 3);
    mono_ms asked = clock_mono_ms();
    part_say_stop(part_gateway.socket, "m/0", 300);
    struct part_exit exit = part_hear_exited(part_gateway.socket, "m/0");
    assert_true(clock_mono_ms() - asked >= 300);
    assert_int_equal(WTERMSIG(exit.wait_status), SIGKILL);
    for (int i = 0; i < 3; i++)
        assert_true(keeper_is_gone(pids[i], KEEPER_WAIT_MS));
}

static void a_second_stop_can_only_shorten_the_grace(void **state)
{
    (void) state;
    part_start(part_gateway.socket, "m/0", PART_STUBBORN_FAMILY);
    int pids[3];
    part_logged_pids(part_gateway.socket, "m/0", pids, 3);
    part_say_stop(part_gateway.socket, "m/0", 300);
    part_say_stop(part_gateway.socket, "m/0", PART_LONG_MS);
    assert_int_equal(WTERMSIG(part_hear_exited(part_gateway.socket, "m/0").wait_status), SIGKILL);
}

static void what_a_dead_child_leaves_behind_is_killed(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", PART_STUBBORN_FAMILY);
    int pids[3];
    part_logged_pids(part_gateway.socket, "m/0", pids, 3);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_false(part_hear_exited(part_gateway.socket, "m/0").was_asked);
    for (int i = 0; i < 3; i++)
        assert_true(keeper_is_gone(pids[i], KEEPER_WAIT_MS));
}

/* It left its parent, not its group: it belongs to an engine that lives. */
static void a_worker_that_forked_twice_outlives_other_engines(void **state)
{
    (void) state;
    int pid = part_start(part_gateway.socket, "m/0", "(sleep 60 & echo $!); exec sleep 60");
    int worker;
    part_logged_pids(part_gateway.socket, "m/0", &worker, 1);
    struct process_facts facts;
    assert_true(process_facts_read(worker, &facts));
    assert_int_equal(facts.parent, part_keeper.pid);
    part_start(part_gateway.socket, "m/1", "exit 0");
    part_hear_exited(part_gateway.socket, "m/1");
    part_start(part_gateway.socket, "m/2", "exit 0"); /* the master has looked for orphans by then */
    part_hear_exited(part_gateway.socket, "m/2");
    assert_true(keeper_is_alive(worker));
    kill(pid, SIGKILL);
    part_hear_exited(part_gateway.socket, "m/0");
    assert_true(keeper_is_gone(worker, KEEPER_WAIT_MS));
}

static void no_zombie_stays(void **state)
{
    (void) state;
    for (int i = 0; i < 20; i++) {
        part_start(part_gateway.socket, "m/0", "(exit 1) & (setsid sleep 60 &) ; exit 0");
        part_hear_exited(part_gateway.socket, "m/0");
    }
    struct zombie_count count;
    mono_ms deadline = clock_mono_ms() + KEEPER_WAIT_MS;
    do {
        count = (struct zombie_count){.parent = part_keeper.pid};
        process_each(count_zombie, &count);
    } while (count.zombies != 0 && clock_mono_ms() < deadline);
    assert_int_equal(count.zombies, 0);
}

int main(int argc, char **argv)
{
    keeper_become_gateway(argc, argv);
    const struct CMUnitTest tests[] = {
        MASTER_TEST(a_started_child_is_told_and_listed),
        MASTER_TEST(an_exit_is_told_with_its_status),
        MASTER_TEST(what_cannot_be_executed_is_told_with_the_reason),
        MASTER_TEST(a_relative_path_starts_at_the_directory),
        MASTER_TEST(a_name_without_a_slash_is_looked_up),
        MASTER_TEST(the_environment_is_what_was_given),
        MASTER_TEST(a_child_inherits_no_descriptor),
        MASTER_TEST(a_child_has_no_powers_and_plain_signals),
        MASTER_TEST(a_name_that_runs_is_refused),
        MASTER_TEST(more_children_than_the_limit_are_refused),
        MASTER_TEST(a_child_that_writes_a_lot_is_not_held_up),
        MASTER_TEST(what_a_child_wrote_before_it_ended_is_not_lost),
        MASTER_TEST(the_log_of_an_ended_child_stays_until_it_starts_again),
        MASTER_TEST(a_survivor_that_holds_the_pipe_holds_up_nothing),
        MASTER_TEST(a_polite_child_stops_at_once),
        MASTER_TEST(a_stubborn_family_is_killed_after_the_grace),
        MASTER_TEST(a_second_stop_can_only_shorten_the_grace),
        MASTER_TEST(what_a_dead_child_leaves_behind_is_killed),
        MASTER_TEST(a_worker_that_forked_twice_outlives_other_engines),
        MASTER_TEST(no_zombie_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
