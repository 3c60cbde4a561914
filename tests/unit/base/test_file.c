/* Whole writes: through a pipe that takes little at a time, and to nobody. What survives a power cut is judged by the
 * order of the calls that make it so. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>

#include "tests/unit/conf/scratch.h"

static char calls[1024]; /* "sync <name>" and "rename <name>", in their order */
static int syncs_left;   /* before one fails; below 0 = none does */

static void note(const char *call, const char *name)
{
    size_t length = strlen(calls);
    assert_in_range(snprintf(calls + length, sizeof calls - length, "%s %s\n", call, name), 1,
                    sizeof calls - length - 1);
}

static int noted_fsync(int fd)
{
    char link[32], path[256] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    assert_in_range(readlink(link, path, sizeof path - 1), 1, sizeof path - 1);
    const char *name = strrchr(path, '/') + 1;
    note("sync", strcmp(path, scratch_directory) == 0 ? "." : name);
    if (syncs_left-- != 0)
        return fsync(fd);
    errno = EIO;
    return -1;
}

static int noted_renameat(int from_directory, const char *from, int to_directory, const char *to)
{
    note("rename", from);
    return renameat(from_directory, from, to_directory, to);
}

/* What clears up says nothing that counts. */
static int noisy_unlinkat(int directory, const char *name, int flags)
{
    int result = unlinkat(directory, name, flags);
    errno = EACCES;
    return result;
}

static int noisy_rmdir(const char *path)
{
    int result = rmdir(path);
    errno = EACCES;
    return result;
}

#define fsync    noted_fsync
#define renameat noted_renameat
#define unlinkat noisy_unlinkat
#define rmdir    noisy_rmdir
#include "base/file.c"

enum { MANY_BYTES = 1 << 20, NONE = -1 };

static unsigned count_open(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 64; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static unsigned open_before;
static int directory_fd;

static int begin(void **state)
{
    if (scratch_create(state) != 0)
        return -1;
    umask(0);
    calls[0] = '\0';
    syncs_left = NONE;
    directory_fd = open(scratch_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    open_before = count_open();
    return directory_fd >= 0 ? 0 : -1;
}

/* Every descriptor is closed again. */
static int end(void **state)
{
    bool is_leaked = count_open() != open_before;
    close(directory_fd);
    return is_leaked ? -1 : scratch_destroy(state);
}

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

static void closing_changes_neither_errno_nor_what_was_found(void **state)
{
    (void) state;
    int fd = dup(STDIN_FILENO);
    errno = ENOSPC;
    assert_false(file_close_after(fd, false));
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(count_open(), open_before);
    errno = ENOSPC;
    assert_true(file_close_after(fd, true)); /* closed already: close(2) says so */
    assert_false(file_close_after(NONE, false));
    assert_int_equal(errno, ENOSPC);
}

static void names_in_a_directory_are_synced(void **state)
{
    (void) state;
    assert_true(file_sync_directory(scratch_directory));
    assert_string_equal(calls, "sync .\n");
    syncs_left = 0;
    assert_false(file_sync_directory(scratch_directory));
    assert_int_equal(errno, EIO);
    assert_false(file_sync_directory(scratch_path("nowhere")));
    assert_int_equal(errno, ENOENT);
    assert_false(file_sync_directory(scratch_write("file", "")));
    assert_int_equal(errno, ENOTDIR);
}

static void a_directory_is_synced_with_its_own_name(void **state)
{
    (void) state;
    assert_int_equal(mkdir(scratch_path("inner"), 0700), 0);
    assert_true(file_sync_directory_and_name(scratch_path("inner")));
    assert_string_equal(calls, "sync inner\nsync .\n");
    for (int good = 0; good < 2; good++) {
        syncs_left = good;
        assert_false(file_sync_directory_and_name(scratch_path("inner")));
        assert_int_equal(errno, EIO);
    }
    assert_false(file_sync_directory_and_name(scratch_path("nowhere")));
    assert_int_equal(errno, ENOENT);
}

static void a_made_directory_has_its_name_for_good(void **state)
{
    (void) state;
    struct stat status;
    assert_true(file_make_directory(scratch_path("made/"), 0750));
    assert_string_equal(calls, "sync made\nsync .\n");
    assert_int_equal(stat(scratch_path("made"), &status), 0);
    assert_int_equal(status.st_mode, S_IFDIR | 0750);
    assert_true(file_make_directory(scratch_path("made"), 0700));
    assert_string_equal(calls, "sync made\nsync .\n");
    assert_int_equal(stat(scratch_path("made"), &status), 0);
    assert_int_equal(status.st_mode, S_IFDIR | 0750);
    assert_false(file_make_directory(scratch_path("nowhere/made"), 0700));
    assert_int_equal(errno, ENOENT);
}

/* Else the next attempt would take it for one whose name is on the disk. */
static void a_directory_whose_name_may_be_lost_is_not_there(void **state)
{
    (void) state;
    syncs_left = 1;
    assert_false(file_make_directory(scratch_path("made"), 0700));
    assert_int_equal(errno, EIO);
    assert_int_not_equal(access(scratch_path("made"), F_OK), 0);
}

static void assert_content(const char *name, const char *expected)
{
    char found[64] = "";
    int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, found, sizeof found - 1), strlen(expected));
    close(fd);
    assert_string_equal(found, expected);
}

