/* Keys of ours: shape, check characters, randomness, digest. */
#include <string.h>

#include "auth/key.h"
#include "tests/lib/unit.h"

/* Check characters made by another implementation: Python's zlib.crc32, written in base62. */
static const char *const KNOWN[] = {
    "tg_live_0000000000_0000000000000000000000000000000000000000000_3u3YoB",
    "tg_test_AbCdEfGhIj_zyxwvutsrqponmlkjihgfedcba9876543210ZYXWVUT_22hRhz",
};

static void a_key_has_its_shape(void **state)
{
    (void) state;
    static const char *const ENVIRONMENTS[] = {"live", "t", "test1234", "0"};
    for (size_t i = 0; i < sizeof(ENVIRONMENTS) / sizeof(ENVIRONMENTS[0]); i++) {
        char text[KEY_TEXT_BYTES];
        char id[KEY_ID_CHARACTERS + 1];
        assert_true(key_make(ENVIRONMENTS[i], text, id));
        size_t environment = strlen(ENVIRONMENTS[i]);
        assert_int_equal(strlen(text), 3 + environment + 1 + 10 + 1 + 43 + 1 + 6);
        assert_memory_equal(text, "tg_", 3);
        assert_memory_equal(text + 3, ENVIRONMENTS[i], environment);
        assert_int_equal(strlen(id), 10);
        assert_memory_equal(text + 3 + environment + 1, id, 10);
        assert_true(key_is_well_formed(text_of(text)));
    }
}

static void environments_are_short_lower_case_words(void **state)
{
    (void) state;
    static const char *const BAD[] = {"", "Live", "li_ve", "li-ve", "ninechars", "a b", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        assert_false(key_environment_is_valid(text_of(BAD[i])));
    }
    assert_true(key_environment_is_valid(TEXT("live")));
    assert_true(key_environment_is_valid(TEXT("eight888")));
}

static void the_check_is_the_crc_that_scanners_compute(void **state)
{
    (void) state;
    assert_true(key_is_well_formed(text_of(KNOWN[0])));
    assert_true(key_is_well_formed(text_of(KNOWN[1])));
}

/* A CRC-32 finds every error within 32 bits, so every single wrong character. */
static void every_single_typing_error_is_found(void **state)
{
    (void) state;
    char text[KEY_TEXT_BYTES];
    char id[KEY_ID_CHARACTERS + 1];
    assert_true(key_make("live", text, id));
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i++) {
        char right = text[i];
        for (int wrong = 1; wrong < 256; wrong++) {
            text[i] = (char) wrong;
            if (text[i] != right && key_is_well_formed((struct text){text, length})) {
                fail_msg("character %zu as %d passes", i, wrong);
            }
        }
        text[i] = right;
        assert_false(key_is_well_formed((struct text){text, i}));
    }
    text[length] = '0';
    assert_false(key_is_well_formed((struct text){text, length + 1}));
    assert_false(key_is_well_formed((struct text){NULL, 0}));
    assert_false(key_is_well_formed(TEXT("sk-proj-1234")));
    assert_false(key_is_well_formed(TEXT("tg_live_0000000000")));
    assert_false(key_is_well_formed(TEXT("tg___________")));
}

static int by_text(const void *a, const void *b)
{
    return memcmp(a, b, KEY_TEXT_BYTES);
}

/* 530,000 characters, 8,548 expected of each of 62, standard deviation 92: seven of those either side fail by chance
 * less than once in 10^9 runs, while a plain `% 62` is off by twelve for the first eight. */
static void keys_are_unique_and_their_characters_even(void **state)
{
    (void) state;
    enum { COUNT = 10000, EXPECTED = COUNT * 53 / 62, TOLERANCE = 7 * 92 };
    char(*texts)[KEY_TEXT_BYTES] = calloc(COUNT, KEY_TEXT_BYTES);
    char(*ids)[KEY_ID_CHARACTERS + 1] = calloc(COUNT, KEY_ID_CHARACTERS + 1);
    assert_true(texts != NULL && ids != NULL);
    size_t seen[256] = {0};
    for (size_t i = 0; i < COUNT; i++) {
        assert_true(key_make("live", texts[i], ids[i]));
        for (size_t j = 8; j < 8 + 10 + 1 + 43; j++) {
            seen[(unsigned char) texts[i][j]]++;
        }
    }
    size_t kinds = 0;
    for (int c = 0; c < 256; c++) {
        if (c == '_' || seen[c] == 0) {
            continue;
        }
        kinds++;
        assert_in_range(seen[c], EXPECTED - TOLERANCE, EXPECTED + TOLERANCE);
    }
    assert_int_equal(kinds, 62);
    assert_int_equal(seen['_'], COUNT);
    qsort(texts, COUNT, KEY_TEXT_BYTES, by_text);
    for (size_t i = 1; i < COUNT; i++) {
        assert_memory_not_equal(texts[i - 1] + 8, texts[i] + 8, KEY_ID_CHARACTERS);
        assert_memory_not_equal(texts[i - 1] + 19, texts[i] + 19, KEY_SECRET_CHARACTERS);
    }
    free(texts);
    free(ids);
}

static void the_digest_is_sha256_of_the_whole_bearer(void **state)
{
    (void) state;
    uint8_t sha256[32];
    char hex[65];
    assert_true(key_digest(TEXT("abc"), sha256)); /* FIPS 180-4's example */
    text_hex(hex, sha256, 32);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(key_digest((struct text){NULL, 0}, sha256));
    text_hex(hex, sha256, 32);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_has_its_shape),
        cmocka_unit_test(environments_are_short_lower_case_words),
        cmocka_unit_test(the_check_is_the_crc_that_scanners_compute),
        cmocka_unit_test(every_single_typing_error_is_found),
        cmocka_unit_test(keys_are_unique_and_their_characters_even),
        cmocka_unit_test(the_digest_is_sha256_of_the_whole_bearer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
