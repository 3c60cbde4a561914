/* Two calls a question, one question at a time: the meter's id by its event name, then its summaries by the hour. */
#include "billing/totals.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/panic.h"
#include "billing/provider.h"

enum {
    TIMEOUT_MS = 30 * 1000,
    CONNECT_TIMEOUT_MS = 10 * 1000,
    PAGES_MAX = 100, /* of 100 each */
    METERS_MAX = 256,
    METER_ID_BYTES = 128,
    HOUR_MS = 3600 * 1000
};
/* Below it a double is what was written. */
static const double WHOLE_LIMIT = 9007199254740992.0;

struct known_meter {
    char event_name[ROW_METER_BYTES_MAX + 1];
    char id[METER_ID_BYTES];
};

/* A question that waits or is being asked. */
struct asking {
    struct asking *next;
    char *api_base;
    char *key; /* wiped before it is freed */
    char *event_name;
    char *customer;
    wall_ms from, to;
    totals_done *done;
    void *owner;
    char after[METER_ID_BYTES]; /* the last id of the page before; "" = the first page */
    unsigned pages;
    bool is_summing; /* the meter is known: its summaries are being read */
    char meter[METER_ID_BYTES];
    int64_t total;
};

struct totals {
    struct fetcher *fetcher;
    struct fetch *fetch;
    struct asking *first, *last; /* the first is being asked */
    char *api_base;              /* whose meters are known */
    struct known_meter meters[METERS_MAX];
    size_t meter_count;
    enum totals_fault fault;
};

/* ---- questions ---- */

static void free_asking(struct asking *asking)
{
    if (asking->key != NULL)
        explicit_bzero(asking->key, strlen(asking->key));
    free(asking->key);
    free(asking->api_base);
    free(asking->event_name);
    free(asking->customer);
    free(asking);
}

struct totals *totals_create(struct fetcher *fetcher)
{
    struct totals *totals = calloc(1, sizeof *totals);
    if (totals != NULL)
        totals->fetcher = fetcher;
    return totals;
}

void totals_destroy(struct totals **totals)
{
    struct totals *dying = *totals;
    *totals = NULL;
    if (dying == NULL)
        return;
    fetch_cancel(&dying->fetch);
    while (dying->first != NULL) {
        struct asking *asking = dying->first;
        dying->first = asking->next;
        free_asking(asking);
    }
    free(dying->api_base);
    free(dying);
}

/* ---- meters ---- */

static const struct known_meter *find_meter(const struct totals *totals, const char *event_name)
{
    for (size_t i = 0; i < totals->meter_count; i++) {
        if (strcmp(totals->meters[i].event_name, event_name) == 0)
            return &totals->meters[i];
    }
    return NULL;
}

/* Another address is another account: its meters have other ids. */
static bool forget_meters_of_others(struct totals *totals, const char *api_base)
{
    if (totals->api_base != NULL && strcmp(totals->api_base, api_base) == 0)
        return true;
    char *copy = strdup(api_base);
    if (copy == NULL)
        return false;
    free(totals->api_base);
    totals->api_base = copy;
    totals->meter_count = 0;
    return true;
}

static void keep_meter(struct totals *totals, const char *event_name, const char *id)
{
    if (totals->meter_count == METERS_MAX)
        totals->meter_count = 0; /* they are asked for again */
    struct known_meter *meter = &totals->meters[totals->meter_count++];
    text_copy(meter->event_name, sizeof meter->event_name, text_of(event_name));
    text_copy(meter->id, sizeof meter->id, text_of(id));
}

/* ---- calls ---- */

static void on_answer(void *owner, const struct fetch_result *result);
static bool begin_question(struct totals *totals);

static bool make_url(const struct asking *asking, struct builder *url)
{
    builder_format(url, "%s/v1/billing/meters", asking->api_base);
    if (asking->is_summing) {
        builder_add_string(url, "/");
        stripe_add_encoded(url, asking->meter);
        builder_add_string(url, "/event_summaries?limit=100&value_grouping_window=hour&customer=");
        stripe_add_encoded(url, asking->customer);
        builder_format(url, "&start_time=%" PRId64 "&end_time=%" PRId64, asking->from / 1000, asking->to / 1000);
    } else {
        builder_add_string(url, "?limit=100&status=active");
    }
    if (asking->after[0] != '\0') {
        builder_add_string(url, "&starting_after=");
        stripe_add_encoded(url, asking->after);
    }
    builder_string(url);
    return !url->overflowed;
}

/* Fetch the next page of the first question. */
static bool call(struct totals *totals)
{
    static const char *const HEADERS[] = {STRIPE_VERSION_HEADER, NULL};
    const struct asking *asking = totals->first;
    char memory[PROVIDER_URL_BYTES];
    struct builder url;
    builder_init(&url, memory, sizeof memory);
    if (!make_url(asking, &url))
        return false;
    const struct fetch_request request = {.url = memory,
                                          .bearer = asking->key,
                                          .headers = HEADERS,
                                          .timeout_ms = TIMEOUT_MS,
                                          .connect_timeout_ms = CONNECT_TIMEOUT_MS};
    totals->fetch = fetch_start(totals->fetcher, &request, on_answer, totals);
    return totals->fetch != NULL;
}

/* The first page of the question's next part. */
static bool begin_part(struct totals *totals)
{
    struct asking *asking = totals->first;
    const struct known_meter *meter = find_meter(totals, asking->event_name);
    asking->is_summing = meter != NULL;
    asking->after[0] = '\0';
    asking->pages = 0;
    if (meter != NULL)
        text_copy(asking->meter, sizeof asking->meter, text_of(meter->id));
    return call(totals);
}

