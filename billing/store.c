/* Rounds over all writers, a batch each in turn; what others may see is copied under a short lock after each round. */
#include "billing/store.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "billing/recover.h"
#include "billing/shipper.h"
#include "billing/sweep.h"

enum {
    TICK_MS = 50,
    DOWN_TICK_MS = 250,
    LOOK_MS = 500,   /* between two looks for new writers */
    PING_MS = 1000,  /* between two questions whether it is still the same Redis */
    CHECK_MS = 5000, /* between two questions whether it still has everything */
    RETRY_MS = 100,  /* after a refusal; doubled by each further one */
    RETRY_MAX_MS = 5000,
    CONNECT_MS = 700,
    COMMAND_MS = 3000,
    BACK_OFF_MS = 100,
    BACK_OFF_MAX_MS = 5000
};

struct writer {
    struct shipper *shipper;
    bool is_wanted; /* its directory is still there */
    bool must_check;
    bool is_stuck;
    int retry_ms;
    mono_ms retry_at;
};

struct store {
    /* the thread's own */
    char directory[PATH_MAX], ledger_directory[PATH_MAX];
    struct redis *redis;
    struct ship_batch *batch;
    struct sweep *sweep;
    mono_ms sweep_at;
    int64_t retention_s;
    struct writer *writers; /* sorted by id */
    size_t writer_count;
    uint64_t connections, regressions; /* as of the last check of everybody */
    uint64_t restored_gone;            /* epochs, of shippers that are gone */
    mono_ms next_look, next_ping, next_check;
    char error[REDIS_ERROR_BYTES];
    bool is_up;
    pthread_t thread;
    /* shared */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool is_stopping;
    struct store_status status;
    struct store_writer *shown;
};

struct redis_options store_redis_options(const struct redis_address *address, const char *private_socket)
{
    struct redis_options options = {.connect_ms = CONNECT_MS,
                                    .command_ms = COMMAND_MS,
                                    .back_off_ms = BACK_OFF_MS,
                                    .back_off_max_ms = BACK_OFF_MAX_MS};
    if (address->kind == REDIS_TCP) {
        options.host = address->host;
        options.port = address->port;
    } else {
        options.path = address->kind == REDIS_UNIX ? address->path : private_socket;
    }
    options.database = address->kind == REDIS_PRIVATE ? 0 : address->database;
    return options;
}

int64_t store_kept_ms(int64_t retention_ms)
{
    return retention_ms < STORE_KEPT_MS ? retention_ms : STORE_KEPT_MS;
}

/* ---- which writers there are ---- */

