/* One loop: a turn of everything that is due, then what others may see is copied under a short lock. */
#include "billing/biller.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fetch.h"
#include "base/metrics.h"
#include "billing/file_sender.h"
#include "billing/install_id.h"
#include "billing/retention.h"
#include "billing/sender.h"
#include "conf/reload.h"

enum {
    TICK_MS = 200, /* while something is to do */
    REST_TICK_MS = 1000,
    READ_MS = 50, /* of a turn, for journals; as much for rows, and for files */
    LAST_READ_MS = 200,
    LOOK_MS = 500,
    PROVIDER_NAME_BYTES = 64,
    STATE_PATH_BYTES = 128, /* behind state_dir: a writer's segment is the longest */
    SHOW_MS = 1000,         /* between two looks at all rows */
    REMOVE_MS = 10 * 1000,
    EXPIRE_MS = 10 * 60 * 1000
};

struct biller {
    /* the thread's own */
    char state_dir[PATH_MAX], ledger_directory[PATH_MAX];
    char install_id[INSTALL_ID_CHARACTERS + 1];
    struct store *store;
    struct loop *loop;
    struct fetcher *fetcher;
    struct writers *writers;
    struct outbox *outboxes[PROVIDER_KIND_COUNT]; /* NULL: neither in a policy nor on the disk */
    struct file_sender *file_sender;
    struct sender *sender; /* of PROVIDER_STRIPE */
    struct loop_timer tick;
    struct loop_task stop;
    atomic_bool stop_now;
    mono_ms next_look, next_show, next_remove, next_expire;
    char outbox_trouble[BILLER_ERROR_BYTES], removal_trouble[BILLER_ERROR_BYTES];
    struct biller_status next_status; /* being made */
    pthread_t thread;
    /* shared */
    pthread_mutex_t lock;
    bool is_stopping;
    struct biller_status status;
};

static void path_in(const struct biller *biller, const char *name, char to[PATH_MAX])
{
    struct builder path;
    builder_init(&path, to, PATH_MAX);
    builder_format(&path, "%s/%s", biller->state_dir, name);
    (void) builder_string(&path); /* prepare() looks whether the longest one fits */
}

/* ---- providers ---- */

/* False with @error in words. */
static bool open_sender(struct biller *biller, enum provider_kind kind, char error[BILLER_ERROR_BYTES])
{
    struct row_states *states = outbox_states(biller->outboxes[kind]);
    struct sender_options options = {.loop = biller->loop,
                                     .fetcher = biller->fetcher,
                                     .states = states,
                                     .provider = kind,
                                     .install_id = biller->install_id,
                                     .seed = (uint64_t) clock_mono_us()};
    bool is_open;
    if (kind == PROVIDER_FILE) {
        biller->file_sender = file_sender_create(states);
        is_open = biller->file_sender != NULL;
    } else {
        biller->sender = sender_create(&options);
        is_open = biller->sender != NULL;
    }
    if (!is_open)
        text_copy(error, BILLER_ERROR_BYTES, TEXT("no memory for a provider"));
    return is_open;
}

static bool open_provider(struct biller *biller, enum provider_kind kind, char error[BILLER_ERROR_BYTES])
{
    char directory[PATH_MAX];
    path_in(biller, "billing", directory);
    struct outbox_options options = {.billing_directory = directory,
                                     .ledger_directory = biller->ledger_directory,
                                     .install_id = biller->install_id,
                                     .provider = kind};
    if (biller->outboxes[kind] != NULL)
        return true;
    biller->outboxes[kind] = outbox_open(&options, error);
    if (biller->outboxes[kind] == NULL)
        return false;
    if (open_sender(biller, kind, error))
        return true;
    outbox_close(&biller->outboxes[kind]);
    return false;
}

static bool is_on_disk(const struct biller *biller, enum provider_kind kind)
{
    char name[PROVIDER_NAME_BYTES], path[PATH_MAX];
    snprintf(name, sizeof name, "billing/%s.states", PROVIDER_KIND_NAMES[kind]);
    path_in(biller, name, path);
    return access(path, F_OK) == 0;
}

static bool is_named(const struct policy *policy, enum provider_kind kind)
{
    bool found = false;
    for (size_t i = 0; i < policy->billing.provider_count; i++)
        found |= policy->billing.providers[i].kind == kind;
    return found;
}

/* Those that were ever there: a row of a provider that is out of use now is still known. */
static bool open_providers(struct biller *biller, const struct policy *policy, char error[BILLER_ERROR_BYTES])
{
    bool good = true;
    for (enum provider_kind kind = 0; kind < PROVIDER_KIND_COUNT && good; kind++) {
        if (is_named(policy, kind) || is_on_disk(biller, kind))
            good = open_provider(biller, kind, error);
        if (good && biller->outboxes[kind] != NULL)
            outbox_follow(biller->outboxes[kind], policy);
    }
    return good;
}

