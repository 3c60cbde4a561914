/* billing/export: the files of record, the window's edges, and sums that are those of the ledger. */
#include "billing/export.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/sha.h>

#include "tests/unit/conf/scratch.h"

static const char WRITER[] = "0123456789abcdef0123456789abcdef";
static const wall_ms HOUR = 3600 * 1000;
static const wall_ms BEGIN = 1795363200000; /* 2026-11-22T16:00:00Z */
enum { ALL_GROUPS = (1 << EXPORT_GROUP_COUNT) - 1 };

static const struct price PRICES[] = {
    {.currency = "EUR", .input_pico = 100000, .cached_input_pico = 50000, .output_pico = 400000},
    {.valid_from_wall_ms = 1795363200000 + 3600 * 1000,
     .currency = "EUR",
     .input_pico = 200000,
     .cached_input_pico = 100000,
     .output_pico = 800000},
};
static const struct price DOLLARS = {.currency = "USD", .output_pico = 2500000};
static const struct model MODELS[] = {{.name = "free"},
                                      {.name = "gemma", .prices = PRICES, .price_count = 2},
                                      {.name = "llama", .prices = &DOLLARS, .price_count = 1}};
static const struct tenant TENANTS[] = {{.name = "-acme", .customer = "cus_1, \"main\""},
                                        {.name = "globex", .customer = ""}};
static const struct policy POLICY = {.models = MODELS, .model_count = 3, .tenants = TENANTS, .tenant_count = 2};

static char ledger[512], out[512];

static int create(void **state)
{
    int result = scratch_create(state);
    snprintf(ledger, sizeof ledger, "%s", scratch_path("ledger"));
    snprintf(out, sizeof out, "%s", scratch_path("out"));
    return result != 0 ? result : mkdir(ledger, 0700);
}

static struct cell cell_of(const char *tenant, const char *model, enum measure measure, enum count_source source,
                           int64_t quantity)
{
    return (struct cell){text_of(tenant), TEXT("ci"), text_of(model), measure, source, quantity};
}

static void write_epoch(uint64_t epoch, wall_ms ended, const struct cell *added, size_t count)
{
    struct ledger_head head = {.began = ended, .ended = ended};
    struct cells *cells = cells_create();
    strcpy(head.name.writer, WRITER);
    head.name.epoch = epoch;
    for (size_t i = 0; i < count; i++)
        assert_true(cells_add(cells, &added[i]));
    assert_true(ledger_write(ledger, &head, cells));
    cells_destroy(&cells);
}

static void write_two_hours(void)
{
    const struct cell first[] = {
        cell_of("-acme", "gemma", MEASURE_REQUESTS, COUNT_NONE, 3),
        cell_of("-acme", "gemma", MEASURE_INPUT_TOKENS, COUNT_ENGINE, 1000),
        cell_of("-acme", "gemma", MEASURE_INPUT_TOKENS, COUNT_ESTIMATED, 50),
        cell_of("-acme", "gemma", MEASURE_CACHED_INPUT_TOKENS, COUNT_ENGINE, 400),
        cell_of("-acme", "gemma", MEASURE_OUTPUT_TOKENS, COUNT_COUNTED, 7),
        cell_of("globex", "free", MEASURE_OUTPUT_TOKENS, COUNT_ENGINE, 9),
        cell_of("globex", "llama", MEASURE_OUTPUT_TOKENS, COUNT_ENGINE, 1),
        cell_of("globex", "gone", MEASURE_REQUESTS, COUNT_NONE, 1),
    };
    const struct cell second[] = {cell_of("-acme", "gemma", MEASURE_OUTPUT_TOKENS, COUNT_ENGINE, 7)};
    write_epoch(1, BEGIN - 1, second, 1); /* before the window */
    write_epoch(2, BEGIN, first, 8);
    write_epoch(3, BEGIN + HOUR - 1, second, 1);
    write_epoch(4, BEGIN + HOUR, second, 1);     /* at the new price */
    write_epoch(5, BEGIN + 2 * HOUR, second, 1); /* behind it */
}

static struct export_request request_of(enum export_format format, unsigned group_bits)
{
    return (struct export_request){.policy = &POLICY,
                                   .ledger_directory = ledger,
                                   .out_directory = out,
                                   .from = BEGIN,
                                   .to = BEGIN + 2 * HOUR,
                                   .format = format,
                                   .group_bits = group_bits,
                                   .complete = true};
}

