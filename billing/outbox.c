/* For each writer the epochs that wait, in order; the first that cannot become rows keeps those behind it waiting. */
#include "billing/outbox.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "billing/back_off.h"
#include "billing/outbox_files.h"
#include "billing/provider.h"

/* One writer's epochs in the ledger, as far as this provider is concerned. */
struct source {
    UT_hash_handle hh;
    char writer[WRITER_ID_CHARACTERS + 1];
    uint64_t made; /* the last epoch of which there are rows, or need be none */
    uint64_t *waiting;
    size_t first, count, capacity; /* waiting[first] is next */
    struct ledger_head head;       /* of that epoch, once it was read: then its number stands in it */
    struct back_off back_off;
    bool is_resting; /* till the next turn: it has to wait for Redis, or for room */
};

struct outbox {
    char billing_directory[PATH_MAX], ledger_directory[PATH_MAX];
    char install_id[INSTALL_ID_CHARACTERS + 1];
    enum provider_kind provider;
    struct row_states *states;
    struct source *sources;
    bool is_active;
    wall_ms since;
    wall_ms doubt_until; /* rows of epochs that ended before may have been made by states that are lost; 0 = none */
    bool must_finish;    /* some rows of an epoch may be there, and not all */
    struct back_off back_off;
    char trouble[OUTBOX_TROUBLE_BYTES];
};

/* ---- what is known ---- */

static struct source *source_of(struct outbox *outbox, const char *writer)
{
    struct source *source = NULL;
    HASH_FIND_STR(outbox->sources, writer, source);
    if (source != NULL)
        return source;
    source = calloc(1, sizeof *source);
    if (source == NULL)
        return NULL;
    text_copy(source->writer, sizeof source->writer, text_of(writer));
    source->made = row_states_made(outbox->states, writer);
    HASH_ADD_STR(outbox->sources, writer, source);
    return source;
}

/* After others than take_first added rows. */
static void learn_made(struct outbox *outbox)
{
    struct source *source, *next;
    HASH_ITER(hh, outbox->sources, source, next)
    {
        source->made = row_states_made(outbox->states, source->writer);
    }
}

/* From a backup, for all that is known: what is pending or held may have been sent since then. False with errno. */
static bool doubt_old_states(struct outbox *outbox)
{
    struct row_states *states = outbox->states;
    wall_ms now = clock_wall_ms();
    bool good = true, forgets = provider_capabilities(outbox->provider)->dedup_window_ms != PROVIDER_FOREVER;
    if (!forgets || now - row_states_alive(states) <= OUTBOX_STALE_MS)
        return true;
    outbox->doubt_until = now;
    for (size_t place = row_states_next_undelivered(states, ROW_STATES_BEGIN); good && place != ROW_STATES_END;
         place = row_states_next_undelivered(states, place)) {
        const struct row_entry *entry = row_states_at(states, place);
        if ((entry->state == ROW_PENDING || entry->state == ROW_HELD) && entry->first_sent == 0)
            good = row_states_doubt(states, entry->row.id);
    }
    return good;
}

struct outbox *outbox_open(const struct outbox_options *options, char error[OUTBOX_TROUBLE_BYTES])
{
    const char *provider = PROVIDER_KIND_NAMES[options->provider];
    if (outbox_are_states_gone(options->billing_directory, options->provider, error))
        return NULL;
    struct outbox *outbox = calloc(1, sizeof *outbox);
    if (outbox == NULL)
        goto err;
    text_copy(outbox->billing_directory, sizeof outbox->billing_directory, text_of(options->billing_directory));
    text_copy(outbox->ledger_directory, sizeof outbox->ledger_directory, text_of(options->ledger_directory));
    text_copy(outbox->install_id, sizeof outbox->install_id, text_of(options->install_id));
    outbox->provider = options->provider;
    outbox->states = row_states_open(options->billing_directory, options->provider);
    if (outbox->states != NULL && doubt_old_states(outbox) &&
        outbox_files_finish(options->billing_directory, outbox->states, options->provider))
        return outbox;
err:
    snprintf(error, OUTBOX_TROUBLE_BYTES, "billing/%s.states in state_dir: %s", provider,
             errno == EBADMSG ? "it is damaged: restore it from a backup" : strerror(errno));
    outbox_close(&outbox);
    return NULL;
}

