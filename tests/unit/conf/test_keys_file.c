#include "tests/unit/conf/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "conf/files.h"
#include "conf/keys_file.h"

#define HEX "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

static enum keys_file_result parse(const char *line, struct keys_file_record *record, const char **error,
                                   size_t *column)
{
    /* A block of its own without NUL, so that ASan sees each byte too many. */
    static char *copy;
    free(copy);
    size_t length = strlen(line);
    copy = malloc(length > 0 ? length : 1);
    memcpy(copy, line, length);
    return keys_file_parse_line((struct text){copy, length}, record, error, column);
}

static void a_full_line_has_all_parts(void **state)
{
    (void) state;
    struct keys_file_record record;
    const char *error;
    size_t column;
    const char *line =
        "acme ci\t" HEX " user=bob expires=2027-01-01T00:00:00Z models=gemma-*,m endpoints=chat disabled "
        "# note";
    assert_int_equal(parse(line, &record, &error, &column), KEYS_FILE_RECORD);
    assert_true(text_equal(record.tenant, TEXT("acme")));
    assert_true(text_equal(record.name, TEXT("ci")));
    assert_int_equal(record.sha256[0], 0);
    assert_int_equal(record.sha256[31], 31);
    assert_true(text_equal(record.user, TEXT("bob")));
    assert_int_equal(record.expires_wall_ms, 1798761600000);
    assert_true(text_equal(record.models, TEXT("gemma-*,m")));
    assert_true(text_equal(record.endpoints, TEXT("chat")));
    assert_true(record.disabled);
    assert_int_equal(parse("a b " HEX "\r", &record, &error, &column), KEYS_FILE_RECORD);
    assert_int_equal(record.user.length + record.models.length + record.endpoints.length, 0);
    assert_false(record.disabled);
}

static void blank_lines_and_comments_are_blank(void **state)
{
    (void) state;
    static const char *const blank[] = {"", " ", "\t \t", "#", "  # a b c", "\r"};
    for (size_t i = 0; i < sizeof(blank) / sizeof(blank[0]); i++) {
        struct keys_file_record record;
        const char *error;
        size_t column;
        assert_int_equal(parse(blank[i], &record, &error, &column), KEYS_FILE_BLANK);
    }
}

static void bad_lines_say_where(void **state)
{
    (void) state;
    static const struct {
        const char *line;
        size_t column;
    } bad[] = {{"acme", 0},
               {"acme ci", 5},
               {"acme ci # " HEX, 5},
               {"a*b ci " HEX, 0},
               {"acme c!i " HEX, 5},
               {"acme ci 1234", 8},
               {"acme ci " HEX "0", 8},
               {"acme ci " HEX " nonsense", 73},
               {"acme ci " HEX " user=", 73},
               {"acme ci " HEX " models=", 73},
               {"acme ci " HEX " endpoints=", 73},
               {"acme ci " HEX " expires=soon", 73},
               {"acme ci " HEX " user=a\x01", 73},
               {"acme ci " HEX "  disabled x", 83}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct keys_file_record record = {.disabled = true};
        const char *error = NULL;
        size_t column = 999;
        assert_int_equal(parse(bad[i].line, &record, &error, &column), KEYS_FILE_BAD);
        assert_non_null(error);
        if (column != bad[i].column)
            fail_msg("%s: column %zu", bad[i].line, column);
        assert_true(record.disabled); /* untouched */
    }
}

static struct keys_file_record some_record(const char *name)
{
    return (struct keys_file_record){.tenant = TEXT("acme"), .name = text_of(name), .sha256 = {1, 2, 3}};
}

