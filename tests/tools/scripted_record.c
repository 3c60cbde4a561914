#include "scripted_record.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int count_fd = -1;
static struct string seen[SEEN_MAX];
static size_t seen_count;

void count_open(const char *path)
{
    if (path == NULL)
        return;
    count_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (count_fd < 0) {
        perror(path);
        exit(1);
    }
}

void count_add(const struct request *request, long serial, const char *event, long tokens)
{
    static const char *const endpoints[] = {"other", "completions", "chat", "embeddings"};
    if (count_fd < 0)
        return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct string line = {0};
    string_add_string(&line, "{\"id\":");
    string_add_json(&line, request->id, strlen(request->id));
    string_print(&line, ",\"pid\":%d,\"serial\":%ld,\"endpoint\":\"%s\",\"event\":\"%s\",\"tokens\":%ld,\"at_ms\":%lld",
                 (int) getpid(), serial, endpoints[request->route], event, tokens,
                 now.tv_sec * 1000LL + now.tv_nsec / 1000000);
    if (strcmp(event, "token") != 0) {
        string_print(&line, ",\"choices\":%ld,\"tag\":", request->choices);
        string_add_json(&line, request->tag, strlen(request->tag));
    }
    string_add_string(&line, "}\n");
    if (write(count_fd, line.bytes, line.length) != (ssize_t) line.length)
        abort();
    string_free(&line);
}

void seen_add(const struct request *request, long connection)
{
    struct string *entry = &seen[seen_count++ % SEEN_MAX];
    string_clear(entry);
    string_print(entry, "{\"connection\":%ld,\"method\":\"%s\",\"path\":", connection, request->method);
    string_add_json(entry, request->path, strlen(request->path));
    string_print(entry, ",\"http\":\"%s\",\"headers\":", request->http10 ? "1.0" : "1.1");
    string_add(entry, request->headers.bytes, request->headers.length);
    string_add_string(entry, ",\"body\":");
    string_add_json(entry, request->body.bytes, request->body.length);
    string_add_string(entry, "}");
}

void seen_write(struct string *to)
{
    size_t oldest = seen_count > SEEN_MAX ? seen_count - SEEN_MAX : 0;
    string_add_string(to, "{\"requests\":[");
    for (size_t i = oldest; i < seen_count; i++) {
        string_add_string(to, i == oldest ? "" : ",");
        string_add(to, seen[i % SEEN_MAX].bytes, seen[i % SEEN_MAX].length);
    }
    string_add_string(to, "]}");
}