void outbox_close(struct outbox **outbox_pointer)
{
    struct outbox *outbox = *outbox_pointer;
    struct source *source, *next;
    *outbox_pointer = NULL;
    if (outbox == NULL)
        return;
    HASH_ITER(hh, outbox->sources, source, next)
    {
        HASH_DEL(outbox->sources, source);
        free(source->waiting);
        free(source);
    }
    row_states_close(&outbox->states);
    free(outbox);
}

/* ---- what waits ---- */

static size_t waiting_count(const struct source *source)
{
    return source->count - source->first;
}

/* Room for one more, at the end. */
static bool make_room(struct source *source)
{
    if (source->first > 0 && source->count == source->capacity) {
        memmove(source->waiting, source->waiting + source->first, waiting_count(source) * sizeof *source->waiting);
        source->count -= source->first;
        source->first = 0;
    }
    if (source->count < source->capacity)
        return true;
    size_t capacity = source->capacity == 0 ? 16 : source->capacity * 2;
    uint64_t *waiting = realloc(source->waiting, capacity * sizeof *waiting);
    if (waiting == NULL)
        return false;
    source->waiting = waiting;
    source->capacity = capacity;
    return true;
}

/* False: no memory. */
static bool add_waiting(struct outbox *outbox, const struct ledger_name *epoch)
{
    struct source *source = source_of(outbox, epoch->writer);
    if (source == NULL)
        return false;
    if (epoch->epoch <= source->made)
        return true;
    if (!make_room(source))
        return false;
    size_t place = source->count; /* nearly always: only a file that was gone is told late */
    while (place > source->first && source->waiting[place - 1] > epoch->epoch)
        place--;
    if (place > source->first && source->waiting[place - 1] == epoch->epoch)
        return true;
    memmove(source->waiting + place + 1, source->waiting + place, (source->count - place) * sizeof *source->waiting);
    source->waiting[place] = epoch->epoch;
    source->count++;
    return true;
}

static void say(struct outbox *outbox, const char *what, const char *why)
{
    struct builder trouble;
    builder_init(&trouble, outbox->trouble, sizeof outbox->trouble);
    builder_format(&trouble, "%s: %.100s: %.250s", PROVIDER_KIND_NAMES[outbox->provider], what, why);
    (void) builder_string(&trouble);
}

static void say_since(struct outbox *outbox, const char *why)
{
    char what[64];
    snprintf(what, sizeof what, "billing/%s.since in state_dir", PROVIDER_KIND_NAMES[outbox->provider]);
    say(outbox, what, why);
}

/* The clock is wrong, or was when the provider came: what is between is not passed over before a person has looked. */
static bool is_since_ahead(struct outbox *outbox)
{
    wall_ms now = clock_wall_ms();
    if (outbox->since > now)
        (void) outbox_since(outbox->billing_directory, outbox->provider, &outbox->since);
    if (outbox->since <= now)
        return false;
    say_since(outbox,
              "it is ahead of the clock, which is wrong now, or was when the provider was added. Then write the "
              "right time into it (milliseconds since 1970): what is used before that time is not billed");
    return true;
}

/* Everything that is in the ledger and has no rows. False with a trouble. */
static bool begin(struct outbox *outbox, wall_ms first_seen)
{
    struct ledger_name *names = NULL;
    size_t count = 0;
    if (!outbox_files_since(outbox->billing_directory, outbox->provider, first_seen, &outbox->since)) {
        say_since(outbox, errno == EBADMSG ? "it is damaged: restore it from a backup" : strerror(errno));
        return false;
    }
    bool good = ledger_list(outbox->ledger_directory, &names, &count);
    for (size_t i = 0; i < count && good; i++)
        good = add_waiting(outbox, &names[i]);
    if (!good)
        say(outbox, "what is to be billed cannot be read", strerror(errno));
    free(names);
    return good;
}

/* As nothing was known: the next policy that names the provider has it read again. */
static void end(struct outbox *outbox)
{
    struct source *source, *next;
    HASH_ITER(hh, outbox->sources, source, next)
    {
        source->first = source->count = 0;
        source->head = (struct ledger_head){0};
        source->back_off = (struct back_off){0};
    }
    outbox->is_active = false;
}

bool outbox_follow(struct outbox *outbox, const struct policy *policy)
{
    bool is_named = policy_provider(policy, outbox->provider) != NULL;
    if (is_named == outbox->is_active)
        return true;
    outbox->trouble[0] = '\0';
    if (!is_named) {
        end(outbox);
        return true;
    }
    outbox->is_active = begin(outbox, policy->loaded_wall_ms);
    if (!outbox->is_active)
        end(outbox);
    return outbox->is_active;
}

