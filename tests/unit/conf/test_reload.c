/* The policy in force while files come and go, good and bad, under many readers. The tests go on from one another. */
#include "tests/unit/conf/scratch_policy.h"

#include <malloc.h>
#include <pthread.h>

#include "base/metrics.h"
#include "conf/reload.h"

#define DIGEST  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define ENGINES "engines: [ { url: 'http://127.0.0.1:8000', api_key_file: gpu.key } ]"
#define TENANTS "tenants: { acme: { keys: { ci: { sha256: " DIGEST " } } } }\n"

static const char *const one_model = "models: { one: { " ENGINES " } }\n" TENANTS;
static const char *const two_models = "models: { one: { " ENGINES " }, two: { " ENGINES " } }\n" TENANTS;
static const char *const bad = "models: { one: { engnes: [] } }\n" TENANTS;
static const char *const torn = "models: { one: { engi";
static const char *const restart = "workers: 200\nmodels: { one: { " ENGINES " } }\n" TENANTS;

static int install(void **state)
{
    if (scratch_create(state) != 0)
        return -1;
    scratch_write("gpu.key", "secret-word\n");
    const struct policy *policy = scratch_policy_good(one_model);
    reload_install(&policy);
    return policy == NULL ? 0 : -1;
}

static int64_t reloads(const char *result)
{
    const char *const labels[METRIC_LABELS_MAX] = {result};
    return metric_value(metric_series(METRIC_RELOADS, labels));
}

/* Replace the file as an editor does, then reload. The error text goes to @ret_errors when there is one. */
static bool reload(const char *yaml, char ret_errors[1024])
{
    struct problem_list problems;
    problem_list_init(&problems);
    scratch_write("next.yaml", yaml);
    assert_int_equal(rename(scratch_path("next.yaml"), scratch_path("tollgate.yaml")), 0);
    struct bundle *bundle = NULL;
    bool accepted = reload_now(&bundle, &problems);
    assert_int_equal(bundle != NULL, accepted);
    assert_int_equal(problems.errors == 0, accepted);
    if (ret_errors != NULL)
        text_copy(ret_errors, 1024, buffer_text(&problems.text));
    bundle_destroy(&bundle);
    problem_list_finish(&problems);
    return accepted;
}

static size_t model_count(void)
{
    const struct policy *policy = reload_current();
    size_t count = policy->model_count;
    policy_drop(&policy);
    return count;
}

static void a_good_file_replaces_the_policy(void **state)
{
    (void) state;
    int64_t accepted = reloads("accepted");
    assert_int_equal(model_count(), 1);
    assert_true(reload(two_models, NULL));
    assert_int_equal(model_count(), 2);
    assert_int_equal(reloads("accepted"), accepted + 1);
}

static void a_bad_file_changes_nothing(void **state)
{
    (void) state;
    int64_t refused = reloads("refused");
    const struct policy *before = reload_current();
    char errors[1024];
    assert_false(reload(bad, errors));
    assert_non_null(strstr(errors, "tollgate.yaml:1:18: error: unknown setting \"engnes\": did you mean \"engines\"?"));
    assert_false(reload(torn, errors));
    assert_non_null(strstr(errors, "error: not valid YAML"));
    assert_false(reload(restart, errors));
    assert_non_null(strstr(errors, "tollgate.yaml:1:10: error: workers needs a restart"));
    assert_int_equal(remove(scratch_path("gpu.key")), 0);
    assert_false(reload(one_model, errors));
    assert_non_null(strstr(errors, "the file that api_key_file names cannot be read"));
    scratch_write("gpu.key", "secret-word\n");

    assert_int_equal(remove(scratch_path("tollgate.yaml")), 0);
    struct problem_list problems;
    problem_list_init(&problems);
    struct bundle *bundle = NULL;
    assert_false(reload_now(&bundle, &problems));
    assert_null(bundle);
    problem_list_finish(&problems);

    const struct policy *after = reload_current();
    assert_ptr_equal(after, before);
    assert_int_equal(reloads("refused"), refused + 5);
    policy_drop(&before);
    policy_drop(&after);
}

