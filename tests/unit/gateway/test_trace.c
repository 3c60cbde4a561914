#include "gateway/trace.h"

#include <string.h>
#include <sys/mman.h>

#include "tests/lib/unit.h"

/* Of a file in memory. */
static char path[64];

static bool read_bytes(const char *bytes, size_t length, struct trace *ret, char error[TRACE_ERROR_BYTES])
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    return trace_read(path, ret, error);
}

static struct trace read_good(const char *bytes)
{
    struct trace trace = {0};
    char error[TRACE_ERROR_BYTES];
    if (!read_bytes(bytes, strlen(bytes), &trace, error)) {
        fail_msg("%s", error);
    }
    return trace;
}

static void assert_row(const struct trace *trace, size_t at, int64_t arrival_us, int64_t input, int64_t output)
{
    assert_true(at < trace->count);
    assert_int_equal(trace->rows[at].arrival_us, arrival_us);
    assert_int_equal(trace->rows[at].input_tokens, input);
    assert_int_equal(trace->rows[at].output_tokens, output);
}

static void dates_are_read_to_the_microsecond(void **state)
{
    (void) state;
    struct trace trace = read_good("TIMESTAMP,ContextTokens,GeneratedTokens\n"
                                   "2023-12-31 23:59:59.9799609,4808,10\n"
                                   "2024-01-01T00:00:01Z,0,8\r\n"
                                   "2024-03-01 00:00:01.5,3180,0");
    assert_int_equal(trace.count, 3);
    assert_row(&trace, 0, 0, 4808, 10);
    assert_row(&trace, 1, 1020040, 0, 8);
    assert_row(&trace, 2, INT64_C(60) * 24 * 3600 * 1000000 + 1520040, 3180, 0);
    trace_finish(&trace);
    assert_int_equal(trace.count, 0);
}

static void seconds_columns_may_stand_anywhere(void **state)
{
    (void) state;
    struct trace trace = read_good("id, output ,model,input,arrival\na,1,m,2,10.25\n\nb,3,m,4,11\n");
    assert_int_equal(trace.count, 2);
    assert_row(&trace, 0, 0, 2, 1);
    assert_row(&trace, 1, 750000, 4, 3);
    trace_finish(&trace);
}

static void rows_are_put_in_order_of_arrival(void **state)
{
    (void) state;
    struct trace trace = read_good("arrival,input,output\n5,1,1\n3,2,2\n5,3,3\n3,4,4\n0.000001,5,5\n5,6,6\n");
    assert_row(&trace, 0, 0, 5, 5);
    assert_row(&trace, 1, 2999999, 2, 2);
    assert_row(&trace, 2, 2999999, 4, 4);
    assert_row(&trace, 3, 4999999, 1, 1);
    assert_row(&trace, 4, 4999999, 3, 3);
    assert_row(&trace, 5, 4999999, 6, 6);
    trace_finish(&trace);
}

