#include "base/loop.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

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

enum { THREADS = 4, TASKS_PER_THREAD = 20000 };

struct parcel {
    struct loop_task task;
    unsigned thread;
    unsigned number;
};

static struct {
    struct loop *loop;
    unsigned next[THREADS];
    unsigned total;
} post_office;

static void deliver(struct loop_task *task)
{
    struct parcel *parcel = task->owner;
    assert_int_equal(parcel->number, post_office.next[parcel->thread]);
    post_office.next[parcel->thread]++;
    if (++post_office.total == THREADS * TASKS_PER_THREAD)
        loop_stop(post_office.loop);
    free(parcel);
}

static void *send_parcels(void *argument)
{
    unsigned thread = *(unsigned *) argument;
    for (unsigned i = 0; i < TASKS_PER_THREAD; i++) {
        struct parcel *parcel = malloc(sizeof(*parcel));
        if (parcel == NULL)
            abort();
        *parcel = (struct parcel){.task = {.run = deliver, .owner = parcel}, .thread = thread, .number = i};
        loop_post(post_office.loop, &parcel->task);
    }
    return NULL;
}

static void tasks_of_many_threads_arrive_once_and_in_order(void **state)
{
    memset(&post_office, 0, sizeof(post_office));
    post_office.loop = *state;
    pthread_t threads[THREADS];
    unsigned numbers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        numbers[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, send_parcels, &numbers[i]), 0);
    }
    loop_run(*state);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(post_office.total, THREADS * TASKS_PER_THREAD);
}

struct farewell {
    struct loop_task task;
    struct loop *loop;
};

static void say_farewell(struct loop_task *task)
{
    loop_stop(((struct farewell *) task->owner)->loop);
}

static void *post_farewell(void *argument)
{
    struct farewell *farewell = argument;
    loop_post(farewell->loop, &farewell->task);
    return NULL;
}

/* The last task may end the loop although its poster has not been joined yet. */
static void a_loop_may_end_with_its_last_task(void **state)
{
    (void) state;
    for (int i = 0; i < 300; i++) {
        struct loop *loop = loop_create();
        assert_non_null(loop);
        struct farewell farewell = {.task = {.run = say_farewell, .owner = &farewell}, .loop = loop};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, post_farewell, &farewell), 0);
        loop_run(loop);
        loop_destroy(loop);
        pthread_join(thread, NULL);
    }
}

struct echo {
    struct loop_task task;
    struct loop *loop;
    int ran;
};

static void post_again(struct loop_task *task)
{
    struct echo *echo = task->owner;
    if (++echo->ran < 3)
        loop_post(echo->loop, task);
}

static void a_task_may_post_itself_for_the_next_turn(void **state)
{
    struct echo echo = {.task = {.run = post_again, .owner = &echo}, .loop = *state};
    loop_post(*state, &echo.task);
    for (int turn = 1; turn <= 3; turn++) {
        loop_run_once(*state, -1);
        assert_int_equal(echo.ran, turn);
    }
    loop_run_once(*state, 0);
    assert_int_equal(echo.ran, 3);
}

static void post_from_timer(struct loop_timer *timer)
{
    struct echo *echo = timer->owner;
    loop_post(echo->loop, &echo->task);
}

/* The inbox is opened only after the turn's wait has seen its poster's call, so that the poster is done with the loop.
 */
static void a_task_waits_until_the_loop_was_woken_for_it(void **state)
{
    struct echo echo = {.task = {.run = post_again, .owner = &echo}, .loop = *state, .ran = 2};
    struct loop_timer timer = {.fire = post_from_timer, .owner = &echo};
    loop_timer_set(*state, &timer, 0);
    loop_run_once(*state, -1);
    assert_int_equal(echo.ran, 2);
    loop_run_once(*state, -1);
    assert_int_equal(echo.ran, 3);
}

int main(void)
{
#define LOOP_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        LOOP_TEST(tasks_of_many_threads_arrive_once_and_in_order),
        LOOP_TEST(a_loop_may_end_with_its_last_task),
        LOOP_TEST(a_task_may_post_itself_for_the_next_turn),
        LOOP_TEST(a_task_waits_until_the_loop_was_woken_for_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