static size_t place_of(const struct store *store, const char *id, bool *ret_found)
{
    size_t low = 0, high = store->writer_count;
    *ret_found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(shipper_writer_id(store->writers[middle].shipper), id);
        if (order == 0) {
            *ret_found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void meet_writer(struct store *store, const char *name, const char *id)
{
    char path[PATH_MAX];
    bool is_known = false;
    size_t place = place_of(store, id, &is_known);
    if (is_known) {
        store->writers[place].is_wanted = true;
        return;
    }
    int length = snprintf(path, sizeof path, "%s/%s", store->directory, name);
    if (length < 0 || (size_t) length >= sizeof path || store->writer_count == STORE_WRITERS_MAX) {
        text_copy(store->error, sizeof store->error, TEXT("a journal is not shipped: there are too many"));
        return;
    }
    struct shipper_options options = {.writer_directory = path,
                                      .ledger_directory = store->ledger_directory,
                                      .writer_id = id,
                                      .retention_s = store->retention_s};
    struct shipper *shipper = shipper_create(&options);
    if (shipper == NULL)
        return; /* the next look tries again */
    memmove(store->writers + place + 1, store->writers + place, (store->writer_count - place) * sizeof *store->writers);
    store->writers[place] = (struct writer){.shipper = shipper, .is_wanted = true};
    store->writer_count++;
}

/* Its directory is gone. When Redis did not have all of it, or the journal had not, only the ledger has. */
static void drop_writer(struct store *store, struct writer *writer)
{
    if (shipper_is_finished(writer->shipper) && !shipper_was_behind(writer->shipper))
        sweep_note_gone(store->sweep, shipper_writer_id(writer->shipper));
    else
        sweep_begin(store->sweep);
    store->restored_gone += shipper_restored(writer->shipper);
    shipper_destroy(&writer->shipper);
}

static void drop_unwanted(struct store *store)
{
    size_t kept = 0;
    for (size_t i = 0; i < store->writer_count; i++) {
        if (store->writers[i].is_wanted)
            store->writers[kept++] = store->writers[i];
        else
            drop_writer(store, &store->writers[i]);
    }
    store->writer_count = kept;
}

static void look_for_writers(struct store *store)
{
    DIR *listing = opendir(store->directory);
    if (listing == NULL)
        return;
    for (size_t i = 0; i < store->writer_count; i++)
        store->writers[i].is_wanted = false;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        const char *id = journal_writer_in(entry->d_name);
        if (id != NULL)
            meet_writer(store, entry->d_name, id);
    }
    closedir(listing);
    drop_unwanted(store);
}

/* ---- rounds ---- */

static bool is_stopping(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    bool stopping = store->is_stopping;
    pthread_mutex_unlock(&store->lock);
    return stopping;
}

static void put_off(struct store *store, struct writer *writer, const char *why)
{
    writer->retry_ms = writer->retry_ms == 0 ? RETRY_MS : writer->retry_ms * 2;
    if (writer->retry_ms > RETRY_MAX_MS)
        writer->retry_ms = RETRY_MAX_MS;
    writer->retry_at = clock_mono_ms() + writer->retry_ms;
    text_copy(store->error, sizeof store->error, text_of(why));
}

static enum shipper_result turn(struct store *store, struct writer *writer)
{
    enum shipper_result result = SHIPPER_IDLE;
    /* Without Redis only the turn tells what is waiting. */
    if (writer->must_check && store->is_up) {
        result = shipper_check(writer->shipper, store->batch, store->redis);
        writer->must_check = result != SHIPPER_IDLE;
    }
    /* From a finished one nothing comes; only the check can tell that it must be shipped again. */
    if (result != SHIPPER_IDLE || (shipper_is_finished(writer->shipper) && !writer->is_stuck))
        return result;
    return shipper_turn(writer->shipper, store->batch, store->redis);
}

/* True: it has more. */
static bool serve(struct store *store, struct writer *writer)
{
    if (writer->retry_at > clock_mono_ms())
        return false;
    enum shipper_result result = turn(store, writer);
    writer->is_stuck = result == SHIPPER_STUCK;
    if (result == SHIPPER_REFUSED || result == SHIPPER_STUCK) {
        put_off(store, writer,
                result == SHIPPER_REFUSED ? redis_error(store->redis) : shipper_trouble(writer->shipper));
        return false;
    }
    if (result == SHIPPER_DOWN) {
        store->is_up = false;
        text_copy(store->error, sizeof store->error, text_of(redis_error(store->redis)));
        return false;
    }
    writer->retry_ms = 0;
    if (shipper_is_finished(writer->shipper))
        shipper_rest(writer->shipper);
    return result == SHIPPER_MORE;
}

/* One batch of each, also without Redis: then it shows what is waiting. True: somebody has more. */
static bool go_round(struct store *store)
{
    bool has_more = false;
    for (size_t i = 0; i < store->writer_count && !is_stopping(store); i++)
        has_more |= serve(store, &store->writers[i]);
    return has_more;
}

/* Writers of which a journal tells something are no business of the sweep. */
static bool is_shipped(void *owner, const char *writer_id)
{
    const struct store *store = owner;
    bool is_known = false;
    size_t place = place_of(store, writer_id, &is_known);
    return is_known && !shipper_is_bare(store->writers[place].shipper);
}

static bool go_on_sweeping(struct store *store)
{
    if (!store->is_up || clock_mono_ms() < store->sweep_at || is_stopping(store))
        return false;
    enum sweep_result result = sweep_turn(store->sweep, store->redis, is_shipped, store);
    /* Which of the writers that it lists have a journal is looked up now. */
    if (result == SWEEP_LISTED)
        store->next_look = 0;
    if (result == SWEEP_DOWN)
        store->is_up = false;
    if (result == SWEEP_REFUSED)
        store->sweep_at = clock_mono_ms() + RETRY_MAX_MS;
    if (result == SWEEP_DOWN || result == SWEEP_REFUSED)
        text_copy(store->error, sizeof store->error, text_of(redis_error(store->redis)));
    else if (sweep_trouble(store->sweep)[0] != '\0')
        text_copy(store->error, sizeof store->error, text_of(sweep_trouble(store->sweep)));
    return result == SWEEP_LISTED || result == SWEEP_MORE;
}

static uint64_t sum_regressions(const struct store *store)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < store->writer_count; i++)
        sum += shipper_regressions(store->writers[i].shipper);
    return sum;
}

