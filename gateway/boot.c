/* The gateway process from its configuration file to serving, and back. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/master.h"
#include "base/file.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/transfers.h"
#include "conf/reload.h"
#include "gateway/admin.h"
#include "gateway/command.h"
#include "gateway/gateway.h"
#include "gateway/learned.h"
#include "gateway/state_lock.h"
#include "ratelimit/estimate.h"
#include "ratelimit/limiter.h"

enum { CONFIG_BYTES_MAX = 72 * 1024 * 1024, ADMIN_TOKEN_RANDOM_BYTES = 24 };

static const char config_fd_name[] = "config";
static const char listen_fd_name[] = "listen";
static const char admin_fd_name[] = "admin";

static bool fail(const char *what, const char *where)
{
    fprintf(stderr, "tollgate: %s %s: %s\n", what, where, strerror(errno));
    return false;
}

/* ---- the configuration ---- */

static struct bundle *parse_kept(int fd)
{
    struct stat status;
    struct bundle *bundle = NULL;
    if (fstat(fd, &status) != 0 || status.st_size <= 0 || status.st_size > CONFIG_BYTES_MAX)
        return NULL;
    size_t length = (size_t) status.st_size;
    char *bytes = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        return NULL;
    bundle = bundle_parse((struct text){bytes, length});
    munmap(bytes, length);
    return bundle;
}

bool gateway_keep_config(struct gateway *gateway, const struct bundle *bundle)
{
    struct buffer bytes;
    buffer_init(&bytes, CONFIG_BYTES_MAX);
    int fd = memfd_create("tollgate-config", MFD_CLOEXEC);
    bool kept = fd >= 0 && bundle_write(bundle, &bytes) && file_write_all(fd, buffer_text(&bytes)) &&
                children_keep_fd(gateway->children, config_fd_name, fd);
    if (fd >= 0)
        close(fd);
    buffer_finish(&bytes);
    return kept;
}

/* What the master kept is what was last accepted; the file may have been edited since and is only for a first start. */
static struct bundle *find_config(struct gateway *gateway, const char *config_file, struct problem_list *problems)
{
    int kept = children_take_fd(gateway->children, config_fd_name);
    if (kept < 0)
        return bundle_read(config_file, problems);
    struct bundle *bundle = parse_kept(kept);
    close(kept);
    return bundle != NULL ? bundle : bundle_read(config_file, problems);
}

static bool load_config(struct gateway *gateway, const char *config_file)
{
    struct problem_list problems;
    problem_list_init(&problems);
    struct bundle *bundle = find_config(gateway, config_file, &problems);
    const struct policy *policy = bundle != NULL ? policy_load(bundle, LOAD_RUN, &problems) : NULL;
    fprintf(stderr, "%.*s", TEXT_ARGUMENTS(buffer_text(&problems.text)));
    bool loaded = policy != NULL;
    if (loaded) {
        reload_install(&policy);
        loaded = gateway_keep_config(gateway, bundle) || fail("cannot hand the configuration to", "the master process");
    }
    policy_drop(&policy);
    bundle_destroy(&bundle);
    problem_list_finish(&problems);
    return loaded;
}

static void log_problems(struct text problems)
{
    while (problems.length > 0) {
        const char *line_end = memchr(problems.at, '\n', problems.length);
        size_t length = line_end != NULL ? (size_t) (line_end - problems.at) : problems.length;
        log_event(LOG_WARNING, "reload", "%.*s", (int) length, problems.at);
        length += line_end != NULL ? 1 : 0;
        problems.at += length;
        problems.length -= length;
    }
}

bool gateway_reload_config(struct gateway *gateway, struct buffer *ret_problems)
{
    struct problem_list problems;
    struct bundle *bundle = NULL;
    problem_list_init(&problems);
    bool accepted = reload_now(&bundle, &problems);
    if (accepted) {
        const struct policy *policy = reload_current();
        fleet_apply(gateway->fleet, policy);
        if (!limiter_apply(gateway->limiter, policy, clock_mono_us()))
            log_event(LOG_ERROR, "reload", "no memory for new limits: those of the configuration before stay");
        (void) children_set_drain(gateway->children, policy->drain_timeout_ms);
        policy_drop(&policy);
        if (!gateway_keep_config(gateway, bundle))
            log_event(LOG_ERROR, "reload",
                      "the master did not take the new configuration: a crash would bring back the old one");
        bundle_destroy(&bundle);
    }
    log_event(accepted ? LOG_INFO : LOG_WARNING, "reload",
              accepted ? "accepted" : "refused: the old configuration stays");
    log_problems(buffer_text(&problems.text));
    (void) buffer_add(ret_problems, buffer_text(&problems.text));
    problem_list_finish(&problems);
    return accepted;
}

