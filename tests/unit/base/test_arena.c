#include "tests/lib/fault.h"

#include "base/arena.c"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/unit.h"

enum { PIECES = 300 };

static void pieces_are_zeroed_aligned_and_apart(void **state)
{
    (void) state;
    for (int round = 0; round < 50; round++) {
        struct arena arena;
        arena_init(&arena, 4 * 1024 * 1024);
        unsigned char *pieces[PIECES];
        size_t sizes[PIECES];
        for (size_t i = 0; i < PIECES; i++) {
            sizes[i] = unit_random_below(unit_random_below(10) == 0 ? 9000 : 300);
            pieces[i] = arena_take(&arena, sizes[i]);
            assert_non_null(pieces[i]);
            assert_int_equal((uintptr_t) pieces[i] % alignof(max_align_t), 0);
            for (size_t j = 0; j < sizes[i]; j++)
                assert_int_equal(pieces[i][j], 0);
            memset(pieces[i], (int) i & 0xff, sizes[i]);
        }
        for (size_t i = 0; i < PIECES; i++) {
            for (size_t j = 0; j < sizes[i]; j++)
                assert_int_equal(pieces[i][j], i & 0xff);
        }
        assert_false(arena_overflowed(&arena));
        arena_finish(&arena);
    }
}

/* The blocks that small and large pieces need hold little more than the pieces. */
static void the_memory_held_is_bounded_by_what_was_taken(void **state)
{
    (void) state;
    struct arena arena;
    arena_init(&arena, 1024 * 1024);
    size_t taken = 0;
    for (int i = 0; arena_take(&arena, i % 2 == 0 ? BLOCK_BYTES - 96 : 100) != NULL; i++)
        taken = arena._used_bytes;
    size_t held = 0;
    for (const struct arena_block *block = arena._blocks; block != NULL; block = block->next)
        held += block->capacity_bytes;
    assert_true(held <= taken + taken / 3 + 2 * BLOCK_BYTES);
    arena_finish(&arena);
}

static void the_limit_is_hard_and_overflow_sticks(void **state)
{
    (void) state;
    struct arena arena;
    arena_init(&arena, 64);
    assert_non_null(arena_take(&arena, 48));
    assert_null(arena_take(&arena, 17));
    assert_true(arena_overflowed(&arena));
    assert_non_null(arena_take(&arena, 16));
    assert_true(arena_overflowed(&arena));
    assert_null(arena_take(&arena, 0));
    assert_null(arena_take(&arena, SIZE_MAX));
    assert_null(arena_take(&arena, SIZE_MAX - 20));
    arena_finish(&arena);
    assert_false(arena_overflowed(&arena));
    assert_non_null(arena_take(&arena, 64));
    arena_finish(&arena);
}

static void copies_end_with_a_nul(void **state)
{
    (void) state;
    struct arena arena;
    arena_init(&arena, 64);
    struct text copy = arena_copy(&arena, TEXT("abc"));
    assert_int_equal(copy.length, 3);
    assert_string_equal(copy.at, "abc");
    assert_string_equal(arena_copy_string(&arena, TEXT("")), "");
    assert_string_equal(arena_copy_string(&arena, (struct text){NULL, 0}), "");
    copy = arena_copy(&arena, TEXT("sixteen bytes, and then some more than fits"));
    assert_null(copy.at);
    assert_int_equal(copy.length, 0);
    assert_true(arena_overflowed(&arena));
    arena_finish(&arena);
}

/* Whichever block cannot be had, the arena says so once and can be finished. */
static void any_allocation_may_fail(void **state)
{
    (void) state;
    for (long k = 0; k < 6; k++) {
        struct arena arena;
        arena_init(&arena, 1024 * 1024);
        fault_countdown = k;
        bool failed = false;
        for (int i = 0; i < 20; i++)
            failed |= arena_take(&arena, i % 3 == 0 ? 5000 : 900) == NULL;
        fault_countdown = -1;
        assert_true(failed);
        assert_true(arena_overflowed(&arena));
        arena_finish(&arena);
    }
}

/* Who writes past his piece is told at the end. */
static void a_written_red_zone_ends_the_process(void **state)
{
    (void) state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL);
        struct arena arena;
        arena_init(&arena, 8192);
        char *piece = arena_take(&arena, BLOCK_BYTES);
        if (piece != NULL)
            piece[BLOCK_BYTES] = 'x';
        close(STDERR_FILENO);
        arena_finish(&arena);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_zeroed_aligned_and_apart),
        cmocka_unit_test(the_memory_held_is_bounded_by_what_was_taken),
        cmocka_unit_test(the_limit_is_hard_and_overflow_sticks),
        cmocka_unit_test(copies_end_with_a_nul),
        cmocka_unit_test(any_allocation_may_fail),
        cmocka_unit_test(a_written_red_zone_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
