/* How the files of conf/ tell what is wrong, and where. */
#ifndef CONF_PROBLEMS_H
#define CONF_PROBLEMS_H

#include "conf/load.h"

enum { PROBLEMS_SHOWN_MAX = 100 };

/* Where something stands in a file. Line and column count from 1; @file lives as long as the document does. */
struct place {
    const char *file;
    unsigned line;
    unsigned column;
};

/* The way a user would write the path of a file: relative when it is below the current directory. */
struct text problem_shown_path(const char *file);

/* Add one line. The message says what is wrong and what to do, never a secret. After PROBLEMS_SHOWN_MAX lines problems
 * are counted, but no longer shown. */
__attribute__((format(printf, 3, 4))) void problem_error(struct problem_list *problems, struct place place,
                                                         const char *format, ...);
__attribute__((format(printf, 3, 4))) void problem_warning(struct problem_list *problems, struct place place,
                                                           const char *format, ...);

#endif
