/* Gets whole log lines to standard error without making anybody wait for it. For base/log.c only. */
#ifndef BASE_LOG_WRITER_H
#define BASE_LOG_WRITER_H

#include "base/text.h"

/* Room for lines that wait for the thread, and the longest time that log_stop_writer waits for a reader. */
enum { LOG_RING_BYTES = 1024 * 1024, LOG_FLUSH_MS_MAX = 1000 };

/* @line is whole, with its newline. From any thread. Into the ring while the thread runs, dropped and counted when that
 * is full; else written here and now with one write(2), also in a forked child. */
void log_writer_put(struct text line);

#endif
