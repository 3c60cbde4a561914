/* Requests as the sender would make them, for people. */
#include "gateway/billing_preview.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "billing/install_id.h"
#include "billing/provider.h"
#include "billing/row_change.h"
#include "gateway/command.h"
#include "gateway/usage_command.h"

enum { ERROR_BYTES = 512, LINE_BYTES_MAX = 8192 };

/* The rows of one provider. */
struct showing {
    const struct billing_preview *preview;
    const struct provider_policy *provider; /* NULL = the configuration has it no more */
    const char *install_id;
    json_t *list; /* NULL: text */
    size_t shown;
    size_t epochs_to_come; /* without rows yet, summed over the providers */
    bool failed;           /* no memory */
};

/* What is known of one row's request. */
struct request {
    const struct row_entry *entry;
    char identifier[ROW_ID_CHARACTERS + 1];
    const char *method; /* NULL: nothing would be sent, and @reason says why */
    char reason[ROW_REASON_BYTES_MAX + 1];
    char url[PATH_MAX + PROVIDER_URL_BYTES];
    const char *version_header, *idempotency_key; /* NULL: none */
    char body[LINE_BYTES_MAX];
    struct provider_call call;
};

/* ---- one row ---- */

static bool nothing(struct request *request, const char *reason)
{
    text_copy(request->reason, sizeof request->reason, text_of(reason));
    return false;
}

static bool encode_stripe(const struct showing *showing, struct request *request, struct row *row, const char *customer)
{
    const struct provider_event event = {.row = row, .customer = customer, .identifier = request->identifier};
    if (!stripe_encode(showing->provider, &event, &request->call))
        return nothing(request, "a name in it is too long for a request");
    request->method = "POST";
    text_copy(request->url, sizeof request->url, text_of(request->call.url));
    text_copy(request->body, sizeof request->body, text_of(request->call.body));
    request->version_header = request->call.version_header;
    request->idempotency_key = request->call.idempotency_key;
    return true;
}

static bool encode_file(const struct showing *showing, struct request *request, const struct row *row)
{
    char name[PROVIDER_FILE_NAME_BYTES];
    struct buffer line;
    buffer_init(&line, LINE_BYTES_MAX);
    bool fits = provider_file_encode(row, 1, &line);
    struct text text = buffer_text(&line);
    if (text.length > 0)
        text_copy(request->body, sizeof request->body, (struct text){text.at, text.length - 1});
    buffer_finish(&line);
    if (!fits)
        return nothing(request, "its line is too long");
    request->method = "WRITE";
    provider_file_name(&row->name.epoch, name);
    snprintf(request->url, sizeof request->url, "%s/%s", showing->provider->directory, name);
    return true;
}

/* False: nothing would be sent. */
static bool make_request(const struct showing *showing, const struct row_entry *entry, struct request *ret)
{
    struct row row = entry->row;
    struct row_going going;
    *ret = (struct request){.entry = entry};
    /* What was rejected goes as the next revision. */
    unsigned revision = entry->revision + (entry->state == ROW_REJECTED ? 1 : 0);
    if (row_state_is_delivered(entry->state))
        return nothing(ret, "it is delivered");
    if (!row_can_go(entry, showing->preview->policy, clock_wall_ms(), &going, ret->reason))
        return false;
    row_identifier(&row.name, showing->install_id, revision, ret->identifier);
    if (going.meter != NULL)
        text_copy(row.event_name, sizeof row.event_name, text_of(going.meter->event_name));
    return showing->provider->kind == PROVIDER_FILE ? encode_file(showing, ret, &row)
                                                    : encode_stripe(showing, ret, &row, going.customer);
}

/* ---- printing ---- */

