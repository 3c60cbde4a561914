#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/log_writer.h"
#include "base/metrics.h"
#include "tests/lib/unit.h"

/* Standard error is a pipe whose reading end never blocks. */
static int real_stderr, ends[2];
static char *seen;
static size_t seen_length;
enum { SEEN_BYTES_MAX = 16 * 1024 * 1024 };

static int set_up(void **state)
{
    (void) state;
    alarm(120);
    real_stderr = dup(STDERR_FILENO);
    if (pipe(ends) != 0 || fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0)
        return 1;
    dup2(ends[1], STDERR_FILENO);
    seen = malloc(SEEN_BYTES_MAX);
    seen_length = 0;
    log_configure(LOG_FORMAT_JSON, LOG_INFO);
    return seen == NULL;
}

static int tear_down(void **state)
{
    (void) state;
    log_stop_writer();
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    close(ends[0]);
    close(ends[1]);
    free(seen);
    return 0;
}

/* All that was written since set_up, so far, NUL-terminated. */
static const char *read_log(void)
{
    ssize_t count;
    while ((count = read(ends[0], seen + seen_length, SEEN_BYTES_MAX - 1 - seen_length)) > 0)
        seen_length += (size_t) count;
    seen[seen_length] = '\0';
    return seen;
}

/* Wait until @lines were written since set_up. */
static void read_until(int64_t lines)
{
    for (;;) {
        int64_t count = 0;
        for (const char *at = read_log(); (at = strchr(at, '\n')) != NULL; at++)
            count++;
        if (count >= lines)
            return;
        struct pollfd more = {.fd = ends[0], .events = POLLIN};
        assert_int_equal(poll(&more, 1, 30000), 1);
    }
}

