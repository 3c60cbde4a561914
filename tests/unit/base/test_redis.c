/* base/redis against a real server: answers, scripts it does not know, silence, absence, the end. */
#include <pthread.h>

#include "tests/lib/redis_room.h"

static struct redis_room room;

static int set_up(void **state)
{
    (void) state;
    alarm(120);
    redis_room_init(&room);
    redis_room_start(&room);
    return 0;
}

static int tear_down(void **state)
{
    (void) state;
    redis_room_finish(&room);
    alarm(0);
    return 0;
}

static enum redis_result ask(struct redis *redis, const char *first, const char *second, const struct redis_reply **ret)
{
    const struct text words[] = {text_of(first), text_of(second)};
    return redis_ask(redis, words, 2, ret);
}

static void answers_have_their_kinds(void **state)
{
    const struct redis_reply *reply = NULL;
    int64_t number = 0;
    (void) state;
    assert_int_equal(ask(room.client, "INCR", "n", &reply), REDIS_DONE);
    assert_true(redis_reply_integer(reply, &number));
    assert_int_equal(number, 1);
    assert_int_equal(redis_reply_count(reply), 0);
    assert_int_equal(ask(room.client, "GET", "n", &reply), REDIS_DONE);
    assert_true(text_equal(redis_reply_text(reply), TEXT("1")));
    assert_false(redis_reply_integer(reply, &number));
    assert_int_equal(ask(room.client, "GET", "missing", &reply), REDIS_DONE);
    assert_int_equal(redis_reply_text(reply).length, 0);
    assert_int_equal(ask(room.client, "KEYS", "*", &reply), REDIS_DONE);
    assert_int_equal(redis_reply_count(reply), 1);
    assert_true(text_equal(redis_reply_text(redis_reply_entry(reply, 0)), TEXT("n")));
}

static void a_refusal_keeps_the_connection(void **state)
{
    uint64_t connections = redis_connections(room.client);
    (void) state;
    assert_int_equal(ask(room.client, "HGETALL", "n", NULL), REDIS_DONE);
    assert_int_equal(ask(room.client, "SET", "n", NULL), REDIS_REFUSED);
    assert_non_null(strstr(redis_error(room.client), "wrong number of arguments"));
    assert_true(redis_is_ready(room.client));
    assert_int_equal(redis_connections(room.client), connections);
}

static void a_script_is_sent_when_it_is_not_known(void **state)
{
    const struct text words[] = {TEXT("1"), TEXT("k"), TEXT("5")};
    struct redis_script script;
    const struct redis_reply *reply = NULL;
    int64_t number = 0;
    (void) state;
    assert_true(redis_script_init(&script, TEXT("return redis.call('INCRBY', KEYS[1], ARGV[1])")));
    for (int round = 1; round <= 4; round++) {
        if (round == 3)
            assert_int_equal(ask(room.client, "SCRIPT", "FLUSH", NULL), REDIS_DONE);
        assert_int_equal(redis_run(room.client, &script, words, 3, &reply), REDIS_DONE);
        assert_true(redis_reply_integer(reply, &number));
        assert_int_equal(number, 5 * round);
    }
    assert_int_equal(ask(room.client, "SCRIPT", "FLUSH", NULL), REDIS_DONE);
    assert_true(redis_script_init(&script, TEXT("return redis.error_reply('ERR no')")));
    assert_int_equal(redis_run(room.client, &script, words, 3, &reply), REDIS_REFUSED);
}

static void what_was_put_before_is_done_and_reported(void **state)
{
    const struct text good[] = {TEXT("INCR"), TEXT("before")}, bad[] = {TEXT("INCR"), TEXT("list")};
    const struct redis_reply *reply = NULL;
    (void) state;
    (void) REDIS_ROOM_ASK(&room, "RPUSH", "list", "x");
    redis_ask_before(room.client, good, 2);
    assert_int_equal(ask(room.client, "GET", "before", &reply), REDIS_DONE);
    assert_true(text_equal(redis_reply_text(reply), TEXT("1")));
    redis_ask_before(room.client, bad, 2);
    assert_int_equal(ask(room.client, "INCR", "after", &reply), REDIS_REFUSED);
    assert_non_null(strstr(redis_error(room.client), "WRONGTYPE"));
    /* No answer is taken for another's. */
    assert_int_equal(ask(room.client, "GET", "after", &reply), REDIS_DONE);
    assert_true(text_equal(redis_reply_text(reply), TEXT("1")));
}

