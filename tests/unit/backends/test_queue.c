#include "backends/queue.h"

#include "tests/lib/unit.h"

enum { TICKETS = 32 };

static void test_full_at_its_length(void **state)
{
    (void) state;
    struct ticket tickets[3] = {0};
    struct queue queue = {.length_max = 2};
    queue_push(&queue, &tickets[0]);
    assert_false(queue_is_full(&queue));
    queue_push(&queue, &tickets[1]);
    assert_true(queue_is_full(&queue));
    queue.length_max = 1; /* a reload made it shorter: who waits, waits on */
    assert_true(queue_is_full(&queue));
    queue_remove(&queue, &tickets[0]);
    assert_true(queue_is_full(&queue));
    queue.length_max = 0;
    assert_true(queue_is_full(&queue));
}

/* Against an array. */
static void test_order_is_that_of_arrival_whoever_leaves(void **state)
{
    (void) state;
    static struct ticket tickets[TICKETS];
    struct ticket *expected[TICKETS];
    bool inside[TICKETS] = {false};
    int count = 0;
    struct queue queue = {.length_max = TICKETS};
    for (int step = 0; step < 20000; step++) {
        size_t at = unit_random_below(TICKETS);
        if (!inside[at]) {
            queue_push(&queue, &tickets[at]);
            expected[count++] = &tickets[at];
        } else {
            queue_remove(&queue, &tickets[at]);
            int from = 0;
            while (expected[from] != &tickets[at])
                from++;
            for (count--; from < count; from++)
                expected[from] = expected[from + 1];
        }
        inside[at] = !inside[at];
        assert_int_equal(queue.length, count);
        int seen = 0;
        for (struct ticket *ticket = queue.first; ticket != NULL; ticket = ticket->next) {
            assert_ptr_equal(ticket, expected[seen]);
            seen++;
        }
        assert_int_equal(seen, count);
        assert_ptr_equal(queue.last, count > 0 ? expected[count - 1] : NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_at_its_length),
        cmocka_unit_test(test_order_is_that_of_arrival_whoever_leaves),
    };
    unit_random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
