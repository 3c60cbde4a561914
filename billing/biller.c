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

#include "base/fetch.h"
#include "base/file.h"
#include "base/log.h"
#include "base/metrics.h"
#include "billing/install_id.h"
#include "billing/providers.h"
#include "billing/retention.h"
#include "conf/reload.h"

enum {
    TICK_MS = 200, /* while something is to do */
    REST_TICK_MS = 1000,
    READ_MS = 50, /* of a turn, for journals */
    SEND_MS = 50, /* of a turn, for rows and what takes them away */
    LAST_READ_MS = 200,
    LOOK_MS = 500,
    STATE_PATH_BYTES = 128, /* behind state_dir: a writer's segment is the longest */
    SHOW_MS = 1000,         /* between two looks at all rows, */
    SHOW_REST = 20,         /* and so many times what one takes, when there are very many */
    REMOVE_MS = 10 * 1000,
    TIDY_MS = 60 * 1000,
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
    struct providers *providers;
    bool is_following; /* every provider of the policy is in use */
    struct loop_timer tick;
    struct loop_task stop;
    atomic_bool stop_now;
    mono_ms next_look, next_show, next_remove, next_tidy, next_expire;
    char removal_trouble[BILLER_ERROR_BYTES], tidy_trouble[BILLER_ERROR_BYTES];
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

/* ---- a turn ---- */

static void on_sealed(void *owner, const struct ledger_name *epoch)
{
    providers_sealed(((struct biller *) owner)->providers, epoch);
}

static bool may_go(void *owner, const struct ledger_name *epoch)
{
    return writers_is_shipped(((struct biller *) owner)->writers, epoch);
}

static bool send_rows(struct biller *biller, const struct policy *policy, bool has_more)
{
    struct outbox_turn turn = {.policy = policy, .may_go = may_go, .owner = biller, .now = clock_wall_ms()};
    turn.all_are_read = !has_more && writers_trouble(biller->writers)[0] == '\0';
    turn.until = clock_mono_ms() + SEND_MS;
    biller->is_following = providers_follow(biller->providers, policy);
    return providers_turn(biller->providers, &turn);
}

static void remove_what_is_old(struct biller *biller, const struct policy *policy)
{
    struct retention retention = {.writers = biller->writers,
                                  .store = biller->store,
                                  .outboxes = providers_outboxes(biller->providers),
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

static void tidy(struct biller *biller)
{
    mono_ms now = clock_mono_ms();
    if (now < biller->next_tidy)
        return;
    biller->next_tidy = now + TIDY_MS;
    biller->tidy_trouble[0] = '\0';
    if (!providers_tidy(biller->providers))
        snprintf(biller->tidy_trouble, sizeof biller->tidy_trouble, "delivered rows cannot leave: %s", strerror(errno));
}

static const char *first_trouble(const struct biller *biller)
{
    const char *trouble = writers_trouble(biller->writers);
    if (trouble[0] == '\0')
        trouble = providers_trouble(biller->providers);
    if (trouble[0] == '\0')
        trouble = biller->removal_trouble;
    return trouble[0] != '\0' ? trouble : biller->tidy_trouble;
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
    wall_ms unread = writers_oldest(biller->writers), unsent = 0;
    next->recovered_writers = recovered.writers;
    next->crashed_requests = recovered.crashed_requests;
    next->provider_count = providers_usage(biller->providers, next->providers, &unsent);
    next->oldest_unflushed = unsent == 0 || (unread != 0 && unread < unsent) ? unread : unsent;
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
    has_more |= send_rows(biller, policy, has_more);
    if (biller->is_following)
        remove_what_is_old(biller, policy); /* else some provider cannot say what it needs */
    policy_drop(&policy);
    tidy(biller);
    if (clock_mono_ms() >= biller->next_show) {
        mono_ms began = clock_mono_ms();
        show(biller);
        biller->next_show = clock_mono_ms() + SHOW_MS + SHOW_REST * (clock_mono_ms() - began);
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
    change->result = providers_change(biller->providers, policy, change->id, change->verb);
    policy_drop(&policy);
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
    /* Its name survives a power cut, also when whoever made it died before this. */
    if ((mkdir(path, 0700) == 0 || errno == EEXIST) && file_sync_directory(biller->state_dir))
        return true;
    snprintf(error, BILLER_ERROR_BYTES, "cannot make %s in state_dir: %s", name, strerror(errno));
    return false;
}

static void tell_what_is_gone(const struct biller *biller)
{
    char billing[PATH_MAX], ledger[PATH_MAX];
    path_in(biller, "billing", billing);
    path_in(biller, "ledger", ledger);
    if (outbox_is_directory_gone(billing, ledger))
        log_event(LOG_WARNING, "billing",
                  "billing/ in state_dir is gone, and with it the rows that were not delivered: providers get what is "
                  "used from now on. Stop the gateway and restore it from a backup, if there is one");
}

static bool make_directories(const struct biller *biller, char error[BILLER_ERROR_BYTES])
{
    if (strlen(biller->state_dir) > PATH_MAX - STATE_PATH_BYTES) {
        text_copy(error, BILLER_ERROR_BYTES, TEXT("the name of state_dir is too long"));
        return false;
    }
    if (!make_directory(biller, "journal", error) || !make_directory(biller, "ledger", error))
        return false;
    tell_what_is_gone(biller);
    return make_directory(biller, "billing", error);
}

static bool begin(struct biller *biller, char error[BILLER_ERROR_BYTES])
{
    char directory[PATH_MAX];
    path_in(biller, "ledger", biller->ledger_directory);
    path_in(biller, "journal", directory);
    struct writers_options options = {.journal_directory = directory,
                                      .ledger_directory = biller->ledger_directory,
                                      .store = biller->store,
                                      .sealed = on_sealed,
                                      .owner = biller,
                                      .stop = &biller->stop_now};
    biller->loop = loop_create();
    biller->fetcher = biller->loop != NULL ? fetcher_create(biller->loop) : NULL;
    biller->writers = biller->fetcher != NULL ? writers_create(&options) : NULL;
    path_in(biller, "billing", directory);
    struct providers_options providers = {.billing_directory = directory,
                                          .ledger_directory = biller->ledger_directory,
                                          .install_id = biller->install_id,
                                          .loop = biller->loop,
                                          .fetcher = biller->fetcher};
    biller->providers = biller->writers != NULL ? providers_create(&providers) : NULL;
    if (biller->providers == NULL)
        snprintf(error, BILLER_ERROR_BYTES, "the billing thread cannot begin: %s", strerror(errno));
    return biller->providers != NULL;
}

/* Everything that a person has to mend before usage may be taken. */
static bool prepare(struct biller *biller, char error[BILLER_ERROR_BYTES])
{
    if (!make_directories(biller, error) ||
        !install_id_make(biller->state_dir, biller->install_id, error, BILLER_ERROR_BYTES) || !begin(biller, error))
        return false;
    const struct policy *policy = reload_current();
    bool good = providers_follow(biller->providers, policy);
    policy_drop(&policy);
    if (!good)
        text_copy(error, BILLER_ERROR_BYTES, text_of(providers_trouble(biller->providers)));
    return good;
}

static void release(struct biller *biller)
{
    if (biller->loop != NULL)
        loop_timer_cancel(biller->loop, &biller->tick);
    providers_destroy(&biller->providers);
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
