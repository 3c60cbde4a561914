#include "tests/lib/limiter_room.h"

#include <string.h>

#include "tests/lib/unit.h"

const struct limit_subject SUBJECT = {"acme", "ci", "", "gemma"};
const struct limit_subject ALICE = {"acme", "ci", "alice", "gemma"};

void room_apply(struct room *room)
{
    assert_true(limiter_apply(room->limiter, &room->policy, room->now));
}

void room_open(struct room *room)
{
    *room = (struct room){.share = {.model = "gemma", .limits.origin = "t.yaml:4:1"},
                          .tenant = {.name = "acme", .limits.origin = "t.yaml:2:1"},
                          .key = {.name = "ci", .limits.origin = "t.yaml:3:1"},
                          .model = {.name = "gemma", .limits.origin = "t.yaml:1:1"},
                          .now = SECOND};
    room->tenant.models = &room->share;
    room->tenant.model_count = 1;
    room->key.tenant = &room->tenant;
    room->policy = (struct policy){.model_count = 1,
                                   .models = &room->model,
                                   .tenant_count = 1,
                                   .tenants = &room->tenant,
                                   .key_count = 1,
                                   .keys = &room->key,
                                   .user_limits.origin = "t.yaml:5:1"};
    room->limiter = limiter_create();
    assert_non_null(room->limiter);
}

void room_close(struct room *room)
{
    limiter_destroy(&room->limiter);
    assert_null(room->limiter);
}

enum limit_verdict room_reserve_as(struct room *room, const struct limit_subject *subject, int64_t tokens,
                                   struct reservation *reservation, struct limit_answer *answer)
{
    const struct limit_demand demand = {.tokens = tokens,
                                        .tokens_cap = tokens < INT64_MAX / 2 ? 2 * tokens : INT64_MAX};
    enum limit_verdict verdict = limiter_reserve(room->limiter, subject, &demand, room->now, reservation, answer);
    assert_int_equal(verdict, answer->verdict);
    assert_int_equal(verdict == LIMIT_ADMITTED, reservation->open);
    return verdict;
}

enum limit_verdict room_reserve(struct room *room, int64_t tokens, struct reservation *reservation)
{
    struct limit_answer answer;
    return room_reserve_as(room, &SUBJECT, tokens, reservation, &answer);
}

static void dump_row(void *owner, const struct limit_status *status)
{
    struct dump *dump = owner;
    assert_true(dump->count < ROWS_MAX);
    struct dump_row *row = &dump->rows[dump->count++];
    row->kind = status->kind;
    row->scope = status->scope;
    strncpy(row->name, status->name, sizeof row->name - 1);
    row->balance = status->balance;
    row->held = status->held;
    row->capacity = status->capacity;
    row->full_in_ms = status->full_in_ms;
}

void room_dump(struct room *room, const struct limit_subject *subject, struct dump *dump)
{
    memset(dump, 0, sizeof *dump);
    limiter_each(room->limiter, subject, ROWS_MAX, room->now, dump_row, dump);
}

static struct dump_row bucket_row(struct room *room, const struct limit_subject *subject, enum limit_scope scope,
                                  enum limit_kind kind)
{
    struct dump dump;
    room_dump(room, subject, &dump);
    for (size_t row = 0; row < dump.count; row++) {
        if (dump.rows[row].scope == scope && dump.rows[row].kind == kind)
            return dump.rows[row];
    }
    fail_msg("no such bucket");
    return dump.rows[0];
}

double room_balance(struct room *room, enum limit_scope scope, enum limit_kind kind)
{
    return bucket_row(room, &SUBJECT, scope, kind).balance;
}

double room_held(struct room *room, enum limit_scope scope, enum limit_kind kind)
{
    return bucket_row(room, &SUBJECT, scope, kind).held;
}
