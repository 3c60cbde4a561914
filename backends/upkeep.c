#include "backends/upkeep.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/fleet_private.h"
#include "backends/probe.h"
#include "backends/process_tree.h"
#include "backends/random.h"
#include "backends/spawn.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/panic.h"

static void on_probe_timer(struct loop_timer *timer);
static void on_clock_timer(struct loop_timer *timer);

static mono_ms now_ms(void)
{
    return clock_mono_ms();
}

static void set_timer(struct instance *instance, struct loop_timer *timer, int64_t delay_ms)
{
    timer->fire = timer == &instance->probe_timer ? on_probe_timer : on_clock_timer;
    timer->owner = instance;
    loop_timer_set(instance->fleet->control, timer, now_ms() + delay_ms);
}

void upkeep_abandon(struct instance *instance)
{
    probe_cancel(&instance->probe);
    loop_timer_cancel(instance->fleet->control, &instance->probe_timer);
    loop_timer_cancel(instance->fleet->control, &instance->clock_timer);
}

/* ---- it ended, or could not be started ---- */

static void give_back(struct instance *instance, int status, const char *evidence)
{
    int64_t ready_ms = instance->ready_since < 0 ? -1 : now_ms() - instance->ready_since;
    struct backoff_decision next =
        backoff_exited(&instance->backoff, now_ms(), status, ready_ms, random_fraction(&instance->fleet->random_state));

    instance->ready_since = -1;
    upkeep_abandon(instance);
    if (next.failed)
        instance_set_state(instance, INSTANCE_FAILED, "%s; given up, tried again in %.1f s", evidence,
                           (double) next.delay_ms / 1000);
    else
        instance_set_state(instance, INSTANCE_BACKOFF, "%s; next start in %.1f s", evidence,
                           (double) next.delay_ms / 1000);
    set_timer(instance, &instance->clock_timer, next.delay_ms);
    line_serve(instance->line);
}

static void describe_exit(struct instance *instance, const struct child_exit *exit)
{
    char *to = instance->last_exit;
    size_t capacity = sizeof(instance->last_exit);
    int status = exit->wait_status;
    const char *signal_name;

    if (exit->reason[0] != '\0') {
        snprintf(to, capacity, "did not start: %s", exit->reason);
        return;
    }
    if (WIFEXITED(status)) {
        snprintf(to, capacity, "exit status %d", WEXITSTATUS(status));
        return;
    }
    signal_name = sigabbrev_np(WTERMSIG(status));
    if (signal_name == NULL)
        snprintf(to, capacity, "killed by signal %d", WTERMSIG(status));
    else
        snprintf(to, capacity, "killed by SIG%s%s", signal_name,
                 WTERMSIG(status) == SIGKILL && !exit->was_asked ? " (not by us: out of memory?)" : "");
}

void upkeep_exited(struct instance *instance, const struct child_exit *exit)
{
    char evidence[3 * INSTANCE_TEXT_BYTES];

    describe_exit(instance, exit);
    instance->has_child = false;
    instance->pid = 0;
    upkeep_abandon(instance);
    children_ask_logs(instance->fleet->children, instance->name);
    if (instance->socket_path != NULL)
        unlink(instance->socket_path);
    if (instance->leaving) {
        instance_set_state(instance, INSTANCE_STOPPED, "%s", instance->last_exit);
        fleet_let_go(instance->fleet, instance);
        return;
    }
    if (instance->state == INSTANCE_STOPPING)
        snprintf(evidence, sizeof(evidence), "%s; %s", instance->evidence, instance->last_exit);
    else
        snprintf(evidence, sizeof(evidence), "%s", instance->last_exit);
    give_back(instance, exit->wait_status, evidence);
}

