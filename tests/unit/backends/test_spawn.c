#include "backends/spawn.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/unit.h"

static void test_placeholders_are_replaced_wherever_they_stand(void **state)
{
    (void) state;
    const char *const arguments[] = {"./engine", "--socket", "{socket}", "--at={socket}:{port}/{port}",
                                     "{model}",  NULL};
    assert_true(spawn_wants(arguments, SPAWN_SOCKET));
    assert_true(spawn_wants(arguments, SPAWN_PORT));
    assert_false(spawn_wants(arguments + 4, SPAWN_PORT));
    char **made = spawn_arguments(arguments, "/run/a.sock", 8123);
    assert_string_equal(made[0], "./engine");
    assert_string_equal(made[2], "/run/a.sock");
    assert_string_equal(made[3], "--at=/run/a.sock:8123/8123");
    assert_string_equal(made[4], "{model}");
    assert_null(made[5]);
    spawn_free_strings(&made);
    assert_null(made);
}

static const char *find_variable(char **environment, const char *name)
{
    for (; *environment != NULL; environment++) {
        if (strncmp(*environment, name, strlen(name)) == 0 && (*environment)[strlen(name)] == '=')
            return *environment + strlen(name) + 1;
    }
    return NULL;
}

static void test_environment_holds_what_is_allowed_and_what_is_given(void **state)
{
    (void) state;
    const char *const extra[] = {"CUDA_VISIBLE_DEVICES=1", "SPECIAL=x=y", "LANG=C", NULL};
    setenv("STRIPE_KEY", "secret", 1);
    setenv("PATHETIC", "secret", 1);
    setenv("LC_TIME", "C", 1);
    setenv("CUDA_VISIBLE_DEVICES", "0", 1);
    setenv("LANG", "de_DE", 1);
    char **environment = spawn_environment(extra);
    assert_null(find_variable(environment, "STRIPE_KEY"));
    assert_null(find_variable(environment, "PATHETIC"));
    assert_string_equal(find_variable(environment, "PATH"), getenv("PATH"));
    assert_string_equal(find_variable(environment, "LC_TIME"), "C");
    assert_string_equal(find_variable(environment, "CUDA_DEVICE_ORDER"), "PCI_BUS_ID");
    assert_string_equal(find_variable(environment, "CUDA_VISIBLE_DEVICES"), "1");
    assert_string_equal(find_variable(environment, "SPECIAL"), "x=y");
    assert_string_equal(find_variable(environment, "LANG"), "C");
    for (char **one = environment; *one != NULL; one++) {
        for (char **other = one + 1; *other != NULL; other++)
            assert_false(strncmp(*one, *other, strcspn(*one, "=") + 1) == 0);
    }
    spawn_free_strings(&environment);
}

static void test_engine_may_choose_the_order_of_devices(void **state)
{
    (void) state;
    const char *const extra[] = {"CUDA_DEVICE_ORDER=FASTEST_FIRST", NULL};
    char **environment = spawn_environment(extra);
    assert_string_equal(find_variable(environment, "CUDA_DEVICE_ORDER"), "FASTEST_FIRST");
    spawn_free_strings(&environment);
}

static void test_socket_paths_stay_inside_and_differ(void **state)
{
    (void) state;
    static const char *const NAMES[] = {"m/1",    "m/2",  "m/11",  "a/b/1",      "a.b/1",   "a_b/1", "a_2fb/1",
                                        "../x/1", "m@/1", "m/@/1", "\xc3\xa4/1", "a b\n/1", "/1",    "m1"};
    enum { COUNT = sizeof(NAMES) / sizeof(NAMES[0]) };
    char *paths[COUNT];
    for (int i = 0; i < COUNT; i++) {
        paths[i] = spawn_socket_path("/run/t", NAMES[i]);
        assert_memory_equal(paths[i], "/run/t/", 7);
        assert_null(strchr(paths[i] + 7, '/'));
        for (int j = 0; j < i; j++)
            assert_string_not_equal(paths[i], paths[j]);
    }
    assert_string_equal(paths[0], "/run/t/m@1.sock");
    for (int i = 0; i < COUNT; i++)
        free(paths[i]);
}

static void test_note_comes_back(void **state)
{
    (void) state;
    char note[SPAWN_NOTE_BYTES];
    uint8_t hash[32];
    uint8_t read_hash[32] = {0};
    int port = -1;
    for (size_t i = 0; i < sizeof(hash); i++)
        hash[i] = (uint8_t) (i * 37);
    spawn_note_write(note, hash, 65535);
    assert_true(spawn_note_read(note, read_hash, &port));
    assert_memory_equal(hash, read_hash, sizeof(hash));
    assert_int_equal(port, 65535);
    /* No beginning of it, and nothing else, is one. */
    port = 77;
    for (size_t length = strlen(note) - 5; length > 0; length--) {
        note[length] = '\0';
        assert_false(spawn_note_read(note, read_hash, &port));
    }
    assert_false(spawn_note_read("", read_hash, &port));
    assert_false(spawn_note_read("settings=zz port=1", read_hash, &port));
    spawn_note_write(note, hash, 1);
    note[10] = 'g';
    assert_false(spawn_note_read(note, read_hash, &port));
    assert_int_equal(port, 77);
}

static void test_found_port_can_be_used(void **state)
{
    (void) state;
    for (int i = 0; i < 20; i++)
        assert_in_range(spawn_find_port(), 1024, 65535);
}

static void test_directory_is_made_and_must_be_ours(void **state)
{
    (void) state;
    char base[] = "/tmp/tollgate-test-XXXXXX";
    char path[64];
    char why[256];
    struct stat facts;
    assert_non_null(mkdtemp(base));
    snprintf(path, sizeof(path), "%s/run", base);
    assert_true(spawn_prepare_directory(path, why, sizeof(why)));
    assert_int_equal(stat(path, &facts), 0);
    assert_int_equal(facts.st_mode & 0777, 0700);
    assert_true(spawn_prepare_directory(path, why, sizeof(why)));
    chmod(path, 0720);
    assert_false(spawn_prepare_directory(path, why, sizeof(why)));
    assert_non_null(strstr(why, "can be written by others"));
    rmdir(path);
    assert_int_equal(symlink("/tmp", path), 0); /* somebody's link to a place of his */
    assert_false(spawn_prepare_directory(path, why, sizeof(why)));
    assert_non_null(strstr(why, "is no directory"));
    unlink(path);
    snprintf(path, sizeof(path), "%s/no/run", base);
    assert_false(spawn_prepare_directory(path, why, sizeof(why)));
    assert_non_null(strstr(why, "No such file"));
    if (geteuid() == 0) {
        snprintf(path, sizeof(path), "%s/run", base);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(chown(path, 65534, 65534), 0);
        assert_false(spawn_prepare_directory(path, why, sizeof(why)));
        assert_non_null(strstr(why, "belongs to user 65534"));
        rmdir(path);
    }
    rmdir(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_placeholders_are_replaced_wherever_they_stand),
        cmocka_unit_test(test_environment_holds_what_is_allowed_and_what_is_given),
        cmocka_unit_test(test_engine_may_choose_the_order_of_devices),
        cmocka_unit_test(test_socket_paths_stay_inside_and_differ),
        cmocka_unit_test(test_note_comes_back),
        cmocka_unit_test(test_found_port_can_be_used),
        cmocka_unit_test(test_directory_is_made_and_must_be_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
