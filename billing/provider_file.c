/* The provider that is a directory: an epoch's rows as one file, whose name is the acknowledgement. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

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

bool provider_file_deliver(const char *directory, const char *name, struct text content)
{
    if (!file_make_directory(directory, 0750))
        return false;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return file_close_after(fd, fd >= 0 && file_replace(fd, name, content, 0640));
}
