/* A recorded load from a CSV file: when requests arrived and how many tokens they had. */
#ifndef GATEWAY_TRACE_H
#define GATEWAY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TRACE_ROWS_MAX = 5000000, TRACE_LINE_BYTES_MAX = 4096, TRACE_ERROR_BYTES = 4400, TRACE_TOKENS_MAX = 1000000000 };

struct trace_row {
    int64_t arrival_us; /* since the first arrival, >= 0 */
    int64_t input_tokens;
    int64_t output_tokens; /* both 0 to TRACE_TOKENS_MAX */
};

/* Plain value; zeroed memory is an empty trace. */
struct trace {
    struct trace_row *rows; /* by arrival, those of one moment as they stood in the file */
    size_t count;
};

/* Read @file: a header that names the columns, "TIMESTAMP,ContextTokens,GeneratedTokens" (a date and time, UTC) or
 * "arrival,input,output" (seconds), in any order, others among them; then one request a line. False with "file:line:
 * message" in @error ("file: message" when no line is to blame); then @ret is untouched. The caller finishes what it
 * got. */
bool trace_read(const char *file, struct trace *ret, char error[TRACE_ERROR_BYTES]);
void trace_finish(struct trace *trace);

#endif
