/* Holding a document against the table of settings. Messages quote what was written, never what a variable held. */
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "conf/address.h"
#include "conf/schema.h"
#include "conf/suggest.h"
#include "conf/value.h"

enum { QUOTED_BYTES_MAX = 80, WORD_LIST_BYTES_MAX = 512 };

static struct text shortened(struct text text)
{
    return text.length <= QUOTED_BYTES_MAX ? text : (struct text){text.at, QUOTED_BYTES_MAX};
}

/* How a message calls the value: by its own name where the user gave one. */
static struct text label_of(enum setting_id id, const struct node *node)
{
    if (node->key.length > 0)
        return shortened(node->key);
    return id == SETTING_ROOT ? TEXT("the file") : text_of(setting_name(id));
}

static const char *kind_name(const struct node *node)
{
    switch (node->kind) {
    case NODE_EMPTY:
        return "nothing";
    case NODE_SCALAR:
        return "a single value";
    case NODE_LIST:
        return "a list";
    case NODE_MAP:
        return "a map";
    }
    UNREACHABLE("a node has one of four kinds");
}

static void report_kind(const struct schema_context *context, enum setting_id id, const struct node *node)
{
    struct text label = label_of(id, node);
    enum setting_type type = SETTINGS[id].type;
    bool one_or_more = (SETTINGS[id].flags & SETTING_ONE_OR_MORE) != 0;
    if (node->kind == NODE_EMPTY && id == SETTING_ROOT)
        problem_error(context->problems, node->place,
                      "the file is empty: it needs at least models: {name: {engines: [{url: …}]}}");
    else if (node->kind == NODE_EMPTY && (type == TYPE_MAP || type == TYPE_LIMITS))
        problem_error(context->problems, node->place,
                      "%.*s is empty: give its settings, indented by two more blanks, or write {} if it has none",
                      TEXT_ARGUMENTS(label));
    else if (node->kind == NODE_EMPTY)
        problem_error(context->problems, node->place, "%.*s is empty: give it %s, or delete the line",
                      TEXT_ARGUMENTS(label), setting_type_expects(type));
    else
        problem_error(context->problems, node->place, "%.*s must be %s%s, not %s", TEXT_ARGUMENTS(label),
                      one_or_more ? "a map of settings (name: value) or " : "", setting_type_expects(type),
                      kind_name(node));
}

/* The names that a map may have, for an error. */
static void list_children(enum setting_id parent, struct builder *to)
{
    for (enum setting_id id = setting_first_child(parent); id < SETTING_COUNT; id++) {
        if (setting_child(parent, text_of(setting_name(id))) != id)
            continue;
        builder_format(to, "%s%s", to->length > 0 ? ", " : "", setting_name(id));
    }
}

/* The first row of that name anywhere, to tell somebody who put it at the wrong level. */
static enum setting_id find_elsewhere(struct text name)
{
    for (enum setting_id id = SETTING_ROOT + 1; id < SETTING_COUNT; id++) {
        if (text_equal(name, text_of(setting_name(id))))
            return id;
    }
    return SETTING_COUNT;
}

/* The map below @parent that has a setting called @name. */
static enum setting_id find_below(enum setting_id parent, struct text name)
{
    for (enum setting_id id = setting_first_child(parent); id < SETTING_COUNT; id++) {
        bool is_map = SETTINGS[id].type == TYPE_MAP || SETTINGS[id].type == TYPE_LIMITS;
        if (!is_map || setting_child(parent, text_of(setting_name(id))) != id)
            continue;
        if (setting_child(id, name) != SETTING_COUNT)
            return id;
    }
    return SETTING_COUNT;
}