static void what_is_appended_can_be_read(void **state)
{
    (void) state;
    struct keys_file_record record = some_record("one");
    record.user = TEXT("bob");
    record.expires_wall_ms = 1798761600123;
    record.models = TEXT("a*,b");
    record.endpoints = TEXT("chat,models");
    record.disabled = true;
    const char *path = scratch_path("keys");
    assert_true(keys_file_append(path, &record));
    struct file_content content;
    assert_int_equal(file_read(path, 10000, &content), 0);
    assert_int_equal(content.mode & 07777, 0600);
    assert_int_equal(content.bytes[content.length - 1], '\n');
    struct keys_file_record again;
    const char *error;
    size_t column;
    assert_int_equal(keys_file_parse_line((struct text){content.bytes, content.length - 1}, &again, &error, &column),
                     KEYS_FILE_RECORD);
    assert_true(text_equal(again.user, record.user));
    assert_int_equal(again.expires_wall_ms, record.expires_wall_ms);
    assert_true(text_equal(again.models, record.models));
    assert_true(text_equal(again.endpoints, record.endpoints));
    assert_true(again.disabled);
    assert_memory_equal(again.sha256, record.sha256, sizeof(again.sha256));
    free(content.bytes);
}

static void a_missing_last_newline_is_mended(void **state)
{
    (void) state;
    const char *path = scratch_write("keys", "# by hand");
    struct keys_file_record record = some_record("one");
    assert_true(keys_file_append(path, &record));
    struct file_content content;
    assert_int_equal(file_read(path, 10000, &content), 0);
    assert_true(text_starts_with((struct text){content.bytes, content.length}, TEXT("# by hand\nacme one ")));
    free(content.bytes);
}

static void what_could_not_be_read_is_not_written(void **state)
{
    (void) state;
    const char *path = scratch_path("keys");
    struct keys_file_record record = some_record("two words");
    assert_false(keys_file_append(path, &record));
    assert_int_equal(errno, EINVAL);
    record = some_record("one");
    record.user = TEXT("bob\nacme evil " HEX);
    assert_false(keys_file_append(path, &record));
    record.user = TEXT("bob disabled");
    assert_false(keys_file_append(path, &record));
    assert_int_equal(access(path, F_OK), -1);
    record = some_record("one");
    assert_false(keys_file_append(scratch_path("no/such/directory"), &record));
    assert_int_equal(errno, ENOENT);
}

static void writers_do_not_tear_lines(void **state)
{
    (void) state;
    enum { WRITERS = 4, LINES = 25 };
    char path[512];
    snprintf(path, sizeof(path), "%s", scratch_path("keys"));
    pid_t children[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        children[i] = fork();
        if (children[i] != 0)
            continue;
        struct keys_file_record record = some_record("one");
        for (int k = 0; k < LINES; k++) {
            if (!keys_file_append(path, &record))
                _exit(1);
        }
        _exit(0);
    }
    for (int i = 0; i < WRITERS; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    struct file_content content;
    assert_int_equal(file_read(path, 100000, &content), 0);
    assert_int_equal(content.length, WRITERS * LINES * (strlen("acme one \n") + 64));
    free(content.bytes);
}

static void a_writer_waits_for_the_lock(void **state)
{
    (void) state;
    char path[512];
    snprintf(path, sizeof(path), "%s", scratch_write("keys", "# begun by an"));
    int fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    pid_t child = fork();
    if (child == 0) {
        close(fd);
        struct keys_file_record record = some_record("one");
        _exit(keys_file_append(path, &record) ? 0 : 1);
    }
    /* Time enough to look at the last byte too early, for one that does not wait. */
    usleep(200000);
    assert_int_equal(write(fd, "other\n", 6), 6);
    assert_int_equal(flock(fd, LOCK_UN), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(fd);
    struct file_content content;
    assert_int_equal(file_read(path, 10000, &content), 0);
    assert_true(text_starts_with((struct text){content.bytes, content.length}, TEXT("# begun by another\nacme one ")));
    free(content.bytes);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_destroy)
    const struct CMUnitTest tests[] = {
        TEST(a_full_line_has_all_parts),
        TEST(blank_lines_and_comments_are_blank),
        TEST(bad_lines_say_where),
        TEST(what_is_appended_can_be_read),
        TEST(a_missing_last_newline_is_mended),
        TEST(what_could_not_be_read_is_not_written),
        TEST(writers_do_not_tear_lines),
        TEST(a_writer_waits_for_the_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
