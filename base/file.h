/* Whole writes to a descriptor. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>

#include "base/text.h"

/* Write all of @bytes to the blocking @fd, however many calls it takes. False with errno; a part may have been written.
 */
bool file_write_all(int fd, struct text bytes);

#endif
