/* `tollgate journal dump` and `journal verify`: what the usage journals say, and whether they keep their rules. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "billing/journal_verify.h"
#include "conf/files.h"
#include "gateway/command.h"

enum {
    SEGMENT_NAME_LENGTH = 12, /* "00000001.seg" */
    SEGMENT_BYTES_MAX = 1024 * 1024 * 1024
};

/* One `dump` or `verify` over one writer's files after the other. */
struct walk {
    const char *name; /* the command's, for messages */
    bool prints, json;
    bool is_damaged;
    uint64_t last_sequence;            /* of the writer at hand */
    struct journal_verifier *verifier; /* of the writer at hand; NULL when records are only printed */
    uint64_t writers, segments;
    struct journal_summary sum; /* of the writers that are done with */
};

static bool is_segment(const char *name)
{
    int64_t number;
    return strlen(name) == SEGMENT_NAME_LENGTH && strcmp(name + SEGMENT_NAME_LENGTH - 4, ".seg") == 0 &&
           text_to_int64((struct text){name, SEGMENT_NAME_LENGTH - 4}, &number) && number > 0;
}

/* ---- printing ---- */

static const char *const TYPE_NAMES[] = {NULL, "OPEN", "PROGRESS", "CLOSE", "SEAL", "FINISH"};
static const char *const END_NAMES[] = {NULL, "complete", "client_gone", "engine_error", "cut", "crash"};

enum { LINE_BYTES = 8192 }; /* four names, each byte escaped at worst */

static void add_name(struct builder *to, bool json, const char *name, struct text value)
{
    builder_format(to, json ? ",\"%s\":" : " %s ", name);
    builder_add_json_repaired(to, value);
}

static void add_word(struct builder *to, bool json, const char *name, const char *value)
{
    builder_format(to, json ? ",\"%s\":\"%s\"" : " %s %s", name, value);
}

static void add_number(struct builder *to, bool json, const char *name, int64_t value)
{
    builder_format(to, json ? ",\"%s\":%lld" : " %s %lld", name, (long long) value);
}

static void add_close(struct builder *to, bool json, const struct record *record)
{
    add_number(to, json, "input_tokens", record->input_tokens);
    add_number(to, json, "cached_input_tokens", record->cached_input_tokens);
    add_word(to, json, "input_source", COUNT_SOURCE_NAMES[record->input_source]);
    add_number(to, json, "output_tokens", record->output_tokens);
    add_word(to, json, "output_source", COUNT_SOURCE_NAMES[record->output_source]);
    add_word(to, json, "end", END_NAMES[record->end]);
    builder_format(to, json ? ",\"billed\":%s" : " billed %s",
                   record->billed ? (json ? "true" : "yes") : (json ? "false" : "no"));
    builder_format(to, json ? ",\"epoch\":%llu" : " epoch %llu", (unsigned long long) record->epoch);
}

static void add_fields(struct builder *to, bool json, const struct record *record)
{
    char began[CLOCK_TEXT_BYTES];
    bool has_names = record->type == RECORD_OPEN || record->type == RECORD_CLOSE;
    if (has_names || record->type == RECORD_PROGRESS)
        add_name(to, json, "request_id", record->request_id);
    if (has_names) {
        add_name(to, json, "tenant", record->tenant);
        add_name(to, json, "key", record->key);
        add_name(to, json, "model", record->model);
    }
    if (record->type == RECORD_OPEN)
        add_number(to, json, "input_estimate", record->input_tokens);
    if (record->type == RECORD_PROGRESS)
        add_number(to, json, "output_tokens", record->output_tokens);
    if (record->type == RECORD_CLOSE)
        add_close(to, json, record);
    if (record->type == RECORD_SEAL) {
        builder_format(to, json ? ",\"epoch\":%llu" : " epoch %llu", (unsigned long long) record->epoch);
        add_word(to, json, "began", clock_text(record->epoch_began, began));
    }
}

