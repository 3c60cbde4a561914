/* What the journals have that no ledger file has. */
#include "billing/completeness.h"

#include <errno.h>
#include <string.h>

#include "billing/resum.h"

struct looking {
    const struct completeness_question *question;
    struct completeness found;
};

/* Asked after the journal was read: a file that came meanwhile counts. */
static bool is_in_ledger(const struct looking *looking, const struct ledger_name *name, bool *ret)
{
    struct ledger_head head;
    *ret = ledger_read(looking->question->ledger_directory, name, &head, NULL);
    return *ret || errno == ENOENT;
}

/* An epoch lies within one hour, and so on one side of a full one. */
static bool look_at_epoch(void *owner, const struct resum_epoch *epoch)
{
    struct looking *looking = owner;
    bool is_there = true;
    if (cells_count(epoch->cells) == 0 || epoch->head.began >= looking->question->to)
        return true;
    if (!is_in_ledger(looking, &epoch->head.name, &is_there))
        return false;
    looking->found.missing_epochs += !is_there && epoch->is_sealed;
    looking->found.open_epochs += !is_there && !epoch->is_sealed;
    return true;
}

/* If its writer dies now, recovery closes it with the time of its last sign; if not, its CLOSE comes later. */
static bool look_at_request(void *owner, const char *writer, wall_ms last_sign)
{
    struct looking *looking = owner;
    (void) writer;
    looking->found.open_requests += last_sign < looking->question->to;
    return true;
}

static bool look_at_damage(void *owner, const char *writer)
{
    struct looking *looking = owner;
    looking->found.damaged_journals++;
    text_copy(looking->found.damaged_writer, sizeof looking->found.damaged_writer, text_of(writer));
    return true;
}

bool completeness_read(const struct completeness_question *question, struct completeness *ret)
{
    struct looking looking = {.question = question};
    const struct resum_visitor visitor = {
        .owner = &looking, .epoch = look_at_epoch, .open_request = look_at_request, .damaged = look_at_damage};
    if (!resum(question->journal_directory, &visitor))
        return false;
    struct completeness *found = &looking.found;
    found->is_future = question->now < question->to;
    found->is_too_old = question->from < question->now - question->retention_ms;
    found->is_complete = !found->is_future && !found->is_too_old && found->open_requests == 0 &&
                         found->open_epochs == 0 && found->missing_epochs == 0 && found->damaged_journals == 0;
    *ret = *found;
    return true;
}
