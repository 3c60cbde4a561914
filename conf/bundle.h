/* What a bundle holds, for the loader. */
#ifndef CONF_BUNDLE_H
#define CONF_BUNDLE_H

#include "conf/load.h"

enum bundle_kind {
    BUNDLE_MAIN,
    BUNDLE_TENANT, /* a file of tenants_dir */
    BUNDLE_KEYS,
    BUNDLE_KEYS_MISSING, /* no bytes */
    BUNDLE_UNREADABLE,   /* a named file or directory that was not readable; the bytes are the reason in words */
    BUNDLE_KIND_COUNT
};

struct bundle_file {
    enum bundle_kind kind;
    const char *path; /* absolute */
    struct text bytes;
};

enum { BUNDLE_FILES_MAX = 10002, BUNDLE_BYTES_MAX = 64 * 1024 * 1024, CONFIG_FILE_BYTES_MAX = 4 * 1024 * 1024 };

/* The first is the main file; tenants follow in the order of their names. */
struct bundle {
    size_t file_count;
    struct bundle_file *files;
    size_t capacity;
    size_t bytes; /* of all contents */
};

#endif
