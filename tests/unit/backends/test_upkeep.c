/* Spawned engines under a real master: this program is also the engine. */
#include "backends/upkeep.h"

#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/children.h"
#include "base/fetch.h"
#include "tests/lib/fleet_room.h"
#include "tests/lib/keeper.h"
#include "tests/lib/unit.h"

enum { HANG_SECONDS = 240, LONG_DRAIN_MS = 10 * 60 * 1000 };

/* ---- the engine ---- */

static const char ROLE[] = "act-as-engine";

static void become_engine(int argc, char **argv)
{
    if (argc != 4 || strcmp(argv[1], ROLE) != 0)
        return;
    alarm(HANG_SECONDS);
    if (strcmp(argv[2], "exit-3") == 0)
        _exit(3);
    if (strcmp(argv[2], "serve") == 0) {
        struct stub_engine engine = {.slots = 3};
        printf("serving at %s\nloaded \xff\n", argv[3]);
        fflush(stdout);
        stub_engine_start(&engine, argv[3]);
        for (;;)
            pause();
    }
    for (;;)
        pause();
}

/* ---- fixture ---- */

struct house {
    struct fleet_room room;
    struct keeper keeper;
    struct keeper_gateway gateway;
    char self[256];
    const char *arguments[5];
    char runtime_dir[KEEPER_PATH_BYTES + 16];
};

static const char *const NO_ENVIRONMENT[] = {NULL};

static void ignore(void *owner)
{
    (void) owner;
}

static void connect_room(struct house *house)
{
    assert_true(keeper_accept(&house->keeper, &house->gateway));
    house->room.children = children_connect(house->gateway.socket);
    house->gateway.socket = -1;
    assert_non_null(house->room.children);
    fleet_room_open(&house->room);
    house->room.policy.runtime_dir = house->runtime_dir;
    assert_true(children_attach(house->room.children, house->room.control, ignore, ignore, house));
    children_gateway_ready(house->room.children);
}

static void disconnect_room(struct house *house)
{
    loop_run_once(house->room.control, 0);
    fleet_destroy(&house->room.fleet);
    children_destroy(&house->room.children);
    loop_destroy(house->room.control);
}

static int set_up(void **state)
{
    struct house *house = calloc(1, sizeof(*house));
    alarm(HANG_SECONDS);
    assert_true(readlink("/proc/self/exe", house->self, sizeof(house->self) - 1) > 0);
    keeper_start(&house->keeper, "obey", LONG_DRAIN_MS);
    snprintf(house->runtime_dir, sizeof(house->runtime_dir), "%s/run", house->keeper.directory);
    connect_room(house);
    *state = house;
    return 0;
}

static int tear_down(void **state)
{
    struct house *house = *state;
    char socket_path[KEEPER_PATH_BYTES + 32];
    disconnect_room(house);
    snprintf(socket_path, sizeof(socket_path), "%s/m@1.sock", house->runtime_dir);
    unlink(socket_path);
    rmdir(house->runtime_dir);
    keeper_finish(&house->keeper);
    keeper_gateway_close(&house->gateway);
    free(house);
    return 0;
}

static struct engine *spawn_engine(struct house *house, const char *behaviour, const char *where)
{
    struct engine *engine = fleet_room_add(&house->room, NULL);
    house->arguments[0] = house->self;
    house->arguments[1] = ROLE;
    house->arguments[2] = behaviour;
    house->arguments[3] = where;
    engine->arguments = house->arguments;
    engine->argument_count = 4;
    engine->environment = NO_ENVIRONMENT;
    engine->working_directory = "/";
    return engine;
}

static int pid_of_engine(struct house *house)
{
    struct buffer json;
    const char *found;
    int pid = 0;
    buffer_init(&json, 1024 * 1024);
    assert_true(fleet_write_json(house->room.fleet, &json));
    assert_true(buffer_add(&json, (struct text){"", 1}));
    found = strstr(buffer_text(&json).at, "\"pid\": ");
    if (found != NULL)
        sscanf(found, "\"pid\": %d", &pid);
    buffer_finish(&json);
    return pid;
}

static void until_told(struct house *house, struct noted_waiter *noted)
{
    while (noted->granted + noted->refused == 0)
        loop_run_once(house->room.control, 100);
}

static void note_fetch(void *owner, const struct fetch_result *result)
{
    *(int *) owner = result->status != 0 ? result->status : -1;
}

