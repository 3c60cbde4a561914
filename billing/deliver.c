/* The scheduler of one provider: rows in the order in which they were added, each in a lane. A row keeps its place in
 * memory, and is found there by its id and by its lane. */
#include "billing/deliver.h"

#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

#define MONO_UNKNOWN INT64_MAX

#define NO_PLACE UINT16_MAX

enum { DOUBLINGS_MAX = 20, BUCKET_COUNT = 1 << 14 };

enum chain { BY_ID, BY_LANE, CHAIN_COUNT };

struct waiting_row {
    char id[ROW_ID_CHARACTERS + 1];
    uint64_t hashes[CHAIN_COUNT]; /* two lanes of one hash only wait for each other */
    uint16_t next[CHAIN_COUNT];   /* the place of the next younger row of the bucket, or NO_PLACE */
    uint64_t number;              /* the older, the smaller */
    wall_ms sent;                 /* since when it may have arrived; 0 = it has not */
    mono_ms sent_mono;            /* the same; MONO_UNKNOWN when it was before this delivery */
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
    uint16_t order[DELIVERY_ROWS_MAX]; /* the places of @count rows, the oldest first; then the free places */
    size_t count;
    uint16_t first[CHAIN_COUNT][BUCKET_COUNT]; /* the place of each bucket's oldest row, or NO_PLACE */
    uint64_t added, forgotten;
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
    memset(delivery->first, 0xff, sizeof delivery->first);
    for (size_t i = 0; i < DELIVERY_ROWS_MAX; i++)
        delivery->order[i] = (uint16_t) i;
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

static uint64_t hash_of(struct text name)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < name.length; i++)
        hash = (hash ^ (uint8_t) name.at[i]) * 0x100000001b3;
    return hash;
}

/* The oldest row of the bucket of @hash; NULL when it is empty. */
static const struct waiting_row *first_of(const struct delivery *delivery, enum chain chain, uint64_t hash)
{
    uint16_t place = delivery->first[chain][hash % BUCKET_COUNT];
    return place == NO_PLACE ? NULL : &delivery->rows[place];
}

static const struct waiting_row *next_of(const struct delivery *delivery, enum chain chain,
                                         const struct waiting_row *row)
{
    return row->next[chain] == NO_PLACE ? NULL : &delivery->rows[row->next[chain]];
}

static struct waiting_row *find(struct delivery *delivery, const char *id)
{
    const struct waiting_row *row = first_of(delivery, BY_ID, hash_of(text_of(id)));
    while (row != NULL && strcmp(row->id, id) != 0)
        row = next_of(delivery, BY_ID, row);
    return row == NULL ? NULL : &delivery->rows[row - delivery->rows];
}

static size_t count_lane(const struct delivery *delivery, uint64_t lane)
{
    size_t count = 0;
    for (const struct waiting_row *row = first_of(delivery, BY_LANE, lane); row != NULL;
         row = next_of(delivery, BY_LANE, row))
        count += row->hashes[BY_LANE] == lane;
    return count;
}

/* Where the place @wanted is written in its bucket; NO_PLACE: where the next one will be. */
static uint16_t *link_to(struct delivery *delivery, enum chain chain, uint64_t hash, uint16_t wanted)
{
    uint16_t *link = &delivery->first[chain][hash % BUCKET_COUNT];
    while (*link != wanted)
        link = &delivery->rows[*link].next[chain];
    return link;
}

bool delivery_add(struct delivery *delivery, const char *id, struct text lane, wall_ms sent)
{
    if (find(delivery, id) != NULL)
        return true;
    uint64_t lane_hash = hash_of(lane);
    size_t lane_most = sent == 0 ? DELIVERY_LANE_ROWS_MAX : 2 * DELIVERY_LANE_ROWS_MAX;
    if (delivery->count == DELIVERY_ROWS_MAX || count_lane(delivery, lane_hash) >= lane_most)
        return false;
    uint16_t place = delivery->order[delivery->count++];
    struct waiting_row *row = &delivery->rows[place];
    *row = (struct waiting_row){.hashes = {[BY_ID] = hash_of(text_of(id)), [BY_LANE] = lane_hash},
                                .next = {NO_PLACE, NO_PLACE},
                                .number = delivery->added++,
                                .sent = sent,
                                .sent_mono = MONO_UNKNOWN,
                                .not_before = INT64_MIN};
    for (enum chain chain = 0; chain < CHAIN_COUNT; chain++)
        *link_to(delivery, chain, row->hashes[chain], NO_PLACE) = place;
    if (sent != 0) {
        row->is_unclear = true;
        row->generation = (unsigned) next_random(delivery) | 1;
    }
    text_copy(row->id, sizeof row->id, text_of(id));
    return true;
}

static void forget(struct delivery *delivery, struct waiting_row *row)
{
    uint16_t place = (uint16_t) (row - delivery->rows), *at = delivery->order;
    for (enum chain chain = 0; chain < CHAIN_COUNT; chain++)
        *link_to(delivery, chain, row->hashes[chain], place) = row->next[chain];
    while (*at != place)
        at++;
    delivery->count--;
    memmove(at, at + 1, (size_t) (delivery->order + delivery->count - at) * sizeof *at);
    delivery->order[delivery->count] = place;
    delivery->forgotten++;
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

uint64_t delivery_forgotten(const struct delivery *delivery)
{
    return delivery->forgotten;
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
    uint64_t lane = row->hashes[BY_LANE];
    const struct waiting_row *other = delivery->can->one_at_a_time ? first_of(delivery, BY_LANE, lane) : NULL;
    for (; other != NULL; other = next_of(delivery, BY_LANE, other)) {
        if (other->hashes[BY_LANE] != lane || other == row)
            continue;
        if (other->in_flight || (other->is_unclear && (!row->is_unclear || other->number < row->number)))
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
        struct waiting_row *row = &delivery->rows[delivery->order[i]];
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
        row->generation += outcome->next_key;
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

void delivery_wait(struct delivery *delivery, const char *id, int64_t after_ms, struct delivery_now now)
{
    struct waiting_row *row = land(delivery, id);
    forget_try(row);
    row->not_before = now.mono + after_ms;
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
        struct waiting_row *row = &delivery->rows[delivery->order[i]];
        row->not_before = INT64_MIN;
        row->failures = 0;
    }
}
