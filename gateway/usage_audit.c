/* Journals against the ledger, the ledger against Redis and against rows. */
#include "gateway/usage_audit.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "billing/install_id.h"
#include "billing/outbox.h"
#include "billing/private_redis.h"
#include "billing/redis_epoch.h"
#include "billing/resum.h"
#include "billing/store.h"
#include "gateway/command.h"

enum { DAY_MS = 24 * 3600 * 1000, ERROR_BYTES = 512, DIFFERING_MAX = 100000, DIFFERING_FIRST = 16 };

/* What is needed while it runs. */
struct running {
    struct usage_audit *audit;
    char ledger[PATH_MAX], journals[PATH_MAX], billing[PATH_MAX];
    char install_id[INSTALL_ID_CHARACTERS + 1];
    struct ledger_name *names;
    size_t name_count;
    struct redis *redis; /* NULL: it is away */
    wall_ms now;
    uint64_t not_in_ledger, not_in_redis;
    /* Of the epoch at hand. */
    const struct ledger_name *epoch;
    const struct cells *const *sides;
};

void usage_audit_reason(struct usage_audit *audit, const char *format, ...)
{
    va_list arguments;
    if (audit->reason_count == USAGE_AUDIT_REASONS_MAX)
        return;
    char *reason = audit->reasons[audit->reason_count];
    va_start(arguments, format);
    vsnprintf(reason, USAGE_AUDIT_REASON_BYTES, format, arguments);
    va_end(arguments);
    for (size_t i = 0; i < audit->reason_count; i++) {
        if (strcmp(audit->reasons[i], reason) == 0)
            return;
    }
    audit->reason_count++;
}

static bool is_in_window(const struct running *running, wall_ms ended)
{
    return ended >= running->audit->window.from && ended < running->audit->window.to;
}

static bool is_fresh(const struct running *running, wall_ms ended)
{
    return ended > running->now - AUDIT_FRESH_MS;
}

/* ---- cells ---- */

static struct usage_audit_cell *room_for_one(struct usage_audit *audit)
{
    if (audit->differing_count == audit->differing_capacity) {
        size_t capacity = audit->differing_capacity == 0 ? DIFFERING_FIRST : audit->differing_capacity * 2;
        struct usage_audit_cell *more =
            capacity > DIFFERING_MAX * 2 ? NULL : realloc(audit->differing, capacity * sizeof *more);
        if (more == NULL) {
            errno = ENOMEM;
            return NULL;
        }
        audit->differing = more;
        audit->differing_capacity = capacity;
    }
    return &audit->differing[audit->differing_count++];
}

static bool note_difference(void *owner, const struct audit_difference *difference)
{
    struct running *running = owner;
    struct usage_audit_cell *cell = room_for_one(running->audit);
    if (cell == NULL)
        return false;
    *cell = (struct usage_audit_cell){
        .epoch = *running->epoch, .measure = difference->cell.measure, .source = difference->cell.source};
    text_copy(cell->tenant, sizeof cell->tenant, difference->cell.tenant);
    text_copy(cell->key, sizeof cell->key, difference->cell.key);
    text_copy(cell->model, sizeof cell->model, difference->cell.model);
    memcpy(cell->quantities, difference->quantities, sizeof cell->quantities);
    for (size_t i = 0; i < AUDIT_SIDE_COUNT; i++)
        cell->is_known[i] = running->sides[i] != NULL;
    return true;
}

static bool compare(struct running *running, const struct ledger_name *epoch, const struct cells *const *sides)
{
    running->epoch = epoch;
    running->sides = sides;
    return audit_cells(sides, note_difference, running);
}

/* ---- journals ---- */

/* Ledger files of a writer are made in order: this one was there. */
static bool has_later_file(const struct running *running, const struct ledger_name *epoch)
{
    for (size_t i = 0; i < running->name_count; i++) {
        if (strcmp(running->names[i].writer, epoch->writer) == 0 && running->names[i].epoch > epoch->epoch)
            return true;
    }
    return false;
}

static bool compare_lost(struct running *running, const struct resum_epoch *epoch)
{
    struct cells *nothing = cells_create();
    const struct cells *const sides[AUDIT_SIDE_COUNT] = {[AUDIT_JOURNAL] = epoch->cells, [AUDIT_LEDGER] = nothing};
    bool good = nothing != NULL && compare(running, &epoch->head.name, sides);
    cells_destroy(&nothing);
    return good;
}

