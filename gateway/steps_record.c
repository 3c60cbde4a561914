/* What a request used, in the journal: before it is sent to an engine, while the answer comes, and before the answer's
 * last bytes leave. */
#include "base/log.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "gateway/request.h"
#include "gateway/worker.h"

enum { PROGRESS_EVERY_TOKENS = 64, PROGRESS_EVERY_MS = 1000, REFUSED_RETRY_MS = 5000 };

void request_keep_bill_rules(struct request *request)
{
    if (request->policy == NULL)
        return; /* a second attempt: they are kept */
    const struct billing_policy *billing = &request->policy->billing;
    request->bill = (struct bill_rules){.client_gone = billing->bill_client_gone,
                                        .engine_error = billing->bill_engine_error,
                                        .estimated = billing->bill_estimated};
}

static struct record start_record(const struct request *request, enum record_type type)
{
    return (struct record){
        .type = type,
        .request_id = text_of(request->id),
        .tenant = text_of(request->tenant),
        .key = text_of(request->key),
        .model = text_of(request->model),
        .when = clock_wall_ms(),
    };
}

/* ---- OPEN ---- */

static void close_unsent(struct request *request, enum usage_end end);

static void on_opened(struct journal_wait *wait, bool ok)
{
    struct request *request = wait->owner;
    request->recording = ok ? RECORDING_OPEN : RECORDING_REFUSED;
    if (!ok) {
        close_unsent(request, END_CUT);
        worker_journal_look(request->worker);
    }
    request_wake(request);
}

static enum step_result refuse(struct request *request)
{
    request->recording = RECORDING_REFUSED;
    request->retry_after_ms = REFUSED_RETRY_MS;
    request_release(request, LEASE_UNUSED);
    worker_journal_look(request->worker);
    return request_decide(request, OUTCOME_USAGE_NOT_RECORDABLE, NULL);
}

static enum step_result open_record(struct request *request)
{
    struct journal *journal = request->worker->journal;
    struct record open = start_record(request, RECORD_OPEN);
    open.input_tokens = request->estimate.input_tokens;
    request->journal_wait = (struct journal_wait){.durable = on_opened, .owner = request};
    if (journal == NULL || !journal_open(journal, &open, &request->journal_wait))
        return refuse(request);
    request->recording = RECORDING_OPENING;
    return STEP_WAIT;
}

enum step_result request_open_record(struct request *request)
{
    switch (request->recording) {
    case RECORDING_NONE:
        return open_record(request);
    case RECORDING_OPENING:
        return STEP_WAIT;
    case RECORDING_REFUSED:
        return refuse(request);
    case RECORDING_OPEN:
        return STEP_NEXT;
    case RECORDING_CLOSING:
    case RECORDING_CLOSED:
        break;
    }
    UNREACHABLE("a request that is over is sent to an engine");
}

/* ---- PROGRESS ---- */

static void write_progress(struct request *request, int64_t output_tokens)
{
    request->progress_tokens = output_tokens;
    request->progress_at = loop_now(request->worker->loop);
    journal_progress(request->worker->journal, text_of(request->id), output_tokens, clock_wall_ms());
}

void request_begin_progress(struct request *request)
{
    write_progress(request, 0);
}

void request_progress(struct request *request)
{
    if (request->recording != RECORDING_OPEN || request->relay_over)
        return;
    int64_t output_tokens = relay_usage(&request->relay, false, request->estimate.input_tokens).output_tokens;
    bool is_due = output_tokens - request->progress_tokens >= PROGRESS_EVERY_TOKENS ||
                  loop_now(request->worker->loop) - request->progress_at >= PROGRESS_EVERY_MS;
    if (is_due)
        write_progress(request, output_tokens);
}

/* ---- CLOSE ---- */

static enum count_source source_of(enum usage_source source)
{
    static const enum count_source sources[] = {[USAGE_NONE] = COUNT_NONE,
                                                [USAGE_ENGINE] = COUNT_ENGINE,
                                                [USAGE_COUNTED] = COUNT_COUNTED,
                                                [USAGE_ESTIMATED] = COUNT_ESTIMATED};
    return sources[source];
}

