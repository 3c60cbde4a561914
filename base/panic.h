/* The two ways to stop the process when its own rules are broken; both stay on in release builds. */
#ifndef BASE_PANIC_H
#define BASE_PANIC_H

/* Write "panic: file:line: what" to stderr and abort. Never returns; allocates nothing. */
_Noreturn void panic(const char *file, int line, const char *what);

/* A condition that only a bug of ours can break. Never for input, never for a failing system. */
#define ENSURE(condition) ((condition) ? (void) 0 : panic(__FILE__, __LINE__, #condition))

/* A place that control flow cannot reach; @why is a string literal. */
#define UNREACHABLE(why) panic(__FILE__, __LINE__, why)

#endif
