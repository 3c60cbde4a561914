/* A directory that lives as long as one test, and files in it. */
#ifndef TESTS_UNIT_CONF_SCRATCH_H
#define TESTS_UNIT_CONF_SCRATCH_H

#include "tests/lib/unit.h"

#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SCRATCH_PATH_BYTES = 256 };
static char scratch_directory[SCRATCH_PATH_BYTES];

static inline int scratch_create(void **state)
{
    (void) state;
    snprintf(scratch_directory, sizeof(scratch_directory), "/tmp/tollgate-unit-XXXXXX");
    return mkdtemp(scratch_directory) != NULL ? 0 : -1;
}

static inline int scratch_remove(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void) status, (void) kind, (void) where;
    return remove(path);
}

static inline int scratch_destroy(void **state)
{
    (void) state;
    return nftw(scratch_directory, scratch_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* The path of @name in the directory; four of them may be in use at a time. */
static inline const char *scratch_path(const char *name)
{
    static char paths[4][2 * SCRATCH_PATH_BYTES];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", scratch_directory, name);
    return path;
}

/* Write @content as @name, 0600. Returns its path. */
static inline const char *scratch_write(const char *name, const char *content)
{
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, strlen(content), file), strlen(content));
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0600), 0);
    return path;
}

#endif