void upkeep_logged(struct instance *instance, struct text bytes)
{
    const char *line_end;

    if (bytes.length > INSTANCE_LOG_TAIL_BYTES) {
        bytes.at += bytes.length - INSTANCE_LOG_TAIL_BYTES;
        bytes.length = INSTANCE_LOG_TAIL_BYTES;
        line_end = memchr(bytes.at, '\n', bytes.length);
        if (line_end != NULL) /* whole lines only */
            bytes = (struct text){line_end + 1, (size_t) (bytes.at + bytes.length - line_end - 1)};
    }
    if (bytes.length > 0)
        memcpy(instance->log_tail, bytes.at, bytes.length);
    instance->log_tail_length = bytes.length;
}

/* ---- stopping ---- */

static void stop_process(struct instance *instance, const char *evidence)
{
    upkeep_abandon(instance);
    instance_set_state(instance, INSTANCE_STOPPING, "%s", evidence);
    children_stop(instance->fleet->children, instance->name, UPKEEP_STOP_GRACE_MS);
}

/* It is not what it should be: stop its process and start again, or ask a remote one again later. */
static void restart(struct instance *instance, const char *evidence)
{
    char copy[INSTANCE_TEXT_BYTES]; /* @evidence may be the probe's, which is cancelled */

    text_copy(copy, sizeof(copy), text_of(evidence));
    if (instance->is_spawned) {
        stop_process(instance, copy);
        return;
    }
    upkeep_abandon(instance);
    instance->ready_since = -1;
    instance->started_at = now_ms();
    if (instance->state != INSTANCE_BACKOFF)
        instance_set_state(instance, INSTANCE_BACKOFF, "%s", copy);
    else
        text_copy(instance->evidence, sizeof(instance->evidence), text_of(copy));
    set_timer(instance, &instance->probe_timer,
              UPKEEP_REMOTE_RETRY_MS_MIN + (int64_t) (random_fraction(&instance->fleet->random_state) *
                                                      (UPKEEP_REMOTE_RETRY_MS_MAX - UPKEEP_REMOTE_RETRY_MS_MIN)));
}

static void leave_at_once(struct instance *instance)
{
    upkeep_abandon(instance);
    if (instance->has_child) {
        if (instance->state != INSTANCE_STOPPING)
            stop_process(instance, "no longer in the configuration");
        return;
    }
    if (instance->state != INSTANCE_STOPPED)
        instance_set_state(instance, INSTANCE_STOPPED, "no longer in the configuration");
    fleet_let_go(instance->fleet, instance);
}

void upkeep_leave(struct instance *instance)
{
    ENSURE(!instance->leaving);
    metric_set(instance->metrics.up, 0);
    metric_set(instance->metrics.slots, 0);
    instance_set_leaving(instance, true);
    if (instance->state != INSTANCE_READY) {
        leave_at_once(instance);
        return;
    }
    upkeep_abandon(instance);
    instance->drain_until = now_ms() + instance->timeouts.total_ms;
    instance_set_state(instance, INSTANCE_DRAINING, "no longer in the configuration");
    upkeep_sweep(instance, now_ms());
}

void upkeep_stay(struct instance *instance)
{
    ENSURE(instance->leaving);
    instance_set_leaving(instance, false);
    instance_set_state(instance, INSTANCE_READY, "in the configuration again");
    metric_set(instance->metrics.slots, instance->slots);
    set_timer(instance, &instance->probe_timer, UPKEEP_LIVENESS_MS);
    line_serve(instance->line);
}

static int in_flight(struct instance *instance)
{
    return instance_liveness_facts(instance, 0).in_flight;
}

void upkeep_sweep(struct instance *instance, mono_ms now)
{
    if (!instance->leaving)
        return;
    if (instance->state == INSTANCE_STOPPED)
        fleet_let_go(instance->fleet, instance);
    else if (instance->state == INSTANCE_DRAINING && (in_flight(instance) == 0 || now >= instance->drain_until))
        leave_at_once(instance);
}

/* ---- asking ---- */

