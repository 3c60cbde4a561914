/* billing/sender: against a provider that remembers identifiers for a day, whatever happens on the way each row is
 * taken exactly once, and what cannot be known is left to a person. */
#define clock_wall_ms real_wall_ms
#define clock_mono_ms real_mono_ms
#include "base/clock.c"
#undef clock_wall_ms
#undef clock_mono_ms

#include <pthread.h>
#include <stdatomic.h>

#include "base/log.h"
#include "base/transfers.h"
#include "billing/provider.h"
#include "billing/row_change.h"
#include "billing/sender.h"
#include "conf/snapshot.h"
#include "tests/lib/http_stub.h"
#include "tests/unit/conf/scratch.h"

/* A loop that waits for ever must fail, not hang. */
enum { HANG_SECONDS = 240, EVENTS_MAX = 512, CALLS_MAX = 2048, BODIES = 64, BODY_BYTES = 512 };

static const int64_t HOUR = 3600 * 1000;
static const char INSTALL[] = "00112233445566778899aabbccddeeff";

/* ---- a clock that the test sets ---- */

static atomic_int_fast64_t clock_shift_ms;

wall_ms clock_wall_ms(void);
mono_ms clock_mono_ms(void);

wall_ms clock_wall_ms(void)
{
    return real_wall_ms() + clock_shift_ms;
}

mono_ms clock_mono_ms(void)
{
    return real_mono_ms() + clock_shift_ms;
}

/* ---- the provider ---- */

enum fate {
    TAKE,
    TAKE_AND_CLOSE, /* without an answer */
    TAKE_AND_HANG,
    TAKE_AND_FAIL, /* a stored 500 */
    CLOSE,
    FAIL,
    REFUSE, /* 400 */
    WRONG_KEY,
    TOO_MANY, /* 429 */
    FATE_COUNT
};

struct event {
    char identifier[64];
    char event_name[64];
    char customer[64];
    int64_t value;
    int64_t timestamp_s;
    wall_ms taken_at;
};

struct call {
    char identifier[64];
    char key[96];
    char customer[64];
    char event_name[64];
};

struct provider {
    struct event events[EVENTS_MAX];
    size_t event_count;
    struct call calls[CALLS_MAX];
    size_t call_count;
    size_t question_count;
    char stored[CALLS_MAX][96]; /* keys under which a 500 comes back */
    size_t stored_count;
    enum fate script[64]; /* of the next calls, in order */
    size_t script_length;
    size_t script_place;
    bool is_random;
    bool fails_totals;
    bool was_unsynced; /* a call came whose row was not marked as sent in the file */
    char bodies[BODIES][BODY_BYTES];
    size_t body_count;
    char last_head[HTTP_STUB_TEXT_BYTES];
    char last_body[HTTP_STUB_TEXT_BYTES];
};

struct room {
    struct loop *loop;
    struct fetcher *fetcher;
    struct http_stub *stub;
    struct row_states *states;
    struct sender *sender;
    const struct policy *policy;
    struct provider_policy providers[2]; /* of one policy each */
    size_t policy_count;
    struct meter_policy meters[2];
    struct tenant tenants[3];
    pthread_mutex_t lock; /* of @provider */
    struct provider provider;
};

static const char *const EVERY_MODEL[] = {"*"};

static void find_value(const char *body, const char *name, char *to, size_t capacity)
{
    const char *at = strstr(body, name);
    to[0] = '\0';
    if (at != NULL)
        snprintf(to, capacity, "%.*s", (int) strcspn(at + strlen(name), "& \r\n"), at + strlen(name));
}

