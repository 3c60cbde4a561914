/* A state_dir with journals in it, a real Redis, a store and a biller, a configuration that can be changed; and what
 * the provider `file` was given, against what the requests were. */
#ifndef TESTS_LIB_BILLER_ROOM_H
#define TESTS_LIB_BILLER_ROOM_H

#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>

#include <jansson.h>

#include "billing/biller.h"
#include "conf/reload.h"
#include "tests/lib/journal_room.h"
#include "tests/lib/redis_room.h"

enum { BILLER_WAIT_MS = 60000, BILLER_TENANTS = 3, BILLER_MODELS = 2, BILLER_ROWS_MAX = 20000, BILLER_JOURNALS = 2 };

static const char *const BILLER_TENANT_NAMES[BILLER_TENANTS] = {"acme", "beta", "tenant-of-many-words"};
static const char *const BILLER_MODEL_NAMES[BILLER_MODELS] = {"gemma", "qwen"};

struct biller_sums {
    int64_t quantity[BILLER_TENANTS][BILLER_MODELS][MEASURE_COUNT];
};

struct biller_room {
    char state_dir[64], out[128];
    struct room journals[BILLER_JOURNALS]; /* their directories are state_dir/journal */
    struct redis_room redis;
    struct store_options store_options;
    struct store *store;
    struct biller *biller;
    unsigned number; /* of the next request */
    struct biller_sums expected;
};

/* ---- the configuration: one file for the whole process ---- */

static char biller_room_yaml[64];

#define BILLER_ROOM_MODELS                                                                                             \
    "models: { gemma: { engines: [ { url: 'http://127.0.0.1:8000' } ] },\n"                                            \
    "          qwen: { engines: [ { url: 'http://127.0.0.1:8000' } ] } }\n"
#define BILLER_ROOM_TENANTS "tenants: { acme: {}, beta: {} }\n"