/* The status that the leased engine answers to GET @path. */
static int ask_engine(struct house *house, const struct lease *lease)
{
    const struct lease_target *target = lease_target(lease);
    struct fetcher *fetcher = fetcher_create(house->room.control);
    char url[128];
    int status = 0;
    struct fetch_request request = {
        .url = url, .socket_path = target->socket_path, .timeout_ms = 10000, .connect_timeout_ms = 10000};
    snprintf(url, sizeof(url), "%s/health", target->base_url);
    assert_non_null(fetch_start(fetcher, &request, note_fetch, &status));
    while (status == 0)
        loop_run_once(house->room.control, 100);
    fetcher_destroy(&fetcher);
    return status;
}

/* ---- tests ---- */

static void test_engine_on_a_socket_serves(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted;
    struct stat facts;
    spawn_engine(house, "serve", "{socket}");
    fleet_room_apply(&house->room);
    /* Who comes while it starts, waits. */
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_WAITING);
    until_told(house, &noted);
    assert_int_equal(noted.granted, 1);
    assert_string_equal(lease_target(noted.lease)->base_url, "http://localhost");
    assert_non_null(strstr(lease_target(noted.lease)->socket_path, "/run/m@1.sock"));
    assert_int_equal(ask_engine(house, noted.lease), 200);
    lease_end(&noted.lease, LEASE_OK);
    assert_int_equal(fleet_room_status(&house->room).slots, 3);
    assert_int_equal(stat(house->runtime_dir, &facts), 0);
    assert_int_equal(facts.st_mode & 0777, 0700);
    fleet_room_until_told(&house->room, "serving at ");
    fleet_room_until_told(&house->room, "loaded ?");
}

static void test_engine_on_a_port_serves(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted;
    spawn_engine(house, "serve", ":{port}");
    fleet_room_apply(&house->room);
    fleet_room_until_ready(&house->room, 1);
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_TAKEN);
    assert_null(lease_target(noted.lease)->socket_path);
    assert_int_equal(ask_engine(house, noted.lease), 200);
    lease_end(&noted.lease, LEASE_OK);
}

static void test_killed_engine_is_restarted_while_requests_wait(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted;
    spawn_engine(house, "serve", "{socket}");
    fleet_room_apply(&house->room);
    fleet_room_until_ready(&house->room, 1);
    int pid = pid_of_engine(house);
    assert_int_equal(kill(pid, SIGKILL), 0);
    fleet_room_until_told(&house->room, "killed by SIGKILL (not by us: out of memory?)");
    assert_true(fleet_room_tells(&house->room, "BACKOFF"));
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_WAITING);
    until_told(house, &noted);
    assert_int_equal(noted.granted, 1);
    assert_int_equal(ask_engine(house, noted.lease), 200);
    lease_end(&noted.lease, LEASE_OK);
    assert_int_not_equal(pid_of_engine(house), pid);
    assert_true(fleet_room_tells(&house->room, "\"restarts\": 1"));
}

static void test_crash_loop_fails_and_refuses_who_waits(void **state)
{
    struct house *house = *state;
    struct noted_waiter waiting, late;
    spawn_engine(house, "exit-3", "{socket}");
    fleet_room_apply(&house->room);
    assert_int_equal(noted_take(&house->room, &waiting, NULL), LEASE_WAITING);
    until_told(house, &waiting);
    assert_int_equal(waiting.refused, 1);
    assert_int_equal(waiting.why, LEASE_ALL_FAILED);
    assert_int_equal(fleet_room_status(&house->room).failed, 1);
    assert_true(fleet_room_tells(&house->room, "\"last_exit\": \"exit status 3\""));
    assert_true(fleet_room_tells(&house->room, "\"restarts\": 2"));
    assert_int_equal(noted_take(&house->room, &late, NULL), LEASE_ALL_FAILED);
    /* Other settings bring it back at once. */
    house->arguments[2] = "serve";
    fleet_room_apply(&house->room);
    fleet_room_until_ready(&house->room, 1);
}

static void test_missing_binary_is_told(void **state)
{
    struct house *house = *state;
    spawn_engine(house, "serve", "{socket}");
    house->arguments[0] = "/nonexistent/engine";
    fleet_room_apply(&house->room);
    fleet_room_until_told(&house->room, "did not start: cannot execute /nonexistent/engine");
    fleet_room_until_told(&house->room, "FAILED");
}

