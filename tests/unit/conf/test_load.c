/* From good files to a policy: every setting arrives, defaults stand where nothing was written, secrets are guarded. */
#include "tests/unit/conf/scratch_policy.h"

#include "conf/bundle.h"

#define DIGEST_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define DIGEST_C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define MODELS   "models: { m: { engines: [ { url: 'http://127.0.0.1:8000' } ] } }\n"
#define TENANTS  "tenants: { acme: { keys: { ci: { sha256: " DIGEST_A " } } } }\n"

static struct problem_list problems;

static int begin(void **state)
{
    problem_list_init(&problems);
    return scratch_create(state);
}

static int end(void **state)
{
    problem_list_finish(&problems);
    return scratch_destroy(state);
}

static const struct policy *load(const char *yaml, enum load_mode mode)
{
    problem_list_finish(&problems);
    problem_list_init(&problems);
    const struct policy *policy = scratch_policy(yaml, mode, &problems);
    assert_int_equal(policy == NULL, problems.errors > 0);
    return policy;
}

static const struct policy *load_good(const char *yaml)
{
    const struct policy *policy = load(yaml, LOAD_RUN);
    if (policy == NULL)
        fail_msg("%.*s", TEXT_ARGUMENTS(buffer_text(&problems.text)));
    return policy;
}

static void assert_refused(const char *yaml, enum load_mode mode, const char *wanted)
{
    assert_null(load(yaml, mode));
    struct text got = buffer_text(&problems.text);
    if (memmem(got.at, got.length, wanted, strlen(wanted)) == NULL)
        fail_msg("no \"%s\" in\n%.*s", wanted, TEXT_ARGUMENTS(got));
}

static void assert_warned(const char *wanted)
{
    struct text got = buffer_text(&problems.text);
    if (memmem(got.at, got.length, wanted, strlen(wanted)) == NULL)
        fail_msg("no \"%s\" in\n%.*s", wanted, TEXT_ARGUMENTS(got));
}

static void the_minimal_file_gets_the_defaults(void **state)
{
    (void) state;
    const struct policy *policy = load_good(MODELS TENANTS);
    assert_int_equal(problems.warnings, 0);
    assert_string_equal(policy->file, scratch_path("tollgate.yaml"));
    assert_int_equal(policy->listen.kind, LISTEN_TCP);
    assert_string_equal(policy->listen.host, "127.0.0.1");
    assert_int_equal(policy->listen.port, 8700);
    assert_int_equal(policy->admin_listen.port, 8701);
    assert_null(policy->admin_token._bytes);
    assert_null(policy->admin_token_file);
    assert_string_equal(policy->state_dir, scratch_path("state"));
    assert_null(policy->keys_file);
    assert_in_range(policy->workers, 1, 256);
    assert_int_equal(policy->drain_timeout_ms, 30000);
    assert_int_equal(policy->model_count, 1);
    const struct model *model = &policy->models[0];
    assert_string_equal(model->name, "m");
    assert_string_equal(model->engine_model, "m");
    assert_int_equal(model->context_tokens, 0);
    assert_int_equal(model->max_output_tokens, 0);
    assert_int_equal(model->default_max_tokens, 16);
    assert_int_equal(model->queue_length, 64);
    assert_int_equal(model->queue_wait_ms, 30000);
    assert_int_equal(model->timeouts.connect_ms, 2000);
    assert_int_equal(model->timeouts.first_token_ms, 300000);
    assert_int_equal(model->timeouts.inter_chunk_ms, 120000);
    assert_int_equal(model->timeouts.total_ms, 3600000);
    assert_int_equal(model->start_timeout_ms, 1800000);
    assert_int_equal(model->created_wall_s, policy->loaded_wall_ms / 1000);
    const struct engine *engine = &model->engines[0];
    assert_string_equal(engine->name, "m/1");
    assert_string_equal(engine->model, "m");
    assert_null(engine->arguments);
    assert_string_equal(engine->url, "http://127.0.0.1:8000");
    assert_int_equal(engine->dialect, DIALECT_OPENAI);
    assert_int_equal(engine->weight, 1);
    assert_int_equal(engine->max_in_flight, 0);
    assert_false(engine->continuous_usage || engine->embeddings_only);
    assert_int_equal(policy->key_count, 1);
    assert_string_equal(policy->keys[0].user, "");
    assert_ptr_equal(policy->keys[0].tenant, &policy->tenants[0]);
    assert_false(policy->keys[0].scopes.models_limited || policy->keys[0].scopes.endpoints_limited);
    policy_drop(&policy);
    assert_null(policy);
}

