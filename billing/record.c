/* The journal's records as bytes. */
#include "billing/record.h"

#include <endian.h>
#include <string.h>

#include "base/panic.h"

const char *const COUNT_SOURCE_NAMES[4] = {"none", "engine", "counted", "estimated"};

enum { COUNT_SOURCES = 4, LENGTH_BYTES = 4, CRC_BYTES = 4, ZEROS_BYTES = 512 };

/* ---- CRC-32C, a table of one byte a step: some 400 MB/s, records have a few hundred bytes ---- */

static const uint32_t *crc_table(void)
{
    static _Thread_local uint32_t table[256];
    static _Thread_local bool made;
    for (uint32_t byte = 0; !made && byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
        table[byte] = crc;
    }
    made = true;
    return table;
}

uint32_t crc32c(uint32_t crc, const void *bytes, size_t count)
{
    const uint32_t *table = crc_table();
    const uint8_t *at = bytes;
    crc = ~crc;
    for (size_t i = 0; i < count; i++)
        crc = (crc >> 8) ^ table[(crc ^ at[i]) & 0xff];
    return ~crc;
}

/* ---- encode ---- */

struct writer {
    char *at;
    size_t length;
};

static void put(struct writer *to, const void *bytes, size_t count)
{
    ENSURE(to->length + count <= RECORD_BYTES_MAX);
    memcpy(to->at + to->length, bytes, count);
    to->length += count;
}

static void put_u8(struct writer *to, unsigned value)
{
    uint8_t byte = (uint8_t) value;
    put(to, &byte, sizeof byte);
}

static void put_u64(struct writer *to, uint64_t value)
{
    uint64_t little = htole64(value);
    put(to, &little, sizeof little);
}

static void put_i64(struct writer *to, int64_t value)
{
    put_u64(to, (uint64_t) value);
}

static void put_text(struct writer *to, struct text value)
{
    ENSURE(value.length <= RECORD_NAME_BYTES_MAX);
    put_u8(to, (unsigned) value.length);
    if (value.length > 0)
        put(to, value.at, value.length);
}

static void put_id(struct writer *to, struct text id)
{
    ENSURE(id.length <= RECORD_ID_BYTES_MAX);
    put_text(to, id);
}

static void put_names(struct writer *to, const struct record *record)
{
    put_id(to, record->request_id);
    put_text(to, record->tenant);
    put_text(to, record->key);
    put_text(to, record->model);
}

static void put_close(struct writer *to, const struct record *record)
{
    put_names(to, record);
    put_i64(to, record->input_tokens);
    put_i64(to, record->cached_input_tokens);
    put_i64(to, record->output_tokens);
    put_u8(to, record->input_source);
    put_u8(to, record->output_source);
    put_u8(to, record->end);
    put_u8(to, record->billed);
    put_u64(to, record->epoch);
}

static void put_payload(struct writer *to, const struct record *record)
{
    put_i64(to, record->when);
    switch (record->type) {
    case RECORD_OPEN:
        put_names(to, record);
        put_i64(to, record->input_tokens);
        return;
    case RECORD_PROGRESS:
        put_id(to, record->request_id);
        put_i64(to, record->output_tokens);
        return;
    case RECORD_CLOSE:
        put_close(to, record);
        return;
    case RECORD_SEAL:
        put_u64(to, record->epoch);
        put_i64(to, record->epoch_began);
        return;
    case RECORD_FINISH:
        return;
    }
    UNREACHABLE("a record type that nothing writes");
}

size_t record_encode(const struct record *record, char to[RECORD_BYTES_MAX])
{
    struct writer writer = {to, LENGTH_BYTES + CRC_BYTES};
    put_u64(&writer, record->sequence);
    put_u8(&writer, record->type);
    put_payload(&writer, record);
    uint32_t length = htole32((uint32_t) (writer.length - RECORD_HEAD_BYTES));
    memcpy(to, &length, sizeof length);
    /* The length is covered too: it is what a torn write is most likely to leave half-done. */
    uint32_t crc = crc32c(0, to, LENGTH_BYTES);
    crc = htole32(crc32c(crc, to + LENGTH_BYTES + CRC_BYTES, writer.length - LENGTH_BYTES - CRC_BYTES));
    memcpy(to + LENGTH_BYTES, &crc, sizeof crc);
    return writer.length;
}

/* ---- decode ---- */

struct reader {
    struct text rest;
    bool broken;
};

static const char *get(struct reader *from, size_t count)
{
    if (from->broken || from->rest.length < count) {
        from->broken = true;
        return NULL;
    }
    const char *at = from->rest.at;
    from->rest.at += count;
    from->rest.length -= count;
    return at;
}

static unsigned get_u8(struct reader *from)
{
    const char *at = get(from, 1);
    return at != NULL ? (uint8_t) *at : 0;
}