/* ---- state ---- */

static bool make_state_dir(const struct policy *policy)
{
    if (!file_make_directory(policy->state_dir, 0700))
        return fail("cannot make state_dir", policy->state_dir);
    if (access(policy->state_dir, W_OK | X_OK) != 0)
        return fail("cannot write in state_dir", policy->state_dir);
    return true;
}

static bool lock_state_dir(struct gateway *gateway, const struct policy *policy)
{
    char error[STATE_LOCK_ERROR_BYTES];
    gateway->lock_fd = state_lock_take(policy->state_dir, error);
    if (gateway->lock_fd < 0)
        fprintf(stderr, "tollgate: %s\n", error);
    return gateway->lock_fd >= 0;
}

static bool read_token(const char *path, char token[GATEWAY_TOKEN_BYTES])
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool read = fgets(token, GATEWAY_TOKEN_BYTES, file) != NULL;
    fclose(file);
    if (read)
        token[strcspn(token, "\r\n")] = '\0';
    return read && token[0] != '\0';
}

static bool make_token(const char *path, char token[GATEWAY_TOKEN_BYTES])
{
    unsigned char random[ADMIN_TOKEN_RANDOM_BYTES];
    if (RAND_bytes(random, sizeof random) != 1)
        return false;
    text_hex(token, random, sizeof random);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    bool written = dprintf(fd, "%s\n", token) > 0;
    return close(fd) == 0 && written;
}

static bool find_admin_token(struct gateway *gateway, const struct policy *policy)
{
    char path[4096];
    if (policy->admin_token._bytes != NULL) {
        text_copy(gateway->admin_token, sizeof gateway->admin_token, text_of(policy->admin_token._bytes));
        return true;
    }
    snprintf(path, sizeof path, "%s/admin.token", policy->state_dir);
    if (read_token(path, gateway->admin_token) || make_token(path, gateway->admin_token))
        return true;
    return fail("cannot make the admin token", path);
}

/* ---- sockets ---- */

static int find_listener(struct gateway *gateway, const char *name, const struct listen_address *address)
{
    char error[LISTENER_ERROR_BYTES];
    int fd = children_take_fd(gateway->children, name);
    if (fd < 0)
        fd = listener_bind(address, error);
    if (fd < 0) {
        fprintf(stderr, "tollgate: %s\n", error);
        return -1;
    }
    (void) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    /* The successor gets it back, and clients wait in its backlog meanwhile. */
    if (!children_keep_fd(gateway->children, name, fd))
        log_event(LOG_ERROR, "start", "the master did not take the %s socket: a crash will refuse connections", name);
    return fd;
}

static bool open_listeners(struct gateway *gateway, const struct policy *policy)
{
    gateway->listen_fd = find_listener(gateway, listen_fd_name, &policy->listen);
    if (gateway->listen_fd < 0)
        return false;
    gateway->admin_fd = find_listener(gateway, admin_fd_name, &policy->admin_listen);
    return gateway->admin_fd >= 0;
}

/* ---- signals and the master ---- */

static void on_signal(struct loop_watch *watch, uint32_t events)
{
    struct gateway *gateway = watch->owner;
    struct signalfd_siginfo info;
    struct buffer problems;
    (void) events;
    while (read(watch->fd, &info, sizeof info) == (ssize_t) sizeof info) {
        if (info.ssi_signo != SIGHUP) {
            gateway_drain(gateway);
            continue;
        }
        buffer_init(&problems, 1024 * 1024);
        (void) gateway_reload_config(gateway, &problems);
        buffer_finish(&problems);
    }
}

/* Blocked before any thread starts, so that only the descriptor gets them. */
static bool watch_signals(struct gateway *gateway)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    (void) signal(SIGPIPE, SIG_IGN);
    (void) signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is a write that fails */
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return false;
    gateway->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    gateway->signals = (struct loop_watch){.fd = gateway->signal_fd, .ready = on_signal, .owner = gateway};
    return gateway->signal_fd >= 0 && loop_watch(gateway->loop, &gateway->signals, EPOLLIN);
}

static void on_shut_down(void *owner)
{
    gateway_drain(owner);
}

static void on_master_gone(void *owner)
{
    gateway_master_gone(owner);
}

/* ---- start and end ---- */