void outbox_sealed(struct outbox *outbox, const struct ledger_name *epoch)
{
    if (!outbox->is_active || add_waiting(outbox, epoch))
        return;
    /* Without memory for a number: the ledger has it. */
    say(outbox, "an epoch", strerror(ENOMEM));
    end(outbox);
}

/* ---- rows ---- */

/* All that one epoch has. */
static bool add_rows(struct outbox *outbox, const struct row *rows, size_t count, const struct outbox_turn *turn)
{
    struct outbox_rows making = {.provider = outbox->provider, .rows = rows, .count = count, .now = turn->now};
    making.policy = turn->policy;
    making.are_doubtful = rows->ended < outbox->doubt_until;
    outbox->must_finish = !outbox_files_add(outbox->billing_directory, outbox->states, &making);
    return !outbox->must_finish;
}

/* What was begun, with the policy that began it. */
static bool finish_rows(struct outbox *outbox)
{
    if (!back_off_is_over(&outbox->back_off, clock_mono_ms()))
        return false;
    if (outbox_files_finish(outbox->billing_directory, outbox->states, outbox->provider)) {
        learn_made(outbox);
        outbox->must_finish = false;
        back_off_worked(&outbox->back_off);
        return true;
    }
    say(outbox, "rows cannot be written", strerror(errno));
    back_off_failed(&outbox->back_off, clock_mono_ms());
    return false;
}

/* What the ledger has of the epoch. */
static bool make_rows(struct outbox *outbox, const struct ledger_head *head, const struct cells *cells,
                      const struct outbox_turn *turn)
{
    struct row *rows = NULL;
    size_t count = 0;
    struct row_source source = {policy_provider(turn->policy, outbox->provider), outbox->install_id, head, cells};
    bool good = rows_make(&source, &rows, &count) &&
                (count == 0 ? row_states_make_none(outbox->states, &head->name) : add_rows(outbox, rows, count, turn));
    int error = errno;
    free(rows);
    errno = error;
    return good;
}

static void take_first(struct outbox *outbox, struct source *source)
{
    struct ledger_name name = {.epoch = source->waiting[source->first++]};
    memcpy(name.writer, source->writer, sizeof name.writer);
    row_states_note_made(outbox->states, &name);
    if (name.epoch > source->made)
        source->made = name.epoch;
    source->head = (struct ledger_head){0};
    back_off_worked(&source->back_off);
    if (source->first == source->count)
        source->first = source->count = 0;
}

static void put_off(struct outbox *outbox, struct source *source, const char *why)
{
    char what[80];
    snprintf(what, sizeof what, "epoch %" PRIu64 ", ledger/%s-%08" PRIu64 ".jsonl", source->waiting[source->first],
             source->writer, source->waiting[source->first]);
    say(outbox, what, why);
    back_off_failed(&source->back_off, clock_mono_ms());
}

/* Its ledger file cannot be read. */
static void put_off_unread(struct outbox *outbox, struct source *source)
{
    const char *why = strerror(errno);
    if (errno == EBADMSG)
        why = "it is damaged: restore it from a backup; or stop the gateway, remove it and start: the journal makes it "
              "again if it still has the epoch";
    else if (errno == ENOENT)
        why =
            "it is gone: restore it from a backup; or start the gateway again: the journal makes it again if it still "
            "has the epoch";
    put_off(outbox, source, why);
}

/* What a provider does not take waits in the ledger. */
static bool has_room(const struct outbox *outbox)
{
    return row_states_count_due(outbox->states) < OUTBOX_DUE_MAX;
}

/* What was being added may be made meanwhile. */
static bool is_looked_at(const struct source *source)
{
    uint64_t epoch = source->waiting[source->first];
    return source->head.name.epoch == epoch && epoch > source->made;
}

static bool may_be_served(const struct source *source)
{
    return waiting_count(source) > 0 && !source->is_resting && back_off_is_over(&source->back_off, clock_mono_ms());
}

/* The first epoch that waits has its head, or waits no more, or the source is put off. */
static void look(struct outbox *outbox, struct source *source)
{
    struct ledger_name name = {.epoch = source->waiting[source->first]};
    memcpy(name.writer, source->writer, sizeof name.writer);
    if (name.epoch <= source->made) {
        take_first(outbox, source);
    } else if (!ledger_read(outbox->ledger_directory, &name, &source->head, NULL)) {
        source->head = (struct ledger_head){0};
        put_off_unread(outbox, source);
    }
}

