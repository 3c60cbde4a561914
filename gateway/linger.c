/* A client that left when its stream had all but ended: the engine's count is waited for a moment, without it. */
#include "base/panic.h"
#include "gateway/request.h"
#include "gateway/worker.h"

enum { LINGER_MS = 1000 };

bool request_may_linger(const struct request *request)
{
    const struct relay *relay = &request->relay;
    bool is_at_it = request->exchange != NULL && !request->relay_over && relay->kind == RELAY_EVENTS;
    return is_at_it && relay_has_finished(relay) && !relay->usage_is_final && !relay->done_seen &&
           !request->worker->ending;
}

static void on_linger_over(struct loop_timer *timer)
{
    request_end_lingering(timer->owner);
}

void request_linger(struct request *request)
{
    struct loop *loop = request->worker->loop;
    request->lingering = true;
    loop_timer_cancel(loop, &request->ping);
    request->linger = (struct loop_timer){.fire = on_linger_over, .owner = request};
    loop_timer_set(loop, &request->linger, loop_now(loop) + LINGER_MS);
    if (request->engine_paused) {
        request->engine_paused = false;
        exchange_continue(request->exchange);
    }
}

static struct text keep(struct request *request, struct text from)
{
    return from.at != NULL ? arena_copy(&request->arena, from) : from;
}

void request_detach(struct request *request)
{
    const char *address = arena_copy_string(&request->arena, text_of(request->client_address));
    request->client_address = address != NULL ? address : "";
    request->client_request_id = keep(request, request->client_request_id);
    request->client_retry_count = keep(request, request->client_retry_count);
    request->connection = NULL;
    request->head = NULL;
}

void request_end_lingering(struct request *request)
{
    ENSURE(request->lingering);
    request->lingering = false;
    loop_timer_cancel(request->worker->loop, &request->linger);
    request_end_gone(request);
    if (request->connection == NULL)
        request_end(request, false);
}