/* ---- a turn ---- */

static void on_sealed(void *owner, const struct ledger_name *epoch)
{
    struct biller *biller = owner;
    for (int kind = 0; kind < PROVIDER_KIND_COUNT; kind++) {
        if (biller->outboxes[kind] != NULL)
            outbox_sealed(biller->outboxes[kind], epoch);
    }
}

static bool may_go(void *owner, const struct ledger_name *epoch)
{
    return writers_is_shipped(((struct biller *) owner)->writers, epoch);
}

static bool make_rows(struct biller *biller, const struct policy *policy)
{
    struct outbox_turn turn = {.policy = policy, .may_go = may_go, .owner = biller, .now = clock_wall_ms()};
    bool has_more = false;
    turn.until = clock_mono_ms() + READ_MS;
    biller->outbox_trouble[0] = '\0';
    (void) open_providers(biller, policy, biller->outbox_trouble);
    for (int kind = 0; kind < PROVIDER_KIND_COUNT; kind++) {
        struct outbox *outbox = biller->outboxes[kind];
        if (outbox == NULL)
            continue;
        has_more |= outbox_turn(outbox, &turn);
        if (biller->outbox_trouble[0] == '\0')
            text_copy(biller->outbox_trouble, sizeof biller->outbox_trouble, text_of(outbox_trouble(outbox)));
    }
    return has_more;
}

static bool send_rows(struct biller *biller, const struct policy *policy)
{
    if (biller->sender != NULL)
        sender_turn(biller->sender, policy);
    return biller->file_sender != NULL && file_sender_turn(biller->file_sender, policy, clock_mono_ms() + READ_MS);
}

static void remove_what_is_old(struct biller *biller, const struct policy *policy)
{
    struct retention retention = {.writers = biller->writers,
                                  .store = biller->store,
                                  .outboxes = biller->outboxes,
                                  .outbox_count = PROVIDER_KIND_COUNT,
                                  .ledger_directory = biller->ledger_directory,
                                  .now = clock_wall_ms()};
    mono_ms now = clock_mono_ms();
    if (now >= biller->next_remove) {
        biller->next_remove = now + REMOVE_MS;
        biller->removal_trouble[0] = '\0';
        if (!retention_of_segments(&retention))
            snprintf(biller->removal_trouble, sizeof biller->removal_trouble,
                     "old parts of the journal cannot be removed: %s", strerror(errno));
    }
    if (now >= biller->next_expire) {
        biller->next_expire = now + EXPIRE_MS;
        retention_of_ledger(&retention, policy->billing.retention_ms);
    }
}

/* ---- what others see ---- */

static wall_ms older(wall_ms a, wall_ms b)
{
    if (a == 0 || b == 0)
        return a == 0 ? b : a;
    return a < b ? a : b;
}

static wall_ms oldest_due(const struct row_states *states)
{
    wall_ms oldest = 0;
    for (size_t i = 0; i < row_states_count(states); i++) {
        const struct row_entry *entry = row_states_at(states, i);
        if (entry->state == ROW_PENDING || entry->state == ROW_SENT)
            oldest = older(oldest, entry->row.began);
    }
    return oldest;
}

static const char *first_trouble(const struct biller *biller)
{
    const char *const troubles[] = {
        writers_trouble(biller->writers),
        biller->outbox_trouble,
        biller->sender != NULL ? sender_trouble(biller->sender) : "",
        biller->file_sender != NULL ? file_sender_trouble(biller->file_sender) : "",
        biller->removal_trouble,
    };
    for (size_t i = 0; i < sizeof troubles / sizeof troubles[0]; i++) {
        if (troubles[i][0] != '\0')
            return troubles[i];
    }
    return "";
}

static void set_gauges(const struct biller_status *status)
{
    const char *const no_labels[METRIC_LABELS_MAX] = {NULL};
    wall_ms age = status->oldest_unflushed != 0 ? clock_wall_ms() - status->oldest_unflushed : 0;
    metric_set(metric_series(METRIC_BILLING_OLDEST_UNFLUSHED_SECONDS, no_labels), age > 0 ? age / 1000 : 0);
    for (size_t i = 0; i < status->provider_count; i++) {
        const struct usage_status *usage = &status->providers[i];
        for (int state = 0; state < ROW_STATE_COUNT; state++) {
            const char *const labels[METRIC_LABELS_MAX] = {PROVIDER_KIND_NAMES[usage->provider],
                                                           ROW_STATE_NAMES[state]};
            metric_set(metric_series(METRIC_BILLING_ROWS, labels), (int64_t) usage->rows[state]);
        }
    }
}

