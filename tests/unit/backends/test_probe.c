/* What engines answer to probes, and what remote instances become of it. */
#include "backends/probe.h"

#include <string.h>
#include <unistd.h>

#include "backends/dialect.h"
#include "backends/fleet_private.h"
#include "backends/upkeep.h"
#include "base/transfers.h"
#include "tests/lib/fleet_room.h"
#include "tests/lib/unit.h"

enum { HANG_SECONDS = 240 };

/* ---- one probe against canned answers ---- */

struct canned {
    const char *path;
    int status;
    const char *body;
};

struct room {
    struct loop *loop;
    struct fetcher *fetcher;
    struct http_stub *stub;
    const struct canned *canned;
    char last_body[512];
    int answers;
    int done;
    bool passed;
    char evidence[PROBE_EVIDENCE_BYTES];
    int slots;
    int64_t context_tokens;
};

static void answer_canned(void *owner, const struct http_stub_request *request, struct http_stub_answer *answer)
{
    struct room *room = owner;
    answer->status = 404;
    snprintf(room->last_body, sizeof(room->last_body), "%.500s", request->body);
    for (const struct canned *canned = room->canned; canned->path != NULL; canned++) {
        if (strcmp(canned->path, request->path) != 0)
            continue;
        answer->status = canned->status;
        answer->body = canned->body;
        return;
    }
}

static void note_answers(void *owner, const char *evidence)
{
    (void) evidence;
    ((struct room *) owner)->answers++;
}

static void note_done(void *owner, const struct probe_result *result)
{
    struct room *room = owner;
    room->done++;
    room->passed = result->passed;
    room->slots = result->slots;
    room->context_tokens = result->context_tokens;
    snprintf(room->evidence, sizeof(room->evidence), "%s", result->evidence);
}

static const struct probe_events EVENTS = {.answers = note_answers, .done = note_done};

static int open_room(void **state)
{
    struct room *room = calloc(1, sizeof(*room));
    alarm(HANG_SECONDS);
    room->loop = loop_create();
    room->fetcher = fetcher_create(room->loop);
    room->stub = http_stub_start(NULL, answer_canned, room);
    *state = room;
    return 0;
}

static int close_room(void **state)
{
    struct room *room = *state;
    fetcher_destroy(&room->fetcher);
    http_stub_stop(&room->stub);
    loop_destroy(room->loop);
    free(room);
    return 0;
}

static void probe_it(struct room *room, enum probe_kind kind, struct probe_target target, const struct canned *canned)
{
    target.base_url = http_stub_url(room->stub);
    target.engine_model = "gemma";
    room->canned = canned;
    room->answers = room->done = 0;
    assert_non_null(probe_start(room->fetcher, kind, &target, &EVENTS, room));
    while (room->done == 0)
        loop_run_once(room->loop, 1000);
    loop_run_once(room->loop, 0);
    assert_int_equal(room->done, 1);
}

#define LISTED                                                                                                         \
    {                                                                                                                  \
        "/v1/models", 200, "{\"data\":[{\"id\":\"other\"},{\"id\":\"gemma\",\"max_model_len\":2048}]}"                 \
    }
#define HEALTHY                                                                                                        \
    {                                                                                                                  \
        "/health", 200, ""                                                                                             \
    }
#define GENERATES                                                                                                      \
    {                                                                                                                  \
        "/v1/completions", 200, "{\"choices\":[{}]}"                                                                   \
    }
#define END                                                                                                            \
    {                                                                                                                  \
        NULL, 0, NULL                                                                                                  \
    }

static void expect_ready(struct room *room, enum engine_dialect dialect, const struct canned *canned)
{
    probe_it(room, PROBE_READINESS, (struct probe_target){.dialect = dialect}, canned);
    if (!room->passed)
        fail_msg("not ready: %s", room->evidence);
    assert_int_equal(room->answers, 1);
}

static void expect_not_ready(struct room *room, const struct canned *canned, int answers, const char *evidence)
{
    probe_it(room, PROBE_READINESS, (struct probe_target){.dialect = DIALECT_OPENAI}, canned);
    assert_false(room->passed);
    assert_int_equal(room->answers, answers);
    if (strstr(room->evidence, evidence) == NULL)
        fail_msg("evidence is: %s", room->evidence);
}

