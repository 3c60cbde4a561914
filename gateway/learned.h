/* What the estimator learned, kept in state_dir/estimates over restarts. Control thread only. */
#ifndef GATEWAY_LEARNED_H
#define GATEWAY_LEARNED_H

#include "conf/policy.h"

struct gateway;

/* Read the file, if there is one, and save every minute from now on. A file that cannot be read is said and left
 * behind. */
void learned_begin(struct gateway *gateway, const struct policy *policy);
/* Save a last time. */
void learned_end(struct gateway *gateway);

#endif
