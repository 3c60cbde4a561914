/* A fleet with policies made by hand and remote engines that are HTTP stubs. */
#ifndef TESTS_LIB_FLEET_ROOM_H
#define TESTS_LIB_FLEET_ROOM_H

#include <stdatomic.h>
#include <stdbool.h>

#include "backends/fleet.h"
#include "base/loop.h"
#include "conf/policy.h"
#include "tests/lib/http_stub.h"

enum { FLEET_ROOM_ENGINES_MAX = 8, FLEET_ROOM_MODELS_MAX = 4 };

/* An engine as llama.cpp answers, with faults to switch on. */
struct stub_engine {
    struct http_stub *stub;
    const char *model;       /* listed by /v1/models; "m" */
    int slots;               /* told by /props */
    atomic_int health;       /* status of /health; 200 */
    atomic_bool hangs;       /* nothing is answered */
    atomic_bool no_token;    /* /v1/completions answers 500 */
    atomic_bool chat_only;   /* /v1/completions answers 404 */
    atomic_int tokens_asked; /* generations asked for */
    char last_authorization[256];
};

/* @address as for http_stub_start. */
void stub_engine_start(struct stub_engine *engine, const char *address);
void stub_engine_stop(struct stub_engine *engine);

/* One model "m" whose engines are changed in place before fleet_room_apply. */
struct fleet_room {
    struct loop *control;
    struct children *children; /* or NULL; before fleet_room_open */
    struct fleet *fleet;
    struct engine engines[FLEET_ROOM_ENGINES_MAX];
    char names[FLEET_ROOM_ENGINES_MAX][32];
    struct model models[FLEET_ROOM_MODELS_MAX];
    struct policy policy;
};

/* A loop, a fleet and a policy with the model "m" without engines. */
void fleet_room_open(struct fleet_room *room);
void fleet_room_close(struct fleet_room *room);
/* The model's next engine; returns it for changes. */
struct engine *fleet_room_add(struct fleet_room *room, const char *url);
void fleet_room_apply(struct fleet_room *room);
/* Run the control loop until the model "m" has @ready READY instances; fails the test after 20 s. */
void fleet_room_until_ready(struct fleet_room *room, int ready);
/* Run the control loop for @ms. */
void fleet_room_run(struct fleet_room *room, int ms);
struct model_status fleet_room_status(struct fleet_room *room);
/* The text of fleet_write_json holds @piece. */
bool fleet_room_tells(struct fleet_room *room, const char *piece);
/* Run the control loop until fleet_room_tells; fails the test after 20 s. */
void fleet_room_until_told(struct fleet_room *room, const char *piece);

/* A waiter that notes what it was told. */
struct noted_waiter {
    struct lease_waiter waiter;
    int granted, refused;
    struct lease *lease;
    enum lease_verdict why;
    int order; /* how many were granted before */
};
enum lease_verdict noted_take(struct fleet_room *room, struct noted_waiter *noted, const char *except);

#endif
