/* A hash becomes cells. */
#include "billing/redis_epoch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { KEY_BYTES = 128, SEPARATOR = 0x1f };

/* ---- one cell ---- */

/* What stands before the next separator; @rest goes on behind it. False: there is none. */
static bool take_part(struct text *rest, struct text *ret)
{
    const char *end = rest->length == 0 ? NULL : memchr(rest->at, SEPARATOR, rest->length);
    if (end == NULL)
        return false;
    *ret = (struct text){rest->at, (size_t) (end - rest->at)};
    rest->at = end + 1;
    rest->length -= ret->length + 1;
    return true;
}

/* The place of @name among @count names, or @count. */
static size_t place_of(struct text name, const char *const *names, size_t count)
{
    size_t place = 0;
    while (place < count && !text_equal(name, text_of(names[place])))
        place++;
    return place;
}

bool redis_epoch_add(struct cells *cells, struct text field, struct text value)
{
    enum { SOURCE_COUNT = sizeof COUNT_SOURCE_NAMES / sizeof COUNT_SOURCE_NAMES[0] };
    struct text rest = field, measure;
    struct cell cell = {0};
    bool good = take_part(&rest, &cell.tenant) && take_part(&rest, &cell.key) && take_part(&rest, &cell.model) &&
                take_part(&rest, &measure);
    size_t measure_place = good ? place_of(measure, MEASURE_NAMES, MEASURE_COUNT) : MEASURE_COUNT;
    size_t source_place = place_of(rest, COUNT_SOURCE_NAMES, SOURCE_COUNT);
    if (!good || measure_place == MEASURE_COUNT || source_place == SOURCE_COUNT ||
        !text_to_int64(value, &cell.quantity) || cell.quantity < 0) {
        errno = EBADMSG;
        return false;
    }
    cell.measure = (enum measure) measure_place;
    cell.source = (enum count_source) source_place;
    return cells_add(cells, &cell);
}

/* ---- one epoch ---- */

static struct text key_of(const struct ledger_name *epoch, const char *what, char to[KEY_BYTES])
{
    struct builder key;
    builder_init(&key, to, KEY_BYTES);
    builder_format(&key, "tg:{%s}:%s", epoch->writer, what);
    return builder_text(&key);
}

static enum redis_epoch ask_sealed(struct redis *redis, const struct ledger_name *epoch)
{
    char key[KEY_BYTES], number[32];
    const struct redis_reply *reply = NULL;
    snprintf(number, sizeof number, "%" PRIu64, epoch->epoch);
    const struct text words[] = {TEXT("HGET"), key_of(epoch, "sealed", key), text_of(number)};
    if (redis_ask(redis, words, sizeof words / sizeof words[0], &reply) != REDIS_DONE)
        return REDIS_EPOCH_DOWN;
    return redis_reply_text(reply).length > 0 ? REDIS_EPOCH_READ : REDIS_EPOCH_ABSENT;
}

static enum redis_epoch take_cells(const struct redis_reply *reply, struct cells *cells)
{
    for (size_t i = 0; i + 1 < redis_reply_count(reply); i += 2) {
        struct text field = redis_reply_text(redis_reply_entry(reply, i));
        struct text value = redis_reply_text(redis_reply_entry(reply, i + 1));
        if (!redis_epoch_add(cells, field, value))
            return errno == EBADMSG || errno == EINVAL || errno == EOVERFLOW ? REDIS_EPOCH_DAMAGED : REDIS_EPOCH_FAILED;
    }
    return REDIS_EPOCH_READ;
}

enum redis_epoch redis_epoch_read(struct redis *redis, const struct ledger_name *epoch, struct cells **ret_cells)
{
    char key[KEY_BYTES], what[KEY_BYTES / 2];
    const struct redis_reply *reply = NULL;
    enum redis_epoch result = ask_sealed(redis, epoch);
    if (result != REDIS_EPOCH_READ)
        return result;
    snprintf(what, sizeof what, "cells:%" PRIu64, epoch->epoch);
    const struct text words[] = {TEXT("HGETALL"), key_of(epoch, what, key)};
    if (redis_ask(redis, words, sizeof words / sizeof words[0], &reply) != REDIS_DONE)
        return REDIS_EPOCH_DOWN;
    struct cells *cells = cells_create();
    if (cells == NULL)
        return REDIS_EPOCH_FAILED;
    result = take_cells(reply, cells);
    if (result != REDIS_EPOCH_READ)
        cells_destroy(&cells);
    else
        *ret_cells = cells;
    return result;
}
