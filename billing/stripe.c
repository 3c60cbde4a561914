/* Stripe's meter events, v1: a form out, a verdict back. */
#include <inttypes.h>
#include <string.h>

#include <jansson.h>

#include "billing/provider.h"

/* ---- out ---- */

void stripe_add_encoded(struct builder *to, const char *value)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (const char *at = value; *at != '\0'; at++)
        builder_format(to, strchr(plain, *at) != NULL ? "%c" : "%%%02X", (unsigned char) *at);
}

bool stripe_encode(const struct provider_policy *provider, const struct provider_event *event,
                   struct provider_call *ret)
{
    struct builder url, key, body;
    builder_init(&url, ret->url, sizeof ret->url);
    builder_format(&url, "%s/v1/billing/meter_events", provider->api_base);
    builder_init(&key, ret->idempotency_key, sizeof ret->idempotency_key);
    builder_add_string(&key, event->identifier);
    if (event->generation > 0)
        builder_format(&key, ":g%u", event->generation);
    builder_init(&body, ret->body, sizeof ret->body);
    builder_add_string(&body, "event_name=");
    stripe_add_encoded(&body, row_event_name(event->row));
    builder_add_string(&body, "&payload[stripe_customer_id]=");
    stripe_add_encoded(&body, event->customer);
    builder_format(&body, "&payload[value]=%" PRId64 "&identifier=", event->row->quantity);
    stripe_add_encoded(&body, event->identifier);
    builder_format(&body, "&timestamp=%" PRId64, event->row->ended / 1000);
    ret->version_header = STRIPE_VERSION_HEADER;
    builder_string(&url);
    builder_string(&key);
    builder_string(&body);
    return !url.overflowed && !key.overflowed && !body.overflowed;
}

/* ---- back ---- */

struct stripe_error {
    json_t *answer;                            /* keeps the texts */
    const char *type, *code, *param, *message; /* "" when they are not there */
};

static const char *member(json_t *error, const char *name)
{
    const char *value = json_string_value(json_object_get(error, name));
    return value != NULL ? value : "";
}

static struct stripe_error read_error(struct text body)
{
    json_t *answer = body.length == 0 ? NULL : json_loadb(body.at, body.length, 0, NULL);
    json_t *error = json_object_get(answer, "error");
    return (struct stripe_error){answer, member(error, "type"), member(error, "code"), member(error, "param"),
                                 member(error, "message")};
}

/* The one place that knows how Stripe says so: only the message does, quoted from production. */
static bool is_duplicate(const struct stripe_error *error, const char *identifier)
{
    return strstr(error->message, "event already exists with identifier") != NULL &&
           strstr(error->message, identifier) != NULL;
}

/* As the reports of wrong events call it, or as the message of a refused one says. */
static bool is_in_future(const struct stripe_error *error)
{
    return strcmp(error->code, "timestamp_in_future") == 0 ||
           (strcmp(error->param, "timestamp") == 0 && strstr(error->message, "in the future") != NULL);
}

/* A 400 or 409. */
static enum provider_verdict classify_error(int status, const struct stripe_error *error, const char *identifier)
{
    if (is_duplicate(error, identifier))
        return VERDICT_DUPLICATE;
    if (is_in_future(error))
        return VERDICT_LATER;
    bool is_in_use = strcmp(error->code, "idempotency_key_in_use") == 0;
    bool is_misuse = strcmp(error->type, "idempotency_error") == 0;
    return status == 409 && (is_in_use || !is_misuse) ? VERDICT_RETRY : VERDICT_REJECTED;
}

static enum provider_verdict verdict_of(const struct provider_answer *answer, const struct stripe_error *error,
                                        const char *identifier)
{
    switch (answer->status) {
    case 0:
        return answer->connect_failed ? VERDICT_LATER : VERDICT_RETRY;
    case 400:
    case 409:
        return classify_error(answer->status, error, identifier);
    case 401:
    case 403:
    case 404:
        return VERDICT_HOLD_ALL;
    case 408:
        return VERDICT_RETRY;
    case 429:
        return VERDICT_LATER;
    default:
        break;
    }
    if (answer->status >= 500)
        return VERDICT_STORED;
    if (answer->status >= 400)
        return VERDICT_REJECTED;
    /* A redirect is not followed: the address is wrong. */
    return answer->status >= 200 && answer->status < 300 ? VERDICT_ACKED : VERDICT_HOLD_ALL;
}

static void put_reason(struct provider_outcome *outcome, const struct provider_answer *answer,
                       const struct stripe_error *error)
{
    struct builder reason;
    builder_init(&reason, outcome->reason, sizeof outcome->reason);
    /* What is said to a wrong key may repeat it. */
    bool is_key = answer->status == 401 || answer->status == 403;
    if (answer->status == 0)
        builder_add_string(&reason, answer->connect_failed ? "not reached" : "no answer");
    else
        builder_format(&reason, "%d", answer->status);
    if (is_key)
        builder_add_string(&reason, ": the API key is not accepted");
    else if (is_in_future(error))
        builder_add_string(&reason, ": the clock of this machine is more than 5 minutes ahead: set it right, or usage "
                                    "is told that much later");
    else if (error->message[0] != '\0')
        builder_format(&reason, ": %.*s", ROW_REASON_BYTES_MAX - 8, error->message);
    builder_string(&reason);
}

struct provider_outcome stripe_classify(const struct provider_answer *answer, const char *identifier)
{
    struct stripe_error error = read_error(answer->body);
    struct provider_outcome outcome = {.verdict = verdict_of(answer, &error, identifier)};
    if (outcome.verdict != VERDICT_ACKED && outcome.verdict != VERDICT_DUPLICATE)
        put_reason(&outcome, answer, &error);
    outcome.next_key = answer->status == 400 && outcome.verdict == VERDICT_LATER;
    if (answer->retry_after_ms > 0)
        outcome.after_ms = answer->retry_after_ms;
    json_decref(error.answer);
    return outcome;
}