static void on_answers(void *owner, const char *evidence)
{
    struct instance *instance = owner;

    if (instance->state == INSTANCE_BACKOFF) /* a remote one is back */
        instance_set_state(instance, INSTANCE_STARTING, "answers again");
    if (instance->state == INSTANCE_STARTING)
        instance_set_state(instance, INSTANCE_WARMING, "%s", evidence);
}

/* What the master keeps for the gateway after us: READY, and how many requests the engine said it runs at once (0 = it
 * does not say), for a busy engine may be slow to say it again. */
static int64_t ready_mark(int slots)
{
    return 1 + (int64_t) slots;
}

static bool was_ready(int64_t mark, int *ret_slots)
{
    if (mark < 1 || mark - 1 > PROBE_SLOTS_MAX)
        return false;
    *ret_slots = (int) (mark - 1);
    return true;
}

static void become_ready(struct instance *instance, const struct probe_result *result)
{
    loop_timer_cancel(instance->fleet->control, &instance->clock_timer);
    backoff_ready(&instance->backoff);
    instance->liveness.failures = 0;
    instance_set_facts(instance, result->slots, result->context_tokens);
    instance_set_state(instance, INSTANCE_READY, "%s after %.1f s", result->evidence,
                       (double) (now_ms() - instance->started_at) / 1000);
    if (instance->is_spawned)
        children_mark(instance->fleet->children, instance->name, ready_mark(result->slots));
    line_serve(instance->line);
}

static void on_readiness(void *owner, const struct probe_result *result)
{
    struct instance *instance = owner;
    bool brisk = now_ms() - instance->started_at < UPKEEP_BRISK_MS;

    instance->probe = NULL;
    if (result->passed) {
        become_ready(instance, result);
        set_timer(instance, &instance->probe_timer, UPKEEP_LIVENESS_MS);
    } else if (!instance->is_spawned) {
        restart(instance, result->evidence);
    } else {
        /* Its start deadline decides; until then the state's evidence says what is missing. */
        text_copy(instance->evidence, sizeof(instance->evidence), text_of(result->evidence));
        set_timer(instance, &instance->probe_timer, brisk ? UPKEEP_FIRST_PROBE_MS : UPKEEP_PROBE_MS);
    }
}

static void on_facts(void *owner, const struct probe_result *result)
{
    struct instance *instance = owner;

    instance->probe = NULL;
    if (result->passed)
        instance_set_facts(instance, result->slots, result->context_tokens);
    set_timer(instance, &instance->probe_timer, UPKEEP_LIVENESS_MS);
}

static void judge_liveness(struct instance *instance, const struct probe_result *result)
{
    struct liveness_facts facts = instance_liveness_facts(instance, now_ms());

    if (result->passed) {
        liveness_passed(&instance->liveness);
    } else if (liveness_failed(&instance->liveness, &facts) == LIVENESS_DEAD) {
        char evidence[INSTANCE_TEXT_BYTES + 64];

        snprintf(evidence, sizeof(evidence), "dead: no progress, and %d probes failed: %s", instance->liveness.failures,
                 result->evidence);
        restart(instance, evidence);
        return;
    }
    set_timer(instance, &instance->probe_timer, UPKEEP_LIVENESS_MS);
}

static void on_health(void *owner, const struct probe_result *result)
{
    struct instance *instance = owner;

    instance->probe = NULL;
    judge_liveness(instance, result);
}

static void on_token(void *owner, const struct probe_result *result)
{
    struct instance *instance = owner;

    instance->probe = NULL;
    if (result->passed)
        atomic_store_explicit(&instance->last_progress, now_ms(), memory_order_relaxed);
    judge_liveness(instance, result);
}

static const struct probe_events EVENTS[PROBE_KIND_COUNT] = {
    [PROBE_READINESS] = {.answers = on_answers, .done = on_readiness},
    [PROBE_FACTS] = {.done = on_facts},
    [PROBE_HEALTH] = {.done = on_health},
    [PROBE_TOKEN] = {.done = on_token},
};