__attribute__((format(printf, 2, 3))) static const char *body(struct provider *provider, const char *format, ...)
{
    char *to = provider->bodies[provider->body_count++ % BODIES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(to, BODY_BYTES, format, arguments);
    va_end(arguments);
    return to;
}

/* False when it was there. */
static bool take(struct provider *provider, const struct event *event)
{
    for (size_t i = 0; i < provider->event_count; i++) {
        const struct event *known = &provider->events[i];
        if (strcmp(known->identifier, event->identifier) == 0 && clock_wall_ms() - known->taken_at < 24 * HOUR)
            return false;
    }
    assert_true(provider->event_count < EVENTS_MAX);
    provider->events[provider->event_count] = *event;
    provider->events[provider->event_count++].taken_at = clock_wall_ms();
    return true;
}

static enum fate next_fate(struct provider *provider)
{
    if (provider->is_random)
        return unit_random_below(2) == 0 ? TAKE : (enum fate) unit_random_below(FAIL + 1);
    return provider->script_place < provider->script_length ? provider->script[provider->script_place++] : TAKE;
}

static bool is_stored(const struct provider *provider, const char *key)
{
    for (size_t i = 0; i < provider->stored_count; i++) {
        if (strcmp(provider->stored[i], key) == 0)
            return true;
    }
    return false;
}

/* What is in the file now, while the sender has it open. */
static bool is_marked(const char *identifier)
{
    struct row_states *states = row_states_read(scratch_directory, PROVIDER_STRIPE);
    bool is_sent = false;
    for (size_t i = 0; states != NULL && i < row_states_count(states); i++) {
        const struct row_entry *entry = row_states_at(states, i);
        char sent_as[ROW_ID_CHARACTERS + 1];
        row_identifier(&entry->row.name, INSTALL, entry->revision, sent_as);
        is_sent = is_sent || (strcmp(sent_as, identifier) == 0 && entry->state != ROW_PENDING);
    }
    row_states_close(&states);
    return is_sent;
}

static void answer_fate(struct provider *provider, enum fate fate, const struct event *event,
                        struct http_stub_answer *answer)
{
    bool takes = fate == TAKE || fate == TAKE_AND_CLOSE || fate == TAKE_AND_HANG || fate == TAKE_AND_FAIL;
    bool is_new = takes && take(provider, event);
    answer->hang = fate == TAKE_AND_HANG;
    if (fate == TAKE_AND_CLOSE || fate == CLOSE) {
        answer->status = 0;
    } else if (fate == TAKE_AND_FAIL || fate == FAIL) {
        answer->status = 500;
        memcpy(provider->stored[provider->stored_count++], provider->calls[provider->call_count - 1].key, 96);
    } else if (fate == REFUSE) {
        answer->status = 400;
        answer->body = "{\"error\":{\"type\":\"invalid_request_error\",\"message\":\"no such meter\"}}";
    } else if (fate == WRONG_KEY) {
        answer->status = 401;
        answer->body = "{\"error\":{\"message\":\"Invalid API Key provided: sk_test_secret\"}}";
    } else if (fate == TOO_MANY) {
        answer->status = 429;
        answer->header = "Retry-After: 120";
    } else if (!is_new) {
        answer->status = 400;
        answer->body = body(provider,
                            "{\"error\":{\"type\":\"invalid_request_error\",\"message\":\"An event already exists "
                            "with identifier %s.\"}}",
                            event->identifier);
    }
}

static void take_call(struct provider *provider, const struct http_stub_request *request,
                      struct http_stub_answer *answer)
{
    struct event event = {0};
    char number[32];
    struct call *call = &provider->calls[provider->call_count++];
    assert_true(provider->call_count < CALLS_MAX);
    find_value(request->body, "identifier=", event.identifier, sizeof event.identifier);
    find_value(request->body, "event_name=", event.event_name, sizeof event.event_name);
    find_value(request->body, "payload[stripe_customer_id]=", event.customer, sizeof event.customer);
    find_value(request->body, "payload[value]=", number, sizeof number);
    event.value = strtoll(number, NULL, 10);
    find_value(request->body, "timestamp=", number, sizeof number);
    event.timestamp_s = strtoll(number, NULL, 10);
    memcpy(call->identifier, event.identifier, sizeof call->identifier);
    memcpy(call->customer, event.customer, sizeof call->customer);
    memcpy(call->event_name, event.event_name, sizeof call->event_name);
    find_value(request->head, "Idempotency-Key: ", call->key, sizeof call->key);
    provider->was_unsynced = provider->was_unsynced || !is_marked(event.identifier);
    snprintf(provider->last_head, sizeof provider->last_head, "%s", request->head);
    snprintf(provider->last_body, sizeof provider->last_body, "%s", request->body);
    if (is_stored(provider, call->key))
        answer->status = 500;
    else
        answer_fate(provider, next_fate(provider), &event, answer);
}

static void take_question(struct provider *provider, const struct http_stub_request *request,
                          struct http_stub_answer *answer)
{
    char customer[64], start[32], end[32];
    int64_t total = 0;
    find_value(request->path, "customer=", customer, sizeof customer);
    find_value(request->path, "start_time=", start, sizeof start);
    find_value(request->path, "end_time=", end, sizeof end);
    const char *meter = strstr(request->path, "mtr_out") != NULL ? "tokens_out" : "tokens_in";
    provider->question_count++;
    for (size_t i = 0; i < provider->event_count; i++) {
        const struct event *event = &provider->events[i];
        if (strcmp(event->customer, customer) == 0 && strcmp(event->event_name, meter) == 0 &&
            event->timestamp_s >= atoll(start) && event->timestamp_s < atoll(end))
            total += event->value;
    }
    answer->status = provider->fails_totals ? 500 : 200;
    answer->body = body(provider, "{\"data\":[{\"id\":\"sum_1\",\"aggregated_value\":%lld.0}],\"has_more\":false}",
                        (long long) total);
}

static void serve_provider(void *owner, const struct http_stub_request *request, struct http_stub_answer *answer)
{
    struct room *room = owner;
    pthread_mutex_lock(&room->lock);
    if (strcmp(request->method, "POST") == 0 && strcmp(request->path, "/v1/billing/meter_events") == 0)
        take_call(&room->provider, request, answer);
    else if (strstr(request->path, "/event_summaries?") != NULL)
        take_question(&room->provider, request, answer);
    else if (strncmp(request->path, "/v1/billing/meters?", 19) == 0)
        answer->body = "{\"data\":[{\"id\":\"mtr_out\",\"event_name\":\"tokens_out\"},"
                       "{\"id\":\"mtr_in\",\"event_name\":\"tokens_in\"}],\"has_more\":false}";
    else
        answer->status = 404;
    pthread_mutex_unlock(&room->lock);
}

/* ---- the room ---- */

static const struct policy *make_policy(struct room *room, const char *key)
{
    struct snapshot *snapshot = snapshot_create();
    assert_non_null(snapshot);
    struct provider_policy *provider = &room->providers[room->policy_count++];
    *provider = (struct provider_policy){.kind = PROVIDER_STRIPE,
                                         .api_base = http_stub_url(room->stub),
                                         .api_key = snapshot_keep_secret(snapshot, text_of(key)),
                                         .meter_count = 2,
                                         .meters = room->meters};
    snapshot->policy.billing.provider_count = 1;
    snapshot->policy.billing.providers = provider;
    snapshot->policy.tenants = room->tenants;
    snapshot->policy.tenant_count = 3;
    return &snapshot->policy;
}

static void open_sender(struct room *room)
{
    room->states = row_states_open(scratch_directory, PROVIDER_STRIPE);
    assert_non_null(room->states);
    const struct sender_options options = {.loop = room->loop,
                                           .fetcher = room->fetcher,
                                           .states = room->states,
                                           .provider = PROVIDER_STRIPE,
                                           .install_id = INSTALL,
                                           .seed = unit_random()};
    room->sender = sender_create(&options);
    assert_non_null(room->sender);
}

static void close_sender(struct room *room)
{
    sender_destroy(&room->sender);
    row_states_close(&room->states);
}

static int set_up(void **state)
{
    struct room *room = calloc(1, sizeof *room);
    alarm(HANG_SECONDS);
    assert_int_equal(scratch_create(state), 0);
    clock_shift_ms = 0;
    pthread_mutex_init(&room->lock, NULL);
    room->loop = loop_create();
    room->fetcher = fetcher_create(room->loop);
    room->stub = http_stub_start(NULL, serve_provider, room);
    room->meters[0] = (struct meter_policy){"tokens_out", MEASURE_OUTPUT_TOKENS, 1, EVERY_MODEL};
    room->meters[1] = (struct meter_policy){"tokens_in", MEASURE_INPUT_TOKENS, 1, EVERY_MODEL};
    room->tenants[0] = (struct tenant){.name = "acme", .customer = "cus_a"};
    room->tenants[1] = (struct tenant){.name = "beta", .customer = "cus_b"};
    room->tenants[2] = (struct tenant){.name = "none", .customer = ""};
    room->policy = make_policy(room, "sk_test_secret");
    open_sender(room);
    *state = room;
    return 0;
}

static int tear_down(void **state)
{
    struct room *room = *state;
    close_sender(room);
    policy_drop(&room->policy);
    fetcher_destroy(&room->fetcher);
    http_stub_stop(&room->stub);
    loop_destroy(room->loop);
    pthread_mutex_destroy(&room->lock);
    free(room);
    return scratch_destroy(state);
}

static struct row make_row(unsigned number, const char *tenant, const char *event_name, wall_ms ended)
{
    struct row row = {
        .name = {.provider = PROVIDER_STRIPE, .epoch = {"0123456789abcdef0123456789abcdef", number}},
        .metered = true,
        .measure = MEASURE_OUTPUT_TOKENS,
        .quantity = 100 + (int64_t) number,
        .began = ended - 1000,
        .ended = ended,
    };
    snprintf(row.name.tenant, sizeof row.name.tenant, "%s", tenant);
    snprintf(row.name.meter, sizeof row.name.meter, "%s", event_name);
    row_identifier(&row.name, INSTALL, 0, row.id);
    return row;
}

static struct row add_row(struct room *room, unsigned number, const char *tenant, const char *event_name)
{
    struct row row = make_row(number, tenant, event_name, clock_wall_ms());
    assert_true(row_states_add(room->states, &row, ROW_PENDING, clock_wall_ms(), ""));
    return row;
}

static const struct row_entry *entry_of(const struct room *room, const struct row *row)
{
    const struct row_entry *entry = row_states_find(room->states, row->id);
    assert_non_null(entry);
    return entry;
}

static void turn(struct room *room)
{
    sender_turn(room->sender, room->policy);
    loop_run_once(room->loop, 5);
}

static void run_until(struct room *room, const struct row *row, enum row_state state)
{
    while (entry_of(room, row)->state != state)
        turn(room);
}

static size_t calls_of(struct room *room)
{
    pthread_mutex_lock(&room->lock);
    size_t count = room->provider.call_count;
    pthread_mutex_unlock(&room->lock);
    return count;
}

static void run_until_calls(struct room *room, size_t count)
{
    while (calls_of(room) < count)
        turn(room);
}

/* So long that a call would have been seen. */
static void run_a_while(struct room *room)
{
    for (int i = 0; i < 40; i++)
        turn(room);
}

static void script(struct room *room, const enum fate *fates, size_t count)
{
    memcpy(room->provider.script, fates, count * sizeof *fates);
    room->provider.script_length = count;
    room->provider.script_place = 0;
}

#define SCRIPT(room, ...)                                                                                              \
    script(room, (const enum fate[]){__VA_ARGS__}, sizeof((const enum fate[]){__VA_ARGS__}) / sizeof(enum fate))

static size_t taken(const struct room *room, const char *identifier)
{
    size_t count = 0;
    for (size_t i = 0; i < room->provider.event_count; i++)
        count += strcmp(room->provider.events[i].identifier, identifier) == 0;
    return count;
}

/* ---- tests ---- */

static void test_a_row_goes_and_is_acknowledged(void **state)
{
    struct room *room = *state;
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until(room, &row, ROW_ACKED);
    const struct provider *provider = &room->provider;
    assert_int_equal(taken(room, row.id), 1);
    assert_string_equal(provider->events[0].customer, "cus_a");
    assert_string_equal(provider->events[0].event_name, "tokens_out");
    assert_int_equal(provider->events[0].value, 101);
    assert_true(provider->events[0].timestamp_s == row.ended / 1000);
    assert_string_equal(provider->calls[0].key, row.id);
    assert_non_null(strstr(provider->last_head, "\r\nAuthorization: Bearer sk_test_secret\r\n"));
    assert_non_null(strstr(provider->last_head, "\r\nStripe-Version: 20"));
    assert_non_null(strstr(provider->last_head, "\r\nContent-Type: application/x-www-form-urlencoded\r\n"));
    assert_string_equal(sender_trouble(room->sender), "");
    assert_false(provider->was_unsynced);
}

static void test_what_was_there_is_a_duplicate(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_CLOSE);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    assert_int_equal(entry_of(room, &row)->state, ROW_SENT);
    assert_string_equal(entry_of(room, &row)->customer, "cus_a");
    assert_non_null(strstr(sender_trouble(room->sender), "no answer"));
    clock_shift_ms += 10000;
    run_until(room, &row, ROW_DUPLICATE);
    assert_int_equal(taken(room, row.id), 1);
    assert_string_equal(room->provider.calls[0].key, room->provider.calls[1].key);
    assert_string_equal(sender_trouble(room->sender), "");
}

