/* billing/row_change: what each verb does to each state, and what a released row still lacks. */
#include "billing/row_change.h"

#include <string.h>

#include "tests/unit/conf/scratch.h"

static const wall_ms NOW = 1795363200000;
static const char *const SMALL_MODELS[] = {"small-*"}, *const ALL_MODELS[] = {"*"};
static const struct meter_policy METERS[] = {{"small_out", MEASURE_OUTPUT_TOKENS, 1, SMALL_MODELS},
                                             {"all_in", MEASURE_INPUT_TOKENS, 1, ALL_MODELS},
                                             {"all_out", MEASURE_OUTPUT_TOKENS, 1, ALL_MODELS}};
static struct tenant tenants[] = {{.name = "acme", .customer = "cus_a"}, {.name = "none", .customer = ""}};
static struct provider_policy provider = {.kind = PROVIDER_STRIPE, .meters = METERS, .meter_count = 1};
static const struct policy POLICY = {
    .tenants = tenants, .tenant_count = 2, .billing = {.provider_count = 1, .providers = &provider}};
static const struct policy NO_PROVIDER = {.tenants = tenants, .tenant_count = 2};

static struct row_states *open_states(void)
{
    struct row_states *states = row_states_open(scratch_directory, PROVIDER_STRIPE);
    assert_non_null(states);
    return states;
}

static struct row make_row(unsigned number, const char *tenant)
{
    struct row row = {
        .name = {.provider = PROVIDER_STRIPE,
                 .epoch = {"0123456789abcdef0123456789abcdef", number},
                 .meter = "small_out"},
        .metered = true,
        .measure = MEASURE_OUTPUT_TOKENS,
        .quantity = 5,
        .began = NOW - 2,
        .ended = NOW - 1,
    };
    snprintf(row.name.tenant, sizeof row.name.tenant, "%s", tenant);
    snprintf(row.id, sizeof row.id, "tg1-%040u", number);
    return row;
}

/* A row that went the shortest way to @at. */
static struct row add_row(struct row_states *states, unsigned number, enum row_state at)
{
    struct row row = make_row(number, "acme");
    assert_true(row_states_add(states, &row, at == ROW_HELD ? ROW_HELD : ROW_PENDING, NOW, "because"));
    if (at != ROW_PENDING && at != ROW_HELD)
        assert_true(row_states_mark_sent(states, row.id, NOW, "cus_a"));
    if (at != ROW_PENDING && at != ROW_HELD && at != ROW_SENT)
        assert_true(row_states_move(states, row.id, at, NOW, "because"));
    return row;
}

static struct row_change_result change(struct row_states *states, const struct row *row, enum row_verb verb)
{
    return row_change(states, &POLICY, row->id, verb, NOW);
}

static void test_each_verb_for_each_state(void **state)
{
    (void) state;
    static const char *const AFTER[ROW_VERB_COUNT] = {
        /* pending, sent, acked, duplicate, rejected, held; '.' = nothing changes */
        [ROW_RETRY] = "....p.",
        [ROW_RELEASE] = ".....p",
        [ROW_HOLD] = "hh..h.",
        [ROW_DELIVERED] = "....aa",
    };
    static const char LETTERS[ROW_STATE_COUNT + 1] = "psadrh";
    struct row_states *states = open_states();
    unsigned number = 0;
    for (int verb = 0; verb < ROW_VERB_COUNT; verb++) {
        for (int from = 0; from < ROW_STATE_COUNT; from++) {
            struct row row = add_row(states, ++number, (enum row_state) from);
            struct row_change_result result = change(states, &row, (enum row_verb) verb);
            char after = AFTER[verb][from];
            assert_int_equal(result.changed, after != '.');
            assert_int_equal(LETTERS[result.state], after != '.' ? after : LETTERS[from]);
            assert_int_equal(row_states_find(states, row.id)->state, result.state);
            assert_int_equal(result.reason[0] == '\0', result.changed);
        }
    }
    struct row unknown = make_row(999, "acme");
    struct row_change_result result = change(states, &unknown, ROW_RETRY);
    assert_false(result.changed);
    assert_string_equal(result.reason, "no row has this id");
    row_states_close(&states);
}