/* ---- answers ---- */

enum totals_fault totals_fault(const struct totals *totals)
{
    return totals->fault;
}

/* The first question is over; the next one begins. */
static void finish(struct totals *totals, const char *error)
{
    struct asking *asking = totals->first;
    totals->first = asking->next;
    asking->done(asking->owner, asking->total, error);
    totals->fault = TOTALS_FAULT_PROVIDER;
    free_asking(asking);
    if (totals->first != NULL && totals->fetch == NULL && !begin_question(totals))
        finish(totals, "out of memory");
}

/* A whole number that no double has rounded. */
static bool to_whole(const json_t *number, int64_t *ret)
{
    if (json_is_integer(number)) {
        *ret = json_integer_value(number);
        return true;
    }
    double value = json_real_value(number);
    if (!json_is_real(number) || fabs(value) >= WHOLE_LIMIT || value != floor(value))
        return false;
    *ret = (int64_t) value;
    return true;
}

/* NULL, or what is wrong with one item of a page. */
static const char *take_item(struct totals *totals, struct asking *asking, json_t *item)
{
    const char *id = json_string_value(json_object_get(item, "id"));
    const char *event_name = json_string_value(json_object_get(item, "event_name"));
    int64_t value;
    if (id == NULL || text_copy(asking->after, sizeof asking->after, text_of(id)) != strlen(id))
        return "the provider's list has an item without an id";
    if (!asking->is_summing) {
        if (event_name != NULL && strcmp(event_name, asking->event_name) == 0)
            keep_meter(totals, event_name, id);
        return NULL;
    }
    if (!to_whole(json_object_get(item, "aggregated_value"), &value) ||
        __builtin_add_overflow(asking->total, value, &asking->total))
        return "the provider's total is no whole number";
    return NULL;
}

/* NULL, or what is wrong with the page. */
static const char *take_page(struct totals *totals, struct asking *asking, struct text body, bool *ret_has_more)
{
    json_t *answer = json_loadb(body.at, body.length, JSON_REJECT_DUPLICATES, NULL);
    json_t *items = json_object_get(answer, "data"), *item;
    const char *wrong = json_is_array(items) ? NULL : "the provider's answer is no list";
    size_t place;
    json_array_foreach(items, place, item)
    {
        if (wrong == NULL)
            wrong = take_item(totals, asking, item);
    }
    *ret_has_more = json_is_true(json_object_get(answer, "has_more")) && json_array_size(items) > 0;
    json_decref(answer);
    return wrong;
}

/* After a whole page. NULL, or why there will be no answer. */
static const char *after_page(struct totals *totals, struct asking *asking, bool has_more)
{
    bool is_found = !asking->is_summing && find_meter(totals, asking->event_name) != NULL;
    if (!is_found && has_more) {
        if (++asking->pages == PAGES_MAX)
            return "the provider's list has too many pages";
        return call(totals) ? NULL : "out of memory";
    }
    if (asking->is_summing) {
        finish(totals, "");
        return NULL;
    }
    if (!is_found) {
        totals->fault = TOTALS_FAULT_METER;
        return "the provider has no active meter with this event name";
    }
    return begin_part(totals) ? NULL : "out of memory";
}

static void on_answer(void *owner, const struct fetch_result *result)
{
    struct totals *totals = owner;
    struct asking *asking = totals->first;
    const struct provider_answer answer = {result->status, result->connect_failed, result->body, -1};
    struct provider_outcome outcome = stripe_classify(&answer, "");
    totals->fetch = NULL;
    if (outcome.verdict != VERDICT_ACKED) {
        totals->meter_count = 0; /* its id may be what is wrong */
        if (asking->is_summing && (outcome.verdict == VERDICT_REJECTED || result->status == 404))
            totals->fault = TOTALS_FAULT_QUESTION;
        finish(totals, outcome.reason[0] != '\0' ? outcome.reason : "the provider's answer is no list");
        return;
    }
    bool has_more;
    const char *wrong = take_page(totals, asking, result->body, &has_more);
    if (wrong != NULL && asking->is_summing)
        totals->fault = TOTALS_FAULT_QUESTION;
    if (wrong == NULL)
        wrong = after_page(totals, asking, has_more);
    if (wrong != NULL)
        finish(totals, wrong);
}

static bool begin_question(struct totals *totals)
{
    return forget_meters_of_others(totals, totals->first->api_base) && begin_part(totals);
}

bool totals_ask(struct totals *totals, const struct totals_question *question, totals_done *done, void *owner)
{
    ENSURE(question->from < question->to && question->from % HOUR_MS == 0 && question->to % HOUR_MS == 0);
    const char *key = question->provider->api_key._bytes;
    struct asking *asking = calloc(1, sizeof *asking);
    if (asking == NULL)
        return false;
    asking->api_base = strdup(question->provider->api_base);
    asking->key = strdup(key != NULL ? key : "");
    asking->event_name = strdup(question->event_name);
    asking->customer = strdup(question->customer);
    asking->from = question->from;
    asking->to = question->to;
    asking->done = done;
    asking->owner = owner;
    if (asking->api_base == NULL || asking->key == NULL || asking->event_name == NULL || asking->customer == NULL) {
        free_asking(asking);
        return false;
    }
    if (totals->first == NULL)
        totals->first = asking;
    else
        totals->last->next = asking;
    totals->last = asking;
    if (totals->first != asking || begin_question(totals))
        return true;
    totals->first = NULL;
    free_asking(asking);
    return false;
}