static void test_a_refused_row_waits_and_goes_as_the_next_revision(void **state)
{
    struct room *room = *state;
    char second[ROW_ID_CHARACTERS + 1];
    SCRIPT(room, REFUSE);
    struct row row = add_row(room, 1, "acme", "tokens_out"), other = add_row(room, 2, "acme", "tokens_out");
    run_until(room, &row, ROW_REJECTED);
    assert_string_equal(entry_of(room, &row)->reason, "400: no such meter");
    run_until(room, &other, ROW_ACKED); /* it does not stand in the way */
    assert_true(row_change(room->states, room->policy, row.id, ROW_RETRY, clock_wall_ms()).changed);
    run_until(room, &row, ROW_ACKED);
    row_identifier(&row.name, INSTALL, 1, second);
    assert_int_equal(taken(room, second), 1);
    assert_int_equal(taken(room, row.id), 0);
}

/* As another revision it could be there twice. */
static void test_refused_after_a_try_without_answer_is_for_a_person(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_CLOSE, REFUSE);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    clock_shift_ms += 10000;
    run_until(room, &row, ROW_HELD);
    assert_non_null(strstr(entry_of(room, &row)->reason, "may have arrived"));
    assert_true(row_change(room->states, room->policy, row.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &row, ROW_DUPLICATE);
    assert_int_equal(taken(room, row.id), 1);
}

