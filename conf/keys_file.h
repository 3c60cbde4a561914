/* The keys file: what `tollgate keys` manages, one record a line; read by the loader, appended to by the command. */
#ifndef CONF_KEYS_FILE_H
#define CONF_KEYS_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/text.h"

/* A line: `<tenant> <name> <sha256 hex> [user=<user>] [expires=<RFC 3339>] [models=<glob,glob>] [endpoints=<name,name>]
 * [disabled]`;
 * '#' starts a comment; blank lines are skipped. Slices point into the line. */
struct keys_file_record {
    struct text tenant;
    struct text name;
    uint8_t sha256[32];
    struct text user;
    wall_ms expires_wall_ms; /* 0 = never */
    struct text models;      /* as written, "" = not limited */
    struct text endpoints;
    bool disabled;
};

enum keys_file_result { KEYS_FILE_RECORD, KEYS_FILE_BLANK, KEYS_FILE_BAD };

/* @ret_error: on BAD, a constant message that says what is wrong, and its byte column (0-based) in @ret_column. */
enum keys_file_result keys_file_parse_line(struct text line, struct keys_file_record *ret, const char **ret_error,
                                           size_t *ret_column);
/* Append the record to @path (made 0600 when missing), under a lock, with fsync. False with errno. */
bool keys_file_append(const char *path, const struct keys_file_record *record);

#endif