static void learn_durability(struct store *store)
{
    char line[REDIS_DURABILITY_BYTES];
    enum redis_keeping keeping = redis_durability(store->redis, line);
    if (line[0] == '\0')
        return;
    pthread_mutex_lock(&store->lock);
    store->status.is_durability_known = true;
    store->status.may_evict = keeping == REDIS_EVICTS;
    store->status.is_durability_scant = keeping != REDIS_KEEPS;
    memcpy(store->status.durability, line, sizeof line);
    pthread_mutex_unlock(&store->lock);
}

/* Another connection may be another Redis, and what one writer lost others did too. */
static void check_if_due(struct store *store)
{
    mono_ms now = clock_mono_ms();
    bool is_due = now >= store->next_check;
    if (now >= store->next_ping || !store->is_up) {
        store->next_ping = now + PING_MS;
        store->is_up = redis_is_ready(store->redis);
        if (!store->is_up)
            text_copy(store->error, sizeof store->error, text_of(redis_error(store->redis)));
    }
    bool is_new = redis_connections(store->redis) != store->connections;
    if (is_new)
        learn_durability(store);
    bool has_lost = sum_regressions(store) != store->regressions;
    if (!is_new && !has_lost && !is_due)
        return;
    store->connections = redis_connections(store->redis);
    store->regressions = sum_regressions(store);
    store->next_check = clock_mono_ms() + CHECK_MS;
    if (is_new || has_lost)
        sweep_begin(store->sweep);
    else if (store->is_up)
        sweep_check(store->sweep, store->redis);
    for (size_t i = 0; i < store->writer_count; i++)
        store->writers[i].must_check = true;
}

/* ---- what others see ---- */

static uint64_t sum_restored(const struct store *store)
{
    uint64_t sum = store->restored_gone + sweep_restored(store->sweep);
    for (size_t i = 0; i < store->writer_count; i++)
        sum += shipper_restored(store->writers[i].shipper);
    return sum;
}

static void show(struct store *store)
{
    wall_ms oldest = 0;
    size_t stuck = 0;
    pthread_mutex_lock(&store->lock);
    for (size_t i = 0; i < store->writer_count; i++) {
        const struct writer *writer = &store->writers[i];
        wall_ms since = shipper_oldest_unshipped(writer->shipper);
        store->shown[i] = (struct store_writer){.shipped = shipper_shipped(writer->shipper), .oldest_unshipped = since};
        text_copy(store->shown[i].id, sizeof store->shown[i].id, text_of(shipper_writer_id(writer->shipper)));
        stuck += writer->is_stuck;
        if (since != 0 && (oldest == 0 || since < oldest))
            oldest = since;
    }
    store->status.writers = store->writer_count;
    store->status.stuck_writers = stuck;
    store->status.oldest_unshipped = oldest;
    store->status.regressions = sum_regressions(store);
    store->status.restored_epochs = sum_restored(store);
    store->status.is_up = store->is_up;
    memcpy(store->status.error, store->error, sizeof store->error);
    pthread_mutex_unlock(&store->lock);
}

void store_status(struct store *store, struct store_status *ret)
{
    pthread_mutex_lock(&store->lock);
    *ret = store->status;
    pthread_mutex_unlock(&store->lock);
}

