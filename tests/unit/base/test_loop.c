#include "tests/lib/fault.h"

#include "base/loop.c"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/lib/unit.h"

/* A loop that waits for ever must fail, not hang: the alarm ends the process. */
enum { HANG_SECONDS = 60 };

static int set_up(void **state)
{
    alarm(HANG_SECONDS);
    *state = loop_create();
    return *state == NULL;
}

static int tear_down(void **state)
{
    loop_destroy(*state);
    return 0;
}

/* Watches */

struct ear {
    struct loop_watch watch;
    int ends[2]; /* we hear at 0 */
    int heard;
    struct loop *loop;
    struct ear *silences; /* unwatched when this one hears */
};

static void hear(struct loop_watch *watch, uint32_t events)
{
    struct ear *ear = watch->owner;
    assert_true((events & EPOLLIN) != 0);
    ear->heard++;
    char byte;
    assert_int_equal(read(watch->fd, &byte, 1), 1);
    if (ear->silences != NULL)
        loop_unwatch(ear->loop, &ear->silences->watch);
}

static void ear_init(struct ear *ear, struct loop *loop)
{
    *ear = (struct ear){.loop = loop};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ear->ends), 0);
    ear->watch = (struct loop_watch){.fd = ear->ends[0], .ready = hear, .owner = ear};
    assert_true(loop_watch(loop, &ear->watch, EPOLLIN));
}

static void ear_finish(struct ear *ear)
{
    loop_unwatch(ear->loop, &ear->watch);
    close(ear->ends[0]);
    close(ear->ends[1]);
}

static void say(struct ear *ear)
{
    assert_int_equal(write(ear->ends[1], "x", 1), 1);
}

static void a_ready_descriptor_is_called(void **state)
{
    struct loop *loop = *state;
    struct ear ear;
    ear_init(&ear, loop);
    loop_run_once(loop, 0);
    assert_int_equal(ear.heard, 0);
    say(&ear);
    loop_run_once(loop, -1);
    assert_int_equal(ear.heard, 1);
    assert_true(loop_watch_change(loop, &ear.watch, 0));
    say(&ear);
    loop_run_once(loop, 0);
    assert_int_equal(ear.heard, 1);
    assert_true(loop_watch_change(loop, &ear.watch, EPOLLIN));
    loop_run_once(loop, -1);
    assert_int_equal(ear.heard, 2);
    ear_finish(&ear);
    loop_unwatch(loop, &ear.watch);
}

static void a_descriptor_that_cannot_be_watched_is_refused(void **state)
{
    struct loop_watch watch = {.fd = -1, .ready = hear};
    assert_false(loop_watch(*state, &watch, EPOLLIN));
    loop_unwatch(*state, &watch);
}

/* Both were ready in one turn; whoever comes first silences the other. */
static void unwatching_takes_back_events_of_this_turn(void **state)
{
    struct loop *loop = *state;
    struct ear one, other;
    ear_init(&one, loop);
    ear_init(&other, loop);
    one.silences = &other;
    other.silences = &one;
    say(&one);
    say(&other);
    loop_run_once(loop, -1);
    assert_int_equal(one.heard + other.heard, 1);
    ear_finish(&one);
    ear_finish(&other);
}

static struct {
    struct ear *victim;
    int fresh_ends[2];
    int fresh_called;
    int killers_called;
} reuse;

static void fresh_ready(struct loop_watch *watch, uint32_t events)
{
    (void) watch;
    (void) events;
    reuse.fresh_called++;
}

/* Ends the victim's watch and lets a new watch of another descriptor live in the same memory. */
static void kill_and_reuse(struct loop_watch *watch, uint32_t events)
{
    (void) events;
    struct loop *loop = watch->owner;
    if (reuse.killers_called++ > 0)
        return;
    struct loop_watch *memory = &reuse.victim->watch;
    loop_unwatch(loop, memory);
    *memory = (struct loop_watch){.fd = reuse.fresh_ends[0], .ready = fresh_ready};
    assert_true(loop_watch(loop, memory, EPOLLIN));
}