static void show(struct biller *biller)
{
    struct biller_status *next = &biller->next_status;
    struct writers_recovered recovered = writers_recovered(biller->writers);
    *next = (struct biller_status){.recovered_writers = recovered.writers,
                                   .crashed_requests = recovered.crashed_requests,
                                   .oldest_unflushed = writers_oldest(biller->writers)};
    for (enum provider_kind kind = 0; kind < PROVIDER_KIND_COUNT; kind++) {
        const struct outbox *outbox = biller->outboxes[kind];
        if (outbox == NULL)
            continue;
        usage_status_of(outbox_states(outbox), kind, &next->providers[next->provider_count++]);
        if (!outbox_is_active(outbox))
            continue;
        next->oldest_unflushed = older(next->oldest_unflushed, outbox_oldest_waiting(outbox));
        next->oldest_unflushed = older(next->oldest_unflushed, oldest_due(outbox_states(outbox)));
    }
    text_copy(next->error, sizeof next->error, text_of(first_trouble(biller)));
    set_gauges(next);
    pthread_mutex_lock(&biller->lock);
    biller->status = *next;
    pthread_mutex_unlock(&biller->lock);
}

void biller_status(struct biller *biller, struct biller_status *ret)
{
    pthread_mutex_lock(&biller->lock);
    *ret = biller->status;
    pthread_mutex_unlock(&biller->lock);
}

static void on_tick(struct loop_timer *timer)
{
    struct biller *biller = timer->owner;
    const struct policy *policy = reload_current();
    const struct billing_policy *billing = &policy->billing;
    mono_ms now = clock_mono_ms();
    if (now >= biller->next_look) {
        biller->next_look = now + LOOK_MS;
        writers_look(biller->writers);
    }
    bool has_more = writers_turn(biller->writers, billing->bill_crash && billing->bill_estimated, now + READ_MS);
    has_more |= make_rows(biller, policy);
    has_more |= send_rows(biller, policy);
    remove_what_is_old(biller, policy);
    policy_drop(&policy);
    if (now >= biller->next_show) {
        biller->next_show = now + SHOW_MS;
        show(biller);
    }
    bool is_resting = !has_more && biller->next_status.oldest_unflushed == 0;
    int wait_ms = has_more ? 0 : is_resting ? REST_TICK_MS : TICK_MS;
    loop_timer_set(biller->loop, &biller->tick, clock_mono_ms() + wait_ms);
}

/* ---- a person's changes ---- */

static void answer(struct loop_task *task)
{
    struct biller_change *change = task->owner;
    change->done(change);
}

static void reply(struct biller_change *change)
{
    change->_task = (struct loop_task){.run = answer, .owner = change};
    loop_post(change->loop, &change->_task);
}

static void on_change(struct loop_task *task)
{
    struct biller_change *change = task->owner;
    struct biller *biller = change->_biller;
    const struct policy *policy = reload_current();
    text_copy(change->result.reason, sizeof change->result.reason, TEXT("no provider has a row of this id"));
    for (int kind = 0; kind < PROVIDER_KIND_COUNT && !change->result.is_known; kind++) {
        if (biller->outboxes[kind] != NULL)
            change->result =
                row_change(outbox_states(biller->outboxes[kind]), policy, change->id, change->verb, clock_wall_ms());
    }
    policy_drop(&policy);
    if (biller->file_sender != NULL)
        file_sender_look_again(biller->file_sender);
    biller->next_show = 0;
    loop_timer_set(biller->loop, &biller->tick, loop_now(biller->loop));
    reply(change);
}

void biller_post(struct biller *biller, struct biller_change *change)
{
    change->result = (struct row_change_result){0};
    change->_biller = biller;
    change->_task = (struct loop_task){.run = on_change, .owner = change};
    pthread_mutex_lock(&biller->lock);
    bool is_late = biller->is_stopping;
    if (!is_late)
        loop_post(biller->loop, &change->_task);
    pthread_mutex_unlock(&biller->lock);
    if (!is_late)
        return;
    text_copy(change->result.reason, sizeof change->result.reason, TEXT("the gateway ends: ask again after its start"));
    reply(change);
}

/* ---- life ---- */

/* The workers' last epochs are sealed now: a ledger that is whole is worth a moment. */
static void on_stop(struct loop_task *task)
{
    struct biller *biller = task->owner;
    writers_look(biller->writers);
    (void) writers_turn(biller->writers, false, clock_mono_ms() + LAST_READ_MS);
    loop_stop(biller->loop);
}