static bool start_workers(struct gateway *gateway, int count)
{
    gateway->worker_count = 0;
    for (int i = 0; i < count && i < GATEWAY_WORKERS_MAX; i++) {
        const struct worker_shared shared = {.fleet = gateway->fleet,
                                             .limiter = gateway->limiter,
                                             .estimator = gateway->estimator,
                                             .journal = &gateway->money.journal};
        struct worker *worker = worker_create(i, &shared);
        if (worker == NULL || !worker_start(worker))
            return fail("cannot start", "a worker thread");
        gateway->workers[gateway->worker_count++] = worker;
    }
    return true;
}

static bool start_serving(struct gateway *gateway, const struct policy *policy)
{
    fleet_apply(gateway->fleet, policy);
    if (!limiter_apply(gateway->limiter, policy, clock_mono_us()))
        return fail("cannot make", "the limits' table");
    learned_begin(gateway, policy);
    if (!money_start(&gateway->money, policy) || !start_workers(gateway, policy->workers))
        return false;
    gateway->admin = admin_create(gateway, gateway->admin_fd);
    gateway->listener = listener_create(gateway->listen_fd, gateway->workers, gateway->worker_count);
    if (gateway->admin == NULL || gateway->listener == NULL)
        return fail("cannot start", "the listeners");
    (void) children_set_drain(gateway->children, policy->drain_timeout_ms);
    (void) children_gateway_ready(gateway->children);
    metric_set(metric_series(METRIC_START_TIME, (const char *const[METRIC_LABELS_MAX]){NULL}), clock_wall_ms() / 1000);
    metric_set(metric_series(METRIC_BUILD_INFO, (const char *const[METRIC_LABELS_MAX]){TOLLGATE_VERSION}), 1);
    log_event(LOG_INFO, "start", "serving %zu model%s on %s with %d worker%s, admin on %s", policy->model_count,
              policy->model_count == 1 ? "" : "s", policy->listen.text, gateway->worker_count,
              gateway->worker_count == 1 ? "" : "s", policy->admin_listen.text);
    return true;
}

static bool prepare(struct gateway *gateway)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void) setrlimit(RLIMIT_NOFILE, &files);
    }
    gateway->loop = loop_create();
    if (gateway->loop == NULL || !watch_signals(gateway) || !transfers_global_init())
        return fail("cannot prepare", "the event loop");
    gateway->children = children_connect(MASTER_SOCKET_FD);
    if (gateway->children == NULL)
        return fail("cannot reach", "the master process: start with `tollgate run`");
    return true;
}

bool gateway_boot(struct gateway *gateway, const char *config_file)
{
    gateway->listen_fd = gateway->admin_fd = gateway->lock_fd = -1;
    if (!prepare(gateway) || !load_config(gateway, config_file))
        return false;
    const struct policy *policy = reload_current();
    bool booted = make_state_dir(policy) && lock_state_dir(gateway, policy) && find_admin_token(gateway, policy) &&
                  open_listeners(gateway, policy);
    if (booted) {
        (void) log_start_writer();
        gateway->fleet = fleet_create(gateway->loop, gateway->children);
        gateway->limiter = limiter_create();
        gateway->estimator = estimator_create();
        booted = (gateway->fleet != NULL && gateway->limiter != NULL && gateway->estimator != NULL) ||
                 fail("cannot make", "the engines' table");
        booted = booted && money_prepare(&gateway->money, gateway->loop, gateway->children, policy);
        booted = booted && children_attach(gateway->children, gateway->loop, on_shut_down, on_master_gone, gateway);
        booted = booted && start_serving(gateway, policy);
    }
    policy_drop(&policy);
    return booted;
}

void gateway_finish(struct gateway *gateway)
{
    listener_destroy(&gateway->listener);
    for (int i = 0; i < gateway->worker_count; i++)
        worker_destroy(&gateway->workers[i]);
    if (gateway->master_gone)
        gateway_leave();
    money_stop(&gateway->money);
    loop_run_once(gateway->loop, 0); /* who waits for a change of a row is told */
    admin_destroy(&gateway->admin);
    fleet_destroy(&gateway->fleet);
    learned_end(gateway);
    estimator_destroy(&gateway->estimator);
    limiter_destroy(&gateway->limiter);
    children_destroy(&gateway->children);
    money_finish(&gateway->money);
    state_lock_release(&gateway->lock_fd);
    loop_timer_cancel(gateway->loop, &gateway->drain);
    loop_unwatch(gateway->loop, &gateway->signals);
    close(gateway->signal_fd);
    explicit_bzero(gateway->admin_token, sizeof gateway->admin_token);
    log_event(LOG_INFO, "shutdown", "done");
    log_stop_writer();
}
