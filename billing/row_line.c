/* Lines of JSON, each with its CRC behind a blank. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "billing/row_state_private.h"

enum { CRC_CHARACTERS = 8 };

/* The length, or 0 when it cannot be a line. */
static size_t finish(struct builder *line)
{
    uint32_t crc = crc32c(0, line->at, line->length);
    builder_format(line, " %08" PRIx32 "\n", crc);
    return line->overflowed ? 0 : line->length;
}

static void add_if_any(struct builder *line, const char *name, const char *value)
{
    if (value[0] == '\0')
        return;
    builder_format(line, ",\"%s\":", name);
    builder_add_json(line, text_of(value));
}

size_t row_line_make(const struct row_entry *entry, char to[ROW_LINE_BYTES_MAX])
{
    const struct row *row = &entry->row;
    struct builder line;
    builder_init(&line, to, ROW_LINE_BYTES_MAX);
    builder_format(&line, "{\"row\":\"%s\",\"state\":\"%s\",\"at\":%" PRId64 ",\"sent\":%" PRId64 ",\"revision\":%u,",
                   row->id, ROW_STATE_NAMES[entry->state], entry->when, entry->first_sent, entry->revision);
    builder_format(&line, "\"reason\":");
    builder_add_json_repaired(&line, text_of(entry->reason));
    builder_format(&line, ",\"writer\":\"%s\",\"epoch\":%" PRIu64 ",\"tenant\":", row->name.epoch.writer,
                   row->name.epoch.epoch);
    builder_add_json(&line, text_of(row->name.tenant));
    builder_format(&line, ",\"meter\":");
    builder_add_json(&line, text_of(row->name.meter));
    builder_format(&line, ",\"model\":");
    builder_add_json(&line, text_of(row->model));
    builder_format(
        &line, ",\"metered\":%s,\"measure\":\"%s\",\"quantity\":%" PRId64 ",\"began\":%" PRId64 ",\"ended\":%" PRId64,
        row->metered ? "true" : "false", MEASURE_NAMES[row->measure], row->quantity, row->began, row->ended);
    add_if_any(&line, "event", row->event_name);
    add_if_any(&line, "customer", entry->customer);
    builder_add_string(&line, entry->undecided ? ",\"undecided\":true}" : "}");
    return finish(&line);
}

size_t row_line_make_mark(const struct row_mark *mark, char to[ROW_LINE_BYTES_MAX])
{
    struct builder line;
    builder_init(&line, to, ROW_LINE_BYTES_MAX);
    builder_format(&line, "{\"made\":%" PRIu64 ",\"writer\":\"%s\"}", mark->made, mark->writer);
    return finish(&line);
}

size_t row_line_make_gone(const struct row_gone *gone, char to[ROW_LINE_BYTES_MAX])
{
    struct builder line;
    builder_init(&line, to, ROW_LINE_BYTES_MAX);
    builder_format(&line, "{\"gone\":{\"%s\":%" PRIu64 ",\"%s\":%" PRIu64 "},\"last\":%" PRId64 "}",
                   ROW_STATE_NAMES[ROW_ACKED], gone->acked, ROW_STATE_NAMES[ROW_DUPLICATE], gone->duplicate,
                   gone->last_delivered);
    return finish(&line);
}

size_t row_line_make_alive(wall_ms alive, char to[ROW_LINE_BYTES_MAX])
{
    struct builder line;
    builder_init(&line, to, ROW_LINE_BYTES_MAX);
    builder_format(&line, "{\"alive\":%" PRId64 "}", alive);
    return finish(&line);
}

/* The place of @name among @count names, or @count. */
static int place_of(const char *name, const char *const *names, int count)
{
    int place = 0;
    while (place < count && strcmp(name, names[place]) != 0)
        place++;
    return place;
}

static bool copy_name(char *to, size_t capacity, const char *from)
{
    return text_copy(to, capacity, text_of(from)) == strlen(from);
}