static bool look_at_epoch(void *owner, const struct resum_epoch *epoch)
{
    struct running *running = owner;
    struct ledger_head head;
    struct cells *ledger = NULL;
    if (!epoch->is_sealed || !is_in_window(running, epoch->head.ended))
        return true;
    if (!ledger_read(running->ledger, &epoch->head.name, &head, &ledger)) {
        if (errno != ENOENT)
            return false;
        if (cells_count(epoch->cells) == 0 || is_fresh(running, epoch->head.ended))
            return true;
        if (has_later_file(running, &epoch->head.name))
            return compare_lost(running, epoch);
        running->not_in_ledger++;
        return true;
    }
    const struct cells *const sides[AUDIT_SIDE_COUNT] = {[AUDIT_JOURNAL] = epoch->cells, [AUDIT_LEDGER] = ledger};
    bool good = !epoch->is_whole || compare(running, &epoch->head.name, sides);
    cells_destroy(&ledger);
    return good;
}

static bool pass_by(void *owner, const char *writer, wall_ms last_sign)
{
    (void) owner, (void) writer, (void) last_sign;
    return true;
}

static bool note_damage(void *owner, const char *writer)
{
    struct running *running = owner;
    usage_audit_reason(running->audit,
                       "the journal of writer %s cannot be read to its end: see `tollgate journal verify`", writer);
    return true;
}

static bool look_at_journals(struct running *running)
{
    const struct resum_visitor visitor = {
        .owner = running, .epoch = look_at_epoch, .open_request = pass_by, .damaged = note_damage};
    if (!resum(running->journals, &visitor))
        return false;
    if (running->not_in_ledger > 0)
        usage_audit_reason(running->audit,
                           "%" PRIu64 " sealed epochs are not in the ledger yet: a running gateway takes them there",
                           running->not_in_ledger);
    return true;
}

/* ---- the ledger ---- */

/* NULL in *@ret: nothing is known. False with errno. */
static bool read_redis(struct running *running, const struct ledger_head *head, struct cells **ret)
{
    int64_t kept_ms = store_kept_ms(running->audit->policy->billing.retention_ms);
    *ret = NULL;
    if (head->ended < running->now - kept_ms) {
        running->audit->epochs_too_old_for_redis++;
        return true;
    }
    if (running->redis == NULL)
        return true;
    switch (redis_epoch_read(running->redis, &head->name, ret)) {
    case REDIS_EPOCH_READ:
        return true;
    case REDIS_EPOCH_ABSENT:
        running->not_in_redis += !is_fresh(running, head->ended);
        return true;
    case REDIS_EPOCH_DAMAGED: /* it has none of the cells */
        *ret = cells_create();
        return *ret != NULL;
    case REDIS_EPOCH_DOWN:
        usage_audit_reason(running->audit, "Redis cannot be asked: %s", redis_error(running->redis));
        redis_destroy(&running->redis);
        return true;
    case REDIS_EPOCH_FAILED:
        return false;
    }
    return false;
}

static bool look_at_file(struct running *running, const struct ledger_name *name)
{
    struct usage_audit *audit = running->audit;
    struct ledger_head head;
    struct cells *ledger = NULL, *redis = NULL;
    if (!ledger_read(running->ledger, name, &head, NULL))
        return errno == ENOENT; /* it expired */
    if (!is_in_window(running, head.ended))
        return true;
    bool good = ledger_read(running->ledger, name, &head, &ledger) && read_redis(running, &head, &redis);
    const struct cells *const sides[AUDIT_SIDE_COUNT] = {[AUDIT_LEDGER] = ledger, [AUDIT_REDIS] = redis};
    good = good && compare(running, name, sides);
    for (size_t i = 0; good && i < audit->provider_count; i++)
        good = audit_rows_add_epoch(audit->providers[i].rows, &head, ledger, redis);
    audit->epochs++;
    audit->cells += good ? cells_count(ledger) : 0;
    int error = errno;
    cells_destroy(&ledger);
    cells_destroy(&redis);
    errno = error;
    return good;
}

static bool look_at_ledger(struct running *running)
{
    bool good = true;
    for (size_t i = 0; good && i < running->name_count; i++)
        good = look_at_file(running, &running->names[i]);
    if (running->not_in_redis > 0)
        usage_audit_reason(running->audit,
                           "%" PRIu64 " epochs are not in Redis yet: a running gateway takes them there",
                           running->not_in_redis);
    return good;
}

/* ---- what is read before ---- */

