/* Reading the configuration's files once, so that everything later works on the same bytes. */
#include "conf/bundle.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf/document.h"
#include "conf/files.h"
#include "conf/problems.h"
#include "conf/value.h"

enum { NAMES_BYTES_MAX = 512 * 1024 * 1024, BUNDLE_NUMBER_BYTES = 4 };
static const char bundle_magic[8] = "TGCONF1";

static struct bundle *bundle_create(void)
{
    return calloc(1, sizeof(struct bundle));
}

void bundle_destroy(struct bundle **bundle)
{
    if (*bundle == NULL)
        return;
    for (size_t i = 0; i < (*bundle)->file_count; i++)
        free((void *) (uintptr_t) (*bundle)->files[i].path);
    free((*bundle)->files);
    free(*bundle);
    *bundle = NULL;
}

static bool make_room(struct bundle *bundle)
{
    if (bundle->file_count < bundle->capacity)
        return true;
    size_t capacity = bundle->capacity == 0 ? 4 : bundle->capacity * 2;
    struct bundle_file *files = reallocarray(bundle->files, capacity, sizeof(*files));
    if (files == NULL)
        return false;
    bundle->files = files;
    bundle->capacity = capacity;
    return true;
}

/* A copy of path and bytes in one block. False when a limit or memory is exhausted. */
static bool bundle_add(struct bundle *bundle, enum bundle_kind kind, struct text path, struct text bytes)
{
    if (bundle->file_count == BUNDLE_FILES_MAX || bytes.length > BUNDLE_BYTES_MAX - bundle->bytes)
        return false;
    char *memory = make_room(bundle) ? malloc(path.length + bytes.length + 2) : NULL;
    if (memory == NULL)
        return false;
    text_copy(memory, path.length + 1, path);
    text_copy(memory + path.length + 1, bytes.length + 1, bytes);
    struct text copy = {memory + path.length + 1, bytes.length};
    bundle->files[bundle->file_count++] = (struct bundle_file){kind, memory, copy};
    bundle->bytes += bytes.length;
    return true;
}

/* Read one named file into the bundle, or the reason why it cannot be read. */
static bool add_file(struct bundle *bundle, enum bundle_kind kind, struct text path)
{
    struct file_content content;
    int error = file_read(path.at, CONFIG_FILE_BYTES_MAX, &content);
    if (error == ENOENT && kind == BUNDLE_KEYS)
        return bundle_add(bundle, BUNDLE_KEYS_MISSING, path, TEXT(""));
    if (error != 0)
        return bundle_add(bundle, BUNDLE_UNREADABLE, path, text_of(file_error_text(error)));
    bool added = bundle_add(bundle, kind, path, (struct text){content.bytes, content.length});
    free(content.bytes);
    return added;
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t length = strlen(name), suffix_length = strlen(suffix);
    return length > suffix_length && strcmp(name + length - suffix_length, suffix) == 0;
}

/* What editors and file systems leave behind is passed over in silence. */
static int is_candidate(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && !ends_with(entry->d_name, "~");
}

static bool add_tenant_file(struct bundle *bundle, const char *directory, const char *name,
                            struct problem_list *problems)
{
    char path[PATH_MAX];
    struct builder to;
    builder_init(&to, path, sizeof(path));
    builder_format(&to, "%s/%s", directory, name);
    if (to.overflowed)
        return false;
    if (ends_with(name, ".yaml") || ends_with(name, ".yml"))
        return add_file(bundle, BUNDLE_TENANT, text_of(builder_string(&to)));
    problem_warning(problems, (struct place){builder_string(&to), 1, 1},
                    "not read: the name of a tenant's file ends in .yaml");
    return true;
}

static bool add_tenants(struct bundle *bundle, struct text directory, struct problem_list *problems)
{
    struct dirent **entries;
    int count = scandir(directory.at, &entries, is_candidate, alphasort);
    if (count < 0)
        return bundle_add(bundle, BUNDLE_UNREADABLE, directory, text_of(file_error_text(errno)));
    bool fits = true;
    for (int i = 0; i < count; i++) {
        fits = fits && add_tenant_file(bundle, directory.at, entries[i]->d_name, problems);
        free(entries[i]);
    }
    free(entries);
    return fits;
}

/* The path that the main file's @setting names; empty when it names none, or not properly (the loader says so). */
static struct text named_path(const struct node *root, const char *setting, const char *main_file, struct arena *arena)
{
    const struct node *node = node_child(root, setting);
    struct text value, ignored;
    if (node == NULL || node->kind != NODE_SCALAR || value_expand(node->text, arena, &value, &ignored) != EXPAND_DONE ||
        value.length == 0)
        return (struct text){NULL, 0};
    return file_path_from(main_file, value, arena);
}

