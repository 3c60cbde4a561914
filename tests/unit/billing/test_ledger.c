/* billing/ledger: what was written is read back, to the byte, and nothing else is taken for it. */
#include "billing/ledger.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/conf/scratch.h"

static const char WRITER[] = "0123456789abcdef0123456789abcdef";
static const char OTHER[] = "f123456789abcdef0123456789abcdef";
static const wall_ms ENDED = 1795363499999; /* 2026-11-22T16:04:59.999Z */

/* The file of record: its bytes never change. */
static const char GOLDEN[] =
    "{\"schema\":1,\"writer\":\"0123456789abcdef0123456789abcdef\",\"epoch\":7,\"began\":1795363200000,"
    "\"ended\":1795363499999,\"cells\":3}\n"
    "{\"tenant\":\"acme\",\"key\":\"ci\",\"model\":\"a \\\"b\\\"\\\\\",\"measure\":\"input_tokens\","
    "\"source\":\"engine\",\"quantity\":9223372036854775807}\n"
    "{\"tenant\":\"acme\",\"key\":\"ci\",\"model\":\"gemma\",\"measure\":\"output_tokens\","
    "\"source\":\"counted\",\"quantity\":22}\n"
    "{\"tenant\":\"globex\",\"key\":\"k\",\"model\":\"gemma\",\"measure\":\"requests\","
    "\"source\":\"none\",\"quantity\":1}\n";

static struct ledger_head head_of(const char *writer, uint64_t epoch)
{
    struct ledger_head head = {.began = 1795363200000, .ended = ENDED};
    strcpy(head.name.writer, writer);
    head.name.epoch = epoch;
    return head;
}

static struct cells *some_cells(void)
{
    static const struct cell CELLS[] = {
        {{"globex", 6}, {"k", 1}, {"gemma", 5}, MEASURE_REQUESTS, COUNT_NONE, 1},
        {{"acme", 4}, {"ci", 2}, {"gemma", 5}, MEASURE_OUTPUT_TOKENS, COUNT_COUNTED, 22},
        {{"acme", 4}, {"ci", 2}, {"a \"b\"\\", 6}, MEASURE_INPUT_TOKENS, COUNT_ENGINE, INT64_MAX},
    };
    struct cells *cells = cells_create();
    for (size_t i = 0; i < sizeof CELLS / sizeof CELLS[0]; i++)
        assert_true(cells_add(cells, &CELLS[i]));
    return cells;
}

static void write_some(const char *writer, uint64_t epoch)
{
    struct ledger_head head = head_of(writer, epoch);
    struct cells *cells = some_cells();
    assert_true(ledger_write(scratch_directory, &head, cells));
    cells_destroy(&cells);
}

static const char *path_of(uint64_t epoch)
{
    char name[128];
    snprintf(name, sizeof name, "%s-%08llu.jsonl", WRITER, (unsigned long long) epoch);
    return scratch_path(name);
}

static void test_the_file_is_golden_and_is_read_back(void **state)
{
    (void) state;
    char found[2048] = {0};
    write_some(WRITER, 7);
    FILE *file = fopen(path_of(7), "r");
    assert_non_null(file);
    assert_int_equal(fread(found, 1, sizeof found - 1, file), sizeof GOLDEN - 1);
    fclose(file);
    assert_string_equal(found, GOLDEN);
    struct ledger_head head, written = head_of(WRITER, 7);
    struct cells *cells, *expected = some_cells();
    assert_true(ledger_read(scratch_directory, &written.name, &head, &cells));
    assert_true(head.began == written.began && head.ended == written.ended && head.cell_count == 3);
    struct cell *a = cells_sorted(cells), *b = cells_sorted(expected);
    for (size_t i = 0; i < 3; i++) {
        assert_true(text_equal(a[i].tenant, b[i].tenant) && text_equal(a[i].key, b[i].key));
        assert_true(text_equal(a[i].model, b[i].model) && a[i].quantity == b[i].quantity);
    }
    free(a);
    free(b);
    cells_destroy(&cells);
    cells_destroy(&expected);
}

