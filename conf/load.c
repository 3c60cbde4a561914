/* From a bundle to a policy: parse, hold against the schema, then build; every error is looked for, not only the first.
 */
#include "conf/load.h"

#include <errno.h>
#include <openssl/evp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"
#include "conf/address.h"
#include "conf/files.h"
#include "conf/loading.h"

enum { DOCUMENTS_BYTES_MAX = 512 * 1024 * 1024, HASH_SUFFIX_BYTES = 4, SECRET_BYTES_MAX = 4096 };

const char *loading_keep(struct loading *loading, struct text text)
{
    const char *copy = arena_copy_string(&loading->snapshot->arena, text);
    return copy != NULL ? copy : "";
}

const char *loading_keep_path(struct loading *loading, struct text value)
{
    struct text path = file_path_from(loading->main_file, value, &loading->snapshot->arena);
    return path.at != NULL ? path.at : "";
}

void *loading_take(struct loading *loading, size_t count, size_t size)
{
    size_t bytes;
    bool too_many = __builtin_mul_overflow(count > 0 ? count : 1, size, &bytes);
    return arena_take(&loading->snapshot->arena, too_many ? SIZE_MAX : bytes);
}

/* Group may read at most: whoever else can read or change the file has the secret already. */
static bool check_secret_mode(struct loading *loading, const struct node *node, const struct file_content *content)
{
    if ((content->mode & 0037) != 0) {
        problem_error(loading->problems, node->place,
                      "the file that %.*s names may be read or changed by others (mode %04o): chmod 600 it",
                      TEXT_ARGUMENTS(node->key), (unsigned) (content->mode & 07777));
        return false;
    }
    if (content->owner != 0 && content->owner != geteuid() && geteuid() != 0) {
        problem_error(loading->problems, node->place,
                      "the file that %.*s names belongs to another user: chown it to the one that runs tollgate",
                      TEXT_ARGUMENTS(node->key));
        return false;
    }
    return true;
}

static struct secret keep_secret(struct loading *loading, const struct node *node, const struct file_content *content)
{
    struct text secret = {content->bytes, content->length};
    while (secret.length > 0 && (secret.at[secret.length - 1] == '\n' || secret.at[secret.length - 1] == '\r'))
        secret.length--;
    bool good = secret.length > 0;
    for (size_t i = 0; i < secret.length; i++)
        good = good && secret.at[i] > ' ' && secret.at[i] <= '~';
    if (good && check_secret_mode(loading, node, content))
        return snapshot_keep_secret(loading->snapshot, secret);
    if (!good)
        problem_error(loading->problems, node->place,
                      "the file that %.*s names must hold one line with the secret, without blanks",
                      TEXT_ARGUMENTS(node->key));
    return (struct secret){0};
}

struct secret loading_read_secret(struct loading *loading, const struct node *node)
{
    if (node == NULL || !node->valid)
        return (struct secret){0};
    struct text path = file_path_from(loading->main_file, node->value, &loading->documents);
    struct file_content content;
    int error = path.at != NULL ? file_read(path.at, SECRET_BYTES_MAX, &content) : ENOMEM;
    if (error == ENOENT && loading->mode == LOAD_CHECK) {
        problem_warning(loading->problems, node->place, "the file that %.*s names does not exist",
                        TEXT_ARGUMENTS(node->key));
        return (struct secret){0};
    }
    if (error != 0) {
        problem_error(loading->problems, node->place, "the file that %.*s names cannot be read: %s",
                      TEXT_ARGUMENTS(node->key), file_error_text(error));
        return (struct secret){0};
    }
    struct secret secret = keep_secret(loading, node, &content);
    explicit_bzero(content.bytes, content.length);
    free(content.bytes);
    return secret;
}

static struct listen_address load_listen(struct loading *loading, const struct node *map, enum setting_id id)
{
    struct text text = setting_text(map, id);
    struct listen_parts parts;
    ENSURE(address_parse_listen(text, &parts) == NULL);
    return (struct listen_address){
        .kind = parts.is_unix ? LISTEN_UNIX : LISTEN_TCP,
        .host = parts.is_unix ? NULL : loading_keep(loading, parts.host),
        .port = parts.port,
        .path = parts.is_unix ? loading_keep_path(loading, parts.path) : NULL,
        .text = loading_keep(loading, text),
    };
}

