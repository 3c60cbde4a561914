/* billing/provider_file: one name and the same bytes for the same rows, whole or not at all. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "billing/provider.h"

#include "tests/unit/conf/scratch.h"

static const struct row ROWS[] = {
    {.name = {.provider = PROVIDER_FILE, .tenant = "acme"},
     .id = "tg1-one",
     .model = "a \"b\"",
     .measure = MEASURE_OUTPUT_TOKENS,
     .quantity = INT64_MAX,
     .began = 1795363200000,
     .ended = 1795363499999},
    {.name = {.provider = PROVIDER_FILE, .tenant = "globex"},
     .id = "tg1-two",
     .model = "gemma",
     .measure = MEASURE_REQUESTS,
     .quantity = 1,
     .began = 1795363200000,
     .ended = 1795363499999},
};
static const char GOLDEN[] =
    "{\"schema\":1,\"id\":\"tg1-one\",\"tenant\":\"acme\",\"model\":\"a \\\"b\\\"\",\"measure\":\"output_tokens\","
    "\"quantity\":9223372036854775807,\"began\":\"2026-11-22T16:00:00.000Z\",\"ended\":\"2026-11-22T16:04:59.999Z\"}\n"
    "{\"schema\":1,\"id\":\"tg1-two\",\"tenant\":\"globex\",\"model\":\"gemma\",\"measure\":\"requests\","
    "\"quantity\":1,\"began\":\"2026-11-22T16:00:00.000Z\",\"ended\":\"2026-11-22T16:04:59.999Z\"}\n";

static void assert_content(const char *path, const char *expected)
{
    char found[2048] = {0};
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fread(found, 1, sizeof found - 1, file), strlen(expected));
    fclose(file);
    assert_string_equal(found, expected);
}

/* What bills is for its owner and the group that fetches it. */
static void assert_mode(const char *path, mode_t expected)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode, expected);
}

static void test_the_file_is_golden(void **state)
{
    (void) state;
    static const struct ledger_name EPOCH = {"0123456789abcdef0123456789abcdef", 7};
    char name[PROVIDER_FILE_NAME_BYTES];
    struct buffer content;
    provider_file_name(&EPOCH, name);
    assert_string_equal(name, "usage-0123456789abcdef0123456789abcdef-00000007.jsonl");
    buffer_init(&content, 1 << 20);
    assert_true(provider_file_encode(ROWS, 2, &content));
    char directory[512];
    snprintf(directory, sizeof directory, "%s", scratch_path("usage"));
    umask(0);
    for (int round = 0; round < 2; round++) {
        assert_true(provider_file_deliver(directory, name, buffer_text(&content)));
        assert_content(scratch_path("usage/usage-0123456789abcdef0123456789abcdef-00000007.jsonl"), GOLDEN);
    }
    assert_int_not_equal(access(scratch_path("usage/.usage-0123456789abcdef0123456789abcdef-00000007.jsonl.tmp"), F_OK),
                         0);
    assert_mode(directory, S_IFDIR | 0750);
    assert_mode(scratch_path("usage/usage-0123456789abcdef0123456789abcdef-00000007.jsonl"), S_IFREG | 0640);
    buffer_finish(&content);
}

static void test_what_does_not_fit_is_told(void **state)
{
    (void) state;
    struct buffer content;
    buffer_init(&content, sizeof GOLDEN - 2);
    assert_false(provider_file_encode(ROWS, 2, &content));
    buffer_finish(&content);
}

/* A name that cannot be taken: nothing is left behind. */
static void test_a_failure_leaves_nothing(void **state)
{
    (void) state;
    assert_false(provider_file_deliver(scratch_path("missing/usage"), "name", TEXT("x")));
    assert_int_equal(errno, ENOENT);
    assert_int_equal(mkdir(scratch_path("name"), 0700), 0);
    assert_false(provider_file_deliver(scratch_directory, "name", TEXT("x")));
    assert_int_equal(errno, EISDIR);
    assert_int_not_equal(access(scratch_path(".name.tmp"), F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_file_is_golden, scratch_create, scratch_destroy),
        cmocka_unit_test(test_what_does_not_fit_is_told),
        cmocka_unit_test_setup_teardown(test_a_failure_leaves_nothing, scratch_create, scratch_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