static void test_engine_that_never_answers_is_stopped(void **state)
{
    struct house *house = *state;
    house->room.models[0].start_timeout_ms = 700;
    spawn_engine(house, "mute", "{socket}");
    fleet_room_apply(&house->room);
    fleet_room_until_told(&house->room, "STARTING");
    fleet_room_run(&house->room, 300);
    int pid = pid_of_engine(house);
    assert_true(keeper_is_alive(pid));
    fleet_room_until_told(&house->room, "not READY within 0.7 s: nothing listens on its socket; killed by SIGTERM");
    assert_true(keeper_is_gone(pid, KEEPER_WAIT_MS));
}

static void test_socket_of_another_process_is_not_believed(void **state)
{
    struct house *house = *state;
    struct stub_engine impostor = {0};
    char socket_path[KEEPER_PATH_BYTES + 32];
    spawn_engine(house, "mute", "{socket}");
    fleet_room_apply(&house->room);
    snprintf(socket_path, sizeof(socket_path), "%s/m@1.sock", house->runtime_dir);
    stub_engine_start(&impostor, socket_path);
    fleet_room_until_told(&house->room, "its socket is that of another process");
    fleet_room_run(&house->room, 500);
    assert_int_equal(fleet_room_status(&house->room).ready, 0);
    assert_int_equal(impostor.tokens_asked, 0);
    stub_engine_stop(&impostor);
}

static void test_changed_engine_is_stopped_before_the_next_starts(void **state)
{
    struct house *house = *state;
    struct noted_waiter old, new;
    static const char *const ENVIRONMENT[] = {"CHANGED=1", NULL};
    struct engine *engine = spawn_engine(house, "serve", "{socket}");
    fleet_room_apply(&house->room);
    fleet_room_until_ready(&house->room, 1);
    int pid = pid_of_engine(house);
    assert_int_equal(noted_take(&house->room, &old, NULL), LEASE_TAKEN);
    engine->environment = ENVIRONMENT;
    engine->environment_count = 1;
    fleet_room_apply(&house->room);
    assert_int_equal(noted_take(&house->room, &new, NULL), LEASE_WAITING);
    fleet_room_run(&house->room, 700);
    assert_true(keeper_is_alive(pid)); /* a request is still there */
    assert_int_equal(new.granted, 0);
    lease_end(&old.lease, LEASE_OK);
    until_told(house, &new);
    assert_int_equal(new.granted, 1);
    assert_true(keeper_is_gone(pid, 0));
    assert_int_equal(ask_engine(house, new.lease), 200);
    lease_end(&new.lease, LEASE_OK);
    assert_true(fleet_room_tells(&house->room, "\"restarts\": 0"));
}

static void test_removed_engine_is_stopped(void **state)
{
    struct house *house = *state;
    struct noted_waiter noted;
    char socket_path[KEEPER_PATH_BYTES + 32];
    spawn_engine(house, "serve", "{socket}");
    fleet_room_apply(&house->room);
    fleet_room_until_ready(&house->room, 1);
    int pid = pid_of_engine(house);
    house->room.policy.model_count = 0;
    fleet_room_apply(&house->room);
    fleet_room_run(&house->room, 1000);
    assert_true(keeper_is_gone(pid, KEEPER_WAIT_MS));
    fleet_room_run(&house->room, 500);
    snprintf(socket_path, sizeof(socket_path), "%s/m@1.sock", house->runtime_dir);
    assert_int_not_equal(access(socket_path, F_OK), 0);
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_ALL_FAILED);
    assert_false(fleet_room_tells(&house->room, "m/1"));
}

/* The gateway dies, the next one finds the engine running. */
static void replace_gateway(struct house *house)
{
    struct fleet_room *room = &house->room;
    keeper_gateway_kill(&house->gateway);
    keeper_gateway_close(&house->gateway);
    disconnect_room(house);
    struct engine engine = room->engines[0];
    connect_room(house);
    room->engines[0] = engine;
    room->models[0].engine_count = 1;
}