/* The content of @name in the directory of exports; valid until the next call. */
static const char *content_of(const char *name)
{
    static char content[65536];
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", out, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    content[fread(content, 1, sizeof content - 1, file)] = '\0';
    fclose(file);
    return content;
}

static const char CSV[] =
    "period_start,period_end,tenant,customer,key,model,requests,input_tokens,cached_input_tokens,output_tokens,"
    "uncertain_input_tokens,uncertain_output_tokens,currency,amount,amount_exact\r\n"
    "2026-11-22T16:00:00Z,2026-11-22T17:00:00Z,'-acme,\"cus_1, \"\"main\"\"\",ci,gemma,3,1050,400,14,50,7,EUR,0.000091,"
    "0.0000906\r\n"
    "2026-11-22T16:00:00Z,2026-11-22T17:00:00Z,globex,,ci,free,0,0,0,9,0,0,,,\r\n"
    "2026-11-22T16:00:00Z,2026-11-22T17:00:00Z,globex,,ci,gone,1,0,0,0,0,0,,,\r\n"
    "2026-11-22T16:00:00Z,2026-11-22T17:00:00Z,globex,,ci,llama,0,0,0,1,0,0,USD,0.000002,0.0000025\r\n"
    "2026-11-22T17:00:00Z,2026-11-22T18:00:00Z,'-acme,\"cus_1, \"\"main\"\"\",ci,gemma,0,0,0,7,0,0,EUR,0.000006,"
    "0.0000056\r\n";

static void test_the_csv_is_golden_and_repeats(void **state)
{
    (void) state;
    write_two_hours();
    struct export_request request = request_of(EXPORT_CSV, ALL_GROUPS);
    struct export_result result;
    char manifest[2048], name[EXPORT_NAME_BYTES + 16];
    for (int round = 0; round < 2; round++) {
        assert_true(export_write(&request, &result));
        assert_string_equal(result.file, "usage_2026-11-22T16Z_2026-11-22T18Z_tenant-key-model-hour.csv");
        assert_int_equal(result.rows, 5);
        assert_int_equal(result.epochs, 3);
        assert_string_equal(content_of(result.file), CSV);
        snprintf(name, sizeof name, "%s.manifest.json", result.file);
        if (round == 0)
            snprintf(manifest, sizeof manifest, "%s", content_of(name));
        assert_string_equal(content_of(name), manifest);
    }
    uint8_t digest[SHA256_DIGEST_LENGTH];
    char hexadecimal[2 * SHA256_DIGEST_LENGTH + 1], expected[2048];
    SHA256((const uint8_t *) CSV, sizeof CSV - 1, digest);
    text_hex(hexadecimal, digest, sizeof digest);
    snprintf(expected, sizeof expected,
             "{\"schema\":1,\"from\":\"2026-11-22T16:00:00Z\",\"to\":\"2026-11-22T18:00:00Z\",\"complete\":true,"
             "\"file\":\"%s\",\"sha256\":\"%s\",\"rows\":5,\"epochs\":3,"
             "\"group_by\":[\"tenant\",\"key\",\"model\",\"hour\"],\"sums\":{\"input_tokens\":1050,"
             "\"cached_input_tokens\":400,\"output_tokens\":31,\"requests\":4},"
             "\"amounts\":{\"EUR\":\"0.0000962\",\"USD\":\"0.0000025\"}}\n",
             result.file, hexadecimal);
    assert_string_equal(manifest, expected);
}

