/* The table as a JSON Schema (draft-07), for editors. It accepts all that the loader accepts; what a value means is the
 * loader's business. */
#include <jansson.h>
#include <stdlib.h>

#include "base/panic.h"
#include "conf/schema.h"

static const char name_pattern[] = "^[A-Za-z0-9._:/-]{1,128}$";
static const char variable_name_pattern[] = "^[A-Za-z_][A-Za-z0-9_]{0,127}$";

static json_t *string_schema(const char *pattern)
{
    return json_pack("{s:s, s:s}", "type", "string", "pattern", pattern);
}

/* A value of another type may also come from a variable. */
static json_t *or_variable(json_t *schema)
{
    return json_pack("{s:[o, o]}", "anyOf", schema, string_schema("\\$\\{"));
}

/* Text needs no quotes in YAML, so 4 and true are text as well, where text is wanted. */
static json_t *text_schema(const struct setting *setting)
{
    return json_pack("{s:[{s:s, s:i}, {s:s}, {s:s}]}", "anyOf", "type", "string", "minLength",
                     setting->minimum > 0 ? 1 : 0, "type", "number", "type", "boolean");
}

static json_t *choice_schema(enum setting_type type)
{
    size_t count;
    const char *const *choices = setting_choices(type, &count);
    json_t *words = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(words, json_string(choices[i]));
    return or_variable(json_pack("{s:s, s:o}", "type", "string", "enum", words));
}

static json_t *scalar_schema(const struct setting *setting)
{
    switch (setting->type) {
    case TYPE_INTEGER:
        return or_variable(json_pack("{s:s, s:I, s:I}", "type", "integer", "minimum", (json_int_t) setting->minimum,
                                     "maximum", (json_int_t) setting->maximum));
    case TYPE_BOOLEAN:
        return json_pack("{s:[{s:s}, {s:s, s:[s, s]}, o]}", "anyOf", "type", "boolean", "type", "string", "enum", "yes",
                         "no", string_schema("\\$\\{"));
    case TYPE_DURATION:
        return or_variable(string_schema("^[0-9]+(ms|s|m|h|d)$"));
    case TYPE_SHA256:
        return or_variable(string_schema("^[0-9A-Fa-f]{64}$"));
    case TYPE_DATE:
        return or_variable(string_schema("^[0-9]{4}-[0-9]{2}-[0-9]{2}"));
    case TYPE_PRICE:
        return or_variable(json_pack("{s:[o, {s:s, s:i}]}", "anyOf", string_schema("^(0|[1-9][0-9]*)(\\.[0-9]{1,6})?$"),
                                     "type", "number", "minimum", 0));
    case TYPE_CURRENCY:
        return or_variable(string_schema("^[A-Z]{3}$"));
    case TYPE_NAME:
        return or_variable(string_schema(name_pattern));
    case TYPE_DIALECT:
    case TYPE_ENDPOINT:
    case TYPE_ON_EXCEED:
    case TYPE_BILLING_SYNC:
    case TYPE_MEASURE:
        return choice_schema(setting->type);
    case TYPE_STRING:
    case TYPE_ARGUMENT:
    case TYPE_PATH:
    case TYPE_SECRET_FILE:
    case TYPE_LISTEN:
    case TYPE_URL:
    case TYPE_REDIS_URL:
        return text_schema(setting);
    case TYPE_MAP:
    case TYPE_NAMED:
    case TYPE_VARIABLES:
    case TYPE_LIST:
    case TYPE_LIMITS:
    case TYPE_COUNT:
        break;
    }
    UNREACHABLE("containers have their own functions");
}

static json_t *setting_schema(enum setting_id id);

static json_t *map_schema(enum setting_id id)
{
    json_t *properties = json_object(), *required = json_array();
    for (enum setting_id child = setting_first_child(id); child < SETTING_COUNT; child++) {
        if (setting_child(id, text_of(setting_name(child))) != child)
            continue;
        json_object_set_new(properties, setting_name(child), setting_schema(child));
        if ((SETTINGS[child].flags & SETTING_REQUIRED) != 0)
            json_array_append_new(required, json_string(setting_name(child)));
    }
    json_t *schema =
        json_pack("{s:s, s:b, s:o}", "type", "object", "additionalProperties", 0, "properties", properties);
    if (json_array_size(required) > 0)
        json_object_set_new(schema, "required", required);
    else
        json_decref(required);
    return schema;
}

static json_t *named_schema(enum setting_id id)
{
    const struct setting *setting = &SETTINGS[id];
    const char *pattern = setting->type == TYPE_VARIABLES ? variable_name_pattern : name_pattern;
    return json_pack("{s:s, s:I, s:I, s:o, s:o}", "type", "object", "minProperties", (json_int_t) setting->minimum,
                     "maxProperties", (json_int_t) setting->maximum, "propertyNames", string_schema(pattern),
                     "additionalProperties", setting_schema(setting_item(id)));
}

static json_t *list_schema(enum setting_id id)
{
    const struct setting *setting = &SETTINGS[id];
    json_t *list = json_pack("{s:s, s:I, s:I, s:o}", "type", "array", "minItems", (json_int_t) setting->minimum,
                             "maxItems", (json_int_t) setting->maximum, "items", setting_schema(setting_item(id)));
    if ((setting->flags & SETTING_ONE_OR_MORE) == 0)
        return list;
    return json_pack("{s:[o, o]}", "anyOf", list, setting_schema(setting_item(id)));
}

static json_t *default_value(const struct setting *setting)
{
    int64_t number = 0;
    ENSURE(setting_parse(setting->type, text_of(setting->default_text), &number));
    if (setting->type == TYPE_INTEGER)
        return json_integer(number);
    if (setting->type == TYPE_BOOLEAN)
        return json_boolean(number != 0);
    return json_string(setting->default_text);
}

/* Recursion ends with the table. NULL anywhere makes the whole NULL. */
static json_t *setting_schema(enum setting_id id)
{
    const struct setting *setting = &SETTINGS[id];
    json_t *schema;
    if (setting->type == TYPE_MAP || setting->type == TYPE_LIMITS)
        schema = map_schema(id);
    else if (setting->type == TYPE_NAMED || setting->type == TYPE_VARIABLES)
        schema = named_schema(id);
    else if (setting->type == TYPE_LIST)
        schema = list_schema(id);
    else
        schema = scalar_schema(setting);
    json_object_set_new(schema, "description", json_string(setting->doc));
    if (setting->default_text != NULL)
        json_object_set_new(schema, "default", default_value(setting));
    return schema;
}

bool schema_write_json(struct buffer *to)
{
    json_t *schema = json_pack("{s:s, s:s}", "$schema", "http://json-schema.org/draft-07/schema#", "title",
                               "Tollgate's configuration");
    json_t *root = setting_schema(SETTING_ROOT);
    json_object_update(schema, root);
    json_decref(root);
    char *text = json_dumps(schema, JSON_INDENT(2));
    json_decref(schema);
    bool fits = text != NULL && buffer_add(to, text_of(text)) && buffer_add(to, TEXT("\n"));
    free(text);
    return fits;
}