static void test_a_wrong_key_holds_all_back_but_a_probe(void **state)
{
    struct room *room = *state;
    SCRIPT(room, WRONG_KEY, WRONG_KEY, WRONG_KEY);
    struct row rows[3] = {add_row(room, 1, "acme", "tokens_out"), add_row(room, 2, "acme", "tokens_in"),
                          add_row(room, 3, "beta", "tokens_in")};
    run_until_calls(room, 3);
    run_a_while(room);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(entry_of(room, &rows[i])->state, ROW_PENDING);
        assert_true(entry_of(room, &rows[i])->first_sent == 0);
    }
    assert_int_equal(calls_of(room), 3);
    assert_string_equal(sender_trouble(room->sender), "401: the API key is not accepted");
    SCRIPT(room, WRONG_KEY, WRONG_KEY, WRONG_KEY);
    clock_shift_ms += HOUR;
    run_a_while(room);
    assert_int_equal(calls_of(room), 4); /* one probe */
    SCRIPT(room, TAKE);
    const struct policy *old = room->policy;
    room->policy = make_policy(room, "sk_test_repaired");
    for (int i = 0; i < 3; i++)
        run_until(room, &rows[i], ROW_ACKED);
    policy_drop(&old);
    assert_non_null(strstr(room->provider.last_head, "sk_test_repaired"));
}

