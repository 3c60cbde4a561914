#include "tests/lib/fault.h"

#include "base/metrics.c"

#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/unit.h"

#define VALUES(...) ((const char *const[METRIC_LABELS_MAX]){__VA_ARGS__})

/* The whole exposition, NUL-terminated. */
static struct buffer shown;

static const char *show(void)
{
    buffer_init(&shown, 64 * 1024 * 1024);
    assert_true(metrics_write(&shown));
    assert_true(buffer_add(&shown, (struct text){"", 1}));
    return buffer_text(&shown).at;
}

static void unused_families_are_not_shown(void **state)
{
    (void) state;
    assert_string_equal(show(), "");
    buffer_finish(&shown);
}

static void counters_and_gauges_are_shown(void **state)
{
    (void) state;
    metric_count(METRIC_REQUEST_OUTCOMES, "chat", "ok");
    metric_count(METRIC_REQUEST_OUTCOMES, "chat", "ok");
    metric_count(METRIC_REQUEST_OUTCOMES, "completions", NULL);
    struct metric_series *in_flight = metric_series(METRIC_IN_FLIGHT, VALUES(NULL));
    metric_add(in_flight, 5);
    metric_add(in_flight, -7);
    metric_set(metric_series(METRIC_START_TIME, VALUES(NULL)), 1795366119);
    assert_int_equal(metric_value(in_flight), -2);
    assert_string_equal(show(),
                        "# HELP tollgate_request_outcomes_total Requests by the way they ended.\n"
                        "# TYPE tollgate_request_outcomes_total counter\n"
                        "tollgate_request_outcomes_total{endpoint=\"completions\",outcome=\"\"} 1\n"
                        "tollgate_request_outcomes_total{endpoint=\"chat\",outcome=\"ok\"} 2\n"
                        "# HELP tollgate_requests_in_flight Requests between their head and the end of their answer.\n"
                        "# TYPE tollgate_requests_in_flight gauge\n"
                        "tollgate_requests_in_flight -2\n"
                        "# HELP process_start_time_seconds When the gateway process started.\n"
                        "# TYPE process_start_time_seconds gauge\n"
                        "process_start_time_seconds 1795366119\n");
    buffer_finish(&shown);
}

static void the_same_values_are_the_same_series(void **state)
{
    (void) state;
    char copy[] = "m";
    struct metric_series *one = metric_series(METRIC_ENGINE_UP, VALUES("m", "e/0"));
    assert_ptr_equal(metric_series(METRIC_ENGINE_UP, VALUES(copy, "e/0")), one);
    copy[0] = 'x';
    assert_ptr_equal(metric_series(METRIC_ENGINE_UP, VALUES("m", "e/0")), one);
    assert_ptr_not_equal(metric_series(METRIC_ENGINE_UP, VALUES("me", "/0")), one);
    assert_ptr_not_equal(metric_series(METRIC_ENGINE_UP, VALUES("e/0", "m")), one);
    assert_ptr_not_equal(metric_series(METRIC_ENGINE_SLOTS, VALUES("m", "e/0")), one);
}

static void label_values_are_escaped_and_repaired(void **state)
{
    (void) state;
    metric_count(METRIC_GUARD_REFUSALS, "a\"b\\c\nd\xff\xc3\xa9", NULL);
    assert_non_null(strstr(show(), "{reason=\"a\\\"b\\\\c\\nd\xef\xbf\xbd\xc3\xa9\"} 1\n"));
    buffer_finish(&shown);
}

static void long_label_values_are_cut(void **state)
{
    (void) state;
    char value[1001], other[1001];
    memset(value, '\xff', 1000);
    value[1000] = '\0';
    memcpy(other, value, sizeof(value));
    other[999] = 'x';
    assert_ptr_equal(metric_series(METRIC_TOKENS, VALUES(value, value, value, value)),
                     metric_series(METRIC_TOKENS, VALUES(other, other, other, other)));
    assert_non_null(strstr(show(), "tollgate_tokens_total{model=\"\xef\xbf\xbd"));
    buffer_finish(&shown);
}

