/* YAML files to a policy, or every error with its place; and the bundle of bytes a policy was made from. */
#ifndef CONF_LOAD_H
#define CONF_LOAD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "conf/policy.h"

/* The bytes of every configuration file (main, tenants_dir, keys_file; never a secret's), so that a restarted gateway
 * loads what was accepted and not what an editor left half-written. Opaque; one owner. */
struct bundle;

struct problem_list {
    struct buffer text; /* lines "file:line:col: error: message" or "… warning: …", each with its newline */
    int errors;
    int warnings;
};
void problem_list_init(struct problem_list *problems);
void problem_list_finish(struct problem_list *problems);

/* Read @main_file and the files it names. Sizes are bounded (4 MiB a file, 64 MiB in all). NULL, with problems, on
 * error. */
struct bundle *bundle_read(const char *main_file, struct problem_list *problems);
/* Everything in one run of bytes and back; for the master's keeping. NULL on malformed bytes. */
bool bundle_write(const struct bundle *bundle, struct buffer *to);
struct bundle *bundle_parse(struct text bytes);
void bundle_destroy(struct bundle **bundle);

enum load_mode {
    LOAD_CHECK, /* static: a missing secret, binary or environment variable is a warning */
    LOAD_RUN    /* all secrets must be there: what is missing is an error */
};
/* Build a policy with one reference, or NULL with at least one error in @problems. Secret files are read from disk. */
const struct policy *policy_load(const struct bundle *bundle, enum load_mode mode, struct problem_list *problems);

/* @next may replace @current by a reload. False with one error per changed setting that needs a restart. */
bool policy_may_replace(const struct policy *current, const struct policy *next, struct problem_list *problems);

/* The first that exists of @given (when not NULL), ./tollgate.yaml, /etc/tollgate/tollgate.yaml; NULL when none does.
 */
const char *config_file_find(const char *given);

#endif
