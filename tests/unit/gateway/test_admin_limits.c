/* Buckets as JSON: whom a query names, what is told of him, and what is no query. */
#include <string.h>

#include "conf/snapshot.h"
#include "gateway/admin_limits.h"
#include "tests/lib/limiter_room.h"
#include "tests/lib/unit.h"

static struct room room;
static struct buffer answer;
static char message[ADMIN_LIMITS_MESSAGE_BYTES];

/* The room's key belongs to alice, and its model has an alias. */
static int set_up(void **state)
{
    (void) state;
    room_open(&room);
    room.key.user = "alice";
    buffer_init(&answer, 16 * 1024 * 1024);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    buffer_finish(&answer);
    room_close(&room);
    return 0;
}

/* The room's policy as one that was loaded: models are found by name. */
static const struct policy *loaded(void)
{
    static struct model_name names[2];
    static struct snapshot snapshot;
    names[0] = (struct model_name){TEXT("gemma"), &room.model};
    names[1] = (struct model_name){TEXT("small"), &room.model};
    snapshot = (struct snapshot){.policy = room.policy, .names = names, .name_count = 2};
    return &snapshot.policy;
}

static int ask(const char *query)
{
    buffer_clear(&answer);
    strcpy(message, "");
    int status = admin_limits_write(room.limiter, loaded(), text_of(query), &answer, message);
    assert_true(buffer_add(&answer, (struct text){"", 1}));
    assert_int_equal(status == 200, message[0] == '\0');
    return status;
}

static bool answer_has(const char *part)
{
    return strstr(buffer_text(&answer).at, part) != NULL;
}

static int answer_count(const char *part)
{
    int count = 0;
    for (const char *at = buffer_text(&answer).at; (at = strstr(at, part)) != NULL; at++)
        count++;
    return count;
}

static void limit_everything(void)
{
    room.key.limits = (struct limits){.requests_per_minute = 10, .origin = "a.yaml:3:5"};
    room.tenant.limits = (struct limits){.concurrent_requests = 4, .origin = "a.yaml:1:5"};
    room.model.limits =
        (struct limits){.tokens_per_minute = 900, .on_exceed = ON_EXCEED_CUT, .origin = "b \"c\".yaml:9:5"};
    room.policy.user_limits = (struct limits){.requests_per_minute = 7, .origin = "a.yaml:7:7"};
    room_apply(&room);
}

static void nothing_is_limited(void **state)
{
    (void) state;
    room_apply(&room);
    assert_int_equal(ask(NULL), 200);
    assert_string_equal(buffer_text(&answer).at, "{\"limits\":[],\"complete\":true}\n");
    assert_int_equal(ask(""), 200);
    assert_string_equal(buffer_text(&answer).at, "{\"limits\":[],\"complete\":true}\n");
}

static void all_buckets_are_told(void **state)
{
    (void) state;
    limit_everything();
    assert_int_equal(ask(NULL), 200);
    assert_int_equal(answer_count("\"scope\""), 3); /* no user was here */
    assert_true(answer_has("{\"kind\":\"requests\",\"scope\":\"key\",\"name\":\"acme/ci\",\"origin\":\"a.yaml:3:5\","
                           "\"limit\":10,\"capacity\":10,\"balance\":10.000,\"held\":0.000,\"full_in_ms\":0,"
                           "\"on_exceed\":\"soft\"}"));
    assert_true(answer_has("\"kind\":\"seats\",\"scope\":\"tenant\",\"name\":\"acme\""));
    assert_true(answer_has("\"origin\":\"b \\\"c\\\".yaml:9:5\",\"limit\":900"));
    assert_true(answer_has("\"on_exceed\":\"cut\"}"));
}

