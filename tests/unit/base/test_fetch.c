#include "base/fetch.h"

#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/transfers.h"
#include "tests/lib/http_stub.h"
#include "tests/lib/unit.h"

/* A loop that waits for ever must fail, not hang. */
enum { HANG_SECONDS = 120 };

struct room {
    struct loop *loop;
    struct fetcher *fetcher;
    struct http_stub *stub;
    char authorization[256];
    char body[256];
    char method[16];
    char head[HTTP_STUB_TEXT_BYTES];
};

struct answer {
    int calls;
    int status;
    bool connect_failed;
    char error[256];
    size_t body_length;
    char body[64];
    char retry_after[64];
};

static void answer_as_the_path_says(void *owner, const struct http_stub_request *request,
                                    struct http_stub_answer *answer)
{
    struct room *room = owner;
    snprintf(room->authorization, sizeof(room->authorization), "%s", request->authorization);
    snprintf(room->body, sizeof(room->body), "%.200s", request->body);
    snprintf(room->method, sizeof(room->method), "%s", request->method);
    snprintf(room->head, sizeof(room->head), "%s", request->head);
    if (strcmp(request->path, "/503") == 0)
        answer->status = 503;
    if (strcmp(request->path, "/later") == 0) {
        answer->status = 429;
        answer->header = "retry-after:  17 ";
    }
    if (strcmp(request->path, "/hang") == 0)
        answer->hang = true;
    if (strcmp(request->path, "/close") == 0)
        answer->status = 0;
    if (strcmp(request->path, "/large") == 0)
        answer->body_bytes = FETCH_BODY_BYTES_MAX + 1000;
    if (strcmp(request->path, "/full") == 0)
        answer->body_bytes = FETCH_BODY_BYTES_MAX;
    if (strcmp(request->path, "/elsewhere") == 0) {
        answer->status = 302;
        answer->header = "Location: /503";
    }
}

static int set_up(void **state)
{
    struct room *room = calloc(1, sizeof(*room));
    alarm(HANG_SECONDS);
    room->loop = loop_create();
    room->fetcher = fetcher_create(room->loop);
    room->stub = http_stub_start(NULL, answer_as_the_path_says, room);
    *state = room;
    return 0;
}

static int tear_down(void **state)
{
    struct room *room = *state;
    fetcher_destroy(&room->fetcher);
    http_stub_stop(&room->stub);
    loop_destroy(room->loop);
    free(room);
    return 0;
}

static void receive(void *owner, const struct fetch_result *result)
{
    struct answer *answer = owner;
    answer->calls++;
    answer->status = result->status;
    answer->connect_failed = result->connect_failed;
    answer->body_length = result->body.length;
    snprintf(answer->error, sizeof(answer->error), "%s", result->error);
    snprintf(answer->retry_after, sizeof(answer->retry_after), "%.*s", TEXT_ARGUMENTS(result->retry_after));
    snprintf(answer->body, sizeof(answer->body), "%.*s", TEXT_ARGUMENTS(result->body));
}

static void run_until_called(struct room *room, const struct answer *answer)
{
    while (answer->calls == 0)
        loop_run_once(room->loop, 1000);
}

/* Fetch @request, with the timers set when they are not. */
static struct answer fetch_it(struct room *room, struct fetch_request request)
{
    struct answer answer = {0};
    if (request.timeout_ms == 0)
        request.timeout_ms = 30 * 1000;
    request.connect_timeout_ms = 10 * 1000;
    assert_non_null(fetch_start(room->fetcher, &request, receive, &answer));
    assert_int_equal(answer.calls, 0);
    run_until_called(room, &answer);
    loop_run_once(room->loop, 0);
    assert_int_equal(answer.calls, 1);
    return answer;
}

static const char *url_of(struct room *room, const char *path)
{
    static char url[256];
    snprintf(url, sizeof(url), "%s%s", http_stub_url(room->stub), path);
    return url;
}

static struct answer get(struct room *room, const char *path)
{
    return fetch_it(room, (struct fetch_request){.url = url_of(room, path)});
}

static void test_get_brings_status_and_body(void **state)
{
    struct room *room = *state;
    struct answer answer = get(room, "/");
    assert_int_equal(answer.status, 200);
    assert_string_equal(answer.error, "");
    assert_string_equal(answer.body, "{}");
    assert_string_equal(room->method, "GET");
    assert_string_equal(room->authorization, "");
    assert_int_equal(get(room, "/503").status, 503);
}

