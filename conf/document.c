/* libyaml's events, one at a time, so that depth and size are bounded before anything is built. */
#include "conf/document.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/panic.h"

/* A parse in progress. */
struct reading {
    const char *file;
    struct text bytes;
    struct arena *arena;
    struct problem_list *problems;
    yaml_parser_t parser;
    struct node *root;
    struct node *open[DOCUMENT_DEPTH_MAX]; /* containers around the next event, outermost first */
    unsigned depth;
    struct node *pending; /* a map's key was read, its value was not */
    size_t nodes;
    bool finished;
};

enum step { STEP_ON, STEP_STOP };

static struct place place_of(const struct reading *reading, const yaml_mark_t *mark)
{
    return (struct place){reading->file, (unsigned) mark->line + 1, (unsigned) mark->column + 1};
}

/* libyaml names the byte, not the line, of characters that it cannot read. */
static struct place place_of_byte(const struct reading *reading, size_t offset)
{
    struct place place = {reading->file, 1, 1};
    for (size_t i = 0; i < offset && i < reading->bytes.length; i++) {
        unsigned char byte = (unsigned char) reading->bytes.at[i];
        if (byte == '\n') {
            place.line++;
            place.column = 1;
        } else if ((byte & 0xc0) != 0x80) {
            place.column++;
        }
    }
    return place;
}

/* The commonest mistake of all has a message of its own. */
static bool is_tab(const struct reading *reading, const yaml_mark_t *mark)
{
    size_t at = 0;
    for (size_t line = 0; line < mark->line && at < reading->bytes.length; at++)
        line += reading->bytes.at[at] == '\n';
    size_t column = at + mark->column;
    return column < reading->bytes.length && reading->bytes.at[column] == '\t';
}

static void report_syntax(struct reading *reading)
{
    const yaml_parser_t *parser = &reading->parser;
    const char *what = parser->problem != NULL ? parser->problem : "unknown problem";
    if (parser->error == YAML_MEMORY_ERROR)
        problem_error(reading->problems, (struct place){reading->file, 1, 1}, "out of memory");
    else if (parser->error == YAML_READER_ERROR)
        problem_error(reading->problems, place_of_byte(reading, parser->problem_offset),
                      "not readable as UTF-8 text (%s): save the file as UTF-8", what);
    else if (is_tab(reading, &parser->problem_mark))
        problem_error(reading->problems, place_of(reading, &parser->problem_mark),
                      "not valid YAML: a tab cannot indent, use blanks");
    else if (parser->context != NULL)
        problem_error(reading->problems, place_of(reading, &parser->problem_mark),
                      "not valid YAML: %s %s (begun on line %u)", what, parser->context,
                      (unsigned) parser->context_mark.line + 1);
    else
        problem_error(reading->problems, place_of(reading, &parser->problem_mark), "not valid YAML: %s", what);
}

/* NULL ends the parse. */
static struct node *node_create(struct reading *reading, enum node_kind kind, const yaml_mark_t *mark)
{
    if (++reading->nodes > DOCUMENT_NODES_MAX) {
        problem_error(reading->problems, place_of(reading, mark), "more than %d values in one file",
                      DOCUMENT_NODES_MAX);
        return NULL;
    }
    struct node *node = arena_take(reading->arena, sizeof(*node));
    if (node == NULL)
        return NULL;
    node->kind = kind;
    node->place = place_of(reading, mark);
    node->key_place = node->place;
    return node;
}

static enum step attach(struct reading *reading, struct node *node)
{
    if (reading->depth == 0) {
        reading->root = node;
        return STEP_ON;
    }
    struct node *parent = reading->open[reading->depth - 1];
    if (parent->last != NULL)
        parent->last->next = node;
    else
        parent->first = node;
    parent->last = node;
    parent->count++;
    return STEP_ON;
}

/* A value that is no map key: give it the key that was read before it, and its place in the tree. */
static enum step add_value(struct reading *reading, struct node *node)
{
    if (node == NULL)
        return STEP_STOP;
    if (reading->pending != NULL) {
        node->key = reading->pending->text;
        node->key_place = reading->pending->place;
        reading->pending = NULL;
    }
    return attach(reading, node);
}