static void absence_is_said_and_rested_from(void **state)
{
    struct redis_options options = room.options;
    (void) state;
    options.back_off_ms = options.back_off_max_ms = 60000;
    struct redis *redis = redis_create(&options);
    assert_true(redis_is_ready(redis));
    redis_room_kill(&room);
    assert_false(redis_is_ready(redis));
    assert_string_not_equal(redis_error(redis), "");
    redis_room_start(&room);
    /* It is back, but the rest is not over: nothing is even tried. */
    assert_false(redis_is_ready(redis));
    assert_int_equal(redis_connections(redis), 1);
    redis_destroy(&redis);
    options.back_off_ms = options.back_off_max_ms = 1;
    redis = redis_create(&options);
    redis_room_kill(&room);
    assert_false(redis_is_ready(redis));
    assert_non_null(strstr(redis_error(redis), "no connection to Redis at unix:/"));
    redis_room_start(&room);
    for (int i = 0; i < 200 && !redis_is_ready(redis); i++)
        usleep(5000);
    assert_true(redis_is_ready(redis));
    redis_destroy(&redis);
}

static void silence_is_bounded(void **state)
{
    struct redis_options options = room.options;
    (void) state;
    options.command_ms = 100;
    struct redis *redis = redis_create(&options);
    assert_true(redis_is_ready(redis));
    redis_room_signal(&room, SIGSTOP);
    assert_int_equal(ask(redis, "INCR", "n", NULL), REDIS_DOWN);
    assert_non_null(strstr(redis_error(redis), "no answer within 100 ms"));
    redis_room_signal(&room, SIGCONT);
    redis_destroy(&redis);
}

static void *interrupt_soon(void *redis)
{
    usleep(100000);
    redis_interrupt(redis);
    return NULL;
}

static void another_thread_ends_the_wait(void **state)
{
    pthread_t thread;
    (void) state;
    redis_room_signal(&room, SIGSTOP);
    mono_ms began = clock_mono_ms();
    assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, room.client), 0);
    assert_false(redis_is_ready(room.client));
    assert_true(clock_mono_ms() - began < room.options.command_ms / 2);
    pthread_join(thread, NULL);
    redis_room_signal(&room, SIGCONT);
    usleep(50000);
    assert_false(redis_is_ready(room.client)); /* for ever */
}

static void another_database_than_the_wanted_is_none(void **state)
{
    struct redis_options options = room.options;
    (void) state;
    options.database = 3; /* a private one has only number 0 */
    struct redis *redis = redis_create(&options);
    assert_false(redis_is_ready(redis));
    assert_non_null(strstr(redis_error(redis), "out of range"));
    redis_destroy(&redis);
}

static void what_it_keeps_is_read(void **state)
{
    char line[REDIS_DURABILITY_BYTES];
    (void) state;
    assert_int_equal(redis_durability(room.client, line), REDIS_KEEPS);
    assert_non_null(strstr(line, "appendfsync everysec"));
    (void) REDIS_ROOM_ASK(&room, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru");
    assert_int_equal(redis_durability(room.client, line), REDIS_EVICTS);
    assert_non_null(strstr(line, "set noeviction"));
    (void) REDIS_ROOM_ASK(&room, "CONFIG", "SET", "maxmemory-policy", "noeviction");
    (void) REDIS_ROOM_ASK(&room, "CONFIG", "SET", "appendonly", "no");
    assert_int_equal(redis_durability(room.client, line), REDIS_FORGETS);
    assert_non_null(strstr(line, "set appendonly yes"));
}

static void what_it_keeps_is_judged(void **state)
{
    static const struct {
        const char *appendonly, *appendfsync, *policy, *says;
        enum redis_keeping keeping;
    } cases[] = {
        {"yes", "always", "noeviction", "keeps whatever it confirmed", REDIS_KEEPS},
        {"yes", "no", "noeviction", "may forget its last seconds", REDIS_KEEPS},
        {"no", "always", "", "after its last snapshot", REDIS_FORGETS},
        {"", "", "", "does not say", REDIS_FORGETS},
        {"yes", "always", "volatile-ttl", "maxmemory-policy volatile-ttl", REDIS_EVICTS},
        {"no", "everysec", "allkeys-random", "set appendonly yes", REDIS_EVICTS},
    };
    char line[REDIS_DURABILITY_BYTES];
    (void) state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum redis_keeping keeping = redis_judge_durability(text_of(cases[i].appendonly), text_of(cases[i].appendfsync),
                                                            text_of(cases[i].policy), line);
        assert_int_equal(keeping, cases[i].keeping);
        assert_non_null(strstr(line, cases[i].says));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(answers_have_their_kinds),
        TEST(a_refusal_keeps_the_connection),
        TEST(a_script_is_sent_when_it_is_not_known),
        TEST(what_was_put_before_is_done_and_reported),
        TEST(absence_is_said_and_rested_from),
        TEST(silence_is_bounded),
        TEST(another_thread_ends_the_wait),
        TEST(another_database_than_the_wanted_is_none),
        TEST(what_it_keeps_is_read),
        cmocka_unit_test(what_it_keeps_is_judged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
