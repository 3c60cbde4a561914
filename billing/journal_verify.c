/* Whether a writer's records keep the journal's rules: sequence, one CLOSE for an OPEN, epochs and their SEALs. */
#include "billing/journal_verify.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

enum { HOUR_MS = 3600 * 1000 };

struct open_id {
    UT_hash_handle hh;
    char id[RECORD_ID_BYTES_MAX];
};

struct journal_verifier {
    bool is_whole;
    bool epoch_known; /* what the open epoch's number is */
    bool epoch_whole; /* all its CLOSEs were seen */
    bool epoch_used;
    uint64_t sequence, epoch;
    wall_ms epoch_began, epoch_ended; /* of its CLOSEs */
    struct open_id *open;
    struct journal_summary summary;
};

struct journal_verifier *journal_verifier_create(bool is_whole)
{
    struct journal_verifier *verifier = calloc(1, sizeof *verifier);
    if (verifier != NULL) {
        verifier->is_whole = verifier->epoch_known = verifier->epoch_whole = is_whole;
        verifier->epoch = 1;
    }
    return verifier;
}

void journal_verifier_destroy(struct journal_verifier **verifier_pointer)
{
    struct journal_verifier *verifier = *verifier_pointer;
    struct open_id *open, *next;
    *verifier_pointer = NULL;
    if (verifier == NULL)
        return;
    HASH_ITER(hh, verifier->open, open, next)
    {
        HASH_DEL(verifier->open, open);
        free(open);
    }
    free(verifier);
}

struct journal_summary journal_verifier_summary(const struct journal_verifier *verifier)
{
    struct journal_summary summary = verifier->summary;
    summary.still_open = HASH_COUNT(verifier->open);
    return summary;
}

static struct open_id *find(const struct journal_verifier *verifier, struct text id)
{
    struct open_id *found = NULL;
    HASH_FIND(hh, verifier->open, id.at, (unsigned) id.length, found);
    return found;
}

static const char *take_open(struct journal_verifier *verifier, const struct record *record)
{
    if (find(verifier, record->request_id) != NULL)
        return "a second OPEN of a request that is open";
    struct open_id *open = calloc(1, sizeof *open);
    if (open == NULL)
        return "not judged: memory is exhausted";
    if (record->request_id.length > 0)
        memcpy(open->id, record->request_id.at, record->request_id.length);
    HASH_ADD(hh, verifier->open, id, (unsigned) record->request_id.length, open);
    verifier->summary.opens++;
    return NULL;
}

static const char *take_close(struct journal_verifier *verifier, const struct record *record)
{
    struct open_id *open = find(verifier, record->request_id);
    if (open == NULL && verifier->is_whole)
        return "a CLOSE without an OPEN, or the second CLOSE of a request";
    if (open != NULL) {
        HASH_DEL(verifier->open, open);
        free(open);
    }
    if (verifier->epoch_known && record->epoch != verifier->epoch)
        return "a CLOSE of another epoch than the open one";
    if (!verifier->epoch_used)
        verifier->epoch_began = verifier->epoch_ended = record->when;
    if (record->when < verifier->epoch_began)
        verifier->epoch_began = record->when;
    if (record->when > verifier->epoch_ended)
        verifier->epoch_ended = record->when;
    verifier->epoch = record->epoch;
    verifier->epoch_known = verifier->epoch_used = true;
    verifier->summary.closes++;
    if (verifier->epoch_began / HOUR_MS != verifier->epoch_ended / HOUR_MS)
        return "a CLOSE in an epoch of another hour";
    return NULL;
}

static const char *take_seal(struct journal_verifier *verifier, const struct record *record)
{
    if (verifier->epoch_known && record->epoch != verifier->epoch)
        return "a SEAL of another epoch than the open one";
    if (verifier->epoch_whole && !verifier->epoch_used)
        return "a SEAL of an epoch without a CLOSE";
    if (record->epoch_began > record->when || record->epoch_began / HOUR_MS != record->when / HOUR_MS)
        return "a SEAL of an epoch that spans an hour";
    bool is_right = record->epoch_began == verifier->epoch_began && record->when == verifier->epoch_ended;
    if (verifier->epoch_whole && !is_right)
        return "a SEAL with other times than its CLOSEs";
    verifier->epoch = record->epoch + 1;
    verifier->epoch_known = verifier->epoch_whole = true;
    verifier->epoch_used = false;
    verifier->summary.seals++;
    return NULL;
}

static const char *take_finish(struct journal_verifier *verifier)
{
    if (verifier->epoch_used)
        return "a FINISH before the SEAL";
    verifier->summary.is_finished = true;
    return NULL;
}

const char *journal_verifier_take(struct journal_verifier *verifier, const struct record *record)
{
    bool is_first = verifier->summary.records == 0 && !verifier->is_whole;
    if (record->sequence != verifier->sequence + 1 && !is_first)
        return "a gap in the sequence";
    if (verifier->summary.is_finished)
        return "a record after the FINISH";
    verifier->sequence = record->sequence;
    verifier->summary.records++;
    switch (record->type) {
    case RECORD_OPEN:
        return take_open(verifier, record);
    case RECORD_PROGRESS:
        verifier->summary.progresses++;
        return NULL;
    case RECORD_CLOSE:
        return take_close(verifier, record);
    case RECORD_SEAL:
        return take_seal(verifier, record);
    case RECORD_FINISH:
        return take_finish(verifier);
    }
    return "a record of no known type";
}
