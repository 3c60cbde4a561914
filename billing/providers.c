/* For each provider an outbox, and what takes its rows away: files, or calls. */
#include "billing/providers.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "billing/back_off.h"
#include "billing/file_sender.h"
#include "billing/sender.h"

enum { ALL_TROUBLES_BYTES = 2048 }; /* of one provider it is less than 700 */

struct providers {
    char billing_directory[PATH_MAX], ledger_directory[PATH_MAX];
    char install_id[INSTALL_ID_CHARACTERS + 1];
    struct loop *loop;
    struct fetcher *fetcher;
    struct outbox *outboxes[PROVIDER_KIND_COUNT]; /* NULL: neither in a policy nor on the disk */
    struct back_off back_offs[PROVIDER_KIND_COUNT];
    struct file_sender *file_sender;
    struct sender *sender; /* of PROVIDER_STRIPE */
    char open_trouble[PROVIDERS_TROUBLE_BYTES];
    char trouble[ALL_TROUBLES_BYTES];
};

struct providers *providers_create(const struct providers_options *options)
{
    struct providers *providers = calloc(1, sizeof *providers);
    if (providers == NULL)
        return NULL;
    text_copy(providers->billing_directory, sizeof providers->billing_directory, text_of(options->billing_directory));
    text_copy(providers->ledger_directory, sizeof providers->ledger_directory, text_of(options->ledger_directory));
    text_copy(providers->install_id, sizeof providers->install_id, text_of(options->install_id));
    providers->loop = options->loop;
    providers->fetcher = options->fetcher;
    return providers;
}

void providers_destroy(struct providers **providers_pointer)
{
    struct providers *providers = *providers_pointer;
    *providers_pointer = NULL;
    if (providers == NULL)
        return;
    sender_destroy(&providers->sender);
    file_sender_destroy(&providers->file_sender);
    for (int kind = 0; kind < PROVIDER_KIND_COUNT; kind++)
        outbox_close(&providers->outboxes[kind]);
    free(providers);
}

/* ---- which there are ---- */

static bool open_sender(struct providers *providers, enum provider_kind kind)
{
    struct row_states *states = outbox_states(providers->outboxes[kind]);
    struct sender_options options = {.loop = providers->loop,
                                     .fetcher = providers->fetcher,
                                     .states = states,
                                     .provider = kind,
                                     .install_id = providers->install_id,
                                     .seed = (uint64_t) clock_mono_us()};
    if (kind == PROVIDER_FILE) {
        providers->file_sender = file_sender_create(states);
        return providers->file_sender != NULL;
    }
    providers->sender = sender_create(&options);
    return providers->sender != NULL;
}

/* False with @trouble in words. */
static bool open_one(struct providers *providers, enum provider_kind kind, char trouble[OUTBOX_TROUBLE_BYTES])
{
    struct outbox_options options = {.billing_directory = providers->billing_directory,
                                     .ledger_directory = providers->ledger_directory,
                                     .install_id = providers->install_id,
                                     .provider = kind};
    providers->outboxes[kind] = outbox_open(&options, trouble);
    if (providers->outboxes[kind] == NULL)
        return false;
    if (open_sender(providers, kind))
        return true;
    text_copy(trouble, OUTBOX_TROUBLE_BYTES, TEXT("no memory for a provider"));
    outbox_close(&providers->outboxes[kind]);
    return false;
}

static bool is_wanted(const struct providers *providers, const struct policy *policy, enum provider_kind kind)
{
    char memory[PATH_MAX];
    struct builder path;
    if (policy_provider(policy, kind) != NULL)
        return true;
    builder_init(&path, memory, sizeof memory);
    builder_format(&path, "%s/%s.states", providers->billing_directory, PROVIDER_KIND_NAMES[kind]);
    return access(builder_string(&path), F_OK) == 0;
}

static bool open_if_wanted(struct providers *providers, const struct policy *policy, enum provider_kind kind)
{
    char trouble[OUTBOX_TROUBLE_BYTES];
    struct back_off *back_off = &providers->back_offs[kind];
    if (providers->outboxes[kind] != NULL || !is_wanted(providers, policy, kind))
        return true;
    if (!back_off_is_over(back_off, clock_mono_ms()))
        return false;
    if (open_one(providers, kind, trouble)) {
        back_off_worked(back_off);
        return true;
    }
    back_off_failed(back_off, clock_mono_ms());
    text_copy(providers->open_trouble, sizeof providers->open_trouble, text_of(trouble));
    return false;
}

