/* The last words of a process that broke its own rules. */
#include "base/panic.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/text.h"

enum { PANIC_BYTES_MAX = 512 };

_Noreturn void panic(const char *file, int line, const char *what)
{
    char memory[PANIC_BYTES_MAX];
    struct builder words;
    builder_init(&words, memory, sizeof(memory) - 1);
    builder_add_string(&words, "panic: ");
    builder_add_string(&words, file);
    builder_format(&words, ":%d: ", line);
    builder_add_string(&words, what);
    memory[words.length] = '\n';
    ssize_t written = write(STDERR_FILENO, memory, words.length + 1);
    (void) written;
    abort();
}
