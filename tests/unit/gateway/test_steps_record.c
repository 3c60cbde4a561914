#include <string.h>

#include "conf/policy.h"
#include "gateway/request.h"
#include "gateway/worker.h"
#include "tests/lib/journal_room.h"

/* A worker that has a loop and a journal, and one request on it; nothing else of a gateway. */
static struct room room;
static struct worker worker;
static struct request request;
static struct policy policy;

static void on_later(struct loop_turn_end *end)
{
    struct request *later = end->owner;
    later->later_queued = false;
}

static void begin_request(const char *id)
{
    request = (struct request){.worker = &worker, .tenant = "acme", .key = "key-1", .model = "gemma"};
    text_copy(request.id, sizeof request.id, text_of(id));
    request.later = (struct loop_turn_end){.run = on_later, .owner = &request};
    request.estimate.input_tokens = 11;
    request.policy = &policy;
    request_keep_bill_rules(&request);
    request.policy = NULL;
}

static int set_up(void **state)
{
    (void) state;
    policy = (struct policy){
        .billing = {.bill_client_gone = true, .bill_engine_error = true, .bill_crash = true, .bill_estimated = true}};
    room_init(&room);
    worker = (struct worker){.loop = room.loop};
    assert_true(worker_journal_begin(&worker, &room.options));
    snprintf(room.writer, sizeof room.writer, "%s/0-%s", room.directory, journal_writer_id(worker.journal));
    begin_request("req-00000001");
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    room_turn(&room);
    worker_journal_end(&worker);
    room_finish(&room);
    return 0;
}

static void open_it(void)
{
    assert_int_equal(request_open_record(&request), STEP_WAIT);
    room_turn(&room);
    assert_int_equal(request_open_record(&request), STEP_NEXT);
}

/* The writer's last record of @type; texts are not kept. */
static struct record last_record(enum record_type type)
{
    struct record record, found = {0};
    struct journal_reader *reader = journal_reader_create(room.writer, NULL);
    while (journal_read_next(reader, &record) == JOURNAL_RECORD)
        found = record.type == type ? record : found;
    journal_reader_destroy(&reader);
    assert_int_equal(found.type, type);
    return found;
}

static unsigned count_records(void)
{
    return room_read(room.writer).records;
}

/* ---- OPEN ---- */

static void nothing_is_sent_before_the_open_is_written(void **state)
{
    (void) state;
    assert_int_equal(request_open_record(&request), STEP_WAIT);
    assert_int_equal(request_open_record(&request), STEP_WAIT);
    assert_int_equal(count_records(), 0);
    room_turn(&room);
    assert_int_equal(count_records(), 1);
    assert_int_equal(last_record(RECORD_OPEN).input_tokens, 11);
    assert_int_equal(request_open_record(&request), STEP_NEXT);
    assert_int_equal(request_open_record(&request), STEP_NEXT); /* a second attempt */
    room_turn(&room);
    assert_int_equal(count_records(), 1);
    request_close_record(&request);
}

static void without_a_journal_there_is_no_work(void **state)
{
    struct journal *journal = worker.journal;
    (void) state;
    worker.journal = NULL;
    assert_int_equal(request_open_record(&request), STEP_REPLY);
    assert_int_equal(request.outcome, OUTCOME_USAGE_NOT_RECORDABLE);
    assert_int_equal(request.status, 503);
    assert_true(request.retry_after_ms > 0);
    request_close_record(&request);
    assert_int_equal(step_record(&request), STEP_NEXT);
    worker.journal = journal;
}

/* Else its OPEN would keep all segments from there on, and no window would ever be complete. */
static void who_leaves_before_the_open_is_written_owes_nothing(void **state)
{
    (void) state;
    assert_int_equal(request_open_record(&request), STEP_WAIT);
    (void) request_decide(&request, OUTCOME_CLIENT_GONE, NULL);
    request_close_record(&request);
    assert_int_equal(request.recording, RECORDING_CLOSED);
    room_turn(&room);
    assert_int_equal(room_read(room.writer).opens, 1);
    assert_int_equal(room_read(room.writer).closes, 1);
    struct record close = last_record(RECORD_CLOSE);
    assert_true(close.end == END_CLIENT_GONE && !close.billed);
    assert_true(close.input_tokens == 0 && close.output_tokens == 0);
    request_close_record(&request);
    assert_int_equal(step_record(&request), STEP_NEXT);
    room_turn(&room);
    assert_int_equal(room_read(room.writer).closes, 1);
}

