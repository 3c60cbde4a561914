/* The inside of row states, for their own files. */
#ifndef BILLING_ROW_STATE_PRIVATE_H
#define BILLING_ROW_STATE_PRIVATE_H

#include <stdio.h>
#include <sys/types.h>

#include "billing/row_state.h"

/* ---- row_line.c: what stands in the files ---- */

/* How far the rows of a writer are made, whether they are here or went. */
struct row_mark {
    char writer[WRITER_ID_CHARACTERS + 1];
    uint64_t made;
};

/* What is known of rows that went. */
struct row_gone {
    uint64_t acked, duplicate;
    wall_ms last_delivered;
};

enum { ROW_LINE_BYTES_MAX = 8192 };
enum row_line { ROW_LINE_ENTRY, ROW_LINE_MARK, ROW_LINE_GONE, ROW_LINE_ALIVE, ROW_LINE_DAMAGED };
union row_line_content {
    struct row_entry entry; /* without its provider */
    struct row_mark mark;
    struct row_gone gone;
    wall_ms alive;
};

/* Each returns the length, with the newline; 0 when it cannot be a line. */
size_t row_line_make(const struct row_entry *entry, char to[ROW_LINE_BYTES_MAX]);
size_t row_line_make_mark(const struct row_mark *mark, char to[ROW_LINE_BYTES_MAX]);
size_t row_line_make_gone(const struct row_gone *gone, char to[ROW_LINE_BYTES_MAX]);
size_t row_line_make_alive(wall_ms alive, char to[ROW_LINE_BYTES_MAX]);
/* @line is without its newline. */
enum row_line row_line_read(struct text line, union row_line_content *ret);

/* ---- row_pack.c: a row that is not looked at often ---- */

struct row_packed;

/* The caller's, to free(). NULL: no memory. */
struct row_packed *row_pack(const struct row_entry *entry);
void row_unpack(const struct row_packed *packed, enum provider_kind provider, struct row_entry *ret);
const char *row_packed_id(const struct row_packed *packed);

/* ---- row_state.c ---- */

struct row_kept {
    struct row_entry *entry;   /* one of the two */
    struct row_packed *packed; /* neither pending nor sent */
    enum row_state state;
    uint32_t hash;           /* of its id */
    uint32_t previous, next; /* of those that are not delivered: 1 + the place; 0 = none */
    bool went;               /* recalled: it stands in the file of its hour */
};

/* Packed rows as they were looked at last. */
struct row_look {
    struct row_entry entries[ROW_LOOKS_MAX];
    size_t next;
};

struct row_states {
    enum provider_kind provider;
    char *directory;
    int fd;       /* -1 = to look at only */
    off_t length; /* of the whole lines in the file, */
    size_t lines; /* and how many those are */
    bool must_sync_directory;
    struct row_kept *kept;
    size_t count, capacity;
    uint32_t *slots; /* by id: 1 + the place; 0 = free. A power of two, at most half full */
    size_t slot_count;
    uint32_t first, last; /* of those that are not delivered: 1 + the place; 0 = none */
    struct row_mark_held *marks;
    struct row_gone gone;
    uint64_t counts[ROW_STATE_COUNT]; /* of those that are here and did not go */
    wall_ms last_delivered;
    wall_ms alive;
    wall_ms *recalled; /* hours */
    size_t recalled_count, recalled_capacity;
    struct row_look *look;
    uint64_t moves, shifts;
};

/* Give each line of @file to @take, which is false with EBADMSG for a damaged one: that can only be the last, torn.
 * @ret_length: of the whole ones. False with errno. */
typedef bool row_line_take(struct row_states *states, struct text line);
bool row_lines_read(struct row_states *states, FILE *file, row_line_take *take, off_t *ret_length);
/* The directory's entries are on the disk; else row_states_sync tries again. False with errno. */
bool row_states_sync_directory(struct row_states *states);

/* ---- row_table.c ---- */

/* NULL when it is not there. */
struct row_kept *row_table_find(const struct row_states *states, const char *id);
/* Room for one more. False: no memory. */
bool row_table_make_room(struct row_states *states);
/* A new row; there is room. @went: it stands in the file of its hour. False: no memory for it. */
bool row_table_add(struct row_states *states, const struct row_entry *entry, bool went);
/* Have the row as an entry. False: no memory. */
bool row_table_make_whole(struct row_states *states, struct row_kept *kept);
/* What became of a row that is an entry. */
void row_table_change(struct row_states *states, struct row_kept *kept, const struct row_entry *entry);
/* What is neither pending nor sent is not looked at often. */
void row_table_pack(struct row_states *states);
/* All rows and marks; what was allocated for them. */
void row_table_finish(struct row_states *states);
/* Remove the rows for whose places @leaves holds true. */
void row_table_forget(struct row_states *states, const bool *leaves);
/* How far the writer is made. NULL: it is not known. */
struct row_mark *row_table_find_mark(const struct row_states *states, const char *writer);
/* The same, new with 0 when it is not known. NULL: no memory. */
struct row_mark *row_table_mark(struct row_states *states, const char *writer);
/* All of them, the first behind NULL; NULL = there is none behind @mark. */
const struct row_mark *row_table_next_mark(const struct row_states *states, const struct row_mark *mark);
size_t row_table_mark_count(const struct row_states *states);
void row_mark_raise(struct row_mark *mark, uint64_t epoch);

#endif