/* Of all writers the epoch that ended first: an hour's rows are there before the provider is asked about the hour.
 * NULL: there is nothing to be done. */
static struct source *find_oldest(struct outbox *outbox)
{
    struct source *source, *next, *oldest = NULL;
    HASH_ITER(hh, outbox->sources, source, next)
    {
        while (may_be_served(source) && !is_looked_at(source))
            look(outbox, source);
        bool is_ready = may_be_served(source) && is_looked_at(source); /* it may be served by now, and not before */
        if (is_ready && (oldest == NULL || source->head.ended < oldest->head.ended))
            oldest = source;
    }
    return oldest;
}

static void serve_rows(struct outbox *outbox, struct source *source, const struct outbox_turn *turn)
{
    const struct ledger_name name = source->head.name;
    struct ledger_head head;
    struct cells *cells = NULL;
    if (!ledger_read(outbox->ledger_directory, &name, &head, &cells)) {
        put_off_unread(outbox, source);
        return;
    }
    if (make_rows(outbox, &head, cells, turn))
        take_first(outbox, source);
    else
        put_off(outbox, source, strerrordesc_np(errno));
    cells_destroy(&cells);
}

/* It was looked at. */
static void serve(struct outbox *outbox, struct source *source, const struct outbox_turn *turn)
{
    if (source->head.ended < outbox->since)
        take_first(outbox, source);
    else if (!has_room(outbox) || !turn->may_go(turn->owner, &source->head.name))
        source->is_resting = true;
    else
        serve_rows(outbox, source, turn);
}

/* As long as rows of lost states may be still to be made, the next start has to know. */
static void live(struct outbox *outbox, bool is_any_to_come, wall_ms now)
{
    wall_ms age = now - row_states_alive(outbox->states);
    if (outbox->doubt_until == 0 ? age >= 0 && age < OUTBOX_ALIVE_MS : is_any_to_come)
        return;
    if (row_states_live(outbox->states, now)) /* else at the next turn */
        outbox->doubt_until = 0;
}

bool outbox_turn(struct outbox *outbox, const struct outbox_turn *turn)
{
    bool has_more = false, has_trouble = false, is_any_waiting = false;
    struct source *source, *next;
    if (!outbox->is_active || is_since_ahead(outbox) || (outbox->must_finish && !finish_rows(outbox)))
        return false;
    while (!outbox->must_finish && !has_more && (source = find_oldest(outbox)) != NULL) {
        has_more = clock_mono_ms() >= turn->until;
        if (!has_more)
            serve(outbox, source, turn);
    }
    HASH_ITER(hh, outbox->sources, source, next)
    {
        source->is_resting = false;
        has_trouble |= back_off_is_on(&source->back_off);
        is_any_waiting |= waiting_count(source) > 0;
    }
    live(outbox, is_any_waiting || outbox->must_finish || !turn->all_are_read, turn->now);
    if (!has_trouble && !outbox->must_finish)
        outbox->trouble[0] = '\0';
    return has_more;
}

/* What was being added would be taken for new, when it had gone meanwhile: it must surely be whole. */
bool outbox_tidy(struct outbox *outbox, wall_ms now)
{
    return outbox->must_finish ||
           (outbox_files_settle(outbox->billing_directory) && row_states_tidy(outbox->states, now));
}

/* ---- questions ---- */

bool outbox_is_active(const struct outbox *outbox)
{
    return outbox->is_active;
}

struct row_states *outbox_states(const struct outbox *outbox)
{
    return outbox->states;
}

uint64_t outbox_first_waiting(const struct outbox *outbox, const char *writer_id)
{
    struct source *source = NULL;
    HASH_FIND_STR(outbox->sources, writer_id, source);
    return source != NULL && waiting_count(source) > 0 ? source->waiting[source->first] : 0;
}

wall_ms outbox_oldest_waiting(const struct outbox *outbox)
{
    wall_ms oldest = 0;
    struct source *source, *next;
    HASH_ITER(hh, outbox->sources, source, next)
    {
        wall_ms began = waiting_count(source) > 0 ? source->head.began : 0;
        if (began != 0 && (oldest == 0 || began < oldest))
            oldest = began;
    }
    return oldest;
}

const char *outbox_trouble(const struct outbox *outbox)
{
    return outbox->trouble;
}
