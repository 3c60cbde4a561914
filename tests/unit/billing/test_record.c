/* billing/record: what is written is read back, and nothing else is taken for a record. */
#include "billing/record.h"

#include <endian.h>
#include <string.h>

#include "tests/lib/unit.h"

static char noise[RECORD_NAME_BYTES_MAX];

static struct text any_text(size_t most)
{
    return (struct text){noise, unit_random_below(most + 1)};
}

static int64_t any_number(void)
{
    return (int64_t) (unit_random() >> unit_random_below(64));
}

static void add_names(struct record *record)
{
    record->request_id = any_text(RECORD_ID_BYTES_MAX);
    record->tenant = any_text(RECORD_NAME_BYTES_MAX);
    record->key = any_text(RECORD_NAME_BYTES_MAX);
    record->model = any_text(RECORD_NAME_BYTES_MAX);
}

/* Only the fields of its type are set: the others are not in the file. */
static struct record any_record(enum record_type type)
{
    struct record record = {.type = type, .sequence = unit_random() | 1, .when = any_number()};
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (char) unit_random_below(256);
    if (type == RECORD_OPEN || type == RECORD_CLOSE) {
        add_names(&record);
        record.input_tokens = any_number();
    }
    if (type == RECORD_PROGRESS)
        record.request_id = any_text(RECORD_ID_BYTES_MAX);
    if (type == RECORD_PROGRESS || type == RECORD_CLOSE)
        record.output_tokens = any_number();
    if (type == RECORD_CLOSE) {
        record.cached_input_tokens = any_number();
        record.input_source = (enum count_source) unit_random_below(4);
        record.output_source = (enum count_source) unit_random_below(4);
        record.end = (enum usage_end)(END_COMPLETE + unit_random_below(5));
        record.billed = unit_random_below(2) != 0;
    }
    if (type == RECORD_CLOSE || type == RECORD_SEAL)
        record.epoch = unit_random();
    if (type == RECORD_SEAL)
        record.epoch_began = any_number();
    return record;
}

static void assert_same(const struct record *a, const struct record *b)
{
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->sequence, b->sequence);
    assert_true(text_equal(a->request_id, b->request_id) && text_equal(a->tenant, b->tenant));
    assert_true(text_equal(a->key, b->key) && text_equal(a->model, b->model));
    assert_int_equal(a->when, b->when);
    assert_int_equal(a->input_tokens, b->input_tokens);
    assert_int_equal(a->cached_input_tokens, b->cached_input_tokens);
    assert_int_equal(a->output_tokens, b->output_tokens);
    assert_int_equal(a->input_source, b->input_source);
    assert_int_equal(a->output_source, b->output_source);
    assert_int_equal(a->end, b->end);
    assert_int_equal(a->billed, b->billed);
    assert_int_equal(a->epoch, b->epoch);
    assert_int_equal(a->epoch_began, b->epoch_began);
}

static void test_round_trip(void **state)
{
    (void) state;
    for (int round = 0; round < 5000; round++) {
        char bytes[RECORD_BYTES_MAX + 64] = {0};
        struct record found, record = any_record((enum record_type)(RECORD_OPEN + unit_random_below(5)));
        size_t length = record_encode(&record, bytes), found_length = 0;
        struct text rest = {bytes, length + unit_random_below(64)};
        assert_int_equal(record_decode(rest, &found, &found_length), RECORD_DECODED);
        assert_int_equal(found_length, length);
        assert_same(&record, &found);
    }
}

/* The CRC must see it: every prefix, every bit. Copies of just that size, so that ASan sees a read past the end. */
static void test_torn_or_flipped_is_refused(void **state)
{
    (void) state;
    for (int type = RECORD_OPEN; type <= RECORD_FINISH; type++) {
        char bytes[RECORD_BYTES_MAX];
        struct record found, record = any_record((enum record_type) type);
        size_t length = record_encode(&record, bytes), found_length;
        for (size_t cut = 0; cut < length; cut++) {
            char *prefix = malloc(cut + 1);
            memcpy(prefix, bytes, cut);
            assert_int_not_equal(record_decode((struct text){prefix, cut}, &found, &found_length), RECORD_DECODED);
            free(prefix);
            /* The rest of the segment is zeros. */
            char torn[RECORD_BYTES_MAX] = {0};
            memcpy(torn, bytes, cut);
            bool is_whole = memcmp(torn, bytes, length) == 0; /* what was cut off were zeros */
            enum record_result result = record_decode((struct text){torn, sizeof torn}, &found, &found_length);
            assert_int_equal(result == RECORD_DECODED, is_whole);
        }
        for (size_t bit = 0; bit < length * 8; bit++) {
            bytes[bit / 8] ^= (char) (1 << bit % 8);
            assert_int_equal(record_decode((struct text){bytes, length}, &found, &found_length), RECORD_TORN);
            bytes[bit / 8] ^= (char) (1 << bit % 8);
        }
    }
}

