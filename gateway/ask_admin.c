/* The asking side of the admin listener. */
#include "gateway/ask_admin.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fetch.h"
#include "gateway/command.h"

enum {
    TOKEN_BYTES_MAX = 1024,
    QUESTION_TIMEOUT_MS = 10000,
    ORDER_TIMEOUT_MS = 60000, /* something is done before its answer */
    CONNECT_TIMEOUT_MS = 5000,
    HOST_BYTES_MAX = 256
};

/* One question on its way. */
struct asking {
    const struct admin_question *question;
    const char *token_file;
    bool has_token;
    mono_ms began;
    admin_answer_receiver *receive;
    void *owner;
    struct loop *loop;
    int exit_code;
};

static const struct listen_address *address_of(const struct admin_question *question)
{
    return &question->policy->admin_listen;
}

int ask_admin_not_understood(const struct admin_question *question)
{
    return command_fail(question->command, "%s does not answer like a gateway", address_of(question)->text);
}

int ask_admin_unexpected_status(const struct admin_question *question, int status)
{
    return command_fail(question->command, "unexpected answer from %s: HTTP status %d", address_of(question)->text,
                        status);
}

static int nobody(const struct admin_question *question)
{
    *question->absent = true;
    return COMMAND_FAILED;
}

static int timeout_of(const struct admin_question *question)
{
    return question->json_body != NULL ? ORDER_TIMEOUT_MS : QUESTION_TIMEOUT_MS;
}

static int no_answer(const struct asking *asking, const struct fetch_result *result)
{
    const struct admin_question *question = asking->question;
    const char *address = address_of(question)->text;
    int timeout_ms = timeout_of(question);
    if (result->connect_failed && question->absent != NULL)
        return nobody(question);
    if (!result->connect_failed && clock_mono_ms() - asking->began >= timeout_ms)
        return command_fail(question->command,
                            "%s: the gateway is there and gave no answer in %d s: it is stopped, or its machine is "
                            "too busy",
                            address, timeout_ms / 1000);
    if (!result->connect_failed)
        return command_fail(question->command, "%s: %s", address, result->error);
    return command_fail(question->command,
                        "no gateway answers at %s (%s): start it with `tollgate run --config %s`, or name the "
                        "configuration it runs with",
                        address, result->error, question->file);
}

static int no_token(const struct admin_question *question, const char *file, int error)
{
    return command_fail(question->command, "the admin token: %s: %s%s", file, strerror(error),
                        error == ENOENT ? " (the gateway makes it when it starts without one)" : "");
}

static void answered(void *owner, const struct fetch_result *result)
{
    struct asking *asking = owner;
    const struct admin_question *question = asking->question;
    if (result->status == 0)
        asking->exit_code = no_answer(asking, result);
    else if ((result->status == 401 || result->status == 403) && !asking->has_token)
        asking->exit_code = no_token(question, asking->token_file, ENOENT);
    else if (result->status == 401 || result->status == 403)
        asking->exit_code = command_fail(question->command, "the gateway at %s does not accept the token in %s",
                                         address_of(question)->text, asking->token_file);
    else
        asking->exit_code = asking->receive(asking->owner, question, result->status, result->body);
    loop_stop(asking->loop);
}

/* Where to connect: a listener on all addresses is asked at its loopback one. */
static void add_address(struct builder *to, const struct listen_address *address)
{
    if (address->kind == LISTEN_UNIX)
        builder_add_string(to, "http://localhost");
    else if (strchr(address->host, ':') != NULL)
        builder_format(to, "http://[%s]:%d", strcmp(address->host, "::") == 0 ? "::1" : address->host, address->port);
    else
        builder_format(to, "http://%s:%d", strcmp(address->host, "0.0.0.0") == 0 ? "127.0.0.1" : address->host,
                       address->port);
}

static int ask(struct asking *asking, const char *token)
{
    const struct admin_question *question = asking->question;
    const struct listen_address *address = address_of(question);
    char memory[HOST_BYTES_MAX + ADMIN_PATH_BYTES_MAX];
    struct builder url;
    builder_init(&url, memory, sizeof(memory));
    add_address(&url, address);
    builder_add_string(&url, question->path);
    if (address->kind == LISTEN_TCP && address->port == 0 && question->absent != NULL)
        return nobody(question);
    if (address->kind == LISTEN_TCP && address->port == 0)
        return command_fail(question->command, "admin.listen: %s: its port is another at every start; %s",
                            address->text, question->without_port);
    asking->began = clock_mono_ms();
    asking->loop = loop_create();
    struct fetcher *fetcher = asking->loop == NULL ? NULL : fetcher_create(asking->loop);
    const struct fetch_request request = {
        .url = builder_string(&url),
        .socket_path = address->kind == LISTEN_UNIX ? address->path : NULL,
        .bearer = asking->has_token ? token : NULL,
        .json_body = question->json_body,
        .timeout_ms = timeout_of(question),
        .connect_timeout_ms = CONNECT_TIMEOUT_MS,
    };
    if (fetcher != NULL && !url.overflowed && fetch_start(fetcher, &request, answered, asking) != NULL)
        loop_run(asking->loop);
    else
        asking->exit_code = command_fail(question->command, "memory or descriptors are exhausted");
    if (fetcher != NULL)
        fetcher_destroy(&fetcher);
    loop_destroy(asking->loop);
    return asking->exit_code;
}

/* The file's one line. False with errno. */
static bool read_token(const char *path, char ret_token[TOKEN_BYTES_MAX])
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    setvbuf(file, NULL, _IONBF, 0); /* no copy of the secret in a heap block that nobody wipes */
    char content[TOKEN_BYTES_MAX];
    size_t length = fread(content, 1, sizeof(content) - 1, file);
    bool failed = ferror(file) != 0;
    int error = errno;
    fclose(file);
    if (!failed) {
        while (length > 0 && strchr(" \t\r\n", content[length - 1]) != NULL)
            length--;
        text_copy(ret_token, TOKEN_BYTES_MAX, (struct text){content, length});
    }
    explicit_bzero(content, sizeof(content));
    errno = error;
    return !failed;
}

int ask_admin(const struct admin_question *question, admin_answer_receiver *receive, void *owner)
{
    char path[PATH_MAX];
    char token[TOKEN_BYTES_MAX];
    struct builder made;
    builder_init(&made, path, sizeof(path));
    builder_format(&made, "%s/admin.token", question->policy->state_dir);
    const char *given = question->policy->admin_token_file;
    struct asking asking = {
        .question = question,
        .token_file = given != NULL ? given : builder_string(&made),
        .receive = receive,
        .owner = owner,
        .exit_code = COMMAND_FAILED,
    };
    asking.has_token = read_token(asking.token_file, token);
    /* Who wants to know whether there is a gateway asks without it: it may not be needed to read. */
    if (!asking.has_token && (errno != ENOENT || question->absent == NULL))
        return no_token(question, asking.token_file, errno);
    int exit_code = ask(&asking, token);
    explicit_bzero(token, sizeof(token));
    return exit_code;
}