static void an_open_that_the_disk_refuses_owes_nothing(void **state)
{
    (void) state;
    assert_int_equal(request_open_record(&request), STEP_WAIT);
    struct journal_wait *wait = &request.journal_wait;
    journal_forget(worker.journal, wait);
    wait->durable(wait, false);
    assert_int_equal(request_open_record(&request), STEP_REPLY);
    assert_int_equal(request.outcome, OUTCOME_USAGE_NOT_RECORDABLE);
    request_close_record(&request);
    assert_int_equal(step_record(&request), STEP_NEXT);
    room_turn(&room);
    assert_int_equal(room_read(room.writer).opens, 1);
    assert_int_equal(room_read(room.writer).closes, 1);
    struct record close = last_record(RECORD_CLOSE);
    assert_true(close.end == END_CUT && !close.billed && close.input_tokens == 0);
}

/* ---- CLOSE ---- */

static void the_last_bytes_wait_for_the_close(void **state)
{
    (void) state;
    open_it();
    assert_int_equal(step_record(&request), STEP_WAIT);
    assert_int_equal(step_record(&request), STEP_WAIT);
    assert_int_equal(room_read(room.writer).closes, 0);
    room_turn(&room);
    assert_int_equal(step_record(&request), STEP_NEXT);
    assert_int_equal(room_read(room.writer).closes, 1);
    request_close_record(&request);
    room_turn(&room);
    assert_int_equal(room_read(room.writer).closes, 1);
}

static void who_leaves_while_the_close_waits_is_closed_once(void **state)
{
    (void) state;
    open_it();
    request.outcome = OUTCOME_SERVED;
    assert_int_equal(step_record(&request), STEP_WAIT);
    request_close_record(&request);
    assert_int_equal(request.recording, RECORDING_CLOSED);
    room_turn(&room);
    assert_int_equal(room_read(room.writer).closes, 1);
    assert_int_equal(last_record(RECORD_CLOSE).end, END_COMPLETE);
}

struct ending {
    enum outcome outcome;
    int engine_status;
    bool by_timer;
    enum usage_source input, output; /* of 7 and 3 tokens; NONE = none */
    bool no_client_gone, no_engine_error, no_estimated;
    /* then */
    enum usage_end end;
    bool billed;
};

static const struct ending endings[] = {
    {OUTCOME_SERVED, 200, false, USAGE_ENGINE, USAGE_ENGINE, true, true, true, END_COMPLETE, true},
    {OUTCOME_SERVED, 200, false, USAGE_ESTIMATED, USAGE_COUNTED, false, false, false, END_COMPLETE, true},
    {OUTCOME_SERVED, 200, false, USAGE_ESTIMATED, USAGE_COUNTED, false, false, true, END_COMPLETE, false},
    {OUTCOME_SERVED, 200, false, USAGE_ENGINE, USAGE_COUNTED, false, false, true, END_COMPLETE, false},
    {OUTCOME_SERVED, 200, false, USAGE_ENGINE, USAGE_NONE, false, false, true, END_COMPLETE, true},
    {OUTCOME_CLIENT_GONE, 200, false, USAGE_ESTIMATED, USAGE_COUNTED, false, true, false, END_CLIENT_GONE, true},
    {OUTCOME_CLIENT_GONE, 200, false, USAGE_ENGINE, USAGE_ENGINE, true, false, false, END_CLIENT_GONE, false},
    {OUTCOME_CLIENT_GONE, 0, false, USAGE_NONE, USAGE_NONE, false, false, false, END_CLIENT_GONE, false},
    {OUTCOME_STREAM_BROKEN, 200, false, USAGE_ESTIMATED, USAGE_COUNTED, true, false, false, END_ENGINE_ERROR, true},
    {OUTCOME_STREAM_BROKEN, 200, false, USAGE_ESTIMATED, USAGE_COUNTED, false, true, false, END_ENGINE_ERROR, false},
    {OUTCOME_ENGINE_ERROR, 500, false, USAGE_NONE, USAGE_NONE, false, false, false, END_ENGINE_ERROR, false},
    {OUTCOME_ENGINE_TIMEOUT, 504, false, USAGE_NONE, USAGE_NONE, false, false, false, END_ENGINE_ERROR, false},
    {OUTCOME_ENGINE_TIMEOUT, 0, true, USAGE_NONE, USAGE_NONE, false, false, false, END_CUT, false},
    {OUTCOME_ENGINE_TIMEOUT, 200, true, USAGE_ESTIMATED, USAGE_NONE, true, true, false, END_CUT, true},
    {OUTCOME_STREAM_CUT, 200, true, USAGE_ESTIMATED, USAGE_COUNTED, true, true, false, END_CUT, true},
    {OUTCOME_LIMIT_CUT, 200, false, USAGE_ESTIMATED, USAGE_COUNTED, true, true, false, END_CUT, true},
    {OUTCOME_SHUTTING_DOWN, 0, false, USAGE_NONE, USAGE_NONE, false, false, false, END_CUT, false},
};

