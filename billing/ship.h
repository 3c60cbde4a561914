/* A batch of a writer's records as one call of the script that applies them to Redis exactly once. Pure but for one
 * function.
 *
 * key                      what                                                                     lives
 * tg:writers               set of writer ids                                                        for ever
 * tg:{<writer>}:hw         sequence of the last record applied                                      for ever
 * tg:{<writer>}:cells:<e>  hash of epoch <e>: "tenant US key US model US measure US source" -> sum  retention
 * tg:{<writer>}:sealed     hash: epoch -> "began,ended" in ms since 1970, each for the retention;
 *                          and "oldest" -> the first that may be there                              twice that
 *
 * The retention is what is told plus SHIP_MARGIN_S, from the SEAL on; what ended longer before a SEAL goes with it.
 * What lives for ever is some hundred bytes for each time that a worker started.
 *
 * US is the byte 0x1f. An epoch that is sealed is whole: nothing is added to it any more (billing/restore.h may have
 * put it there before its records come). All keys of one call stand in one slot of a cluster. What Redis lost (all of
 * it, or its tail) is seen from the mark that every call returns, and is shipped again. */
#ifndef BILLING_SHIP_H
#define BILLING_SHIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/redis.h"
#include "billing/record.h"

enum {
    SHIP_RECORDS_MAX = 200,
    /* So much longer than it is told Redis keeps everything: who compares what is just old enough still finds it. */
    SHIP_MARGIN_S = 3600
};
/* A single count that the script takes: 15 digits. */
#define SHIP_QUANTITY_MAX INT64_C(999999999999999)
/* A cell's field, for printf: tenant, key and model as slices, then the names of measure and source. */
#define SHIP_FIELD "%.*s\x1f%.*s\x1f%.*s\x1f%s\x1f%s"

struct ship_batch;

/* NULL: no memory. About half a megabyte; one is enough for all writers of a thread. */
struct ship_batch *ship_batch_create(void);
/* NULLs; no-op on NULL. */
void ship_batch_destroy(struct ship_batch **batch);

/* Begin anew: a batch of @writer_id that follows record @after. Applied without any record, it only asks for the mark.
 */
void ship_begin(struct ship_batch *batch, const char *writer_id, uint64_t after, int64_t retention_s);

enum ship_add {
    SHIP_ADDED,
    SHIP_FULL,      /* does not belong into this batch any more: ship it, then begin anew with this record */
    SHIP_IMPOSSIBLE /* a quantity that no request can have: nothing after it can be shipped */
};
/* Records of any type, in order and without a gap. A SEAL is the last of a batch. */
enum ship_add ship_add(struct ship_batch *batch, const struct record *record);
/* Of the last record added; what ship_begin was told when there is none. */
uint64_t ship_last(const struct ship_batch *batch);
size_t ship_count(const struct ship_batch *batch);
/* No further record would be SHIP_ADDED. */
bool ship_is_full(const struct ship_batch *batch);

/* Apply it. With REDIS_DONE @ret_mark is the sequence up to which Redis has everything: ship_last or more; less when
 * Redis lost something, and then nothing was applied. */
enum redis_result ship_apply(struct ship_batch *batch, struct redis *redis, uint64_t *ret_mark);
/* Forget everything that Redis has of the batch's writer, in one step: it is more than the truth, and has to be shipped
 * again from the first record. */
enum redis_result ship_forget(struct ship_batch *batch, struct redis *redis);

#endif