static void mistakes_have_their_line(void **state)
{
    (void) state;
    static const struct {
        const char *bytes, *message;
    } rows[] = {
        {"", ": there is no request in it"},
        {"\n", ":1: the first line must name the columns "},
        {"arrival,input\n1,2\n", ":1: the first line must name the columns "},
        {"TIMESTAMP,input,output\n1,2,3\n", ":1: the first line must name the columns "},
        {"arrival,input,output\n", ": there is no request in it"},
        {"arrival,input,output\n1,2\n", ":2: 2 fields, but the first line has 3"},
        {"arrival,input,output\n1,2,3\n1,2,3,4\n", ":3: 4 fields, but the first line has 3"},
        {"arrival,input,output\n1,2,3\n\n-1,2,3\n", ":4: \"-1\" is no number of seconds"},
        {"arrival,input,output\n,2,3\n", ":2: \"\" is no number of seconds"},
        {"arrival,input,output\n1.,2,3\n", "\"1.\" is no number of seconds"},
        {"arrival,input,output\n1.2.3,2,3\n", "is no number of seconds"},
        {"arrival,input,output\n99999999999999999,2,3\n", "is no number of seconds"},
        {"arrival,input,output\n1,2.5,3\n", ":2: \"2.5\" is no number of input tokens"},
        {"arrival,input,output\n1,2,-3\n", ":2: \"-3\" is no number of output tokens"},
        {"arrival,input,output\n1,2,1000000001\n", ":2: \"1000000001\" is no number of output tokens"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n12.5,1,1\n", "is no date and time"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-01 00:00:00,1,1\n", "is no date and time"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-01 00:00,1,1\n", "is no date and time"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n1923-11-01 00:00:00,1,1\n", "is no date and time"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-01 00:00:00+1,1,1\n", "is no date and time"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct trace trace = {.count = 7};
        char error[TRACE_ERROR_BYTES];
        assert_false(read_bytes(rows[i].bytes, strlen(rows[i].bytes), &trace, error));
        assert_int_equal(trace.count, 7);
        assert_int_equal(strncmp(error, path, strlen(path)), 0);
        if (strstr(error, rows[i].message) == NULL) {
            fail_msg("\"%s\" is not in \"%s\"", rows[i].message, error);
        }
    }
}

static void a_file_that_is_none_is_named(void **state)
{
    (void) state;
    struct trace trace;
    char error[TRACE_ERROR_BYTES];
    assert_false(trace_read("/nowhere/at/all.csv", &trace, error));
    assert_string_equal(error, "/nowhere/at/all.csv: No such file or directory");
    assert_false(trace_read("/tmp", &trace, error));
    assert_string_equal(error, "/tmp:1: Is a directory");
}

static void lines_and_columns_are_bounded(void **state)
{
    (void) state;
    struct trace trace;
    char error[TRACE_ERROR_BYTES];
    static char bytes[3 * TRACE_LINE_BYTES_MAX];
    memset(bytes, 'x', sizeof(bytes));
    assert_false(read_bytes(bytes, sizeof(bytes), &trace, error));
    assert_non_null(strstr(error, ":1: a line of more than 4096 bytes"));
    bytes[TRACE_LINE_BYTES_MAX] = '\n';
    assert_false(read_bytes(bytes, TRACE_LINE_BYTES_MAX + 1, &trace, error));
    assert_non_null(strstr(error, ":1: the first line must name"));
    memset(bytes, ',', sizeof(bytes));
    assert_false(read_bytes(bytes, 2000, &trace, error));
    assert_non_null(strstr(error, ":1: more than 64 columns"));
    memcpy(bytes, "arrival,input,output\n", 21);
    assert_false(read_bytes(bytes, 2000, &trace, error));
    assert_non_null(strstr(error, ":2: 1980 fields, but the first line has 3"));
    memset(bytes + 21, 'y', 4000);
    memcpy(bytes + 4021, ",1,1\n", 5);
    assert_false(read_bytes(bytes, 4026, &trace, error));
    assert_non_null(strstr(error, "yyy"));
}

static void any_bytes_are_read_or_refused(void **state)
{
    (void) state;
    static const char seed[] = "arrival,input,output\n1.5,2,3\n2,4,5\n10,200,3000\n";
    for (int i = 0; i < 5000; i++) {
        char bytes[sizeof(seed)];
        memcpy(bytes, seed, sizeof(seed));
        for (size_t changes = unit_random_below(4); changes > 0; changes--) {
            char *byte = &bytes[unit_random_below(sizeof(seed) - 1)];
            *byte = unit_random_below(4) == 0 ? (char) unit_random() : ",.-1\n"[unit_random_below(5)];
        }
        struct trace trace;
        char error[TRACE_ERROR_BYTES];
        if (!read_bytes(bytes, unit_random_below(sizeof(seed)), &trace, error)) {
            continue;
        }
        int64_t before = 0;
        for (size_t row = 0; row < trace.count; row++) {
            assert_true(trace.rows[row].arrival_us >= before && trace.rows[row].input_tokens >= 0);
            before = trace.rows[row].arrival_us;
        }
        trace_finish(&trace);
    }
}

static int make_file(void **state)
{
    (void) state;
    int fd = memfd_create("trace", MFD_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return fd < 0;
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dates_are_read_to_the_microsecond), cmocka_unit_test(seconds_columns_may_stand_anywhere),
        cmocka_unit_test(rows_are_put_in_order_of_arrival),  cmocka_unit_test(mistakes_have_their_line),
        cmocka_unit_test(a_file_that_is_none_is_named),      cmocka_unit_test(lines_and_columns_are_bounded),
        cmocka_unit_test(any_bytes_are_read_or_refused),
    };
    return cmocka_run_group_tests(tests, make_file, NULL);
}
