/* What would be sent for rows of usage: read from the files, nothing is changed. For processes that end soon. */
#ifndef GATEWAY_BILLING_PREVIEW_H
#define GATEWAY_BILLING_PREVIEW_H

#include <stdbool.h>

#include "conf/policy.h"

struct billing_preview {
    const char *command; /* who asks, for complaints */
    const struct policy *policy;
    const char *row; /* NULL: all that are pending, sent without an answer, or rejected */
    bool json;
};

/* Print it. Returns the exit code of the command. */
int billing_preview(const struct billing_preview *preview);

#endif
