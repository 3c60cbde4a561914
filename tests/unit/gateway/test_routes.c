#include "gateway/routes.h"

#include "tests/lib/unit.h"

static void test_routes(void **state)
{
    static const struct {
        enum http_method method;
        const char *path;
        enum route_result result;
        enum route_kind kind;
        enum endpoint endpoint;
    } cases[] = {
        {HTTP_POST, "/v1/completions", ROUTE_FOUND, ROUTE_GENERATE, ENDPOINT_COMPLETIONS},
        {HTTP_POST, "/v1/chat/completions", ROUTE_FOUND, ROUTE_GENERATE, ENDPOINT_CHAT},
        {HTTP_POST, "/v1/embeddings", ROUTE_FOUND, ROUTE_GENERATE, ENDPOINT_EMBEDDINGS},
        {HTTP_GET, "/v1/models", ROUTE_FOUND, ROUTE_MODELS, ENDPOINT_MODELS},
        {HTTP_GET, "/health", ROUTE_FOUND, ROUTE_HEALTH, ENDPOINT_COUNT},
        {HTTP_OPTIONS, "/anything", ROUTE_FOUND, ROUTE_OPTIONS, ENDPOINT_COUNT},
        {HTTP_GET, "/v1/completions", ROUTE_WRONG_METHOD, ROUTE_GENERATE, ENDPOINT_COMPLETIONS},
        {HTTP_POST, "/v1/models", ROUTE_WRONG_METHOD, ROUTE_MODELS, ENDPOINT_MODELS},
        {HTTP_POST, "/v1/models/m", ROUTE_WRONG_METHOD, ROUTE_MODEL, ENDPOINT_MODELS},
        {HTTP_OTHER, "/health", ROUTE_WRONG_METHOD, ROUTE_HEALTH, ENDPOINT_COUNT},
        {HTTP_POST, "/v1/responses", ROUTE_NOT_SERVED, 0, 0},
        {HTTP_GET, "/v1/files/file-1", ROUTE_NOT_SERVED, 0, 0},
        {HTTP_GET, "/v1/chat/completions/c-1", ROUTE_NOT_SERVED, 0, 0},
        {HTTP_POST, "/v1/audio/speech", ROUTE_NOT_SERVED, 0, 0},
        {HTTP_GET, "/", ROUTE_UNKNOWN, 0, 0},
        {HTTP_GET, "/v1/models/", ROUTE_UNKNOWN, 0, 0},
        {HTTP_POST, "/v1/completions/", ROUTE_UNKNOWN, 0, 0},
        {HTTP_POST, "/v1/completion", ROUTE_UNKNOWN, 0, 0},
        {HTTP_POST, "/V1/completions", ROUTE_UNKNOWN, 0, 0},
        {HTTP_GET, "/metrics", ROUTE_UNKNOWN, 0, 0},
        {HTTP_GET, "/admin/v1/requests", ROUTE_UNKNOWN, 0, 0},
        {HTTP_GET, "/v1/filesystem", ROUTE_UNKNOWN, 0, 0},
    };
    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct route route = {0};
        enum route_result result = route_find(cases[i].method, text_of(cases[i].path), &route);
        if (result != cases[i].result)
            fail_msg("%s: %d", cases[i].path, (int) result);
        if (result == ROUTE_FOUND || result == ROUTE_WRONG_METHOD) {
            assert_int_equal(route.kind, cases[i].kind);
            assert_int_equal(route.endpoint, cases[i].endpoint);
        }
    }
}

static void test_the_model_of_a_path_stays_escaped(void **state)
{
    struct route route;
    (void) state;
    assert_int_equal(route_find(HTTP_GET, TEXT("/v1/models/org%2Fm:8b/x"), &route), ROUTE_FOUND);
    assert_true(text_equal(route.model, TEXT("org%2Fm:8b/x")));
    assert_int_equal(route_find(HTTP_GET, TEXT("/v1/models"), &route), ROUTE_FOUND);
    assert_int_equal(route.model.length, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_the_model_of_a_path_stays_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
