#include "backends/log_ring.h"

#include <string.h>

#include "tests/lib/unit.h"

static struct log_ring ring;
static char copy[MASTER_RING_BYTES];

static void the_last_bytes_stay(void **state)
{
    (void) state;
    ring = (struct log_ring){0};
    assert_int_equal(log_ring_copy(&ring, copy), 0);
    log_ring_add(&ring, TEXT(""));
    log_ring_add(&ring, TEXT("one\n"));
    log_ring_add(&ring, TEXT("two\n"));
    assert_int_equal(log_ring_copy(&ring, copy), 8);
    assert_memory_equal(copy, "one\ntwo\n", 8);
}

static void a_piece_larger_than_the_ring_leaves_its_end(void **state)
{
    (void) state;
    static char piece[MASTER_RING_BYTES + 10];
    memset(piece, 'a', sizeof(piece));
    memcpy(piece + sizeof(piece) - 4, "last", 4);
    ring = (struct log_ring){0};
    log_ring_add(&ring, TEXT("before"));
    log_ring_add(&ring, (struct text){piece, sizeof(piece)});
    assert_int_equal(log_ring_copy(&ring, copy), MASTER_RING_BYTES);
    assert_memory_equal(copy, piece + 10, MASTER_RING_BYTES);
}

/* Against the simplest thing that could be right: everything in one long array. */
static void pieces_of_any_length_wrap(void **state)
{
    (void) state;
    static char all[6 * MASTER_RING_BYTES];
    size_t length = 0;
    ring = (struct log_ring){0};
    unit_random_seed();
    while (length < sizeof(all)) {
        size_t piece = unit_random_below(3) == 0 ? unit_random_below(MASTER_RING_BYTES) : unit_random_below(100);
        piece = piece < sizeof(all) - length ? piece : sizeof(all) - length;
        for (size_t i = 0; i < piece; i++)
            all[length + i] = (char) unit_random();
        log_ring_add(&ring, (struct text){all + length, piece});
        length += piece;
        size_t expected = length < MASTER_RING_BYTES ? length : MASTER_RING_BYTES;
        assert_int_equal(log_ring_copy(&ring, copy), expected);
        assert_memory_equal(copy, all + length - expected, expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_bytes_stay),
        cmocka_unit_test(a_piece_larger_than_the_ring_leaves_its_end),
        cmocka_unit_test(pieces_of_any_length_wrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
