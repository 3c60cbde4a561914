/* The exact bound, and how streams that say what they have spent live with it. */
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/limiter_room.h"
#include "tests/lib/unit.h"

enum { EVENTS = 400, STREAMS = 8, PIECES_MAX = EVENTS + 1, ROUNDS = 40 };

/* What one stream took at its events, in order: what comes back is the last of it. */
struct stream {
    struct reservation reservation;
    bool spent;
    int64_t spent_tokens;
    size_t piece_count;
    struct {
        size_t event;
        int64_t tokens;
    } pieces[PIECES_MAX];
};

/* One token bucket, from one event to the next. */
struct history {
    struct room room;
    struct stream streams[STREAMS];
    mono_us when[EVENTS];
    double debt[EVENTS];      /* after the event */
    int64_t admitted[EVENTS]; /* at the event, and used in the end; by when it was taken */
    int64_t spent[EVENTS];    /* the same, by when it was spent */
    size_t event;
};

static void add_piece(struct history *history, struct stream *stream, int64_t tokens)
{
    stream->pieces[stream->piece_count].event = history->event;
    stream->pieces[stream->piece_count++].tokens = tokens;
    history->admitted[history->event] += tokens;
}

static void begin(struct history *history, struct stream *stream, int64_t tokens)
{
    stream->spent = false;
    stream->spent_tokens = 0;
    stream->piece_count = 0;
    if (room_reserve(&history->room, tokens, &stream->reservation) == LIMIT_ADMITTED)
        add_piece(history, stream, tokens);
}

static void top_up(struct history *history, struct stream *stream, int64_t tokens)
{
    if (limiter_top_up(history->room.limiter, &stream->reservation, tokens, history->room.now))
        add_piece(history, stream, tokens);
}

static void spend(struct history *history, struct stream *stream, int64_t so_far)
{
    limiter_spend(history->room.limiter, &stream->reservation, so_far, history->room.now);
    stream->spent = true;
    int64_t tokens = so_far < stream->reservation.tokens ? so_far : stream->reservation.tokens;
    if (tokens <= stream->spent_tokens)
        return;
    history->spent[history->event] += tokens - stream->spent_tokens;
    stream->spent_tokens = tokens;
}

static void end(struct history *history, struct stream *stream, int64_t used)
{
    int64_t unused = stream->reservation.tokens;
    if (used < 0 && !stream->spent) {
        limiter_cancel(history->room.limiter, &stream->reservation, history->room.now);
    } else {
        limiter_settle(history->room.limiter, &stream->reservation, used, history->room.now);
        int64_t charged = used > stream->spent_tokens ? used : stream->spent_tokens;
        history->spent[history->event] += charged - stream->spent_tokens;
        unused -= charged;
    }
    if (unused < 0)
        add_piece(history, stream, -unused);
    for (size_t piece = stream->piece_count; piece > 0 && unused > 0; piece--) {
        int64_t back = stream->pieces[piece - 1].tokens < unused ? stream->pieces[piece - 1].tokens : unused;
        history->admitted[stream->pieces[piece - 1].event] -= back;
        unused -= back;
    }
}

static void any_of_its_events(struct history *history, struct stream *stream)
{
    int64_t tokens = (int64_t) unit_random_below(unit_random_below(4) ? 60 : 600);
    size_t what = unit_random_below(12);
    if (!stream->reservation.open)
        begin(history, stream, tokens);
    else if (what < 4)
        top_up(history, stream, tokens);
    else if (what < 6)
        spend(history, stream, tokens);
    else if (what < 10)
        end(history, stream, 2 * tokens);
    else
        end(history, stream, -1);
}

static void look(struct history *history)
{
    double balance = room_balance(&history->room, SCOPE_KEY, LIMIT_TOKENS);
    history->when[history->event] = history->room.now;
    history->debt[history->event] = balance < 0 ? -balance : 0;
}