static void test_a_refusal_says_what_to_do_instead(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    static const struct {
        enum row_state from;
        enum row_verb verb;
        const char *reason;
    } CASES[] = {
        {ROW_HELD, ROW_RETRY, "the row is held: `tollgate billing release` lets it go"},
        {ROW_REJECTED, ROW_RELEASE, "the row is rejected: `tollgate billing retry` sends it once more"},
        {ROW_SENT, ROW_DELIVERED, "the row is sent: it goes by itself, and `tollgate billing hold` stops it"},
        {ROW_ACKED, ROW_HOLD, "the row is acked: that is for ever"},
    };
    for (unsigned i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct row row = add_row(states, i + 1, CASES[i].from);
        assert_string_equal(change(states, &row, CASES[i].verb).reason, CASES[i].reason);
    }
    row_states_close(&states);
}

static void test_retry_is_the_next_revision(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = add_row(states, 1, ROW_REJECTED);
    assert_true(change(states, &row, ROW_RETRY).changed);
    const struct row_entry *entry = row_states_find(states, row.id);
    assert_true(entry->revision == 1 && entry->first_sent == 0 && entry->customer[0] == '\0');
    row_states_close(&states);
}

/* As the next revision, under which the provider has no rejection stored; and as what is not sent once more. */
static void test_a_rejected_row_that_is_held_tells_why_and_goes_anew(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = add_row(states, 1, ROW_REJECTED), old = add_row(states, 2, ROW_REJECTED);
    assert_true(change(states, &row, ROW_HOLD).changed);
    assert_string_equal(row_states_find(states, row.id)->reason, "held by a person; it was rejected: because");
    assert_false(change(states, &row, ROW_RETRY).changed);
    assert_true(change(states, &row, ROW_RELEASE).changed);
    assert_int_equal(row_states_find(states, row.id)->revision, 1);
    for (unsigned i = 0; i < ROW_REVISION_MAX; i++) {
        assert_true(change(states, &old, ROW_RETRY).changed);
        assert_true(row_states_mark_sent(states, old.id, NOW, "cus_a"));
        assert_true(row_states_move(states, old.id, ROW_REJECTED, NOW, "because"));
    }
    static const enum row_verb REFUSED[] = {ROW_RETRY, ROW_HOLD};
    for (size_t i = 0; i < sizeof REFUSED / sizeof REFUSED[0]; i++)
        assert_string_equal(change(states, &old, REFUSED[i]).reason,
                            "it was tried again 1000 times: bill it by hand, then release --delivered");
    assert_true(change(states, &old, ROW_DELIVERED).changed);
    assert_true(row_entry_is_by_hand(row_states_find(states, old.id)));
    row_states_close(&states);
}

static void test_release_says_what_is_still_lacking(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = make_row(1, "none"), gone = make_row(2, "gone"), old = make_row(3, "acme");
    old.ended = NOW - INT64_C(36) * 24 * 3600 * 1000;
    assert_true(row_states_add(states, &row, ROW_HELD, NOW, "because"));
    assert_true(row_states_add(states, &gone, ROW_HELD, NOW, "because"));
    assert_true(row_states_add(states, &old, ROW_HELD, NOW, "because"));
    assert_string_equal(change(states, &row, ROW_RELEASE).reason,
                        "the tenant none has no customer: give it one, and reload");
    assert_non_null(strstr(change(states, &gone, ROW_RELEASE).reason, "no tenant gone any more"));
    assert_non_null(strstr(change(states, &old, ROW_RELEASE).reason, "bill it by hand"));
    assert_string_equal(row_change(states, &NO_PROVIDER, row.id, ROW_RELEASE, NOW).reason,
                        "the configuration has no provider stripe");
    tenants[1].customer = "cus_n";
    assert_true(change(states, &row, ROW_RELEASE).changed);
    tenants[1].customer = "";
    row_states_close(&states);
}