size_t store_writers(struct store *store, struct store_writer ret[], size_t capacity)
{
    pthread_mutex_lock(&store->lock);
    size_t count = store->status.writers;
    for (size_t i = 0; i < count && i < capacity; i++)
        ret[i] = store->shown[i];
    pthread_mutex_unlock(&store->lock);
    return count;
}

static int compare_writer(const void *id, const void *writer)
{
    return strcmp(id, ((const struct store_writer *) writer)->id);
}

uint64_t store_shipped(struct store *store, const char *writer_id)
{
    pthread_mutex_lock(&store->lock);
    const struct store_writer *writer =
        bsearch(writer_id, store->shown, store->status.writers, sizeof *store->shown, compare_writer);
    uint64_t shipped = writer != NULL ? writer->shipped : 0;
    pthread_mutex_unlock(&store->lock);
    return shipped;
}

/* ---- the thread ---- */

static void wait_for_tick(struct store *store)
{
    struct timespec until;
    long tick_ms = store->is_up ? TICK_MS : DOWN_TICK_MS;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += tick_ms * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&store->lock);
    if (!store->is_stopping)
        (void) pthread_cond_timedwait(&store->wake, &store->lock, &until);
    pthread_mutex_unlock(&store->lock);
}

static bool is_anybody_put_off(const struct store *store)
{
    if (store->sweep_at > clock_mono_ms() || sweep_trouble(store->sweep)[0] != '\0')
        return true;
    for (size_t i = 0; i < store->writer_count; i++)
        if (store->writers[i].retry_ms != 0)
            return true;
    return false;
}

static void *run(void *argument)
{
    struct store *store = argument;
    while (!is_stopping(store)) {
        if (clock_mono_ms() >= store->next_look) {
            store->next_look = clock_mono_ms() + LOOK_MS;
            look_for_writers(store);
        }
        check_if_due(store);
        bool has_more = go_round(store);
        has_more |= go_on_sweeping(store);
        if (store->is_up && !is_anybody_put_off(store))
            store->error[0] = '\0';
        show(store);
        if (!has_more)
            wait_for_tick(store);
    }
    return NULL;
}

static void release(struct store *store)
{
    for (size_t i = 0; i < store->writer_count; i++)
        shipper_destroy(&store->writers[i].shipper);
    free(store->writers);
    free(store->shown);
    sweep_destroy(&store->sweep);
    ship_batch_destroy(&store->batch);
    redis_destroy(&store->redis);
    free(store);
}

/* Signals are for other threads; a Redis that hangs up is an error like others. */
static int start_thread(struct store *store)
{
    pthread_condattr_t attributes;
    sigset_t all, before;
    pthread_mutex_init(&store->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&store->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&store->thread, NULL, run, store);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

struct store *store_start(const struct store_options *options)
{
    struct store *store = calloc(1, sizeof *store);
    if (store == NULL)
        return NULL;
    text_copy(store->directory, sizeof store->directory, text_of(options->journal_directory));
    text_copy(store->ledger_directory, sizeof store->ledger_directory, text_of(options->ledger_directory));
    store->retention_s = options->kept_ms >= 1000 ? options->kept_ms / 1000 : 1;
    store->redis = redis_create(&options->redis);
    store->batch = ship_batch_create();
    store->sweep = sweep_create(options->ledger_directory, store->retention_s);
    store->writers = calloc(STORE_WRITERS_MAX, sizeof *store->writers);
    store->shown = calloc(STORE_WRITERS_MAX, sizeof *store->shown);
    bool has_all = store->redis != NULL && store->batch != NULL && store->sweep != NULL && store->writers != NULL &&
                   store->shown != NULL;
    int error = has_all ? start_thread(store) : ENOMEM;
    if (error == 0)
        return store;
    release(store);
    errno = error;
    return NULL;
}

void store_stop(struct store **store_pointer)
{
    struct store *store = *store_pointer;
    *store_pointer = NULL;
    if (store == NULL)
        return;
    pthread_mutex_lock(&store->lock);
    store->is_stopping = true;
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->lock);
    redis_interrupt(store->redis);
    pthread_join(store->thread, NULL);
    pthread_cond_destroy(&store->wake);
    pthread_mutex_destroy(&store->lock);
    release(store);
}