static inline void biller_room_policy_text(const char *yaml)
{
    char next[80];
    struct problem_list problems;
    snprintf(next, sizeof next, "%s.next", biller_room_yaml);
    FILE *file = fopen(next, "w");
    assert_non_null(file);
    assert_true(fputs(yaml, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(rename(next, biller_room_yaml), 0);
    problem_list_init(&problems);
    static bool is_installed;
    struct bundle *bundle = NULL;
    if (is_installed) {
        if (!reload_now(&bundle, &problems))
            fail_msg("%.*s", TEXT_ARGUMENTS(buffer_text(&problems.text)));
    } else {
        bundle = bundle_read(biller_room_yaml, &problems);
        const struct policy *policy = bundle != NULL ? policy_load(bundle, LOAD_RUN, &problems) : NULL;
        if (policy == NULL)
            fail_msg("%.*s", TEXT_ARGUMENTS(buffer_text(&problems.text)));
        reload_install(&policy);
        is_installed = true;
    }
    bundle_destroy(&bundle);
    problem_list_finish(&problems);
}

/* @billing is what stands behind "billing: ". */
static inline void biller_room_policy(const char *billing)
{
    char yaml[4096];
    snprintf(yaml, sizeof yaml, BILLER_ROOM_MODELS BILLER_ROOM_TENANTS "billing: %s\n", billing);
    biller_room_policy_text(yaml);
}

static inline void biller_room_policy_file(const struct biller_room *room)
{
    char billing[512];
    snprintf(billing, sizeof billing, "{ providers: [ { file: { dir: %s } } ] }", room->out);
    biller_room_policy(billing);
}

/* ---- life ---- */

enum { BILLER_ROOM_PATH_BYTES = 256 };

static inline void biller_room_path(const struct biller_room *room, const char *name, char to[BILLER_ROOM_PATH_BYTES])
{
    snprintf(to, BILLER_ROOM_PATH_BYTES, "%s/%s", room->state_dir, name);
}

static inline void biller_room_init(struct biller_room *room)
{
    char path[PATH_MAX];
    memset(room, 0, sizeof *room);
    text_copy(room->state_dir, sizeof room->state_dir, TEXT("/tmp/tollgate-biller-XXXXXX"));
    unit_random_seed();
    alarm(2 * ROOM_HANG_SECONDS);
    assert_non_null(mkdtemp(room->state_dir));
    snprintf(room->out, sizeof room->out, "%.60s/out", room->state_dir);
    biller_room_path(room, "journal", path);
    assert_int_equal(mkdir(path, 0700), 0);
    redis_room_init(&room->redis);
    struct redis_address address = {.kind = REDIS_UNIX, .path = room->redis.redis.socket};
    room->store_options = (struct store_options){.kept_ms = 3600000};
    room->store_options.redis = store_redis_options(&address, NULL);
    room->store_options.redis.back_off_max_ms = 200;
    snprintf(biller_room_yaml, sizeof biller_room_yaml, "/tmp/tollgate-biller-%d.yaml", (int) getpid());
}

/* @place's fresh journal, as a worker makes it. */
static inline void biller_room_begin_sized(struct biller_room *room, size_t place, int64_t segment_bytes)
{
    struct room *journal = &room->journals[place];
    *journal = (struct room){.loop = journal->loop != NULL ? journal->loop : loop_create()};
    struct builder directory;
    builder_init(&directory, journal->directory, sizeof journal->directory);
    builder_format(&directory, "%s/journal", room->state_dir);
    (void) builder_string(&directory);
    journal->options = (struct journal_options){
        .directory = journal->directory, .slot = (int) place, .segment_bytes = segment_bytes, .epoch_ms = 1000};
    room_begin(journal);
}

static inline void biller_room_begin(struct biller_room *room, size_t place)
{
    biller_room_begin_sized(room, place, 256 * 1024);
}

static inline void biller_room_start(struct biller_room *room)
{
    char journal[PATH_MAX], error[BILLER_ERROR_BYTES] = "";
    biller_room_path(room, "journal", journal);
    room->store_options.journal_directory = journal;
    room->store = store_start(&room->store_options);
    assert_non_null(room->store);
    struct biller_options options = {.state_dir = room->state_dir, .store = room->store};
    room->biller = biller_start(&options, error);
    if (room->biller == NULL)
        fail_msg("%s", error);
}

static inline void biller_room_stop(struct biller_room *room)
{
    biller_stop(&room->biller);
    store_stop(&room->store);
}

static inline void biller_room_finish(struct biller_room *room)
{
    biller_room_stop(room);
    for (size_t i = 0; i < BILLER_JOURNALS; i++) {
        journal_destroy(&room->journals[i].journal);
        loop_destroy(room->journals[i].loop);
    }
    redis_room_finish(&room->redis);
    nftw(room->state_dir, room_remove, 8, FTW_DEPTH | FTW_PHYS);
    (void) unlink(biller_room_yaml);
    alarm(0);
}

/* ---- requests ---- */

static inline void biller_room_expect(struct biller_room *room, size_t tenant, size_t model, const struct record *close)
{
    int64_t *to = room->expected.quantity[tenant][model];
    if (!close->billed)
        return;
    to[MEASURE_REQUESTS]++;
    to[MEASURE_INPUT_TOKENS] += close->input_tokens;
    to[MEASURE_CACHED_INPUT_TOKENS] += close->cached_input_tokens;
    to[MEASURE_OUTPUT_TOKENS] += close->output_tokens;
}

/* One random request from its OPEN to its CLOSE. */
static inline void biller_room_request(struct biller_room *room, size_t place, wall_ms when)
{
    struct room *journal = &room->journals[place];
    size_t tenant = unit_random_below(BILLER_TENANTS), model = unit_random_below(BILLER_MODELS);
    struct record close = room_close_record(room->number, when);
    assert_true(room_open(journal, room->number++, when, NULL));
    close.tenant = text_of(BILLER_TENANT_NAMES[tenant]);
    close.model = text_of(BILLER_MODEL_NAMES[model]);
    close.billed = unit_random_below(10) != 0;
    close.input_tokens = (int64_t) unit_random_below(5000);
    close.cached_input_tokens = (int64_t) unit_random_below((size_t) close.input_tokens + 1);
    close.output_tokens = (int64_t) unit_random_below(3000);
    close.output_source = (enum count_source)(1 + unit_random_below(3));
    journal_close(journal->journal, &close, NULL);
    biller_room_expect(room, tenant, model, &close);
}

/* @count of them, @apart_ms from each other, the first at @when. */
static inline void biller_room_requests(struct biller_room *room, size_t place, unsigned count, wall_ms when,
                                        wall_ms apart_ms)
{
    for (unsigned i = 0; i < count; i++) {
        biller_room_request(room, place, when + (wall_ms) i * apart_ms);
        if (i % 16 == 15 || i + 1 == count)
            room_turn(&room->journals[place]);
    }
}

/* ---- what arrived ---- */

struct biller_arrived {
    size_t rows, files;
    struct biller_sums sums;
};

static inline size_t biller_room_place(const char *name, const char *const *names, size_t count)
{
    size_t place = 0;
    while (place < count && strcmp(name, names[place]) != 0)
        place++;
    if (place == count)
        fail_msg("%s is not known", name);
    return place;
}

static inline int biller_room_compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

static inline void biller_room_read_file(const char *path, struct biller_arrived *ret,
                                         char (*ids)[ROW_ID_CHARACTERS + 1])
{
    char line[2048];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        json_t *row = json_loads(line, 0, NULL);
        assert_non_null(row);
        size_t tenant =
            biller_room_place(json_string_value(json_object_get(row, "tenant")), BILLER_TENANT_NAMES, BILLER_TENANTS);
        size_t model =
            biller_room_place(json_string_value(json_object_get(row, "model")), BILLER_MODEL_NAMES, BILLER_MODELS);
        size_t measure =
            biller_room_place(json_string_value(json_object_get(row, "measure")), MEASURE_NAMES, MEASURE_COUNT);
        ret->sums.quantity[tenant][model][measure] += json_integer_value(json_object_get(row, "quantity"));
        assert_true(ret->rows < BILLER_ROWS_MAX);
        snprintf(ids[ret->rows++], sizeof ids[0], "%s", json_string_value(json_object_get(row, "id")));
        json_decref(row);
    }
    fclose(file);
    ret->files++;
}

/* Everything in the provider's directory; no id is there twice. */
static inline struct biller_arrived biller_room_arrived(const struct biller_room *room)
{
    static char ids[BILLER_ROWS_MAX][ROW_ID_CHARACTERS + 1];
    char path[PATH_MAX];
    struct biller_arrived arrived = {0};
    DIR *listing = opendir(room->out);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", room->out, entry->d_name);
        biller_room_read_file(path, &arrived, ids);
    }
    if (listing != NULL)
        closedir(listing);
    qsort(ids, arrived.rows, sizeof ids[0], biller_room_compare);
    for (size_t i = 1; i < arrived.rows; i++)
        assert_string_not_equal(ids[i - 1], ids[i]);
    return arrived;
}

static inline bool biller_room_has_all(const struct biller_room *room)
{
    struct biller_arrived arrived = biller_room_arrived(room);
    return memcmp(&arrived.sums, &room->expected, sizeof arrived.sums) == 0;
}

/* ---- waiting ---- */

/* Valid until the next call. */
static inline const struct biller_status *biller_room_status(const struct biller_room *room)
{
    static struct biller_status status;
    biller_status(room->biller, &status);
    return &status;
}

static inline void biller_room_wait(const struct biller_room *room, bool (*is_there)(const struct biller_room *room))
{
    mono_ms until = clock_mono_ms() + BILLER_WAIT_MS;
    while (!is_there(room)) {
        if (clock_mono_ms() > until)
            fail_msg("it never came; the biller says: %s", biller_room_status(room)->error);
        usleep(20000);
    }
}

/* And nothing more comes. */
static inline void biller_room_wait_for_all(const struct biller_room *room)
{
    biller_room_wait(room, biller_room_has_all);
}

#endif
