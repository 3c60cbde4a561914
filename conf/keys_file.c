/* Strict lines in, strict lines out: what is appended is parsed first. */
#include "conf/keys_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "conf/schema.h"
#include "conf/value.h"

enum { KEYS_FILE_LINE_BYTES_MAX = 4096, USER_BYTES_MAX = 256 };

/* The next word of a line; empty at its end. */
static struct text next_word(struct text line, size_t *at)
{
    while (*at < line.length && (line.at[*at] == ' ' || line.at[*at] == '\t'))
        ++*at;
    size_t start = *at;
    while (*at < line.length && line.at[*at] != ' ' && line.at[*at] != '\t')
        ++*at;
    return (struct text){line.at + start, *at - start};
}

static bool is_printable(struct text word)
{
    for (size_t i = 0; i < word.length; i++) {
        unsigned char byte = (unsigned char) word.at[i];
        if (byte <= ' ' || byte == 0x7f)
            return false;
    }
    return true;
}

/* The value behind "<name>=", when the word begins so. */
static bool option_value(struct text word, const char *name, struct text *ret)
{
    struct text prefix = text_of(name);
    if (!text_starts_with(word, prefix))
        return false;
    *ret = (struct text){word.at + prefix.length, word.length - prefix.length};
    return true;
}

/* NULL, or what is wrong. */
static const char *take_option(struct text word, struct keys_file_record *record)
{
    struct text value;
    if (text_equal(word, TEXT("disabled"))) {
        record->disabled = true;
        return NULL;
    }
    if (option_value(word, "expires=", &value))
        return value_date(value, &record->expires_wall_ms) ? NULL : "expires= wants a date such as 2027-01-31";
    if (option_value(word, "user=", &value)) {
        record->user = value;
        return value.length > 0 && value.length <= USER_BYTES_MAX ? NULL : "user= wants 1 to 256 characters";
    }
    if (option_value(word, "models=", &value)) {
        record->models = value;
        return value.length > 0 ? NULL : "models= wants patterns of model names with commas between them";
    }
    if (option_value(word, "endpoints=", &value)) {
        record->endpoints = value;
        return value.length > 0 ? NULL : "endpoints= wants names of endpoints with commas between them";
    }
    return "unknown word: known are user=, expires=, models=, endpoints= and disabled";
}

/* Each position takes one more word; @position counts from 0. */
static const char *take_word(struct text word, size_t position, struct keys_file_record *record)
{
    if (!is_printable(word))
        return "a control character is not accepted";
    if (position == 0) {
        record->tenant = word;
        return setting_is_name(word) ? NULL : "the tenant's name may have letters, digits and . _ : / -";
    }
    if (position == 1) {
        record->name = word;
        return setting_is_name(word) ? NULL : "the key's name may have letters, digits and . _ : / -";
    }
    if (position == 2)
        return text_from_hex(word, record->sha256, sizeof(record->sha256))
                   ? NULL
                   : "the third word must be the 64 hexadecimal digits of the key's SHA-256, never the key itself";
    return take_option(word, record);
}

enum keys_file_result keys_file_parse_line(struct text line, struct keys_file_record *ret, const char **ret_error,
                                           size_t *ret_column)
{
    struct keys_file_record record = {0};
    if (line.length > 0 && line.at[line.length - 1] == '\r')
        line.length--;
    const char *error = line.length > KEYS_FILE_LINE_BYTES_MAX ? "the line is longer than 4096 bytes" : NULL;
    size_t at = 0, column = 0, position = 0;
    while (error == NULL) {
        struct text word = next_word(line, &at);
        if (word.length == 0 || word.at[0] == '#')
            break;
        column = at - word.length;
        error = take_word(word, position, &record);
        position++;
    }
    if (error == NULL && position == 0)
        return KEYS_FILE_BLANK;
    if (error == NULL && position < 3)
        error = "a line needs three words: tenant, name of the key, SHA-256 of the key";
    if (error != NULL) {
        *ret_error = error;
        *ret_column = column;
        return KEYS_FILE_BAD;
    }
    *ret = record;
    return KEYS_FILE_RECORD;
}

static void add_option(struct builder *to, const char *name, struct text value)
{
    if (value.length > 0)
        builder_format(to, " %s%.*s", name, TEXT_ARGUMENTS(value));
}

static void write_line(struct builder *to, const struct keys_file_record *record)
{
    char hex[2 * sizeof(record->sha256) + 1];
    text_hex(hex, record->sha256, sizeof(record->sha256));
    builder_format(to, "%.*s %.*s %s", TEXT_ARGUMENTS(record->tenant), TEXT_ARGUMENTS(record->name), hex);
    add_option(to, "user=", record->user);
    if (record->expires_wall_ms != 0) {
        char when[CLOCK_TEXT_BYTES];
        add_option(to, "expires=", text_of(clock_text(record->expires_wall_ms, when)));
    }
    add_option(to, "models=", record->models);
    add_option(to, "endpoints=", record->endpoints);
    if (record->disabled)
        builder_add_string(to, " disabled");
    builder_add_string(to, "\n");
}

/* A file that was edited by hand may lack its last newline. */
static bool ends_with_newline(int fd)
{
    char last = '\n';
    off_t size = lseek(fd, 0, SEEK_END);
    return size <= 0 || (pread(fd, &last, 1, size - 1) == 1 && last == '\n');
}

static bool append_locked(int fd, struct text line)
{
    if (flock(fd, LOCK_EX) != 0)
        return false;
    char memory[KEYS_FILE_LINE_BYTES_MAX + 2];
    struct builder whole;
    builder_init(&whole, memory, sizeof(memory));
    if (!ends_with_newline(fd))
        builder_add_string(&whole, "\n");
    builder_add(&whole, line);
    ssize_t written = write(fd, whole.at, whole.length);
    if (written >= 0 && (size_t) written != whole.length) {
        errno = ENOSPC;
        return false;
    }
    return written >= 0 && fsync(fd) == 0;
}

/* A blank in a name would make other words of it. */
static bool reads_back(struct text line, const struct keys_file_record *record)
{
    struct keys_file_record again;
    const char *error;
    size_t column;
    return memchr(line.at, '\n', line.length) == NULL &&
           keys_file_parse_line(line, &again, &error, &column) == KEYS_FILE_RECORD &&
           text_equal(again.tenant, record->tenant) && text_equal(again.name, record->name) &&
           text_equal(again.user, record->user) && text_equal(again.models, record->models) &&
           text_equal(again.endpoints, record->endpoints) && again.disabled == record->disabled &&
           again.expires_wall_ms == record->expires_wall_ms;
}

bool keys_file_append(const char *path, const struct keys_file_record *record)
{
    char memory[KEYS_FILE_LINE_BYTES_MAX];
    struct builder line;
    builder_init(&line, memory, sizeof(memory));
    write_line(&line, record);
    struct text text = builder_text(&line);
    if (line.overflowed || !reads_back((struct text){text.at, text.length - 1}, record)) {
        errno = EINVAL;
        return false;
    }
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0)
        return false;
    return file_close_after(fd, append_locked(fd, text));
}