static void a_held_policy_outlives_the_reload(void **state)
{
    (void) state;
    assert_true(reload(two_models, NULL));
    const struct policy *held = reload_current();
    assert_true(reload(one_model, NULL));
    assert_int_equal(model_count(), 1);
    assert_int_equal(held->model_count, 2);
    assert_string_equal(policy_model(held, TEXT("two"))->engines[0].api_key._bytes, "secret-word");
    policy_drop(&held);
}

static void secrets_are_read_again(void **state)
{
    (void) state;
    scratch_write("gpu.key", "another-word\n");
    assert_true(reload(one_model, NULL));
    const struct policy *policy = reload_current();
    assert_string_equal(policy->models[0].engines[0].api_key._bytes, "another-word");
    policy_drop(&policy);
}

static void a_model_keeps_its_first_day(void **state)
{
    (void) state;
    assert_true(reload(one_model, NULL));
    const struct policy *policy = reload_current();
    int64_t created = policy->models[0].created_wall_s;
    wall_ms loaded = policy->loaded_wall_ms;
    policy_drop(&policy);
    /* Into the next second, so that a new date would be another one. */
    while (clock_wall_ms() / 1000 <= loaded / 1000)
        usleep(20000);
    assert_true(reload(two_models, NULL));
    policy = reload_current();
    assert_int_equal(policy_model(policy, TEXT("one"))->created_wall_s, created);
    assert_int_equal(policy_model(policy, TEXT("two"))->created_wall_s, policy->loaded_wall_ms / 1000);
    assert_true(policy->loaded_wall_ms > loaded);
    policy_drop(&policy);
}

enum { READERS = 4, STORM_RELOADS = 300 };
static _Atomic bool storm_over;

/* What a request does: hold, look, drop; now and then hold for longer. */
static void *read_on(void *argument)
{
    (void) argument;
    const struct policy *kept = NULL;
    for (unsigned turn = 0; !storm_over; turn++) {
        const struct policy *policy = reload_current();
        const struct model *one = policy_model(policy, TEXT("one"));
        const struct model *two = policy_model(policy, TEXT("two"));
        if (one == NULL || (two != NULL) != (policy->model_count == 2) || one->engine_count != 1 ||
            one->created_wall_s == 0)
            abort();
        if (turn % 64 == 0) {
            policy_drop(&kept);
            kept = policy_hold(policy);
        }
        policy_drop(&policy);
    }
    policy_drop(&kept);
    return NULL;
}

static void readers_never_see_a_mixture(void **state)
{
    (void) state;
    pthread_t readers[READERS];
    int64_t accepted = reloads("accepted"), refused = reloads("refused");
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_on, NULL), 0);
    for (int i = 0; i < STORM_RELOADS; i++) {
        const char *const yaml[] = {one_model, bad, two_models, torn};
        assert_int_equal(reload(yaml[i % 4], NULL), i % 2 == 0);
    }
    storm_over = true;
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(readers[i], NULL), 0);
    assert_int_equal(reloads("accepted") - accepted, STORM_RELOADS / 2);
    assert_int_equal(reloads("refused") - refused, STORM_RELOADS / 2);
}

/* LeakSanitizer sees what is lost; this sees what is kept but never used again. */
static void thousands_of_reloads_need_no_more_memory(void **state)
{
    (void) state;
    enum { ROUNDS = 2000, WARM_UP = 200 };
    size_t before = 0;
    for (int i = 0; i < ROUNDS; i++) {
        const char *const yaml[] = {one_model, bad, two_models, torn};
        (void) reload(yaml[i % 4], NULL);
        if (i == WARM_UP)
            before = mallinfo2().uordblks;
    }
    assert_true(mallinfo2().uordblks <= before + 16384);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_replaces_the_policy),
        cmocka_unit_test(a_bad_file_changes_nothing),
        cmocka_unit_test(a_held_policy_outlives_the_reload),
        cmocka_unit_test(secrets_are_read_again),
        cmocka_unit_test(a_model_keeps_its_first_day),
        cmocka_unit_test(readers_never_see_a_mixture),
        cmocka_unit_test(thousands_of_reloads_need_no_more_memory),
    };
    return cmocka_run_group_tests(tests, install, scratch_destroy);
}
