/* `make journal-bench`: what a request costs in the journal, and what reading back a big one takes. */
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/loop.h"
#include "billing/journal.h"
#include "billing/recover.h"

enum { WAITING_MAX = 256, GROUP_TURN_MS = 1000, EPOCH_MS = 300 * 1000, MIB = 1024 * 1024, REQUEST_BYTES = 264 };

struct bench {
    char directory[PATH_MAX];
    char writer[PATH_MAX + 64];
    struct loop *loop;
    struct journal *journal;
    unsigned waiting;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void told(struct journal_wait *wait, bool ok)
{
    struct bench *bench = wait->owner;
    bench->waiting--;
    if (!ok)
        die("journal_bench: the disk refuses");
}

static void begin(struct bench *bench, enum journal_sync sync)
{
    struct journal_options options = {
        .directory = bench->directory, .sync = sync, .segment_bytes = JOURNAL_SEGMENT_BYTES, .epoch_ms = EPOCH_MS};
    bench->loop = loop_create();
    bench->journal = bench->loop != NULL ? journal_create(bench->loop, &options) : NULL;
    if (bench->journal == NULL)
        die("journal_bench: journal_create");
    snprintf(bench->writer, sizeof(bench->writer), "%s/0-%s", bench->directory, journal_writer_id(bench->journal));
}

static void finish(struct bench *bench)
{
    journal_destroy(&bench->journal);
    loop_destroy(bench->loop);
}

static struct record record_of(enum record_type type, const char *id)
{
    return (struct record){.type = type,
                           .request_id = text_of(id),
                           .tenant = TEXT("a-tenant"),
                           .key = TEXT("production-key"),
                           .model = TEXT("gemma-3-270m-it"),
                           .when = clock_wall_ms(),
                           .input_tokens = 1234,
                           .output_tokens = 567,
                           .input_source = COUNT_ENGINE,
                           .output_source = COUNT_ENGINE,
                           .end = END_COMPLETE,
                           .billed = true};
}

static void turn_until_told(struct bench *bench)
{
    do {
        loop_run_once(bench->loop, bench->waiting > 0 ? GROUP_TURN_MS : 0);
    } while (bench->waiting > 0);
}

/* @width requests at a time: their OPENs wait together, and then their CLOSEs. */
static void run_requests(struct bench *bench, unsigned count, unsigned width)
{
    static struct journal_wait waits[WAITING_MAX];
    for (unsigned first = 0; first < count; first += width) {
        for (unsigned half = 0; half < 2 * width; half++) {
            char id[RECORD_ID_BYTES_MAX];
            snprintf(id, sizeof(id), "req-%024u", first + half % width);
            struct record record = record_of(half < width ? RECORD_OPEN : RECORD_CLOSE, id);
            waits[half % width] = (struct journal_wait){.durable = told, .owner = bench};
            bench->waiting++;
            if (half >= width)
                journal_close(bench->journal, &record, &waits[half % width]);
            else if (!journal_open(bench->journal, &record, &waits[half]))
                die(journal_trouble(bench->journal));
            if (half % width == width - 1)
                turn_until_told(bench);
        }
    }
}

static void report_requests(struct bench *bench, enum journal_sync sync, unsigned count, unsigned width)
{
    begin(bench, sync);
    mono_us before = clock_mono_us();
    run_requests(bench, count, width);
    double took_us = (double) (clock_mono_us() - before);
    printf("%-6s %4u at a time: %8.2f us a request (OPEN and CLOSE), %8.2f ms a durable wait\n",
           sync == JOURNAL_OS ? "os" : "group", width, took_us / count, took_us / count * width / 2 / 1000);
    finish(bench);
}

/* A writer that dies with some requests open. */
static void write_big(struct bench *bench, int64_t megabytes)
{
    pid_t child = fork();
    if (child == 0) {
        begin(bench, JOURNAL_OS);
        for (int64_t round = 0; round * 256 * REQUEST_BYTES < megabytes * MIB; round++)
            run_requests(bench, 256, WAITING_MAX);
        raise(SIGKILL);
    }
    if (child < 0 || waitpid(child, NULL, 0) != child)
        die("journal_bench: fork");
}

static int find_writer(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void) status;
    if (type != FTW_D || where->level != 1)
        return 0;
    struct recovery found;
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    mono_us began = clock_mono_us();
    if (!journal_recover(path, true, &found))
        die("journal_bench: journal_recover");
    double took_s = (double) (clock_mono_us() - began) / 1e6;
    getrusage(RUSAGE_SELF, &after);
    printf("recovery: %llu records in %.2f s; peak memory %ld KiB before, %ld KiB after\n",
           (unsigned long long) found.records, took_s, before.ru_maxrss, after.ru_maxrss);
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void) status;
    (void) type;
    (void) where;
    return remove(path);
}

static void make_directory(struct bench *bench, const char *parent)
{
    snprintf(bench->directory, sizeof(bench->directory), "%s/journal-bench-XXXXXX", parent);
    if (mkdtemp(bench->directory) == NULL)
        die(bench->directory);
}

static void remove_directory(struct bench *bench)
{
    nftw(bench->directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* journal_bench DIRECTORY [MEGABYTES]: on that directory's disk; as much journal to recover. */
int main(int argc, char **argv)
{
    static struct bench bench;
    int64_t megabytes = 0;
    if (argc < 2 || argc > 3 || (argc == 3 && !text_to_int64(text_of(argv[2]), &megabytes))) {
        fputs("Usage: journal_bench DIRECTORY [MEGABYTES]\n", stderr);
        return 2;
    }
    make_directory(&bench, argv[1]);
    report_requests(&bench, JOURNAL_OS, 50000, 1);
    report_requests(&bench, JOURNAL_OS, 100000, 32);
    report_requests(&bench, JOURNAL_GROUP, 500, 1);
    report_requests(&bench, JOURNAL_GROUP, 16000, 32);
    report_requests(&bench, JOURNAL_GROUP, 64000, WAITING_MAX);
    remove_directory(&bench);
    if (megabytes > 0) {
        make_directory(&bench, argv[1]);
        write_big(&bench, megabytes);
        nftw(bench.directory, find_writer, 8, FTW_PHYS);
        remove_directory(&bench);
    }
    return 0;
}
