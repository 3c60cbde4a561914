/* One policy_load in progress: what the loader's parts share. */
#ifndef CONF_LOADING_H
#define CONF_LOADING_H

#include "conf/bundle.h"
#include "conf/document.h"
#include "conf/schema.h"
#include "conf/snapshot.h"

struct loading {
    const struct bundle *bundle;
    enum load_mode mode;
    struct problem_list *problems;
    struct arena documents; /* trees, and what is needed only until the load is done */
    struct snapshot *snapshot;
    const char *main_file;
    struct node *root;
};

/* A copy that lives as long as the policy. Never NULL: "" when memory is exhausted (the arena remembers). */
const char *loading_keep(struct loading *loading, struct text text);
/* The path of @node's value, seen from the main file, likewise. */
const char *loading_keep_path(struct loading *loading, struct text value);
/* @count zeroed things of @size bytes in the policy's memory, or NULL. At least one is made. */
void *loading_take(struct loading *loading, size_t count, size_t size);
/* Read the secret in the file that @node names; none when @node is NULL or not valid. */
struct secret loading_read_secret(struct loading *loading, const struct node *node);

/* The limits in @map, with what it does not write taken from @presets. Either may be NULL. Contradictions are told at
 * what @map writes. */
struct limits loading_limits(struct loading *loading, const struct node *map, const struct limits *presets);
/* Warn of `on_exceed: hard` in @map (may be NULL) at @model when nothing bounds that model's output. True when warned.
 */
bool loading_warn_hard(struct loading *loading, const struct node *map, const struct model *model);
/* The same for all models that both scopes allow; warns of the first. */
void loading_warn_hard_in(struct loading *loading, const struct node *map, const struct scopes *outer,
                          const struct scopes *inner);
/* `tenants.<name>.models` of @map to @tenant. */
void loading_tenant_models(struct loading *loading, const struct node *map, struct tenant *tenant);

/* `models.<name>.price` in @list (may be NULL) to @model. */
void loading_prices(struct loading *loading, const struct node *list, struct model *model);

/* The parts. Each tells its problems; the policy is used only when there was no error. Models come before tenants,
 * tenants before billing. */
void load_models(struct loading *loading);
void load_tenants(struct loading *loading);
void load_billing(struct loading *loading);

#endif