static const char *const everything =
    "listen: '[::1]:9000'\n"
    "admin: { listen: 'unix:admin.sock', token_file: admin.token }\n"
    "state_dir: ./var//state\n"
    "runtime_dir: /run/t\n"
    "workers: 3\n"
    "drain_timeout: 5m\n"
    "keys_file: keys\n"
    "models:\n"
    "  zeta:\n"
    "    aliases: [big, bigger]\n"
    "    engine_model: org/zeta\n"
    "    context_tokens: 4096\n"
    "    max_output_tokens: 1024\n"
    "    default_max_tokens: 32\n"
    "    queue: { length: 0, wait: 1s }\n"
    "    limits: { requests_per_minute: 1, tokens_per_minute: 1000000000000, concurrent_requests: 3 }\n"
    "    timeouts: { connect: 1s, first_token: 2s, inter_chunk: 3s, total: 4s }\n"
    "    start_timeout: 1h\n"
    "    engines:\n"
    "      - { spawn: [sh, -c, 4, '{socket}'], env: { B: '', A1: x, A: '${UNIT_WORD}' }, dialect: llamacpp, weight: "
    "7,\n"
    "          max_in_flight: 9, embeddings_only: yes }\n"
    "      - { url: 'https://gpu:8000/', dialect: vllm, api_key_file: gpu.key, continuous_usage: true }\n"
    "      - { url: 'unix:engine.sock' }\n"
    "  alpha: { engines: [ { url: 'http://a' } ] }\n"
    "tenants_dir: t.d\n"
    "tenants:\n"
    "  zoo: { disabled: yes, scopes: { models: ['z*', alpha], endpoints: [chat, models] } }\n"
    "  acme:\n"
    "    keys:\n"
    "      ci: { sha256: " DIGEST_C
    ", user: bob, expires: 2027-01-01, disabled: yes, scopes: { models: [], endpoints: [] } }\n";

static const struct policy *load_everything(void)
{
    setenv("UNIT_WORD", "word", 1);
    scratch_write("admin.token", "admin-secret\n");
    scratch_write("gpu.key", "gpu-secret\r\n");
    scratch_write("keys", "beta k " DIGEST_A " models=z* endpoints=chat,embeddings expires=2027-01-01 user=eve\n");
    assert_int_equal(mkdir(scratch_path("t.d"), 0700), 0);
    scratch_write("t.d/beta.yaml", "keys: { own: { sha256: " DIGEST_B " } }\n");
    return load_good(everything);
}

static void every_setting_of_the_gateway_arrives(void **state)
{
    (void) state;
    const struct policy *policy = load_everything();
    assert_string_equal(policy->listen.host, "::1");
    assert_int_equal(policy->listen.port, 9000);
    assert_string_equal(policy->listen.text, "[::1]:9000");
    assert_int_equal(policy->admin_listen.kind, LISTEN_UNIX);
    assert_string_equal(policy->admin_listen.path, scratch_path("admin.sock"));
    assert_string_equal(policy->admin_token._bytes, "admin-secret");
    assert_string_equal(policy->admin_token_file, scratch_path("admin.token"));
    assert_string_equal(policy->state_dir, scratch_path("var/state"));
    assert_string_equal(policy->runtime_dir, "/run/t");
    assert_int_equal(policy->workers, 3);
    assert_int_equal(policy->drain_timeout_ms, 300000);
    assert_string_equal(policy->keys_file, scratch_path("keys"));
    policy_drop(&policy);
}

