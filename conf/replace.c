/* Which policy may follow which without a restart. */
#include <string.h>

#include "base/text.h"
#include "conf/load.h"
#include "conf/problems.h"
#include "conf/snapshot.h"
#include "conf/value.h"

enum { NUMBER_TEXT_BYTES = DURATION_TEXT_BYTES };

struct restart_check {
    const struct policy *next;
    struct problem_list *problems;
    bool allowed;
};

static void check_text(struct restart_check *check, enum setting_id id, const char *now, const char *wanted)
{
    if (text_equal(text_of(now), text_of(wanted)))
        return;
    const struct written_at *at = &((const struct snapshot *) (const void *) check->next)->written[id];
    struct place place = {check->next->file, at->line > 0 ? at->line : 1, at->line > 0 ? at->column : 1};
    problem_error(check->problems, place, "%s needs a restart: it is %s now and cannot become %s by a reload",
                  SETTINGS[id].path, now != NULL ? now : "not set", wanted != NULL ? wanted : "not set");
    check->allowed = false;
}

static const char *number_text(int number, char to[NUMBER_TEXT_BYTES])
{
    struct builder builder;
    builder_init(&builder, to, NUMBER_TEXT_BYTES);
    builder_format(&builder, "%d", number);
    return builder_string(&builder);
}

bool policy_may_replace(const struct policy *current, const struct policy *next, struct problem_list *problems)
{
    struct restart_check check = {next, problems, true};
    char now[NUMBER_TEXT_BYTES], wanted[NUMBER_TEXT_BYTES];
    check_text(&check, SETTING_LISTEN, current->listen.text, next->listen.text);
    check_text(&check, SETTING_ADMIN_LISTEN, current->admin_listen.text, next->admin_listen.text);
    check_text(&check, SETTING_ADMIN_TOKEN_FILE, current->admin_token_file, next->admin_token_file);
    check_text(&check, SETTING_STATE_DIR, current->state_dir, next->state_dir);
    if (check.allowed) /* its default depends on state_dir */
        check_text(&check, SETTING_RUNTIME_DIR, current->runtime_dir, next->runtime_dir);
    check_text(&check, SETTING_REDIS_URL, current->redis.text, next->redis.text);
    check_text(&check, SETTING_BILLING_EPOCH, value_duration_text(current->billing.epoch_ms, now),
               value_duration_text(next->billing.epoch_ms, wanted));
    check_text(&check, SETTING_BILLING_SYNC, BILLING_SYNC_NAMES[current->billing.sync],
               BILLING_SYNC_NAMES[next->billing.sync]);
    check_text(&check, SETTING_WORKERS, number_text(current->workers, now), number_text(next->workers, wanted));
    return check.allowed;
}
