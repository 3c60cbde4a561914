/* billing/totals: pages and sums are exact, or there is no answer and a reason. */
#include "billing/totals.h"

#include <string.h>
#include <unistd.h>

#include "base/transfers.h"
#include "tests/lib/http_stub.h"
#include "tests/lib/unit.h"

/* A loop that waits for ever must fail, not hang. */
enum { HANG_SECONDS = 120, HOUR_MS = 3600 * 1000, PAGES_MAX = 8, QUESTIONS_MAX = 128 };

static const wall_ms BEGIN = 1795363200000;

struct room {
    struct loop *loop;
    struct fetcher *fetcher;
    struct http_stub *stub;
    struct totals *totals;
    struct provider_policy provider;
    /* Answers by their order. */
    const char *meters[PAGES_MAX], *summaries[PAGES_MAX];
    size_t meter_calls, summary_calls;
    int status;
    bool hangs;
    char paths[QUESTIONS_MAX][256];
    atomic_size_t path_count;
    char authorization[256];
};

struct answer {
    int calls;
    int64_t total;
    char error[256];
    struct totals *totals;
    enum totals_fault fault;
};

static void serve(void *owner, const struct http_stub_request *request, struct http_stub_answer *answer)
{
    struct room *room = owner;
    bool is_summary = strstr(request->path, "event_summaries") != NULL;
    size_t *place = is_summary ? &room->summary_calls : &room->meter_calls;
    const char *const *pages = is_summary ? room->summaries : room->meters;
    answer->status = room->status;
    answer->hang = room->hangs;
    snprintf(room->authorization, sizeof room->authorization, "%s", request->authorization);
    memcpy(room->paths[room->path_count % QUESTIONS_MAX], request->path, 256);
    room->path_count++;
    while (*place > 0 && pages[*place] == NULL)
        --*place;
    answer->body = room->status != 200     ? "{\"error\":{\"message\":\"no sk_secret here\"}}"
                   : pages[*place] != NULL ? pages[*place]
                                           : "{}";
    ++*place;
}

static int set_up(void **state)
{
    struct room *room = calloc(1, sizeof *room);
    alarm(HANG_SECONDS);
    room->status = 200;
    room->loop = loop_create();
    room->fetcher = fetcher_create(room->loop);
    room->stub = http_stub_start(NULL, serve, room);
    room->totals = totals_create(room->fetcher);
    assert_non_null(room->totals);
    room->provider = (struct provider_policy){
        .kind = PROVIDER_STRIPE, .api_base = http_stub_url(room->stub), .api_key = {"sk_secret"}};
    *state = room;
    return 0;
}

static int tear_down(void **state)
{
    struct room *room = *state;
    totals_destroy(&room->totals);
    assert_null(room->totals);
    totals_destroy(&room->totals);
    fetcher_destroy(&room->fetcher);
    http_stub_stop(&room->stub);
    loop_destroy(room->loop);
    free(room);
    return 0;
}

static void receive(void *owner, int64_t total, const char *error)
{
    struct answer *answer = owner;
    answer->calls++;
    answer->total = total;
    answer->fault = totals_fault(answer->totals);
    snprintf(answer->error, sizeof answer->error, "%s", error);
}

static void begin(struct room *room, const char *customer, struct answer *answer)
{
    const struct totals_question question = {
        .provider = &room->provider, .event_name = "out", .customer = customer, .from = BEGIN, .to = BEGIN + HOUR_MS};
    answer->totals = room->totals;
    assert_true(totals_ask(room->totals, &question, receive, answer));
}

static struct answer ask(struct room *room, const char *customer)
{
    struct answer answer = {0};
    begin(room, customer, &answer);
    assert_int_equal(answer.calls, 0);
    while (answer.calls == 0)
        loop_run_once(room->loop, 1000);
    loop_run_once(room->loop, 0);
    assert_int_equal(answer.calls, 1);
    return answer;
}

#define METERS                                                                                                         \
    "{\"data\":[{\"id\":\"m 1\",\"event_name\":\"in\"},{\"id\":\"m 2\",\"event_name\":\"out\"}],\"has_more\":false}"
#define SUMMARY(value) "{\"data\":[{\"id\":\"s1\",\"aggregated_value\":" value "}],\"has_more\":false}"

static void test_the_total_of_an_hour(void **state)
{
    struct room *room = *state;
    room->meters[0] = METERS;
    room->summaries[0] = SUMMARY("123.0");
    struct answer answer = ask(room, "cus 1&x");
    assert_string_equal(answer.error, "");
    assert_true(answer.total == 123);
    assert_string_equal(room->authorization, "Bearer sk_secret");
    assert_string_equal(room->paths[0], "/v1/billing/meters?limit=100&status=active");
    assert_string_equal(room->paths[1], "/v1/billing/meters/m%202/event_summaries?limit=100&value_grouping_window=hour"
                                        "&customer=cus%201%26x&start_time=1795363200&end_time=1795366800");
    room->summaries[0] = "{\"data\":[],\"has_more\":false}"; /* nothing is 0; the meter is known now */
    answer = ask(room, "cus");
    assert_string_equal(answer.error, "");
    assert_true(answer.total == 0);
    assert_int_equal(room->path_count, 3);
}

