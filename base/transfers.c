#include "base/transfers.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/panic.h"

/* One descriptor that curl wants watched. */
struct watched_socket {
    struct loop_watch watch;
    struct transfers *transfers;
    struct watched_socket *next;
    struct watched_socket *previous;
};

struct transfers {
    struct loop *loop;
    CURLM *multi;
    transfer_done *done;
    void *owner;
    struct loop_timer timer;
    struct watched_socket *sockets; /* all of them, for destroy */
};

bool transfers_global_init(void)
{
    return curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

/* Tell the owner who finished. He may add and remove handles from inside. */
static void tell_done(struct transfers *transfers)
{
    CURLMsg *message;
    int left = 0;

    while ((message = curl_multi_info_read(transfers->multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE)
            continue;
        /* The message dies with curl_multi_remove_handle. */
        CURL *easy = message->easy_handle;
        CURLcode result = message->data.result;

        ENSURE(curl_multi_remove_handle(transfers->multi, easy) == CURLM_OK);
        transfers->done(transfers->owner, easy, (int) result);
    }
}

static void act(struct transfers *transfers, curl_socket_t fd, int bits)
{
    int running = 0;

    ENSURE(curl_multi_socket_action(transfers->multi, fd, bits, &running) == CURLM_OK);
    tell_done(transfers);
}

static void on_ready(struct loop_watch *watch, uint32_t events)
{
    struct watched_socket *socket = watch->owner;
    int bits = 0;

    /* Never CURL_CSELECT_ERR: a hang-up or an error is found by the read or write that follows, with its real reason
     * and after the bytes that came before it. */
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        bits |= CURL_CSELECT_IN;
    if (events & (EPOLLOUT | EPOLLERR))
        bits |= CURL_CSELECT_OUT;
    act(socket->transfers, watch->fd, bits);
}

static void on_timer(struct loop_timer *timer)
{
    act(timer->owner, CURL_SOCKET_TIMEOUT, 0);
}

static uint32_t epoll_events_of(int what)
{
    switch (what) {
    case CURL_POLL_IN:
        return EPOLLIN;
    case CURL_POLL_OUT:
        return EPOLLOUT;
    case CURL_POLL_INOUT:
        return EPOLLIN | EPOLLOUT;
    default:
        return 0;
    }
}

static void forget_socket(struct transfers *transfers, struct watched_socket *socket)
{
    loop_unwatch(transfers->loop, &socket->watch);
    if (socket->previous != NULL)
        socket->previous->next = socket->next;
    else
        transfers->sockets = socket->next;
    if (socket->next != NULL)
        socket->next->previous = socket->previous;
    free(socket);
}

static struct watched_socket *remember_socket(struct transfers *transfers, curl_socket_t fd, uint32_t events)
{
    struct watched_socket *socket = calloc(1, sizeof(*socket));

    if (socket == NULL)
        return NULL;
    socket->transfers = transfers;
    socket->watch = (struct loop_watch){.fd = fd, .ready = on_ready, .owner = socket};
    if (!loop_watch(transfers->loop, &socket->watch, events)) {
        free(socket);
        return NULL;
    }
    socket->next = transfers->sockets;
    if (socket->next != NULL)
        socket->next->previous = socket;
    transfers->sockets = socket;
    return socket;
}

/* curl's CURLMOPT_SOCKETFUNCTION. It always returns 0: any other value kills the whole multi handle, while an unwatched
 * socket only costs its own transfer, which runs into its deadline. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *owner, void *known)
{
    struct transfers *transfers = owner;
    struct watched_socket *socket = known;

    (void) easy;
    if (what == CURL_POLL_REMOVE) {
        if (socket != NULL) {
            curl_multi_assign(transfers->multi, fd, NULL);
            forget_socket(transfers, socket);
        }
        return 0;
    }
    if (socket != NULL) {
        if (!loop_watch_change(transfers->loop, &socket->watch, epoll_events_of(what)))
            log_event(LOG_ERROR, "transfers", "cannot change the watch of a socket");
        return 0;
    }
    socket = remember_socket(transfers, fd, epoll_events_of(what));
    if (socket == NULL)
        log_event(LOG_ERROR, "transfers", "cannot watch a socket");
    else
        curl_multi_assign(transfers->multi, fd, socket);
    return 0;
}

/* curl's CURLMOPT_TIMERFUNCTION: one timer; -1 = none. A zero must not act from in here: curl is on the stack. */
static int on_timeout(CURLM *multi, long timeout_ms, void *owner)
{
    struct transfers *transfers = owner;

    (void) multi;
    if (timeout_ms < 0)
        loop_timer_cancel(transfers->loop, &transfers->timer);
    else
        loop_timer_set(transfers->loop, &transfers->timer, clock_mono_ms() + timeout_ms);
    return 0;
}

struct transfers *transfers_create(struct loop *loop, transfer_done *done, void *owner)
{
    struct transfers *transfers = calloc(1, sizeof(*transfers));

    if (transfers == NULL)
        return NULL;
    transfers->loop = loop;
    transfers->done = done;
    transfers->owner = owner;
    transfers->timer = (struct loop_timer){.fire = on_timer, .owner = transfers};
    transfers->multi = curl_multi_init();
    if (transfers->multi == NULL) {
        free(transfers);
        return NULL;
    }
    /* CURLMOPT_MAXCONNECTS stays at its default: it counts busy connections too, so a small number would close a
     * connection after each transfer of a busy worker. */
    curl_multi_setopt(transfers->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(transfers->multi, CURLMOPT_SOCKETDATA, transfers);
    curl_multi_setopt(transfers->multi, CURLMOPT_TIMERFUNCTION, on_timeout);
    curl_multi_setopt(transfers->multi, CURLMOPT_TIMERDATA, transfers);
    return transfers;
}

void transfers_destroy(struct transfers **transfers)
{
    struct transfers *dying = *transfers;

    if (dying == NULL)
        return;
    *transfers = NULL;
    curl_multi_cleanup(dying->multi);
    loop_timer_cancel(dying->loop, &dying->timer);
    while (dying->sockets != NULL)
        forget_socket(dying, dying->sockets);
    free(dying);
}

bool transfers_add(struct transfers *transfers, void *easy)
{
    return curl_multi_add_handle(transfers->multi, easy) == CURLM_OK;
}

void transfers_remove(struct transfers *transfers, void *easy)
{
    ENSURE(curl_multi_remove_handle(transfers->multi, easy) == CURLM_OK);
}
