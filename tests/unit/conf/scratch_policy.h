/* A policy of YAML that stands in the scratch directory. */
#ifndef TESTS_UNIT_CONF_SCRATCH_POLICY_H
#define TESTS_UNIT_CONF_SCRATCH_POLICY_H

#include "conf/load.h"
#include "tests/unit/conf/scratch.h"

/* NULL with @problems. */
static inline const struct policy *scratch_policy(const char *yaml, enum load_mode mode, struct problem_list *problems)
{
    struct bundle *bundle = bundle_read(scratch_write("tollgate.yaml", yaml), problems);
    assert_non_null(bundle);
    const struct policy *policy = policy_load(bundle, mode, problems);
    bundle_destroy(&bundle);
    return policy;
}

/* One without an error; the caller's, to policy_drop(). */
static inline const struct policy *scratch_policy_good(const char *yaml)
{
    struct problem_list problems;
    problem_list_init(&problems);
    const struct policy *policy = scratch_policy(yaml, LOAD_RUN, &problems);
    if (policy == NULL)
        fail_msg("%.*s", TEXT_ARGUMENTS(buffer_text(&problems.text)));
    problem_list_finish(&problems);
    return policy;
}

#endif