static enum usage_end end_of(const struct request *request)
{
    bool by_timer = request->outcome == OUTCOME_ENGINE_TIMEOUT && request->exchange_over &&
                    (request->engine_status == 0 || request->engine_status == 200);
    if (request->outcome == OUTCOME_SERVED)
        return END_COMPLETE;
    if (request->outcome == OUTCOME_CLIENT_GONE)
        return END_CLIENT_GONE;
    if (by_timer || request->outcome == OUTCOME_LIMIT_CUT || request->outcome == OUTCOME_STREAM_CUT ||
        request->outcome == OUTCOME_SHUTTING_DOWN)
        return END_CUT;
    return END_ENGINE_ERROR;
}

static bool is_engines_own(const struct usage *usage)
{
    return (usage->input_tokens == 0 || usage->input_source == USAGE_ENGINE) &&
           (usage->output_tokens == 0 || usage->output_source == USAGE_ENGINE);
}

static bool is_billed(const struct request *request, enum usage_end end)
{
    if (request->usage.input_source == USAGE_NONE)
        return false;
    if (end == END_CLIENT_GONE && !request->bill.client_gone)
        return false;
    if (end == END_ENGINE_ERROR && !request->bill.engine_error)
        return false;
    return request->bill.estimated || is_engines_own(&request->usage);
}

static struct record make_close(const struct request *request, enum usage_end end)
{
    const struct usage *usage = &request->usage;
    struct record close = start_record(request, RECORD_CLOSE);
    close.input_tokens = usage->input_tokens;
    close.cached_input_tokens = usage->cached_input_tokens;
    close.output_tokens = usage->output_tokens;
    close.input_source = source_of(usage->input_source);
    close.output_source = source_of(usage->output_source);
    close.end = end;
    close.billed = is_billed(request, end);
    return close;
}

static void count_close(enum usage_end end)
{
    static const char *const names[] = {[END_COMPLETE] = "complete",
                                        [END_CLIENT_GONE] = "client_gone",
                                        [END_ENGINE_ERROR] = "engine_error",
                                        [END_CUT] = "cut"};
    metric_count(METRIC_USAGE_RECORDS, names[end], NULL);
}

/* Who paid for it gets the whole answer, whatever the disk says: the journal tries again by itself. */
static void on_closed(struct journal_wait *wait, bool ok)
{
    struct request *request = wait->owner;
    struct worker *worker = request->worker;
    request->recording = RECORDING_CLOSED;
    if (!ok && !worker->close_refused)
        log_event(LOG_ERROR, "journal",
                  "worker %d: usage of finished requests waits for the disk of state_dir and is lost if this process "
                  "dies now",
                  worker->index);
    worker->close_refused = !ok;
    request_wake(request);
}

static void close_record(struct request *request)
{
    struct record close = make_close(request, end_of(request));
    request->recording = RECORDING_CLOSING;
    request->journal_wait = (struct journal_wait){.durable = on_closed, .owner = request};
    journal_close(request->worker->journal, &close, &request->journal_wait);
    count_close(close.end);
}

/* Its OPEN may be on the disk all the same. One that is never closed would look like a request that still runs: no
 * segment from there on would go, and no window that follows be complete. */
static void close_unsent(struct request *request, enum usage_end end)
{
    struct record close = make_close(request, end);
    journal_close(request->worker->journal, &close, NULL);
    count_close(end);
}

void request_close_record(struct request *request)
{
    struct journal *journal = request->worker->journal;
    if (request->recording == RECORDING_OPEN)
        close_record(request);
    if (request->recording != RECORDING_OPENING && request->recording != RECORDING_CLOSING)
        return;
    journal_forget(journal, &request->journal_wait);
    if (request->recording == RECORDING_OPENING)
        close_unsent(request, end_of(request));
    request->recording = RECORDING_CLOSED;
}

enum step_result step_record(struct request *request)
{
    if (request->recording == RECORDING_OPENING)
        request_close_record(request); /* ended before it was sent anywhere */
    if (request->recording == RECORDING_OPEN)
        close_record(request);
    return request->recording == RECORDING_CLOSING ? STEP_WAIT : STEP_NEXT;
}
