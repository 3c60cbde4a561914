#include "base/transfers.h"

#include <curl/curl.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/http_stub.h"
#include "tests/lib/unit.h"

enum { HANG_SECONDS = 120, MANY = 40 };

struct room {
    struct loop *loop;
    struct transfers *transfers;
    struct http_stub *stub;
    bool inside_add;
    int done;
    int last_result;
    void *last_easy;
    void (*then)(struct room *room, void *easy);
    int again_left;
    void *pair[2];
};

static void answer_as_the_path_says(void *owner, const struct http_stub_request *request,
                                    struct http_stub_answer *answer)
{
    (void) owner;
    answer->hang = strcmp(request->path, "/hang") == 0;
    if (strcmp(request->path, "/close") == 0)
        answer->status = 0;
    if (strcmp(request->path, "/large") == 0)
        answer->body_bytes = 100 * 1000;
}

static void on_done(void *owner, void *easy, int result)
{
    struct room *room = owner;
    assert_false(room->inside_add);
    room->done++;
    room->last_easy = easy;
    room->last_result = result;
    if (room->then != NULL)
        room->then(room, easy);
}

static int set_up(void **state)
{
    struct room *room = calloc(1, sizeof(*room));
    alarm(HANG_SECONDS);
    room->loop = loop_create();
    room->transfers = transfers_create(room->loop, on_done, room);
    room->stub = http_stub_start(NULL, answer_as_the_path_says, room);
    *state = room;
    return 0;
}

static int tear_down(void **state)
{
    struct room *room = *state;
    transfers_destroy(&room->transfers);
    assert_null(room->transfers);
    transfers_destroy(&room->transfers);
    http_stub_stop(&room->stub);
    loop_destroy(room->loop);
    free(room);
    return 0;
}

static size_t drop(char *at, size_t size, size_t count, void *owner)
{
    (void) at;
    (void) owner;
    return size * count;
}

static CURL *easy_of(struct room *room, const char *path)
{
    char url[128];
    CURL *easy = curl_easy_init();
    snprintf(url, sizeof(url), "%s%s", http_stub_url(room->stub), path);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, drop);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    return easy;
}

static void add(struct room *room, CURL *easy)
{
    room->inside_add = true;
    assert_true(transfers_add(room->transfers, easy));
    room->inside_add = false;
}

static void run_until_done(struct room *room, int done)
{
    while (room->done < done)
        loop_run_once(room->loop, 1000);
    assert_int_equal(room->done, done);
}

static void run_for(struct room *room, int ms)
{
    mono_ms end = clock_mono_ms() + ms;
    while (clock_mono_ms() < end)
        loop_run_once(room->loop, 10);
}

static void test_transfer_is_done_once_and_the_handle_is_ours_again(void **state)
{
    struct room *room = *state;
    CURL *easy = easy_of(room, "/large");
    long status = 0;
    for (int i = 1; i <= 3; i++) {
        add(room, easy);
        run_until_done(room, i);
        assert_ptr_equal(room->last_easy, easy);
        assert_int_equal(room->last_result, CURLE_OK);
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        assert_int_equal(status, 200);
    }
    run_for(room, 50);
    assert_int_equal(room->done, 3);
    assert_int_equal(http_stub_connections(room->stub), 1); /* kept between */
    curl_easy_cleanup(easy);
}

static void test_many_at_once(void **state)
{
    struct room *room = *state;
    CURL *easies[MANY];
    for (int i = 0; i < MANY; i++)
        add(room, easies[i] = easy_of(room, "/large"));
    run_until_done(room, MANY);
    for (int i = 0; i < MANY; i++)
        curl_easy_cleanup(easies[i]);
    assert_int_equal(http_stub_requests(room->stub), MANY);
}

static void test_errors_are_told(void **state)
{
    struct room *room = *state;
    CURL *easy = easy_of(room, "/close");
    add(room, easy);
    run_until_done(room, 1);
    assert_int_equal(room->last_result, CURLE_GOT_NOTHING);
    curl_easy_setopt(easy, CURLOPT_URL, "http://127.0.0.1:1/");
    add(room, easy);
    run_until_done(room, 2);
    assert_int_equal(room->last_result, CURLE_COULDNT_CONNECT);
    curl_easy_cleanup(easy);
}

