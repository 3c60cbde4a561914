#include "tests/lib/unit.h"

#include <string.h>

#include "conf/suggest.h"

static void distance_counts_steps(void **state)
{
    (void) state;
    assert_int_equal(suggest_distance(TEXT(""), TEXT("")), 0);
    assert_int_equal(suggest_distance(TEXT("abc"), TEXT("")), 3);
    assert_int_equal(suggest_distance(TEXT(""), TEXT("abc")), 3);
    assert_int_equal(suggest_distance(TEXT("models"), TEXT("models")), 0);
    assert_int_equal(suggest_distance(TEXT("modles"), TEXT("models")), 1); /* two neighbours swapped */
    assert_int_equal(suggest_distance(TEXT("ca"), TEXT("abc")), 3);
    assert_int_equal(suggest_distance(TEXT("kitten"), TEXT("sitting")), 3);
}

static void long_words_are_far_away(void **state)
{
    (void) state;
    char word[SUGGEST_BYTES_MAX + 2];
    memset(word, 'x', sizeof(word) - 1);
    word[sizeof(word) - 1] = '\0';
    assert_int_equal(suggest_distance(text_of(word), text_of(word)), SUGGEST_BYTES_MAX);
    word[SUGGEST_BYTES_MAX] = '\0';
    assert_int_equal(suggest_distance(text_of(word), text_of(word)), 0);
}

static void distance_is_symmetric(void **state)
{
    (void) state;
    unit_random_seed();
    for (int round = 0; round < 2000; round++) {
        char a[12], b[12];
        struct text one = {a, unit_random_below(sizeof(a))}, two = {b, unit_random_below(sizeof(b))};
        for (size_t i = 0; i < sizeof(a); i++) {
            a[i] = (char) ('a' + unit_random_below(3));
            b[i] = (char) ('a' + unit_random_below(3));
        }
        size_t distance = suggest_distance(one, two);
        assert_int_equal(distance, suggest_distance(two, one));
        size_t longer = one.length > two.length ? one.length : two.length;
        size_t shorter = one.length + two.length - longer;
        assert_in_range(distance, longer - shorter, longer);
    }
}

static const char *best(const char *wrong, const char *const *candidates, size_t count)
{
    struct suggestion suggestion = {0};
    for (size_t i = 0; i < count; i++)
        suggest_look_at(&suggestion, text_of(wrong), candidates[i]);
    return suggestion.best;
}

static void the_closest_is_suggested_or_none(void **state)
{
    (void) state;
    static const char *const words[] = {"listen", "models", "tenants", "url", "env", "weight"};
    assert_string_equal(best("model", words, 6), "models");
    assert_string_equal(best("ulr", words, 6), "url");
    assert_string_equal(best("tenents", words, 6), "tenants");
    assert_null(best("price", words, 6));
    assert_null(best("x", words, 6));
    assert_null(best("", words, 6));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distance_counts_steps),
        cmocka_unit_test(long_words_are_far_away),
        cmocka_unit_test(distance_is_symmetric),
        cmocka_unit_test(the_closest_is_suggested_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