static void test_a_row_sums_what_is_not_grouped_by(void **state)
{
    (void) state;
    write_two_hours();
    struct export_request request = request_of(EXPORT_JSONL, 1u << EXPORT_BY_TENANT);
    struct export_result result;
    request.complete = false;
    assert_true(export_write(&request, &result));
    assert_string_equal(result.file, "usage_2026-11-22T16Z_2026-11-22T18Z_tenant.jsonl");
    assert_string_equal(
        content_of(result.file),
        "{\"period_start\":\"2026-11-22T16:00:00Z\",\"period_end\":\"2026-11-22T18:00:00Z\",\"tenant\":\"-acme\","
        "\"customer\":\"cus_1, \\\"main\\\"\",\"key\":\"\",\"model\":\"\",\"requests\":3,\"input_tokens\":1050,"
        "\"cached_input_tokens\":400,\"output_tokens\":21,\"uncertain_input_tokens\":50,"
        "\"uncertain_output_tokens\":7,\"currency\":\"EUR\",\"amount\":\"0.000096\",\"amount_exact\":\"0.0000962\"}\n"
        "{\"period_start\":\"2026-11-22T16:00:00Z\",\"period_end\":\"2026-11-22T18:00:00Z\",\"tenant\":\"globex\","
        "\"customer\":\"\",\"key\":\"\",\"model\":\"\",\"requests\":1,\"input_tokens\":0,"
        "\"cached_input_tokens\":0,\"output_tokens\":9,\"uncertain_input_tokens\":0,"
        "\"uncertain_output_tokens\":0,\"currency\":\"\",\"amount\":\"\",\"amount_exact\":\"\"}\n"
        "{\"period_start\":\"2026-11-22T16:00:00Z\",\"period_end\":\"2026-11-22T18:00:00Z\",\"tenant\":\"globex\","
        "\"customer\":\"\",\"key\":\"\",\"model\":\"\",\"requests\":0,\"input_tokens\":0,"
        "\"cached_input_tokens\":0,\"output_tokens\":1,\"uncertain_input_tokens\":0,"
        "\"uncertain_output_tokens\":0,\"currency\":\"USD\",\"amount\":\"0.000002\",\"amount_exact\":\"0.0000025\"}\n");
    assert_non_null(
        strstr(content_of("usage_2026-11-22T16Z_2026-11-22T18Z_tenant.jsonl.manifest.json"), "\"complete\":false,"));
}

/* However it is grouped, the manifest has the same sums. */
static void test_grouping_changes_no_sum(void **state)
{
    (void) state;
    static const char *const NAMES[] = {"gemma", "llama", "free", "gone"};
    char sums[2048] = "";
    for (uint64_t epoch = 1; epoch <= 20; epoch++) {
        struct cell cells[100];
        for (size_t i = 0; i < 100; i++)
            cells[i] = cell_of(i % 2 == 0 ? "-acme" : "globex", NAMES[unit_random_below(4)],
                               (enum measure) unit_random_below(MEASURE_COUNT),
                               (enum count_source) unit_random_below(4), (int64_t) unit_random_below(1000));
        write_epoch(epoch, BEGIN + (wall_ms) unit_random_below(2 * 3600 * 1000), cells, 100);
    }
    for (unsigned bits = 0; bits <= ALL_GROUPS; bits++) {
        struct export_request request = request_of(EXPORT_CSV, bits);
        struct export_result result;
        char name[EXPORT_NAME_BYTES + 16];
        assert_true(export_write(&request, &result));
        snprintf(name, sizeof name, "%s.manifest.json", result.file);
        const char *found = strstr(content_of(name), "\"sums\"");
        assert_non_null(found);
        /* The currencies may stand in another order: compare up to them. */
        size_t length = (size_t) (strstr(found, "\"amounts\"") - found);
        if (bits == 0)
            snprintf(sums, sizeof sums, "%.*s", (int) length, found);
        assert_int_equal(strncmp(found, sums, length), 0);
    }
}

static void test_what_cannot_be_exported_is_told(void **state)
{
    (void) state;
    struct export_request request = request_of(EXPORT_CSV, ALL_GROUPS);
    struct export_result result;
    assert_true(export_write(&request, &result));
    assert_int_equal(result.rows, 0);
    request.from += 1;
    assert_false(export_write(&request, &result));
    assert_int_equal(errno, EINVAL);
    request.from = request.to;
    assert_false(export_write(&request, &result));
    assert_int_equal(errno, EINVAL);
    request.from = BEGIN;
    const struct cell most[] = {cell_of("-acme", "gemma", MEASURE_OUTPUT_TOKENS, COUNT_ENGINE, INT64_MAX)};
    write_epoch(1, BEGIN, most, 1);
    assert_true(export_write(&request, &result));
    write_epoch(2, BEGIN, most, 1);
    assert_false(export_write(&request, &result));
    assert_int_equal(errno, EOVERFLOW);
    scratch_write("ledger/0123456789abcdef0123456789abcdef-00000003.jsonl", "{}\n");
    assert_false(export_write(&request, &result));
    assert_int_equal(errno, EBADMSG);
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_csv_is_golden_and_repeats, create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_a_row_sums_what_is_not_grouped_by, create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_grouping_changes_no_sum, create, scratch_destroy),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_exported_is_told, create, scratch_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
