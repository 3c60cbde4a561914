/* Bearers: what gets in, what does not, and what it may then use. */
#include <string.h>

#include "auth/auth.h"
#include "auth/key.h"
#include "tests/lib/unit.h"

enum { KEY_COUNT_MAX = 512, NOW = 1000000 };

static struct tenant tenants[2];
static struct key keys[KEY_COUNT_MAX];
static struct policy policy;

static int by_digest(const void *a, const void *b)
{
    const struct key *left = a;
    const struct key *right = b;
    return memcmp(left->sha256, right->sha256, sizeof(left->sha256));
}

/* The order the loader promises; pointers to keys are only taken after it. */
static void sort_keys(void)
{
    qsort(keys, policy.key_count, sizeof(keys[0]), by_digest);
}

static struct key *add_key(const char *name, struct text bearer)
{
    struct key *key = &keys[policy.key_count++];
    *key = (struct key){.name = name, .tenant = &tenants[0], .user = ""};
    assert_true(key_digest(bearer, key->sha256));
    return key;
}

static int start(void **state)
{
    (void) state;
    memset(keys, 0, sizeof(keys));
    memset(tenants, 0, sizeof(tenants));
    tenants[0].name = "acme";
    tenants[1].name = "globex";
    policy = (struct policy){.tenant_count = 2, .tenants = tenants, .keys = keys};
    return 0;
}

static enum auth_verdict check_text(struct text header, struct principal *who)
{
    *who = (struct principal){NULL, NULL, "untouched"};
    enum auth_verdict verdict = auth_check(&policy, header, NOW, who);
    if (verdict != AUTH_OK) {
        assert_null(who->tenant);
        assert_null(who->key);
        assert_string_equal(who->user, "untouched");
    }
    return verdict;
}

static enum auth_verdict check(const char *header)
{
    struct principal who;
    return check_text(text_of(header), &who);
}

static void a_known_key_is_its_tenant_and_user(void **state)
{
    (void) state;
    add_key("ci", TEXT("secret-1"))->user = "robot";
    struct principal who;
    assert_int_equal(check_text(TEXT("Bearer secret-1"), &who), AUTH_OK);
    assert_ptr_equal(who.tenant, &tenants[0]);
    assert_string_equal(who.key->name, "ci");
    assert_string_equal(who.user, "robot");
}

static void unknown_and_wrong_keys_are_the_same(void **state)
{
    (void) state;
    assert_int_equal(check("Bearer anything"), AUTH_UNKNOWN); /* no keys at all */
    add_key("ci", TEXT("tg_live_0000000000_secret"));
    assert_int_equal(check("Bearer tg_live_0000000000_secreT"), AUTH_UNKNOWN);
    assert_int_equal(check("Bearer tg_live_0000000000_secre"), AUTH_UNKNOWN);
    assert_int_equal(check("Bearer tg_live_0000000000_secrets"), AUTH_UNKNOWN);
    assert_int_equal(check("Bearer elsewhere"), AUTH_UNKNOWN);
}

static void a_key_expires_at_its_millisecond(void **state)
{
    (void) state;
    struct key *key = add_key("ci", TEXT("k"));
    key->expires_wall_ms = NOW + 1;
    assert_int_equal(check("Bearer k"), AUTH_OK);
    key->expires_wall_ms = NOW;
    assert_int_equal(check("Bearer k"), AUTH_EXPIRED);
    key->expires_wall_ms = 1;
    assert_int_equal(check("Bearer k"), AUTH_EXPIRED);
    key->expires_wall_ms = 0;
    assert_int_equal(check("Bearer k"), AUTH_OK);
}

static void a_disabled_key_or_tenant_is_refused(void **state)
{
    (void) state;
    struct key *key = add_key("ci", TEXT("k"));
    key->disabled = true;
    assert_int_equal(check("Bearer k"), AUTH_DISABLED);
    key->disabled = false;
    tenants[0].disabled = true;
    assert_int_equal(check("Bearer k"), AUTH_DISABLED);
    tenants[0].disabled = false;
    tenants[1].disabled = true;
    assert_int_equal(check("Bearer k"), AUTH_OK);
}

