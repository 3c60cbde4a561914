/* What the estimator learned, over restarts. */
#include "gateway/learned.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "conf/reload.h"
#include "gateway/gateway.h"
#include "ratelimit/estimate.h"

enum { LOOK_EVERY_MS = 500, SAVE_EVERY_MS = 60000 };

static void write_path(const struct policy *policy, const char *suffix, char to[PATH_MAX])
{
    snprintf(to, PATH_MAX, "%s/estimates%s", policy->state_dir, suffix);
}

/* Written beside and renamed: a crash leaves the old one. Lost learning costs some precision and nothing else, so no
 * fsync. */
static void save(struct gateway *gateway)
{
    char path[PATH_MAX], beside[PATH_MAX];
    struct buffer learned;
    const struct policy *policy = reload_current();
    write_path(policy, "", path);
    write_path(policy, ".new", beside);
    policy_drop(&policy);
    buffer_init(&learned, ESTIMATOR_FILE_BYTES_MAX);
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool saved = fd >= 0 && estimator_write(gateway->estimator, &learned) && file_write_all(fd, buffer_text(&learned));
    if (fd >= 0)
        close(fd);
    if (!saved || rename(beside, path) != 0)
        log_event(LOG_WARNING, "estimates", "cannot save %s: %s", path, strerror(errno));
    buffer_finish(&learned);
}

/* What a model's chunks hold is saved soon after it was first learned: usage that no engine counts is counted by it,
 * also by a successor of a killed gateway. */
static void on_look(struct loop_timer *timer)
{
    struct gateway *gateway = timer->owner;
    mono_ms now = loop_now(gateway->loop);
    uint64_t first_contents = estimator_first_contents(gateway->estimator);
    if (first_contents != gateway->saved_contents || now >= gateway->save_due) {
        gateway->saved_contents = first_contents;
        gateway->save_due = now + SAVE_EVERY_MS;
        save(gateway);
    }
    loop_timer_set(gateway->loop, timer, now + LOOK_EVERY_MS);
}

static void read_back(struct gateway *gateway, const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    size_t size = fstat(fd, &status) == 0 && status.st_size <= ESTIMATOR_FILE_BYTES_MAX ? (size_t) status.st_size : 0;
    char *bytes = malloc(size + 1);
    ssize_t length = bytes != NULL ? read(fd, bytes, size) : -1;
    bool understood = length >= 0 && estimator_read(gateway->estimator, (struct text){bytes, (size_t) length});
    if (!understood)
        log_event(LOG_WARNING, "estimates", "%s is not readable: learning starts anew", path);
    free(bytes);
    close(fd);
}

void learned_begin(struct gateway *gateway, const struct policy *policy)
{
    char path[PATH_MAX];
    write_path(policy, "", path);
    read_back(gateway, path);
    gateway->save = (struct loop_timer){.fire = on_look, .owner = gateway};
    gateway->saved_contents = 0;
    gateway->save_due = loop_now(gateway->loop) + SAVE_EVERY_MS;
    loop_timer_set(gateway->loop, &gateway->save, loop_now(gateway->loop) + LOOK_EVERY_MS);
}

void learned_end(struct gateway *gateway)
{
    loop_timer_cancel(gateway->loop, &gateway->save);
    if (gateway->estimator != NULL)
        save(gateway);
}
