/* Usage and what it costs as a file for other programs: the same bytes whenever it is asked for, with a manifest. */
#ifndef BILLING_EXPORT_H
#define BILLING_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "billing/ledger.h"
#include "conf/policy.h"

enum export_format { EXPORT_CSV, EXPORT_JSONL, EXPORT_FORMAT_COUNT };
extern const char *const EXPORT_FORMAT_NAMES[EXPORT_FORMAT_COUNT]; /* "csv", "jsonl": also the file's ending */

/* What a row is the sum of; without one of them, over all of its values. Bits: 1u << enum export_group. A row never
 * sums two currencies, nor what has a price and what has none. */
enum export_group { EXPORT_BY_TENANT, EXPORT_BY_KEY, EXPORT_BY_MODEL, EXPORT_BY_HOUR, EXPORT_GROUP_COUNT };
extern const char *const EXPORT_GROUP_NAMES[EXPORT_GROUP_COUNT]; /* "tenant", "key", "model", "hour" */

enum { EXPORT_NAME_BYTES = 96, EXPORT_BYTES_MAX = 1 << 30 };

struct export_request {
    const struct policy *policy; /* prices and customers */
    const char *ledger_directory;
    const char *out_directory; /* made when its parent is there */
    wall_ms from, to;          /* full UTC hours: from <= ended < to */
    enum export_format format;
    unsigned group_bits;
    bool complete; /* the caller knows that every epoch of the window is in the ledger; the manifest says so */
};

struct export_result {
    char file[EXPORT_NAME_BYTES]; /* the manifest's name has ".manifest.json" behind it */
    size_t rows;
    size_t epochs;
};

/* Write the file, then its manifest, each whole or not at all. False with errno: EINVAL (the window), EOVERFLOW (a
 * sum), EFBIG (EXPORT_BYTES_MAX), EBADMSG (a damaged ledger file), and those of the disk. */
bool export_write(const struct export_request *request, struct export_result *ret);

#endif
