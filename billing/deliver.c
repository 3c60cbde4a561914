/* The scheduler of one provider: rows in the order in which they were added, each in a lane. */
#include "billing/deliver.h"

#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

#define MONO_UNKNOWN INT64_MAX

enum { DOUBLINGS_MAX = 20 };

struct waiting_row {
    char id[ROW_ID_CHARACTERS + 1];
    uint64_t lane;     /* a hash: two lanes of one hash only wait for each other */
    wall_ms sent;      /* since when it may have arrived; 0 = it has not */
    mono_ms sent_mono; /* the same; MONO_UNKNOWN when it was before this delivery */
    mono_ms not_before;
    unsigned failures;
    unsigned generation;
    bool in_flight;
    bool is_unclear; /* a try may have arrived, and no answer said so */
};

struct delivery {
    const struct provider_capabilities *can;
    uint64_t random;
    struct waiting_row rows[DELIVERY_ROWS_MAX];
    size_t count;
    size_t in_flight;
    mono_ms not_before;    /* of any row */
    mono_ms trouble_until; /* what fails before it was under way when the trouble began: it is no more of it */
    unsigned failures;     /* in a row, of any row: > 0: one call at a time */
    unsigned holds;        /* answers in a row that say that nothing goes; > 0: one call at a time probes */
};

struct delivery *delivery_create(const struct provider_capabilities *can, uint64_t seed)
{
    struct delivery *delivery = calloc(1, sizeof *delivery);
    if (delivery == NULL)
        return NULL;
    delivery->can = can;
    delivery->random = seed;
    delivery->not_before = delivery->trouble_until = INT64_MIN;
    return delivery;
}

void delivery_destroy(struct delivery **delivery)
{
    free(*delivery);
    *delivery = NULL;
}

/* ---- rows ---- */

static uint64_t next_random(struct delivery *delivery)
{
    uint64_t mixed = delivery->random += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
}

static struct waiting_row *find(struct delivery *delivery, const char *id)
{
    for (size_t i = 0; i < delivery->count; i++) {
        if (strcmp(delivery->rows[i].id, id) == 0)
            return &delivery->rows[i];
    }
    return NULL;
}

static uint64_t hash_of(struct text name)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < name.length; i++)
        hash = (hash ^ (uint8_t) name.at[i]) * 0x100000001b3;
    return hash;
}

bool delivery_add(struct delivery *delivery, const char *id, struct text lane, wall_ms sent)
{
    if (find(delivery, id) != NULL)
        return true;
    if (delivery->count == DELIVERY_ROWS_MAX)
        return false;
    struct waiting_row *row = &delivery->rows[delivery->count++];
    *row =
        (struct waiting_row){.lane = hash_of(lane), .sent = sent, .sent_mono = MONO_UNKNOWN, .not_before = INT64_MIN};
    if (sent != 0) {
        row->is_unclear = true;
        row->generation = (unsigned) next_random(delivery) | 1;
    }
    text_copy(row->id, sizeof row->id, text_of(id));
    return true;
}

static void forget(struct delivery *delivery, struct waiting_row *row)
{
    size_t place = (size_t) (row - delivery->rows);
    memmove(row, row + 1, (delivery->count - place - 1) * sizeof *row);
    delivery->count--;
}

void delivery_drop(struct delivery *delivery, const char *id)
{
    struct waiting_row *row = find(delivery, id);
    if (row == NULL)
        return;
    if (row->in_flight)
        delivery->in_flight--;
    forget(delivery, row);
}

size_t delivery_count(const struct delivery *delivery)
{
    return delivery->count;
}

/* ---- times ---- */

/* Doubled with each failure but the first; half of it by chance, so that replicas do not come together. */
static int64_t backoff_ms(struct delivery *delivery, unsigned failures, int64_t first_ms, int64_t most_ms)
{
    unsigned doublings = failures - 1 < DOUBLINGS_MAX ? failures - 1 : DOUBLINGS_MAX;
    int64_t whole = first_ms << doublings;
    whole = whole < most_ms ? whole : most_ms;
    return whole / 2 + (int64_t) (next_random(delivery) % (uint64_t) (whole / 2 + 1));
}

static int64_t later_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- the choice ---- */

/* Another row of its lane is in flight, or may have arrived: that one is cleared up first. */
static bool is_blocked(const struct delivery *delivery, const struct waiting_row *row)
{
    for (size_t i = 0; delivery->can->one_at_a_time && i < delivery->count; i++) {
        const struct waiting_row *other = &delivery->rows[i];
        if (other->lane != row->lane || other == row)
            continue;
        if (other->in_flight || (other->is_unclear && (!row->is_unclear || other < row)))
            return true;
    }
    return false;
}

/* How long ago it may have arrived, by the clock that says more: one stands still while the machine sleeps, the other
 * can be set back. A wall clock that was set back behind the sending knows nothing. */
static int64_t age_ms(const struct waiting_row *row, struct delivery_now now)
{
    if (row->sent == 0)
        return 0;
    int64_t by_wall = now.wall < row->sent - DELIVERY_MARGIN_MS ? INT64_MAX : now.wall - row->sent;
    int64_t by_mono = row->sent_mono == MONO_UNKNOWN ? 0 : now.mono - row->sent_mono;
    return later_of(by_wall, by_mono);
}

static enum delivery_step step_of(const struct delivery *delivery, const struct waiting_row *row,
                                  struct delivery_now now)
{
    const struct provider_capabilities *can = delivery->can;
    if (can->dedup_window_ms == PROVIDER_FOREVER || age_ms(row, now) < can->dedup_window_ms - DELIVERY_MARGIN_MS)
        return DELIVERY_SEND;
    return can->can_tell ? DELIVERY_RECONCILE : DELIVERY_HOLD;
}

