/* The memory behind one policy, for those who make it; everybody else sees policy.h only. */
#ifndef CONF_SNAPSHOT_H
#define CONF_SNAPSHOT_H

#include <stdatomic.h>

#include "base/arena.h"
#include "conf/policy.h"
#include "conf/schema.h"

struct model_name {
    struct text name; /* canonical or alias */
    const struct model *model;
};

struct kept_secret {
    struct kept_secret *next;
    char *bytes;
    size_t length;
};

/* Where a setting stands in the main file; line 0 = it was not written. */
struct written_at {
    unsigned line;
    unsigned column;
};

struct snapshot {
    struct policy policy; /* first, so that a policy's address is its snapshot's */
    atomic_uint references;
    struct arena arena;   /* everything that @policy points to */
    struct model *models; /* policy.models while it is made */
    size_t name_count;
    struct model_name *names; /* sorted, for policy_model */
    struct kept_secret *secrets;
    struct written_at written[SETTING_COUNT]; /* settings that need a restart, for policy_may_replace */
};

/* An empty policy with one reference, or NULL. Not shared with other threads until it is finished. */
struct snapshot *snapshot_create(void);
/* A copy that is wiped when the snapshot dies. None when memory is exhausted (arena_overflowed). */
struct secret snapshot_keep_secret(struct snapshot *snapshot, struct text bytes);
/* Make the index of model names, when @models is complete and sorted. False when memory is exhausted. */
bool snapshot_index_names(struct snapshot *snapshot);
/* Models that @current has as well were created then, not now. */
void snapshot_keep_created(const struct policy *next, const struct policy *current);

#endif