static void test_dialects_say_slots_and_context_in_their_own_places(void **state)
{
    struct room *room = *state;
    const struct canned vllm[] = {HEALTHY, LISTED, GENERATES, END};
    expect_ready(room, DIALECT_VLLM, vllm);
    assert_int_equal(room->slots, 0);
    assert_int_equal(room->context_tokens, 2048);
    const struct canned llamacpp[] = {
        HEALTHY,
        LISTED,
        GENERATES,
        {"/props", 200, "{\"total_slots\":4,\"default_generation_settings\":{\"n_ctx\":512}}"},
        END};
    expect_ready(room, DIALECT_LLAMACPP, llamacpp);
    assert_int_equal(room->slots, 4);
    assert_int_equal(room->context_tokens, 512);
    expect_ready(room, DIALECT_OPENAI, llamacpp);
    assert_int_equal(room->slots, 0);
    assert_int_equal(room->context_tokens, 0);
}

static void test_nonsense_about_slots_is_not_believed(void **state)
{
    struct room *room = *state;
    static const char *const BODIES[] = {"{\"total_slots\":-1}",
                                         "{\"total_slots\":1e30}",
                                         "{\"total_slots\":\"4\"}",
                                         "[]",
                                         "",
                                         "{",
                                         "{\"total_slots\":99999999999}",
                                         "{\"default_generation_settings\":7}",
                                         "null"};
    for (size_t i = 0; i < sizeof(BODIES) / sizeof(BODIES[0]); i++) {
        const struct canned canned[] = {HEALTHY, LISTED, GENERATES, {"/props", 200, BODIES[i]}, END};
        expect_ready(room, DIALECT_LLAMACPP, canned);
        assert_int_equal(room->slots, 0);
        assert_int_equal(room->context_tokens, 0);
    }
}

static void test_model_may_be_listed_in_several_ways(void **state)
{
    struct room *room = *state;
    static const char *const BODIES[] = {
        "{\"data\":[{\"id\":\"gemma\"}]}",
        "{\"models\":[{\"name\":\"gemma\"}]}",
        "{\"models\":[{\"model\":\"gemma\"}],\"data\":[]}",
        "{\"data\":[{\"id\":\"/models/x.gguf\",\"aliases\":[\"a\",\"gemma\"]}]}",
    };
    for (size_t i = 0; i < sizeof(BODIES) / sizeof(BODIES[0]); i++) {
        const struct canned canned[] = {HEALTHY, GENERATES, {"/v1/models", 200, BODIES[i]}, END};
        expect_ready(room, DIALECT_OPENAI, canned);
    }
}

static void test_what_is_missing_is_told(void **state)
{
    struct room *room = *state;
    const struct canned loading[] = {{"/health", 503, "{\"error\":{\"message\":\"Loading model\"}}"}, LISTED, END};
    expect_not_ready(room, loading, 0, "GET /health answered 503");
    const struct canned foreign[] = {HEALTHY, {"/v1/models", 200, "{\"data\":[{\"id\":\"qwen\"}]}"}, GENERATES, END};
    expect_not_ready(room, foreign, 0, "lists qwen, not gemma");
    const struct canned empty[] = {HEALTHY, {"/v1/models", 200, "{}"}, GENERATES, END};
    expect_not_ready(room, empty, 0, "lists no model, not gemma");
    const struct canned broken[] = {HEALTHY, LISTED, {"/v1/completions", 500, "{}"}, END};
    expect_not_ready(room, broken, 1, "POST /v1/completions answered 500");
    const struct canned hollow[] = {HEALTHY, LISTED, {"/v1/completions", 200, "{\"choices\":[]}"}, END};
    expect_not_ready(room, hollow, 1, "without a result");
    const struct canned neither[] = {HEALTHY, LISTED, END};
    expect_not_ready(room, neither, 1, "POST /v1/chat/completions answered 404");
}

