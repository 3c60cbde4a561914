/* `tollgate reload`: ask the running gateway, over its admin listener, to read its configuration again. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/fetch.h"
#include "gateway/command.h"

static const char NAME[] = "reload";
enum { TOKEN_BYTES_MAX = 4096, TIMEOUT_MS = 60000, CONNECT_TIMEOUT_MS = 5000 };

/* One question and what became of it. */
struct question {
    const char *file; /* the configuration the address came from */
    const struct listen_address *address;
    const char *token_file;
    bool json;
    struct loop *loop;
    int exit_code;
};

static int answer_failed(const struct question *question, const struct fetch_result *result)
{
    if (result->connect_failed) {
        return command_fail(NAME,
                            "no gateway answers at %s (%s): start it with `tollgate run --config %s`, or name the "
                            "configuration it runs with",
                            question->address->text, result->error, question->file);
    }
    if (result->status == 0) {
        return command_fail(NAME, "%s: %s", question->address->text, result->error);
    }
    if (result->status == 401 || result->status == 403) {
        return command_fail(NAME, "the gateway at %s does not accept the token in %s", question->address->text,
                            question->token_file);
    }
    return command_fail(NAME, "unexpected answer from %s: HTTP status %d", question->address->text, result->status);
}

/* 200 {"result":"accepted"} or 422 {"result":"refused","problems":"lines"}. */
static int answer_given(const struct question *question, const struct fetch_result *result)
{
    json_t *json = json_loadb(result->body.at, result->body.length, JSON_REJECT_DUPLICATES, NULL);
    const char *word = json_string_value(json_object_get(json, "result"));
    bool accepted = result->status == 200 && word != NULL && strcmp(word, "accepted") == 0;
    bool refused = result->status == 422 && word != NULL && strcmp(word, "refused") == 0;
    int exit_code = accepted ? COMMAND_DONE : COMMAND_FAILED;
    const char *problems = json_string_value(json_object_get(json, "problems"));
    if (!accepted && !refused) {
        exit_code = command_fail(NAME, "%s does not answer like a gateway", question->address->text);
    } else if (question->json) {
        printf("%.*s\n", TEXT_ARGUMENTS(text_trimmed(result->body)));
    } else {
        fputs(problems != NULL ? problems : "", stderr); /* of an accepted file: its warnings */
        fprintf(accepted ? stdout : stderr, "%s: %s\n", question->file,
                accepted ? "reloaded" : "refused; the gateway keeps the configuration it has");
    }
    json_decref(json);
    return exit_code;
}

static void answered(void *owner, const struct fetch_result *result)
{
    struct question *question = owner;
    question->exit_code = result->status == 200 || result->status == 422 ? answer_given(question, result)
                                                                         : answer_failed(question, result);
    loop_stop(question->loop);
}

/* Where to connect: a listener on all addresses is asked at its loopback one. False when the port is chosen anew at
 * each start. */
static bool address_url(const struct listen_address *address, struct builder *to)
{
    if (address->kind == LISTEN_UNIX) {
        builder_add_string(to, "http://localhost");
    } else if (strchr(address->host, ':') != NULL) {
        builder_format(to, "http://[%s]:%d", strcmp(address->host, "::") == 0 ? "::1" : address->host, address->port);
    } else {
        builder_format(to, "http://%s:%d", strcmp(address->host, "0.0.0.0") == 0 ? "127.0.0.1" : address->host,
                       address->port);
    }
    builder_add_string(to, "/admin/v1/reload");
    return address->kind == LISTEN_UNIX || address->port != 0;
}

static int ask(struct question *question, const char *token)
{
    char memory[512];
    struct builder url;
    builder_init(&url, memory, sizeof(memory));
    if (!address_url(question->address, &url) || url.overflowed) {
        return command_fail(NAME, "admin.listen: %s: its port is another at every start; send SIGHUP instead",
                            question->address->text);
    }
    question->loop = loop_create();
    struct fetcher *fetcher = question->loop == NULL ? NULL : fetcher_create(question->loop);
    const struct fetch_request request = {
        .url = builder_string(&url),
        .socket_path = question->address->kind == LISTEN_UNIX ? question->address->path : NULL,
        .bearer = token,
        .json_body = "{}",
        .timeout_ms = TIMEOUT_MS,
        .connect_timeout_ms = CONNECT_TIMEOUT_MS,
    };
    if (fetcher != NULL && fetch_start(fetcher, &request, answered, question) != NULL) {
        loop_run(question->loop);
    } else {
        question->exit_code = command_fail(NAME, "memory or descriptors are exhausted");
    }
    if (fetcher != NULL) {
        fetcher_destroy(&fetcher);
    }
    loop_destroy(question->loop);
    return question->exit_code;
}

/* The file's one line. False with errno. */
static bool read_token(const char *path, char ret_token[TOKEN_BYTES_MAX])
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    setvbuf(file, NULL, _IONBF, 0); /* no copy of the secret in a heap block that nobody wipes */
    char content[TOKEN_BYTES_MAX];
    size_t length = fread(content, 1, sizeof(content) - 1, file);
    bool failed = ferror(file) != 0;
    int error = errno;
    fclose(file);
    if (!failed) {
        while (length > 0 && strchr(" \t\r\n", content[length - 1]) != NULL) {
            length--;
        }
        text_copy(ret_token, TOKEN_BYTES_MAX, (struct text){content, length});
    }
    explicit_bzero(content, sizeof(content));
    errno = error;
    return !failed;
}

static int reload(const struct policy *policy, const char *file, bool json)
{
    char path[PATH_MAX];
    char token[TOKEN_BYTES_MAX];
    struct builder made;
    builder_init(&made, path, sizeof(path));
    builder_format(&made, "%s/admin.token", policy->state_dir);
    struct question question = {
        .file = file,
        .address = &policy->admin_listen,
        .token_file = policy->admin_token_file != NULL ? policy->admin_token_file : builder_string(&made),
        .json = json,
        .exit_code = COMMAND_FAILED,
    };
    if (!read_token(question.token_file, token)) {
        return command_fail(NAME, "the admin token: %s: %s%s", question.token_file, strerror(errno),
                            errno == ENOENT ? " (the gateway makes it at its first start)" : "");
    }
    int exit_code = ask(&question, token);
    explicit_bzero(token, sizeof(token));
    return exit_code;
}

int command_reload(int argc, char **argv)
{
    const char *config = NULL;
    bool json = false;
    const struct command_option options[] = {COMMAND_OPTION_CONFIG(&config), COMMAND_OPTION_JSON(&json)};
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "[--config FILE] [--json]",
        .about = "Make the running gateway read its configuration again, and say what it thinks of it. A bad\n"
                 "configuration changes nothing. FILE says where the gateway's admin listener and its token\n"
                 "are; the gateway reads the file that it was started with.\n\n"
                 "Exit codes: 0 accepted, 1 refused or not asked, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code)) {
        return exit_code;
    }
    const char *file = command_config_file(NAME, config);
    const struct policy *policy = file == NULL ? NULL : command_load(NAME, file);
    if (policy == NULL) {
        return COMMAND_FAILED;
    }
    exit_code = reload(policy, file, json);
    policy_drop(&policy);
    return exit_code;
}