static bool key_is_next(const struct reading *reading)
{
    return reading->depth > 0 && reading->open[reading->depth - 1]->kind == NODE_MAP && reading->pending == NULL;
}

static void refuse_properties(struct reading *reading, const yaml_char_t *anchor, const yaml_char_t *tag,
                              const yaml_mark_t *mark)
{
    if (anchor != NULL)
        problem_error(reading->problems, place_of(reading, mark),
                      "anchors (&) are not accepted: write the value where it is needed, or put it in quotes");
    if (tag != NULL)
        problem_error(reading->problems, place_of(reading, mark),
                      "tags (!) are not accepted: leave it out, or put the value in quotes");
}

static enum step open_container(struct reading *reading, enum node_kind kind, const yaml_mark_t *mark)
{
    if (key_is_next(reading)) {
        problem_error(reading->problems, place_of(reading, mark),
                      "a list or map cannot be a name here: put text with {, [ or ${…} in quotes");
        return STEP_STOP;
    }
    if (reading->depth == DOCUMENT_DEPTH_MAX) {
        problem_error(reading->problems, place_of(reading, mark), "nested deeper than %d levels", DOCUMENT_DEPTH_MAX);
        return STEP_STOP;
    }
    struct node *node = node_create(reading, kind, mark);
    if (add_value(reading, node) == STEP_STOP)
        return STEP_STOP;
    reading->open[reading->depth++] = node;
    return STEP_ON;
}

static bool is_null(const yaml_event_t *event)
{
    struct text text = {(const char *) event->data.scalar.value, event->data.scalar.length};
    if (event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    return text.length == 0 || text_equal(text, TEXT("~")) || text_equal(text, TEXT("null"));
}

static enum step add_scalar(struct reading *reading, const yaml_event_t *event)
{
    struct text text = {(const char *) event->data.scalar.value, event->data.scalar.length};
    bool is_key = key_is_next(reading);
    refuse_properties(reading, event->data.scalar.anchor, event->data.scalar.tag, &event->start_mark);
    if (memchr(text.at, '\0', text.length) != NULL) {
        problem_error(reading->problems, place_of(reading, &event->start_mark), "a NUL character is not accepted");
        text.length = strlen(text.at);
    }
    enum node_kind kind = !is_key && is_null(event) ? NODE_EMPTY : NODE_SCALAR;
    struct node *node = node_create(reading, kind, &event->start_mark);
    if (node == NULL)
        return STEP_STOP;
    node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->text = arena_copy(reading->arena, text);
    if (node->text.at == NULL)
        return STEP_STOP;
    if (!is_key)
        return add_value(reading, node);
    reading->pending = node;
    return STEP_ON;
}

static int compare_keys(const void *a, const void *b)
{
    const struct node *left = *(const struct node *const *) a;
    const struct node *right = *(const struct node *const *) b;
    size_t shorter = left->key.length < right->key.length ? left->key.length : right->key.length;
    int order = memcmp(left->key.at, right->key.at, shorter);
    if (order != 0)
        return order;
    if (left->key.length != right->key.length)
        return left->key.length < right->key.length ? -1 : 1;
    if (left->key_place.line != right->key_place.line)
        return left->key_place.line < right->key_place.line ? -1 : 1;
    return left->key_place.column < right->key_place.column ? -1 : 1;
}

/* Sorted, because a map of a large file may have hundreds of thousands of entries. */
static enum step refuse_duplicates(struct reading *reading, const struct node *map)
{
    if (map->count < 2)
        return STEP_ON;
    const struct node **sorted = calloc(map->count, sizeof(*sorted));
    if (sorted == NULL) {
        problem_error(reading->problems, map->place, "out of memory");
        return STEP_STOP;
    }
    size_t count = 0;
    for (const struct node *child = map->first; child != NULL; child = child->next)
        sorted[count++] = child;
    qsort(sorted, count, sizeof(const struct node *), compare_keys);
    for (size_t i = 1; i < count; i++) {
        if (text_equal(sorted[i - 1]->key, sorted[i]->key))
            problem_error(reading->problems, sorted[i]->key_place,
                          "\"%.*s\" is already set on line %u: keep one of the two", TEXT_ARGUMENTS(sorted[i]->key),
                          sorted[i - 1]->key_place.line);
    }
    free(sorted);
    return STEP_ON;
}

static enum step close_container(struct reading *reading)
{
    ENSURE(reading->depth > 0);
    const struct node *node = reading->open[--reading->depth];
    return node->kind == NODE_MAP ? refuse_duplicates(reading, node) : STEP_ON;
}

static enum step begin_document(struct reading *reading, const yaml_event_t *event)
{
    if (event->data.document_start.tag_directives.start != event->data.document_start.tag_directives.end)
        problem_error(reading->problems, place_of(reading, &event->start_mark), "%%TAG lines are not accepted");
    if (reading->root == NULL)
        return STEP_ON;
    problem_error(reading->problems, place_of(reading, &event->start_mark),
                  "a second document (---) is not accepted: use one file for each");
    return STEP_STOP;
}

static enum step take_event(struct reading *reading, const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        return STEP_ON;
    case YAML_STREAM_END_EVENT:
        reading->finished = true;
        return STEP_STOP;
    case YAML_DOCUMENT_START_EVENT:
        return begin_document(reading, event);
    case YAML_ALIAS_EVENT:
        problem_error(reading->problems, place_of(reading, &event->start_mark),
                      "aliases (*) are not accepted: write the value itself, or put it in quotes");
        return STEP_STOP;
    case YAML_SCALAR_EVENT:
        return add_scalar(reading, event);
    case YAML_SEQUENCE_START_EVENT:
        refuse_properties(reading, event->data.sequence_start.anchor, event->data.sequence_start.tag,
                          &event->start_mark);
        return open_container(reading, NODE_LIST, &event->start_mark);
    case YAML_MAPPING_START_EVENT:
        refuse_properties(reading, event->data.mapping_start.anchor, event->data.mapping_start.tag, &event->start_mark);
        return open_container(reading, NODE_MAP, &event->start_mark);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        return close_container(reading);
    }
    UNREACHABLE("libyaml has no other events");
}

