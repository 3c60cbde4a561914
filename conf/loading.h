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

/* The parts. Each tells its problems; the policy is used only when there was no error. Models come before tenants. */
void load_models(struct loading *loading);
void load_tenants(struct loading *loading);

#endif
