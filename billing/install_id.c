/* One line: 128 random bits in hexadecimal. */
#include "billing/install_id.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static bool say(char *error, size_t capacity, const char *state_dir, const char *what)
{
    snprintf(error, capacity, "%s/install_id %s", state_dir, what);
    return false;
}

static bool say_errno(char *error, size_t capacity, const char *state_dir)
{
    snprintf(error, capacity, "%s/install_id: %s", state_dir, strerror(errno));
    return false;
}

static bool is_whole(struct text content)
{
    uint8_t bytes[INSTALL_ID_CHARACTERS / 2];
    char again[INSTALL_ID_CHARACTERS + 2];
    struct text id = {content.at, INSTALL_ID_CHARACTERS};
    if (content.length != INSTALL_ID_CHARACTERS + 1 || content.at[INSTALL_ID_CHARACTERS] != '\n' ||
        !text_from_hex(id, bytes, sizeof bytes))
        return false;
    text_hex(again, bytes, sizeof bytes);
    return text_equal(id, text_of(again));
}

/* False with errno; EBADMSG = it is there, and is none. */
static bool read_id(const char *state_dir, char ret[INSTALL_ID_CHARACTERS + 1])
{
    char path[PATH_MAX], content[INSTALL_ID_CHARACTERS + 2];
    snprintf(path, sizeof path, "%s/install_id", state_dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, content, sizeof content);
    if (!file_close_after(fd, length >= 0))
        return false;
    errno = EBADMSG;
    if (!is_whole((struct text){content, (size_t) length}))
        return false;
    text_copy(ret, INSTALL_ID_CHARACTERS + 1, (struct text){content, INSTALL_ID_CHARACTERS});
    return true;
}

bool install_id_read(const char *state_dir, char ret[INSTALL_ID_CHARACTERS + 1], char *error, size_t capacity)
{
    if (read_id(state_dir, ret))
        return true;
    if (errno == EBADMSG)
        return say(error, capacity, state_dir, "is damaged: restore it from a backup, rows were sent under its names");
    if (errno == ENOENT)
        return say(error, capacity, state_dir, "is missing: the gateway makes it when it starts for the first time");
    return say_errno(error, capacity, state_dir);
}

/* Rows were made under an id that is gone. */
static bool has_rows(const char *state_dir)
{
    char path[PATH_MAX];
    struct stat status;
    bool found = false;
    for (int kind = 0; kind < PROVIDER_KIND_COUNT && !found; kind++) {
        snprintf(path, sizeof path, "%s/billing/%s.states", state_dir, PROVIDER_KIND_NAMES[kind]);
        found = stat(path, &status) == 0 && status.st_size > 0;
    }
    return found;
}

static bool write_id(const char *state_dir, char ret[INSTALL_ID_CHARACTERS + 1])
{
    uint8_t random[INSTALL_ID_CHARACTERS / 2];
    char line[INSTALL_ID_CHARACTERS + 2];
    if (getrandom(random, sizeof random, 0) != (ssize_t) sizeof random)
        return false;
    int directory = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return false;
    text_hex(ret, random, sizeof random);
    snprintf(line, sizeof line, "%s\n", ret);
    return file_close_after(directory, file_replace(directory, "install_id", text_of(line), 0600));
}

bool install_id_make(const char *state_dir, char ret[INSTALL_ID_CHARACTERS + 1], char *error, size_t capacity)
{
    if (read_id(state_dir, ret))
        return true;
    if (errno != ENOENT)
        return install_id_read(state_dir, ret, error, capacity);
    if (has_rows(state_dir))
        return say(error, capacity, state_dir,
                   "is missing, but rows were made under it: restore it from a backup, or they would be billed twice");
    return write_id(state_dir, ret) || say_errno(error, capacity, state_dir);
}