static void subject_is_told_what_applies_to_it(void **state)
{
    (void) state;
    limit_everything();
    assert_int_equal(ask("tenant=acme&key=ci&model=small"), 200);
    assert_true(answer_has("{\"tenant\":\"acme\",\"key\":\"ci\",\"user\":\"alice\",\"model\":\"gemma\",\"limits\":["));
    assert_int_equal(answer_count("\"scope\""), 4);
    assert_true(answer_has("\"name\":\"acme/user/alice\",\"origin\":\"a.yaml:7:7\""));
    assert_int_equal(ask("model=gemma"), 200);
    assert_int_equal(answer_count("\"scope\""), 1);
    assert_int_equal(ask("tenant=acme"), 200);
    assert_int_equal(answer_count("\"scope\""), 1);
    assert_int_equal(ask("key=ci&tenant=acme"), 200);
    assert_int_equal(answer_count("\"scope\""), 3);
    assert_int_equal(ask("tenant=acme&user=b%6fb+%22%26"), 200);
    assert_true(answer_has("\"user\":\"bob \\\"&\",\"model\":\"\""));
    assert_true(answer_has("\"name\":\"acme/user/bob \\\"&\""));
}

static void what_is_not_there_is_404(void **state)
{
    (void) state;
    limit_everything();
    assert_int_equal(ask("tenant=globex"), 404);
    assert_non_null(strstr(message, "tenant"));
    assert_int_equal(ask("tenant=acme&key=cd"), 404);
    assert_non_null(strstr(message, "key"));
    assert_int_equal(ask("tenant=acme&key=ci&model=gemmb"), 404);
    assert_non_null(strstr(message, "model"));
}

static void what_is_no_query_is_400(void **state)
{
    (void) state;
    limit_everything();
    static const char *const WRONG[] = {
        "key=ci",
        "user=alice",
        "tenant",
        "tenant=",
        "tenant=acme&tenant=acme",
        "x=1",
        "tenant=acme&",
        "&tenant=acme",
        "tenant=a%",
        "tenant=a%4",
        "tenant=%00",
        "tenant=%zz",
        "=",
        "&",
        "%",
        "Tenant=acme",
        "tenant=acme&&key=ci",
    };
    for (size_t i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++) {
        int expected = strcmp(WRONG[i], "tenant=acme&") == 0 ? 200 : 400; /* nothing follows: no parameter */
        assert_int_equal(ask(WRONG[i]), expected);
    }
    char longest[16 + ADMIN_LIMITS_NAME_BYTES] = "tenant=acme";
    memset(longest + 7, 'a', ADMIN_LIMITS_NAME_BYTES - 1);
    assert_int_equal(ask(longest), 404);
    memset(longest + 7, 'a', ADMIN_LIMITS_NAME_BYTES);
    assert_int_equal(ask(longest), 400);
}

static void too_many_buckets_are_not_complete(void **state)
{
    (void) state;
    room.policy.user_limits = (struct limits){.requests_per_minute = 7};
    room_apply(&room);
    for (int user = 0; user <= ADMIN_LIMITS_MAX; user++) {
        char name[24];
        struct reservation reservation;
        struct limit_answer verdict;
        snprintf(name, sizeof name, "user-%d", user);
        struct limit_subject subject = SUBJECT;
        subject.user = name;
        if (user == ADMIN_LIMITS_MAX) {
            assert_int_equal(ask(NULL), 200);
            assert_int_equal(answer_count("\"scope\""), ADMIN_LIMITS_MAX);
            assert_true(answer_has("\"complete\":true}"));
        }
        assert_int_equal(room_reserve_as(&room, &subject, 1, &reservation, &verdict), LIMIT_ADMITTED);
        limiter_settle(room.limiter, &reservation, 1, room.now);
    }
    assert_int_equal(ask(NULL), 200);
    assert_int_equal(answer_count("\"scope\""), ADMIN_LIMITS_MAX);
    assert_true(answer_has("\"complete\":false}"));
}

static void answer_that_does_not_fit_is_500(void **state)
{
    (void) state;
    limit_everything();
    for (size_t room_bytes = 0; room_bytes < 400; room_bytes += 7) {
        struct buffer small;
        buffer_init(&small, room_bytes);
        assert_int_equal(admin_limits_write(room.limiter, loaded(), TEXT(""), &small, message), 500);
        buffer_finish(&small);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_is_limited, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_buckets_are_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(subject_is_told_what_applies_to_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_there_is_404, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_no_query_is_400, set_up, tear_down),
        cmocka_unit_test_setup_teardown(too_many_buckets_are_not_complete, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answer_that_does_not_fit_is_500, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