static void test_engines_without_health_or_list_or_completions_pass(void **state)
{
    struct room *room = *state;
    const struct canned bare[] = {{"/v1/chat/completions", 200, "{\"choices\":[{}]}"}, END};
    expect_ready(room, DIALECT_OPENAI, bare);
    assert_non_null(strstr(room->last_body, "\"messages\":[{"));
    assert_non_null(strstr(room->last_body, "\"model\":\"gemma\""));
    assert_non_null(strstr(room->last_body, "\"max_tokens\":1"));
}

static void test_embedding_engine_is_asked_for_an_embedding(void **state)
{
    struct room *room = *state;
    const struct canned embeds[] = {HEALTHY, LISTED, {"/v1/embeddings", 200, "{\"data\":[{}]}"}, END};
    probe_it(room, PROBE_READINESS, (struct probe_target){.embeddings_only = true}, embeds);
    assert_true(room->passed);
    const struct canned generates[] = {HEALTHY, LISTED, GENERATES, {"/v1/embeddings", 501, "{}"}, END};
    probe_it(room, PROBE_READINESS, (struct probe_target){.embeddings_only = true}, generates);
    assert_false(room->passed);
}

static void test_cancelled_probe_is_silent(void **state)
{
    struct room *room = *state;
    static const struct canned canned[] = {HEALTHY, LISTED, GENERATES, END};
    struct probe_target target = {.base_url = http_stub_url(room->stub), .engine_model = "gemma"};
    room->canned = canned;
    for (int turns = 0; turns < 12; turns++) {
        room->done = 0;
        struct probe *probe = probe_start(room->fetcher, PROBE_READINESS, &target, &EVENTS, room);
        for (int i = 0; i < turns && room->done == 0; i++)
            loop_run_once(room->loop, 2);
        if (room->done > 0)
            continue;
        probe_cancel(&probe);
        assert_null(probe);
        probe_cancel(&probe);
        loop_run_once(room->loop, 20);
        assert_int_equal(room->done, 0);
    }
}

static void test_dialect_table_is_complete(void **state)
{
    (void) state;
    for (int i = 0; i < DIALECT_COUNT; i++) {
        const struct dialect *dialect = dialect_of((enum engine_dialect) i);
        assert_string_equal(dialect->name, DIALECT_NAMES[i]);
        assert_int_equal(dialect->slots_path == NULL, dialect->slots_key == NULL);
    }
}

/* ---- remote instances ---- */

static void test_unreachable_engine_is_asked_again_until_it_is_there(void **state)
{
    (void) state;
    struct fleet_room room = {0};
    struct stub_engine engine = {0};
    struct noted_waiter noted;
    char path[64];
    char url[80];
    snprintf(path, sizeof(path), "/tmp/tollgate-test-probe-%d.sock", (int) getpid());
    snprintf(url, sizeof(url), "unix:%s", path);
    unlink(path);
    fleet_room_open(&room);
    fleet_room_add(&room, url);
    fleet_room_apply(&room);
    fleet_room_until_told(&room, "BACKOFF");
    assert_true(fleet_room_tells(&room, "cannot connect to /tmp/"));
    assert_int_equal(noted_take(&room, &noted, NULL), LEASE_WAITING);
    stub_engine_start(&engine, path);
    while (noted.granted == 0)
        loop_run_once(room.control, 100);
    assert_string_equal(lease_target(noted.lease)->socket_path, path);
    assert_string_equal(lease_target(noted.lease)->base_url, "http://localhost");
    lease_end(&noted.lease, LEASE_OK);
    stub_engine_stop(&engine);
    unlink(path);
    fleet_room_close(&room);
}

static void test_engine_that_cannot_generate_is_not_ready(void **state)
{
    (void) state;
    struct fleet_room room = {0};
    struct stub_engine engine = {.no_token = true};
    fleet_room_open(&room);
    stub_engine_start(&engine, NULL);
    fleet_room_add(&room, http_stub_url(engine.stub));
    fleet_room_apply(&room);
    fleet_room_until_told(&room, "POST /v1/completions answered 500");
    assert_int_equal(fleet_room_status(&room).ready, 0);
    engine.no_token = false;
    fleet_room_until_ready(&room, 1);
    stub_engine_stop(&engine);
    fleet_room_close(&room);
}