static void test_release_finds_the_meter_that_was_added(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = make_row(1, "acme"), small = make_row(2, "acme");
    row.metered = small.metered = false;
    text_copy(row.name.meter, sizeof row.name.meter, TEXT("output_tokens/big"));
    text_copy(row.model, sizeof row.model, TEXT("big"));
    text_copy(small.model, sizeof small.model, TEXT("small-1"));
    assert_true(row_states_add(states, &row, ROW_HELD, NOW, "no meter"));
    assert_true(row_states_add(states, &small, ROW_HELD, NOW, "no meter"));
    assert_string_equal(change(states, &row, ROW_RELEASE).reason,
                        "no meter takes output_tokens of the model big: add one, and reload");
    assert_int_equal(row_states_find(states, row.id)->row.event_name[0], '\0');
    provider.meter_count = 3;
    assert_true(change(states, &row, ROW_RELEASE).changed);
    assert_non_null(strstr(change(states, &small, ROW_RELEASE).reason, "small_out and all_out"));
    provider.meter_count = 1;
    row_states_close(&states);
    states = open_states();
    const struct row_entry *entry = row_states_find(states, row.id);
    assert_int_equal(entry->state, ROW_PENDING);
    assert_string_equal(row_event_name(&entry->row), "all_out");
    assert_string_equal(entry->row.name.meter, "output_tokens/big"); /* its identity stays */
    assert_int_equal(row_states_find(states, small.id)->state, ROW_HELD);
    row_states_close(&states);
}

/* What lost states may have sent is not known: for whom, and to which meter, is looked up as for what never went. */
static void test_release_of_what_lost_states_may_have_sent(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row nobodys = make_row(1, "none"), unmetered = make_row(2, "acme");
    unmetered.metered = false;
    text_copy(unmetered.name.meter, sizeof unmetered.name.meter, TEXT("output_tokens/big"));
    text_copy(unmetered.model, sizeof unmetered.model, TEXT("big"));
    assert_true(row_states_add_doubtful(states, &nobodys, ROW_HELD, NOW, "no customer"));
    assert_true(row_states_add_doubtful(states, &unmetered, ROW_HELD, NOW, "no meter"));
    assert_string_equal(change(states, &nobodys, ROW_RELEASE).reason,
                        "the tenant none has no customer: give it one, and reload");
    assert_non_null(strstr(change(states, &unmetered, ROW_RELEASE).reason, "no meter takes output_tokens"));
    provider.meter_count = 3;
    tenants[1].customer = "cus_n";
    assert_true(change(states, &nobodys, ROW_RELEASE).changed);
    assert_true(change(states, &unmetered, ROW_RELEASE).changed);
    provider.meter_count = 1;
    tenants[1].customer = "";
    assert_string_equal(row_event_name(&row_states_find(states, unmetered.id)->row), "all_out");
    assert_true(row_states_find(states, unmetered.id)->first_sent != 0); /* it is asked for first */
    row_states_close(&states);
}

/* It goes as it went, whatever the policy says now; what a person decided about goes anew. */
static void test_release_of_what_may_have_arrived(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row row = add_row(states, 1, ROW_SENT), unclear = add_row(states, 2, ROW_SENT);
    assert_true(change(states, &row, ROW_HOLD).changed);
    assert_non_null(strstr(row_states_find(states, row.id)->reason, "may have arrived"));
    assert_true(row_states_hold_undecided(states, unclear.id, NOW, "unclear"));
    tenants[0].customer = "";
    assert_true(change(states, &row, ROW_RELEASE).changed);
    assert_true(row_states_find(states, row.id)->first_sent != 0);
    assert_string_equal(row_states_find(states, row.id)->customer, "cus_a");
    assert_false(change(states, &unclear, ROW_RELEASE).changed);
    tenants[0].customer = "cus_a";
    assert_true(change(states, &unclear, ROW_RELEASE).changed);
    assert_true(row_states_find(states, unclear.id)->first_sent == 0);
    row_states_close(&states);
}