static void test_pages_are_added_up(void **state)
{
    struct room *room = *state;
    room->meters[0] = "{\"data\":[{\"id\":\"m1\",\"event_name\":\"in\"}],\"has_more\":true}";
    room->meters[1] = "{\"data\":[{\"id\":\"m2\",\"event_name\":\"out\"}],\"has_more\":true}";
    room->summaries[0] = "{\"data\":[{\"id\":\"s1\",\"aggregated_value\":1},{\"id\":\"s2\",\"aggregated_value\":2e1}],"
                         "\"has_more\":true}";
    room->summaries[1] = SUMMARY("9007199254740991");
    struct answer answer = ask(room, "cus");
    assert_string_equal(answer.error, "");
    assert_true(answer.total == 9007199254740991 + 21);
    assert_string_equal(room->paths[1], "/v1/billing/meters?limit=100&status=active&starting_after=m1");
    assert_non_null(strstr(room->paths[3], "&starting_after=s2"));
    assert_int_equal(room->path_count, 4);
}

static void test_what_is_no_exact_total_is_none(void **state)
{
    struct room *room = *state;
    static const char *const WRONG[] = {
        SUMMARY("1.5"),
        SUMMARY("1e300"),
        SUMMARY("9007199254740994.0"),
        SUMMARY("\"12\""),
        SUMMARY("null"),
        "{\"data\":[{\"id\":\"s1\",\"aggregated_value\":9223372036854775807},"
        "{\"id\":\"s2\",\"aggregated_value\":1}],\"has_more\":false}",
        "{\"data\":[{\"aggregated_value\":1}],\"has_more\":false}",
        "{\"data\":{}}",
        "[]",
        "<html>",
        "",
        SUMMARY("123456789012345678901234567890"),
    };
    room->meters[0] = METERS;
    for (size_t i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++) {
        room->summaries[0] = WRONG[i];
        assert_string_not_equal(ask(room, "cus").error, "");
    }
}

static void test_why_there_is_no_answer(void **state)
{
    struct room *room = *state;
    room->meters[0] = "{\"data\":[],\"has_more\":false}";
    assert_string_equal(ask(room, "cus").error, "the provider has no active meter with this event name");
    room->meters[0] = "{\"data\":[{\"id\":\"m1\",\"event_name\":\"in\"}],\"has_more\":true}"; /* for ever */
    assert_string_equal(ask(room, "cus").error, "the provider's list has too many pages");
    room->status = 401;
    assert_string_equal(ask(room, "cus").error, "401: the API key is not accepted");
    room->status = 0;
    assert_string_equal(ask(room, "cus").error, "no answer");
    room->status = 302;
    assert_non_null(strstr(ask(room, "cus").error, "302"));
}

static void test_what_an_error_is_about(void **state)
{
    struct room *room = *state;
    room->meters[0] = "{\"data\":[],\"has_more\":false}";
    assert_int_equal(ask(room, "cus").fault, TOTALS_FAULT_METER);
    room->status = 404; /* of the list: the address is wrong */
    assert_int_equal(ask(room, "cus").fault, TOTALS_FAULT_PROVIDER);
    room->status = 200;
    room->meters[0] = METERS;
    room->summaries[0] = SUMMARY("1.5");
    assert_int_equal(ask(room, "cus").fault, TOTALS_FAULT_QUESTION);
    static const struct {
        int status;
        enum totals_fault fault;
    } CASES[] = {{400, TOTALS_FAULT_QUESTION}, {404, TOTALS_FAULT_QUESTION}, {401, TOTALS_FAULT_PROVIDER},
                 {429, TOTALS_FAULT_PROVIDER}, {500, TOTALS_FAULT_PROVIDER}, {0, TOTALS_FAULT_PROVIDER}};
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        room->status = 200;
        room->summaries[0] = SUMMARY("1");
        assert_string_equal(ask(room, "cus").error, "");
        room->status = CASES[i].status;
        assert_int_equal(ask(room, "cus").fault, CASES[i].fault);
    }
}

/* Somebody made the meter anew: its id is asked for again. */
static void test_a_failed_question_forgets_the_meters(void **state)
{
    struct room *room = *state;
    room->meters[0] = METERS;
    room->summaries[0] = SUMMARY("1");
    assert_string_equal(ask(room, "cus").error, "");
    room->status = 404;
    assert_string_not_equal(ask(room, "cus").error, "");
    room->status = 200;
    assert_string_equal(ask(room, "cus").error, "");
    assert_string_equal(room->paths[3], room->paths[0]);
    assert_int_equal(room->path_count, 2 + 1 + 2);
}

static void test_questions_wait_for_one_another(void **state)
{
    struct room *room = *state;
    struct answer answers[20] = {0};
    room->meters[0] = METERS;
    room->summaries[0] = SUMMARY("7");
    for (size_t i = 0; i < 20; i++)
        begin(room, "cus", &answers[i]);
    for (size_t i = 0; i < 20; i++) {
        while (answers[i].calls == 0)
            loop_run_once(room->loop, 1000);
        assert_true(answers[i].total == 7 && answers[i].error[0] == '\0');
    }
    assert_int_equal(http_stub_requests(room->stub), 21);
}

static void test_destroy_cancels_what_is_asked(void **state)
{
    struct room *room = *state;
    struct answer answers[3] = {0};
    room->hangs = true;
    for (size_t i = 0; i < 3; i++)
        begin(room, "cus", &answers[i]);
    while (http_stub_requests(room->stub) < 1)
        loop_run_once(room->loop, 10);
    totals_destroy(&room->totals);
    loop_run_once(room->loop, 0);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(answers[i].calls, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_total_of_an_hour),           TEST(test_pages_are_added_up),
        TEST(test_what_is_no_exact_total_is_none), TEST(test_why_there_is_no_answer),
        TEST(test_what_an_error_is_about),         TEST(test_a_failed_question_forgets_the_meters),
        TEST(test_questions_wait_for_one_another), TEST(test_destroy_cancels_what_is_asked),
    };
    if (!transfers_global_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
