/* The gateway's part of the master's protocol, spoken by a test frame by frame. What must come and does not fails it.
 */
#ifndef TESTS_LIB_GATEWAY_PART_H
#define TESTS_LIB_GATEWAY_PART_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/master.h"
#include "base/frame.h"
#include "tests/lib/keeper.h"

enum { PART_LONG_MS = 600 * 1000, PART_LINK_BYTES = 128 }; /* far longer than any test */

/* The fixture: a master whose first gateway process said that it is ready. */
extern struct keeper part_keeper;
extern struct keeper_gateway part_gateway;
int part_set_up(void **state);
int part_tear_down(void **state);
#define MASTER_TEST(test) cmocka_unit_test_setup_teardown(test, part_set_up, part_tear_down)
/* kill -9 the gateway process and take on its successor. */
void part_replace_gateway(void);

/* Only PATH. */
extern const char *const PART_ENVIRONMENT[];
/* A script that ignores SIGTERM, with a grandchild in its group and one in a session of its own, which ignore it too;
 * logs three pids. */
extern const char PART_STUBBORN_FAMILY[];

/* A frame of a name and a number, where they are not NULL. */
void part_send(int socket, enum master_frame type, const char *name, const int64_t *value, int fd);
void part_say_ready(int socket);
void part_say_stop(int socket, const char *name, int64_t grace_ms);
void part_say_start_in(int socket, const char *name, const char *directory, const char *const *arguments,
                       const char *const *environment);
/* Of /bin/sh. */
void part_say_start(int socket, const char *name, const char *script);

/* The next frame; slices live until the next one. */
struct frame_reader part_hear_any(int socket);
/* The same, which has to be of @type. */
struct frame_reader part_hear(int socket, enum master_frame type);
/* The frame's next field as a C string, until the next call. */
const char *part_heard_name(struct frame_reader *frame);
const char *part_heard_text(struct frame_reader *frame);
/* The pid of STARTED. */
int part_hear_started(int socket, const char *name);
struct part_exit {
    int pid;
    int wait_status;
    bool was_asked;
    const char *reason;
};
struct part_exit part_hear_exited(int socket, const char *name);

/* Of /bin/sh, up to STARTED; its pid. */
int part_start(int socket, const char *name, const char *script);
const char *part_logs(int socket, const char *name);
/* Numbers that the child wrote, one a line, once there are @count. */
void part_logged_pids(int socket, const char *name, int *pids, int count);

/* What descriptor @fd of @pid is, into @to; "" = not open. Returns @to. */
const char *part_descriptor(int pid, int fd, char to[PART_LINK_BYTES]);
int part_count_descriptors(int pid);

#endif
