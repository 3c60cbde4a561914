/* Before the file's own includes: its allocations go through the fault. */
#include "tests/lib/fault.h"

#include "gateway/body.c"

#include "tests/lib/unit.h"

static void test_a_body_in_pieces(void **state)
{
    struct body body = {0};
    (void) state;
    assert_int_equal(body_expect(&body, -1), BODY_OK);
    assert_int_equal(bodies_bytes(), BODY_FIRST_BYTES);
    for (int i = 0; i < 100 * 1000; i++)
        assert_int_equal(body_add(&body, TEXT("ab")), BODY_OK);
    assert_int_equal(body_add(&body, (struct text){NULL, 0}), BODY_OK);
    struct text whole = body_text(&body);
    assert_int_equal(whole.length, 200 * 1000);
    for (size_t i = 0; i < whole.length; i++)
        assert_int_equal(whole.at[i], i % 2 == 0 ? 'a' : 'b');
    assert_int_equal(bodies_bytes(), body.capacity);
    body_finish(&body);
    body_finish(&body);
    assert_int_equal(bodies_bytes(), 0);
    assert_int_equal(body_text(&body).length, 0);
}

static void test_a_body_that_says_how_long_it_is(void **state)
{
    struct body body = {0};
    (void) state;
    assert_int_equal(body_expect(&body, 5), BODY_OK);
    assert_int_equal(bodies_bytes(), 5);
    assert_int_equal(body_add(&body, TEXT("hello")), BODY_OK);
    assert_int_equal(bodies_bytes(), 5);
    body_finish(&body);
    assert_int_equal(body_expect(&body, 0), BODY_OK);
    assert_int_equal(body_add(&body, (struct text){NULL, 0}), BODY_OK);
    body_finish(&body);
}

static void test_the_bound_of_one(void **state)
{
    struct body body = {0};
    char *piece = calloc(1, BODY_BYTES_MAX);
    (void) state;
    assert_int_equal(body_expect(&body, BODY_BYTES_MAX + 1), BODY_LARGE);
    assert_int_equal(bodies_bytes(), 0);
    assert_int_equal(body_expect(&body, -1), BODY_OK);
    assert_int_equal(body_add(&body, (struct text){piece, BODY_BYTES_MAX - 1}), BODY_OK);
    assert_int_equal(body_add(&body, TEXT("ab")), BODY_LARGE);
    assert_int_equal(body_add(&body, TEXT("a")), BODY_OK);
    assert_int_equal(body_add(&body, TEXT("a")), BODY_LARGE);
    assert_int_equal(body_text(&body).length, BODY_BYTES_MAX);
    assert_true(body.capacity <= BODY_BYTES_MAX);
    body_finish(&body);
    free(piece);
}

static enum body_result fill(struct body *body, const char *piece)
{
    enum body_result result = body_expect(body, BODY_BYTES_MAX);
    return result == BODY_OK ? body_add(body, (struct text){piece, BODY_BYTES_MAX}) : result;
}

static void test_the_bound_of_all(void **state)
{
    enum { BODIES = 52 };
    struct body bodies[BODIES] = {{0}};
    char *piece = calloc(1, BODY_BYTES_MAX);
    int held = 0;
    (void) state;
    while (held < BODIES && fill(&bodies[held], piece) == BODY_OK)
        held++;
    assert_int_equal(held, BODIES_BYTES_MAX / BODY_BYTES_MAX);
    assert_true(bodies_bytes() <= BODIES_BYTES_MAX);
    assert_int_equal(fill(&bodies[held], piece), BODY_NO_MEMORY);
    body_finish(&bodies[0]);
    assert_int_equal(fill(&bodies[held], piece), BODY_OK);
    for (int i = 0; i < BODIES; i++)
        body_finish(&bodies[i]);
    assert_int_equal(bodies_bytes(), 0);
    free(piece);
}

/* Those who announce much and send nothing keep nobody else out. */
static void test_what_is_only_announced_takes_little(void **state)
{
    enum { BODIES = 200 };
    struct body bodies[BODIES] = {{0}};
    (void) state;
    for (int i = 0; i < BODIES; i++)
        assert_int_equal(body_expect(&bodies[i], BODY_BYTES_MAX), BODY_OK);
    assert_true(bodies_bytes() <= (int64_t) BODIES * BODY_AHEAD_BYTES);
    for (int i = 0; i < BODIES; i++)
        body_finish(&bodies[i]);
}

static void test_no_memory(void **state)
{
    struct body body = {0};
    (void) state;
    fault_countdown = 1;
    assert_int_equal(body_expect(&body, 3), BODY_OK);
    assert_int_equal(body_add(&body, TEXT("abc")), BODY_OK);
    assert_int_equal(body_add(&body, TEXT("d")), BODY_NO_MEMORY);
    fault_countdown = -1;
    assert_true(text_equal(body_text(&body), TEXT("abc")));
    assert_int_equal(bodies_bytes(), 3);
    assert_int_equal(body_add(&body, TEXT("d")), BODY_OK);
    body_finish(&body);
    assert_int_equal(bodies_bytes(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_body_in_pieces),
        cmocka_unit_test(test_a_body_that_says_how_long_it_is),
        cmocka_unit_test(test_the_bound_of_one),
        cmocka_unit_test(test_the_bound_of_all),
        cmocka_unit_test(test_what_is_only_announced_takes_little),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
