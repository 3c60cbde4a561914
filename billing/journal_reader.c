/* One writer's records in order, also while it writes. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "billing/journal.h"
#include "billing/recover.h"

enum { WINDOW_BYTES = 256 * 1024 };

struct journal_reader {
    char directory[PATH_MAX];
    struct journal_position position;
    int fd; /* of the position's segment, or -1: not opened yet */
    size_t window_length;
    uint64_t window_offset;
    bool drained;  /* the window was read after the next segment had its name: nothing more comes in this one */
    bool searched; /* for records behind the place where this segment ended then */
    char window[WINDOW_BYTES];
};

const char *journal_writer_in(const char *directory_name)
{
    size_t digits = strspn(directory_name, "0123456789");
    if (digits == 0 || directory_name[digits] != '-')
        return NULL;
    const char *id = directory_name + digits + 1;
    bool is_id = strlen(id) == WRITER_ID_CHARACTERS && strspn(id, "0123456789abcdef") == WRITER_ID_CHARACTERS;
    return is_id ? id : NULL;
}

static bool segment_path(const struct journal_reader *reader, uint32_t number, char to[PATH_MAX])
{
    struct builder path;
    builder_init(&path, to, PATH_MAX);
    builder_format(&path, "%s/%08u.seg", reader->directory, number);
    (void) builder_string(&path);
    return !path.overflowed;
}

static bool has_segment(const struct journal_reader *reader, uint32_t number)
{
    char path[PATH_MAX];
    return segment_path(reader, number, path) && access(path, F_OK) == 0;
}

/* Segments that are no longer needed may be gone: the lowest number there is; 1 when there is none. */
static uint32_t first_segment(const char *directory)
{
    DIR *listing = opendir(directory);
    int64_t lowest = 0, number = 0;
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;) {
        struct text name = text_of(entry->d_name), digits = {name.at, 8};
        bool is_segment = name.length == 12 && text_equal(text_of(name.at + 8), TEXT(".seg"));
        if (is_segment && text_to_int64(digits, &number) && number > 0 && (lowest == 0 || number < lowest))
            lowest = number;
    }
    if (listing != NULL)
        closedir(listing);
    return lowest > 0 ? (uint32_t) lowest : 1;
}

struct journal_reader *journal_reader_create(const char *writer_directory, const struct journal_position *from)
{
    struct journal_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return NULL;
    text_copy(reader->directory, sizeof reader->directory, text_of(writer_directory));
    reader->fd = -1;
    reader->position = from != NULL ? *from : (struct journal_position){.segment = first_segment(writer_directory)};
    return reader;
}

static void close_segment(struct journal_reader *reader)
{
    if (reader->fd >= 0)
        close(reader->fd);
    reader->fd = -1;
    reader->window_length = 0;
    reader->drained = reader->searched = false;
}

void journal_reader_destroy(struct journal_reader **reader_pointer)
{
    struct journal_reader *reader = *reader_pointer;
    *reader_pointer = NULL;
    if (reader == NULL)
        return;
    close_segment(reader);
    free(reader);
}

struct journal_position journal_reader_position(const struct journal_reader *reader)
{
    return reader->position;
}

static bool open_segment(struct journal_reader *reader)
{
    char path[PATH_MAX];
    if (reader->fd < 0 && segment_path(reader, reader->position.segment, path))
        reader->fd = open(path, O_RDONLY | O_CLOEXEC);
    return reader->fd >= 0;
}

/* Read the window anew at the position. */
static bool fill_window(struct journal_reader *reader)
{
    bool is_last_look = has_segment(reader, reader->position.segment + 1);
    ssize_t length = pread(reader->fd, reader->window, sizeof reader->window, (off_t) reader->position.offset);
    if (length < 0)
        return false;
    reader->window_offset = reader->position.offset;
    reader->window_length = (size_t) length;
    reader->drained = is_last_look;
    return true;
}

static struct text rest_of_window(const struct journal_reader *reader)
{
    size_t skip = (size_t) (reader->position.offset - reader->window_offset);
    if (reader->window_length == 0 || reader->position.offset < reader->window_offset || skip >= reader->window_length)
        return TEXT("");
    return (struct text){reader->window + skip, reader->window_length - skip};
}

static enum journal_read take(struct journal_reader *reader, const struct record *record, size_t length)
{
    const struct journal_position *at = &reader->position;
    bool is_first = at->sequence == 0 && at->offset == 0 && at->segment > 1;
    if (record->sequence != at->sequence + 1 && !is_first)
        return JOURNAL_DAMAGED;
    reader->position.sequence = record->sequence;
    reader->position.offset += length;
    return JOURNAL_RECORD;
}

/* Later than the last one read; also when it cannot be known, because the disk fails. */
static bool has_record_behind(struct journal_reader *reader)
{
    ssize_t length = 0;
    reader->window_length = 0;
    for (uint64_t at = reader->position.offset;; at += (uint64_t) length) {
        length = pread(reader->fd, reader->window, sizeof reader->window, (off_t) at);
        if (length <= 0)
            return length < 0;
        struct text window = {reader->window, (size_t) length};
        if (record_find(window, reader->position.sequence) < window.length)
            return true;
        if (length > RECORD_BYTES_MAX)
            length -= RECORD_BYTES_MAX; /* one may span two windows */
    }
}

/* A tail that a crash tore, or zeros, end the last segment; damage has records behind it. A writer writes in order, so
 * that whatever stands before a record that was seen stands there at the next look. */
static bool is_damaged(struct journal_reader *reader, enum record_result result)
{
    struct record record;
    size_t length = 0;
    bool is_known = reader->searched && result == RECORD_END; /* not at each look: segments are long */
    reader->searched = true;
    return !is_known && has_record_behind(reader) &&
           (!fill_window(reader) || record_decode(rest_of_window(reader), &record, &length) != RECORD_DECODED);
}

/* Nothing whole follows in what has been read of this segment. */
static enum journal_read end_of_segment(struct journal_reader *reader, enum record_result result, bool *ret_again)
{
    if (!reader->drained) {
        /* Looked at before the next segment existed, or never: look once more before leaving this one. */
        if (!has_segment(reader, reader->position.segment + 1))
            return is_damaged(reader, result) ? JOURNAL_DAMAGED : JOURNAL_NO_MORE_YET;
        *ret_again = fill_window(reader);
        return JOURNAL_DAMAGED;
    }
    if (result == RECORD_TORN)
        return JOURNAL_DAMAGED;
    close_segment(reader);
    reader->position.segment++;
    reader->position.offset = 0;
    *ret_again = true;
    return JOURNAL_NO_MORE_YET;
}

enum journal_read journal_read_next(struct journal_reader *reader, struct record *ret)
{
    for (;;) {
        size_t length = 0;
        bool again = false;
        if (!open_segment(reader))
            return errno == ENOENT ? JOURNAL_NO_MORE_YET : JOURNAL_DAMAGED;
        enum record_result result = record_decode(rest_of_window(reader), ret, &length);
        if (result == RECORD_DECODED)
            return take(reader, ret, length);
        /* The window may only have been too short, or too old. */
        if (!fill_window(reader))
            return JOURNAL_DAMAGED;
        result = record_decode(rest_of_window(reader), ret, &length);
        if (result == RECORD_DECODED)
            return take(reader, ret, length);
        enum journal_read end = end_of_segment(reader, result, &again);
        if (!again)
            return end;
    }
}