static void test_too_many_waits_as_long_as_it_was_told(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TOO_MANY);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    assert_int_equal(entry_of(room, &row)->state, ROW_PENDING);
    clock_shift_ms += 60 * 1000;
    run_a_while(room);
    assert_int_equal(calls_of(room), 1);
    clock_shift_ms += 61 * 1000;
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(calls_of(room), 2);
}

static void test_a_stored_failure_gets_another_key(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_FAIL, FAIL);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    for (size_t calls = 1; calls <= 2; calls++) {
        run_until_calls(room, calls);
        run_a_while(room);
        clock_shift_ms += 10000;
    }
    run_until(room, &row, ROW_DUPLICATE);
    const struct call *calls = room->provider.calls;
    assert_string_equal(calls[0].identifier, calls[2].identifier);
    assert_string_not_equal(calls[0].key, calls[1].key);
    assert_string_not_equal(calls[1].key, calls[2].key);
    assert_int_equal(taken(room, row.id), 1);
}

/* Also when the failure was stored before a restart. */
static void test_a_restart_does_not_meet_a_stored_failure(void **state)
{
    struct room *room = *state;
    SCRIPT(room, FAIL);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    close_sender(room);
    open_sender(room);
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(calls_of(room), 2);
    assert_string_equal(room->provider.calls[0].identifier, room->provider.calls[1].identifier);
    assert_string_not_equal(room->provider.calls[0].key, room->provider.calls[1].key);
}

