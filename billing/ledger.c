/* The ledger's files: JSON lines, made whole under another name first. */
#include "billing/ledger.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/file.h"

enum { LINE_BYTES_MAX = 4096, SCHEMA = 1, EPOCH_DIGITS_MAX = 20 };

static void file_name(const struct ledger_name *name, char to[NAME_MAX + 1])
{
    snprintf(to, NAME_MAX + 1, "%s-%08" PRIu64 ".jsonl", name->writer, name->epoch);
}

static FILE *open_at(int directory, const char *name, int flags)
{
    int fd = openat(directory, name, flags | O_CLOEXEC, 0600);
    FILE *file = fd < 0 ? NULL : fdopen(fd, (flags & O_ACCMODE) == O_RDONLY ? "r" : "w");
    if (file == NULL)
        (void) file_close_after(fd, false);
    return file;
}

/* ---- write ---- */

static void put_member(struct builder *line, const char *name, struct text value)
{
    builder_format(line, "\"%s\":", name);
    builder_add_json(line, value);
    builder_add(line, TEXT(","));
}

static bool put_cell(FILE *file, const struct cell *cell)
{
    char memory[LINE_BYTES_MAX];
    struct builder line;
    builder_init(&line, memory, sizeof memory);
    builder_add(&line, TEXT("{"));
    put_member(&line, "tenant", cell->tenant);
    put_member(&line, "key", cell->key);
    put_member(&line, "model", cell->model);
    builder_format(&line, "\"measure\":\"%s\",\"source\":\"%s\",\"quantity\":%" PRId64 "}\n",
                   MEASURE_NAMES[cell->measure], COUNT_SOURCE_NAMES[cell->source], cell->quantity);
    if (line.overflowed)
        errno = ENAMETOOLONG;
    return !line.overflowed && fputs(builder_string(&line), file) >= 0;
}

static bool put_epoch(FILE *file, const struct ledger_head *head, const struct cells *cells)
{
    struct cell *sorted = cells_sorted(cells);
    size_t count = cells_count(cells);
    bool good =
        sorted != NULL && fprintf(file,
                                  "{\"schema\":%d,\"writer\":\"%s\",\"epoch\":%" PRIu64 ",\"began\":%" PRId64
                                  ",\"ended\":%" PRId64 ",\"cells\":%zu}\n",
                                  SCHEMA, head->name.writer, head->name.epoch, head->began, head->ended, count) > 0;
    for (size_t i = 0; i < count && good; i++)
        good = put_cell(file, &sorted[i]);
    free(sorted);
    return good && fflush(file) == 0 && fsync(fileno(file)) == 0;
}

static bool write_at(int directory, const struct ledger_head *head, const struct cells *cells)
{
    char name[NAME_MAX + 1], temporary[NAME_MAX + 8];
    file_name(&head->name, name);
    if (faccessat(directory, name, F_OK, 0) == 0)
        return fsync(directory) == 0; /* its name may be younger than the last sync */
    snprintf(temporary, sizeof temporary, "%s.tmp", name);
    FILE *file = open_at(directory, temporary, O_WRONLY | O_CREAT | O_TRUNC);
    if (file == NULL)
        return false;
    bool good = put_epoch(file, head, cells);
    int error = errno;
    if (fclose(file) != 0 && good) {
        good = false;
        error = errno;
    }
    if (good && renameat(directory, temporary, directory, name) == 0)
        return fsync(directory) == 0;
    error = good ? errno : error;
    unlinkat(directory, temporary, 0);
    errno = error;
    return false;
}

bool ledger_write(const char *directory, const struct ledger_head *head, const struct cells *cells)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return file_close_after(fd, fd >= 0 && write_at(fd, head, cells));
}

/* ---- list ---- */

static bool parse_file_name(const char *name, struct ledger_name *ret)
{
    static const char digits[] = "0123456789";
    if (strspn(name, "0123456789abcdef") != WRITER_ID_CHARACTERS || name[WRITER_ID_CHARACTERS] != '-')
        return false;
    const char *epoch = name + WRITER_ID_CHARACTERS + 1;
    size_t length = strspn(epoch, digits);
    if (length == 0 || length > EPOCH_DIGITS_MAX || strcmp(epoch + length, ".jsonl") != 0)
        return false;
    memcpy(ret->writer, name, WRITER_ID_CHARACTERS);
    ret->writer[WRITER_ID_CHARACTERS] = '\0';
    ret->epoch = strtoull(epoch, NULL, 10);
    char again[NAME_MAX + 1];
    file_name(ret, again);
    return strcmp(name, again) == 0;
}

int ledger_name_compare(const void *left, const void *right)
{
    const struct ledger_name *a = left, *b = right;
    int order = strcmp(a->writer, b->writer);
    return order != 0 ? order : (a->epoch > b->epoch) - (a->epoch < b->epoch);
}

static bool add_name(struct ledger_name **names, size_t *count, const struct ledger_name *name)
{
    if ((*count & (*count - 1)) == 0) { /* full: the capacity is a power of two */
        struct ledger_name *more = realloc(*names, (*count == 0 ? 1 : *count * 2) * sizeof *more);
        if (more == NULL)
            return false;
        *names = more;
    }
    (*names)[(*count)++] = *name;
    return true;
}