static void test_post_sends_body_and_bearer(void **state)
{
    struct room *room = *state;
    struct answer answer =
        fetch_it(room, (struct fetch_request){.url = url_of(room, "/"), .bearer = "sesame", .json_body = "{\"a\":1}"});
    assert_int_equal(answer.status, 200);
    assert_string_equal(room->method, "POST");
    assert_string_equal(room->body, "{\"a\":1}");
    assert_string_equal(room->authorization, "Bearer sesame");
}

static void test_post_of_a_form_with_headers(void **state)
{
    struct room *room = *state;
    static const char *const HEADERS[] = {"Idempotency-Key: once", "Stripe-Version: some", NULL};
    struct answer answer =
        fetch_it(room, (struct fetch_request){
                           .url = url_of(room, "/"), .bearer = "sesame", .form_body = "a=1&b=%20", .headers = HEADERS});
    assert_int_equal(answer.status, 200);
    assert_string_equal(room->method, "POST");
    assert_string_equal(room->body, "a=1&b=%20");
    assert_string_equal(room->authorization, "Bearer sesame");
    assert_non_null(strstr(room->head, "\r\nContent-Type: application/x-www-form-urlencoded\r\n"));
    assert_non_null(strstr(room->head, "\r\nIdempotency-Key: once\r\n"));
    assert_non_null(strstr(room->head, "\r\nStripe-Version: some\r\n"));
    assert_null(strstr(room->head, "application/json"));
    assert_string_equal(answer.retry_after, "");
}

static void test_retry_after_is_told(void **state)
{
    struct answer answer = get(*state, "/later");
    assert_int_equal(answer.status, 429);
    assert_string_equal(answer.retry_after, "17");
}

static void test_deadline_ends_a_silent_server(void **state)
{
    struct room *room = *state;
    mono_ms begun = clock_mono_ms();
    struct answer answer = fetch_it(room, (struct fetch_request){.url = url_of(room, "/hang"), .timeout_ms = 300});
    assert_int_equal(answer.status, 0);
    assert_false(answer.connect_failed);
    assert_true(strlen(answer.error) > 0);
    assert_true(clock_mono_ms() - begun >= 290);
    assert_true(clock_mono_ms() - begun < 30 * 1000);
}

static void test_closed_without_an_answer_is_no_connect_failure(void **state)
{
    struct answer answer = get(*state, "/close");
    assert_int_equal(answer.status, 0);
    assert_false(answer.connect_failed);
    assert_true(strlen(answer.error) > 0);
}

static void test_refused_connection_is_told(void **state)
{
    struct room *room = *state;
    struct http_stub *gone = http_stub_start(NULL, answer_as_the_path_says, room);
    char url[64];
    snprintf(url, sizeof(url), "%s/", http_stub_url(gone));
    http_stub_stop(&gone);
    struct answer answer = fetch_it(room, (struct fetch_request){.url = url});
    assert_int_equal(answer.status, 0);
    assert_true(answer.connect_failed);
}

static void test_body_is_cut_at_the_limit(void **state)
{
    struct answer answer = get(*state, "/large");
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_length, FETCH_BODY_BYTES_MAX);
    answer = get(*state, "/full");
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_length, FETCH_BODY_BYTES_MAX);
}

static void test_redirect_is_not_followed(void **state)
{
    struct room *room = *state;
    assert_int_equal(get(room, "/elsewhere").status, 302);
    struct answer answer = fetch_it(
        room, (struct fetch_request){.url = url_of(room, "/elsewhere"), .bearer = "sesame", .form_body = "a=1"});
    assert_int_equal(answer.status, 302);
    assert_int_equal(http_stub_requests(room->stub), 2);
}

static void test_proxy_of_the_environment_is_not_used(void **state)
{
    struct room *room = *state;
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    struct answer answer = get(room, "/");
    unsetenv("http_proxy");
    unsetenv("all_proxy");
    assert_int_equal(answer.status, 200);
}

static void test_other_protocols_are_refused(void **state)
{
    struct answer answer = fetch_it(*state, (struct fetch_request){.url = "file:///etc/hostname"});
    assert_int_equal(answer.status, 0);
    assert_int_equal(answer.body_length, 0);
}

/* An idle connection would hold one of a small engine's threads. */
static void test_each_fetch_has_its_own_connection(void **state)
{
    struct room *room = *state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(get(room, "/").status, 200);
    assert_int_equal(http_stub_connections(room->stub), 3);
    for (int i = 0; i < 500 && http_stub_open(room->stub) > 0; i++)
        usleep(10 * 1000);
    assert_int_equal(http_stub_open(room->stub), 0);
}

