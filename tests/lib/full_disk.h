/* A disk that is full: no file of this process grows beyond some length. */
#ifndef TESTS_LIB_FULL_DISK_H
#define TESTS_LIB_FULL_DISK_H

#include <signal.h>
#include <sys/resource.h>

#include "tests/lib/unit.h"

/* Writes beyond @length fail with EFBIG. */
static inline void full_disk_at(rlim_t length)
{
    struct rlimit limit;
    (void) signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = length;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* There is room again. */
static inline void full_disk_end(void)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

#endif