bool ledger_list(const char *directory, struct ledger_name **ret, size_t *ret_count)
{
    *ret = NULL;
    *ret_count = 0;
    DIR *entries = opendir(directory);
    if (entries == NULL)
        return errno == ENOENT;
    struct ledger_name name;
    bool good = true;
    errno = 0;
    for (struct dirent *entry = readdir(entries); entry != NULL && good; entry = readdir(entries)) {
        good = !parse_file_name(entry->d_name, &name) || add_name(ret, ret_count, &name);
        errno = good ? 0 : errno;
    }
    int error = errno;
    closedir(entries);
    if (error != 0) {
        free(*ret);
        *ret = NULL;
        *ret_count = 0;
        errno = error;
        return false;
    }
    if (*ret_count > 0)
        qsort(*ret, *ret_count, sizeof **ret, ledger_name_compare);
    return true;
}

/* ---- read ---- */

/* The next line's object, or NULL. */
static json_t *next_line(FILE *file)
{
    char line[LINE_BYTES_MAX];
    if (fgets(line, sizeof line, file) == NULL)
        return NULL;
    size_t length = strlen(line);
    bool is_whole = length > 0 && line[length - 1] == '\n';
    json_t *object = is_whole ? json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (object != NULL && json_is_object(object))
        return object;
    json_decref(object);
    return NULL;
}

static bool read_head(FILE *file, const struct ledger_name *name, struct ledger_head *ret)
{
    json_t *line = next_line(file);
    json_int_t schema, epoch, began, ended, count;
    const char *writer;
    bool good = line != NULL &&
                json_unpack(line, "{s:I, s:s, s:I, s:I, s:I, s:I}", "schema", &schema, "writer", &writer, "epoch",
                            &epoch, "began", &began, "ended", &ended, "cells", &count) == 0 &&
                schema == SCHEMA && strcmp(writer, name->writer) == 0 && (uint64_t) epoch == name->epoch &&
                began <= ended && count >= 0 && count <= CELLS_MAX;
    if (good)
        *ret = (struct ledger_head){.name = *name, .began = began, .ended = ended, .cell_count = (size_t) count};
    json_decref(line);
    return good;
}

static struct text string_in(json_t *line, const char *member)
{
    json_t *value = json_object_get(line, member);
    return (struct text){json_string_value(value), json_string_length(value)};
}

/* The place of @name among @count names, or @count. */
static int place_of(struct text name, const char *const *names, int count)
{
    int place = 0;
    while (place < count && !text_equal(name, text_of(names[place])))
        place++;
    return place;
}

static bool read_cell(FILE *file, struct cells *cells)
{
    enum { SOURCE_COUNT = sizeof COUNT_SOURCE_NAMES / sizeof COUNT_SOURCE_NAMES[0] };
    json_t *line = next_line(file);
    if (line == NULL)
        return false;
    int measure = place_of(string_in(line, "measure"), MEASURE_NAMES, MEASURE_COUNT);
    int source = place_of(string_in(line, "source"), COUNT_SOURCE_NAMES, SOURCE_COUNT);
    struct cell cell = {.tenant = string_in(line, "tenant"),
                        .key = string_in(line, "key"),
                        .model = string_in(line, "model"),
                        .measure = (enum measure) measure,
                        .source = (enum count_source) source,
                        .quantity = json_integer_value(json_object_get(line, "quantity"))};
    bool good = measure < MEASURE_COUNT && source < SOURCE_COUNT && cell.tenant.at != NULL && cell.key.at != NULL &&
                cell.model.at != NULL && cell.quantity > 0 && cells_add(cells, &cell);
    json_decref(line);
    return good;
}

/* As many cells as the head says, each different, and nothing behind them. */
static struct cells *read_cells(FILE *file, size_t count)
{
    struct cells *cells = cells_create();
    bool good = cells != NULL;
    for (size_t i = 0; i < count && good; i++)
        good = read_cell(file, cells);
    if (good && cells_count(cells) == count && fgetc(file) == EOF && !ferror(file))
        return cells;
    cells_destroy(&cells);
    return NULL;
}

bool ledger_read(const char *directory, const struct ledger_name *name, struct ledger_head *ret,
                 struct cells **ret_cells)
{
    char file_text[NAME_MAX + 1];
    file_name(name, file_text);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : open_at(fd, file_text, O_RDONLY);
    if (!file_close_after(fd, file != NULL))
        return false;
    errno = 0;
    bool good = read_head(file, name, ret);
    if (good && ret_cells != NULL)
        good = (*ret_cells = read_cells(file, ret->cell_count)) != NULL;
    int error = errno == ENOMEM || errno == EIO ? errno : EBADMSG;
    fclose(file);
    errno = error;
    return good;
}

size_t ledger_expire(const char *directory, wall_ms before, ledger_may_go *may_go, void *owner)
{
    struct ledger_name *names;
    size_t count, gone = 0;
    const char *young = ""; /* the writer whose later epochs are younger still */
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || !ledger_list(directory, &names, &count)) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        struct ledger_head head;
        char name[NAME_MAX + 1];
        if (strcmp(names[i].writer, young) == 0 || !ledger_read(directory, &names[i], &head, NULL))
            continue;
        file_name(&names[i], name);
        if (head.ended >= before)
            young = names[i].writer;
        else if (may_go(owner, &head))
            gone += unlinkat(fd, name, 0) == 0;
    }
    free(names);
    close(fd);
    return gone;
}