bool providers_follow(struct providers *providers, const struct policy *policy)
{
    bool is_open = true, is_followed = true;
    for (enum provider_kind kind = 0; kind < PROVIDER_KIND_COUNT; kind++) {
        is_open &= open_if_wanted(providers, policy, kind);
        if (providers->outboxes[kind] != NULL)
            is_followed &= outbox_follow(providers->outboxes[kind], policy);
    }
    if (is_open)
        providers->open_trouble[0] = '\0';
    return is_open && is_followed;
}

/* ---- turns ---- */

void providers_sealed(struct providers *providers, const struct ledger_name *epoch)
{
    for (int kind = 0; kind < PROVIDER_KIND_COUNT; kind++) {
        if (providers->outboxes[kind] != NULL)
            outbox_sealed(providers->outboxes[kind], epoch);
    }
}

bool providers_turn(struct providers *providers, const struct outbox_turn *turn)
{
    bool has_more = false;
    for (int kind = 0; kind < PROVIDER_KIND_COUNT; kind++) {
        if (providers->outboxes[kind] != NULL)
            has_more |= outbox_turn(providers->outboxes[kind], turn);
    }
    if (providers->sender != NULL)
        sender_turn(providers->sender, turn->policy);
    if (providers->file_sender != NULL)
        has_more |= file_sender_turn(providers->file_sender, turn->policy, turn->until);
    return has_more;
}

bool providers_tidy(struct providers *providers)
{
    bool good = true;
    for (int kind = 0; kind < PROVIDER_KIND_COUNT; kind++) {
        if (providers->outboxes[kind] != NULL)
            good &= outbox_tidy(providers->outboxes[kind], clock_wall_ms());
    }
    return good;
}

struct row_change_result providers_change(struct providers *providers, const struct policy *policy, const char *id,
                                          enum row_verb verb)
{
    struct row_change_result result = {.is_known = false};
    text_copy(result.reason, sizeof result.reason, TEXT("no provider has a row of this id that is not delivered"));
    for (int kind = 0; kind < PROVIDER_KIND_COUNT && !result.is_known; kind++) {
        if (providers->outboxes[kind] != NULL)
            result = row_change(outbox_states(providers->outboxes[kind]), policy, id, verb, clock_wall_ms());
    }
    if (providers->file_sender != NULL)
        file_sender_look_again(providers->file_sender);
    return result;
}

/* ---- questions ---- */

struct outbox *const *providers_outboxes(const struct providers *providers)
{
    return providers->outboxes;
}

static wall_ms older(wall_ms a, wall_ms b)
{
    if (a == 0 || b == 0)
        return a == 0 ? b : a;
    return a < b ? a : b;
}

static wall_ms oldest_due(const struct row_states *states)
{
    wall_ms oldest = 0;
    for (size_t place = row_states_next_undelivered(states, ROW_STATES_BEGIN); place != ROW_STATES_END;
         place = row_states_next_undelivered(states, place)) {
        const struct row_entry *entry = row_states_at(states, place);
        if (row_state_is_due(entry->state))
            oldest = older(oldest, entry->row.began);
    }
    return oldest;
}

size_t providers_usage(const struct providers *providers, struct usage_status ret[PROVIDER_KIND_COUNT],
                       wall_ms *ret_oldest)
{
    size_t count = 0;
    *ret_oldest = 0;
    for (enum provider_kind kind = 0; kind < PROVIDER_KIND_COUNT; kind++) {
        const struct outbox *outbox = providers->outboxes[kind];
        if (outbox == NULL)
            continue;
        usage_status_of(outbox_states(outbox), kind, &ret[count++]);
        if (!outbox_is_active(outbox))
            continue;
        *ret_oldest = older(*ret_oldest, outbox_oldest_waiting(outbox));
        *ret_oldest = older(*ret_oldest, oldest_due(outbox_states(outbox)));
    }
    return count;
}

static void add_trouble(struct builder *to, const char *of, const char *trouble)
{
    if (trouble[0] != '\0')
        builder_format(to, "%s%s%s", to->length > 0 ? "; " : "", of, trouble);
}

const char *providers_trouble(struct providers *providers)
{
    struct builder all;
    builder_init(&all, providers->trouble, sizeof providers->trouble);
    add_trouble(&all, "", providers->open_trouble);
    for (int kind = 0; kind < PROVIDER_KIND_COUNT; kind++) {
        if (providers->outboxes[kind] != NULL)
            add_trouble(&all, "", outbox_trouble(providers->outboxes[kind]));
    }
    if (providers->file_sender != NULL)
        add_trouble(&all, "", file_sender_trouble(providers->file_sender));
    if (providers->sender != NULL)
        add_trouble(&all, "stripe: ", sender_trouble(providers->sender));
    return builder_string(&all);
}