static void test_unix_socket(void **state)
{
    struct room *room = *state;
    char path[64];
    snprintf(path, sizeof(path), "/tmp/tollgate-test-fetch-%d.sock", (int) getpid());
    unlink(path);
    struct http_stub *stub = http_stub_start(path, answer_as_the_path_says, room);
    struct answer answer = fetch_it(room, (struct fetch_request){.url = "http://localhost/503", .socket_path = path});
    http_stub_stop(&stub);
    unlink(path);
    assert_int_equal(answer.status, 503);
    answer = fetch_it(room, (struct fetch_request){.url = "http://localhost/", .socket_path = path});
    assert_true(answer.connect_failed);
}

static void test_cancelled_fetch_is_never_told(void **state)
{
    struct room *room = *state;
    struct answer answer = {0};
    struct answer other = {0};
    struct fetch_request request = {.url = url_of(room, "/hang"), .timeout_ms = 400, .connect_timeout_ms = 1000};
    struct fetch *fetch = fetch_start(room->fetcher, &request, receive, &answer);
    struct fetch *at_once = fetch_start(room->fetcher, &request, receive, &answer);
    assert_non_null(fetch_start(room->fetcher, &request, receive, &other));
    fetch_cancel(&at_once);
    assert_null(at_once);
    while (http_stub_requests(room->stub) < 2)
        loop_run_once(room->loop, 10);
    fetch_cancel(&fetch);
    fetch_cancel(&fetch);
    run_until_called(room, &other);
    assert_int_equal(answer.calls, 0);
}

static void test_destroy_cancels_what_is_in_flight(void **state)
{
    struct room *room = *state;
    struct answer answer = {0};
    struct fetch_request request = {.url = url_of(room, "/hang"), .timeout_ms = 60000, .connect_timeout_ms = 1000};
    assert_non_null(fetch_start(room->fetcher, &request, receive, &answer));
    while (http_stub_requests(room->stub) < 1)
        loop_run_once(room->loop, 10);
    assert_non_null(fetch_start(room->fetcher, &request, receive, &answer));
    fetcher_destroy(&room->fetcher);
    loop_run_once(room->loop, 0);
    assert_int_equal(answer.calls, 0);
}

struct chain {
    struct room *room;
    int left;
    int status;
};

static void fetch_again(void *owner, const struct fetch_result *result)
{
    struct chain *chain = owner;
    struct fetch_request request = {.url = url_of(chain->room, "/"), .timeout_ms = 60000, .connect_timeout_ms = 10000};
    chain->status = result->status;
    if (--chain->left > 0)
        assert_non_null(fetch_start(chain->room->fetcher, &request, fetch_again, chain));
}

static void test_next_fetch_may_start_from_the_last_one(void **state)
{
    struct room *room = *state;
    struct chain chains[8];
    struct fetch_request request = {.url = url_of(room, "/"), .timeout_ms = 60000, .connect_timeout_ms = 10000};
    for (int i = 0; i < 8; i++) {
        chains[i] = (struct chain){.room = room, .left = 5};
        assert_non_null(fetch_start(room->fetcher, &request, fetch_again, &chains[i]));
    }
    for (int i = 0; i < 8; i++) {
        while (chains[i].left > 0)
            loop_run_once(room->loop, 1000);
        assert_int_equal(chains[i].status, 200);
    }
    assert_int_equal(http_stub_requests(room->stub), 40);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_get_brings_status_and_body),
        TEST(test_post_sends_body_and_bearer),
        TEST(test_post_of_a_form_with_headers),
        TEST(test_retry_after_is_told),
        TEST(test_deadline_ends_a_silent_server),
        TEST(test_closed_without_an_answer_is_no_connect_failure),
        TEST(test_refused_connection_is_told),
        TEST(test_body_is_cut_at_the_limit),
        TEST(test_redirect_is_not_followed),
        TEST(test_proxy_of_the_environment_is_not_used),
        TEST(test_other_protocols_are_refused),
        TEST(test_each_fetch_has_its_own_connection),
        TEST(test_unix_socket),
        TEST(test_cancelled_fetch_is_never_told),
        TEST(test_destroy_cancels_what_is_in_flight),
        TEST(test_next_fetch_may_start_from_the_last_one),
    };
    if (!transfers_global_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
