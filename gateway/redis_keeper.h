/* A redis-server of our own: the master's child, started, found again by the next gateway, started again when it dies.
 * Nothing waits for it. Control thread only. */
#ifndef GATEWAY_REDIS_KEEPER_H
#define GATEWAY_REDIS_KEEPER_H

#include <stdbool.h>

struct children;
struct loop;
struct redis_keeper;

/* Prepare its place in @state_dir, whose lock the caller holds, and its socket's in @runtime_dir. Before
 * children_attach. The program is what REDIS_SERVER of the environment names, else PATH's redis-server,
 * else the one that Debian's redis-tools has under the name of its checker. NULL with errno:
 * no memory, or no such directory. */
struct redis_keeper *redis_keeper_create(struct loop *loop, struct children *children, const char *state_dir,
                                         const char *runtime_dir);
/* After children_attach, once: keep the one that a gateway before us has started with the same words, else start one.
 */
void redis_keeper_begin(struct redis_keeper *keeper);
/* Every second or so, with whether Redis answers: one that runs and cannot be reached any more, since somebody removed
 * its socket, is replaced. */
void redis_keeper_look(struct redis_keeper *keeper, bool answers);
/* After children_destroy. The server runs on: ending it is the master's work. NULLs; no-op on NULL. */
void redis_keeper_destroy(struct redis_keeper **keeper);

/* Where it listens, or will. Lives as long as the keeper. */
const char *redis_keeper_socket(const struct redis_keeper *keeper);
/* Why it does not run, and what to do about it; "" while it runs. Until the loop runs next. */
const char *redis_keeper_trouble(const struct redis_keeper *keeper);

#endif