static void open_redis(struct running *running)
{
    const struct policy *policy = running->audit->policy;
    char socket[PRIVATE_REDIS_SOCKET_BYTES];
    bool fits = private_redis_socket(policy->runtime_dir, socket);
    const struct redis_options options = store_redis_options(&policy->redis, socket);
    running->redis = fits ? redis_create(&options) : NULL;
    if (running->redis != NULL && redis_is_ready(running->redis))
        return;
    usage_audit_reason(running->audit, "Redis cannot be asked: %s",
                       running->redis != NULL ? redis_error(running->redis) : "its address is too long");
    redis_destroy(&running->redis);
}

/* False after saying so. */
static bool open_provider(struct running *running, const struct provider_policy *policy)
{
    struct usage_audit *audit = running->audit;
    struct usage_audit_provider *provider = &audit->providers[audit->provider_count];
    const char *name = PROVIDER_KIND_NAMES[policy->kind];
    struct audit_source source = {.policy = audit->policy,
                                  .provider = policy,
                                  .install_id = running->install_id,
                                  .since = INT64_MAX,
                                  .now = running->now,
                                  .retention_ms = audit->policy->billing.retention_ms,
                                  .from = audit->window.from,
                                  .to = audit->window.to};
    *provider = (struct usage_audit_provider){.policy = policy,
                                              .states = usage_states_read(audit->command, audit->policy, policy->kind)};
    if (provider->states == NULL)
        return false;
    audit->provider_count++;
    /* From a day before, so that a meter is known that was there before. */
    if (!row_states_recall(provider->states, source.from - DAY_MS, source.to)) {
        command_fail(audit->command, "%s/delivered, what %s took: %s", running->billing, name,
                     errno == EBADMSG ? "a file is damaged: somebody changed it, or the disk did" : strerror(errno));
        return false;
    }
    if (!outbox_since(running->billing, policy->kind, &source.since) && errno != ENOENT) {
        command_fail(audit->command, "%s/%s.since: it is damaged, or not readable", running->billing, name);
        return false;
    }
    source.states = provider->states;
    provider->rows = audit_rows_create(&source);
    if (provider->rows == NULL)
        command_fail(audit->command, "memory is exhausted");
    return provider->rows != NULL;
}

static bool open_all(struct running *running)
{
    struct usage_audit *audit = running->audit;
    const struct billing_policy *billing = &audit->policy->billing;
    char error[ERROR_BYTES];
    usage_path(audit->policy, "ledger", running->ledger);
    usage_path(audit->policy, "journal", running->journals);
    usage_path(audit->policy, "billing", running->billing);
    if (!install_id_read(audit->policy->state_dir, running->install_id, error, sizeof error)) {
        command_fail(audit->command, "%s", error);
        return false;
    }
    if (!ledger_list(running->ledger, &running->names, &running->name_count)) {
        command_fail(audit->command, "%s: %s", running->ledger, strerror(errno));
        return false;
    }
    for (size_t i = 0; i < billing->provider_count; i++) {
        if (!open_provider(running, &billing->providers[i]))
            return false;
    }
    return true;
}

/* ---- all ---- */

static bool end_rows(struct usage_audit *audit)
{
    for (size_t i = 0; i < audit->provider_count; i++) {
        struct usage_audit_provider *provider = &audit->providers[i];
        if (!audit_rows_end(provider->rows))
            return false;
        size_t unexplained = audit_rows_unexplained(provider->rows);
        provider->known.redis = true; /* where it is not, the lines say what the ledger says */
        if (unexplained > 0)
            usage_audit_reason(audit,
                               "%zu rows of %s cannot be compared: the configuration has their meter or their tenant's "
                               "customer no more",
                               unexplained, PROVIDER_KIND_NAMES[provider->policy->kind]);
    }
    return true;
}

bool usage_audit_run(struct usage_audit *audit)
{
    struct running running = {.audit = audit, .now = clock_wall_ms()};
    bool good = open_all(&running);
    if (good) {
        open_redis(&running);
        good = look_at_journals(&running) && look_at_ledger(&running) && end_rows(audit);
        if (!good)
            usage_not_read(audit->command, audit->policy);
    }
    redis_destroy(&running.redis);
    free(running.names);
    return good && usage_audit_ask_providers(audit);
}

void usage_audit_finish(struct usage_audit *audit)
{
    for (size_t i = 0; i < audit->provider_count; i++) {
        audit_rows_destroy(&audit->providers[i].rows);
        row_states_close(&audit->providers[i].states);
        json_decref(audit->providers[i].unasked);
    }
    free(audit->differing);
    audit->differing = NULL;
    audit->provider_count = audit->differing_count = 0;
}