static void the_scheme_is_case_insensitive_and_spaces_may_repeat(void **state)
{
    (void) state;
    add_key("ci", TEXT("k"));
    static const char *const GOOD[] = {"Bearer k",   "bearer k",    "BEARER k",    "bEaReR k",
                                       "Bearer   k", "  Bearer k ", "\tBearer k\t"};
    for (size_t i = 0; i < sizeof(GOOD) / sizeof(GOOD[0]); i++) {
        assert_int_equal(check(GOOD[i]), AUTH_OK);
    }
}

static void broken_headers_are_malformed(void **state)
{
    (void) state;
    add_key("ci", TEXT("k"));
    add_key("empty", TEXT(""));
    static const char *const BAD[] = {
        "",
        " ",
        "k",
        "Bearer",
        "Bearer ",
        "Bearer    ",
        "Bearerk",
        "Bearer\tk",
        "Basic k",
        "Bearer k k",
        "Bearer k\tk",
        "Bearer k,k k",
        "Bearer:k k",
        "Bearer \tk",
        "Bearer \x01k",
        "Bearer k\x7f",
        "Bearer \xc3\xa9",
        "xBearer k",
        "Beare k",
        "Bearers k",
    };
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        if (check(BAD[i]) != AUTH_MALFORMED) {
            fail_msg("not malformed: \"%s\"", BAD[i]);
        }
    }
    struct principal who;
    assert_int_equal(check_text((struct text){"Bearer k\0k", 10}, &who), AUTH_MALFORMED);
    assert_int_equal(check_text((struct text){"Bearer k\r\nX: y", 14}, &who), AUTH_MALFORMED);
    assert_int_equal(check_text((struct text){NULL, 0}, &who), AUTH_MISSING);
}

/* A key may hold any visible ASCII: others' keys are imported by their digest. */
static void foreign_keys_are_accepted_as_they_are(void **state)
{
    (void) state;
    char header[7 + 94] = "Bearer ";
    for (size_t i = 0; i < 94; i++) {
        header[7 + i] = (char) ('!' + i);
    }
    add_key("all", (struct text){header + 7, 94});
    struct principal who;
    assert_int_equal(check_text((struct text){header, sizeof(header)}, &who), AUTH_OK);
}

static void a_bearer_has_a_longest_length(void **state)
{
    (void) state;
    enum { LONG = 8192 };
    char *header = malloc(7 + LONG);
    assert_non_null(header);
    memset(header, 'a', 7 + LONG);
    memcpy(header, "Bearer ", 7);
    add_key("long", (struct text){header + 7, AUTH_BEARER_BYTES_MAX});
    add_key("longer", (struct text){header + 7, LONG});
    sort_keys();
    struct principal who;
    assert_int_equal(check_text((struct text){header, 7 + AUTH_BEARER_BYTES_MAX}, &who), AUTH_OK);
    assert_int_equal(check_text((struct text){header, 7 + AUTH_BEARER_BYTES_MAX + 1}, &who), AUTH_MALFORMED);
    assert_int_equal(check_text((struct text){header, 7 + LONG}, &who), AUTH_MALFORMED);
    free(header);
}

/* CVE-2026-35030 was a cache keyed by the first twenty characters: here every pair of bearers shares a prefix, and
 * every one is still only itself; so is each prefix, each extension and each neighbour. */
static void bearers_with_equal_prefixes_never_share_an_identity(void **state)
{
    (void) state;
    static char bearers[KEY_COUNT_MAX][64];
    static char names[KEY_COUNT_MAX][8];
    unit_random_seed();
    size_t count = 0;
    for (size_t shared = 1; shared <= 50; shared++) {
        for (size_t twin = 0; twin < 8; twin++, count++) {
            memset(bearers[count], 'p', shared);
            for (size_t i = shared; i < shared + 8; i++) {
                bearers[count][i] = (char) ('0' + (char) unit_random_below(10));
            }
            bearers[count][shared + 8] = (char) ('a' + twin); /* unlike in the last byte whatever the seed does */
            snprintf(names[count], sizeof(names[count]), "%zu", count);
            add_key(names[count], text_of(bearers[count]));
        }
    }
    sort_keys();
    for (size_t i = 0; i < count; i++) {
        char header[96];
        int length = snprintf(header, sizeof(header), "Bearer %s", bearers[i]);
        struct principal who;
        assert_int_equal(check(header), AUTH_OK);
        assert_int_equal(check_text(text_of(header), &who), AUTH_OK);
        assert_string_equal(who.key->name, names[i]);
        assert_int_equal(check_text((struct text){header, (size_t) length - 1}, &who), AUTH_UNKNOWN);
        header[length] = '!';
        assert_int_equal(check_text((struct text){header, (size_t) length + 1}, &who), AUTH_UNKNOWN);
    }
}