static void print_text(const struct request *request)
{
    char ended[CLOCK_TEXT_BYTES];
    const struct row_entry *entry = request->entry;
    const struct row *row = &entry->row;
    printf("%s  %s  %s  %s  %lld  ended %s\n", row->id, ROW_STATE_NAMES[entry->state], row->name.tenant,
           row_event_name(row), (long long) row->quantity, clock_text(row->ended, ended));
    if (entry->reason[0] != '\0')
        printf("  %s\n", entry->reason);
    if (request->method == NULL) {
        printf("  nothing would be sent: %s\n\n", request->reason);
        return;
    }
    printf("  %s %s\n", request->method, request->url);
    if (request->idempotency_key != NULL)
        printf("  Idempotency-Key: %s\n  %s\n", request->idempotency_key, request->version_header);
    printf("  %s\n\n", request->body);
}

static bool add_json(struct showing *showing, const struct request *request)
{
    char ended[CLOCK_TEXT_BYTES];
    const struct row_entry *entry = request->entry;
    const struct row *row = &entry->row;
    bool sends = request->method != NULL;
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:s, s:s?, s:s?, s:s?, s:s?, s:s?}", "row", row->id, "provider",
                  PROVIDER_KIND_NAMES[row->name.provider], "state", ROW_STATE_NAMES[entry->state], "tenant",
                  row->name.tenant, "meter", row_event_name(row), "quantity", (json_int_t) row->quantity, "ended",
                  clock_text(row->ended, ended), "reason", entry->reason, "method", request->method, "url",
                  sends ? request->url : NULL, "idempotency_key", request->idempotency_key, "body",
                  sends ? request->body : NULL, "nothing_because", sends ? NULL : request->reason);
    return object != NULL && json_array_append_new(showing->list, object) == 0;
}

static void show(struct showing *showing, const struct row_entry *entry)
{
    static struct request request;
    (void) make_request(showing, entry, &request);
    showing->shown++;
    if (showing->list == NULL)
        print_text(&request);
    else if (!add_json(showing, &request))
        showing->failed = true;
}

static bool is_asked_for(const struct billing_preview *preview, const struct row_entry *entry)
{
    if (preview->row != NULL)
        return strcmp(preview->row, entry->row.id) == 0;
    return row_state_is_due(entry->state) || entry->state == ROW_REJECTED;
}

/* ---- all providers ---- */

/* Also of a provider that the configuration names no more. False after saying so. */
static bool show_provider(struct showing *showing, enum provider_kind kind)
{
    const struct billing_preview *preview = showing->preview;
    struct row_states *states = usage_states_read(preview->command, preview->policy, kind);
    if (states == NULL)
        return false;
    size_t to_come;
    if (preview->row == NULL && usage_epochs_to_come(preview->policy, states, kind, &to_come))
        showing->epochs_to_come += to_come;
    showing->provider = policy_provider(preview->policy, kind);
    for (size_t i = 0; i < row_states_count(states); i++) {
        const struct row_entry *entry = row_states_at(states, i);
        if (is_asked_for(preview, entry))
            show(showing, entry);
    }
    row_states_close(&states);
    return true;
}

static int finish(const struct showing *showing)
{
    const struct billing_preview *preview = showing->preview;
    if (showing->failed)
        return command_fail(preview->command, "no JSON: memory is exhausted");
    if (showing->shown == 0 && preview->row != NULL)
        return command_fail(preview->command, "no row is called %s", preview->row);
    if (showing->list != NULL)
        return command_print_json(preview->command, json_incref(showing->list));
    if (showing->shown == 0)
        puts("nothing is pending, sent or rejected");
    if (showing->epochs_to_come > 0)
        printf("%zu epochs are not rows yet: a running gateway makes them\n", showing->epochs_to_come);
    return COMMAND_DONE;
}

int billing_preview(const struct billing_preview *preview)
{
    char install_id[INSTALL_ID_CHARACTERS + 1], error[ERROR_BYTES];
    if (!install_id_read(preview->policy->state_dir, install_id, error, sizeof error))
        return command_fail(preview->command, "%s", error);
    struct showing showing = {
        .preview = preview, .install_id = install_id, .list = preview->json ? json_array() : NULL};
    bool good = true;
    for (int kind = 0; kind < PROVIDER_KIND_COUNT && good; kind++)
        good = show_provider(&showing, (enum provider_kind) kind);
    int exit_code = good ? finish(&showing) : COMMAND_FAILED;
    json_decref(showing.list);
    return exit_code;
}