static void test_nobody_there_is_no_try(void **state)
{
    struct room *room = *state;
    char url[64];
    struct http_stub *gone = http_stub_start(NULL, serve_provider, room);
    snprintf(url, sizeof url, "%s", http_stub_url(gone));
    http_stub_stop(&gone);
    room->providers[0].api_base = url;
    struct row row = add_row(room, 1, "acme", "tokens_out");
    while (strstr(sender_trouble(room->sender), "not reached: ") == NULL)
        turn(room);
    run_until(room, &row, ROW_PENDING);
    assert_true(entry_of(room, &row)->first_sent == 0);
    clock_shift_ms += 30 * HOUR;
    room->providers[0].api_base = http_stub_url(room->stub);
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(room->provider.question_count, 0); /* it cannot be there */
}

static void test_a_lane_has_one_call(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_HANG);
    struct row first = add_row(room, 1, "acme", "tokens_out"), second = add_row(room, 2, "acme", "tokens_out");
    struct row other = add_row(room, 3, "beta", "tokens_out");
    run_until(room, &other, ROW_ACKED);
    run_a_while(room);
    assert_int_equal(calls_of(room), 2);
    assert_int_equal(entry_of(room, &second)->state, ROW_PENDING);
    close_sender(room);
    open_sender(room); /* the first is unclear: it is cleared up before the second goes */
    run_until(room, &second, ROW_ACKED);
    assert_int_equal(entry_of(room, &first)->state, ROW_DUPLICATE);
    assert_string_equal(room->provider.calls[2].identifier, first.id);
}

static void test_what_lacks_something_is_held(void **state)
{
    struct room *room = *state;
    struct row row = add_row(room, 1, "none", "tokens_out");
    struct row old = make_row(2, "acme", "tokens_out", clock_wall_ms() - 36 * 24 * HOUR);
    assert_true(row_states_add(room->states, &old, ROW_PENDING, clock_wall_ms(), ""));
    run_until(room, &row, ROW_HELD);
    run_until(room, &old, ROW_HELD);
    assert_string_equal(entry_of(room, &row)->reason, "the tenant none has no customer: give it one, then release");
    assert_non_null(strstr(entry_of(room, &old)->reason, "35 days"));
    assert_int_equal(calls_of(room), 0);
    room->tenants[2].customer = "cus_n";
    assert_true(row_change(room->states, room->policy, row.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &row, ROW_ACKED);
    assert_string_equal(room->provider.events[0].customer, "cus_n");
}

/* ---- what may have arrived, long ago ---- */

/* A row that was sent @hours ago, without an answer. */
static struct row add_sent(struct room *room, unsigned number, const char *tenant, int64_t hours)
{
    wall_ms when = clock_wall_ms() - clock_wall_ms() % HOUR - hours * HOUR + HOUR / 2;
    struct row row = make_row(number, tenant, "tokens_out", when);
    const char *customer = provider_customer(room->policy, tenant);
    assert_true(row_states_add(room->states, &row, ROW_PENDING, when, ""));
    assert_true(row_states_mark_sent(room->states, row.id, when, customer));
    return row;
}

static void put_event(struct room *room, const struct row *row, const char *customer, wall_ms taken_at)
{
    struct event *event = &room->provider.events[room->provider.event_count++];
    *event = (struct event){.value = row->quantity, .timestamp_s = row->ended / 1000, .taken_at = taken_at};
    snprintf(event->identifier, sizeof event->identifier, "%s", row->id);
    snprintf(event->event_name, sizeof event->event_name, "%.60s", row->name.meter);
    snprintf(event->customer, sizeof event->customer, "%s", customer);
}

static void test_an_old_row_that_is_there_is_found(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26);
    put_event(room, &row, "cus_a", row.ended);
    run_until(room, &row, ROW_ACKED);
    assert_string_equal(entry_of(room, &row)->reason, "found at reconciling");
    assert_int_equal(calls_of(room), 0);
}

static void test_an_old_row_that_is_not_there_goes_again(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26), same_hour = add_sent(room, 2, "acme", 26);
    run_until(room, &row, ROW_ACKED);
    run_until(room, &same_hour, ROW_ACKED);
    assert_int_equal(taken(room, row.id), 1);
    assert_int_equal(room->provider.question_count, 1); /* one answer for both */
    assert_string_not_equal(room->provider.calls[0].key, row.id);
    assert_string_equal(room->provider.calls[0].identifier, row.id);
}

