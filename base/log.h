/* One line per event to standard error: text on a terminal, JSON otherwise. It has no way to format a secret. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
enum log_format { LOG_FORMAT_AUTO, LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* Before any thread starts. Lines below @least are dropped. AUTO looks at whether standard error is a terminal. */
void log_configure(enum log_format format, enum log_level least);
/* From now on a thread of its own writes, so that a full pipe blocks nobody: lines go through a bounded ring and are
 * dropped (and counted in a later line) when it is full. False when the thread cannot start: lines stay synchronous. */
bool log_start_writer(void);
/* Write out what the ring holds and join the thread. No-op when it was not started. */
void log_stop_writer(void);

enum { LOG_LINE_BYTES = 2048 };

/* A line being made, on the caller's stack. */
struct log_line {
    enum log_level level;
    bool wanted; /* false: everything below is a no-op */
    bool as_json;
    struct builder builder;
    char memory[LOG_LINE_BYTES];
};

/* @event is a short constant name ("request", "engine"). Time and level are added. */
void log_begin(struct log_line *line, enum log_level level, const char *event);
/* Keys are short constant snake_case names with their unit last. Values are escaped. */
void log_add(struct log_line *line, const char *key, struct text value);
void log_add_string(struct log_line *line, const char *key, const char *value);
void log_add_int(struct log_line *line, const char *key, int64_t value);
void log_add_seconds(struct log_line *line, const char *key, int64_t microseconds);
/* Write it. A line that overflowed is written cut, with "cut":true. */
void log_end(struct log_line *line);

/* A whole line with only a message. */
__attribute__((format(printf, 3, 4))) void log_event(enum log_level level, const char *event, const char *format, ...);

#endif
