/* Which files a configuration is made of, and the way there and back through one run of bytes. */
#include "tests/unit/conf/scratch.h"

#include "conf/bundle.h"

#define MAIN "models: {}\ntenants_dir: t.d\nkeys_file: ${UNIT_KEYS:-keys}\n"
static struct problem_list problems;

static int begin(void **state)
{
    problem_list_init(&problems);
    return scratch_create(state);
}

static int end(void **state)
{
    problem_list_finish(&problems);
    return scratch_destroy(state);
}

static void assert_file(const struct bundle *bundle, size_t index, enum bundle_kind kind, const char *name)
{
    assert_true(index < bundle->file_count);
    assert_int_equal(bundle->files[index].kind, kind);
    assert_string_equal(bundle->files[index].path, scratch_path(name));
}

static struct bundle *read_all(void)
{
    assert_int_equal(mkdir(scratch_path("t.d"), 0700), 0);
    scratch_write("t.d/zeta.yaml", "{}\n");
    scratch_write("t.d/acme.yml", "keys: {}\n");
    scratch_write("t.d/.hidden.yaml", "bad\n");
    scratch_write("t.d/acme.yaml~", "bad\n");
    scratch_write("keys", "# none\n");
    return bundle_read(scratch_write("tollgate.yaml", MAIN), &problems);
}

static void all_named_files_are_read(void **state)
{
    (void) state;
    struct bundle *bundle = read_all();
    assert_non_null(bundle);
    assert_int_equal(problems.errors + problems.warnings, 0);
    assert_int_equal(bundle->file_count, 4);
    assert_file(bundle, 0, BUNDLE_MAIN, "tollgate.yaml");
    assert_true(text_equal(bundle->files[0].bytes, TEXT(MAIN)));
    assert_file(bundle, 1, BUNDLE_TENANT, "t.d/acme.yml");
    assert_file(bundle, 2, BUNDLE_TENANT, "t.d/zeta.yaml");
    assert_file(bundle, 3, BUNDLE_KEYS, "keys");
    bundle_destroy(&bundle);
    assert_null(bundle);
    bundle_destroy(&bundle);
}

static void it_comes_back_from_bytes(void **state)
{
    (void) state;
    struct bundle *bundle = read_all();
    struct buffer bytes;
    buffer_init(&bytes, 100000);
    assert_true(bundle_write(bundle, &bytes));
    struct bundle *again = bundle_parse(buffer_text(&bytes));
    assert_non_null(again);
    assert_int_equal(again->file_count, bundle->file_count);
    for (size_t i = 0; i < bundle->file_count; i++) {
        assert_int_equal(again->files[i].kind, bundle->files[i].kind);
        assert_string_equal(again->files[i].path, bundle->files[i].path);
        assert_true(text_equal(again->files[i].bytes, bundle->files[i].bytes));
    }
    bundle_destroy(&again);
    bundle_destroy(&bundle);
    buffer_finish(&bytes);
}

static void malformed_bytes_are_refused(void **state)
{
    (void) state;
    struct bundle *bundle = read_all();
    struct buffer bytes;
    buffer_init(&bytes, 100000);
    assert_true(bundle_write(bundle, &bytes));
    struct text whole = buffer_text(&bytes);
    for (size_t length = 0; length < whole.length; length++) {
        char *part = malloc(length + 1); /* a block of its own, so that ASan sees each byte too many */
        text_copy(part, length + 1, (struct text){whole.at, length});
        assert_null(bundle_parse((struct text){part, length}));
        free(part);
    }
    unit_random_seed();
    for (int round = 0; round < 20000; round++) {
        char *copy = malloc(whole.length);
        memcpy(copy, whole.at, whole.length);
        copy[unit_random_below(whole.length)] = (char) unit_random();
        struct bundle *other = bundle_parse((struct text){copy, whole.length});
        bundle_destroy(&other);
        free(copy);
    }
    assert_true(buffer_add(&bytes, TEXT("x")));
    assert_null(bundle_parse(buffer_text(&bytes)));
    bundle_destroy(&bundle);
    buffer_finish(&bytes);

    struct buffer small;
    buffer_init(&small, 10);
    bundle = bundle_read(scratch_path("tollgate.yaml"), &problems);
    assert_false(bundle_write(bundle, &small));
    bundle_destroy(&bundle);
    buffer_finish(&small);
}