static void histograms_count_up_to_and_including_their_bounds(void **state)
{
    (void) state;
    struct metric_series *series = metric_series(METRIC_INTER_TOKEN_SECONDS, VALUES("m"));
    static const int64_t observed_us[] = {0, 10000, 10001, 80000000, 80000001, -5};
    for (size_t i = 0; i < sizeof(observed_us) / sizeof(observed_us[0]); i++)
        metric_observe_us(series, observed_us[i]);
    const char *text = show();
    assert_non_null(strstr(text, "# TYPE tollgate_inter_token_latency_seconds histogram\n"
                                 "tollgate_inter_token_latency_seconds_bucket{model=\"m\",le=\"0.01\"} 3\n"
                                 "tollgate_inter_token_latency_seconds_bucket{model=\"m\",le=\"0.025\"} 4\n"));
    assert_non_null(strstr(text, "{model=\"m\",le=\"40\"} 4\n"
                                 "tollgate_inter_token_latency_seconds_bucket{model=\"m\",le=\"80\"} 5\n"
                                 "tollgate_inter_token_latency_seconds_bucket{model=\"m\",le=\"+Inf\"} 6\n"
                                 "tollgate_inter_token_latency_seconds_sum{model=\"m\"} 160.020002\n"
                                 "tollgate_inter_token_latency_seconds_count{model=\"m\"} 6\n"));
    buffer_finish(&shown);
}

static void seconds_are_exact(void **state)
{
    (void) state;
    static const struct {
        int64_t microseconds;
        const char *text;
    } cases[] = {{0, "0"},         {50, "0.00005"},       {1, "0.000001"},  {1000000, "1"},
                 {1500000, "1.5"}, {327680000, "327.68"}, {10000000, "10"}, {123456789, "123.456789"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char memory[32];
        struct builder text;
        builder_init(&text, memory, sizeof(memory));
        add_seconds(&text, cases[i].microseconds);
        assert_string_equal(builder_string(&text), cases[i].text);
    }
}

static void bucket_bounds_rise_and_end(void **state)
{
    (void) state;
    for (size_t set = DURATION; set < BUCKET_SET_COUNT; set++) {
        size_t count = 0;
        for (; bucket_bounds_us[set][count] != 0; count++)
            assert_true(count == 0 || bucket_bounds_us[set][count] > bucket_bounds_us[set][count - 1]);
        assert_in_range(count, 10, BUCKETS_MAX - 1);
    }
    assert_int_equal(bucket_bounds_us[DURATION][15], 10000 << 15);
    for (size_t metric = 0; metric < METRIC_COUNT; metric++)
        assert_int_equal(families[metric].kind == HISTOGRAM, families[metric].buckets != NONE);
}

static void a_full_buffer_is_told(void **state)
{
    (void) state;
    struct buffer small;
    buffer_init(&small, 100);
    assert_false(metrics_write(&small));
    buffer_finish(&small);
}

/* Threads */

enum { THREADS = 4, ROUNDS = 4000, RACED_SERIES = 50 };

static void *race(void *unused)
{
    (void) unused;
    for (int i = 0; i < ROUNDS; i++) {
        char model[24];
        snprintf(model, sizeof(model), "raced-%d", i % RACED_SERIES);
        metric_count(METRIC_ENGINE_RESTARTS, model, "e");
        metric_observe_us(metric_series(METRIC_QUEUE_WAIT_SECONDS, VALUES(model)), i);
        if (i % 500 != 0)
            continue;
        struct buffer to;
        buffer_init(&to, 1024 * 1024);
        if (!metrics_write(&to))
            abort();
        buffer_finish(&to);
    }
    return NULL;
}

static void threads_that_race_count_everything_once(void **state)
{
    (void) state;
    int count_before = atomic_load(&series_count);
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race, NULL), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    int64_t total = 0;
    for (int i = 0; i < RACED_SERIES; i++) {
        char model[24];
        snprintf(model, sizeof(model), "raced-%d", i);
        total += metric_value(metric_series(METRIC_ENGINE_RESTARTS, VALUES(model, "e")));
    }
    assert_int_equal(total, THREADS * ROUNDS);
    assert_int_equal(atomic_load(&series_count), count_before + 2 * RACED_SERIES);
}

static struct metric_series *made_meanwhile;

static void make_the_same_series(void)
{
    made_meanwhile = metric_series(METRIC_CONNECTIONS_REFUSED, VALUES("same"));
}

static void who_loses_the_race_gets_the_winner(void **state)
{
    (void) state;
    int count_before = atomic_load(&series_count);
    fault_meanwhile = make_the_same_series;
    struct metric_series *series = metric_series(METRIC_CONNECTIONS_REFUSED, VALUES("same"));
    assert_non_null(made_meanwhile);
    assert_ptr_equal(series, made_meanwhile);
    assert_int_equal(atomic_load(&series_count), count_before + 1);
}

