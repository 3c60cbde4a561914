/* billing/providers: what fails at one provider does not hide what fails at another. */
#include "billing/providers.h"

#include <errno.h>

#include "base/log.h"
#include "base/transfers.h"
#include "conf/snapshot.h"
#include "tests/unit/conf/scratch.h"

static const char INSTALL[] = "00112233445566778899aabbccddeeff";
static struct loop *loop;
static struct fetcher *fetcher;
static struct providers *providers;

static int set_up(void **state)
{
    assert_int_equal(scratch_create(state), 0);
    assert_int_equal(mkdir(scratch_path("billing"), 0700), 0);
    assert_int_equal(mkdir(scratch_path("ledger"), 0700), 0);
    loop = loop_create();
    fetcher = fetcher_create(loop);
    const struct providers_options options = {.billing_directory = scratch_path("billing"),
                                              .ledger_directory = scratch_path("ledger"),
                                              .install_id = INSTALL,
                                              .loop = loop,
                                              .fetcher = fetcher};
    providers = providers_create(&options);
    assert_non_null(providers);
    return 0;
}

static int tear_down(void **state)
{
    providers_destroy(&providers);
    fetcher_destroy(&fetcher);
    loop_destroy(loop);
    return scratch_destroy(state);
}

/* A row that an earlier process left to be delivered. */
static struct row leave_row(enum provider_kind kind)
{
    struct row row = {.name = {.provider = kind, .epoch = {"0123456789abcdef0123456789abcdef", 1}, .tenant = "acme"},
                      .metered = true,
                      .measure = MEASURE_OUTPUT_TOKENS,
                      .quantity = 5,
                      .began = clock_wall_ms() - 1000,
                      .ended = clock_wall_ms()};
    struct row_states *states = row_states_open(scratch_path("billing"), kind);
    assert_non_null(states);
    row_identifier(&row.name, INSTALL, 0, row.id);
    assert_true(row_states_add(states, &row, ROW_PENDING, row.ended, ""));
    row_states_close(&states);
    return row;
}

static bool may_go(void *owner, const struct ledger_name *epoch)
{
    (void) owner, (void) epoch;
    return true;
}

/* What is told when the configuration names the provider `file` only, or none. */
static const char *trouble_with(const char *directory)
{
    struct snapshot *snapshot = snapshot_create();
    const struct policy *policy = &snapshot->policy;
    struct provider_policy file = {.kind = PROVIDER_FILE, .directory = directory};
    snapshot->policy.billing.provider_count = directory != NULL;
    snapshot->policy.billing.providers = &file;
    const struct outbox_turn turn = {
        .policy = policy, .may_go = may_go, .now = clock_wall_ms(), .until = clock_mono_ms() + 60000};
    assert_true(providers_follow(providers, policy));
    providers_turn(providers, &turn);
    policy_drop(&policy);
    return providers_trouble(providers);
}

static void test_each_tells_its_trouble(void **state)
{
    (void) state;
    struct row at_stripe = leave_row(PROVIDER_STRIPE);
    leave_row(PROVIDER_FILE);
    const char *trouble = trouble_with("/dev/null/out");
    assert_string_equal(trouble, "the directory of the provider file: Not a directory; "
                                 "stripe: the configuration does not name this provider");
    assert_true(providers_change(providers, NULL, at_stripe.id, ROW_HOLD).changed);
    assert_string_equal(providers_trouble(providers), "the directory of the provider file: Not a directory");
    assert_string_equal(trouble_with(NULL), "the configuration does not name the provider file");
    assert_string_equal(trouble_with(scratch_path("out")), "");
    assert_int_equal(row_states_count_of(outbox_states(providers_outboxes(providers)[PROVIDER_FILE]), ROW_ACKED), 1);
}

static void test_no_trouble_stays_without_rows(void **state)
{
    (void) state;
    struct row row = leave_row(PROVIDER_FILE);
    assert_string_equal(trouble_with("/dev/null/out"), "the directory of the provider file: Not a directory");
    assert_true(providers_change(providers, NULL, row.id, ROW_HOLD).changed);
    assert_string_equal(trouble_with("/dev/null/out"), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_tells_its_trouble, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_trouble_stays_without_rows, set_up, tear_down),
    };
    if (!transfers_global_init())
        return 1;
    log_configure(LOG_FORMAT_JSON, LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
