/* A person's verbs: each looks at the state first, and says why when it changes nothing. */
#include "billing/row_change.h"

#include <errno.h>
#include <string.h>

#include "billing/provider.h"

const char *const ROW_VERB_NAMES[ROW_VERB_COUNT] = {"retry", "release", "hold", "delivered"};

/* One change being made. */
struct changing {
    struct row_states *states;
    const struct policy *policy;
    const char *id;
    wall_ms now;
    struct row_change_result *result;
};

__attribute__((format(printf, 2, 3))) static void refuse(char reason[ROW_REASON_BYTES_MAX + 1], const char *format, ...)
{
    struct builder to;
    va_list arguments;
    builder_init(&to, reason, ROW_REASON_BYTES_MAX + 1);
    va_start(arguments, format);
    builder_format_list(&to, format, arguments);
    va_end(arguments);
    builder_string(&to);
}

/* ---- what a row lacks ---- */

/* The meter that takes what @row sums, now; NULL and a reason when there is none, or more than one. */
static const struct meter_policy *find_meter(const struct provider_policy *provider, const struct row *row,
                                             char ret_reason[ROW_REASON_BYTES_MAX + 1])
{
    const struct meter_policy *found = NULL;
    for (size_t i = 0; i < provider->meter_count; i++) {
        const struct meter_policy *meter = &provider->meters[i];
        if (meter->measure != row->measure || !meter_takes_model(meter, text_of(row->model)))
            continue;
        if (found != NULL) {
            refuse(ret_reason, "a held row goes to one meter, and %.40s and %.40s both take it: leave one, and reload",
                   found->event_name, meter->event_name);
            return NULL;
        }
        found = meter;
    }
    if (found == NULL)
        refuse(ret_reason, "no meter takes %s of the model %.60s: add one, and reload", MEASURE_NAMES[row->measure],
               row->model);
    return found;
}

bool row_can_go(const struct row_entry *entry, const struct policy *policy, wall_ms now, struct row_going *ret,
                char ret_reason[ROW_REASON_BYTES_MAX + 1])
{
    struct row row = entry->row;
    struct row_going going = {.customer = entry->customer};
    const struct provider_policy *provider = policy_provider(policy, row.name.provider);
    if (provider == NULL) {
        refuse(ret_reason, "the configuration has no provider %s", PROVIDER_KIND_NAMES[row.name.provider]);
        return false;
    }
    bool may_have_arrived = entry->first_sent != 0 && !entry->undecided && entry->state != ROW_REJECTED;
    bool is_known_how = row.metered && entry->customer[0] != '\0'; /* not of what lost states may have sent */
    if (!may_have_arrived || !is_known_how) {                      /* else it goes as it went, or is asked for */
        going.customer = provider_customer(policy, row.name.tenant);
        going.meter = row.metered ? NULL : find_meter(provider, &row, ret_reason);
        if (!row.metered && going.meter == NULL)
            return false;
        row.metered = true;
        if (provider_holds(&row, going.customer, now, ret_reason))
            return false;
    }
    *ret = going;
    return true;
}

/* ---- the verbs ---- */

static bool allows(struct changing *changing, const struct row_entry *entry, unsigned states)
{
    static const char *const INSTEAD[ROW_STATE_COUNT] = {
        [ROW_PENDING] = "it goes by itself, and `tollgate billing hold` stops it",
        [ROW_SENT] = "it goes by itself, and `tollgate billing hold` stops it",
        [ROW_ACKED] = "that is for ever",
        [ROW_DUPLICATE] = "that is for ever",
        [ROW_REJECTED] = "`tollgate billing retry` sends it once more",
        [ROW_HELD] = "`tollgate billing release` lets it go"};
    if ((states >> entry->state & 1) != 0)
        return true;
    refuse(changing->result->reason, "the row is %s: %s", ROW_STATE_NAMES[entry->state], INSTEAD[entry->state]);
    return false;
}

static void move(struct changing *changing, enum row_state state, const char *reason)
{
    if (!row_states_move(changing->states, changing->id, state, changing->now, reason))
        refuse(changing->result->reason, "the states cannot be written: %s", strerrordesc_np(errno));
    else if (!row_states_sync(changing->states))
        refuse(changing->result->reason, "whether it is on the disk is not known: %s", strerrordesc_np(errno));
    else
        changing->result->changed = true;
}

/* It can be the next revision. */
static bool has_revision_left(struct changing *changing, const struct row_entry *entry)
{
    if (entry->revision < ROW_REVISION_MAX)
        return true;
    refuse(changing->result->reason, "it was tried again %d times: bill it by hand, then release --delivered",
           ROW_REVISION_MAX);
    return false;
}

/* With what it lacked. */
static void let_go(struct changing *changing, const struct row_entry *entry)
{
    struct row_going going;
    if (!row_can_go(entry, changing->policy, changing->now, &going, changing->result->reason))
        return;
    if (going.meter == NULL ||
        row_states_give_meter(changing->states, changing->id, changing->now, going.meter->event_name))
        move(changing, ROW_PENDING, "");
    else
        refuse(changing->result->reason, "the states cannot be written: %s", strerrordesc_np(errno));
}

static void retry(struct changing *changing, const struct row_entry *entry)
{
    if (allows(changing, entry, 1u << ROW_REJECTED) && has_revision_left(changing, entry))
        let_go(changing, entry);
}

static void release(struct changing *changing, const struct row_entry *entry)
{
    if (allows(changing, entry, 1u << ROW_HELD))
        let_go(changing, entry);
}

static void hold(struct changing *changing, const struct row_entry *entry)
{
    char reason[ROW_REASON_BYTES_MAX + 1];
    if (!allows(changing, entry, 1u << ROW_PENDING | 1u << ROW_SENT | 1u << ROW_REJECTED))
        return;
    if (entry->state != ROW_REJECTED) {
        move(changing, ROW_HELD, entry->first_sent == 0 ? "held by a person" : "held by a person; it may have arrived");
    } else if (has_revision_left(changing, entry)) {
        refuse(reason, "held by a person; it was rejected: %.160s", entry->reason);
        move(changing, ROW_HELD, reason);
    }
}

static void deliver(struct changing *changing, const struct row_entry *entry)
{
    if (allows(changing, entry, 1u << ROW_HELD | 1u << ROW_REJECTED))
        move(changing, ROW_ACKED, "delivered, or billed by hand, says a person");
}

struct row_change_result row_change(struct row_states *states, const struct policy *policy, const char *id,
                                    enum row_verb verb, wall_ms now)
{
    static void (*const VERBS[ROW_VERB_COUNT])(struct changing *, const struct row_entry *) = {
        [ROW_RETRY] = retry, [ROW_RELEASE] = release, [ROW_HOLD] = hold, [ROW_DELIVERED] = deliver};
    struct row_change_result result = {0};
    struct changing changing = {states, policy, id, now, &result};
    const struct row_entry *entry = row_states_find(states, id);
    if (entry == NULL) {
        refuse(result.reason, "no row has this id");
        return result;
    }
    result.is_known = true;
    VERBS[verb](&changing, entry);
    result.state = row_states_find(states, id)->state;
    return result;
}
