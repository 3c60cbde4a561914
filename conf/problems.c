/* One line each, bounded in number and length. */
#include "conf/problems.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/text.h"

enum {
    MESSAGE_BYTES_MAX = 1024,
    DIRECTORY_BYTES_MAX = 4096,
    PROBLEM_LIST_BYTES_MAX = (PROBLEMS_SHOWN_MAX + 1) * (MESSAGE_BYTES_MAX + DIRECTORY_BYTES_MAX),
};

void problem_list_init(struct problem_list *problems)
{
    *problems = (struct problem_list){0};
    buffer_init(&problems->text, PROBLEM_LIST_BYTES_MAX);
}

void problem_list_finish(struct problem_list *problems)
{
    buffer_finish(&problems->text);
    *problems = (struct problem_list){0};
}

struct text problem_shown_path(const char *file)
{
    char directory[DIRECTORY_BYTES_MAX];
    struct text path = text_of(file);
    if (getcwd(directory, sizeof(directory)) == NULL)
        return path;
    struct text prefix = text_of(directory);
    if (prefix.length <= 1 || !text_starts_with(path, prefix) || path.length <= prefix.length + 1 ||
        path.at[prefix.length] != '/')
        return path;
    return (struct text){path.at + prefix.length + 1, path.length - prefix.length - 1};
}

/* Quoted names and values may hold anything; a message stays on its line. */
static void replace_controls(char *message)
{
    for (char *at = message; *at != '\0'; at++) {
        if ((unsigned char) *at < ' ' || *at == 0x7f)
            *at = '?';
    }
}

__attribute__((format(printf, 4, 0))) static void problem_add(struct problem_list *problems, struct place place,
                                                              const char *kind, const char *format, va_list arguments)
{
    int shown = problems->errors + problems->warnings;
    if (shown == PROBLEMS_SHOWN_MAX)
        (void) buffer_add(&problems->text, TEXT("there are more problems, which are not shown\n"));
    if (shown >= PROBLEMS_SHOWN_MAX)
        return;
    char message[MESSAGE_BYTES_MAX];
    (void) vsnprintf(message, sizeof(message), format, arguments);
    replace_controls(message);
    struct text path = problem_shown_path(place.file);
    (void) buffer_format(&problems->text, "%.*s:%u:%u: %s: %s\n", TEXT_ARGUMENTS(path), place.line, place.column, kind,
                         message);
}

void problem_error(struct problem_list *problems, struct place place, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    problem_add(problems, place, "error", format, arguments);
    va_end(arguments);
    problems->errors++;
}

void problem_warning(struct problem_list *problems, struct place place, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    problem_add(problems, place, "warning", format, arguments);
    va_end(arguments);
    problems->warnings++;
}