/* Streams come, last, go, and pause for as long as it takes to fill the bucket. */
static void live(struct history *history)
{
    for (; history->event < EVENTS - STREAMS; history->event++) {
        size_t pause = unit_random_below(20);
        size_t most = pause == 0 ? 90 * SECOND : pause < 10 ? 2 * SECOND : 1000;
        history->room.now += (mono_us) unit_random_below(most);
        any_of_its_events(history, &history->streams[unit_random_below(STREAMS)]);
        look(history);
    }
    for (size_t stream = 0; stream < STREAMS; stream++, history->event++) {
        if (history->streams[stream].reservation.open)
            end(history, &history->streams[stream], 0);
        look(history);
    }
}

/* By brute force: every window. What was admitted in it, returned late or not, and what was spent in it. */
static void check_windows(const struct history *history, double limit)
{
    for (size_t first = 0; first < EVENTS; first++) {
        int64_t admitted = 0, spent = 0;
        for (size_t last = first; last < EVENTS; last++) {
            admitted += history->admitted[last];
            spent += history->spent[last];
            double minutes = (double) (history->when[last] - history->when[first]) / 60e6;
            double most = limit + limit * minutes + history->debt[last] + 0.01;
            assert_true((double) admitted <= most);
            assert_true((double) spent <= most);
        }
    }
}

static void no_window_admits_more_than_capacity_rate_and_debt(void **state)
{
    (void) state;
    unit_random_seed();
    static struct history history;
    for (int round = 0; round < ROUNDS; round++) {
        memset(&history, 0, sizeof history);
        room_open(&history.room);
        int64_t limit = 60 + (int64_t) unit_random_below(600);
        history.room.key.limits =
            (struct limits){.tokens_per_minute = limit, .on_exceed = round % 2 ? ON_EXCEED_SOFT : ON_EXCEED_CUT};
        room_apply(&history.room);
        live(&history);
        check_windows(&history, (double) limit);
        room_close(&history.room);
    }
}

static void hold_that_outlives_its_refill_is_not_given_twice(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.requests_per_minute = 1, .tokens_per_minute = 60};
    room_apply(&room);
    struct reservation first, second;
    struct limit_answer answer;
    assert_int_equal(room_reserve(&room, 60, &first), LIMIT_ADMITTED);
    room.now += (mono_us) 3600 * SECOND;
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 60, &second, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.retry_after_ms, 1000); /* a guess: who knows when the first one ends */
    assert_int_equal(answer.used, 1);
    limiter_cancel(room.limiter, &first, room.now);
    assert_int_equal(room_reserve(&room, 60, &second), LIMIT_ADMITTED);
    assert_int_equal(room_reserve(&room, 60, &first), LIMIT_REFUSED);
    limiter_cancel(room.limiter, &second, room.now);
    room_close(&room);
}

static void guess_is_no_shorter_than_the_debt_takes(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits.tokens_per_minute = 60;
    room_apply(&room);
    struct reservation first, second, third;
    struct limit_answer answer;
    assert_int_equal(room_reserve(&room, 10, &first), LIMIT_ADMITTED);
    assert_int_equal(room_reserve(&room, 20, &second), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &second, 110, room.now); /* 60 less than nothing, 10 may come back */
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 60, &third, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.retry_after_ms, 110000);
    assert_int_equal(room_reserve_as(&room, &SUBJECT, 50, &third, &answer), LIMIT_REFUSED);
    assert_int_equal(answer.retry_after_ms, 110000); /* exact: it fits beside what is held */
    limiter_cancel(room.limiter, &first, room.now);
    room.now += (mono_us) 110 * SECOND;
    assert_int_equal(room_reserve(&room, 60, &third), LIMIT_ADMITTED);
    limiter_settle(room.limiter, &third, 60, room.now);
    room_close(&room);
}