/* False when something is too large. */
static bool add_named_files(struct bundle *bundle, struct arena *arena, struct problem_list *problems)
{
    /* What is wrong in the main file is told by policy_load. */
    struct problem_list unheard;
    problem_list_init(&unheard);
    const struct bundle_file *main_file = &bundle->files[0];
    const char *path = main_file->path;
    const struct node *root = document_parse(path, main_file->bytes, arena, &unheard);
    problem_list_finish(&unheard);
    if (root == NULL)
        return true;
    struct text tenants = named_path(root, "tenants_dir", path, arena);
    struct text keys = named_path(root, "keys_file", path, arena);
    return (tenants.at == NULL || add_tenants(bundle, tenants, problems)) &&
           (keys.at == NULL || add_file(bundle, BUNDLE_KEYS, keys));
}

static bool read_into(struct bundle *bundle, const char *main_file, struct arena *arena, struct problem_list *problems)
{
    struct text path = file_path_absolute(text_of(main_file), arena);
    struct place start = {path.at != NULL ? path.at : main_file, 1, 1};
    struct file_content content;
    int error = path.at != NULL ? file_read(path.at, CONFIG_FILE_BYTES_MAX, &content) : ENOMEM;
    if (error != 0) {
        problem_error(problems, start, "cannot be read: %s", file_error_text(error));
        return false;
    }
    bool added = bundle_add(bundle, BUNDLE_MAIN, path, (struct text){content.bytes, content.length});
    free(content.bytes);
    if (added && add_named_files(bundle, arena, problems))
        return true;
    problem_error(problems, start, "all files together are too large: at most %d MiB in %d files",
                  BUNDLE_BYTES_MAX / 1024 / 1024, BUNDLE_FILES_MAX);
    return false;
}

struct bundle *bundle_read(const char *main_file, struct problem_list *problems)
{
    struct bundle *bundle = bundle_create();
    if (bundle == NULL) {
        problem_error(problems, (struct place){main_file, 1, 1}, "out of memory");
        return NULL;
    }
    struct arena arena;
    arena_init(&arena, NAMES_BYTES_MAX);
    if (!read_into(bundle, main_file, &arena, problems))
        bundle_destroy(&bundle);
    arena_finish(&arena);
    return bundle;
}

static bool write_number(struct buffer *to, size_t number)
{
    unsigned char bytes[BUNDLE_NUMBER_BYTES];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char) (number >> (8 * i) & 0xff);
    return buffer_add(to, (struct text){(const char *) bytes, sizeof(bytes)});
}

bool bundle_write(const struct bundle *bundle, struct buffer *to)
{
    bool fits = buffer_add(to, (struct text){bundle_magic, sizeof(bundle_magic)});
    fits = fits && write_number(to, bundle->file_count);
    for (size_t i = 0; fits && i < bundle->file_count; i++) {
        const struct bundle_file *file = &bundle->files[i];
        fits = write_number(to, file->kind) && write_number(to, strlen(file->path)) &&
               write_number(to, file->bytes.length) && buffer_add(to, text_of(file->path)) &&
               buffer_add(to, file->bytes);
    }
    return fits;
}

static bool take_bytes(struct text *rest, size_t count, struct text *ret)
{
    if (rest->length < count)
        return false;
    *ret = (struct text){rest->at, count};
    *rest = (struct text){rest->at + count, rest->length - count};
    return true;
}

static bool take_number(struct text *rest, size_t *ret)
{
    struct text bytes;
    if (!take_bytes(rest, BUNDLE_NUMBER_BYTES, &bytes))
        return false;
    *ret = 0;
    for (size_t i = 0; i < bytes.length; i++)
        *ret |= (size_t) (unsigned char) bytes.at[i] << (8 * i);
    return true;
}

static bool take_file(struct text *rest, struct bundle *bundle)
{
    size_t kind, path_length, length;
    struct text path, bytes;
    if (!take_number(rest, &kind) || !take_number(rest, &path_length) || !take_number(rest, &length) ||
        !take_bytes(rest, path_length, &path) || !take_bytes(rest, length, &bytes))
        return false;
    bool is_first = bundle->file_count == 0;
    if (kind >= BUNDLE_KIND_COUNT || is_first != (kind == BUNDLE_MAIN) || !text_starts_with(path, TEXT("/")) ||
        memchr(path.at, '\0', path.length) != NULL)
        return false;
    return bundle_add(bundle, (enum bundle_kind) kind, path, bytes);
}

struct bundle *bundle_parse(struct text bytes)
{
    struct text magic;
    size_t count;
    if (!take_bytes(&bytes, sizeof(bundle_magic), &magic) || memcmp(magic.at, bundle_magic, magic.length) != 0 ||
        !take_number(&bytes, &count) || count == 0)
        return NULL;
    struct bundle *bundle = bundle_create();
    bool good = bundle != NULL;
    for (size_t i = 0; good && i < count; i++)
        good = take_file(&bytes, bundle);
    if (good && bytes.length == 0)
        return bundle;
    bundle_destroy(&bundle);
    return NULL;
}

const char *config_file_find(const char *given)
{
    static const char *const places[] = {"./tollgate.yaml", "/etc/tollgate/tollgate.yaml"};
    if (given != NULL)
        return access(given, F_OK) == 0 ? given : NULL;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if (access(places[i], F_OK) == 0)
            return places[i];
    }
    return NULL;
}
