/* billing/redis_epoch: what a shipper put into a real Redis comes back as the same cells; what is no cell is found. */
#include "billing/redis_epoch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "billing/ship.h"
#include "tests/lib/redis_room.h"

static struct redis_room room;
static const struct ledger_name EPOCH = {"0123456789abcdef0123456789abcdef", 3};

static int set_up(void **state)
{
    (void) state;
    redis_room_init(&room);
    redis_room_start(&room);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    redis_room_finish(&room);
    return 0;
}

static struct record close_record(uint64_t sequence)
{
    return (struct record){.type = RECORD_CLOSE,
                           .sequence = sequence,
                           .tenant = TEXT("acme"),
                           .key = TEXT("ci"),
                           .model = TEXT("gemma"),
                           .when = 1000,
                           .input_tokens = 11,
                           .cached_input_tokens = 3,
                           .output_tokens = 22,
                           .input_source = COUNT_ESTIMATED,
                           .output_source = COUNT_ENGINE,
                           .billed = true,
                           .epoch = 3};
}

static void ship(const struct record *record)
{
    struct ship_batch *batch = ship_batch_create();
    uint64_t mark;
    assert_non_null(batch);
    ship_begin(batch, EPOCH.writer, record->sequence - 1, 3600);
    assert_int_equal(ship_add(batch, record), SHIP_ADDED);
    assert_int_equal(ship_apply(batch, room.client, &mark), REDIS_DONE);
    assert_int_equal(mark, record->sequence);
    ship_batch_destroy(&batch);
}

static void ship_close(void)
{
    struct record close = close_record(1);
    ship(&close);
}

static void ship_seal(void)
{
    struct record seal = {.type = RECORD_SEAL, .sequence = 2, .when = 1000, .epoch = 3, .epoch_began = 1000};
    ship(&seal);
}

static void test_what_was_shipped_comes_back(void **state)
{
    (void) state;
    struct cells *expected = cells_create(), *found = NULL;
    struct record close = close_record(1);
    assert_int_equal(redis_epoch_read(room.client, &EPOCH, &found), REDIS_EPOCH_ABSENT);
    ship_close();
    assert_int_equal(redis_epoch_read(room.client, &EPOCH, &found), REDIS_EPOCH_ABSENT); /* there may come more */
    ship_seal();
    assert_int_equal(redis_epoch_read(room.client, &EPOCH, &found), REDIS_EPOCH_READ);
    assert_true(cells_add_close(expected, &close));
    assert_int_equal(cells_count(found), cells_count(expected));
    struct cell *left = cells_sorted(expected), *right = cells_sorted(found);
    for (size_t i = 0; i < cells_count(expected); i++) {
        assert_true(text_equal(left[i].tenant, right[i].tenant) && text_equal(left[i].key, right[i].key));
        assert_true(text_equal(left[i].model, right[i].model) && left[i].measure == right[i].measure);
        assert_true(left[i].source == right[i].source && left[i].quantity == right[i].quantity);
    }
    free(left);
    free(right);
    cells_destroy(&expected);
    cells_destroy(&found);
}

static void test_what_is_no_cell_is_damage(void **state)
{
    (void) state;
    struct cells *found = NULL;
    static const char KEY[] = "tg:{0123456789abcdef0123456789abcdef}:cells:3";
    const struct text words[] = {TEXT("HSET"), TEXT(KEY), TEXT("nonsense"), TEXT("1")};
    ship_close();
    ship_seal();
    assert_int_equal(redis_ask(room.client, words, 4, NULL), REDIS_DONE);
    assert_int_equal(redis_epoch_read(room.client, &EPOCH, &found), REDIS_EPOCH_DAMAGED);
    assert_null(found);
}

static void test_a_redis_that_is_gone_says_so(void **state)
{
    (void) state;
    struct cells *found = NULL;
    redis_room_kill(&room);
    assert_int_equal(redis_epoch_read(room.client, &EPOCH, &found), REDIS_EPOCH_DOWN);
    assert_true(redis_error(room.client)[0] != '\0');
}

#define FIELD(measure, source)                                                                                         \
    TEXT("acme\x1f"                                                                                                    \
         "ci\x1f"                                                                                                      \
         "gemma\x1f" measure "\x1f" source)

static void test_fields(void **state)
{
    (void) state;
    const struct {
        struct text field, value;
        bool good;
    } cases[] = {
        {FIELD("requests", "none"), TEXT("1"), true},
        {FIELD("output_tokens", "counted"), TEXT("999999999999999999"), true},
        {FIELD("requests", "none"), TEXT("1.5"), false},
        {FIELD("requests", "none"), TEXT("-1"), false},
        {FIELD("requests", "none"), TEXT(""), false},
        {FIELD("request", "none"), TEXT("1"), false},
        {FIELD("requests", "someone"), TEXT("1"), false},
        {TEXT("acme\x1f"
              "ci\x1f"
              "gemma\x1f"
              "requests"),
         TEXT("1"), false},
        {TEXT(""), TEXT("1"), false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cells *cells = cells_create();
        errno = 0;
        assert_int_equal(redis_epoch_add(cells, cases[i].field, cases[i].value), cases[i].good);
        assert_int_equal(cells_count(cells), cases[i].good);
        assert_int_equal(errno, cases[i].good ? 0 : EBADMSG);
        cells_destroy(&cells);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test_setup_teardown(test_what_was_shipped_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_no_cell_is_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_redis_that_is_gone_says_so, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