static void ask(struct instance *instance, enum probe_kind kind)
{
    char port_url[48];
    struct probe_target target = {
        .base_url = instance->base_url,
        .socket_path = instance->socket_path,
        .api_key = instance->api_key,
        .engine_model = instance->engine_model,
        .dialect = instance->dialect,
        .embeddings_only = instance->embeddings_only,
    };

    snprintf(port_url, sizeof(port_url), "http://127.0.0.1:%d", instance->port);
    if (target.base_url == NULL)
        target.base_url = port_url;
    ENSURE(instance->probe == NULL);
    instance->probe = probe_start(instance->fleet->fetcher, kind, &target, &EVENTS[kind], instance);
    if (instance->probe == NULL)
        set_timer(instance, &instance->probe_timer, UPKEEP_PROBE_MS);
}

/* The socket or port is our child's: no other process answers in its place. */
static bool is_our_childs(struct instance *instance)
{
    char *evidence = instance->evidence;
    int pid;

    if (instance->pid == 0)
        return false;
    if (instance->socket_path == NULL) {
        if (process_tree_listens(instance->pid, instance->port))
            return true;
        snprintf(evidence, INSTANCE_TEXT_BYTES, "its process does not listen on port %d", instance->port);
        return false;
    }
    pid = process_behind_socket(instance->socket_path);
    if (pid != 0 && process_belongs_to(pid, instance->pid))
        return true;
    if (pid == 0)
        snprintf(evidence, INSTANCE_TEXT_BYTES, "nothing listens on its socket");
    else
        snprintf(evidence, INSTANCE_TEXT_BYTES, "its socket is that of another process (%d)", pid);
    return false;
}

static void on_probe_timer(struct loop_timer *timer)
{
    struct instance *instance = timer->owner;

    if (instance->has_child)
        children_ask_logs(instance->fleet->children, instance->name);
    if (instance->state == INSTANCE_READY) {
        struct liveness_facts facts = instance_liveness_facts(instance, now_ms());

        ask(instance, liveness_wants_token(&facts) ? PROBE_TOKEN : PROBE_HEALTH);
        return;
    }
    if (instance->is_spawned && !is_our_childs(instance)) {
        set_timer(instance, timer, UPKEEP_FIRST_PROBE_MS);
        return;
    }
    ask(instance, PROBE_READINESS);
}

/* ---- starting ---- */

static bool choose_address(struct instance *instance, char why[INSTANCE_TEXT_BYTES])
{
    const char *const *arguments = (const char *const *) instance->arguments;

    if (instance->socket_path != NULL) {
        if (!spawn_prepare_directory(instance->fleet->runtime_dir, why, INSTANCE_TEXT_BYTES))
            return false;
        if (strlen(instance->socket_path) > SPAWN_SOCKET_PATH_BYTES_MAX) {
            snprintf(why, INSTANCE_TEXT_BYTES, "the path of its socket is longer than %d bytes: shorten runtime_dir",
                     SPAWN_SOCKET_PATH_BYTES_MAX);
            return false;
        }
        unlink(instance->socket_path);
        return true;
    }
    if (!spawn_wants(arguments, SPAWN_PORT)) {
        snprintf(why, INSTANCE_TEXT_BYTES, "its arguments hold neither %s nor %s", SPAWN_SOCKET, SPAWN_PORT);
        return false;
    }
    instance_set_port(instance, spawn_find_port());
    snprintf(why, INSTANCE_TEXT_BYTES, "no free port");
    return instance->port != 0;
}

static bool send_start(struct instance *instance)
{
    char note[SPAWN_NOTE_BYTES];
    char **arguments =
        spawn_arguments((const char *const *) instance->arguments, instance->socket_path, instance->port);
    char **environment = spawn_environment((const char *const *) instance->environment);
    struct child_start start = {
        .name = instance->name,
        .note = note,
        .working_directory = instance->working_directory,
        .arguments = (const char *const *) arguments,
        .environment = (const char *const *) environment,
    };
    bool sent;

    spawn_note_write(note, instance->settings_hash, instance->port);
    sent = arguments != NULL && environment != NULL && children_start(instance->fleet->children, &start);
    spawn_free_strings(&arguments);
    spawn_free_strings(&environment);
    return sent;
}

