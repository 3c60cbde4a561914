#include "gateway/money.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/log.h"
#include "base/metrics.h"
#include "gateway/redis_keeper.h"

enum {
    LOOK_MS = 1000,
    /* Until then a Redis that is only starting is no trouble. */
    REDIS_START_MS = 5000
};

static bool fail(const char *what, const char *why)
{
    fprintf(stderr, "tollgate: %s: %s\n", what, why);
    return false;
}

/* ---- start ---- */

static bool prepare_journal(struct money *money, const struct policy *policy)
{
    int length = snprintf(money->journal_directory, sizeof money->journal_directory, "%s/journal", policy->state_dir);
    if (length < 0 || (size_t) length >= sizeof money->journal_directory)
        return fail("cannot make the usage journal", strerror(ENAMETOOLONG));
    money->journal =
        (struct journal_options){.directory = money->journal_directory,
                                 .sync = policy->billing.sync == BILLING_SYNC_GROUP ? JOURNAL_GROUP : JOURNAL_OS,
                                 .segment_bytes = JOURNAL_SEGMENT_BYTES,
                                 .epoch_ms = policy->billing.epoch_ms};
    return true;
}

bool money_prepare(struct money *money, struct loop *loop, struct children *children, const struct policy *policy)
{
    money->loop = loop;
    if (!prepare_journal(money, policy))
        return false;
    if (policy->redis.kind != REDIS_PRIVATE)
        return true;
    money->keeper = redis_keeper_create(loop, children, policy->state_dir, policy->runtime_dir);
    return money->keeper != NULL || fail("cannot prepare the private redis-server", strerror(errno));
}

static void on_look(struct loop_timer *timer);

bool money_start(struct money *money, const struct policy *policy)
{
    char error[BILLER_ERROR_BYTES], ledger_directory[PATH_MAX];
    const char *private_socket = NULL;
    int length = snprintf(ledger_directory, sizeof ledger_directory, "%s/ledger", policy->state_dir);
    if (length < 0 || (size_t) length >= sizeof ledger_directory)
        return fail("cannot start the thread that ships usage to Redis", strerror(ENAMETOOLONG));
    if (money->keeper != NULL) {
        private_socket = redis_keeper_socket(money->keeper);
        redis_keeper_begin(money->keeper);
    }
    const struct store_options options = {.journal_directory = money->journal_directory,
                                          .ledger_directory = ledger_directory,
                                          .redis = store_redis_options(&policy->redis, private_socket),
                                          .kept_ms = store_kept_ms(policy->billing.retention_ms)};
    money->store = store_start(&options);
    if (money->store == NULL)
        return fail("cannot start the thread that ships usage to Redis", strerror(errno));
    const struct biller_options billing = {.state_dir = policy->state_dir, .store = money->store};
    money->biller = biller_start(&billing, error);
    if (money->biller == NULL)
        return fail("cannot start billing", error);
    money->started_at = clock_mono_ms();
    money->look = (struct loop_timer){.fire = on_look, .owner = money};
    loop_timer_set(money->loop, &money->look, money->started_at + LOOK_MS);
    return true;
}

void money_stop(struct money *money)
{
    if (money->loop != NULL)
        loop_timer_cancel(money->loop, &money->look);
    biller_stop(&money->biller);
    store_stop(&money->store);
}

void money_finish(struct money *money)
{
    redis_keeper_destroy(&money->keeper);
}

/* ---- what the log says ---- */

const char *money_redis_trouble(const struct money *money, const struct store_status *status)
{
    const char *trouble = money->keeper != NULL ? redis_keeper_trouble(money->keeper) : "";
    if (*trouble != '\0')
        return trouble;
    return status->is_up || status->error[0] != '\0' ? status->error : "not asked yet";
}

static void tell_redis(struct money *money, const struct store_status *status)
{
    bool is_starting = !money->redis_was_told && clock_mono_ms() < money->started_at + REDIS_START_MS;
    if ((money->redis_was_told && status->is_up == money->redis_was_up) || (!status->is_up && is_starting))
        return;
    money->redis_was_told = true;
    money->redis_was_up = status->is_up;
    if (status->is_up)
        log_event(LOG_INFO, "redis", "Redis answers; %zu journals are shipped to it", status->writers);
    else
        log_event(LOG_WARNING, "redis", "Redis does not answer, usage waits in the journals: %s",
                  money_redis_trouble(money, status));
}

static void tell_durability(struct money *money, const struct store_status *status)
{
    if (!status->is_durability_known || strcmp(money->durability_told, status->durability) == 0)
        return;
    memcpy(money->durability_told, status->durability, sizeof money->durability_told);
    log_event(status->is_durability_scant ? LOG_WARNING : LOG_INFO, "redis", "%s", status->durability);
}

static void tell_billing(struct money *money, const char *error)
{
    if (strcmp(money->error_told, error) == 0)
        return;
    text_copy(money->error_told, sizeof money->error_told, text_of(error));
    if (*error != '\0')
        log_event(LOG_WARNING, "billing", "%s", error);
    else
        log_event(LOG_INFO, "billing", "all is well again");
}

/* NULL without memory. The caller frees. */
static struct biller_status *ask_biller(struct money *money)
{
    struct biller_status *status = calloc(1, sizeof *status);
    if (status != NULL && money->biller != NULL)
        biller_status(money->biller, status);
    return status;
}

static void on_look(struct loop_timer *timer)
{
    struct money *money = timer->owner;
    struct store_status redis;
    store_status(money->store, &redis);
    if (money->keeper != NULL)
        redis_keeper_look(money->keeper, redis.is_up);
    tell_redis(money, &redis);
    tell_durability(money, &redis);
    struct biller_status *billing = ask_biller(money);
    if (billing != NULL)
        tell_billing(money, billing->error);
    free(billing);
    loop_timer_set(money->loop, timer, loop_now(money->loop) + LOOK_MS);
}

/* ---- what others ask ---- */

void money_write_readiness(struct money *money, struct buffer *lines)
{
    struct store_status redis;
    store_status(money->store, &redis);
    if (redis.is_up)
        (void) buffer_add(lines, TEXT("[+]redis answers\n"));
    else
        (void) buffer_format(lines, "[-]redis does not answer, usage waits in the journals: %s\n",
                             money_redis_trouble(money, &redis));
    struct biller_status *billing = ask_biller(money);
    if (billing != NULL && billing->error[0] != '\0')
        (void) buffer_format(lines, "[-]billing: %s\n", billing->error);
    else
        (void) buffer_add(lines, TEXT("[+]billing\n"));
    free(billing);
}

void money_update_metrics(struct money *money)
{
    const char *const no_labels[METRIC_LABELS_MAX] = {NULL};
    struct store_status redis;
    store_status(money->store, &redis);
    metric_set(metric_series(METRIC_REDIS_UP, no_labels), redis.is_up);
    metric_set(metric_series(METRIC_REDIS_REGRESSIONS, no_labels), (int64_t) redis.regressions);
}