static void every_setting_of_a_model_arrives(void **state)
{
    (void) state;
    const struct policy *policy = load_everything();
    assert_int_equal(policy->model_count, 2);
    assert_string_equal(policy->models[0].name, "alpha");
    const struct model *model = &policy->models[1];
    assert_string_equal(model->engine_model, "org/zeta");
    assert_int_equal(model->alias_count, 2);
    assert_string_equal(model->aliases[1], "bigger");
    assert_int_equal(model->context_tokens, 4096);
    assert_int_equal(model->max_output_tokens, 1024);
    assert_int_equal(model->default_max_tokens, 32);
    assert_int_equal(model->queue_length, 0);
    assert_int_equal(model->queue_wait_ms, 1000);
    assert_int_equal(model->timeouts.connect_ms, 1000);
    assert_int_equal(model->timeouts.total_ms, 4000);
    assert_int_equal(model->start_timeout_ms, 3600000);
    assert_int_equal(model->engine_count, 3);
    const struct engine *spawned = &model->engines[0];
    assert_int_equal(spawned->argument_count, 4);
    assert_string_equal(spawned->arguments[2], "4");
    assert_null(spawned->arguments[4]);
    assert_int_equal(spawned->environment_count, 3);
    assert_string_equal(spawned->environment[0], "A=word");
    assert_string_equal(spawned->environment[1], "A1=x");
    assert_string_equal(spawned->environment[2], "B=");
    assert_string_equal(spawned->working_directory, scratch_directory);
    assert_null(spawned->url);
    assert_int_equal(spawned->dialect, DIALECT_LLAMACPP);
    assert_int_equal(spawned->weight, 7);
    assert_int_equal(spawned->max_in_flight, 9);
    assert_true(spawned->embeddings_only);
    const struct engine *remote = &model->engines[1];
    assert_string_equal(remote->name, "zeta/2");
    assert_string_equal(remote->url, "https://gpu:8000");
    assert_string_equal(remote->api_key._bytes, "gpu-secret");
    assert_true(remote->continuous_usage);
    char url[512];
    snprintf(url, sizeof(url), "unix:%s", scratch_path("engine.sock"));
    assert_string_equal(model->engines[2].url, url);
    policy_drop(&policy);
}

static void tenants_come_from_all_three_places(void **state)
{
    (void) state;
    const struct policy *policy = load_everything();
    assert_int_equal(policy->tenant_count, 3);
    assert_string_equal(policy->tenants[0].name, "acme");
    assert_string_equal(policy->tenants[1].name, "beta");
    const struct tenant *zoo = &policy->tenants[2];
    assert_true(zoo->disabled);
    assert_true(zoo->scopes.models_limited);
    assert_int_equal(zoo->scopes.model_pattern_count, 2);
    assert_string_equal(zoo->scopes.model_patterns[0], "z*");
    assert_int_equal(zoo->scopes.endpoint_bits, 1u << ENDPOINT_CHAT | 1u << ENDPOINT_MODELS);

    assert_int_equal(policy->key_count, 3);
    const struct key *from_file = &policy->keys[0];
    assert_string_equal(from_file->name, "k");
    assert_string_equal(from_file->tenant->name, "beta");
    assert_string_equal(from_file->user, "eve");
    assert_int_equal(from_file->expires_wall_ms, 1798761600000);
    assert_string_equal(from_file->scopes.model_patterns[0], "z*");
    assert_int_equal(from_file->scopes.endpoint_bits, 1u << ENDPOINT_CHAT | 1u << ENDPOINT_EMBEDDINGS);
    assert_string_equal(policy->keys[1].tenant->name, "beta");
    const struct key *ci = &policy->keys[2];
    assert_string_equal(ci->user, "bob");
    assert_int_equal(ci->expires_wall_ms, 1798761600000);
    assert_true(ci->disabled);
    /* An empty list allows nothing; only a list that was not written allows everything. */
    assert_true(ci->scopes.models_limited);
    assert_int_equal(ci->scopes.model_pattern_count, 0);
    assert_true(ci->scopes.endpoints_limited);
    assert_int_equal(ci->scopes.endpoint_bits, 0);
    policy_drop(&policy);
}

#define WITH_KEY_FILE "models: { m: { engines: [ { url: 'http://h', api_key_file: gpu.key } ] } }\n" TENANTS