/* What is told before: the same words when it refuses, the customer and the meter it then has when it does not. */
static void assert_told_before(struct row_states *states, const struct policy *policy, const struct row *row,
                               enum row_verb verb, const char *customer)
{
    struct row_going going;
    char reason[ROW_REASON_BYTES_MAX + 1];
    bool goes = row_can_go(row_states_find(states, row->id), policy, NOW, &going, reason);
    char meter[ROW_METER_BYTES_MAX + 1] = "";
    assert_int_equal(goes, customer != NULL);
    if (goes) {
        assert_string_equal(going.customer, customer);
        snprintf(meter, sizeof meter, "%s", going.meter != NULL ? going.meter->event_name : "");
    }
    struct row_change_result result = row_change(states, policy, row->id, verb, NOW);
    assert_int_equal(result.changed, goes);
    assert_string_equal(row_states_find(states, row->id)->row.event_name, meter);
    if (!goes)
        assert_string_equal(reason, result.reason);
}

static void test_what_is_told_before_is_what_happens(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row big = make_row(1, "acme"), small = make_row(2, "acme"), poor = make_row(3, "none");
    struct row old = make_row(4, "acme"), other = make_row(5, "acme");
    big.metered = small.metered = other.metered = false;
    other.measure = MEASURE_REQUESTS;
    old.ended = NOW - INT64_C(36) * 24 * 3600 * 1000;
    text_copy(big.model, sizeof big.model, TEXT("big"));
    text_copy(small.model, sizeof small.model, TEXT("small-1"));
    const struct row *const held[] = {&big, &small, &poor, &old, &other};
    for (size_t i = 0; i < sizeof held / sizeof held[0]; i++)
        assert_true(row_states_add(states, held[i], ROW_HELD, NOW, "because"));
    provider.meter_count = 3;
    for (size_t i = 0; i < sizeof held / sizeof held[0]; i++)
        assert_told_before(states, &NO_PROVIDER, held[i], ROW_RELEASE, NULL);
    for (size_t i = 1; i < sizeof held / sizeof held[0]; i++)
        assert_told_before(states, &POLICY, held[i], ROW_RELEASE, NULL);
    assert_told_before(states, &POLICY, &big, ROW_RELEASE, "cus_a");
    assert_string_equal(row_event_name(&row_states_find(states, big.id)->row), "all_out");
    provider.meter_count = 1;
    assert_told_before(states, &POLICY, &small, ROW_RELEASE, "cus_a");
    row_states_close(&states);
}

/* Only what may have arrived still goes to the customer for whom it went. */
static void test_for_whom_it_goes(void **state)
{
    (void) state;
    struct row_states *states = open_states();
    struct row sent = add_row(states, 1, ROW_SENT), unclear = add_row(states, 2, ROW_SENT);
    struct row rejected = add_row(states, 3, ROW_REJECTED);
    assert_true(change(states, &sent, ROW_HOLD).changed);
    assert_true(row_states_hold_undecided(states, unclear.id, NOW, "unclear"));
    tenants[0].customer = "cus_new";
    assert_told_before(states, &POLICY, &sent, ROW_RELEASE, "cus_a");
    assert_told_before(states, &POLICY, &unclear, ROW_RELEASE, "cus_new");
    assert_told_before(states, &POLICY, &rejected, ROW_RETRY, "cus_new");
    tenants[0].customer = "cus_a";
    row_states_close(&states);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_destroy)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_each_verb_for_each_state),
        TEST(test_a_refusal_says_what_to_do_instead),
        TEST(test_retry_is_the_next_revision),
        TEST(test_a_rejected_row_that_is_held_tells_why_and_goes_anew),
        TEST(test_release_says_what_is_still_lacking),
        TEST(test_release_finds_the_meter_that_was_added),
        TEST(test_release_of_what_lost_states_may_have_sent),
        TEST(test_release_of_what_may_have_arrived),
        TEST(test_what_is_told_before_is_what_happens),
        TEST(test_for_whom_it_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
