/* What the providers have: Stripe's totals over HTTP, the lines of the files. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/fetch.h"
#include "billing/provider.h"
#include "billing/totals.h"
#include "gateway/command.h"
#include "gateway/usage_audit.h"

enum { HOUR_MS = 3600 * 1000, TOTALS_MAX = 20000, LINE_NAME_BYTES = 512 };

/* ---- one that is asked ---- */

struct told {
    int64_t total;
    bool is_known, is_passed_over;
};

struct asking {
    struct usage_audit *audit;
    struct usage_audit_provider *provider;
    struct loop *loop;
    struct totals *totals;
    const struct audit_total *list;
    struct told *answers;
    size_t count, next;
    bool is_any_unasked;
    bool failed; /* memory */
};

static void ask_next(struct asking *asking);

/* No other customer's total of the meter can be asked for. */
static void pass_over_meter(struct asking *asking, const char *event_name)
{
    for (size_t i = asking->next; i < asking->count; i++)
        asking->answers[i].is_passed_over |= strcmp(asking->list[i].event_name, event_name) == 0;
}

/* False: nothing else can be asked either. */
static bool note_error(struct asking *asking, const char *error)
{
    const struct audit_total *total = &asking->list[asking->next];
    const char *name = PROVIDER_KIND_NAMES[asking->provider->policy->kind];
    asking->is_any_unasked = true;
    switch (totals_fault(asking->totals)) {
    case TOTALS_FAULT_METER:
        usage_audit_reason(asking->audit, "%s cannot be asked for the meter %s: %s", name, total->event_name, error);
        pass_over_meter(asking, total->event_name);
        return true;
    case TOTALS_FAULT_QUESTION:
        usage_audit_reason(asking->audit, "%s cannot be asked for the meter %s of the customer %s: %s", name,
                           total->event_name, total->customer, error);
        return true;
    case TOTALS_FAULT_PROVIDER:
        break;
    }
    usage_audit_reason(asking->audit, "%s cannot be asked: %s", name, error);
    asking->provider->known.provider = false;
    return false;
}

static void told(void *owner, int64_t total, const char *error)
{
    struct asking *asking = owner;
    asking->answers[asking->next] = (struct told){.total = total, .is_known = error[0] == '\0'};
    if (error[0] != '\0' && !note_error(asking, error)) {
        loop_stop(asking->loop);
        return;
    }
    asking->next++;
    ask_next(asking);
}

static void ask_next(struct asking *asking)
{
    while (asking->next < asking->count && asking->answers[asking->next].is_passed_over)
        asking->next++;
    if (asking->next == asking->count) {
        loop_stop(asking->loop);
        return;
    }
    const struct audit_total *total = &asking->list[asking->next];
    const struct totals_question question = {.provider = asking->provider->policy,
                                             .event_name = total->event_name,
                                             .customer = total->customer,
                                             .from = total->hour,
                                             .to = total->hour + HOUR_MS};
    if (totals_ask(asking->totals, &question, told, asking))
        return;
    asking->failed = true;
    loop_stop(asking->loop);
}

static void first_turn(struct loop_task *task)
{
    ask_next(task->owner);
}

/* All answers, or a reason. False: no memory. */
static bool ask_all(struct asking *asking)
{
    asking->loop = loop_create();
    struct fetcher *fetcher = asking->loop == NULL ? NULL : fetcher_create(asking->loop);
    asking->totals = fetcher == NULL ? NULL : totals_create(fetcher);
    struct loop_task first = {.run = first_turn, .owner = asking};
    bool good = asking->totals != NULL;
    if (good) {
        loop_post(asking->loop, &first);
        loop_run(asking->loop);
    }
    totals_destroy(&asking->totals);
    if (fetcher != NULL)
        fetcher_destroy(&fetcher);
    loop_destroy(asking->loop);
    return good && !asking->failed;
}

/* Rows go on moving while the provider is asked. */
static bool settle(struct usage_audit *audit, struct usage_audit_provider *provider)
{
    char directory[PATH_MAX];
    struct row_states *later = row_states_read(usage_path(audit->policy, "billing", directory), provider->policy->kind);
    bool good = later != NULL && audit_rows_settle(provider->rows, later);
    row_states_close(&later);
    return good;
}

static const char *line_name(const char *tenant, const char *meter, wall_ms hour, char to[LINE_NAME_BYTES])
{
    snprintf(to, LINE_NAME_BYTES, "%s\n%s\n%lld", tenant, meter, (long long) hour);
    return to;
}

/* The lines of the totals that nobody told. False: no memory. */
static bool note_unasked(const struct asking *asking)
{
    struct usage_audit_provider *provider = asking->provider;
    char line[LINE_NAME_BYTES];
    bool good = (provider->unasked = json_object()) != NULL;
    for (size_t i = 0; good && i < row_states_count(provider->states); i++) {
        const struct row_entry *entry = row_states_at(provider->states, i);
        const struct audit_total *found = audit_rows_find_total(provider->rows, entry);
        if (found != NULL && !asking->answers[found - asking->list].is_known)
            good = json_object_set_new(provider->unasked,
                                       line_name(entry->row.name.tenant, found->event_name, found->hour, line),
                                       json_true()) == 0;
    }
    return good;
}

