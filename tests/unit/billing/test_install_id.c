/* billing/install_id: made once, read for ever, never replaced. */
#include "billing/install_id.h"

#include "tests/unit/conf/scratch.h"

enum { ERROR_BYTES = 256 };

static char id[INSTALL_ID_CHARACTERS + 1], error[ERROR_BYTES];

static bool make(void)
{
    memset(id, 0, sizeof id);
    return install_id_make(scratch_directory, id, error, sizeof error);
}

static bool read_it(void)
{
    return install_id_read(scratch_directory, id, error, sizeof error);
}

static void it_is_made_once(void **state)
{
    (void) state;
    char first[sizeof id];
    struct stat status;
    assert_false(read_it());
    assert_non_null(strstr(error, "is missing"));
    assert_true(make());
    memcpy(first, id, sizeof first);
    assert_int_equal(strlen(first), INSTALL_ID_CHARACTERS);
    assert_int_equal(strspn(first, "0123456789abcdef"), INSTALL_ID_CHARACTERS);
    assert_int_equal(stat(scratch_path("install_id"), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_int_equal(status.st_size, INSTALL_ID_CHARACTERS + 1);
    assert_true(make());
    assert_string_equal(id, first);
    assert_true(read_it());
    assert_string_equal(id, first);
}

static void two_installations_differ(void **state)
{
    (void) state;
    char first[sizeof id];
    assert_true(make());
    memcpy(first, id, sizeof first);
    assert_int_equal(unlink(scratch_path("install_id")), 0);
    assert_true(make());
    assert_string_not_equal(id, first);
}

static void a_damaged_one_is_never_replaced(void **state)
{
    (void) state;
    static const char *const damaged[] = {"",
                                          "00112233445566778899aabbccddeeff",
                                          "00112233445566778899aabbccddeef\n",
                                          "00112233445566778899aabbccddeeff0\n",
                                          "00112233445566778899AABBCCDDEEFF\n",
                                          "00112233445566778899aabbccddeefg\n"};
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        scratch_write("install_id", damaged[i]);
        assert_false(make());
        assert_non_null(strstr(error, "damaged"));
    }
    scratch_write("install_id", "00112233445566778899aabbccddeeff\n");
    assert_true(make());
    assert_string_equal(id, "00112233445566778899aabbccddeeff");
}

static void one_that_rows_were_made_under_is_not_made_anew(void **state)
{
    (void) state;
    assert_int_equal(mkdir(scratch_path("billing"), 0700), 0);
    scratch_write("billing/stripe.states", "x");
    assert_false(make());
    assert_non_null(strstr(error, "billed twice"));
    scratch_write("billing/stripe.states", "");
    assert_true(make());
}

static void a_directory_that_is_not_there_is_said(void **state)
{
    (void) state;
    assert_false(install_id_make(scratch_path("nowhere"), id, error, sizeof error));
    assert_non_null(strstr(error, "No such file"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_destroy)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(it_is_made_once),
        TEST(two_installations_differ),
        TEST(a_damaged_one_is_never_replaced),
        TEST(one_that_rows_were_made_under_is_not_made_anew),
        TEST(a_directory_that_is_not_there_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
