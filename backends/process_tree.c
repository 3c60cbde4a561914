/* Who descends from whom, and whose socket is it: answers from /proc, one file a question, nothing kept. */
#include "backends/process_tree.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/panic.h"

enum {
    STAT_BYTES_MAX = 1024,
    ANCESTRY_DEPTH_MAX = 256, /* a chain of parents that is longer is a race with exiting processes */
    LISTENERS_MAX = 64,       /* sockets on one port: SO_REUSEPORT, and both address families */
    PROC_PATH_BYTES = 64,
    TCP_STATE_LISTEN = 0x0A /* as printed in /proc/net/tcp */
};

bool process_facts_parse(const char *stat, struct process_facts *ret)
{
    struct process_facts facts = {0};
    /* The name stands in parentheses and may hold anything, also ") R 1": only the last one ends it. */
    const char *name_end = strrchr(stat, ')');
    if (name_end == NULL || sscanf(stat, "%d", &facts.pid) != 1)
        return false;
    char state = 0;
    unsigned long long start_time = 0;
    int read = sscanf(name_end + 1, " %c %d %d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                      &state, &facts.parent, &facts.group, &start_time);
    if (read != 4)
        return false;
    facts.zombie = state == 'Z' || state == 'X';
    facts.start_time = start_time;
    *ret = facts;
    return true;
}

bool process_facts_read(int pid, struct process_facts *ret)
{
    char path[PROC_PATH_BYTES];
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    int fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return false;
    char stat[STAT_BYTES_MAX];
    ssize_t length = read(fd, stat, sizeof(stat) - 1);
    close(fd);
    if (length <= 0)
        return false; /* it ended between open and read: ESRCH */
    stat[length] = '\0';
    return process_facts_parse(stat, ret);
}

uint64_t process_start_time(int pid)
{
    struct process_facts facts;
    return process_facts_read(pid, &facts) ? facts.start_time : 0;
}

void process_each(void (*receive)(void *owner, const struct process_facts *facts), void *owner)
{
    DIR *processes = opendir("/proc");
    if (processes == NULL)
        return;
    for (struct dirent *entry = readdir(processes); entry != NULL; entry = readdir(processes)) {
        struct process_facts facts;
        if (isdigit((unsigned char) entry->d_name[0]) && process_facts_read(atoi(entry->d_name), &facts))
            receive(owner, &facts);
    }
    closedir(processes);
}

/* @facts is of @ancestor, of its group, or descends from one that is. */
static bool belongs(struct process_facts facts, int ancestor)
{
    for (int depth = 0; depth < ANCESTRY_DEPTH_MAX; depth++) {
        if (facts.pid == ancestor || facts.group == ancestor)
            return true;
        if (facts.parent <= 1 || !process_facts_read(facts.parent, &facts))
            return false;
    }
    return false;
}

bool process_belongs_to(int pid, int ancestor)
{
    struct process_facts facts;
    return ancestor > 0 && process_facts_read(pid, &facts) && belongs(facts, ancestor);
}

static void kill_if_belongs(void *owner, const struct process_facts *facts)
{
    const int *ancestor = owner;
    if (facts->pid != *ancestor && !facts->zombie && belongs(*facts, *ancestor))
        kill(facts->pid, SIGKILL);
}

void process_tree_kill(int ancestor)
{
    ENSURE(ancestor > 1);
    /* Descendants first: while the ancestor lives they can still be told from strangers. Stopped, it cannot put others
     * in their place, nor end by itself and have its death taken for a good one. */
    kill(-ancestor, SIGSTOP);
    process_each(kill_if_belongs, &ancestor);
    kill(-ancestor, SIGKILL);
    kill(ancestor, SIGKILL);
}

/* ---- TCP listeners ---- */

struct listeners {
    int port;
    unsigned long inodes[LISTENERS_MAX];
    size_t count;
};

static void listeners_read(struct listeners *listeners, const char *path)
{
    FILE *table = fopen(path, "re");
    if (table == NULL)
        return;
    char line[512];
    while (listeners->count < LISTENERS_MAX && fgets(line, sizeof(line), table) != NULL) {
        unsigned port;
        unsigned state;
        unsigned long inode;
        int read = sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*x:%*x %*x:%*x %*x %*u %*d %lu", &port,
                          &state, &inode);
        if (read == 3 && state == TCP_STATE_LISTEN && port == (unsigned) listeners->port)
            listeners->inodes[listeners->count++] = inode;
    }
    fclose(table);
}

static bool listeners_have(const struct listeners *listeners, const char *link)
{
    unsigned long inode;
    if (sscanf(link, "socket:[%lu]", &inode) != 1)
        return false;
    for (size_t i = 0; i < listeners->count; i++) {
        if (listeners->inodes[i] == inode)
            return true;
    }
    return false;
}

/* One of @pid's descriptors is one of @listeners. */
static bool process_holds(int pid, const struct listeners *listeners)
{
    char path[PROC_PATH_BYTES];
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *descriptors = opendir(path);
    if (descriptors == NULL)
        return false;
    bool holds = false;
    for (struct dirent *entry = readdir(descriptors); entry != NULL && !holds; entry = readdir(descriptors)) {
        char link[PROC_PATH_BYTES];
        ssize_t length = readlinkat(dirfd(descriptors), entry->d_name, link, sizeof(link) - 1);
        if (length > 0) {
            link[length] = '\0';
            holds = listeners_have(listeners, link);
        }
    }
    closedir(descriptors);
    return holds;
}

struct listener_search {
    const struct listeners *listeners;
    int ancestor;
    bool found;
};

static void look_for_listener(void *owner, const struct process_facts *facts)
{
    struct listener_search *search = owner;
    if (!search->found && belongs(*facts, search->ancestor))
        search->found = process_holds(facts->pid, search->listeners);
}

bool process_tree_listens(int ancestor, int port)
{
    struct listeners listeners = {.port = port};
    listeners_read(&listeners, "/proc/net/tcp");
    listeners_read(&listeners, "/proc/net/tcp6");
    if (ancestor <= 0 || listeners.count == 0)
        return false;
    struct listener_search search = {.listeners = &listeners, .ancestor = ancestor};
    process_each(look_for_listener, &search);
    return search.found;
}

/* ---- unix sockets ---- */

int process_behind_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof(address.sun_path))
        return 0;
    memcpy(address.sun_path, path, length);
    /* Non-blocking: a listener whose backlog is full must not hold the caller. */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return 0;
    struct ucred peer = {0};
    socklen_t peer_length = sizeof(peer);
    bool known = connect(fd, (const struct sockaddr *) &address, sizeof(address)) == 0 &&
                 getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_length) == 0;
    close(fd);
    return known ? peer.pid : 0;
}