/* A new watch at the address of an old one must not get the old one's events. */
static void a_reused_watch_hears_nothing_of_its_predecessor(void **state)
{
    struct loop *loop = *state;
    memset(&reuse, 0, sizeof(reuse));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, reuse.fresh_ends), 0);
    struct ear killer, victim;
    ear_init(&killer, loop);
    ear_init(&victim, loop);
    reuse.victim = &victim;
    killer.watch.ready = kill_and_reuse;
    killer.watch.owner = loop;
    /* epoll reports in the order in which they became ready */
    say(&killer);
    say(&victim);
    loop_run_once(loop, -1);
    assert_int_equal(reuse.killers_called, 1);
    assert_int_equal(victim.heard, 0);
    assert_int_equal(reuse.fresh_called, 0);
    assert_int_equal(write(reuse.fresh_ends[1], "x", 1), 1);
    loop_run_once(loop, -1);
    assert_int_equal(reuse.fresh_called, 1);
    ear_finish(&killer);
    ear_finish(&victim);
    close(reuse.fresh_ends[0]);
    close(reuse.fresh_ends[1]);
}

static void free_all(struct loop_watch *watch, uint32_t events)
{
    (void) events;
    struct ear **ears = watch->owner;
    for (size_t i = 0; i < 8; i++) {
        ear_finish(ears[i]);
        free(ears[i]);
    }
}

/* The first to be called frees all, itself too (the address sanitizer watches). */
static void a_watch_may_free_all_watches(void **state)
{
    struct ear *ears[8];
    for (size_t i = 0; i < 8; i++) {
        ears[i] = malloc(sizeof(struct ear));
        assert_non_null(ears[i]);
        ear_init(ears[i], *state);
        ears[i]->watch.ready = free_all;
        ears[i]->watch.owner = ears;
    }
    for (size_t i = 0; i < 8; i++)
        say(ears[i]);
    loop_run_once(*state, -1);
    loop_run_once(*state, 0);
}