static uint64_t get_u64(struct reader *from)
{
    const char *at = get(from, sizeof(uint64_t));
    uint64_t value = 0;
    if (at != NULL)
        memcpy(&value, at, sizeof value);
    return le64toh(value);
}

static int64_t get_i64(struct reader *from)
{
    return (int64_t) get_u64(from);
}

static struct text get_text(struct reader *from, size_t most)
{
    size_t length = get_u8(from);
    const char *at = get(from, length);
    from->broken |= length > most;
    return at != NULL ? (struct text){at, length} : TEXT("");
}

static void get_names(struct reader *from, struct record *record)
{
    record->request_id = get_text(from, RECORD_ID_BYTES_MAX);
    record->tenant = get_text(from, RECORD_NAME_BYTES_MAX);
    record->key = get_text(from, RECORD_NAME_BYTES_MAX);
    record->model = get_text(from, RECORD_NAME_BYTES_MAX);
}

static void get_close(struct reader *from, struct record *record)
{
    get_names(from, record);
    record->input_tokens = get_i64(from);
    record->cached_input_tokens = get_i64(from);
    record->output_tokens = get_i64(from);
    unsigned input_source = get_u8(from), output_source = get_u8(from), end = get_u8(from);
    unsigned billed = get_u8(from);
    record->billed = billed == 1;
    record->epoch = get_u64(from);
    from->broken |= input_source >= COUNT_SOURCES || output_source >= COUNT_SOURCES;
    from->broken |= end < END_COMPLETE || end > END_CRASH || billed > 1;
    record->input_source = (enum count_source)(input_source % COUNT_SOURCES);
    record->output_source = (enum count_source)(output_source % COUNT_SOURCES);
    record->end = (enum usage_end) end;
}

static bool get_payload(struct reader *from, struct record *record)
{
    record->when = get_i64(from);
    switch (record->type) {
    case RECORD_OPEN:
        get_names(from, record);
        record->input_tokens = get_i64(from);
        break;
    case RECORD_PROGRESS:
        record->request_id = get_text(from, RECORD_ID_BYTES_MAX);
        record->output_tokens = get_i64(from);
        break;
    case RECORD_CLOSE:
        get_close(from, record);
        break;
    case RECORD_SEAL:
        record->epoch = get_u64(from);
        record->epoch_began = get_i64(from);
        break;
    case RECORD_FINISH:
        break;
    }
    return !from->broken && from->rest.length == 0;
}

static bool is_zero(struct text bytes)
{
    for (size_t i = 0; i < bytes.length; i++) {
        if (bytes.at[i] != 0)
            return false;
    }
    return true;
}

enum record_result record_decode(struct text bytes, struct record *ret, size_t *ret_length)
{
    uint32_t length = 0, crc = 0;
    if (is_zero((struct text){bytes.at, bytes.length < RECORD_HEAD_BYTES ? bytes.length : RECORD_HEAD_BYTES}))
        return RECORD_END;
    if (bytes.length < RECORD_HEAD_BYTES)
        return RECORD_TORN;
    memcpy(&length, bytes.at, sizeof length);
    memcpy(&crc, bytes.at + LENGTH_BYTES, sizeof crc);
    length = le32toh(length);
    if (length > RECORD_PAYLOAD_BYTES_MAX || bytes.length - RECORD_HEAD_BYTES < length)
        return RECORD_TORN;
    uint32_t found = crc32c(0, bytes.at, LENGTH_BYTES);
    found = crc32c(found, bytes.at + LENGTH_BYTES + CRC_BYTES, RECORD_HEAD_BYTES - LENGTH_BYTES - CRC_BYTES + length);
    if (found != le32toh(crc))
        return RECORD_TORN;

    struct reader reader = {
        {bytes.at + LENGTH_BYTES + CRC_BYTES, RECORD_HEAD_BYTES - LENGTH_BYTES - CRC_BYTES + length}, false};
    struct record record = {.sequence = get_u64(&reader)};
    unsigned type = get_u8(&reader);
    if (type < RECORD_OPEN || type > RECORD_FINISH)
        return RECORD_TORN;
    record.type = (enum record_type) type;
    if (!get_payload(&reader, &record))
        return RECORD_TORN;
    *ret = record;
    *ret_length = RECORD_HEAD_BYTES + length;
    return RECORD_DECODED;
}

size_t record_find(struct text bytes, uint64_t after)
{
    static const char zeros[ZEROS_BYTES];
    struct record record;
    size_t length = 0, at = 0;
    while (at < bytes.length) {
        struct text rest = {bytes.at + at, bytes.length - at};
        if (rest.length >= sizeof zeros && memcmp(rest.at, zeros, sizeof zeros) == 0)
            at += sizeof zeros - 1; /* a length may begin with one */
        else if (record_decode(rest, &record, &length) == RECORD_DECODED && record.sequence > after)
            return at;
        else
            at++;
    }
    return bytes.length;
}