/* The one line that was written, parsed. */
static json_t *read_line(void)
{
    const char *line = read_log();
    size_t length = strlen(line);
    assert_true(length > 0 && length <= LOG_LINE_BYTES);
    assert_ptr_equal(strchr(line, '\n'), line + length - 1);
    json_error_t error;
    json_t *parsed = json_loadb(line, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (parsed == NULL)
        fail_msg("%s in %s", error.text, line);
    return parsed;
}

static const char *string_of(const json_t *line, const char *key)
{
    const char *value = json_string_value(json_object_get(line, key));
    assert_non_null(value);
    return value;
}

/* One line */

static void json_lines_have_time_level_and_event_first(void **state)
{
    (void) state;
    struct log_line line;
    log_begin(&line, LOG_INFO, "request");
    log_add_string(&line, "id", "abc");
    log_add_int(&line, "status", -200);
    log_add_seconds(&line, "duration_seconds", 1234);
    log_add_seconds(&line, "skew_seconds", -2500001);
    log_add_string(&line, "nothing", NULL);
    log_end(&line);
    json_t *parsed = read_line();
    assert_ptr_equal(strstr(seen, "{\"time\":\"20"), seen);
    assert_non_null(strstr(seen, "Z\",\"level\":\"info\",\"event\":\"request\",\"id\":\"abc\",\"status\":-200,"
                                 "\"duration_seconds\":0.001234,\"skew_seconds\":-2.500001,\"nothing\":\"\"}\n"));
    json_decref(parsed);
}

static void text_lines_quote_only_what_they_must(void **state)
{
    (void) state;
    log_configure(LOG_FORMAT_TEXT, LOG_INFO);
    struct log_line line;
    log_begin(&line, LOG_WARNING, "engine");
    log_add_string(&line, "model", "gemma-3-270m");
    log_add_string(&line, "reason", "went \"away\"\n");
    log_add_string(&line, "pair", "a=b");
    log_add_string(&line, "empty", "");
    log_add_string(&line, "escape", "\x1b[31m\xc2\x9b");
    log_end(&line);
    const char *text = read_log();
    char expected[] = "Z warning engine model=gemma-3-270m reason=\"went \\\"away\\\"\\n\" pair=\"a=b\" empty=\"\" "
                      "escape=\"\\u001b[31m\\u009b\"\n";
    assert_non_null(strstr(text, expected));
    assert_int_equal(strlen(text), strlen("2026-11-22T16:48:39.123") + strlen(expected));
}

static void lines_below_the_least_level_are_dropped(void **state)
{
    (void) state;
    log_configure(LOG_FORMAT_JSON, LOG_WARNING);
    log_event(LOG_DEBUG, "no", "%d", 1);
    log_event(LOG_INFO, "no", "%d", 1);
    struct log_line line;
    log_begin(&line, LOG_INFO, "no");
    assert_false(line.wanted);
    log_add_string(&line, "key", "value");
    log_add_int(&line, "key", 1);
    log_add_seconds(&line, "key", 1);
    log_end(&line);
    assert_string_equal(read_log(), "");
    log_event(LOG_ERROR, "yes", "%s and %d", "this", 7);
    json_t *parsed = read_line();
    assert_string_equal(string_of(parsed, "message"), "this and 7");
    assert_string_equal(string_of(parsed, "level"), "error");
    json_decref(parsed);
}

static void automatic_format_is_json_when_nobody_looks(void **state)
{
    (void) state;
    log_configure(LOG_FORMAT_AUTO, LOG_INFO);
    log_event(LOG_INFO, "start", "x");
    json_decref(read_line());
}

static void any_bytes_make_valid_json(void **state)
{
    (void) state;
    for (int round = 0; round < 2000; round++) {
        char bytes[3000];
        struct text value = {bytes, unit_random_below(unit_random_below(4) == 0 ? sizeof(bytes) : 100)};
        for (size_t i = 0; i < value.length; i++)
            bytes[i] = (char) unit_random();
        struct log_line line;
        log_begin(&line, LOG_INFO, "bytes");
        log_add(&line, "first", value);
        log_add(&line, "second", value);
        log_add_int(&line, "third", INT64_MIN);
        log_end(&line);
        seen_length = 0;
        json_t *parsed = read_line();
        json_decref(parsed);
    }
}

static void a_line_that_is_too_long_is_cut_and_says_so(void **state)
{
    (void) state;
    char value[5000];
    memset(value, 'v', sizeof(value));
    struct log_line line;
    log_begin(&line, LOG_INFO, "long");
    log_add_string(&line, "before", "kept");
    log_add(&line, "value", (struct text){value, sizeof(value)});
    log_add_string(&line, "after", "kept too");
    log_end(&line);
    json_t *parsed = read_line();
    assert_string_equal(string_of(parsed, "before"), "kept");
    assert_string_equal(string_of(parsed, "after"), "kept too");
    assert_in_range(strlen(string_of(parsed, "value")), 500, LOG_LINE_BYTES);
    assert_true(json_is_true(json_object_get(parsed, "cut")));
    json_decref(parsed);
}

static void a_message_that_is_too_long_is_cut_and_says_so(void **state)
{
    (void) state;
    log_event(LOG_INFO, "long", "%5000d", 1);
    json_t *parsed = read_line();
    assert_true(json_is_true(json_object_get(parsed, "cut")));
    json_decref(parsed);
}

/* The writer thread */

static int64_t dropped_by_metric(void)
{
    return metric_value(metric_series(METRIC_LOG_LINES_DROPPED, (const char *const[METRIC_LABELS_MAX]){NULL}));
}

/* How many lines of @event are in the log, all of them whole; the sum of their "lines". */
static int64_t count_lines(const char *event, int64_t *ret_sum)
{
    int64_t count = 0, sum = 0;
    for (char *at = seen; *at != '\0';) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        json_t *line = json_loadb(at, (size_t) (end - at), 0, NULL);
        assert_non_null(line);
        if (strcmp(string_of(line, "event"), event) == 0) {
            count++;
            sum += json_integer_value(json_object_get(line, "lines"));
        }
        json_decref(line);
        at = end + 1;
    }
    if (ret_sum != NULL)
        *ret_sum = sum;
    return count;
}

static void stopping_writes_out_what_waits(void **state)
{
    (void) state;
    assert_true(log_start_writer());
    for (int i = 0; i < 200; i++)
        log_event(LOG_INFO, "flushed", "%d", i);
    log_stop_writer();
    read_log();
    assert_int_equal(count_lines("flushed", NULL), 200);
    log_event(LOG_INFO, "flushed", "synchronous again");
    read_log();
    assert_int_equal(count_lines("flushed", NULL), 201);
    log_stop_writer();
}