static void make_a_series_of_the_same_slot(void)
{
    struct label_values joined;
    join_values(METRIC_CONNECTIONS_REFUSED, VALUES("mine"), &joined);
    size_t slot = hash_of(METRIC_CONNECTIONS_REFUSED, &joined) & (TABLE_SLOTS - 1);
    char reason[16];
    for (unsigned i = 0;; i++) {
        snprintf(reason, sizeof(reason), "%u", i);
        join_values(METRIC_CONNECTIONS_REFUSED, VALUES(reason), &joined);
        if ((hash_of(METRIC_CONNECTIONS_REFUSED, &joined) & (TABLE_SLOTS - 1)) == slot)
            break;
    }
    made_meanwhile = metric_series(METRIC_CONNECTIONS_REFUSED, VALUES(reason));
}

static void who_loses_his_slot_takes_the_next_one(void **state)
{
    (void) state;
    int count_before = atomic_load(&series_count);
    fault_meanwhile = make_a_series_of_the_same_slot;
    struct metric_series *series = metric_series(METRIC_CONNECTIONS_REFUSED, VALUES("mine"));
    assert_ptr_not_equal(series, made_meanwhile);
    assert_ptr_equal(metric_series(METRIC_CONNECTIONS_REFUSED, VALUES("mine")), series);
    assert_int_equal(atomic_load(&series_count), count_before + 2);
}

static void without_memory_the_other_series_counts(void **state)
{
    (void) state;
    int count_before = atomic_load(&series_count);
    fault_countdown = 0;
    metric_count(METRIC_AUTH_FAILURES, "rare", NULL);
    fault_countdown = -1;
    assert_int_equal(metric_value(metric_series(METRIC_AUTH_FAILURES, VALUES("other"))), 1);
    assert_int_equal(atomic_load(&series_count), count_before);
    assert_non_null(strstr(show(), "tollgate_auth_failures_total{reason=\"other\"} 1\n"));
    buffer_finish(&shown);
}

/* The validator of Prometheus itself, where the environment names one: PROMTOOL=.../promtool */
static void promtool_accepts_all_families(void **state)
{
    (void) state;
    for (size_t metric = 0; metric < METRIC_COUNT; metric++) {
        struct metric_series *series = metric_series((enum metric) metric, VALUES("a \"b\"", "\xff\xfe", "c\nd", ""));
        if (families[metric].kind == HISTOGRAM)
            metric_observe_us(series, 1234);
        else
            metric_add(series, 1);
    }
    const char *promtool = getenv("PROMTOOL");
    if (promtool == NULL)
        skip();
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[0], STDIN_FILENO);
        close(ends[1]);
        execl(promtool, "promtool", "check", "metrics", (char *) NULL);
        _exit(127);
    }
    close(ends[0]);
    const char *text = show();
    FILE *to = fdopen(ends[1], "w");
    assert_non_null(to);
    assert_true(fputs(text, to) >= 0);
    assert_int_equal(fclose(to), 0);
    buffer_finish(&shown);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Last: it fills the table of this process. */
static void when_the_table_is_full_the_other_series_counts(void **state)
{
    (void) state;
    struct metric_series *other = metric_series(METRIC_REQUESTS, VALUES("other", "other", "other", "other"));
    int given_other = 0;
    for (int i = 0; i < METRIC_SERIES_MAX + 100; i++) {
        char code[16];
        snprintf(code, sizeof(code), "%d", i);
        given_other += metric_series(METRIC_REQUESTS, VALUES("chat", "m", "t", code)) == other;
    }
    assert_in_range((uint64_t) given_other, 100, METRIC_SERIES_MAX - 1);
    assert_int_equal(atomic_load(&series_count), METRIC_SERIES_MAX);
    struct metric_series *known = metric_series(METRIC_REQUESTS, VALUES("chat", "m", "t", "0"));
    assert_ptr_not_equal(known, other);
    int64_t before = metric_value(other);
    metric_add(metric_series(METRIC_REQUESTS, VALUES("new", "new", "new", "new")), 3);
    assert_int_equal(metric_value(other), before + 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unused_families_are_not_shown),
        cmocka_unit_test(counters_and_gauges_are_shown),
        cmocka_unit_test(the_same_values_are_the_same_series),
        cmocka_unit_test(label_values_are_escaped_and_repaired),
        cmocka_unit_test(long_label_values_are_cut),
        cmocka_unit_test(histograms_count_up_to_and_including_their_bounds),
        cmocka_unit_test(seconds_are_exact),
        cmocka_unit_test(bucket_bounds_rise_and_end),
        cmocka_unit_test(a_full_buffer_is_told),
        cmocka_unit_test(threads_that_race_count_everything_once),
        cmocka_unit_test(who_loses_the_race_gets_the_winner),
        cmocka_unit_test(who_loses_his_slot_takes_the_next_one),
        cmocka_unit_test(without_memory_the_other_series_counts),
        cmocka_unit_test(promtool_accepts_all_families),
        cmocka_unit_test(when_the_table_is_full_the_other_series_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