static void read_events(struct reading *reading)
{
    for (enum step step = STEP_ON; step == STEP_ON;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&reading->parser, &event)) {
            report_syntax(reading);
            return;
        }
        step = take_event(reading, &event);
        yaml_event_delete(&event);
    }
}

struct node *document_parse(const char *file, struct text bytes, struct arena *arena, struct problem_list *problems)
{
    struct reading reading = {.file = file, .bytes = bytes, .arena = arena, .problems = problems};
    if (bytes.length > DOCUMENT_BYTES_MAX) {
        problem_error(problems, (struct place){file, 1, 1},
                      "larger than 4 MiB: split tenants into files of tenants_dir");
        return NULL;
    }
    if (!yaml_parser_initialize(&reading.parser)) {
        problem_error(problems, (struct place){file, 1, 1}, "out of memory");
        return NULL;
    }
    /* Set, not guessed: libyaml would take UTF-16 as well. It then leaves the byte order mark to us. */
    yaml_parser_set_encoding(&reading.parser, YAML_UTF8_ENCODING);
    if (text_starts_with(bytes, TEXT("\xef\xbb\xbf")))
        reading.bytes = (struct text){bytes.at + 3, bytes.length - 3};
    const char *input = bytes.length > 0 ? reading.bytes.at : "";
    yaml_parser_set_input_string(&reading.parser, (const unsigned char *) input, reading.bytes.length);
    read_events(&reading);
    yaml_parser_delete(&reading.parser);
    if (!reading.finished)
        return NULL;
    if (reading.root == NULL)
        return node_create(&reading, NODE_EMPTY, &(yaml_mark_t){0});
    return reading.root;
}

struct node *node_child(const struct node *map, const char *key)
{
    if (map == NULL || map->kind != NODE_MAP)
        return NULL;
    struct text wanted = text_of(key);
    for (struct node *child = map->first; child != NULL; child = child->next) {
        if (text_equal(child->key, wanted))
            return child;
    }
    return NULL;
}