static void test_a_total_that_proves_nothing_is_for_a_person(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26), foreign = make_row(7, "acme", "tokens_out", row.ended);
    put_event(room, &foreign, "cus_a", row.ended);
    run_until(room, &row, ROW_HELD);
    assert_non_null(strstr(entry_of(room, &row)->reason, "107"));
    assert_int_equal(calls_of(room), 0);
    close_sender(room);
    open_sender(room); /* and stays so */
    assert_true(entry_of(room, &row)->undecided);
    assert_true(row_change(room->states, room->policy, row.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(room->provider.question_count, 1);
}

static void test_tenants_of_one_customer_are_counted_together(void **state)
{
    struct room *room = *state;
    room->tenants[1].customer = "cus_a";
    struct row row = add_sent(room, 1, "acme", 26), other = add_sent(room, 2, "beta", 26);
    put_event(room, &other, "cus_a", other.ended);
    assert_true(row_states_move(room->states, other.id, ROW_ACKED, other.ended, ""));
    room->tenants[1].customer = "cus_new"; /* what was sent stays where it went */
    run_until(room, &row, ROW_ACKED);
    assert_string_equal(entry_of(room, &row)->reason, "");
    assert_int_equal(taken(room, row.id), 1);
}

static void test_a_total_is_asked_for_after_a_quiet_time(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26), other = make_row(2, "acme", "tokens_out", row.ended);
    assert_true(row_states_add(room->states, &other, ROW_PENDING, row.ended, ""));
    assert_true(row_states_mark_sent(room->states, other.id, clock_wall_ms(), "cus_a"));
    assert_true(row_states_move(room->states, other.id, ROW_ACKED, clock_wall_ms(), ""));
    put_event(room, &other, "cus_a", clock_wall_ms());
    run_a_while(room);
    assert_int_equal(room->provider.question_count, 0);
    clock_shift_ms += 61 * 1000;
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(room->provider.question_count, 1);
    assert_int_equal(taken(room, row.id), 1);
}

static void test_without_a_total_nothing_old_goes(void **state)
{
    struct room *room = *state;
    struct row row = add_sent(room, 1, "acme", 26);
    room->provider.fails_totals = true;
    while (sender_trouble(room->sender)[0] == '\0')
        turn(room);
    run_a_while(room);
    assert_int_equal(calls_of(room), 0);
    assert_int_equal(entry_of(room, &row)->state, ROW_SENT);
    room->provider.fails_totals = false;
    clock_shift_ms += 10000;
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(taken(room, row.id), 1);
}

/* The machine slept, or the clock was set: what was sent before is too old all at once. */
static void test_a_jump_of_the_clock_is_seen(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_CLOSE);
    struct row row = add_row(room, 1, "acme", "tokens_out");
    run_until_calls(room, 1);
    run_a_while(room);
    clock_shift_ms += 25 * HOUR;
    run_until(room, &row, ROW_ACKED);
    assert_int_equal(calls_of(room), 1);
    assert_int_equal(taken(room, row.id), 1);
}

/* ---- people and crashes ---- */

static void test_a_person_may_change_a_row_in_flight(void **state)
{
    struct room *room = *state;
    SCRIPT(room, TAKE_AND_HANG, TAKE_AND_HANG);
    struct row held = add_row(room, 1, "acme", "tokens_out"), gone = add_row(room, 2, "beta", "tokens_out");
    run_until_calls(room, 2);
    assert_true(row_change(room->states, room->policy, held.id, ROW_HOLD, clock_wall_ms()).changed);
    assert_true(row_change(room->states, room->policy, gone.id, ROW_HOLD, clock_wall_ms()).changed);
    assert_true(row_change(room->states, room->policy, gone.id, ROW_DELIVERED, clock_wall_ms()).changed);
    close_sender(room);
    open_sender(room);
    run_a_while(room);
    assert_int_equal(calls_of(room), 2);
    assert_int_equal(entry_of(room, &held)->state, ROW_HELD);
    assert_int_equal(entry_of(room, &gone)->state, ROW_ACKED);
    assert_true(row_change(room->states, room->policy, held.id, ROW_RELEASE, clock_wall_ms()).changed);
    run_until(room, &held, ROW_DUPLICATE);
}

