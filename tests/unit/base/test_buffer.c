#include "tests/lib/fault.h"

#include "base/buffer.c"

#include "tests/lib/unit.h"

static void an_empty_buffer_has_no_memory(void **state)
{
    (void) state;
    struct buffer buffer = {.limit = 10};
    assert_int_equal(buffer_length(&buffer), 0);
    assert_int_equal(buffer_text(&buffer).length, 0);
    assert_true(buffer_add(&buffer, TEXT("")));
    assert_null(buffer.at);
    buffer_consume(&buffer, 0);
    buffer_finish(&buffer);
}

static void the_limit_is_exact(void **state)
{
    (void) state;
    struct buffer buffer;
    buffer_init(&buffer, 10);
    assert_true(buffer_add(&buffer, TEXT("12345")));
    assert_false(buffer_add(&buffer, TEXT("123456")));
    assert_false(buffer_format(&buffer, "%d", 123456));
    assert_true(text_equal(buffer_text(&buffer), TEXT("12345")));
    assert_true(buffer_format(&buffer, "%d", 67890));
    assert_true(text_equal(buffer_text(&buffer), TEXT("1234567890")));
    assert_false(buffer_add(&buffer, TEXT("x")));
    buffer_consume(&buffer, 1);
    assert_true(buffer_add(&buffer, TEXT("x")));
    assert_true(text_equal(buffer_text(&buffer), TEXT("234567890x")));
    assert_true(buffer.capacity <= 11);
    buffer_finish(&buffer);
}

/* vsnprintf writes a NUL behind the content, also when that fills a power of two (the address sanitizer watches). */
static void formatted_text_of_any_length_has_room_for_its_nul(void **state)
{
    (void) state;
    for (int length = 1; length <= 1100; length++) {
        struct buffer buffer;
        buffer_init(&buffer, 5000);
        assert_true(buffer_format(&buffer, "%*d", length, 7));
        assert_int_equal(buffer_length(&buffer), length);
        assert_int_equal(buffer_text(&buffer).at[length - 1], '7');
        assert_true(buffer.capacity > (size_t) length);
        buffer_finish(&buffer);
    }
}

static void the_largest_limit_does_not_wrap(void **state)
{
    (void) state;
    struct buffer buffer;
    buffer_init(&buffer, SIZE_MAX);
    assert_true(buffer_add(&buffer, TEXT("abc")));
    assert_true(text_equal(buffer_text(&buffer), TEXT("abc")));
    buffer_finish(&buffer);
}

/* The bytes 0, 1, 2, ... go in at the end and come out at the front, whatever the pieces. */
static void any_adds_and_consumes_keep_the_order(void **state)
{
    (void) state;
    for (int round = 0; round < 100; round++) {
        size_t limit = 1 + unit_random_below(3000);
        struct buffer buffer;
        buffer_init(&buffer, limit);
        unsigned char next_in = 0, next_out = 0;
        for (int step = 0; step < 300; step++) {
            char piece[400];
            size_t length = unit_random_below(sizeof(piece));
            for (size_t i = 0; i < length; i++)
                piece[i] = (char) (next_in + i);
            size_t before = buffer_length(&buffer);
            bool fits = before + length <= limit;
            assert_int_equal(buffer_add(&buffer, (struct text){piece, length}), fits);
            assert_int_equal(buffer_length(&buffer), fits ? before + length : before);
            if (fits)
                next_in = (unsigned char) (next_in + length);

            size_t out = unit_random_below(buffer_length(&buffer) + 1);
            struct text content = buffer_text(&buffer);
            for (size_t i = 0; i < out; i++)
                assert_int_equal((unsigned char) content.at[i], (unsigned char) (next_out + i));
            buffer_consume(&buffer, out);
            next_out = (unsigned char) (next_out + out);
            assert_true(buffer.capacity <= (limit < 256 ? 256 : limit) + 1);
        }
        buffer_finish(&buffer);
    }
}

static void clearing_keeps_the_memory(void **state)
{
    (void) state;
    struct buffer buffer;
    buffer_init(&buffer, 1000);
    assert_true(buffer_add(&buffer, TEXT("abc")));
    const char *memory = buffer.at;
    buffer_clear(&buffer);
    assert_int_equal(buffer_length(&buffer), 0);
    assert_true(buffer_add(&buffer, TEXT("d")));
    assert_ptr_equal(buffer.at, memory);
    buffer_finish(&buffer);
    assert_null(buffer.at);
    assert_int_equal(buffer.limit, 1000);
}

static void without_memory_nothing_changes(void **state)
{
    (void) state;
    struct buffer buffer;
    buffer_init(&buffer, 100000);
    assert_true(buffer_add(&buffer, TEXT("kept")));
    char large[1000] = {0};
    fault_countdown = 0;
    assert_false(buffer_add(&buffer, (struct text){large, sizeof(large)}));
    assert_false(buffer_format(&buffer, "%1000d", 1));
    assert_true(text_equal(buffer_text(&buffer), TEXT("kept")));
    fault_countdown = -1;
    assert_true(buffer_add(&buffer, (struct text){large, sizeof(large)}));
    assert_int_equal(buffer_length(&buffer), 1004);
    buffer_finish(&buffer);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_buffer_has_no_memory),
        cmocka_unit_test(the_limit_is_exact),
        cmocka_unit_test(formatted_text_of_any_length_has_room_for_its_nul),
        cmocka_unit_test(the_largest_limit_does_not_wrap),
        cmocka_unit_test(any_adds_and_consumes_keep_the_order),
        cmocka_unit_test(clearing_keeps_the_memory),
        cmocka_unit_test(without_memory_nothing_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