static void report_unknown(const struct schema_context *context, enum setting_id parent, const struct node *child)
{
    struct suggestion suggestion = {0};
    struct text key = shortened(child->key);
    for (enum setting_id id = setting_first_child(parent); id < SETTING_COUNT; id++) {
        if (setting_child(parent, text_of(setting_name(id))) == id)
            suggest_look_at(&suggestion, child->key, setting_name(id));
    }
    if (suggestion.best != NULL) {
        problem_error(context->problems, child->key_place, "unknown setting \"%.*s\": did you mean \"%s\"?",
                      TEXT_ARGUMENTS(key), suggestion.best);
        return;
    }
    enum setting_id below = find_below(parent, child->key);
    if (below != SETTING_COUNT) {
        problem_error(context->problems, child->key_place, "\"%.*s\" does not belong here, but one level deeper, in %s",
                      TEXT_ARGUMENTS(key), setting_name(below));
        return;
    }
    enum setting_id elsewhere = find_elsewhere(child->key);
    if (elsewhere != SETTING_COUNT) {
        problem_error(context->problems, child->key_place, "\"%.*s\" does not belong here, but stands as %s",
                      TEXT_ARGUMENTS(key), SETTINGS[elsewhere].path);
        return;
    }
    char memory[WORD_LIST_BYTES_MAX];
    struct builder known;
    builder_init(&known, memory, sizeof(memory));
    list_children(parent, &known);
    problem_error(context->problems, child->key_place, "unknown setting \"%.*s\": known here are %s",
                  TEXT_ARGUMENTS(key), builder_string(&known));
}

static void check_required(const struct schema_context *context, enum setting_id parent, const struct node *map)
{
    struct text label = label_of(parent, map);
    for (enum setting_id id = setting_first_child(parent); id < SETTING_COUNT; id++) {
        if ((SETTINGS[id].flags & SETTING_REQUIRED) == 0 || setting_node(map, id) != NULL)
            continue;
        if (setting_child(parent, text_of(setting_name(id))) != id)
            continue;
        problem_error(context->problems, map->place, "%.*s has no \"%s\", which is required. %s", TEXT_ARGUMENTS(label),
                      setting_name(id), SETTINGS[id].doc);
    }
}

static void check_map(const struct schema_context *context, enum setting_id id, struct node *map)
{
    for (struct node *child = map->first; child != NULL; child = child->next) {
        enum setting_id child_id = setting_child(id, child->key);
        if (child_id == SETTING_COUNT)
            report_unknown(context, id, child);
        else
            schema_check(context, child_id, child);
    }
    check_required(context, id, map);
}

static bool is_variable_name(struct text name)
{
    bool good = name.length > 0 && name.length <= SETTING_NAME_BYTES_MAX && (name.at[0] < '0' || name.at[0] > '9');
    for (size_t i = 0; i < name.length; i++) {
        char c = name.at[i];
        good = good && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_');
    }
    return good;
}

static void check_names(const struct schema_context *context, enum setting_id id, const struct node *map)
{
    bool variables = SETTINGS[id].type == TYPE_VARIABLES;
    for (const struct node *child = map->first; child != NULL; child = child->next) {
        struct text key = shortened(child->key);
        if (variables && !is_variable_name(child->key))
            problem_error(context->problems, child->key_place,
                          "\"%.*s\" is no name of an environment variable: use letters, digits and _",
                          TEXT_ARGUMENTS(key));
        if (!variables && !setting_is_name(child->key))
            problem_error(context->problems, child->key_place,
                          "\"%.*s\" is no name: use 1 to %d letters, digits and . _ : / -", TEXT_ARGUMENTS(key),
                          SETTING_NAME_BYTES_MAX);
    }
}

static void check_count(const struct schema_context *context, enum setting_id id, const struct node *node)
{
    const struct setting *setting = &SETTINGS[id];
    struct text label = label_of(id, node);
    if ((int64_t) node->count < setting->minimum)
        problem_error(context->problems, node->place, "%.*s must have at least %lld entry", TEXT_ARGUMENTS(label),
                      (long long) setting->minimum);
    if ((int64_t) node->count > setting->maximum)
        problem_error(context->problems, node->place, "%.*s has %zu entries, but may have at most %lld",
                      TEXT_ARGUMENTS(label), node->count, (long long) setting->maximum);
}

/* Make @map a list with itself as the one entry. It stays a map when memory is exhausted. */
static void put_into_list(const struct schema_context *context, struct node *map)
{
    struct node *entry = arena_take(context->arena, sizeof(*entry));
    if (entry == NULL)
        return;
    *entry = *map;
    entry->next = NULL;
    map->kind = NODE_LIST;
    map->count = 1;
    map->first = map->last = entry;
}