static void test_key_goes_to_the_engine_and_nowhere_else(void **state)
{
    (void) state;
    struct fleet_room room = {0};
    struct stub_engine engine = {.chat_only = true};
    struct noted_waiter noted;
    fleet_room_open(&room);
    stub_engine_start(&engine, NULL);
    fleet_room_add(&room, http_stub_url(engine.stub))->api_key._bytes = "open-sesame";
    fleet_room_apply(&room);
    fleet_room_until_ready(&room, 1);
    assert_string_equal(engine.last_authorization, "Bearer open-sesame");
    assert_int_equal(engine.tokens_asked, 2);
    assert_false(fleet_room_tells(&room, "sesame"));
    assert_int_equal(noted_take(&room, &noted, NULL), LEASE_TAKEN);
    assert_string_equal(lease_target(noted.lease)->api_key, "open-sesame");
    lease_end(&noted.lease, LEASE_OK);
    stub_engine_stop(&engine);
    fleet_room_close(&room);
}

/* ---- READY ones ---- */

/* As if the instance had been quiet for @quiet_ms and two probes had failed. */
static struct instance *age(struct fleet_room *room, size_t at, mono_ms quiet_ms)
{
    struct instance *instance = room->fleet->lines->instances[at];
    instance->last_progress = clock_mono_ms() - quiet_ms;
    instance->liveness.failures = LIVENESS_FAILURES_MAX - 1;
    return instance;
}

/* One probe later the quiet one and the hung one are out, the one that generates is not. */
static void test_dead_is_who_neither_answers_nor_generates(void **state)
{
    (void) state;
    struct fleet_room room = {0};
    struct stub_engine engines[3] = {0};
    struct noted_waiter noted;
    fleet_room_open(&room);
    for (int i = 0; i < 3; i++) {
        stub_engine_start(&engines[i], NULL);
        fleet_room_add(&room, http_stub_url(engines[i].stub));
    }
    fleet_room_apply(&room);
    fleet_room_until_ready(&room, 3);
    engines[0].health = 500; /* quiet */
    age(&room, 0, LIVENESS_PROGRESS_MS * 2);
    engines[1].health = 500; /* saturated */
    age(&room, 1, 0);
    engines[2].no_token = true; /* hung, its /health stays 200 */
    age(&room, 2, LIVENESS_WEDGED_MS * 2)->silent_since = clock_mono_ms() - LIVENESS_WEDGED_MS - 1;
    mono_ms end = clock_mono_ms() + UPKEEP_LIVENESS_MS * 4;
    while (fleet_room_status(&room).ready > 1 && clock_mono_ms() < end)
        loop_run_once(room.control, 100);
    fleet_room_run(&room, 1000);
    assert_true(fleet_room_tells(&room, "dead: no progress, and 3 probes failed: GET /health answered 500"));
    assert_true(fleet_room_tells(&room, "dead: no progress, and 3 probes failed: POST /v1/completions answered 500"));
    assert_int_equal(noted_take(&room, &noted, NULL), LEASE_TAKEN);
    assert_string_equal(lease_target(noted.lease)->engine, "m/2");
    lease_end(&noted.lease, LEASE_OK);
    fleet_room_close(&room);
    for (int i = 0; i < 3; i++)
        stub_engine_stop(&engines[i]);
}

#define PROBE_TEST(name) cmocka_unit_test_setup_teardown(name, open_room, close_room)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROBE_TEST(test_dialects_say_slots_and_context_in_their_own_places),
        PROBE_TEST(test_nonsense_about_slots_is_not_believed),
        PROBE_TEST(test_model_may_be_listed_in_several_ways),
        PROBE_TEST(test_what_is_missing_is_told),
        PROBE_TEST(test_engines_without_health_or_list_or_completions_pass),
        PROBE_TEST(test_embedding_engine_is_asked_for_an_embedding),
        PROBE_TEST(test_cancelled_probe_is_silent),
        cmocka_unit_test(test_dialect_table_is_complete),
        cmocka_unit_test(test_unreachable_engine_is_asked_again_until_it_is_there),
        cmocka_unit_test(test_engine_that_cannot_generate_is_not_ready),
        cmocka_unit_test(test_key_goes_to_the_engine_and_nowhere_else),
        cmocka_unit_test(test_dead_is_who_neither_answers_nor_generates),
    };
    if (!transfers_global_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
