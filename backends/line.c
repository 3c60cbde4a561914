#include "backends/line.h"

#include <stdlib.h>
#include <string.h>

#include "backends/random.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/panic.h"

struct line *line_create(const char *model)
{
    struct line *line = calloc(1, sizeof(*line));
    const char *labels[METRIC_LABELS_MAX] = {model};

    if (line == NULL)
        return NULL;
    line->model = strdup(model);
    if (line->model == NULL) {
        free(line);
        return NULL;
    }
    pthread_mutex_init(&line->lock, NULL);
    retry_budget_init(&line->retries, clock_mono_ms());
    line->random_state = (uint64_t) clock_mono_us() ^ (uint64_t) (uintptr_t) line;
    line->metrics.queue_length = metric_series(METRIC_QUEUE_LENGTH, labels);
    line->metrics.queue_wait = metric_series(METRIC_QUEUE_WAIT_SECONDS, labels);
    return line;
}

void line_destroy(struct line **line)
{
    struct line *dying = *line;

    if (dying == NULL)
        return;
    *line = NULL;
    ENSURE(dying->count == 0 && dying->queue.length == 0 && dying->told == 0);
    pthread_mutex_destroy(&dying->lock);
    free(dying->instances);
    free(dying->candidates);
    free(dying->model);
    free(dying);
}

void line_configure(struct line *line, const struct model *model)
{
    pthread_mutex_lock(&line->lock);
    line->queue.length_max = model->queue_length;
    line->queue_wait_ms = model->queue_wait_ms;
    pthread_mutex_unlock(&line->lock);
}

/* ---- instances ---- */

static bool grow(struct line *line)
{
    size_t capacity = line->capacity == 0 ? 4 : line->capacity * 2;
    struct instance **instances = calloc(capacity, sizeof(struct instance *));
    struct pick_candidate *candidates = calloc(capacity, sizeof(*candidates));

    if (instances == NULL || candidates == NULL) {
        free(instances);
        free(candidates);
        return false;
    }
    if (line->count > 0)
        memcpy(instances, line->instances, line->count * sizeof(struct instance *));
    free(line->instances);
    free(line->candidates);
    line->instances = instances;
    line->candidates = candidates;
    line->capacity = capacity;
    return true;
}

bool line_add(struct line *line, struct instance *instance)
{
    bool added = false;

    pthread_mutex_lock(&line->lock);
    if (line->count < LINE_INSTANCES_MAX && (line->count < line->capacity || grow(line))) {
        line->instances[line->count++] = instance;
        added = true;
    }
    pthread_mutex_unlock(&line->lock);
    return added;
}

bool line_remove(struct line *line, struct instance *instance)
{
    bool removed = false;

    pthread_mutex_lock(&line->lock);
    for (size_t i = 0; i < line->count && instance->in_flight == 0; i++) {
        if (line->instances[i] != instance)
            continue;
        memmove(&line->instances[i], &line->instances[i + 1], (line->count - i - 1) * sizeof(struct instance *));
        line->count--;
        removed = true;
        break;
    }
    pthread_mutex_unlock(&line->lock);
    return removed;
}

bool line_is_empty(struct line *line)
{
    bool empty;

    pthread_mutex_lock(&line->lock);
    empty = line->count == 0 && line->queue.length == 0 && line->told == 0;
    pthread_mutex_unlock(&line->lock);
    return empty;
}

bool line_has_waiters(struct line *line)
{
    bool waiting;

    pthread_mutex_lock(&line->lock);
    waiting = line->queue.length > 0;
    pthread_mutex_unlock(&line->lock);
    return waiting;
}

/* ---- picking, with the lock held ---- */

static bool is_free_to_ask(const struct instance *instance, const char *except)
{
    return instance->state == INSTANCE_READY && strcmp(instance->name, except) != 0;
}

/* What may be picked. A breaker only counts while another one lets requests through: the last instance of a model is
 * never kept from them, it fails them with its real error. */
static void list_candidates(struct line *line, const char *except, mono_ms now)
{
    bool some_ready = false;
    bool some_admitted = false;

    for (size_t i = 0; i < line->count; i++)
        some_ready |= is_free_to_ask(line->instances[i], except);
    if (!some_ready)
        except = "";
    for (size_t i = 0; i < line->count; i++)
        some_admitted |=
            is_free_to_ask(line->instances[i], except) && breaker_admits(&line->instances[i]->breaker, now);
    for (size_t i = 0; i < line->count; i++) {
        const struct instance *instance = line->instances[i];
        bool admitted = !some_admitted || breaker_admits(&instance->breaker, now);

        line->candidates[i] = (struct pick_candidate){
            .allowed = is_free_to_ask(instance, except) && admitted,
            .in_flight = instance->in_flight,
            .slots = instance->slots,
            .weight = instance->weight,
        };
    }
}

