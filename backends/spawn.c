#include "backends/spawn.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/text.h"

enum { ARGUMENT_BYTES_MAX = 64 * 1024, ENVIRONMENT_MAX = 1024 };

/* Names, or beginnings of names when they end in '*'. What an engine needs to find its libraries, devices and models.
 */
static const char *const INHERITED[] = {
    "PATH",  "HOME",   "LANG",     "LC_*", "TMPDIR", "USER",   "LD_LIBRARY_PATH", "CUDA_*",
    "HIP_*", "ROCR_*", "NVIDIA_*", "HF_*", "VLLM_*", "GGML_*", "OMP_*",           "XDG_CACHE_HOME",
};
/* Devices are numbered as nvidia-smi numbers them, so that CUDA_VISIBLE_DEVICES means what ops read there. */
static const char CUDA_ORDER[] = "CUDA_DEVICE_ORDER=PCI_BUS_ID";

bool spawn_wants(const char *const *arguments, const char *placeholder)
{
    for (; *arguments != NULL; arguments++) {
        if (strstr(*arguments, placeholder) != NULL)
            return true;
    }
    return false;
}

/* ---- where it listens ---- */

static bool is_plain(char c)
{
    return isalnum((unsigned char) c) || c == '-' || c == '.';
}

char *spawn_socket_path(const char *runtime_dir, const char *name)
{
    const char *last_slash = strrchr(name, '/');
    size_t capacity = strlen(runtime_dir) + 3 * strlen(name) + sizeof("/.sock");
    char *path = malloc(capacity);
    struct builder builder;

    if (path == NULL)
        return NULL;
    builder_init(&builder, path, capacity);
    builder_add_string(&builder, runtime_dir);
    builder_add_string(&builder, "/");
    for (const char *at = name; *at != '\0'; at++) {
        char coded[4] = {*at};

        if (at == last_slash)
            coded[0] = '@';
        else if (!is_plain(*at))
            snprintf(coded, sizeof(coded), "_%02x", (unsigned) (unsigned char) *at);
        builder_add_string(&builder, coded);
    }
    builder_add_string(&builder, ".sock");
    builder_string(&builder);
    return path;
}

bool spawn_prepare_directory(const char *runtime_dir, char *ret_why, size_t capacity)
{
    struct stat facts;

    if (mkdir(runtime_dir, 0700) != 0 && errno != EEXIST) {
        snprintf(ret_why, capacity, "cannot make %s: %s", runtime_dir, strerror(errno));
        return false;
    }
    if (lstat(runtime_dir, &facts) != 0) {
        snprintf(ret_why, capacity, "cannot look at %s: %s", runtime_dir, strerror(errno));
        return false;
    }
    if (!S_ISDIR(facts.st_mode)) {
        snprintf(ret_why, capacity, "%s is no directory", runtime_dir);
        return false;
    }
    if (facts.st_uid != geteuid()) {
        snprintf(ret_why, capacity, "%s belongs to user %u, not to us", runtime_dir, (unsigned) facts.st_uid);
        return false;
    }
    if (facts.st_mode & (S_IWGRP | S_IWOTH)) {
        snprintf(ret_why, capacity, "%s can be written by others (mode %03o)", runtime_dir,
                 (unsigned) facts.st_mode & 0777u);
        return false;
    }
    return true;
}

int spawn_find_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int port = 0;

    if (fd < 0)
        return 0;
    if (bind(fd, (struct sockaddr *) &address, length) == 0 &&
        getsockname(fd, (struct sockaddr *) &address, &length) == 0)
        port = ntohs(address.sin_port);
    close(fd);
    return port;
}

/* ---- what it is told ---- */

/* @from with every @placeholder replaced by @by; frees @from. NULL when memory is exhausted or the result too long. */
static char *replace(char *from, const char *placeholder, const char *by)
{
    struct buffer buffer;
    const char *rest = from;
    const char *found;
    bool added = true;
    char *result = NULL;

    if (from == NULL || strstr(from, placeholder) == NULL)
        return from;
    buffer_init(&buffer, ARGUMENT_BYTES_MAX);
    while ((found = strstr(rest, placeholder)) != NULL) {
        added = added && buffer_add(&buffer, (struct text){rest, (size_t) (found - rest)});
        added = added && buffer_add(&buffer, text_of(by));
        rest = found + strlen(placeholder);
    }
    if (added && buffer_add(&buffer, text_of(rest)))
        result = strndup(buffer_text(&buffer).at, buffer_length(&buffer));
    buffer_finish(&buffer);
    free(from);
    return result;
}