static bool fill_entry(json_t *object, struct row_entry *ret)
{
    const char *id, *state, *reason, *writer, *tenant, *meter, *model, *measure;
    json_int_t when, sent, revision, epoch, quantity, began, ended;
    int metered;
    if (json_unpack(object, "{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:I, s:s, s:s, s:s, s:b, s:s, s:I, s:I, s:I}", "row",
                    &id, "state", &state, "at", &when, "sent", &sent, "revision", &revision, "reason", &reason,
                    "writer", &writer, "epoch", &epoch, "tenant", &tenant, "meter", &meter, "model", &model, "metered",
                    &metered, "measure", &measure, "quantity", &quantity, "began", &began, "ended", &ended) != 0)
        return false;
    int state_place = place_of(state, ROW_STATE_NAMES, ROW_STATE_COUNT);
    int measure_place = place_of(measure, MEASURE_NAMES, MEASURE_COUNT);
    text_copy(ret->reason, sizeof ret->reason, text_of(reason)); /* what was repaired may be longer now */
    ret->state = (enum row_state) state_place;
    ret->when = when;
    ret->first_sent = sent;
    ret->revision = (unsigned) revision;
    struct row *row = &ret->row;
    row->name.epoch.epoch = (uint64_t) epoch;
    row->metered = metered != 0;
    row->measure = (enum measure) measure_place;
    row->quantity = quantity;
    row->began = began;
    row->ended = ended;
    return state_place < ROW_STATE_COUNT && measure_place < MEASURE_COUNT && revision >= 0 &&
           revision <= ROW_REVISION_MAX && copy_name(row->id, sizeof row->id, id) &&
           copy_name(row->name.epoch.writer, sizeof row->name.epoch.writer, writer) &&
           copy_name(row->name.tenant, sizeof row->name.tenant, tenant) &&
           copy_name(row->name.meter, sizeof row->name.meter, meter) && copy_name(row->model, sizeof row->model, model);
}

/* What only some lines have. */
static bool fill_rest(json_t *object, struct row_entry *ret)
{
    const char *event_name = "", *customer = "";
    int undecided = 0;
    if (json_unpack(object, "{s?s, s?s, s?b}", "event", &event_name, "customer", &customer, "undecided", &undecided) !=
        0)
        return false;
    ret->undecided = undecided != 0;
    return copy_name(ret->row.event_name, sizeof ret->row.event_name, event_name) &&
           copy_name(ret->customer, sizeof ret->customer, customer);
}

static bool fill_mark(json_t *object, struct row_mark *ret)
{
    const char *writer;
    json_int_t made;
    if (json_unpack(object, "{s:I, s:s}", "made", &made, "writer", &writer) != 0)
        return false;
    ret->made = (uint64_t) made;
    return made >= 0 && copy_name(ret->writer, sizeof ret->writer, writer);
}

static bool fill_gone(json_t *object, struct row_gone *ret)
{
    json_int_t acked, duplicate, last;
    if (json_unpack(object, "{s:{s:I, s:I}, s:I}", "gone", ROW_STATE_NAMES[ROW_ACKED], &acked,
                    ROW_STATE_NAMES[ROW_DUPLICATE], &duplicate, "last", &last) != 0)
        return false;
    *ret = (struct row_gone){(uint64_t) acked, (uint64_t) duplicate, last};
    return acked >= 0 && duplicate >= 0;
}

static bool fill_alive(json_t *object, wall_ms *ret)
{
    json_int_t alive;
    bool good = json_unpack(object, "{s:I}", "alive", &alive) == 0;
    *ret = good ? alive : 0;
    return good;
}

static enum row_line fill(json_t *object, union row_line_content *ret)
{
    if (json_object_get(object, "row") != NULL)
        return fill_entry(object, &ret->entry) && fill_rest(object, &ret->entry) ? ROW_LINE_ENTRY : ROW_LINE_DAMAGED;
    if (json_object_get(object, "made") != NULL)
        return fill_mark(object, &ret->mark) ? ROW_LINE_MARK : ROW_LINE_DAMAGED;
    if (json_object_get(object, "alive") != NULL)
        return fill_alive(object, &ret->alive) ? ROW_LINE_ALIVE : ROW_LINE_DAMAGED;
    return fill_gone(object, &ret->gone) ? ROW_LINE_GONE : ROW_LINE_DAMAGED;
}

enum row_line row_line_read(struct text line, union row_line_content *ret)
{
    char expected[CRC_CHARACTERS + 2];
    if (line.length <= CRC_CHARACTERS + 1)
        return ROW_LINE_DAMAGED;
    struct text object_text = {line.at, line.length - CRC_CHARACTERS - 1};
    snprintf(expected, sizeof expected, " %08" PRIx32, crc32c(0, object_text.at, object_text.length));
    struct text crc = {line.at + object_text.length, CRC_CHARACTERS + 1};
    if (!text_equal(crc, text_of(expected)))
        return ROW_LINE_DAMAGED;
    json_t *object = json_loadb(object_text.at, object_text.length, JSON_REJECT_DUPLICATES, NULL);
    memset(ret, 0, sizeof *ret);
    enum row_line kind = object != NULL ? fill(object, ret) : ROW_LINE_DAMAGED;
    json_decref(object);
    return kind;
}