static void test_curl_s_own_timer_runs(void **state)
{
    struct room *room = *state;
    CURL *easy = easy_of(room, "/hang");
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 200L);
    mono_ms begun = clock_mono_ms();
    add(room, easy);
    run_until_done(room, 1);
    assert_int_equal(room->last_result, CURLE_OPERATION_TIMEDOUT);
    assert_true(clock_mono_ms() - begun >= 190 && clock_mono_ms() - begun < 20 * 1000);
    curl_easy_cleanup(easy);
}

static void test_removed_transfer_is_never_told_and_its_connection_is_closed(void **state)
{
    struct room *room = *state;
    CURL *easy = easy_of(room, "/hang");
    CURL *at_once = easy_of(room, "/");
    add(room, easy);
    add(room, at_once);
    transfers_remove(room->transfers, at_once);
    while (http_stub_requests(room->stub) < 1)
        loop_run_once(room->loop, 10);
    assert_int_equal(http_stub_open(room->stub), 1);
    transfers_remove(room->transfers, easy);
    for (int i = 0; i < 500 && http_stub_open(room->stub) > 0; i++)
        usleep(10 * 1000);
    assert_int_equal(http_stub_open(room->stub), 0);
    run_for(room, 100);
    assert_int_equal(room->done, 0);
    curl_easy_cleanup(easy);
    curl_easy_cleanup(at_once);
}

static void add_again(struct room *room, void *easy)
{
    if (room->again_left-- > 0)
        add(room, easy);
}

static void test_handle_may_be_added_again_when_done(void **state)
{
    struct room *room = *state;
    CURL *easy = easy_of(room, "/");
    room->then = add_again;
    room->again_left = 9;
    add(room, easy);
    run_until_done(room, 10);
    curl_easy_cleanup(easy);
}

/* Remove and free the other one of the pair, and this one. */
static void remove_both(struct room *room, void *easy)
{
    for (int i = 0; i < 2; i++) {
        if (room->pair[i] != easy)
            transfers_remove(room->transfers, room->pair[i]);
        curl_easy_cleanup(room->pair[i]);
        room->pair[i] = NULL;
    }
}

/* Also when both have ended in one turn, and the other's end was about to be told. */
static void test_another_may_be_removed_and_freed_when_one_is_done(void **state)
{
    struct room *room = *state;
    room->then = remove_both;
    for (int i = 0; i < 50; i++) {
        room->done = 0;
        for (int j = 0; j < 2; j++)
            add(room, room->pair[j] = easy_of(room, "/"));
        int asked = http_stub_requests(room->stub);
        while (http_stub_requests(room->stub) < asked + 2 && room->done == 0)
            loop_run_once(room->loop, 0);
        usleep(2000); /* both answers are there */
        run_until_done(room, 1);
        loop_run_once(room->loop, 0);
        assert_int_equal(room->done, 1);
        assert_null(room->pair[0]);
    }
}

static void test_destroy_closes_idle_connections(void **state)
{
    struct room *room = *state;
    CURL *easy = easy_of(room, "/");
    add(room, easy);
    run_until_done(room, 1);
    assert_int_equal(http_stub_open(room->stub), 1);
    curl_easy_cleanup(easy);
    transfers_destroy(&room->transfers);
    for (int i = 0; i < 500 && http_stub_open(room->stub) > 0; i++)
        usleep(10 * 1000);
    assert_int_equal(http_stub_open(room->stub), 0);
}

/* A connection that the server closed while it was idle is not watched: the loop must not spin on it. */
static void test_loop_rests_when_nothing_is_in_flight(void **state)
{
    struct room *room = *state;
    CURL *easy = easy_of(room, "/");
    add(room, easy);
    run_until_done(room, 1);
    http_stub_stop(&room->stub);
    run_for(room, 100);
    mono_ms begun = clock_mono_ms();
    loop_run_once(room->loop, 200);
    assert_true(clock_mono_ms() - begun >= 190);
    curl_easy_cleanup(easy);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_transfer_is_done_once_and_the_handle_is_ours_again),
        TEST(test_many_at_once),
        TEST(test_errors_are_told),
        TEST(test_curl_s_own_timer_runs),
        TEST(test_removed_transfer_is_never_told_and_its_connection_is_closed),
        TEST(test_handle_may_be_added_again_when_done),
        TEST(test_another_may_be_removed_and_freed_when_one_is_done),
        TEST(test_destroy_closes_idle_connections),
        TEST(test_loop_rests_when_nothing_is_in_flight),
    };
    if (!transfers_global_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