/* "tollgate-<hash>": one directory for each state_dir, so that two gateways do not meet. */
static void add_directory_name(struct builder *to, const char *state_dir)
{
    uint8_t digest[32];
    char hex[2 * HASH_SUFFIX_BYTES + 1];
    ENSURE(EVP_Digest(state_dir, strlen(state_dir), digest, NULL, EVP_sha256(), NULL) == 1);
    text_hex(hex, digest, HASH_SUFFIX_BYTES);
    builder_add_string(to, hex);
}

static const char *default_runtime_dir(struct loading *loading, const char *state_dir)
{
    char memory[RUNTIME_DIR_BYTES_MAX + 1];
    struct builder to;
    const char *home = getenv("XDG_RUNTIME_DIR");
    builder_init(&to, memory, sizeof(memory));
    if (geteuid() == 0)
        builder_add_string(&to, "/run/tollgate-");
    else if (home != NULL && home[0] == '/')
        builder_format(&to, "%s/tollgate-", home);
    else
        to.overflowed = true;
    add_directory_name(&to, state_dir);
    if (!to.overflowed)
        return loading_keep(loading, builder_text(&to));

    builder_init(&to, memory, sizeof(memory));
    builder_format(&to, "/tmp/tollgate-%u-", (unsigned) geteuid());
    add_directory_name(&to, state_dir);
    return loading_keep(loading, builder_text(&to));
}

static const char *load_runtime_dir(struct loading *loading, const char *state_dir)
{
    const struct node *node = setting_node(loading->root, SETTING_RUNTIME_DIR);
    if (node == NULL || !node->valid)
        return default_runtime_dir(loading, state_dir);
    const char *path = loading_keep_path(loading, node->value);
    if (strlen(path) > RUNTIME_DIR_BYTES_MAX)
        problem_error(
            loading->problems, node->place,
            "runtime_dir has %zu bytes as an absolute path, but may have at most %d: the paths of unix sockets "
            "are limited",
            strlen(path), RUNTIME_DIR_BYTES_MAX);
    return path;
}

static int core_count(void)
{
    cpu_set_t cores;
    int count = sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : 1;
    return count < SETTINGS[SETTING_WORKERS].maximum ? count : (int) SETTINGS[SETTING_WORKERS].maximum;
}

/* The node at a path without <name> and []. */
static const struct node *node_at(const struct node *map, struct text path)
{
    char name[SETTING_NAME_BYTES_MAX + 1];
    while (map != NULL) {
        const char *dot = memchr(path.at, '.', path.length);
        size_t length = dot != NULL ? (size_t) (dot - path.at) : path.length;
        text_copy(name, sizeof(name), (struct text){path.at, length});
        map = node_child(map, name);
        if (dot == NULL)
            return map;
        path = (struct text){dot + 1, path.length - length - 1};
    }
    return NULL;
}

static void remember_places(struct loading *loading)
{
    for (enum setting_id id = 0; id < SETTING_COUNT; id++) {
        bool restart = (SETTINGS[id].flags & SETTING_RESTART) != 0;
        const struct node *node = restart ? node_at(loading->root, text_of(SETTINGS[id].path)) : NULL;
        if (node != NULL)
            loading->snapshot->written[id] = (struct written_at){node->place.line, node->place.column};
    }
}

static struct redis_address load_redis(struct loading *loading)
{
    const struct node *url = setting_node(setting_node(loading->root, SETTING_REDIS), SETTING_REDIS_URL);
    struct redis_parts parts;
    if (url == NULL || !url->valid || address_parse_redis(url->value, &parts) != NULL)
        return (struct redis_address){.kind = REDIS_PRIVATE};
    const char *path = parts.is_unix ? loading_keep_path(loading, parts.path) : NULL;
    if (path != NULL && strlen(path) > SOCKET_PATH_BYTES_MAX)
        problem_error(loading->problems, url->place,
                      "the socket's absolute path has %zu bytes, but may have at most %d", strlen(path),
                      SOCKET_PATH_BYTES_MAX);
    if (!parts.is_unix && !address_is_this_machine(parts.host) && loading->mode == LOAD_CHECK)
        problem_warning(loading->problems, url->place,
                        "this connection is not encrypted: let it go through a tunnel, or use unix:/path");
    return (struct redis_address){
        .kind = parts.is_unix ? REDIS_UNIX : REDIS_TCP,
        .path = path,
        .host = parts.is_unix ? NULL : loading_keep(loading, parts.host),
        .port = parts.port,
        .database = parts.database,
        .text = loading_keep(loading, url->value),
    };
}