static void spent_tokens_flow_back_while_the_stream_lasts(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.requests_per_minute = 6, .tokens_per_minute = 600, .concurrent_requests = 2};
    room_apply(&room);
    struct reservation stream, other;
    assert_int_equal(room_reserve(&room, 500, &stream), LIMIT_ADMITTED);
    limiter_spend(room.limiter, &stream, 0, room.now);
    room.now += (mono_us) 10 * SECOND;
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 6);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 500);
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_SEATS) == 1);
    limiter_spend(room.limiter, &stream, 200, room.now);
    limiter_spend(room.limiter, &stream, 150, room.now); /* nothing is unspent */
    limiter_spend(room.limiter, &stream, -1, room.now);
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 300);
    room.now += (mono_us) 10 * SECOND;
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 200);
    assert_true(limiter_top_up(room.limiter, &stream, 100, room.now));
    assert_int_equal(stream.tokens, 600);
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 400);
    limiter_spend(room.limiter, &stream, INT64_MAX, room.now); /* all there is, and no more */
    assert_true(room_held(&room, SCOPE_KEY, LIMIT_TOKENS) == 0);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 100);
    assert_int_equal(room_reserve(&room, 1, &other), LIMIT_ADMITTED); /* the second seat */
    limiter_cancel(room.limiter, &other, room.now);
    limiter_settle(room.limiter, &stream, 620, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 80);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_SEATS) == 2);
    room_close(&room);
}

static void what_is_spent_is_charged_even_if_less_was_used(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits.tokens_per_minute = 600;
    room.tenant.limits = (struct limits){.tokens_per_minute = 2000, .on_exceed = ON_EXCEED_HARD};
    room_apply(&room);
    struct reservation stream;
    assert_int_equal(room_reserve(&room, 500, &stream), LIMIT_ADMITTED);
    limiter_spend(room.limiter, &stream, 300, room.now);
    assert_true(room_held(&room, SCOPE_TENANT, LIMIT_TOKENS) == 700); /* of the cap */
    limiter_settle(room.limiter, &stream, 100, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 300);
    assert_true(room_balance(&room, SCOPE_TENANT, LIMIT_TOKENS) == 1700);
    limiter_spend(room.limiter, &stream, 400, room.now); /* closed: nothing */
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) == 300);
    room_close(&room);
}

/* A stream of an hour at nine tenths of the rate keeps its bucket as full as one that is alone on it expects. */
static void long_stream_does_not_starve_its_bucket(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits = (struct limits){.tokens_per_minute = 600, .on_exceed = ON_EXCEED_CUT};
    room_apply(&room);
    struct reservation stream;
    assert_int_equal(room_reserve(&room, 128, &stream), LIMIT_ADMITTED);
    int64_t used = 0;
    for (int second = 0; second < 3600; second++) {
        room.now += SECOND;
        used += 9;
        if (used % 64 < 9)
            limiter_spend(room.limiter, &stream, used, room.now);
        if (stream.tokens - used < 32)
            assert_true(limiter_top_up(room.limiter, &stream, 128, room.now));
    }
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_TOKENS) >= 600 - 128 - 64 - 32);
    limiter_settle(room.limiter, &stream, used, room.now);
    room_close(&room);
}

static void spent_reservation_cannot_be_cancelled(void **state)
{
    (void) state;
    struct room room;
    room_open(&room);
    room.key.limits.requests_per_minute = 6;
    room_apply(&room);
    struct reservation reservation;
    assert_int_equal(room_reserve(&room, 1, &reservation), LIMIT_ADMITTED);
    limiter_spend(room.limiter, &reservation, 0, room.now);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        limiter_cancel(room.limiter, &reservation, room.now);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    limiter_settle(room.limiter, &reservation, 0, room.now);
    assert_true(room_balance(&room, SCOPE_KEY, LIMIT_REQUESTS) == 5);
    room_close(&room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_window_admits_more_than_capacity_rate_and_debt),
        cmocka_unit_test(hold_that_outlives_its_refill_is_not_given_twice),
        cmocka_unit_test(guess_is_no_shorter_than_the_debt_takes),
        cmocka_unit_test(spent_tokens_flow_back_while_the_stream_lasts),
        cmocka_unit_test(what_is_spent_is_charged_even_if_less_was_used),
        cmocka_unit_test(long_stream_does_not_starve_its_bucket),
        cmocka_unit_test(spent_reservation_cannot_be_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