static void *run(void *argument)
{
    struct biller *biller = argument;
    loop_run(biller->loop);
    return NULL;
}

static bool make_directory(const struct biller *biller, const char *name, char error[BILLER_ERROR_BYTES])
{
    char path[PATH_MAX];
    path_in(biller, name, path);
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return true;
    snprintf(error, BILLER_ERROR_BYTES, "cannot make %s in state_dir: %s", name, strerror(errno));
    return false;
}

static bool make_directories(const struct biller *biller, char error[BILLER_ERROR_BYTES])
{
    if (strlen(biller->state_dir) > PATH_MAX - STATE_PATH_BYTES) {
        text_copy(error, BILLER_ERROR_BYTES, TEXT("the name of state_dir is too long"));
        return false;
    }
    return make_directory(biller, "journal", error) && make_directory(biller, "ledger", error) &&
           make_directory(biller, "billing", error);
}

static bool begin(struct biller *biller, char error[BILLER_ERROR_BYTES])
{
    char journal_directory[PATH_MAX];
    path_in(biller, "journal", journal_directory);
    path_in(biller, "ledger", biller->ledger_directory);
    struct writers_options options = {.journal_directory = journal_directory,
                                      .ledger_directory = biller->ledger_directory,
                                      .store = biller->store,
                                      .sealed = on_sealed,
                                      .owner = biller,
                                      .stop = &biller->stop_now};
    biller->loop = loop_create();
    biller->fetcher = biller->loop != NULL ? fetcher_create(biller->loop) : NULL;
    biller->writers = biller->fetcher != NULL ? writers_create(&options) : NULL;
    if (biller->writers == NULL)
        snprintf(error, BILLER_ERROR_BYTES, "the billing thread cannot begin: %s", strerror(errno));
    return biller->writers != NULL;
}

/* Everything that a person has to mend before usage may be taken. */
static bool prepare(struct biller *biller, char error[BILLER_ERROR_BYTES])
{
    if (!make_directories(biller, error) ||
        !install_id_make(biller->state_dir, biller->install_id, error, BILLER_ERROR_BYTES) || !begin(biller, error))
        return false;
    const struct policy *policy = reload_current();
    bool good = open_providers(biller, policy, error);
    policy_drop(&policy);
    return good;
}

static void release(struct biller *biller)
{
    if (biller->loop != NULL)
        loop_timer_cancel(biller->loop, &biller->tick);
    sender_destroy(&biller->sender);
    file_sender_destroy(&biller->file_sender);
    for (int kind = 0; kind < PROVIDER_KIND_COUNT; kind++)
        outbox_close(&biller->outboxes[kind]);
    writers_destroy(&biller->writers);
    if (biller->fetcher != NULL)
        fetcher_destroy(&biller->fetcher);
    loop_destroy(biller->loop);
    pthread_mutex_destroy(&biller->lock);
    free(biller);
}

/* Signals are for other threads. */
static int start_thread(struct biller *biller)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&biller->thread, NULL, run, biller);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

struct biller *biller_start(const struct biller_options *options, char error[BILLER_ERROR_BYTES])
{
    struct biller *biller = calloc(1, sizeof *biller);
    if (biller == NULL) {
        text_copy(error, BILLER_ERROR_BYTES, TEXT("no memory for the billing thread"));
        return NULL;
    }
    text_copy(biller->state_dir, sizeof biller->state_dir, text_of(options->state_dir));
    biller->store = options->store;
    pthread_mutex_init(&biller->lock, NULL);
    biller->tick = (struct loop_timer){.fire = on_tick, .owner = biller};
    biller->stop = (struct loop_task){.run = on_stop, .owner = biller};
    bool is_ready = prepare(biller, error);
    if (is_ready)
        loop_timer_set(biller->loop, &biller->tick, loop_now(biller->loop));
    int failure = is_ready ? start_thread(biller) : 0;
    if (failure != 0)
        snprintf(error, BILLER_ERROR_BYTES, "the billing thread does not start: %s", strerror(failure));
    if (is_ready && failure == 0)
        return biller;
    release(biller);
    return NULL;
}

void biller_stop(struct biller **biller_pointer)
{
    struct biller *biller = *biller_pointer;
    *biller_pointer = NULL;
    if (biller == NULL)
        return;
    pthread_mutex_lock(&biller->lock);
    biller->is_stopping = true;
    atomic_store(&biller->stop_now, true);
    loop_post(biller->loop, &biller->stop);
    pthread_mutex_unlock(&biller->lock);
    pthread_join(biller->thread, NULL);
    release(biller);
}