static void check_container(const struct schema_context *context, enum setting_id id, struct node *node)
{
    enum setting_type type = SETTINGS[id].type;
    if ((SETTINGS[id].flags & SETTING_ONE_OR_MORE) != 0 && node->kind == NODE_MAP)
        put_into_list(context, node);
    if (node->kind != (type == TYPE_LIST ? NODE_LIST : NODE_MAP)) {
        report_kind(context, id, node);
        return;
    }
    node->valid = true;
    if (type == TYPE_MAP || type == TYPE_LIMITS) {
        check_map(context, id, node);
        return;
    }
    check_count(context, id, node);
    if (type != TYPE_LIST)
        check_names(context, id, node);
    enum setting_id item = setting_item(id);
    for (struct node *child = node->first; child != NULL; child = child->next)
        schema_check(context, item, child);
}

/* Replace ${…}. False when there is no value now; the problem is told. */
static bool expand(const struct schema_context *context, struct node *node)
{
    struct text name = {0};
    switch (value_expand(node->text, context->arena, &node->value, &name)) {
    case EXPAND_DONE:
        return true;
    case EXPAND_UNSET:
        if (context->mode == LOAD_CHECK)
            problem_warning(context->problems, node->place, "the environment variable %.*s is not set",
                            TEXT_ARGUMENTS(name));
        else
            problem_error(context->problems, node->place,
                          "the environment variable %.*s is not set: set it, or write ${%.*s:-default}",
                          TEXT_ARGUMENTS(name), TEXT_ARGUMENTS(name));
        return false;
    case EXPAND_MALFORMED:
        problem_error(context->problems, node->place,
                      "${ must begin ${NAME} or ${NAME:-default}: write $${ for the characters themselves");
        return false;
    case EXPAND_TOO_LONG:
        problem_error(context->problems, node->place, "longer than %d bytes", VALUE_BYTES_MAX);
        return false;
    }
    UNREACHABLE("value_expand has four results");
}

/* A wrong digest may be a pasted key, a wrong URL may hold a password, and a path may be the secret itself. */
static bool may_quote(enum setting_type type)
{
    return type != TYPE_SHA256 && type != TYPE_URL && type != TYPE_REDIS_URL && type != TYPE_SECRET_FILE &&
           type != TYPE_ARGUMENT;
}

static void report_choice(const struct schema_context *context, enum setting_id id, const struct node *node)
{
    size_t count;
    const char *const *choices = setting_choices(SETTINGS[id].type, &count);
    struct suggestion suggestion = {0};
    char memory[WORD_LIST_BYTES_MAX];
    struct builder words;
    builder_init(&words, memory, sizeof(memory));
    for (size_t i = 0; i < count; i++) {
        builder_format(&words, "%s%s", i > 0 ? ", " : "", choices[i]);
        suggest_look_at(&suggestion, node->text, choices[i]);
    }
    struct text written = shortened(node->text);
    const char *best = suggestion.best;
    problem_error(context->problems, node->place, "\"%.*s\" is not one of %s%s%s%s", TEXT_ARGUMENTS(written),
                  builder_string(&words), best != NULL ? ": did you mean \"" : "", best != NULL ? best : "",
                  best != NULL ? "\"?" : "");
}

static void report_value(const struct schema_context *context, enum setting_id id, const struct node *node)
{
    enum setting_type type = SETTINGS[id].type;
    struct text label = label_of(id, node), written = shortened(node->text), ignored_url;
    struct listen_parts ignored;
    struct redis_parts ignored_redis;
    size_t count;
    if (setting_choices(type, &count) != NULL)
        report_choice(context, id, node);
    else if (type == TYPE_LISTEN)
        problem_error(context->problems, node->place, "%.*s: %s", TEXT_ARGUMENTS(label),
                      address_parse_listen(node->value, &ignored));
    else if (type == TYPE_URL)
        problem_error(context->problems, node->place, "%.*s: %s", TEXT_ARGUMENTS(label),
                      address_parse_url(node->value, &ignored_url));
    else if (type == TYPE_REDIS_URL)
        problem_error(context->problems, node->place, "%.*s: %s", TEXT_ARGUMENTS(label),
                      address_parse_redis(node->value, &ignored_redis));
    else if (may_quote(type))
        problem_error(context->problems, node->place, "%.*s must be %s, not \"%.*s\"", TEXT_ARGUMENTS(label),
                      setting_type_expects(type), TEXT_ARGUMENTS(written));
    else
        problem_error(context->problems, node->place, "%.*s must be %s", TEXT_ARGUMENTS(label),
                      setting_type_expects(type));
}

