/* Every bad/<name>.yaml is refused with exactly the lines of bad/<name>.expected. Run from the repository's root. */
#include "tests/lib/unit.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "conf/files.h"
#include "conf/load.h"

#define FOLDER "tests/unit/conf/bad"
enum { CASES_MIN = 35, EXPECTED_BYTES_MAX = 65536 };

static int is_yaml(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot != NULL && strcmp(dot, ".yaml") == 0;
}

/* The problems of the file, as one text. */
static void load(const char *path, struct problem_list *problems)
{
    struct bundle *bundle = bundle_read(path, problems);
    assert_non_null(bundle);
    const struct policy *policy = policy_load(bundle, LOAD_CHECK, problems);
    assert_null(policy);
    bundle_destroy(&bundle);
}

static void check_case(const char *name)
{
    char path[512], expected_path[512];
    snprintf(path, sizeof(path), "%s/%s", FOLDER, name);
    snprintf(expected_path, sizeof(expected_path), "%s/%.*s.expected", FOLDER, (int) strlen(name) - 5, name);
    struct problem_list problems;
    problem_list_init(&problems);
    load(path, &problems);
    assert_true(problems.errors > 0);

    struct file_content expected;
    assert_int_equal(file_read(expected_path, EXPECTED_BYTES_MAX, &expected), 0);
    struct text got = buffer_text(&problems.text);
    if (!text_equal(got, (struct text){expected.bytes, expected.length}))
        fail_msg("%s: expected\n%s\ngot\n%.*s", path, expected.bytes, TEXT_ARGUMENTS(got));
    free(expected.bytes);
    problem_list_finish(&problems);
}

static void bad_files_are_refused_with_their_places(void **state)
{
    (void) state;
    struct dirent **entries;
    int count = scandir(FOLDER, &entries, is_yaml, alphasort);
    assert_true(count >= CASES_MIN);
    for (int i = 0; i < count; i++) {
        check_case(entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
}

static void no_message_holds_a_secret(void **state)
{
    (void) state;
    static const char *const secrets[] = {"secret-word", "hunter2hunter2", "must-not-be-shown"};
    struct dirent **entries;
    int count = scandir(FOLDER, &entries, is_yaml, alphasort);
    for (int i = 0; i < count; i++) {
        char path[512];
        snprintf(path, sizeof(path), "%s/%s", FOLDER, entries[i]->d_name);
        struct problem_list problems;
        problem_list_init(&problems);
        load(path, &problems);
        struct text got = buffer_text(&problems.text);
        for (size_t k = 0; k < sizeof(secrets) / sizeof(secrets[0]); k++)
            assert_null(memmem(got.at, got.length, secrets[k], strlen(secrets[k])));
        problem_list_finish(&problems);
        free(entries[i]);
    }
    free(entries);
}

int main(void)
{
    unsetenv("TOLLGATE_TEST_UNSET");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_files_are_refused_with_their_places),
        cmocka_unit_test(no_message_holds_a_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