static void secret_files_are_guarded(void **state)
{
    (void) state;
    assert_refused(WITH_KEY_FILE, LOAD_RUN, ":1:60: error: the file that api_key_file names cannot be read: No such");
    const struct policy *policy = load(WITH_KEY_FILE, LOAD_CHECK);
    assert_non_null(policy);
    assert_int_equal(problems.warnings, 1);
    policy_drop(&policy);

    scratch_write("gpu.key", "secret-word\n");
    static const mode_t good[] = {0400, 0600, 0440, 0640}, bad[] = {0644, 0660, 0604, 0620, 0601, 0666, 0777};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(chmod(scratch_path("gpu.key"), good[i]), 0);
        policy = load_good(WITH_KEY_FILE);
        policy_drop(&policy);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(chmod(scratch_path("gpu.key"), bad[i]), 0);
        assert_refused(WITH_KEY_FILE, LOAD_RUN, "chmod 600");
        assert_refused(WITH_KEY_FILE, LOAD_CHECK, "chmod 600");
    }
}

static void secret_files_hold_one_line(void **state)
{
    (void) state;
    static const char *const bad[] = {"", "\n", "two words\n", "two\nlines\n", " secret\n", "caf\xc3\xa9\n", "a\x01"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        scratch_write("gpu.key", bad[i]);
        assert_refused(WITH_KEY_FILE, LOAD_RUN, "must hold one line");
        struct text got = buffer_text(&problems.text);
        assert_null(memmem(got.at, got.length, "two", 3));
    }
    scratch_write("gpu.key", "x");
    assert_int_equal(truncate(scratch_path("gpu.key"), 100000), 0);
    assert_refused(WITH_KEY_FILE, LOAD_RUN, "it is too large");
}

static void variables_must_be_set_to_run(void **state)
{
    (void) state;
    const char *yaml = "models: { m: { engines: [ { url: 'http://${UNIT_HOST}' } ] } }\n" TENANTS;
    unsetenv("UNIT_HOST");
    assert_refused(yaml, LOAD_RUN, ":1:34: error: the environment variable UNIT_HOST is not set");
    const struct policy *policy = load(yaml, LOAD_CHECK);
    assert_non_null(policy);
    policy_drop(&policy);
    setenv("UNIT_HOST", "gpu", 1);
    policy = load_good(yaml);
    assert_string_equal(policy->models[0].engines[0].url, "http://gpu");
    policy_drop(&policy);
    setenv("UNIT_HOST", "user:secret-word@gpu", 1);
    assert_refused(yaml, LOAD_RUN, "a user name or password");
    setenv("UNIT_WORKERS", "secret-word", 1);
    assert_refused("workers: ${UNIT_WORKERS}\n" MODELS TENANTS, LOAD_RUN, "not \"${UNIT_WORKERS}\"");
    setenv("UNIT_WORKERS", "2", 1);
    policy = load_good("workers: \"${UNIT_WORKERS}\"\n" MODELS TENANTS);
    assert_int_equal(policy->workers, 2);
    policy_drop(&policy);
}

static void unset_digests_are_no_duplicates(void **state)
{
    (void) state;
    unsetenv("UNIT_DIGEST");
    const struct policy *policy = load(MODELS "tenants: { a: { keys: { x: { sha256: '${UNIT_DIGEST}' }, "
                                              "y: { sha256: '${UNIT_DIGEST}' } } } }\n",
                                       LOAD_CHECK);
    assert_non_null(policy);
    policy_drop(&policy);
}

static void missing_programs_are_a_warning(void **state)
{
    (void) state;
    static const char *const missing[] = {"./none", "no-such-program-anywhere", "/no/such/program"};
    char yaml[512];
    for (size_t i = 0; i < 3; i++) {
        snprintf(yaml, sizeof(yaml), "models: { m: { engines: [ { spawn: [%s, '{port}'] } ] } }\n" TENANTS, missing[i]);
        const struct policy *policy = load_good(yaml);
        assert_int_equal(problems.warnings, 1);
        assert_warned("there is no program");
        policy_drop(&policy);
    }
    assert_int_equal(chmod(scratch_write("engine", "#!/bin/sh\n"), 0700), 0);
    const char *const present[] = {"./engine", "sh", "/bin/sh", scratch_path("engine")};
    for (size_t i = 0; i < 4; i++) {
        snprintf(yaml, sizeof(yaml), "models: { m: { engines: [ { spawn: [%s, '{port}'] } ] } }\n" TENANTS, present[i]);
        const struct policy *policy = load_good(yaml);
        assert_int_equal(problems.warnings, 0);
        policy_drop(&policy);
    }
    snprintf(yaml, sizeof(yaml),
             "models: { m: { engines: [ { spawn: [engine, '{port}'], env: { PATH: '/none:%s' } } ] } }\n" TENANTS,
             scratch_directory);
    const struct policy *policy = load_good(yaml);
    assert_int_equal(problems.warnings, 0);
    policy_drop(&policy);
}