static void a_file_is_whole_before_it_has_its_name(void **state)
{
    (void) state;
    struct stat status;
    assert_true(file_replace(directory_fd, "name", TEXT("first"), 0640));
    assert_string_equal(calls, "sync .name.tmp\nrename .name.tmp\nsync .\n");
    assert_content("name", "first");
    assert_int_equal(stat(scratch_path("name"), &status), 0);
    assert_int_equal(status.st_mode, S_IFREG | 0640);
    scratch_write(".name.tmp", "what a crash left, longer than what comes now");
    assert_true(file_replace(directory_fd, "name", TEXT("second"), 0640));
    assert_content("name", "second");
    assert_int_not_equal(access(scratch_path(".name.tmp"), F_OK), 0);
}

static void assert_not_replaced(int error)
{
    assert_false(file_replace(directory_fd, "name", TEXT("new"), 0600));
    assert_int_equal(errno, error);
    assert_content("name", "old");
    assert_int_not_equal(faccessat(directory_fd, ".name.tmp", F_OK, AT_SYMLINK_NOFOLLOW), 0);
}

static void a_failure_leaves_the_old_one_and_nothing_beside_it(void **state)
{
    (void) state;
    scratch_write("name", "old");
    assert_int_equal(symlinkat("/dev/full", directory_fd, ".name.tmp"), 0);
    assert_not_replaced(ENOSPC);
    assert_string_equal(calls, "");
    syncs_left = 0;
    assert_not_replaced(EIO);
    assert_string_equal(calls, "sync .name.tmp\n");
    assert_int_equal(mkdir(scratch_path("directory"), 0700), 0);
    assert_false(file_replace(directory_fd, "directory", TEXT("new"), 0600));
    assert_int_equal(errno, EISDIR);
    assert_int_not_equal(access(scratch_path(".directory.tmp"), F_OK), 0);
}

static void a_name_that_may_be_lost_is_told(void **state)
{
    (void) state;
    syncs_left = 1;
    assert_false(file_replace(directory_fd, "name", TEXT("new"), 0600));
    assert_int_equal(errno, EIO);
    assert_content("name", "new");
}

/* It would have another's name beside it. */
static void a_name_without_room_for_more_is_refused(void **state)
{
    (void) state;
    char name[2 * NAME_MAX];
    memset(name, 'n', sizeof name);
    static const size_t lengths[] = {NAME_MAX - 4, NAME_MAX, sizeof name - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        name[lengths[i]] = '\0';
        assert_false(file_replace(directory_fd, name, TEXT("new"), 0600));
        assert_int_equal(errno, ENAMETOOLONG);
        name[lengths[i]] = 'n';
    }
    name[NAME_MAX - 5] = '\0';
    assert_true(file_replace(directory_fd, name, TEXT("new"), 0600));
    assert_content(name, "new");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_it_arrives),
        cmocka_unit_test(an_error_is_told),
        TEST(closing_changes_neither_errno_nor_what_was_found),
        TEST(names_in_a_directory_are_synced),
        TEST(a_directory_is_synced_with_its_own_name),
        TEST(a_made_directory_has_its_name_for_good),
        TEST(a_directory_whose_name_may_be_lost_is_not_there),
        TEST(a_file_is_whole_before_it_has_its_name),
        TEST(a_failure_leaves_the_old_one_and_nothing_beside_it),
        TEST(a_name_that_may_be_lost_is_told),
        TEST(a_name_without_room_for_more_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