static void adopt_ready(struct house *house, const char *where)
{
    struct noted_waiter noted;
    spawn_engine(house, "serve", where);
    fleet_room_apply(&house->room);
    fleet_room_until_ready(&house->room, 1);
    int pid = pid_of_engine(house);
    replace_gateway(house);
    fleet_room_apply(&house->room);
    assert_int_equal(fleet_room_status(&house->room).ready, 1); /* at once */
    assert_int_equal(fleet_room_status(&house->room).slots, 3);
    assert_int_equal(noted_take(&house->room, &noted, NULL), LEASE_TAKEN);
    assert_int_equal(ask_engine(house, noted.lease), 200);
    lease_end(&noted.lease, LEASE_OK);
    assert_int_equal(pid_of_engine(house), pid);
    while (fleet_context_tokens(house->room.fleet, "m") != 512)
        loop_run_once(house->room.control, 100);
    assert_int_equal(fleet_room_status(&house->room).slots, 3);
}

static void test_ready_engine_is_adopted_and_serves_at_once(void **state)
{
    adopt_ready(*state, "{socket}");
}

static void test_port_of_an_adopted_engine_is_known(void **state)
{
    adopt_ready(*state, ":{port}");
}

static void test_starting_engine_is_adopted_and_asked(void **state)
{
    struct house *house = *state;
    spawn_engine(house, "serve", "{socket}");
    fleet_room_apply(&house->room);
    fleet_room_run(&house->room, 100); /* started, not yet asked */
    int pid = pid_of_engine(house);
    assert_int_not_equal(pid, 0);
    assert_int_equal(fleet_room_status(&house->room).ready, 0);
    replace_gateway(house);
    fleet_room_apply(&house->room);
    assert_int_equal(fleet_room_status(&house->room).ready, 0);
    fleet_room_until_ready(&house->room, 1);
    assert_int_equal(pid_of_engine(house), pid);
}

static void test_running_engine_with_other_settings_is_replaced(void **state)
{
    struct house *house = *state;
    static const char *const ENVIRONMENT[] = {"CHANGED=1", NULL};
    spawn_engine(house, "serve", "{socket}");
    fleet_room_apply(&house->room);
    fleet_room_until_ready(&house->room, 1);
    int pid = pid_of_engine(house);
    replace_gateway(house);
    house->room.engines[0].environment = ENVIRONMENT;
    house->room.engines[0].environment_count = 1;
    fleet_room_apply(&house->room);
    assert_int_equal(fleet_room_status(&house->room).ready, 0);
    fleet_room_until_ready(&house->room, 1);
    assert_true(keeper_is_gone(pid, 0));
}

static void test_running_engine_of_no_model_is_stopped(void **state)
{
    struct house *house = *state;
    spawn_engine(house, "serve", "{socket}");
    fleet_room_apply(&house->room);
    fleet_room_until_ready(&house->room, 1);
    int pid = pid_of_engine(house);
    replace_gateway(house);
    house->room.policy.model_count = 0;
    fleet_room_apply(&house->room);
    fleet_room_run(&house->room, 1000);
    assert_true(keeper_is_gone(pid, KEEPER_WAIT_MS));
    assert_false(fleet_room_tells(&house->room, "m/1"));
}

static void test_directory_that_others_can_write_is_refused(void **state)
{
    struct house *house = *state;
    assert_int_equal(mkdir(house->runtime_dir, 0700), 0);
    assert_int_equal(chmod(house->runtime_dir, 0777), 0);
    spawn_engine(house, "serve", "{socket}");
    fleet_room_apply(&house->room);
    assert_true(fleet_room_tells(&house->room, "can be written by others (mode 777)"));
    assert_int_equal(fleet_room_status(&house->room).failed, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_engine_on_a_socket_serves),
        TEST(test_engine_on_a_port_serves),
        TEST(test_killed_engine_is_restarted_while_requests_wait),
        TEST(test_crash_loop_fails_and_refuses_who_waits),
        TEST(test_missing_binary_is_told),
        TEST(test_engine_that_never_answers_is_stopped),
        TEST(test_socket_of_another_process_is_not_believed),
        TEST(test_changed_engine_is_stopped_before_the_next_starts),
        TEST(test_removed_engine_is_stopped),
        TEST(test_ready_engine_is_adopted_and_serves_at_once),
        TEST(test_port_of_an_adopted_engine_is_known),
        TEST(test_starting_engine_is_adopted_and_asked),
        TEST(test_running_engine_with_other_settings_is_replaced),
        TEST(test_running_engine_of_no_model_is_stopped),
        TEST(test_directory_that_others_can_write_is_refused),
    };
    keeper_become_gateway(argc, argv);
    become_engine(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
