/* Lines are made on the caller's stack and written at once, or handed to the writer thread (base/log_writer.c). */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log_writer.h"

enum { TAIL_BYTES = 32, MESSAGE_BYTES = 1600, US_PER_SECOND = 1000000, MICROSECOND_DIGITS = 6 };

static enum log_format configured_format = LOG_FORMAT_AUTO;
static enum log_level least_level = LOG_INFO;

static enum log_format format_for(enum log_format format)
{
    if (format != LOG_FORMAT_AUTO)
        return format;
    return isatty(STDERR_FILENO) ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON;
}

void log_configure(enum log_format format, enum log_level least)
{
    configured_format = format_for(format);
    least_level = least;
}

static const char *level_name(enum log_level level)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    return names[level];
}

void log_begin(struct log_line *line, enum log_level level, const char *event)
{
    line->level = level;
    line->wanted = level >= least_level;
    if (!line->wanted)
        return;
    line->as_json = format_for(configured_format) == LOG_FORMAT_JSON;
    builder_init(&line->builder, line->memory, LOG_LINE_BYTES - TAIL_BYTES);
    char time[CLOCK_TEXT_BYTES];
    clock_text(clock_wall_ms(), time);
    const char *const json_parts[] = {"{\"time\":\"", time, "\",\"level\":\"", level_name(level), "\",\"event\":\"",
                                      event,          "\""};
    const char *const text_parts[] = {time, " ", level_name(level), " ", event};
    const char *const *parts = line->as_json ? json_parts : text_parts;
    size_t count = line->as_json ? sizeof json_parts / sizeof json_parts[0] : sizeof text_parts / sizeof text_parts[0];
    for (size_t i = 0; i < count; i++)
        builder_add_string(&line->builder, parts[i]);
}

/* Whether a value in a text line reads the same with and without quotes. */
static bool is_plain(struct text value)
{
    for (size_t i = 0; i < value.length; i++) {
        unsigned char c = (unsigned char) value.at[i];
        if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\')
            return false;
    }
    return value.length > 0;
}

static bool try_add(struct log_line *line, const char *key, struct text value, bool quoted)
{
    struct builder *builder = &line->builder;
    struct builder before = *builder;
    builder->overflowed = false;
    builder_add(builder, line->as_json ? TEXT(",\"") : TEXT(" "));
    builder_add_string(builder, key);
    builder_add(builder, line->as_json ? TEXT("\":") : TEXT("="));
    if (quoted)
        builder_add_json_repaired(builder, value);
    else
        builder_add(builder, value);
    if (!builder->overflowed) {
        builder->overflowed = before.overflowed;
        return true;
    }
    *builder = before;
    builder->overflowed = true;
    return false;
}

void log_add(struct log_line *line, const char *key, struct text value)
{
    if (!line->wanted)
        return;
    bool quoted = line->as_json || !is_plain(value);
    if (value.length > LOG_LINE_BYTES) {
        value.length = LOG_LINE_BYTES;
        line->builder.overflowed = true;
    }
    /* The start of a value that is too long says more than its absence. */
    while (!try_add(line, key, value, quoted) && value.length > 0)
        value.length /= 2;
}

void log_add_string(struct log_line *line, const char *key, const char *value)
{
    log_add(line, key, text_of(value));
}

static void add_number(struct log_line *line, const char *key, const struct builder *number)
{
    try_add(line, key, builder_text(number), false);
}

void log_add_int(struct log_line *line, const char *key, int64_t value)
{
    if (!line->wanted)
        return;
    char memory[32];
    struct builder number;
    builder_init(&number, memory, sizeof(memory));
    builder_add_int(&number, value, 1);
    add_number(line, key, &number);
}

void log_add_seconds(struct log_line *line, const char *key, int64_t microseconds)
{
    if (!line->wanted)
        return;
    uint64_t size_us = microseconds < 0 ? 0 - (uint64_t) microseconds : (uint64_t) microseconds;
    char memory[40];
    struct builder number;
    builder_init(&number, memory, sizeof(memory));
    builder_add_string(&number, microseconds < 0 ? "-" : "");
    builder_add_int(&number, (int64_t) (size_us / US_PER_SECOND), 1);
    builder_add_string(&number, ".");
    builder_add_int(&number, (int64_t) (size_us % US_PER_SECOND), MICROSECOND_DIGITS);
    add_number(line, key, &number);
}

void log_end(struct log_line *line)
{
    if (!line->wanted)
        return;
    line->wanted = false;
    bool cut = line->builder.overflowed;
    line->builder.capacity = LOG_LINE_BYTES;
    if (cut)
        builder_add(&line->builder, line->as_json ? TEXT(",\"cut\":true") : TEXT(" cut=true"));
    builder_add(&line->builder, line->as_json ? TEXT("}\n") : TEXT("\n"));
    log_writer_put(builder_text(&line->builder));
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    struct log_line line;
    log_begin(&line, level, event);
    if (!line.wanted)
        return;
    char message[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    if (length >= (int) sizeof(message))
        line.builder.overflowed = true;
    log_add_string(&line, "message", length >= 0 ? message : format);
    log_end(&line);
}
