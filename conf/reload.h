/* The policy in force: one pointer, swapped whole. */
#ifndef CONF_RELOAD_H
#define CONF_RELOAD_H

#include <stdbool.h>

#include "conf/load.h"
#include "conf/policy.h"

/* The first policy; takes over the caller's reference. Once, before any other thread. */
void reload_install(const struct policy **first);
/* A new reference to the policy in force; policy_drop it. Any thread; one short lock. */
const struct policy *reload_current(void);
/* Read the files of the policy in force again; on success swap and return the bundle (the caller's) through
 * @ret_bundle. On any error nothing changes, @problems says why, false. One thread only (control). Counts RELOADS and
 * sets RELOAD_TIME. */
bool reload_now(struct bundle **ret_bundle, struct problem_list *problems);

#endif