static void fill_lease(struct lease *lease, struct instance *instance)
{
    struct builder url;

    lease->instance = instance;
    lease->target = (struct lease_target){
        .engine = instance->name,
        .base_url = instance->base_url,
        .socket_path = instance->socket_path,
        .api_key = instance->api_key,
        .dialect = instance->dialect,
        .continuous_usage = instance->continuous_usage,
        .timeouts = instance->timeouts,
    };
    if (instance->base_url != NULL)
        return;
    builder_init(&url, lease->port_url, sizeof(lease->port_url));
    builder_format(&url, "http://127.0.0.1:%d", instance->port);
    lease->target.base_url = builder_string(&url);
}

static bool take_slot(struct line *line, const char *except, struct lease *lease)
{
    mono_ms now = clock_mono_ms();
    struct instance *instance;
    size_t picked;

    list_candidates(line, except, now);
    picked = pick_least_loaded(line->candidates, line->count, random_next(&line->random_state));
    if (picked == PICK_NONE)
        return false;
    instance = line->instances[picked];
    instance->in_flight++;
    metric_add(instance->metrics.in_flight, 1);
    if (instance->silent_since <= atomic_load_explicit(&instance->last_progress, memory_order_relaxed))
        instance->silent_since = now;
    fill_lease(lease, instance);
    lease->is_trial = breaker_take(&instance->breaker, now);
    return true;
}

static bool all_failed(const struct line *line)
{
    for (size_t i = 0; i < line->count; i++) {
        if (!line->instances[i]->leaving && line->instances[i]->state != INSTANCE_FAILED)
            return false;
        if (line->instances[i]->state == INSTANCE_READY)
            return false;
    }
    return true;
}

/* ---- waiting, with the lock held ---- */

static void on_told(struct loop_task *task)
{
    struct ticket *ticket = task->owner;
    struct line *line = ticket->line;
    struct lease_waiter *waiter = ticket->waiter;
    struct lease *lease = ticket->lease;
    enum lease_verdict why = ticket->why;
    bool granted = ticket->granted;

    if (waiter != NULL)
        waiter->_ticket = NULL;
    if (!granted)
        free(lease);
    else if (waiter == NULL)
        lease_end(&lease, LEASE_UNUSED);
    pthread_mutex_lock(&line->lock);
    line->told--;
    pthread_mutex_unlock(&line->lock);
    free(ticket);
    if (waiter != NULL && granted)
        waiter->granted(waiter, lease);
    else if (waiter != NULL)
        waiter->refused(waiter, why);
}

static void tell(struct line *line, struct ticket *ticket)
{
    queue_remove(&line->queue, ticket);
    metric_set(line->metrics.queue_length, line->queue.length);
    metric_observe_us(line->metrics.queue_wait, (clock_mono_ms() - ticket->since) * 1000);
    ticket->told = true;
    line->told++;
    ticket->task = (struct loop_task){.run = on_told, .owner = ticket};
    loop_post(ticket->waiter->loop, &ticket->task);
}

static void refuse(struct line *line, struct ticket *ticket, enum lease_verdict why)
{
    ticket->why = why;
    tell(line, ticket);
}

static void refuse_everyone(struct line *line, enum lease_verdict why)
{
    while (line->queue.first != NULL)
        refuse(line, line->queue.first, why);
}

/* Hand free slots to the tickets in their order. One that may not use the instance its first try failed at is passed
 * by, for the others need not wait for it. */
static void hand_over(struct line *line)
{
    struct ticket *next;

    for (struct ticket *ticket = line->queue.first; ticket != NULL; ticket = next) {
        next = ticket->next;
        if (take_slot(line, ticket->except, ticket->lease)) {
            ticket->granted = true;
            tell(line, ticket);
        } else if (ticket->except[0] == '\0') {
            return;
        }
    }
}

static void serve(struct line *line)
{
    if (line->queue.first == NULL)
        return;
    hand_over(line);
    if (all_failed(line))
        refuse_everyone(line, LEASE_ALL_FAILED);
}

void line_serve(struct line *line)
{
    pthread_mutex_lock(&line->lock);
    serve(line);
    pthread_mutex_unlock(&line->lock);
}

