/* The options of a command line: what is read, and what is a mistake. */
#include <string.h>
#include <unistd.h>

#include "gateway/command.h"
#include "tests/lib/unit.h"

static const char *file;
static bool json;

/* Standard output and error of what ran between capture and release. */
static int saved[2];
static FILE *captured;
static char output[4096];

static void capture(void)
{
    fflush(stdout);
    captured = tmpfile();
    assert_non_null(captured);
    for (int fd = 1; fd <= 2; fd++) {
        saved[fd - 1] = dup(fd);
        assert_int_equal(dup2(fileno(captured), fd), fd);
    }
}

static void release(void)
{
    fflush(stdout);
    for (int fd = 1; fd <= 2; fd++) {
        assert_int_equal(dup2(saved[fd - 1], fd), fd);
        close(saved[fd - 1]);
    }
    rewind(captured);
    output[fread(output, 1, sizeof(output) - 1, captured)] = '\0';
    fclose(captured);
}

/* The exit code, or -1 when the command should go on. */
static int parse(int count, const char *const *words)
{
    char copies[8][32];
    char *argv[10] = {copies[0]};
    strcpy(copies[0], "test");
    for (int i = 0; i < count; i++) {
        strcpy(copies[i + 1], words[i]);
        argv[i + 1] = copies[i + 1];
    }
    const struct command_option options[] = {COMMAND_OPTION_CONFIG(&file), COMMAND_OPTION_JSON(&json)};
    const struct command_usage usage = {.name = "test",
                                        .synopsis = "[--config FILE]",
                                        .about = "What it does.\n",
                                        .options = options,
                                        .option_count = 2};
    file = NULL;
    json = false;
    int exit_code = 77;
    capture();
    bool go_on = command_parse(&usage, count + 1, argv, &exit_code);
    release();
    file = file == NULL ? NULL : "given";
    assert_int_equal(go_on, exit_code == 77);
    return go_on ? -1 : exit_code;
}
#define PARSE(...) parse((int) (sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

static void options_are_read_in_any_order(void **state)
{
    (void) state;
    assert_int_equal(parse(0, NULL), -1);
    assert_true(file == NULL && !json);
    assert_int_equal(PARSE("--config", "a", "--json"), -1);
    assert_true(file != NULL && json);
    assert_int_equal(PARSE("--json", "--config=a"), -1);
    assert_true(file != NULL && json);
    assert_int_equal(PARSE("--config", "-"), -1);
    assert_true(file != NULL && !json);
    assert_string_equal(output, "");
}

static void help_wins_over_everything_and_is_no_error(void **state)
{
    (void) state;
    assert_int_equal(PARSE("--nonsense", "--help"), COMMAND_DONE);
    assert_non_null(strstr(output, "Usage: tollgate test [--config FILE]\n\nWhat it does.\n"));
    assert_non_null(strstr(output, "--config FILE"));
    assert_int_equal(PARSE("-h"), COMMAND_DONE);
}

static void mistakes_are_named(void **state)
{
    (void) state;
    assert_int_equal(PARSE("--confg", "a"), COMMAND_USAGE);
    assert_string_equal(output, "tollgate test: unknown option \"--confg\"; did you mean \"--config\"?\n"
                                "Try `tollgate test --help`.\n");
    assert_int_equal(PARSE("--helpp"), COMMAND_USAGE);
    assert_non_null(strstr(output, "\"--help\"?"));
    assert_int_equal(PARSE("--quite-different"), COMMAND_USAGE);
    assert_null(strstr(output, "did you mean"));
    assert_int_equal(PARSE("--json=1"), COMMAND_USAGE);
    assert_int_equal(PARSE("--config"), COMMAND_USAGE);
    assert_int_equal(PARSE("--config", ""), COMMAND_USAGE);
    assert_int_equal(PARSE("--config", "--json"), COMMAND_USAGE);
    assert_int_equal(PARSE("--config", "a", "--config", "b"), COMMAND_USAGE);
    assert_int_equal(PARSE("a"), COMMAND_USAGE);
    assert_int_equal(PARSE("-j"), COMMAND_USAGE);
    assert_int_equal(PARSE("--"), COMMAND_USAGE);
    assert_int_equal(PARSE("--=x"), COMMAND_USAGE);
    assert_int_equal(PARSE(""), COMMAND_USAGE);
}

static void a_named_file_is_used_as_it_is(void **state)
{
    (void) state;
    assert_string_equal(command_config_file("test", "no/such/file"), "no/such/file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_read_in_any_order),
        cmocka_unit_test(help_wins_over_everything_and_is_no_error),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(a_named_file_is_used_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