static void every_verdict_has_a_name(void **state)
{
    (void) state;
    for (size_t i = 0; i < AUTH_VERDICT_COUNT; i++) {
        assert_non_null(AUTH_VERDICT_NAMES[i]);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(AUTH_VERDICT_NAMES[i], AUTH_VERDICT_NAMES[j]);
        }
    }
}

static void key_and_tenant_must_both_allow_a_model(void **state)
{
    (void) state;
    static const char *const GEMMAS[] = {"gemma-*"};
    static const char *const SMALL[] = {"*-270m", "llama"};
    struct key key = {.tenant = &tenants[0]};
    struct principal who = {&tenants[0], &key, ""};
    struct model gemma = {.name = "gemma-3-270m"};
    struct model big = {.name = "gemma-3-27b"};
    struct model llama = {.name = "llama"};
    assert_true(auth_allows_model(&who, &gemma) && auth_allows_model(&who, &big) && auth_allows_model(&who, &llama));

    tenants[0].scopes = (struct scopes){.models_limited = true, .model_pattern_count = 1, .model_patterns = GEMMAS};
    assert_true(auth_allows_model(&who, &gemma) && auth_allows_model(&who, &big));
    assert_false(auth_allows_model(&who, &llama));

    key.scopes = (struct scopes){.models_limited = true, .model_pattern_count = 2, .model_patterns = SMALL};
    assert_true(auth_allows_model(&who, &gemma));
    assert_false(auth_allows_model(&who, &big));
    assert_false(auth_allows_model(&who, &llama));

    tenants[0].scopes = (struct scopes){.models_limited = false};
    assert_true(auth_allows_model(&who, &llama));
}

static void key_and_tenant_must_both_allow_an_endpoint(void **state)
{
    (void) state;
    struct key key = {.tenant = &tenants[0]};
    struct principal who = {&tenants[0], &key, ""};
    for (int i = 0; i < ENDPOINT_COUNT; i++) {
        assert_true(auth_allows_endpoint(&who, (enum endpoint) i));
    }
    tenants[0].scopes =
        (struct scopes){.endpoints_limited = true, .endpoint_bits = 1u << ENDPOINT_CHAT | 1u << ENDPOINT_MODELS};
    key.scopes =
        (struct scopes){.endpoints_limited = true, .endpoint_bits = 1u << ENDPOINT_CHAT | 1u << ENDPOINT_EMBEDDINGS};
    for (int i = 0; i < ENDPOINT_COUNT; i++) {
        assert_int_equal(auth_allows_endpoint(&who, (enum endpoint) i), i == ENDPOINT_CHAT);
    }
    key.scopes = (struct scopes){.endpoints_limited = true, .endpoint_bits = 0};
    assert_false(auth_allows_endpoint(&who, ENDPOINT_CHAT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_known_key_is_its_tenant_and_user, start),
        cmocka_unit_test_setup(unknown_and_wrong_keys_are_the_same, start),
        cmocka_unit_test_setup(a_key_expires_at_its_millisecond, start),
        cmocka_unit_test_setup(a_disabled_key_or_tenant_is_refused, start),
        cmocka_unit_test_setup(the_scheme_is_case_insensitive_and_spaces_may_repeat, start),
        cmocka_unit_test_setup(broken_headers_are_malformed, start),
        cmocka_unit_test_setup(foreign_keys_are_accepted_as_they_are, start),
        cmocka_unit_test_setup(a_bearer_has_a_longest_length, start),
        cmocka_unit_test_setup(bearers_with_equal_prefixes_never_share_an_identity, start),
        cmocka_unit_test(every_verdict_has_a_name),
        cmocka_unit_test_setup(key_and_tenant_must_both_allow_a_model, start),
        cmocka_unit_test_setup(key_and_tenant_must_both_allow_an_endpoint, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