static void test_nothing_goes_without_the_provider(void **state)
{
    struct room *room = *state;
    struct row row = add_row(room, 1, "acme", "tokens_out");
    struct snapshot *empty = snapshot_create();
    const struct policy *without = &empty->policy;
    for (int i = 0; i < 20; i++) {
        sender_turn(room->sender, without);
        loop_run_once(room->loop, 5);
    }
    assert_int_equal(calls_of(room), 0);
    assert_non_null(strstr(sender_trouble(room->sender), "does not name"));
    run_until(room, &row, ROW_ACKED);
    assert_string_equal(sender_trouble(room->sender), "");
    policy_drop(&without);
}

enum { LIFE_ROWS = 40, AWAY_MAX = 30 }; /* days: no row becomes too old */

static bool is_over(const struct room *room)
{
    for (size_t i = 0; i < row_states_count(room->states); i++) {
        enum row_state at = row_states_at(room->states, i)->state;
        if (at == ROW_PENDING || at == ROW_SENT)
            return false;
    }
    return true;
}

/* The process dies, and is @away for a day at times. What it had sent arrives before that, or never. */
static void crash(struct room *room, bool is_away)
{
    close_sender(room);
    if (is_away) {
        do
            usleep(20 * 1000); /* also what waits to be accepted */
        while (http_stub_open(room->stub) > 0);
        clock_shift_ms += 25 * HOUR;
    }
    open_sender(room);
}

/* Answers get lost before and after the event is taken, and the process dies at any moment. */
static void test_a_life_with_crashes_delivers_each_row_once(void **state)
{
    struct room *room = *state;
    struct row rows[LIFE_ROWS];
    unsigned crashes = 0, away = 0;
    room->provider.is_random = true;
    for (unsigned i = 0; i < LIFE_ROWS; i++)
        rows[i] = add_row(room, i, i % 2 == 0 ? "acme" : "beta", i % 4 < 2 ? "tokens_out" : "tokens_in");
    while (!is_over(room)) {
        turn(room);
        clock_shift_ms += (int64_t) unit_random_below(2000);
        if (unit_random_below(5) > 0)
            continue;
        crashes++;
        crash(room, away < AWAY_MAX && unit_random_below(10) == 0 && ++away > 0);
    }
    for (unsigned i = 0; i < LIFE_ROWS; i++) {
        assert_int_equal(taken(room, rows[i].id), 1);
        assert_true(entry_of(room, &rows[i])->state == ROW_ACKED || entry_of(room, &rows[i])->state == ROW_DUPLICATE);
    }
    assert_int_equal(room->provider.event_count, LIFE_ROWS);
    assert_false(room->provider.was_unsynced);
    print_message("%zu calls, %zu questions, %u crashes\n", room->provider.call_count, room->provider.question_count,
                  crashes);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        TEST(test_a_row_goes_and_is_acknowledged),
        TEST(test_what_was_there_is_a_duplicate),
        TEST(test_a_refused_row_waits_and_goes_as_the_next_revision),
        TEST(test_refused_after_a_try_without_answer_is_for_a_person),
        TEST(test_a_wrong_key_holds_all_back_but_a_probe),
        TEST(test_too_many_waits_as_long_as_it_was_told),
        TEST(test_a_stored_failure_gets_another_key),
        TEST(test_a_restart_does_not_meet_a_stored_failure),
        TEST(test_nobody_there_is_no_try),
        TEST(test_a_lane_has_one_call),
        TEST(test_what_lacks_something_is_held),
        TEST(test_an_old_row_that_is_there_is_found),
        TEST(test_an_old_row_that_is_not_there_goes_again),
        TEST(test_a_total_that_proves_nothing_is_for_a_person),
        TEST(test_tenants_of_one_customer_are_counted_together),
        TEST(test_a_total_is_asked_for_after_a_quiet_time),
        TEST(test_without_a_total_nothing_old_goes),
        TEST(test_a_jump_of_the_clock_is_seen),
        TEST(test_a_person_may_change_a_row_in_flight),
        TEST(test_nothing_goes_without_the_provider),
        TEST(test_a_life_with_crashes_delivers_each_row_once),
    };
    if (!transfers_global_init())
        return 1;
    log_configure(LOG_FORMAT_JSON, LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