/* Whoever seals again after a crash finds it done. */
static void test_an_epoch_is_never_written_again(void **state)
{
    (void) state;
    write_some(WRITER, 1);
    struct ledger_head head = head_of(WRITER, 1), found;
    struct cells *none = cells_create();
    assert_true(ledger_write(scratch_directory, &head, none));
    cells_destroy(&none);
    assert_true(ledger_read(scratch_directory, &head.name, &found, NULL));
    assert_int_equal(found.cell_count, 3);
}

static void test_the_list_is_sorted_and_passes_over_others(void **state)
{
    (void) state;
    struct ledger_name *names;
    size_t count;
    assert_true(ledger_list(scratch_path("missing"), &names, &count));
    assert_int_equal(count, 0);
    static const uint64_t EPOCHS[] = {10, 2, 123456789, 1};
    for (size_t i = 0; i < 4; i++)
        write_some(WRITER, EPOCHS[i]);
    write_some(OTHER, 1);
    scratch_write("notes.txt", "");
    scratch_write("0123456789abcdef0123456789abcdef-00000003.jsonl.tmp", "");
    scratch_write("0123456789abcdef0123456789abcdef-3.jsonl", "");
    assert_true(ledger_list(scratch_directory, &names, &count));
    assert_int_equal(count, 5);
    static const uint64_t SORTED[] = {1, 2, 10, 123456789, 1};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(names[i].epoch, SORTED[i]);
        assert_string_equal(names[i].writer, i < 4 ? WRITER : OTHER);
    }
    free(names);
}

/* Every cut is noticed. */
static void test_a_file_that_is_not_whole_is_refused(void **state)
{
    (void) state;
    struct ledger_head head = head_of(WRITER, 7), found;
    struct cells *cells;
    assert_false(ledger_read(scratch_directory, &head.name, &found, &cells));
    assert_int_equal(errno, ENOENT);
    for (size_t length = 0; length < sizeof GOLDEN - 1; length++) {
        char cut[sizeof GOLDEN];
        memcpy(cut, GOLDEN, length);
        cut[length] = '\0';
        scratch_write("0123456789abcdef0123456789abcdef-00000007.jsonl", cut);
        assert_false(ledger_read(scratch_directory, &head.name, &found, &cells));
        assert_int_equal(errno, EBADMSG);
    }
    char more[sizeof GOLDEN + 2];
    snprintf(more, sizeof more, "%s\n", GOLDEN);
    scratch_write("0123456789abcdef0123456789abcdef-00000007.jsonl", more);
    assert_false(ledger_read(scratch_directory, &head.name, &found, &cells));
}

static bool may_go(void *owner, const struct ledger_head *head)
{
    ++*(unsigned *) owner;
    return head->name.epoch != 2;
}

static void test_what_is_old_and_delivered_goes(void **state)
{
    (void) state;
    unsigned asked = 0;
    for (uint64_t epoch = 1; epoch <= 3; epoch++)
        write_some(WRITER, epoch);
    assert_int_equal(ledger_expire(scratch_directory, ENDED, may_go, &asked), 0);
    assert_int_equal(asked, 0);
    assert_int_equal(ledger_expire(scratch_directory, ENDED + 1, may_go, &asked), 2);
    assert_int_equal(asked, 3);
    struct ledger_name *names;
    size_t count;
    assert_true(ledger_list(scratch_directory, &names, &count));
    assert_int_equal(count, 1);
    assert_int_equal(names[0].epoch, 2);
    free(names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_file_is_golden_and_is_read_back, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_an_epoch_is_never_written_again, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_the_list_is_sorted_and_passes_over_others, scratch_create,
                                        scratch_destroy),
        cmocka_unit_test_setup_teardown(test_a_file_that_is_not_whole_is_refused, scratch_create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_what_is_old_and_delivered_goes, scratch_create, scratch_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