static void test_zeros_are_the_end(void **state)
{
    char zeros[RECORD_BYTES_MAX] = {0};
    struct record found;
    size_t length;
    (void) state;
    for (size_t count = 0; count <= sizeof zeros; count++)
        assert_int_equal(record_decode((struct text){zeros, count}, &found, &length), RECORD_END);
    zeros[RECORD_HEAD_BYTES - 1] = 1;
    assert_int_equal(record_decode((struct text){zeros, sizeof zeros}, &found, &length), RECORD_TORN);
}

/* A head with a right CRC around a payload that no record of ours has. */
static enum record_result decode_sealed(char bytes[], size_t length)
{
    struct record found;
    uint32_t payload = htole32((uint32_t) (length - RECORD_HEAD_BYTES)), crc;
    memcpy(bytes, &payload, sizeof payload);
    crc = htole32(crc32c(crc32c(0, bytes, 4), bytes + 8, length - 8));
    memcpy(bytes + 4, &crc, sizeof crc);
    return record_decode((struct text){bytes, length}, &found, &length);
}

static void test_senseless_content_is_refused(void **state)
{
    char bytes[RECORD_BYTES_MAX + 1] = {0};
    struct record record = {.type = RECORD_CLOSE, .sequence = 1, .end = END_COMPLETE};
    (void) state;
    size_t length = record_encode(&record, bytes);
    assert_int_equal(decode_sealed(bytes, length), RECORD_DECODED);
    assert_int_equal(decode_sealed(bytes, length + 1), RECORD_TORN);
    assert_int_equal(decode_sealed(bytes, length - 1), RECORD_TORN);
    const struct {
        size_t from_end;
        char value;
    } wrong[] = {{12, 4}, {11, 4}, {10, 0}, {10, 6}, {9, 2}}; /* sources, end, end, billed */
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char *at = &bytes[length - wrong[i].from_end], before = *at;
        *at = wrong[i].value;
        assert_int_equal(decode_sealed(bytes, length), RECORD_TORN);
        *at = before;
    }
    assert_int_equal(decode_sealed(bytes, length), RECORD_DECODED);
    bytes[RECORD_HEAD_BYTES - 1] = RECORD_FINISH + 1;
    assert_int_equal(decode_sealed(bytes, length), RECORD_TORN);
}

static void test_long_names_are_refused(void **state)
{
    char bytes[RECORD_BYTES_MAX] = {0};
    (void) state;
    bytes[8] = 1;
    bytes[RECORD_HEAD_BYTES - 1] = RECORD_PROGRESS;
    for (size_t id = RECORD_ID_BYTES_MAX; id <= RECORD_ID_BYTES_MAX + 1; id++) {
        bytes[RECORD_HEAD_BYTES + 8] = (char) id;
        enum record_result result = decode_sealed(bytes, RECORD_HEAD_BYTES + 8 + 1 + id + 8);
        assert_int_equal(result, id <= RECORD_ID_BYTES_MAX ? RECORD_DECODED : RECORD_TORN);
    }
}

/* RFC 3720 B.4, and the usual check value; in pieces it is the same. */
static void test_crc(void **state)
{
    uint8_t bytes[32];
    (void) state;
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x8a9136aa);
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x62a8ab43);
    for (uint8_t i = 0; i < sizeof bytes; i++)
        bytes[i] = i;
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x46dd794e);
    assert_int_equal(crc32c(crc32c(0, bytes, 7), bytes + 7, sizeof bytes - 7), 0x46dd794e);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
}

/* These stand in files: a change makes old journals unreadable. */
static void test_bytes_never_change(void **state)
{
    static const uint8_t expected[] = {0x14, 0, 0, 0, 0, 0, 0, 0, 7, 0,   0,   0,   0,  0, 0, 0, RECORD_PROGRESS,
                                       0xe8, 3, 0, 0, 0, 0, 0, 0, 3, 'a', 'b', 'c', 64, 0, 0, 0, 0,
                                       0,    0, 0};
    char bytes[RECORD_BYTES_MAX];
    struct record record = {
        .type = RECORD_PROGRESS, .sequence = 7, .when = 1000, .request_id = TEXT("abc"), .output_tokens = 64};
    (void) state;
    assert_int_equal(record_encode(&record, bytes), sizeof expected);
    memset(bytes + 4, 0, 4); /* the CRC has its own test */
    assert_memory_equal(bytes, expected, sizeof expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_torn_or_flipped_is_refused),
        cmocka_unit_test(test_zeros_are_the_end),
        cmocka_unit_test(test_senseless_content_is_refused),
        cmocka_unit_test(test_long_names_are_refused),
        cmocka_unit_test(test_crc),
        cmocka_unit_test(test_bytes_never_change),
    };
    unit_random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