void line_sweep(struct line *line, mono_ms now)
{
    struct ticket *next;

    pthread_mutex_lock(&line->lock);
    serve(line);
    for (struct ticket *ticket = line->queue.first; ticket != NULL; ticket = next) {
        next = ticket->next;
        if (now >= ticket->deadline)
            refuse(line, ticket, LEASE_TIMED_OUT);
    }
    pthread_mutex_unlock(&line->lock);
}

void line_refuse(struct line *line)
{
    pthread_mutex_lock(&line->lock);
    line->refusing = true;
    refuse_everyone(line, LEASE_DRAINING);
    pthread_mutex_unlock(&line->lock);
}

/* ---- leases ---- */

static enum lease_verdict wait_in_queue(struct line *line, const char *except, struct lease_waiter *waiter,
                                        struct lease **spare)
{
    struct ticket *ticket;

    if (queue_is_full(&line->queue))
        return LEASE_QUEUE_FULL;
    ticket = calloc(1, sizeof(*ticket));
    if (ticket == NULL)
        return LEASE_QUEUE_FULL;
    ticket->line = line;
    ticket->waiter = waiter;
    ticket->since = clock_mono_ms();
    ticket->deadline = ticket->since + line->queue_wait_ms;
    text_copy(ticket->except, sizeof(ticket->except), text_of(except));
    ticket->lease = *spare;
    *spare = NULL;
    waiter->_ticket = ticket;
    queue_push(&line->queue, ticket);
    metric_set(line->metrics.queue_length, line->queue.length);
    hand_over(line);
    return LEASE_WAITING;
}

enum lease_verdict line_take(struct line *line, const char *except, struct lease_waiter *waiter, struct lease **spare)
{
    if (line->refusing)
        return LEASE_DRAINING;
    if (except[0] == '\0')
        retry_budget_request(&line->retries);
    if (line->queue.first == NULL && take_slot(line, except, *spare)) {
        metric_observe_us(line->metrics.queue_wait, 0);
        return LEASE_TAKEN;
    }
    if (all_failed(line))
        return LEASE_ALL_FAILED;
    return wait_in_queue(line, except, waiter, spare);
}

void line_abandon(struct ticket *ticket)
{
    struct line *line = ticket->line;
    bool told;

    pthread_mutex_lock(&line->lock);
    told = ticket->told;
    if (told) {
        ticket->waiter = NULL; /* its task ends the lease and frees the ticket */
    } else {
        queue_remove(&line->queue, ticket);
        metric_set(line->metrics.queue_length, line->queue.length);
    }
    pthread_mutex_unlock(&line->lock);
    if (told)
        return;
    free(ticket->lease);
    free(ticket);
}

static const enum breaker_result RESULT_OF_OUTCOME[LEASE_OUTCOME_COUNT] = {
    [LEASE_UNUSED] = BREAKER_NOTHING,          [LEASE_OK] = BREAKER_SUCCESS,
    [LEASE_BUSY] = BREAKER_ANSWERED,           [LEASE_CONNECT_FAILED] = BREAKER_FAILURE,
    [LEASE_CLOSED_EARLY] = BREAKER_FAILURE,    [LEASE_SERVER_ERROR] = BREAKER_FAILURE,
    [LEASE_TIMED_OUT_FIRST] = BREAKER_FAILURE, [LEASE_TIMED_OUT_LATER] = BREAKER_FAILURE,
};

static bool another_takes_requests(const struct line *line, const struct instance *instance, mono_ms now)
{
    for (size_t i = 0; i < line->count; i++) {
        const struct instance *other = line->instances[i];

        if (other != instance && is_free_to_ask(other, "") && breaker_admits(&other->breaker, now))
            return true;
    }
    return false;
}

void line_end(struct lease *lease, enum lease_outcome outcome)
{
    struct instance *instance = lease->instance;
    struct line *line = instance->line;
    mono_ms now = clock_mono_ms();
    char opened[TICKET_EXCEPT_BYTES] = "";
    struct breaker_end end = {.result = RESULT_OF_OUTCOME[outcome], .was_trial = lease->is_trial};

    pthread_mutex_lock(&line->lock);
    ENSURE(instance->in_flight > 0);
    instance->in_flight--;
    metric_add(instance->metrics.in_flight, -1);
    end.may_open = another_takes_requests(line, instance, now);
    end.random = random_fraction(&line->random_state);
    if (breaker_end(&instance->breaker, &end, now))
        text_copy(opened, sizeof(opened), text_of(instance->name));
    hand_over(line);
    pthread_mutex_unlock(&line->lock);
    /* From here on the instance may be gone. */
    if (opened[0] != '\0')
        log_event(LOG_WARNING, "engine", "breaker of %s opened: %s", opened, LEASE_OUTCOME_NAMES[outcome]);
}
