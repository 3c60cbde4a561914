/* What the estimator learned, kept in state_dir/estimates over restarts. Control thread only. */
#ifndef GATEWAY_LEARNED_H
#define GATEWAY_LEARNED_H

#include "conf/policy.h"

struct gateway;

/* Read the file, if there is one, and save from now on: every minute, and soon after a model's content was first
 * learned of. A file that cannot be read is said and left behind. */
void learned_begin(struct gateway *gateway, const struct policy *policy);
/* Save a last time. */
void learned_end(struct gateway *gateway);

#endif
