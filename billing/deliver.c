/* The scheduler of one provider: rows in the order in which they were added, each in a lane. */
#include "billing/deliver.h"

#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

enum { DOUBLINGS_MAX = 20 };

struct waiting_row {
    char id[ROW_ID_CHARACTERS + 1];
    uint64_t lane;      /* a hash: two lanes of one hash only wait for each other */
    wall_ms known_from; /* no identifier of it can have reached the provider before */
    mono_ms not_before;
    unsigned failures;
    unsigned generation;
    bool in_flight;
};

struct delivery {
    const struct provider_capabilities *can;
    uint64_t random;
    struct waiting_row rows[DELIVERY_ROWS_MAX];
    size_t count;
    size_t in_flight;
    mono_ms not_before; /* of any row */
    unsigned failures;  /* in a row, of any row: > 0: one call at a time */
    unsigned holds;     /* answers in a row that say that nothing goes; > 0: one call at a time probes */
};

struct delivery *delivery_create(const struct provider_capabilities *can, uint64_t seed)
{
    struct delivery *delivery = calloc(1, sizeof *delivery);
    if (delivery == NULL)
        return NULL;
    delivery->can = can;
    delivery->random = seed;
    delivery->not_before = INT64_MIN;
    return delivery;
}

void delivery_destroy(struct delivery **delivery)
{
    free(*delivery);
    *delivery = NULL;
}

/* ---- rows ---- */

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

bool delivery_add(struct delivery *delivery, const char *id, struct text lane, wall_ms ended)
{
    if (find(delivery, id) != NULL)
        return true;
    if (delivery->count == DELIVERY_ROWS_MAX)
        return false;
    struct waiting_row *row = &delivery->rows[delivery->count++];
    *row = (struct waiting_row){.lane = hash_of(lane), .known_from = ended, .not_before = INT64_MIN};
    text_copy(row->id, sizeof row->id, text_of(id));
    return true;
}

static void forget(struct delivery *delivery, struct waiting_row *row)
{
    size_t place = (size_t) (row - delivery->rows);
    memmove(row, row + 1, (delivery->count - place - 1) * sizeof *row);
    delivery->count--;
}

size_t delivery_count(const struct delivery *delivery)
{
    return delivery->count;
}

/* ---- times ---- */

static uint64_t next_random(struct delivery *delivery)
{
    uint64_t mixed = delivery->random += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
}

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

static bool lane_is_busy(const struct delivery *delivery, uint64_t lane)
{
    for (size_t i = 0; delivery->can->one_at_a_time && delivery->in_flight > 0 && i < delivery->count; i++) {
        if (delivery->rows[i].in_flight && delivery->rows[i].lane == lane)
            return true;
    }
    return false;
}

static enum delivery_step step_of(const struct delivery *delivery, const struct waiting_row *row, wall_ms now)
{
    const struct provider_capabilities *can = delivery->can;
    if (can->dedup_window_ms == PROVIDER_FOREVER || now - row->known_from < can->dedup_window_ms - DELIVERY_MARGIN_MS)
        return DELIVERY_SEND;
    return can->can_tell ? DELIVERY_RECONCILE : DELIVERY_HOLD;
}

static struct delivery_turn take(struct delivery *delivery, struct waiting_row *row, struct delivery_now now)
{
    struct delivery_turn turn = {.step = step_of(delivery, row, now.wall), .generation = row->generation};
    memcpy(turn.id, row->id, sizeof turn.id);
    if (turn.step == DELIVERY_HOLD) {
        forget(delivery, row);
        return turn;
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
        if (row->in_flight || lane_is_busy(delivery, row->lane))
            continue;
        if (row->not_before <= now.mono)
            return take(delivery, row, now);
        earliest = row->not_before < earliest ? row->not_before : earliest;
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
    delivery->failures++;
    int64_t wait = backoff_ms(delivery, row->failures, DELIVERY_BACKOFF_FIRST_MS, DELIVERY_BACKOFF_MAX_MS);
    int64_t all_wait = backoff_ms(delivery, delivery->failures, DELIVERY_BACKOFF_FIRST_MS, DELIVERY_BACKOFF_MAX_MS);
    row->not_before = now + later_of(wait, after_ms);
    delivery->not_before = later_of(delivery->not_before, now + later_of(all_wait, after_ms));
}

static void hold_all(struct delivery *delivery, mono_ms now)
{
    delivery->holds++;
    int64_t wait = backoff_ms(delivery, delivery->holds, DELIVERY_PROBE_FIRST_MS, DELIVERY_PROBE_MAX_MS);
    delivery->not_before = later_of(delivery->not_before, now + wait);
}

void delivery_told(struct delivery *delivery, const char *id, const struct provider_outcome *outcome,
                   struct delivery_now now)
{
    struct waiting_row *row = land(delivery, id);
    if (outcome->verdict != VERDICT_HOLD_ALL)
        delivery->holds = 0;
    switch (outcome->verdict) {
    case VERDICT_STORED:
        row->generation++;
        put_off(delivery, row, outcome->after_ms, now.mono);
        return;
    case VERDICT_RETRY:
    case VERDICT_LATER:
        put_off(delivery, row, outcome->after_ms, now.mono);
        return;
    case VERDICT_HOLD_ALL:
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
    struct waiting_row *row = land(delivery, id);
    switch (found) {
    case FOUND_TAKEN:
    case FOUND_UNCLEAR:
        forget(delivery, row);
        return;
    case FOUND_NOT_TAKEN:
        row->known_from = now.wall; /* it is sent for the first time again */
        return;
    case FOUND_NO_ANSWER:
        put_off(delivery, row, 0, now.mono);
        return;
    }
}

void delivery_hurry(struct delivery *delivery)
{
    delivery->not_before = INT64_MIN;
    delivery->failures = delivery->holds = 0;
    for (size_t i = 0; i < delivery->count; i++) {
        delivery->rows[i].not_before = INT64_MIN;
        delivery->rows[i].failures = 0;
    }
}