/* One line; in JSON one document. */
static void print_record(const struct walk *walk, const char *file, uint64_t offset, const struct record *record)
{
    char memory[LINE_BYTES], when[CLOCK_TEXT_BYTES];
    bool is_dated = record->when != 0; /* FINISH is not */
    struct builder line;
    builder_init(&line, memory, sizeof(memory));
    if (walk->json) {
        builder_add_string(&line, "{\"file\":");
        builder_add_json_repaired(&line, text_of(file));
        builder_format(&line, ",\"offset\":%llu,\"sequence\":%llu,\"type\":\"%s\"", (unsigned long long) offset,
                       (unsigned long long) record->sequence, TYPE_NAMES[record->type]);
        if (is_dated)
            add_word(&line, true, "when", clock_text(record->when, when));
        else
            builder_add_string(&line, ",\"when\":null");
    } else {
        builder_format(&line, "%s:%llu #%llu %s %-8s", file, (unsigned long long) offset,
                       (unsigned long long) record->sequence, is_dated ? clock_text(record->when, when) : "-",
                       TYPE_NAMES[record->type]);
    }
    add_fields(&line, walk->json, record);
    if (walk->json)
        builder_add_string(&line, "}");
    puts(builder_string(&line));
}

/* ---- one segment ---- */

/* Says what is wrong, where. */
static void say_damage(struct walk *walk, const char *file, uint64_t offset, const char *what)
{
    fflush(stdout);
    command_fail(walk->name, "%s:%llu: %s", file, (unsigned long long) offset, what);
    walk->is_damaged = true;
}

static bool is_zero(struct text bytes)
{
    return bytes.length == 0 || (bytes.at[0] == 0 && memcmp(bytes.at, bytes.at + 1, bytes.length - 1) == 0);
}

/* All records of @rest that are whole, one behind the other. Returns how many bytes they have; at what the verifier
 * does not like they end. */
static size_t walk_records(struct walk *walk, const char *file, uint64_t offset, struct text rest)
{
    struct record record;
    size_t length = 0, at = 0;
    while (record_decode((struct text){rest.at + at, rest.length - at}, &record, &length) == RECORD_DECODED) {
        if (walk->prints)
            print_record(walk, file, offset + at, &record);
        const char *wrong = walk->verifier != NULL ? journal_verifier_take(walk->verifier, &record) : NULL;
        if (wrong != NULL) {
            say_damage(walk, file, offset + at, wrong);
            break;
        }
        walk->last_sequence = record.sequence;
        at += length;
    }
    return at;
}

/* What is printed goes on behind damage; what is verified ends there. */
static void walk_bytes(struct walk *walk, const char *file, struct text bytes)
{
    struct record record;
    size_t at = 0, length = 0;
    while (at < bytes.length) {
        at += walk_records(walk, file, at, (struct text){bytes.at + at, bytes.length - at});
        struct text rest = {bytes.at + at, bytes.length - at};
        if (is_zero(rest) || (walk->verifier != NULL && walk->is_damaged))
            return;
        bool is_hole = record_decode(rest, &record, &length) == RECORD_END;
        say_damage(walk, file, at,
                   is_hole ? "zeros where a record should be, and more after them"
                           : "no whole record: its writer died here, or the file is damaged");
        if (!walk->prints)
            return;
        at += record_find(rest, walk->last_sequence);
    }
}

/* Segments end in zeros, and their writer may be adding to them, or end the file there. */
static bool walk_segment(struct walk *walk, const char *file)
{
    struct file_content content;
    int error = file_read(file, SEGMENT_BYTES_MAX, &content);
    if (error != 0) {
        command_fail(walk->name, "%s: %s", file, file_error_text(error));
        return false;
    }
    walk_bytes(walk, file, (struct text){content.bytes, content.length});
    free(content.bytes);
    walk->segments++;
    return walk->prints || !walk->is_damaged;
}

/* ---- one writer ---- */

static bool begin_writer(struct walk *walk, bool verifies, bool is_whole)
{
    walk->last_sequence = 0;
    walk->verifier = verifies ? journal_verifier_create(is_whole) : NULL;
    if (verifies && walk->verifier == NULL)
        command_fail(walk->name, "memory is exhausted");
    return !verifies || walk->verifier != NULL;
}

static void end_writer(struct walk *walk)
{
    if (walk->verifier != NULL) {
        struct journal_summary found = journal_verifier_summary(walk->verifier);
        walk->sum.records += found.records;
        walk->sum.opens += found.opens;
        walk->sum.closes += found.closes;
        walk->sum.seals += found.seals;
        walk->sum.still_open += found.still_open;
    }
    journal_verifier_destroy(&walk->verifier);
    walk->writers++;
}

static int segments_only(const struct dirent *entry)
{
    return is_segment(entry->d_name);
}