/* Each line wakes the thread; none waits for the next one. */
static void a_single_line_is_written_soon(void **state)
{
    (void) state;
    assert_true(log_start_writer());
    for (int i = 1; i <= 20; i++) {
        log_event(LOG_INFO, "single", "%d", i);
        read_until(i);
    }
    log_stop_writer();
}

enum { LINES_TOO_MANY = 4000 };

/* Nobody reads: the callers go on, what finds no room is counted, and the count is told when there is room again. */
static void a_full_ring_drops_and_tells(void **state)
{
    (void) state;
    int64_t dropped_before = dropped_by_metric();
    assert_true(log_start_writer());
    char value[1000];
    memset(value, 'v', sizeof(value));
    for (int i = 0; i < LINES_TOO_MANY; i++) {
        struct log_line line;
        log_begin(&line, LOG_INFO, "much");
        log_add(&line, "value", (struct text){value, sizeof(value)});
        log_end(&line);
    }
    int64_t dropped = dropped_by_metric() - dropped_before;
    assert_true(dropped > 0);
    read_until(LINES_TOO_MANY - dropped + 1);
    log_stop_writer();
    read_log();
    int64_t told;
    /* One line, or another when room came and went while lines still came. */
    assert_true(count_lines("dropped", &told) >= 1);
    assert_int_equal(told, dropped);
    assert_int_equal(count_lines("much", NULL), LINES_TOO_MANY - dropped);
}

/* A reader that never comes back does not hold up the end of the process. */
static void stopping_gives_up_on_a_stuck_reader(void **state)
{
    (void) state;
    assert_true(log_start_writer());
    for (int i = 0; i < 2000; i++)
        log_event(LOG_INFO, "stuck", "%100d", i);
    mono_ms before = clock_mono_ms();
    log_stop_writer();
    assert_true(clock_mono_ms() - before < 20 * LOG_FLUSH_MS_MAX);
}

static void *log_much(void *unused)
{
    (void) unused;
    for (int i = 0; i < 1000; i++)
        log_event(LOG_INFO, "raced", "%*d", i % 200, i);
    return NULL;
}

static void lines_of_many_threads_stay_whole(void **state)
{
    (void) state;
    assert_int_equal(fcntl(ends[1], F_SETPIPE_SZ, LOG_RING_BYTES), LOG_RING_BYTES);
    int64_t dropped_before = dropped_by_metric();
    assert_true(log_start_writer());
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_much, NULL), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    log_stop_writer();
    read_log();
    assert_int_equal(count_lines("raced", NULL) + dropped_by_metric() - dropped_before, 4000);
}

/* The child has no writer thread, so it must not hand its lines to one. */
static void a_forked_child_writes_by_itself(void **state)
{
    (void) state;
    assert_true(log_start_writer());
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        log_event(LOG_INFO, "child", "%d", 1);
        log_stop_writer();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    read_log();
    assert_int_equal(status, 0);
    assert_int_equal(count_lines("child", NULL), 1);
    log_event(LOG_INFO, "parent", "%d", 1);
    log_stop_writer();
    read_log();
    assert_int_equal(count_lines("parent", NULL), 1);
}

int main(void)
{
    unit_random_seed();
#define LOG_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        LOG_TEST(json_lines_have_time_level_and_event_first),
        LOG_TEST(text_lines_quote_only_what_they_must),
        LOG_TEST(lines_below_the_least_level_are_dropped),
        LOG_TEST(automatic_format_is_json_when_nobody_looks),
        LOG_TEST(any_bytes_make_valid_json),
        LOG_TEST(a_line_that_is_too_long_is_cut_and_says_so),
        LOG_TEST(a_message_that_is_too_long_is_cut_and_says_so),
        LOG_TEST(stopping_writes_out_what_waits),
        LOG_TEST(a_single_line_is_written_soon),
        LOG_TEST(a_full_ring_drops_and_tells),
        LOG_TEST(stopping_gives_up_on_a_stuck_reader),
        LOG_TEST(lines_of_many_threads_stay_whole),
        LOG_TEST(a_forked_child_writes_by_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
