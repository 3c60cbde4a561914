#include "tests/lib/fleet_room.h"

#include <string.h>
#include <unistd.h>

#include "base/transfers.h"
#include "tests/lib/unit.h"

enum { PATIENCE_MS = 20 * 1000 };

static void answer_as_llamacpp(void *owner, const struct http_stub_request *request, struct http_stub_answer *answer)
{
    struct stub_engine *engine = owner;
    static _Thread_local char body[256];
    answer->hang = engine->hangs;
    if (strcmp(request->path, "/health") == 0) {
        answer->status = engine->health;
    } else if (strcmp(request->path, "/v1/models") == 0) {
        snprintf(body, sizeof(body), "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"max_model_len\":777}]}",
                 engine->model);
        answer->body = body;
    } else if (strcmp(request->path, "/props") == 0) {
        snprintf(body, sizeof(body), "{\"total_slots\":%d,\"default_generation_settings\":{\"n_ctx\":512}}",
                 engine->slots);
        answer->body = body;
    } else if (strcmp(request->path, "/v1/completions") == 0 || strcmp(request->path, "/v1/chat/completions") == 0) {
        snprintf(engine->last_authorization, sizeof(engine->last_authorization), "%s", request->authorization);
        engine->tokens_asked++;
        answer->body = "{\"choices\":[{\"text\":\"x\"}]}";
        if (engine->no_token)
            answer->status = 500;
        else if (engine->chat_only && strcmp(request->path, "/v1/completions") == 0)
            answer->status = 404;
    } else {
        answer->status = 404;
    }
}

void stub_engine_start(struct stub_engine *engine, const char *address)
{
    if (engine->model == NULL)
        engine->model = "m";
    if (engine->slots == 0)
        engine->slots = 2;
    engine->health = 200;
    engine->stub = http_stub_start(address, answer_as_llamacpp, engine);
}

void stub_engine_stop(struct stub_engine *engine)
{
    http_stub_stop(&engine->stub);
}

void fleet_room_open(struct fleet_room *room)
{
    assert_true(transfers_global_init());
    room->control = loop_create();
    room->fleet = fleet_create(room->control, room->children);
    assert_non_null(room->fleet);
    room->models[0] = (struct model){
        .name = "m",
        .engine_model = "m",
        .queue_length = 4,
        .queue_wait_ms = 60 * 1000,
        .timeouts = {.connect_ms = 2000, .first_token_ms = 1000, .inter_chunk_ms = 1000, .total_ms = 60 * 1000},
        .start_timeout_ms = 60 * 1000,
        .engines = room->engines,
    };
    room->policy.runtime_dir = "/nonexistent/tollgate";
    room->policy.models = room->models;
    room->policy.model_count = 1;
}

void fleet_room_close(struct fleet_room *room)
{
    loop_run_once(room->control, 0); /* a sweep that was asked for */
    fleet_destroy(&room->fleet);
    loop_destroy(room->control);
}

struct engine *fleet_room_add(struct fleet_room *room, const char *url)
{
    size_t at = room->models[0].engine_count++;
    snprintf(room->names[at], sizeof(room->names[at]), "m/%zu", at + 1);
    room->engines[at] =
        (struct engine){.name = room->names[at], .model = "m", .url = url, .dialect = DIALECT_LLAMACPP, .weight = 1};
    return &room->engines[at];
}

void fleet_room_apply(struct fleet_room *room)
{
    fleet_apply(room->fleet, &room->policy);
}

void fleet_room_run(struct fleet_room *room, int ms)
{
    mono_ms end = clock_mono_ms() + ms;
    while (clock_mono_ms() < end)
        loop_run_once(room->control, 10);
}

static void note_status(void *owner, const struct model_status *status)
{
    if (strcmp(status->model, "m") == 0)
        *(struct model_status *) owner = *status;
}

struct model_status fleet_room_status(struct fleet_room *room)
{
    struct model_status status = {0};
    fleet_each_model(room->fleet, note_status, &status);
    return status;
}

void fleet_room_until_ready(struct fleet_room *room, int ready)
{
    mono_ms end = clock_mono_ms() + PATIENCE_MS;
    while (fleet_room_status(room).ready != ready) {
        assert_true(clock_mono_ms() < end);
        loop_run_once(room->control, 10);
    }
}

bool fleet_room_tells(struct fleet_room *room, const char *piece)
{
    struct buffer json;
    bool found;
    buffer_init(&json, 1024 * 1024);
    assert_true(fleet_write_json(room->fleet, &json));
    assert_true(buffer_add(&json, (struct text){"", 1}));
    found = strstr(buffer_text(&json).at, piece) != NULL;
    buffer_finish(&json);
    return found;
}

void fleet_room_until_told(struct fleet_room *room, const char *piece)
{
    mono_ms end = clock_mono_ms() + PATIENCE_MS;
    while (!fleet_room_tells(room, piece)) {
        if (clock_mono_ms() >= end)
            fail_msg("never told: %s", piece);
        loop_run_once(room->control, 10);
    }
}

static int granted_in_all;

static void note_granted(struct lease_waiter *waiter, struct lease *lease)
{
    struct noted_waiter *noted = waiter->owner;
    noted->granted++;
    noted->lease = lease;
    noted->order = granted_in_all++;
}

static void note_refused(struct lease_waiter *waiter, enum lease_verdict why)
{
    struct noted_waiter *noted = waiter->owner;
    noted->refused++;
    noted->why = why;
}

enum lease_verdict noted_take(struct fleet_room *room, struct noted_waiter *noted, const char *except)
{
    *noted = (struct noted_waiter){
        .waiter = {.loop = room->control, .granted = note_granted, .refused = note_refused, .owner = noted}};
    return lease_take(room->fleet, "m", except, &noted->waiter, &noted->lease);
}