static void missing_main_file_is_an_error(void **state)
{
    (void) state;
    assert_null(bundle_read(scratch_path("none.yaml"), &problems));
    assert_int_equal(problems.errors, 1);
    assert_null(bundle_read(scratch_directory, &problems));
    assert_int_equal(problems.errors, 2);
    assert_int_equal(mkfifo(scratch_path("fifo"), 0600), 0);
    assert_null(bundle_read(scratch_path("fifo"), &problems)); /* and does not wait for a writer */
    assert_int_equal(problems.errors, 3);
}

static void what_is_missing_is_remembered(void **state)
{
    (void) state;
    struct bundle *bundle = bundle_read(scratch_write("tollgate.yaml", MAIN), &problems);
    assert_int_equal(bundle->file_count, 3);
    assert_file(bundle, 1, BUNDLE_UNREADABLE, "t.d");
    assert_true(text_equal(bundle->files[1].bytes, TEXT("No such file or directory")));
    assert_file(bundle, 2, BUNDLE_KEYS_MISSING, "keys");
    bundle_destroy(&bundle);
}

static void a_broken_main_file_is_a_bundle_of_one(void **state)
{
    (void) state;
    struct bundle *bundle = bundle_read(scratch_write("tollgate.yaml", "keys_file: [\n"), &problems);
    assert_int_equal(bundle->file_count, 1);
    assert_int_equal(problems.errors, 0); /* told by policy_load, once */
    bundle_destroy(&bundle);
}

static void too_large_a_file_is_refused(void **state)
{
    (void) state;
    scratch_write("tollgate.yaml", "a");
    assert_int_equal(truncate(scratch_path("tollgate.yaml"), CONFIG_FILE_BYTES_MAX + 1), 0);
    assert_null(bundle_read(scratch_path("tollgate.yaml"), &problems));
    assert_int_equal(problems.errors, 1);
}

static void too_much_in_all_is_refused(void **state)
{
    (void) state;
    assert_int_equal(mkdir(scratch_path("t.d"), 0700), 0);
    for (int i = 0; i < BUNDLE_BYTES_MAX / CONFIG_FILE_BYTES_MAX; i++) {
        char name[32];
        snprintf(name, sizeof(name), "t.d/t%d.yaml", i);
        scratch_write(name, "#");
        assert_int_equal(truncate(scratch_path(name), CONFIG_FILE_BYTES_MAX), 0);
    }
    assert_null(bundle_read(scratch_write("tollgate.yaml", MAIN), &problems));
    assert_int_equal(problems.errors, 1);
}

static void the_default_places_are_tried_in_order(void **state)
{
    (void) state;
    char before[512];
    assert_non_null(getcwd(before, sizeof(before)));
    assert_int_equal(chdir(scratch_directory), 0);
    assert_null(config_file_find("none.yaml"));
    scratch_write("tollgate.yaml", "a");
    assert_string_equal(config_file_find(NULL), "./tollgate.yaml");
    assert_string_equal(config_file_find("tollgate.yaml"), "tollgate.yaml");
    assert_null(config_file_find("none.yaml"));
    assert_int_equal(chdir(before), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(all_named_files_are_read),
        TEST(it_comes_back_from_bytes),
        TEST(malformed_bytes_are_refused),
        TEST(missing_main_file_is_an_error),
        TEST(what_is_missing_is_remembered),
        TEST(a_broken_main_file_is_a_bundle_of_one),
        TEST(too_large_a_file_is_refused),
        TEST(too_much_in_all_is_refused),
        TEST(the_default_places_are_tried_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
