/* `make ship-bench`: how fast a journal gets into a real Redis, back into it from ledger files alone, and what
 * recovery, harvest and shipping take of time and memory. */
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "billing/harvest.h"
#include "billing/private_redis.h"
#include "billing/recover.h"
#include "billing/restore.h"
#include "billing/shipper.h"

enum {
    MIB = 1024 * 1024,
    EPOCH_MS = 300 * 1000,
    APART_MS = 20, /* between two requests, by the journal's times */
    REQUEST_BYTES = 225,
    TURN_REQUESTS = 256,
    TENANTS = 50,
    KEYS = 4, /* of each tenant */
    MODELS = 3,
    RETENTION_S = 86400,
    START_MS = 10000,
    PATH_BYTES = PATH_MAX + 80
};

struct bench {
    char directory[PATH_MAX], ledger[PATH_MAX + 16], writer[PATH_BYTES];
    char writer_id[WRITER_ID_CHARACTERS + 1];
    struct private_redis server;
    struct redis_options options;
    pid_t server_pid;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* ---- phases, each in a process of its own: its peak memory is its own ---- */

static long peak_kib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

static void run_phase(struct bench *bench, const char *name, uint64_t (*phase)(struct bench *bench))
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        long before_kib = peak_kib();
        mono_us began = clock_mono_us();
        uint64_t done = phase(bench);
        double took_s = (double) (clock_mono_us() - began) / 1e6;
        printf("%-8s %10llu in %7.2f s: %9.0f a second; peak memory %ld KiB, %ld KiB at its start\n", name,
               (unsigned long long) done, took_s, (double) done / took_s, peak_kib(), before_kib);
        fflush(NULL);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        die(name);
}

/* ---- the journal ---- */

static void write_request(struct journal *journal, uint64_t number, wall_ms when)
{
    char id[RECORD_ID_BYTES_MAX], tenant[32], key[32], model[32];
    snprintf(id, sizeof id, "req-%024llu", (unsigned long long) number);
    snprintf(tenant, sizeof tenant, "tenant-%llu", (unsigned long long) (number % TENANTS));
    snprintf(key, sizeof key, "production-%llu", (unsigned long long) (number / TENANTS % KEYS));
    snprintf(model, sizeof model, "model-%llu", (unsigned long long) (number / 7 % MODELS));
    struct record record = {.type = RECORD_OPEN,
                            .request_id = text_of(id),
                            .tenant = text_of(tenant),
                            .key = text_of(key),
                            .model = text_of(model),
                            .when = when,
                            .input_tokens = 1234,
                            .output_tokens = 567,
                            .input_source = COUNT_ENGINE,
                            .output_source = COUNT_ENGINE,
                            .end = END_COMPLETE,
                            .billed = true};
    if (!journal_open(journal, &record, NULL))
        die(journal_trouble(journal));
    if (number % 1000 == 999)
        return; /* these are still open when the writer dies */
    record.type = RECORD_CLOSE;
    journal_close(journal, &record, NULL);
}

/* A writer that dies. */
static void write_journal(const struct bench *bench, int64_t megabytes)
{
    struct loop *loop = loop_create();
    struct journal_options options = {
        .directory = bench->directory, .segment_bytes = JOURNAL_SEGMENT_BYTES, .epoch_ms = EPOCH_MS};
    struct journal *journal = loop != NULL ? journal_create(loop, &options) : NULL;
    wall_ms now = clock_wall_ms();
    if (journal == NULL)
        die("ship_bench: journal_create");
    char id[WRITER_ID_CHARACTERS + 1];
    text_copy(id, sizeof id, text_of(journal_writer_id(journal)));
    for (uint64_t i = 0; (int64_t) i * REQUEST_BYTES < megabytes * MIB; i++) {
        write_request(journal, i, now + (wall_ms) i * APART_MS);
        if (i % TURN_REQUESTS == TURN_REQUESTS - 1)
            loop_run_once(loop, 0);
    }
    loop_run_once(loop, 0);
    raise(SIGKILL);
}

static char found_writer[PATH_BYTES];

static int find_writer(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void) status;
    if (type == FTW_D && where->level == 1)
        snprintf(found_writer, sizeof found_writer, "%s", path);
    return 0;
}

static void make_journal(struct bench *bench, int64_t megabytes)
{
    pid_t child = fork();
    if (child == 0)
        write_journal(bench, megabytes);
    if (child < 0 || waitpid(child, NULL, 0) != child)
        die("ship_bench: fork");
    nftw(bench->directory, find_writer, 8, FTW_PHYS);
    const char *dash = strrchr(found_writer, '-');
    if (dash == NULL || strlen(dash + 1) != WRITER_ID_CHARACTERS)
        die("ship_bench: no journal");
    snprintf(bench->writer, sizeof bench->writer, "%s", found_writer);
    text_copy(bench->writer_id, sizeof bench->writer_id, text_of(dash + 1));
    snprintf(bench->ledger, sizeof bench->ledger, "%s/ledger", bench->directory);
    if (mkdir(bench->ledger, 0700) != 0)
        die(bench->ledger);
}

static uint64_t recover(struct bench *bench)
{
    struct recovery found;
    if (!journal_recover(bench->writer, true, &found))
        die("ship_bench: journal_recover");
    return found.records;
}

static void count_epoch(void *owner, const struct ledger_name *name)
{
    (void) name;
    ++*(uint64_t *) owner;
}

