/* What is handed to a provider: an epoch's cells summed by (tenant, meter), under names that are the same whoever sums
 * them, and whenever. Pure. */
#ifndef BILLING_ROW_H
#define BILLING_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "billing/ledger.h"
#include "conf/policy.h"

enum {
    ROW_ID_CHARACTERS = 44, /* "tg1-" and 40 of base32: 200 bits of a digest */
    ROW_METER_BYTES_MAX = 160,
    INSTALL_ID_CHARACTERS = 32 /* 128 random bits of this installation, in lower-case hexadecimal */
};

/* What a row is the sum of, and with that its identifier. */
struct row_name {
    enum provider_kind provider;
    struct ledger_name epoch;
    char tenant[RECORD_NAME_BYTES_MAX + 1];
    /* The provider's event name. "<measure>/<model>" where no meter is needed (a file), and where none takes the model:
     * then the row is held. */
    char meter[ROW_METER_BYTES_MAX + 1];
};

/* A plain value. */
struct row {
    struct row_name name;
    char id[ROW_ID_CHARACTERS + 1];           /* of revision 0: the row's name for people and in states */
    char model[RECORD_NAME_BYTES_MAX + 1];    /* "" when the meter sums several */
    bool metered;                             /* the provider has (or needs no) meter for it */
    char event_name[ROW_METER_BYTES_MAX + 1]; /* of the meter that was added for a held row; "" = as @name says */
    enum measure measure;
    int64_t quantity; /* > 0 */
    wall_ms began, ended;
};

/* Whether @meter sums usage of @model. */
bool meter_takes_model(const struct meter_policy *meter, struct text model);
/* What the provider calls the row's meter. */
const char *row_event_name(const struct row *row);

/* The identifier by which the provider knows a row, the same for ever; it differs between two rows, installations,
 * providers and revisions. A revision above 0 is what is sent instead of a rejected one. */
void row_identifier(const struct row_name *name, const char install_id[INSTALL_ID_CHARACTERS + 1], unsigned revision,
                    char to[ROW_ID_CHARACTERS + 1]);

/* The rows of one epoch for one provider, in order of tenant and meter; sums of 0 make none. A measure that no meter
 * takes makes no row, unless no meter at all takes the model: then each of its measures makes one that is not metered.
 * The array is the caller's, to free(). False with errno: ENOMEM, EOVERFLOW (a sum). */
struct row_source {
    const struct provider_policy *provider;
    const char *install_id;
    const struct ledger_head *head;
    const struct cells *cells;
};
bool rows_make(const struct row_source *source, struct row **ret, size_t *ret_count);

#endif