char **spawn_arguments(const char *const *arguments, const char *socket_path, int port)
{
    size_t count = 0;
    char port_text[16];
    char **copy;

    while (arguments[count] != NULL)
        count++;
    copy = calloc(count + 1, sizeof(*copy));
    snprintf(port_text, sizeof(port_text), "%d", port);
    for (size_t i = 0; copy != NULL && i < count; i++) {
        copy[i] = replace(strdup(arguments[i]), SPAWN_SOCKET, socket_path != NULL ? socket_path : "");
        copy[i] = replace(copy[i], SPAWN_PORT, port_text);
        if (copy[i] == NULL)
            spawn_free_strings(&copy);
    }
    return copy;
}

static size_t name_length(const char *variable)
{
    return strcspn(variable, "=");
}

static bool is_inherited(const char *variable)
{
    struct text name = {variable, name_length(variable)};

    for (size_t i = 0; i < sizeof(INHERITED) / sizeof(INHERITED[0]); i++) {
        if (text_matches_glob(name, text_of(INHERITED[i])))
            return true;
    }
    return false;
}

/* Set @variable ("NAME=value"), replacing an older one of that name. */
static bool set_variable(char **list, size_t *count, const char *variable)
{
    size_t length = name_length(variable);
    size_t at = 0;
    char *copy;

    while (at < *count && (name_length(list[at]) != length || strncmp(list[at], variable, length) != 0))
        at++;
    if (at == ENVIRONMENT_MAX)
        return false;
    copy = strdup(variable);
    if (copy == NULL)
        return false;
    free(list[at]);
    list[at] = copy;
    if (at == *count)
        ++*count;
    return true;
}

char **spawn_environment(const char *const *extra)
{
    size_t count = 0;
    bool set = true;
    char **list = calloc(ENVIRONMENT_MAX + 1, sizeof(*list));

    if (list == NULL)
        return NULL;
    for (char **variable = environ; set && *variable != NULL; variable++) {
        if (is_inherited(*variable))
            set = set_variable(list, &count, *variable);
    }
    set = set && set_variable(list, &count, CUDA_ORDER);
    for (; set && *extra != NULL; extra++)
        set = set_variable(list, &count, *extra);
    if (!set)
        spawn_free_strings(&list);
    return list;
}

void spawn_free_strings(char ***strings)
{
    for (char **string = *strings; string != NULL && *string != NULL; string++)
        free(*string);
    free(*strings);
    *strings = NULL;
}

/* ---- what the master keeps ---- */

void spawn_note_write(char to[SPAWN_NOTE_BYTES], const uint8_t settings_hash[32], int port)
{
    char hash[2 * 32 + 1];

    text_hex(hash, settings_hash, 32);
    snprintf(to, SPAWN_NOTE_BYTES, "settings=%s port=%d", hash, port);
}

bool spawn_note_read(const char *note, uint8_t ret_settings_hash[32], int *ret_port)
{
    struct text rest = text_of(note);
    struct text settings_key = TEXT("settings=");
    struct text port_key = TEXT(" port=");
    struct text hash;
    int64_t port;

    if (!text_starts_with(rest, settings_key) || rest.length < settings_key.length + 64)
        return false;
    hash = (struct text){rest.at + settings_key.length, 64};
    rest = (struct text){hash.at + 64, rest.length - settings_key.length - 64};
    if (!text_starts_with(rest, port_key))
        return false;
    rest = (struct text){rest.at + port_key.length, rest.length - port_key.length};
    if (!text_to_int64(rest, &port) || port < 0 || port > 65535)
        return false;
    if (!text_from_hex(hash, ret_settings_hash, 32))
        return false;
    *ret_port = (int) port;
    return true;
}