static void descriptors_are_closed_on_exec(void **state)
{
    const struct loop *loop = *state;
    assert_true((fcntl(loop->epoll_fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_true((fcntl(loop->inbox_watch.fd, F_GETFD) & FD_CLOEXEC) != 0);
}

/* Timers */

enum { TIMERS = 500 };

struct bell {
    struct loop_timer timer;
    mono_ms due;
    int rung;
};

static struct {
    struct loop *loop;
    mono_ms last_due;
    int rung;
} tower;

static void ring(struct loop_timer *timer)
{
    struct bell *bell = timer->owner;
    assert_false(loop_timer_is_set(timer));
    assert_true(bell->due >= tower.last_due);
    assert_true(loop_now(tower.loop) >= bell->due);
    tower.last_due = bell->due;
    tower.rung++;
    bell->rung++;
}

/* Set, moved and cancelled at random: each that is left fires once, in order, never early. */
static void timers_fire_in_order(void **state)
{
    struct loop *loop = *state;
    static struct bell bells[TIMERS];
    memset(bells, 0, sizeof(bells));
    for (int round = 0; round < 20; round++) {
        memset(&tower, 0, sizeof(tower));
        tower.loop = loop;
        for (int step = 0; step < 4 * TIMERS; step++) {
            struct bell *bell = &bells[unit_random_below(TIMERS)];
            bell->timer.fire = ring;
            bell->timer.owner = bell;
            if (unit_random_below(4) == 0) {
                loop_timer_cancel(loop, &bell->timer);
                continue;
            }
            bell->due = loop_now(loop) + (mono_ms) unit_random_below(30);
            loop_timer_set(loop, &bell->timer, bell->due);
        }
        int expected = 0;
        for (size_t i = 0; i < TIMERS; i++) {
            expected += loop_timer_is_set(&bells[i].timer);
            bells[i].rung = 0;
        }
        assert_int_equal(loop->timer_count, expected);
        while (tower.rung < expected)
            loop_run_once(loop, -1);
        assert_int_equal(loop->timer_count, 0);
        for (size_t i = 0; i < TIMERS; i++)
            assert_true(bells[i].rung <= 1);
    }
}

static struct loop_timer *fired[8];
static size_t fired_count;

static void note(struct loop_timer *timer)
{
    if (fired_count < 8)
        fired[fired_count] = timer;
    fired_count++;
}

static void equal_times_fire_in_the_order_they_were_set(void **state)
{
    struct loop *loop = *state;
    struct loop_timer timers[5] = {0};
    mono_ms due = loop_now(loop) + 5;
    fired_count = 0;
    for (size_t i = 0; i < 5; i++) {
        timers[i].fire = note;
        loop_timer_set(loop, &timers[i], due);
    }
    loop_timer_set(loop, &timers[1], due);
    while (fired_count < 5)
        loop_run_once(loop, -1);
    static const size_t order[] = {0, 2, 3, 4, 1};
    for (size_t i = 0; i < 5; i++)
        assert_ptr_equal(fired[i], &timers[order[i]]);
}

static void set_again_in_the_past(struct loop_timer *timer)
{
    note(timer);
    loop_timer_set(timer->owner, timer, 0);
}

/* A timer that always wants to fire lets the others and the descriptors have their turn. */
static void an_eager_timer_starves_nobody(void **state)
{
    struct loop *loop = *state;
    struct loop_timer eager = {.fire = set_again_in_the_past, .owner = loop};
    struct loop_timer patient = {.fire = note};
    struct ear ear;
    ear_init(&ear, loop);
    say(&ear);
    fired_count = 0;
    loop_timer_set(loop, &eager, 0);
    loop_timer_set(loop, &patient, loop_now(loop));
    loop_run_once(loop, -1);
    assert_int_equal(fired_count, 2);
    assert_ptr_equal(fired[0], &eager);
    assert_ptr_equal(fired[1], &patient);
    assert_int_equal(ear.heard, 1);
    loop_run_once(loop, -1);
    assert_int_equal(fired_count, 3);
    loop_timer_cancel(loop, &eager);
    ear_finish(&ear);
}

static void a_wait_ends_with_its_limit_or_the_first_timer(void **state)
{
    struct loop *loop = *state;
    struct loop_timer timer = {.fire = note};
    fired_count = 0;
    loop_timer_set(loop, &timer, loop_now(loop) + 1000 * HANG_SECONDS);
    mono_ms before = clock_mono_ms();
    loop_run_once(loop, 20);
    assert_true(clock_mono_ms() - before >= 19);
    assert_int_equal(fired_count, 0);
    loop_timer_set(loop, &timer, loop_now(loop) + 20);
    loop_run_once(loop, 1000 * HANG_SECONDS);
    assert_int_equal(fired_count, 1);
}

static void burn_time(struct loop_timer *timer)
{
    struct loop *loop = timer->owner;
    mono_ms now = loop_now(loop);
    mono_ms until = clock_mono_ms() + 5;
    while (clock_mono_ms() < until) {
    }
    assert_int_equal(loop_now(loop), now);
    note(timer);
}

static void now_stands_still_within_a_turn(void **state)
{
    struct loop *loop = *state;
    struct loop_timer timer = {.fire = burn_time, .owner = loop};
    fired_count = 0;
    loop_timer_set(loop, &timer, 0);
    loop_run_once(loop, 0);
    assert_int_equal(fired_count, 1);
    mono_ms now = loop_now(loop);
    loop_run_once(loop, 0);
    assert_true(loop_now(loop) >= now + 5);
}

/* The end of a turn */

struct hook {
    struct loop_turn_end end;
    struct loop *loop;
    int ran;
    int again;
    struct loop_timer *sets;
};

static char hook_order[16];
static size_t hook_count;

static void run_hook(struct loop_turn_end *end)
{
    struct hook *hook = end->owner;
    hook->ran++;
    hook_order[hook_count++ % sizeof(hook_order)] = (char) ('a' + hook->again);
    if (hook->sets != NULL)
        loop_timer_set(hook->loop, hook->sets, loop_now(hook->loop));
    if (hook->again > 0) {
        hook->again--;
        loop_at_turn_end(hook->loop, end);
    }
}

static void turn_ends_run_once_and_last(void **state)
{
    struct loop *loop = *state;
    struct hook first = {.end = {.run = run_hook, .owner = &first}, .loop = loop, .again = 2};
    struct hook second = {.end = {.run = run_hook, .owner = &second}, .loop = loop};
    struct hook cancelled = {.end = {.run = run_hook, .owner = &cancelled}, .loop = loop};
    hook_count = 0;
    loop_at_turn_end(loop, &first.end);
    loop_at_turn_end(loop, &cancelled.end);
    loop_at_turn_end(loop, &second.end);
    loop_at_turn_end(loop, &first.end);
    loop_turn_end_cancel(loop, &cancelled.end);
    loop_turn_end_cancel(loop, &cancelled.end);
    loop_run_once(loop, -1);
    assert_int_equal(first.ran, 3);
    assert_int_equal(second.ran, 1);
    assert_int_equal(cancelled.ran, 0);
    assert_memory_equal(hook_order, "caba", 4);
    loop_run_once(loop, 0);
    assert_int_equal(first.ran + second.ran, 4);
}

static void cancelling_the_last_turn_end_keeps_the_list_whole(void **state)
{
    struct loop *loop = *state;
    struct hook first = {.end = {.run = run_hook, .owner = &first}, .loop = loop};
    struct hook second = {.end = {.run = run_hook, .owner = &second}, .loop = loop};
    loop_at_turn_end(loop, &first.end);
    loop_at_turn_end(loop, &second.end);
    loop_turn_end_cancel(loop, &second.end);
    loop_at_turn_end(loop, &second.end);
    loop_turn_end_cancel(loop, &first.end);
    loop_run_once(loop, -1);
    assert_int_equal(first.ran, 0);
    assert_int_equal(second.ran, 1);
}

/* What the end of a turn makes due needs no event to be seen. */
static void a_turn_end_may_set_a_timer_that_is_due(void **state)
{
    struct loop *loop = *state;
    struct loop_timer timer = {.fire = note};
    struct hook hook = {.end = {.run = run_hook, .owner = &hook}, .loop = loop, .sets = &timer};
    fired_count = 0;
    loop_at_turn_end(loop, &hook.end);
    loop_run_once(loop, 0);
    assert_int_equal(fired_count, 0);
    loop_run_once(loop, -1);
    assert_int_equal(fired_count, 1);
}

/* Memory */

static int tasks_run;

static void count_task(struct loop_task *task)
{
    (void) task;
    tasks_run++;
}

static void events_allocate_nothing(void **state)
{
    struct loop *loop = *state;
    struct ear ear;
    ear_init(&ear, loop);
    struct loop_timer timer = {.fire = note};
    loop_timer_set(loop, &timer, 0);
    unsigned long calls_before = fault_calls;
    struct hook hook = {.end = {.run = run_hook, .owner = &hook}, .loop = loop};
    struct loop_task task = {.run = count_task};
    tasks_run = 0;
    for (int i = 0; i < 1000; i++) {
        say(&ear);
        loop_timer_set(loop, &timer, 0);
        loop_at_turn_end(loop, &hook.end);
        loop_post(loop, &task);
        loop_run_once(loop, -1);
    }
    assert_int_equal(ear.heard, 1000);
    assert_int_equal(hook.ran, 1000);
    assert_int_equal(tasks_run, 1000);
    assert_int_equal(fault_calls, calls_before);
    ear_finish(&ear);
}

static void without_memory_there_is_no_loop(void **state)
{
    (void) state;
    fault_countdown = 0;
    assert_null(loop_create());
    fault_countdown = -1;
    loop_destroy(NULL);
}

int main(void)
{
    unit_random_seed();
#define LOOP_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        LOOP_TEST(a_ready_descriptor_is_called),
        LOOP_TEST(a_descriptor_that_cannot_be_watched_is_refused),
        LOOP_TEST(unwatching_takes_back_events_of_this_turn),
        LOOP_TEST(a_reused_watch_hears_nothing_of_its_predecessor),
        LOOP_TEST(a_watch_may_free_all_watches),
        LOOP_TEST(descriptors_are_closed_on_exec),
        LOOP_TEST(timers_fire_in_order),
        LOOP_TEST(equal_times_fire_in_the_order_they_were_set),
        LOOP_TEST(an_eager_timer_starves_nobody),
        LOOP_TEST(a_wait_ends_with_its_limit_or_the_first_timer),
        LOOP_TEST(now_stands_still_within_a_turn),
        LOOP_TEST(turn_ends_run_once_and_last),
        LOOP_TEST(cancelling_the_last_turn_end_keeps_the_list_whole),
        LOOP_TEST(a_turn_end_may_set_a_timer_that_is_due),
        LOOP_TEST(events_allocate_nothing),
        LOOP_TEST(without_memory_there_is_no_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