static void an_open_gateway_needs_a_key(void **state)
{
    (void) state;
    assert_refused("listen: 0.0.0.0:8700\n" MODELS, LOAD_RUN, ":1:9: error: listen is open to the network");
    assert_refused("listen: '[::]:8700'\n" MODELS "tenants: { a: {} }\n", LOAD_CHECK, "open to the network");
    const struct policy *policy = load_good("listen: 0.0.0.0:8700\n" MODELS TENANTS);
    policy_drop(&policy);
    policy = load_good(MODELS);
    assert_warned("there is no API key");
    policy_drop(&policy);
    policy = load_good("listen: unix:/run/t.sock\n" MODELS);
    policy_drop(&policy);
}

static void runtime_dir_follows_the_user_and_state_dir(void **state)
{
    (void) state;
    const struct policy *one = load_good(MODELS TENANTS);
    const struct policy *other = load_good("state_dir: other\n" MODELS TENANTS);
    assert_string_not_equal(one->runtime_dir, other->runtime_dir);
    if (geteuid() == 0)
        assert_int_equal(strncmp(one->runtime_dir, "/run/tollgate-", 14), 0);
    policy_drop(&one);
    policy_drop(&other);
}

static void runtime_dir_of_others_is_not_in_run(void **state)
{
    (void) state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(scratch_directory, 0755), 0);
    scratch_write("tollgate.yaml", MODELS TENANTS);
    assert_int_equal(chmod(scratch_path("tollgate.yaml"), 0644), 0);
    assert_int_equal(seteuid(65534), 0);
    struct bundle *bundle = bundle_read(scratch_path("tollgate.yaml"), &problems);
    setenv("XDG_RUNTIME_DIR", "/run/user/65534", 1);
    const struct policy *with_home = policy_load(bundle, LOAD_RUN, &problems);
    setenv("XDG_RUNTIME_DIR", "/a/very/long/directory/that/leaves/no/room/for/the/name/of/a/socket/below/it", 1);
    const struct policy *too_long = policy_load(bundle, LOAD_RUN, &problems);
    unsetenv("XDG_RUNTIME_DIR");
    const struct policy *without = policy_load(bundle, LOAD_RUN, &problems);
    assert_int_equal(seteuid(0), 0);
    bundle_destroy(&bundle);
    assert_int_equal(strncmp(with_home->runtime_dir, "/run/user/65534/tollgate-", 25), 0);
    assert_int_equal(strncmp(without->runtime_dir, "/tmp/tollgate-65534-", 20), 0);
    assert_string_equal(without->runtime_dir, too_long->runtime_dir);
    policy_drop(&with_home);
    policy_drop(&too_long);
    policy_drop(&without);
}

static void secrets_of_strangers_are_refused(void **state)
{
    (void) state;
    if (geteuid() != 0)
        skip();
    scratch_write("gpu.key", "secret-word\n");
    assert_int_equal(chmod(scratch_path("gpu.key"), 0640), 0);
    assert_int_equal(chown(scratch_path("gpu.key"), 12345, 65534), 0);
    assert_int_equal(chmod(scratch_directory, 0755), 0);
    struct bundle *bundle = bundle_read(scratch_write("tollgate.yaml", WITH_KEY_FILE), &problems);
    gid_t group = getegid();
    assert_int_equal(setegid(65534), 0);
    assert_int_equal(seteuid(65534), 0);
    const struct policy *policy = policy_load(bundle, LOAD_RUN, &problems);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(setegid(group), 0);
    bundle_destroy(&bundle);
    assert_null(policy);
    assert_warned("belongs to another user");
}