static void load_listeners(struct loading *loading)
{
    struct policy *policy = &loading->snapshot->policy;
    const struct node *admin = setting_node(loading->root, SETTING_ADMIN);
    policy->listen = load_listen(loading, loading->root, SETTING_LISTEN);
    policy->admin_listen = load_listen(loading, admin, SETTING_ADMIN_LISTEN);
    bool any_port = policy->listen.kind == LISTEN_TCP && policy->listen.port == 0;
    const struct node *place = setting_node(admin, SETTING_ADMIN_LISTEN);
    if (place == NULL)
        place = setting_node(loading->root, SETTING_LISTEN);
    if (place != NULL && !any_port && strcmp(policy->listen.text, policy->admin_listen.text) == 0)
        problem_error(loading->problems, place->place, "listen and admin.listen are both %s: give them two ports",
                      policy->listen.text);

    const struct node *token = setting_node(admin, SETTING_ADMIN_TOKEN_FILE);
    policy->admin_token = loading_read_secret(loading, token);
    if (token != NULL && token->valid)
        policy->admin_token_file = loading_keep_path(loading, token->value);
}

static void load_settings(struct loading *loading)
{
    struct policy *policy = &loading->snapshot->policy;
    const struct node *keys_file = setting_node(loading->root, SETTING_KEYS_FILE);
    int64_t workers = setting_number(loading->root, SETTING_WORKERS);
    policy->file = loading_keep(loading, text_of(loading->main_file));
    load_listeners(loading);
    policy->state_dir = loading_keep_path(loading, setting_text(loading->root, SETTING_STATE_DIR));
    policy->runtime_dir = load_runtime_dir(loading, policy->state_dir);
    policy->workers = workers > 0 ? (int) workers : core_count();
    policy->drain_timeout_ms = setting_number(loading->root, SETTING_DRAIN_TIMEOUT);
    if (keys_file != NULL && keys_file->valid)
        policy->keys_file = loading_keep_path(loading, keys_file->value);
    policy->redis = load_redis(loading);
    policy->loaded_wall_ms = clock_wall_ms();
    remember_places(loading);
}

static void hash_bundle(const struct bundle *bundle, uint8_t ret_sha256[32])
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    ENSURE(hash != NULL && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1);
    for (size_t i = 0; i < bundle->file_count; i++) {
        const struct bundle_file *file = &bundle->files[i];
        ENSURE(EVP_DigestUpdate(hash, file->path, strlen(file->path) + 1) == 1);
        ENSURE(EVP_DigestUpdate(hash, &file->bytes.length, sizeof(file->bytes.length)) == 1);
        ENSURE(EVP_DigestUpdate(hash, file->bytes.at, file->bytes.length) == 1);
    }
    ENSURE(EVP_DigestFinal_ex(hash, ret_sha256, NULL) == 1);
    EVP_MD_CTX_free(hash);
}

static void build(struct loading *loading)
{
    const struct bundle_file *main_file = &loading->bundle->files[0];
    loading->main_file = main_file->path;
    loading->root = document_parse(main_file->path, main_file->bytes, &loading->documents, loading->problems);
    if (loading->root == NULL)
        return;
    struct schema_context context = {loading->mode, &loading->documents, loading->problems};
    schema_check(&context, SETTING_ROOT, loading->root);
    if (loading->root->kind != NODE_MAP)
        return;
    load_settings(loading);
    load_models(loading);
    load_tenants(loading);
    load_billing(loading);
    hash_bundle(loading->bundle, loading->snapshot->policy.sha256);
}

const struct policy *policy_load(const struct bundle *bundle, enum load_mode mode, struct problem_list *problems)
{
    struct place start = {bundle->files[0].path, 1, 1};
    int errors_before = problems->errors;
    struct loading loading = {.bundle = bundle, .mode = mode, .problems = problems, .snapshot = snapshot_create()};
    if (loading.snapshot == NULL) {
        problem_error(problems, start, "out of memory");
        return NULL;
    }
    arena_init(&loading.documents, DOCUMENTS_BYTES_MAX);
    build(&loading);
    bool exhausted = arena_overflowed(&loading.documents) || arena_overflowed(&loading.snapshot->arena);
    arena_finish(&loading.documents);
    if (exhausted && problems->errors == errors_before)
        problem_error(problems, start, "out of memory, or too many values");
    const struct policy *policy = &loading.snapshot->policy;
    if (problems->errors > errors_before)
        policy_drop(&policy);
    return policy;
}
