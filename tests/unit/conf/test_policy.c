/* Looking things up in a policy, and what an instance is. */
#include "tests/unit/conf/scratch_policy.h"

#include "conf/snapshot.h"

enum { MANY = 500 };

/* The C library's function, watched: did the secret's bytes go through it? */
static bool secret_was_wiped;

void wipe(void *at, size_t count); /* not static: glibc makes explicit_bzero inline, as clang sees it */
void wipe(void *at, size_t count)
{
    secret_was_wiped = secret_was_wiped || (count == 7 && memcmp(at, "hunter2", 7) == 0);
    memset(at, 0, count);
}

void explicit_bzero(void *at, size_t count)
{
    wipe(at, count);
}

#if !defined(__USE_FORTIFY_LEVEL) || __USE_FORTIFY_LEVEL == 0
void __explicit_bzero_chk(void *at, size_t count, size_t capacity);
#endif
void __explicit_bzero_chk(void *at, size_t count, size_t capacity)
{
    assert_true(count <= capacity);
    wipe(at, count);
}

static const struct policy *load_many(void)
{
    struct buffer yaml;
    buffer_init(&yaml, 1024 * 1024);
    assert_true(buffer_format(&yaml, "models:\n"));
    for (unsigned i = 0; i < MANY; i++)
        assert_true(
            buffer_format(&yaml, "  m%u: { aliases: [a%u, b%u], engines: [ { url: 'http://h' } ] }\n", i, i, i));
    assert_true(buffer_format(&yaml, "tenants:\n  t:\n    keys:\n"));
    for (unsigned i = 0; i < MANY; i++)
        assert_true(buffer_format(&yaml, "      k%u: { sha256: '%08x%056x' }\n", i, i * 2654435761u, i));
    assert_true(buffer_add(&yaml, (struct text){"", 1}));
    const struct policy *policy = scratch_policy_good(buffer_text(&yaml).at);
    buffer_finish(&yaml);
    return policy;
}

static void models_are_found_by_name_and_alias(void **state)
{
    (void) state;
    const struct policy *policy = load_many();
    for (unsigned i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof(name), "m%u", i);
        const struct model *model = policy_model(policy, text_of(name));
        assert_non_null(model);
        assert_string_equal(model->name, name);
        name[0] = 'a';
        assert_ptr_equal(policy_model(policy, text_of(name)), model);
        name[0] = 'b';
        assert_ptr_equal(policy_model(policy, text_of(name)), model);
        name[0] = 'c';
        assert_null(policy_model(policy, text_of(name)));
    }
    assert_null(policy_model(policy, TEXT("")));
    assert_null(policy_model(policy, TEXT("m")));
    assert_null(policy_model(policy, TEXT("M1")));
    assert_null(policy_model(policy, (struct text){"m1\0", 3}));
    policy_drop(&policy);
}

static void keys_are_found_by_digest(void **state)
{
    (void) state;
    const struct policy *policy = load_many();
    assert_int_equal(policy->key_count, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        char hex[65], name[16];
        uint8_t digest[32];
        snprintf(hex, sizeof(hex), "%08x%056x", i * 2654435761u, i);
        snprintf(name, sizeof(name), "k%u", i);
        assert_true(text_from_hex(text_of(hex), digest, sizeof(digest)));
        const struct key *key = policy_key(policy, digest);
        assert_non_null(key);
        assert_string_equal(key->name, name);
        digest[31] ^= 0x80;
        assert_null(policy_key(policy, digest));
    }
    policy_drop(&policy);
}

static void an_empty_policy_has_nothing(void **state)
{
    (void) state;
    struct snapshot *snapshot = snapshot_create();
    const struct policy *policy = &snapshot->policy;
    const uint8_t digest[32] = {0};
    assert_null(policy_model(policy, TEXT("m")));
    assert_null(policy_key(policy, digest));
    policy_drop(&policy);
    policy_drop(&policy);
}

static void the_last_reference_frees_and_wipes(void **state)
{
    (void) state;
    struct snapshot *snapshot = snapshot_create();
    struct secret secret = snapshot_keep_secret(snapshot, TEXT("hunter2"));
    assert_string_equal(secret._bytes, "hunter2");
    const struct policy *policy = &snapshot->policy, *second = policy_hold(policy);
    policy_drop(&policy);
    assert_null(policy);
    assert_string_equal(secret._bytes, "hunter2");
    assert_false(secret_was_wiped);
    policy_drop(&second);
    assert_true(secret_was_wiped);
}

static void assert_hash_changes(const struct engine *engine, const struct engine *other, bool changes)
{
    uint8_t one[32], two[32];
    engine_settings_hash(engine, one);
    engine_settings_hash(other, two);
    assert_int_equal(memcmp(one, two, sizeof(one)) != 0, changes);
}

static void an_instance_is_its_command_and_place(void **state)
{
    (void) state;
    const char *const arguments[] = {"./engine", "--port", "{port}", NULL};
    const char *const joined[] = {"./engine--port", "{port}", NULL};
    const char *const shifted[] = {"./engine--", "port", "{port}", NULL};
    const char *const environment[] = {"A=b"};
    const struct engine base = {.name = "m/1",
                                .argument_count = 3,
                                .arguments = arguments,
                                .environment_count = 1,
                                .environment = environment,
                                .working_directory = "/srv",
                                .weight = 1};
    struct engine other = base;
    other.weight = 2;
    other.max_in_flight = 9;
    other.name = "m/2";
    other.continuous_usage = true;
    assert_hash_changes(&base, &other, false);
    other = base;
    other.arguments = joined;
    other.argument_count = 2;
    assert_hash_changes(&base, &other, true);
    other = base;
    other.arguments = shifted;
    assert_hash_changes(&base, &other, true);
    other = base;
    other.argument_count = 2;
    assert_hash_changes(&base, &other, true);
    other = base;
    other.environment_count = 0;
    assert_hash_changes(&base, &other, true);
    other = base;
    other.working_directory = "/srv2";
    assert_hash_changes(&base, &other, true);
    other = base;
    other.url = "http://h";
    assert_hash_changes(&base, &other, true);
    other = base;
    other.dialect = DIALECT_VLLM;
    assert_hash_changes(&base, &other, true);
    other = base;
    other.api_key = (struct secret){"x"};
    assert_hash_changes(&base, &other, true);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_destroy)
    const struct CMUnitTest tests[] = {
        TEST(models_are_found_by_name_and_alias),   TEST(keys_are_found_by_digest),
        TEST(an_empty_policy_has_nothing),          TEST(the_last_reference_frees_and_wipes),
        TEST(an_instance_is_its_command_and_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