static void close_as(const struct ending *ending)
{
    policy.billing.bill_client_gone = !ending->no_client_gone;
    policy.billing.bill_engine_error = !ending->no_engine_error;
    policy.billing.bill_estimated = !ending->no_estimated;
    request.policy = &policy;
    request_keep_bill_rules(&request);
    request.policy = NULL;
    request.outcome = ending->outcome;
    request.engine_status = ending->engine_status;
    request.exchange_over = ending->by_timer;
    request.usage = (struct usage){.input_tokens = ending->input != USAGE_NONE ? 7 : 0,
                                   .output_tokens = ending->output != USAGE_NONE ? 3 : 0,
                                   .input_source = ending->input,
                                   .output_source = ending->output};
    request_close_record(&request);
    room_turn(&room);
}

static void what_a_close_says(void **state)
{
    static const enum count_source sources[] = {COUNT_NONE, COUNT_ENGINE, COUNT_COUNTED, COUNT_ESTIMATED};
    (void) state;
    for (unsigned i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        begin_request(room_id(i + 1).at);
        open_it();
        close_as(&endings[i]);
        struct record close = last_record(RECORD_CLOSE);
        if (close.end != endings[i].end || close.billed != endings[i].billed)
            fail_msg("row %u: end %d, billed %d", i, close.end, close.billed);
        assert_int_equal(close.input_tokens, request.usage.input_tokens);
        assert_int_equal(close.output_tokens, request.usage.output_tokens);
        assert_int_equal(close.input_source, sources[endings[i].input]);
        assert_int_equal(close.output_source, sources[endings[i].output]);
    }
    assert_int_equal(room_read(room.writer).closes, sizeof endings / sizeof endings[0]);
}

/* ---- PROGRESS ---- */

static void progress_goes_by_64_tokens(void **state)
{
    static const struct {
        int64_t chunks;
        unsigned progresses;
    } steps[] = {{0, 1}, {1, 1}, {63, 1}, {64, 2}, {100, 2}, {127, 2}, {128, 3}, {1000, 4}};
    struct relay_rules rules = {.dialect = dialect_of(DIALECT_OPENAI), .choices = 1};
    (void) state;
    open_it();
    relay_begin(&request.relay, RELAY_EVENTS, &rules);
    request_begin_progress(&request);
    for (unsigned i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        request.relay.content_chunks = steps[i].chunks;
        request_progress(&request);
        room_turn(&room);
        assert_int_equal(room_read(room.writer).progresses, steps[i].progresses);
    }
    assert_int_equal(last_record(RECORD_PROGRESS).output_tokens, 1000);
    request.progress_at -= 1000; /* a second has passed */
    request_progress(&request);
    room_turn(&room);
    assert_int_equal(room_read(room.writer).progresses, 5);
    request_close_record(&request);
    request.relay.content_chunks = 5000;
    request_progress(&request);
    room_turn(&room);
    assert_int_equal(room_read(room.writer).progresses, 5);
    relay_finish(&request.relay);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_is_sent_before_the_open_is_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_a_journal_there_is_no_work, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_leaves_before_the_open_is_written_owes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_open_that_the_disk_refuses_owes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_last_bytes_wait_for_the_close, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_leaves_while_the_close_waits_is_closed_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_a_close_says, set_up, tear_down),
        cmocka_unit_test_setup_teardown(progress_goes_by_64_tokens, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
