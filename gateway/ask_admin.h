/* One question of the command line to a running gateway, over its admin listener. For processes that end after it. */
#ifndef GATEWAY_ASK_ADMIN_H
#define GATEWAY_ASK_ADMIN_H

#include <stdbool.h>

#include "base/text.h"
#include "conf/policy.h"

enum { ADMIN_PATH_BYTES_MAX = 4096 };

struct admin_question {
    const char *command;         /* who asks, for complaints */
    const char *file;            /* the configuration as the user named it */
    const struct policy *policy; /* loaded from it: where the listener and the token are */
    const char *path;            /* with the query; shorter than ADMIN_PATH_BYTES_MAX */
    const char *json_body;       /* POST when not NULL, else GET */
    const char *without_port;    /* what to do where admin.listen takes any free port: a clause */
    bool *absent;                /* NULL: that nobody answers is said. Else it is not, and this becomes true */
};

/* An answer other than 401 and 403; @body is valid during the call. Returns the exit code of the command. */
typedef int admin_answer_receiver(void *owner, const struct admin_question *question, int status, struct text body);

/* Ask and wait: ten seconds at most for a GET, a minute for a POST. The receiver's exit code, or COMMAND_FAILED (said
 * on standard error) when there is no token, nobody answers (but for @absent) or the token is not accepted. */
int ask_admin(const struct admin_question *question, admin_answer_receiver *receive, void *owner);
/* For receivers: the answer is none that a gateway gives. Says so; returns COMMAND_FAILED. */
int ask_admin_not_understood(const struct admin_question *question);
int ask_admin_unexpected_status(const struct admin_question *question, int status);

#endif