static uint64_t harvest(struct bench *bench)
{
    uint64_t epochs = 0;
    struct harvest *harvest = harvest_create(bench->writer, bench->writer_id, bench->ledger);
    enum harvest_result result = HARVEST_MORE;
    while (harvest != NULL && result == HARVEST_MORE)
        result = harvest_turn(harvest, clock_mono_ms() + 50, count_epoch, &epochs);
    if (harvest == NULL || result != HARVEST_IDLE)
        die("ship_bench: harvest");
    harvest_destroy(&harvest);
    return epochs;
}

/* ---- Redis ---- */

static void start_redis(struct bench *bench, const char *program)
{
    if (!private_redis_prepare(program, bench->directory, bench->directory, &bench->server))
        die(program);
    bench->server_pid = fork();
    if (bench->server_pid == 0) {
        char *arguments[PRIVATE_REDIS_ARGUMENTS_MAX];
        int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(nowhere, STDOUT_FILENO);
        memcpy(arguments, bench->server.arguments, sizeof arguments);
        execv(arguments[0], arguments);
        _exit(127);
    }
    bench->options = (struct redis_options){
        .path = bench->server.socket, .connect_ms = 1000, .command_ms = 10000, .back_off_ms = 1, .back_off_max_ms = 10};
    struct redis *redis = redis_create(&bench->options);
    mono_ms until = clock_mono_ms() + START_MS;
    while (redis != NULL && !redis_is_ready(redis)) {
        if (clock_mono_ms() > until)
            die(redis_error(redis));
        usleep(5000);
    }
    redis_destroy(&redis);
}

static void flush_redis(struct bench *bench)
{
    const struct text words[] = {TEXT("FLUSHALL")};
    struct redis *redis = redis_create(&bench->options);
    if (redis == NULL || redis_ask(redis, words, 1, NULL) != REDIS_DONE)
        die("ship_bench: FLUSHALL");
    redis_destroy(&redis);
}

static uint64_t ship(struct bench *bench)
{
    struct shipper_options options = {.writer_directory = bench->writer,
                                      .ledger_directory = bench->ledger,
                                      .writer_id = bench->writer_id,
                                      .retention_s = RETENTION_S};
    struct shipper *shipper = shipper_create(&options);
    struct ship_batch *batch = ship_batch_create();
    struct redis *redis = redis_create(&bench->options);
    enum shipper_result result = SHIPPER_MORE;
    while (shipper != NULL && batch != NULL && redis != NULL && result == SHIPPER_MORE)
        result = shipper_turn(shipper, batch, redis);
    if (result != SHIPPER_IDLE)
        die("ship_bench: shipping");
    uint64_t shipped = shipper_shipped(shipper);
    shipper_destroy(&shipper);
    ship_batch_destroy(&batch);
    redis_destroy(&redis);
    return shipped;
}

static uint64_t restore(struct bench *bench)
{
    struct ledger_name *names = NULL;
    size_t count = 0;
    struct redis *redis = redis_create(&bench->options);
    if (redis == NULL || !ledger_list(bench->ledger, &names, &count))
        die("ship_bench: ledger_list");
    struct restore_options options = {.ledger_directory = bench->ledger,
                                      .writer_id = bench->writer_id,
                                      .names = names,
                                      .count = count,
                                      .retention_s = RETENTION_S};
    struct restore *restore = restore_create(&options);
    enum restore_result result = RESTORE_MORE;
    while (restore != NULL && result == RESTORE_MORE)
        result = restore_turn(restore, redis);
    if (result != RESTORE_DONE)
        die("ship_bench: restoring");
    uint64_t done = restore_count(restore);
    restore_destroy(&restore);
    free(names);
    redis_destroy(&redis);
    return done;
}

/* ---- */

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void) status;
    (void) type;
    (void) where;
    return remove(path);
}

/* ship_bench DIRECTORY REDIS_SERVER [MEGABYTES]: on that directory's disk; as much journal. */
int main(int argc, char **argv)
{
    static struct bench bench;
    int64_t megabytes = 64;
    if (argc < 3 || argc > 4 || (argc == 4 && !text_to_int64(text_of(argv[3]), &megabytes))) {
        fputs("Usage: ship_bench DIRECTORY REDIS_SERVER [MEGABYTES]\n", stderr);
        return 2;
    }
    log_configure(LOG_FORMAT_TEXT, LOG_ERROR);
    (void) signal(SIGPIPE, SIG_IGN);
    /* Whole, because Redis changes its directory. */
    char parent[PATH_MAX];
    if (realpath(argv[1], parent) == NULL)
        die(argv[1]);
    int length = snprintf(bench.directory, sizeof bench.directory, "%s/ship-bench-XXXXXX", parent);
    if (length >= (int) sizeof bench.directory || mkdtemp(bench.directory) == NULL)
        die(bench.directory);
    make_journal(&bench, megabytes);
    start_redis(&bench, argv[2]);
    printf("%lld MiB of journal\n", (long long) megabytes);
    run_phase(&bench, "recover", recover);
    run_phase(&bench, "harvest", harvest);
    run_phase(&bench, "ship", ship);
    flush_redis(&bench);
    run_phase(&bench, "restore", restore);
    kill(bench.server_pid, SIGKILL);
    (void) waitpid(bench.server_pid, NULL, 0);
    nftw(bench.directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}