static void a_policy_knows_the_bytes_it_came_from(void **state)
{
    (void) state;
    const struct policy *one = load_good(MODELS TENANTS);
    const struct policy *same = load_good(MODELS TENANTS);
    const struct policy *other = load_good(MODELS TENANTS "# more\n");
    assert_memory_equal(one->sha256, same->sha256, sizeof(one->sha256));
    assert_memory_not_equal(one->sha256, other->sha256, sizeof(one->sha256));
    policy_drop(&one);
    policy_drop(&same);
    policy_drop(&other);
}

static void some_changes_need_a_restart(void **state)
{
    (void) state;
    static const char *const allowed[] = {"drain_timeout: 5s\n", "keys_file: keys\n", "# comment\n",
                                          "listen: 127.0.0.1:8700\n",
                                          "billing: { epoch: 300s, sync: os, retention: 30d, bill: { crash: no } }\n"};
    static const struct {
        const char *yaml;
        const char *wanted;
    } refused[] = {
        {"listen: 127.0.0.1:8702\n", ":1:9: error: listen needs a restart"},
        {"admin: { listen: 127.0.0.1:8702 }\n", ":1:18: error: admin.listen needs a restart"},
        {"admin: { token_file: admin.token }\n", ":1:22: error: admin.token_file needs a restart"},
        {"state_dir: other\n", ":1:12: error: state_dir needs a restart"},
        {"runtime_dir: /run/x\n", ":1:14: error: runtime_dir needs a restart"},
        {"redis: { url: 'unix:/run/redis.sock' }\n",
         ":1:15: error: redis.url needs a restart: it is not set now and cannot become unix:/run/redis.sock"},
        {"billing: { epoch: 1m }\n", ":1:19: error: billing.epoch needs a restart: it is 5m now and cannot become 1m"},
        {"billing: { sync: group }\n", ":1:18: error: billing.sync needs a restart: it is os now"},
        {"workers: 250\n", ":1:10: error: workers needs a restart"},
    };
    scratch_write("admin.token", "token\n");
    const struct policy *current = load_good(MODELS TENANTS);
    char yaml[512];
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        snprintf(yaml, sizeof(yaml), "%s" MODELS TENANTS, allowed[i]);
        const struct policy *next = load_good(yaml);
        assert_true(policy_may_replace(current, next, &problems));
        policy_drop(&next);
    }
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        snprintf(yaml, sizeof(yaml), "%s" MODELS TENANTS, refused[i].yaml);
        const struct policy *next = load_good(yaml);
        assert_false(policy_may_replace(current, next, &problems));
        assert_warned(refused[i].wanted);
        policy_drop(&next);
    }
    policy_drop(&current);
}

static void the_examples_pass_in_an_empty_environment(void **state)
{
    (void) state;
    static const char *const examples[] = {"conf/examples/minimal.yaml", "conf/examples/full.yaml",
                                           "conf/examples/demo/tollgate.yaml"};
    clearenv();
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        struct bundle *bundle = bundle_read(examples[i], &problems);
        assert_non_null(bundle);
        assert_true(text_starts_with(bundle->files[0].bytes, TEXT("# yaml-language-server: $schema=../")));
        const struct policy *policy = policy_load(bundle, LOAD_CHECK, &problems);
        bundle_destroy(&bundle);
        if (policy == NULL)
            fail_msg("%.*s", TEXT_ARGUMENTS(buffer_text(&problems.text)));
        policy_drop(&policy);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(the_minimal_file_gets_the_defaults),
        TEST(every_setting_of_the_gateway_arrives),
        TEST(every_setting_of_a_model_arrives),
        TEST(tenants_come_from_all_three_places),
        TEST(secret_files_are_guarded),
        TEST(secret_files_hold_one_line),
        TEST(variables_must_be_set_to_run),
        TEST(unset_digests_are_no_duplicates),
        TEST(missing_programs_are_a_warning),
        TEST(an_open_gateway_needs_a_key),
        TEST(runtime_dir_follows_the_user_and_state_dir),
        TEST(runtime_dir_of_others_is_not_in_run),
        TEST(secrets_of_strangers_are_refused),
        TEST(a_policy_knows_the_bytes_it_came_from),
        TEST(some_changes_need_a_restart),
        TEST(the_examples_pass_in_an_empty_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