static struct delivery_turn take(struct delivery *delivery, struct waiting_row *row, struct delivery_now now)
{
    struct delivery_turn turn = {.step = step_of(delivery, row, now), .generation = row->generation};
    memcpy(turn.id, row->id, sizeof turn.id);
    if (turn.step == DELIVERY_SEND && row->sent == 0) {
        row->sent = now.wall;
        row->sent_mono = now.mono;
    }
    row->in_flight = true;
    delivery->in_flight++;
    delivery->not_before = later_of(delivery->not_before, now.mono + delivery->can->call_gap_ms);
    return turn;
}

static struct delivery_turn wait_until(mono_ms when, mono_ms now)
{
    return (struct delivery_turn){.step = DELIVERY_WAIT, .wait_ms = when == INT64_MAX ? -1 : when - now};
}

struct delivery_turn delivery_next(struct delivery *delivery, struct delivery_now now)
{
    size_t most = delivery->holds > 0 || delivery->failures > 0 ? 1 : DELIVERY_IN_FLIGHT_MAX;
    if (delivery->in_flight >= most || delivery->count == delivery->in_flight)
        return wait_until(INT64_MAX, now.mono);
    if (delivery->not_before > now.mono)
        return wait_until(delivery->not_before, now.mono);
    mono_ms earliest = INT64_MAX;
    for (size_t i = 0; i < delivery->count; i++) {
        struct waiting_row *row = &delivery->rows[i];
        if (row->in_flight)
            continue;
        if (row->not_before > now.mono)
            earliest = row->not_before < earliest ? row->not_before : earliest;
        else if (!is_blocked(delivery, row))
            return take(delivery, row, now);
    }
    return wait_until(earliest, now.mono);
}

/* ---- what came of it ---- */

static struct waiting_row *land(struct delivery *delivery, const char *id)
{
    struct waiting_row *row = find(delivery, id);
    ENSURE(row != NULL && row->in_flight);
    row->in_flight = false;
    delivery->in_flight--;
    return row;
}

/* Another try, @after_ms at least. Its trouble is hardly its own: all wait a little, then one at a time is tried until
 * one is answered. */
static void put_off(struct delivery *delivery, struct waiting_row *row, int64_t after_ms, mono_ms now)
{
    row->failures++;
    if (delivery->failures == 0 || now >= delivery->trouble_until)
        delivery->failures++;
    int64_t wait = backoff_ms(delivery, row->failures, DELIVERY_BACKOFF_FIRST_MS, DELIVERY_BACKOFF_MAX_MS);
    int64_t all_wait = backoff_ms(delivery, delivery->failures, DELIVERY_BACKOFF_FIRST_MS, DELIVERY_BACKOFF_MAX_MS);
    row->not_before = now + later_of(wait, after_ms);
    delivery->not_before = later_of(delivery->not_before, now + later_of(all_wait, after_ms));
    delivery->trouble_until = delivery->not_before;
}

static void hold_all(struct delivery *delivery, mono_ms now)
{
    if (delivery->holds == 0 || now >= delivery->trouble_until)
        delivery->holds++;
    int64_t wait = backoff_ms(delivery, delivery->holds, DELIVERY_PROBE_FIRST_MS, DELIVERY_PROBE_MAX_MS);
    delivery->not_before = later_of(delivery->not_before, now + wait);
    delivery->trouble_until = delivery->not_before;
}

/* The last try has not arrived. */
static void forget_try(struct waiting_row *row)
{
    if (!row->is_unclear)
        row->sent = 0;
}

void delivery_told(struct delivery *delivery, const char *id, const struct provider_outcome *outcome,
                   struct delivery_now now)
{
    struct waiting_row *row = land(delivery, id);
    if (outcome->verdict != VERDICT_HOLD_ALL)
        delivery->holds = 0;
    switch (outcome->verdict) {
    case VERDICT_STORED:
        row->is_unclear = true;
        row->generation++;
        put_off(delivery, row, outcome->after_ms, now.mono);
        return;
    case VERDICT_RETRY:
        row->is_unclear = true;
        put_off(delivery, row, outcome->after_ms, now.mono);
        return;
    case VERDICT_LATER:
        forget_try(row);
        put_off(delivery, row, outcome->after_ms, now.mono);
        return;
    case VERDICT_HOLD_ALL:
        forget_try(row);
        hold_all(delivery, now.mono);
        return;
    case VERDICT_ACKED:
    case VERDICT_DUPLICATE:
    case VERDICT_REJECTED:
        break;
    }
    delivery->failures = 0;
    forget(delivery, row);
}

void delivery_reconciled(struct delivery *delivery, const char *id, enum delivery_found found, struct delivery_now now)
{
    struct waiting_row *row = find(delivery, id);
    if (row == NULL)
        return;
    if (row->in_flight)
        land(delivery, id);
    if (found != FOUND_NO_ANSWER)
        delivery->failures = 0;
    switch (found) {
    case FOUND_TAKEN:
    case FOUND_UNCLEAR:
        forget(delivery, row);
        return;
    case FOUND_NOT_TAKEN:
        row->is_unclear = false;
        row->sent = 0;
        row->generation++;
        return;
    case FOUND_NO_ANSWER:
        put_off(delivery, row, 0, now.mono);
        return;
    }
}

void delivery_hurry(struct delivery *delivery)
{
    delivery->not_before = delivery->trouble_until = INT64_MIN;
    delivery->failures = delivery->holds = 0;
    for (size_t i = 0; i < delivery->count; i++) {
        delivery->rows[i].not_before = INT64_MIN;
        delivery->rows[i].failures = 0;
    }
}
