/* Linked into the gateway of the ledger test: journals with segments of TOLLGATE_SEGMENT_BYTES, so that a disk can be
 * full within seconds. The linker puts it between the gateway and journal_create (--wrap). */
#include <stdlib.h>

#include "billing/journal.h"

struct journal *__real_journal_create(struct loop *loop, const struct journal_options *options);
struct journal *__wrap_journal_create(struct loop *loop, const struct journal_options *options);

struct journal *__wrap_journal_create(struct loop *loop, const struct journal_options *options)
{
    struct journal_options small = *options;
    const char *wanted = getenv("TOLLGATE_SEGMENT_BYTES");
    if (wanted != NULL)
        small.segment_bytes = strtoll(wanted, NULL, 10);
    return __real_journal_create(loop, &small);
}
