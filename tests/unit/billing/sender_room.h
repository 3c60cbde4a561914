/* A sender, and a provider that remembers identifiers for a day, on a clock that the test sets. */
#ifndef TESTS_UNIT_BILLING_SENDER_ROOM_H
#define TESTS_UNIT_BILLING_SENDER_ROOM_H

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
enum { HANG_SECONDS = 240, WAIT_MS = 60 * 1000, EVENTS_MAX = 512, CALLS_MAX = 8192, BODIES = 64, BODY_BYTES = 512 };

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
    TOO_EARLY,
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
    uint64_t random;
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

static inline void find_value(const char *body, const char *name, char *to, size_t capacity)
{
    const char *at = strstr(body, name);
    to[0] = '\0';
    if (at != NULL)
        snprintf(to, capacity, "%.*s", (int) strcspn(at + strlen(name), "& \r\n"), at + strlen(name));
}

__attribute__((format(printf, 2, 3))) static inline const char *body(struct provider *provider, const char *format, ...)
{
    char *to = provider->bodies[provider->body_count++ % BODIES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(to, BODY_BYTES, format, arguments);
    va_end(arguments);
    return to;
}

/* False when it was there. */
static inline bool take(struct provider *provider, const struct event *event)
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

static inline size_t random_below(struct provider *provider, size_t bound)
{
    provider->random = provider->random * 6364136223846793005 + 1442695040888963407; /* its threads' own */
    return (size_t) (provider->random >> 33) % bound;
}

static inline enum fate next_fate(struct provider *provider)
{
    if (provider->is_random)
        return random_below(provider, 2) == 0 ? TAKE : (enum fate) random_below(provider, FAIL + 1);
    return provider->script_place < provider->script_length ? provider->script[provider->script_place++] : TAKE;
}

static inline bool is_stored(const struct provider *provider, const char *key)
{
    for (size_t i = 0; i < provider->stored_count; i++) {
        if (strcmp(provider->stored[i], key) == 0)
            return true;
    }
    return false;
}

/* What is in the file now, while the sender has it open. */
static inline bool is_marked(const char *identifier)
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

static inline void answer_fate(struct provider *provider, enum fate fate, const struct event *event,
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
    } else if (fate == TOO_EARLY) {
        answer->status = 400;
        answer->body = "{\"error\":{\"param\":\"timestamp\",\"message\":\"5 minutes in the future\"}}";
    } else if (!is_new) {
        answer->status = 400;
        answer->body = body(provider,
                            "{\"error\":{\"type\":\"invalid_request_error\",\"message\":\"An event already exists "
                            "with identifier %s.\"}}",
                            event->identifier);
    }
}

static inline void take_call(struct provider *provider, const struct http_stub_request *request,
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

static inline void take_question(struct provider *provider, const struct http_stub_request *request,
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

static inline void serve_provider(void *owner, const struct http_stub_request *request, struct http_stub_answer *answer)
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

static inline const struct policy *make_policy(struct room *room, const char *key)
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

static inline void open_sender(struct room *room)
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

static inline void close_sender(struct room *room)
{
    sender_destroy(&room->sender);
    row_states_close(&room->states);
}

static inline int set_up(void **state)
{
    struct room *room = calloc(1, sizeof *room);
    alarm(HANG_SECONDS);
    assert_int_equal(scratch_create(state), 0);
    clock_shift_ms = 0;
    pthread_mutex_init(&room->lock, NULL);
    room->provider.random = unit_random();
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

static inline int tear_down(void **state)
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

static inline struct row make_row(unsigned number, const char *tenant, const char *event_name, wall_ms ended)
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

static inline struct row add_row(struct room *room, unsigned number, const char *tenant, const char *event_name)
{
    struct row row = make_row(number, tenant, event_name, clock_wall_ms());
    assert_true(row_states_add(room->states, &row, ROW_PENDING, clock_wall_ms(), ""));
    return row;
}

static inline const struct row_entry *entry_of(const struct room *room, const struct row *row)
{
    const struct row_entry *entry = row_states_find(room->states, row->id);
    assert_non_null(entry);
    return entry;
}

static inline void turn(struct room *room)
{
    sender_turn(room->sender, room->policy);
    loop_run_once(room->loop, 5);
}

static inline void run_until(struct room *room, const struct row *row, enum row_state state)
{
    for (mono_ms end = real_mono_ms() + WAIT_MS; entry_of(room, row)->state != state; turn(room))
        assert_true(real_mono_ms() < end);
}

static inline size_t calls_of(struct room *room)
{
    pthread_mutex_lock(&room->lock);
    size_t count = room->provider.call_count;
    pthread_mutex_unlock(&room->lock);
    return count;
}

static inline void run_until_calls(struct room *room, size_t count)
{
    for (mono_ms end = real_mono_ms() + WAIT_MS; calls_of(room) < count; turn(room))
        assert_true(real_mono_ms() < end);
}

/* So long that a call would have been seen. */
static inline void run_a_while(struct room *room)
{
    for (int i = 0; i < 40; i++)
        turn(room);
}

static inline void script(struct room *room, const enum fate *fates, size_t count)
{
    memcpy(room->provider.script, fates, count * sizeof *fates);
    room->provider.script_length = count;
    room->provider.script_place = 0;
}

#define SCRIPT(room, ...)                                                                                              \
    script(room, (const enum fate[]){__VA_ARGS__}, sizeof((const enum fate[]){__VA_ARGS__}) / sizeof(enum fate))

static inline size_t taken(const struct room *room, const char *identifier)
{
    size_t count = 0;
    for (size_t i = 0; i < room->provider.event_count; i++)
        count += strcmp(room->provider.events[i].identifier, identifier) == 0;
    return count;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
