/* The provider that is a directory: an epoch's rows as one file, whose name is the acknowledgement. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "billing/provider.h"

enum { LINE_BYTES_MAX = 4096, SCHEMA = 1 };

void provider_file_name(const struct ledger_name *epoch, char to[PROVIDER_FILE_NAME_BYTES])
{
    snprintf(to, PROVIDER_FILE_NAME_BYTES, "usage-%s-%08" PRIu64 ".jsonl", epoch->writer, epoch->epoch);
}

static bool put_row(const struct row *row, struct buffer *to)
{
    char memory[LINE_BYTES_MAX], began[CLOCK_TEXT_BYTES], ended[CLOCK_TEXT_BYTES];
    struct builder line;
    builder_init(&line, memory, sizeof memory);
    builder_format(&line, "{\"schema\":%d,\"id\":\"%s\",\"tenant\":", SCHEMA, row->id);
    builder_add_json(&line, text_of(row->name.tenant));
    builder_add_string(&line, ",\"model\":");
    builder_add_json(&line, text_of(row->model));
    builder_format(&line, ",\"measure\":\"%s\",\"quantity\":%" PRId64 ",\"began\":\"%s\",\"ended\":\"%s\"}\n",
                   MEASURE_NAMES[row->measure], row->quantity, clock_text(row->began, began),
                   clock_text(row->ended, ended));
    return !line.overflowed && buffer_add(to, builder_text(&line));
}

bool provider_file_encode(const struct row *rows, size_t count, struct buffer *to)
{
    bool fits = true;
    for (size_t i = 0; i < count && fits; i++)
        fits = put_row(&rows[i], to);
    return fits;
}

static bool deliver_at(int directory, const char *name, struct text content)
{
    char temporary[NAME_MAX + 1];
    snprintf(temporary, sizeof temporary, ".%s.tmp", name);
    int fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return false;
    bool good = file_write_all(fd, content) && fsync(fd) == 0;
    int error = errno;
    close(fd);
    if (good && renameat(directory, temporary, directory, name) == 0)
        return fsync(directory) == 0;
    error = good ? errno : error;
    unlinkat(directory, temporary, 0);
    errno = error;
    return false;
}

bool provider_file_deliver(const char *directory, const char *name, struct text content)
{
    if (mkdir(directory, 0750) != 0 && errno != EEXIST)
        return false;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool good = deliver_at(fd, name, content);
    int error = errno;
    close(fd);
    errno = error;
    return good;
}