struct reconcile_known usage_audit_known(const struct usage_audit_provider *provider, const struct reconcile_line *line)
{
    struct reconcile_known known = provider->known;
    char name[LINE_NAME_BYTES];
    if (json_object_get(provider->unasked, line_name(line->tenant, line->meter, line->hour, name)) != NULL)
        known.provider = false;
    return known;
}

static bool ask_totals(struct usage_audit *audit, struct usage_audit_provider *provider)
{
    struct asking asking = {.audit = audit, .provider = provider};
    asking.count = audit_rows_totals(provider->rows, &asking.list);
    provider->known.provider = asking.count <= TOTALS_MAX;
    if (!provider->known.provider)
        usage_audit_reason(audit, "%s is not asked for %zu totals: give a shorter window, --from and --to",
                           PROVIDER_KIND_NAMES[provider->policy->kind], asking.count);
    if (!provider->known.provider || asking.count == 0)
        return true;
    asking.answers = calloc(asking.count, sizeof *asking.answers);
    bool good = asking.answers != NULL && ask_all(&asking) && settle(audit, provider);
    for (size_t i = 0; good && i < asking.next; i++) {
        if (asking.answers[i].is_known)
            good = audit_rows_answer(provider->rows, &asking.list[i], asking.answers[i].total);
    }
    if (good && asking.is_any_unasked)
        good = note_unasked(&asking);
    free(asking.answers);
    return good;
}

/* ---- files ---- */

/* One epoch's file: its lines by the row's id. */
struct delivered_file {
    struct ledger_name epoch;
    json_t *quantities; /* NULL: it is not there, somebody took it */
};

/* False: it is no file of ours. */
static bool read_lines(FILE *file, json_t *to)
{
    char *line = NULL;
    size_t capacity = 0;
    bool good = true;
    while (good && getline(&line, &capacity, file) > 0) {
        json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        const char *id = json_string_value(json_object_get(object, "id"));
        json_t *quantity = json_object_get(object, "quantity");
        good = id != NULL && json_is_integer(quantity) && json_object_get(to, id) == NULL &&
               json_object_set(to, id, quantity) == 0;
        json_decref(object);
    }
    free(line);
    return good && !ferror(file);
}

static void open_file(struct usage_audit *audit, const struct usage_audit_provider *provider,
                      struct delivered_file *current, const struct ledger_name *epoch)
{
    char name[PROVIDER_FILE_NAME_BYTES], path[PATH_MAX];
    struct builder whole;
    json_decref(current->quantities);
    *current = (struct delivered_file){.epoch = *epoch};
    provider_file_name(epoch, name);
    builder_init(&whole, path, sizeof path);
    builder_format(&whole, "%s/%s", provider->policy->directory, name);
    FILE *file = fopen(builder_string(&whole), "re");
    if (file == NULL && errno != ENOENT)
        usage_audit_reason(audit, "%s: %s", path, strerror(errno));
    if (file == NULL)
        return;
    current->quantities = json_object();
    if (!read_lines(file, current->quantities)) /* what is in it is not what was written */
        json_object_clear(current->quantities);
    fclose(file);
}

/* A file that was taken away is taken to have been right. */
static bool read_files(struct usage_audit *audit, struct usage_audit_provider *provider)
{
    struct delivered_file current = {0};
    bool good = true;
    for (size_t i = 0; good && i < row_states_count(provider->states); i++) {
        const struct row_entry *entry = row_states_at(provider->states, i);
        const struct row *row = &entry->row;
        bool is_wanted =
            row_state_is_delivered(entry->state) && row->ended >= audit->window.from && row->ended < audit->window.to;
        if (!is_wanted)
            continue;
        if (ledger_name_compare(&current.epoch, &row->name.epoch) != 0)
            open_file(audit, provider, &current, &row->name.epoch);
        json_t *quantity = json_object_get(current.quantities, row->id);
        good = audit_rows_has(provider->rows, row,
                              current.quantities == NULL ? row->quantity : json_integer_value(quantity));
    }
    json_decref(current.quantities);
    provider->known.provider = true;
    return good;
}

bool usage_audit_ask_providers(struct usage_audit *audit)
{
    bool good = true;
    for (size_t i = 0; good && i < audit->provider_count; i++) {
        struct usage_audit_provider *provider = &audit->providers[i];
        bool is_file = provider->policy->kind == PROVIDER_FILE;
        good = is_file ? read_files(audit, provider) : ask_totals(audit, provider);
    }
    if (!good)
        command_fail(audit->command, "memory is exhausted, or a sum is too big");
    return good;
}