static void fail_to_start(struct instance *instance, const char *why)
{
    instance_set_state(instance, INSTANCE_FAILED, "%s", why);
    set_timer(instance, &instance->clock_timer, BACKOFF_FAILED_RETRY_MS);
    line_serve(instance->line);
}

static void spawn(struct instance *instance)
{
    char why[INSTANCE_TEXT_BYTES] = "nothing can be started: there is no master process";

    instance_set_state(instance, INSTANCE_STARTING, "start %d", instance->starts + 1);
    if (instance->fleet->children == NULL || !choose_address(instance, why)) {
        fail_to_start(instance, why);
        return;
    }
    if (instance->starts > 0)
        metric_add(instance->metrics.restarts, 1);
    instance->starts++;
    if (!send_start(instance)) {
        give_back(instance, -1, "the master did not take the order to start it");
        return;
    }
    instance->has_child = true;
    set_timer(instance, &instance->probe_timer, UPKEEP_FIRST_PROBE_MS);
    set_timer(instance, &instance->clock_timer, instance->start_timeout_ms);
}

void upkeep_begin(struct instance *instance)
{
    instance->started_at = now_ms();
    instance->ready_since = -1;
    if (instance->is_spawned) {
        spawn(instance);
        return;
    }
    instance_set_state(instance, INSTANCE_STARTING, "asking %s",
                       instance->socket_path != NULL ? instance->socket_path : instance->base_url);
    set_timer(instance, &instance->probe_timer, 0);
}

void upkeep_started(struct instance *instance, int pid)
{
    instance->pid = pid;
}

void upkeep_adopt(struct instance *instance, const struct child_info *child, int port)
{
    int64_t start_left_ms = instance->start_timeout_ms - child->running_ms;
    int slots;

    instance->has_child = true;
    instance->pid = child->pid;
    instance->starts = 1;
    instance->started_at = now_ms();
    instance_set_port(instance, port);
    instance_set_state(instance, INSTANCE_STARTING, "runs since before this gateway, for %.1f s",
                       (double) child->running_ms / 1000);
    if (was_ready(child->mark, &slots) && is_our_childs(instance)) {
        if (slots > 0)
            instance_set_facts(instance, slots, 0);
        instance_set_state(instance, INSTANCE_READY, "was READY before this gateway and has its address");
        line_serve(instance->line);
        ask(instance, PROBE_FACTS);
        return;
    }
    set_timer(instance, &instance->probe_timer, 0);
    set_timer(instance, &instance->clock_timer,
              start_left_ms > UPKEEP_STOP_GRACE_MS ? start_left_ms : UPKEEP_STOP_GRACE_MS);
}

/* The state has lasted long enough. */
static void on_clock_timer(struct loop_timer *timer)
{
    struct instance *instance = timer->owner;
    char evidence[3 * INSTANCE_TEXT_BYTES];

    switch (instance->state) {
    case INSTANCE_BACKOFF:
    case INSTANCE_FAILED:
        upkeep_begin(instance);
        return;
    case INSTANCE_STARTING:
    case INSTANCE_WARMING:
        snprintf(evidence, sizeof(evidence), "not READY within %.1f s: %s", (double) instance->start_timeout_ms / 1000,
                 instance->evidence);
        restart(instance, evidence);
        return;
    case INSTANCE_STOPPED:
    case INSTANCE_READY:
    case INSTANCE_DRAINING:
    case INSTANCE_STOPPING:
    case INSTANCE_STATE_COUNT:
        break;
    }
    UNREACHABLE("no clock runs in this state");
}