static void report_bounds(const struct schema_context *context, enum setting_id id, const struct node *node)
{
    const struct setting *setting = &SETTINGS[id];
    struct text label = label_of(id, node);
    char least[DURATION_TEXT_BYTES], most[DURATION_TEXT_BYTES];
    if (setting->type == TYPE_DURATION)
        problem_error(context->problems, node->place, "%.*s must be from %s to %s", TEXT_ARGUMENTS(label),
                      value_duration_text(setting->minimum, least), value_duration_text(setting->maximum, most));
    else if (setting->type == TYPE_PRICE)
        problem_error(context->problems, node->place, "%.*s must be at most %lld per million tokens",
                      TEXT_ARGUMENTS(label), (long long) (setting->maximum / PRICE_PICO_PER_UNIT));
    else if (setting->type == TYPE_INTEGER)
        problem_error(context->problems, node->place, "%.*s must be from %lld to %lld", TEXT_ARGUMENTS(label),
                      (long long) setting->minimum, (long long) setting->maximum);
    else
        problem_error(context->problems, node->place, "%.*s must have %lld to %lld characters", TEXT_ARGUMENTS(label),
                      (long long) setting->minimum, (long long) setting->maximum);
}

/* Bounds of numbers are those of the value, bounds of text those of its length; the rest has none. */
static bool is_within_bounds(const struct setting *setting, const struct node *node)
{
    if (setting->maximum == 0)
        return true;
    bool is_number = setting->type == TYPE_INTEGER || setting->type == TYPE_DURATION || setting->type == TYPE_PRICE;
    int64_t measure = is_number ? node->number : (int64_t) node->value.length;
    return measure >= setting->minimum && measure <= setting->maximum;
}

static void check_scalar(const struct schema_context *context, enum setting_id id, struct node *node)
{
    const struct setting *setting = &SETTINGS[id];
    if (node->kind != NODE_SCALAR) {
        report_kind(context, id, node);
        return;
    }
    if (!expand(context, node))
        return;
    bool quoted_number = setting->type == TYPE_INTEGER && node->quoted && !value_has_variable(node->text);
    if (quoted_number || !setting_parse(setting->type, node->value, &node->number))
        report_value(context, id, node);
    else if (!is_within_bounds(setting, node))
        report_bounds(context, id, node);
    else
        node->valid = true;
}

void schema_check(const struct schema_context *context, enum setting_id id, struct node *node)
{
    switch (SETTINGS[id].type) {
    case TYPE_MAP:
    case TYPE_NAMED:
    case TYPE_VARIABLES:
    case TYPE_LIST:
    case TYPE_LIMITS:
        check_container(context, id, node);
        return;
    case TYPE_STRING:
    case TYPE_ARGUMENT:
    case TYPE_NAME:
    case TYPE_INTEGER:
    case TYPE_BOOLEAN:
    case TYPE_DURATION:
    case TYPE_PATH:
    case TYPE_SECRET_FILE:
    case TYPE_SHA256:
    case TYPE_DATE:
    case TYPE_LISTEN:
    case TYPE_URL:
    case TYPE_DIALECT:
    case TYPE_ENDPOINT:
    case TYPE_ON_EXCEED:
    case TYPE_BILLING_SYNC:
    case TYPE_MEASURE:
    case TYPE_PRICE:
    case TYPE_CURRENCY:
    case TYPE_REDIS_URL:
        check_scalar(context, id, node);
        return;
    case TYPE_COUNT:
        break;
    }
    UNREACHABLE("every type has its case");
}
