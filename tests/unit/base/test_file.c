/* Whole writes: through a pipe that takes little at a time, and to nobody. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "tests/lib/unit.h"

enum { MANY_BYTES = 1 << 20 };

static void *read_slowly(void *context)
{
    const int *fd = context;
    static char seen[MANY_BYTES + 4001]; /* room for one read more than may come */
    size_t count = 0;
    for (ssize_t got; (got = read(*fd, seen + count, 4000)) > 0;)
        count += (size_t) got;
    seen[count] = '\0';
    return seen;
}

static void all_of_it_arrives(void **state)
{
    static char bytes[MANY_BYTES];
    int ends[2];
    pthread_t reader;
    void *seen = NULL;
    (void) state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char) ('a' + i % 23);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(pthread_create(&reader, NULL, read_slowly, &ends[0]), 0);
    assert_true(file_write_all(ends[1], (struct text){bytes, sizeof bytes}));
    assert_true(file_write_all(ends[1], TEXT("")));
    close(ends[1]);
    assert_int_equal(pthread_join(reader, &seen), 0);
    assert_memory_equal(seen, bytes, sizeof bytes);
    assert_int_equal(((char *) seen)[sizeof bytes], '\0');
    close(ends[0]);
}

static void an_error_is_told(void **state)
{
    int ends[2];
    (void) state;
    (void) signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    assert_false(file_write_all(ends[1], TEXT("nobody")));
    assert_int_equal(errno, EPIPE);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_of_it_arrives), cmocka_unit_test(an_error_is_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
