/* Looking things up in a snapshot, and its life. */
#include "conf/policy.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "conf/snapshot.h"

enum { SNAPSHOT_BYTES_MAX = 256 * 1024 * 1024 };

const char *const ENDPOINT_NAMES[ENDPOINT_COUNT] = {"completions", "chat", "embeddings", "models"};
const char *const ON_EXCEED_NAMES[ON_EXCEED_COUNT] = {"soft", "hard", "cut"};
const char *const MEASURE_NAMES[MEASURE_COUNT] = {"input_tokens", "cached_input_tokens", "output_tokens", "requests"};
const char *const BILLING_SYNC_NAMES[BILLING_SYNC_COUNT] = {"os", "group"};
const char *const PROVIDER_KIND_NAMES[PROVIDER_KIND_COUNT] = {"file", "stripe"};
const char *const DIALECT_NAMES[DIALECT_COUNT] = {"openai", "vllm", "llamacpp"};

/* Policies are const for everybody else; their memory is a snapshot's. */
static struct snapshot *snapshot_of(const struct policy *policy)
{
    return (struct snapshot *) (uintptr_t) policy;
}

struct snapshot *snapshot_create(void)
{
    struct snapshot *snapshot = calloc(1, sizeof(*snapshot));
    if (snapshot == NULL)
        return NULL;
    arena_init(&snapshot->arena, SNAPSHOT_BYTES_MAX);
    atomic_init(&snapshot->references, 1);
    return snapshot;
}

static void snapshot_destroy(struct snapshot *snapshot)
{
    for (const struct kept_secret *kept = snapshot->secrets; kept != NULL; kept = kept->next)
        explicit_bzero(kept->bytes, kept->length);
    arena_finish(&snapshot->arena);
    free(snapshot);
}

struct secret snapshot_keep_secret(struct snapshot *snapshot, struct text bytes)
{
    struct kept_secret *kept = arena_take(&snapshot->arena, sizeof(*kept));
    char *copy = arena_copy_string(&snapshot->arena, bytes);
    if (kept == NULL || copy == NULL)
        return (struct secret){0};
    *kept = (struct kept_secret){snapshot->secrets, copy, bytes.length};
    snapshot->secrets = kept;
    return (struct secret){copy};
}

static int compare_text(struct text a, struct text b)
{
    int order = memcmp(a.at, b.at, a.length < b.length ? a.length : b.length);
    if (order != 0)
        return order;
    return a.length < b.length ? -1 : a.length > b.length;
}

static int compare_names(const void *a, const void *b)
{
    return compare_text(((const struct model_name *) a)->name, ((const struct model_name *) b)->name);
}

static void add_name(struct snapshot *snapshot, const char *name, const struct model *model)
{
    snapshot->names[snapshot->name_count++] = (struct model_name){text_of(name), model};
}

bool snapshot_index_names(struct snapshot *snapshot)
{
    const struct policy *policy = &snapshot->policy;
    size_t count = policy->model_count;
    for (size_t i = 0; i < policy->model_count; i++)
        count += policy->models[i].alias_count;
    snapshot->names = arena_take(&snapshot->arena, (count + 1) * sizeof(*snapshot->names));
    if (snapshot->names == NULL)
        return false;

    for (size_t i = 0; i < policy->model_count; i++) {
        const struct model *model = &policy->models[i];
        add_name(snapshot, model->name, model);
        for (size_t k = 0; k < model->alias_count; k++)
            add_name(snapshot, model->aliases[k], model);
    }
    ENSURE(snapshot->name_count == count);
    qsort(snapshot->names, count, sizeof(*snapshot->names), compare_names);
    return true;
}

void snapshot_keep_created(const struct policy *next, const struct policy *current)
{
    const struct snapshot *snapshot = snapshot_of(next);
    for (size_t i = 0; i < next->model_count; i++) {
        struct model *model = &snapshot->models[i];
        const struct model *before = policy_model(current, text_of(model->name));
        if (before != NULL && strcmp(before->name, model->name) == 0)
            model->created_wall_s = before->created_wall_s;
    }
}

const struct provider_policy *policy_provider(const struct policy *policy, enum provider_kind kind)
{
    for (size_t i = 0; i < policy->billing.provider_count; i++) {
        if (policy->billing.providers[i].kind == kind)
            return &policy->billing.providers[i];
    }
    return NULL;
}

const struct model *policy_model(const struct policy *policy, struct text name)
{
    const struct snapshot *snapshot = snapshot_of(policy);
    if (name.length == 0 || snapshot->name_count == 0)
        return NULL;
    const struct model_name wanted = {name, NULL};
    const struct model_name *found =
        bsearch(&wanted, snapshot->names, snapshot->name_count, sizeof(wanted), compare_names);
    return found != NULL ? found->model : NULL;
}

static int compare_digest_with_key(const void *digest, const void *key)
{
    return memcmp(digest, ((const struct key *) key)->sha256, sizeof(((const struct key *) key)->sha256));
}

const struct key *policy_key(const struct policy *policy, const uint8_t sha256[32])
{
    if (policy->key_count == 0)
        return NULL;
    return bsearch(sha256, policy->keys, policy->key_count, sizeof(*policy->keys), compare_digest_with_key);
}

const struct policy *policy_hold(const struct policy *policy)
{
    unsigned before = atomic_fetch_add_explicit(&snapshot_of(policy)->references, 1, memory_order_relaxed);
    ENSURE(before > 0);
    return policy;
}

void policy_drop(const struct policy **policy)
{
    if (*policy == NULL)
        return;
    struct snapshot *snapshot = snapshot_of(*policy);
    *policy = NULL;
    /* Release: what this thread read is read before the memory goes; acquire: the last one sees that it was. */
    unsigned before = atomic_fetch_sub_explicit(&snapshot->references, 1, memory_order_acq_rel);
    ENSURE(before > 0);
    if (before == 1)
        snapshot_destroy(snapshot);
}

/* Lengths go in as well, so that no two lists of strings look alike. */
static void hash_string(EVP_MD_CTX *hash, const char *string)
{
    uint64_t length = string != NULL ? strlen(string) : UINT64_MAX;
    ENSURE(EVP_DigestUpdate(hash, &length, sizeof(length)) == 1);
    if (string != NULL)
        ENSURE(EVP_DigestUpdate(hash, string, length) == 1);
}

static void hash_strings(EVP_MD_CTX *hash, const char *const *strings, size_t count)
{
    ENSURE(EVP_DigestUpdate(hash, &count, sizeof(count)) == 1);
    for (size_t i = 0; i < count; i++)
        hash_string(hash, strings[i]);
}

void engine_settings_hash(const struct engine *engine, uint8_t ret_sha256[32])
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    ENSURE(hash != NULL && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1);
    hash_strings(hash, engine->arguments, engine->argument_count);
    hash_strings(hash, engine->environment, engine->environment_count);
    hash_string(hash, engine->working_directory);
    hash_string(hash, engine->url);
    hash_string(hash, DIALECT_NAMES[engine->dialect]);
    hash_string(hash, engine->api_key._bytes);
    ENSURE(EVP_DigestFinal_ex(hash, ret_sha256, NULL) == 1);
    EVP_MD_CTX_free(hash);
}
