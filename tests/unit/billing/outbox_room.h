/* An outbox of Stripe's with its ledger, for two tenants and two writers. */
#ifndef TESTS_UNIT_BILLING_OUTBOX_ROOM_H
#define TESTS_UNIT_BILLING_OUTBOX_ROOM_H

#include "billing/outbox.h"

#include <errno.h>

#include "base/log.h"
#include "tests/unit/conf/scratch_policy.h"

static const char WRITER_A[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", WRITER_B[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
static struct outbox *outbox;
static const struct policy *policy, *without, *later;
static bool is_reading;     /* the journals */
static uint64_t shipped[2]; /* the last epoch of A and B that may go */

#define MODELS  "models: { m: { engines: [ { url: 'http://127.0.0.1:8000' } ] } }\n"
#define TENANTS "tenants: { t: {}, u: {} }\n"
#define STRIPE                                                                                                         \
    "billing: { providers: [ { stripe: { api_key_file: stripe.key, api_base: 'http://127.0.0.1:1', "                   \
    "meters: [ %s ] } } ] }\n"
#define IN  "{ event_name: in, measure: input_tokens }"
#define OUT "{ event_name: out, measure: output_tokens }"

static const struct policy *load(const char *tenants, const char *billing)
{
    char yaml[1024];
    scratch_write("stripe.key", "rk_test_1");
    snprintf(yaml, sizeof yaml, MODELS "%s%s", tenants, billing);
    return scratch_policy_good(yaml);
}

static const struct policy *load_stripe(const char *tenants, const char *meters)
{
    char billing[512];
    snprintf(billing, sizeof billing, STRIPE, meters);
    return load(tenants, billing);
}

static void open_outbox(void)
{
    char error[OUTBOX_TROUBLE_BYTES] = "", billing[SCRATCH_PATH_BYTES], ledger[SCRATCH_PATH_BYTES];
    snprintf(billing, sizeof billing, "%.200s/billing", scratch_directory);
    snprintf(ledger, sizeof ledger, "%.200s/ledger", scratch_directory);
    struct outbox_options options = {billing, ledger, "00112233445566778899aabbccddeeff", PROVIDER_STRIPE};
    outbox = outbox_open(&options, error);
    if (outbox == NULL)
        fail_msg("%s", error);
}

static void write_since(wall_ms since)
{
    char line[32];
    snprintf(line, sizeof line, "%lld\n", (long long) since);
    scratch_write("billing/stripe.since", line);
}

static int set_up(void **state)
{
    log_configure(LOG_FORMAT_TEXT, LOG_ERROR);
    if (scratch_create(state) != 0)
        return -1;
    assert_int_equal(mkdir(scratch_path("billing"), 0700), 0);
    assert_int_equal(mkdir(scratch_path("ledger"), 0700), 0);
    policy = load_stripe(TENANTS, IN ", " OUT);
    later = load_stripe(TENANTS, "{ event_name: other, measure: input_tokens }, " OUT);
    without = load(TENANTS, "");
    shipped[0] = shipped[1] = UINT64_MAX;
    is_reading = false;
    open_outbox();
    write_since(1000);
    return 0;
}

static int tear_down(void **state)
{
    outbox_close(&outbox);
    policy_drop(&policy);
    policy_drop(&later);
    policy_drop(&without);
    return scratch_destroy(state);
}

static struct ledger_name name_of(const char *writer, uint64_t epoch)
{
    struct ledger_name name = {.epoch = epoch};
    memcpy(name.writer, writer, sizeof name.writer);
    return name;
}

/* Two tenants, input and output: four rows with the first policy. */
static void seal_quietly(const char *writer, uint64_t epoch, wall_ms ended)
{
    struct ledger_head head = {.name = name_of(writer, epoch), .began = ended - 1, .ended = ended};
    struct cells *cells = cells_create();
    for (int tenant = 0; tenant < 2; tenant++) {
        struct cell cell = {
            tenant == 0 ? TEXT("t") : TEXT("u"), TEXT("k"), TEXT("m"), MEASURE_INPUT_TOKENS, COUNT_ENGINE, 7};
        assert_true(cells_add(cells, &cell));
        cell.measure = MEASURE_OUTPUT_TOKENS;
        assert_true(cells_add(cells, &cell));
    }
    assert_true(ledger_write(scratch_path("ledger"), &head, cells));
    cells_destroy(&cells);
}

static void seal(const char *writer, uint64_t epoch, wall_ms ended)
{
    struct ledger_name name = name_of(writer, epoch);
    seal_quietly(writer, epoch, ended);
    outbox_sealed(outbox, &name);
}

static bool may_go(void *owner, const struct ledger_name *epoch)
{
    (void) owner;
    return epoch->epoch <= shipped[epoch->writer[0] == 'b'];
}

static size_t rows_at(const struct policy *now, wall_ms when)
{
    struct outbox_turn turn = {now, may_go, NULL, when, INT64_MAX, !is_reading};
    outbox_follow(outbox, now);
    assert_false(outbox_turn(outbox, &turn));
    return row_states_count(outbox_states(outbox));
}

static void again(void)
{
    outbox_close(&outbox);
    open_outbox();
}

#endif