static int all_but_dots(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static const char *join(char to[PATH_MAX], const char *directory, const char *name)
{
    struct builder path;
    builder_init(&path, to, PATH_MAX);
    builder_format(&path, "%s/%s", directory, name);
    return builder_string(&path);
}

static void free_listing(struct dirent **listing, int count)
{
    for (int i = 0; i < count; i++)
        free(listing[i]);
    free(listing);
}

/* Returns how many segments there are; below 0 = false (said). */
static int walk_writer(struct walk *walk, const char *directory, bool verifies)
{
    char path[PATH_MAX];
    struct dirent **listing = NULL;
    int count = scandir(directory, &listing, segments_only, alphasort);
    if (count < 0 && errno == ENOTDIR)
        return 0;
    if (count < 0)
        command_fail(walk->name, "%s: %s", directory, strerror(errno));
    if (count <= 0) {
        free(listing);
        return count;
    }
    bool ok = begin_writer(walk, verifies, strcmp(listing[0]->d_name, "00000001.seg") == 0);
    for (int i = 0; ok && i < count; i++)
        ok = walk_segment(walk, join(path, directory, listing[i]->d_name));
    end_writer(walk);
    free_listing(listing, count);
    return ok ? count : -1;
}

/* A writer's directory, or the one in which all writers have theirs. */
static bool walk_directory(struct walk *walk, const char *directory, bool verifies)
{
    char path[PATH_MAX];
    struct dirent **listing = NULL;
    int found = walk_writer(walk, directory, verifies);
    if (found != 0)
        return found > 0;
    int count = scandir(directory, &listing, all_but_dots, alphasort);
    for (int i = 0; found >= 0 && i < count; i++) {
        if (listing[i]->d_type != DT_REG)
            found = walk_writer(walk, join(path, directory, listing[i]->d_name), verifies);
    }
    free_listing(listing, count);
    if (found >= 0 && walk->writers == 0)
        command_fail(walk->name, "%s: no journal is there", directory);
    return found >= 0 && walk->writers > 0;
}

static bool walk_path(struct walk *walk, const char *path, bool verifies)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        command_fail(walk->name, "%s: %s", path, strerror(errno));
        return false;
    }
    if (S_ISDIR(status.st_mode))
        return walk_directory(walk, path, verifies);
    const char *slash = strrchr(path, '/');
    bool is_first = strcmp(slash != NULL ? slash + 1 : path, "00000001.seg") == 0;
    bool ok = begin_writer(walk, verifies, is_first) && walk_segment(walk, path);
    end_writer(walk);
    return ok;
}

/* ---- the commands ---- */

int command_journal_dump(int argc, char **argv)
{
    struct walk walk = {.name = "journal dump", .prints = true};
    const char *path = NULL;
    const struct command_option options[] = {COMMAND_OPTION_JSON(&walk.json)};
    const struct command_usage usage = {
        .name = walk.name,
        .synopsis = "FILE|DIR [--json]",
        .about = "Print every record of a segment, of a writer's directory, or of all writers in state_dir/journal,\n"
                 "one a line: requests, tenants, keys' names and token counts; no text and no secret is in there.\n\n"
                 "What is damaged is said with file:offset, and passed over.\n\n"
                 "Exit codes: 0 done, 1 something could not be read, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .word = &path,
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    if (path == NULL)
        return command_usage_error(walk.name, "which journal? FILE or DIR is missing");
    return walk_path(&walk, path, false) && !walk.is_damaged ? COMMAND_DONE : COMMAND_FAILED;
}

int command_journal_verify(int argc, char **argv)
{
    struct walk walk = {.name = "journal verify"};
    const char *path = NULL;
    const struct command_usage usage = {
        .name = walk.name,
        .synopsis = "FILE|DIR",
        .about = "Check a segment, a writer's directory, or all writers in state_dir/journal: checksums, sequence,\n"
                 "one OPEN and at most one CLOSE for each request, epochs within an hour and sealed once.\n\n"
                 "Exit codes: 0 right, 1 damage (the first is said with file:offset), 2 usage.\n",
        .word = &path,
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    if (path == NULL)
        return command_usage_error(walk.name, "which journal? FILE or DIR is missing");
    if (!walk_path(&walk, path, true))
        return COMMAND_FAILED;
    printf("ok: %llu writer(s), %llu segment(s), %llu records; %llu requests, %llu of them open; %llu epochs sealed\n",
           (unsigned long long) walk.writers, (unsigned long long) walk.segments, (unsigned long long) walk.sum.records,
           (unsigned long long) walk.sum.opens, (unsigned long long) walk.sum.still_open,
           (unsigned long long) walk.sum.seals);
    return COMMAND_DONE;
}
