/* The settings ops may write: one const table, from which validation, the JSON Schema and the documentation come. */
#ifndef CONF_SCHEMA_H
#define CONF_SCHEMA_H

#include "conf/document.h"
#include "conf/load.h"

enum setting_id {
#define X(id, path, type, default_text, minimum, maximum, flags, unit, doc) SETTING_##id,
#include "conf/schema.def"
#undef X
    SETTING_COUNT
};

enum setting_type {
    TYPE_MAP,          /* settings by name */
    TYPE_NAMED,        /* things of one kind, by names that the user gives */
    TYPE_VARIABLES,    /* the same, by names of environment variables */
    TYPE_LIST,         /* things of one kind */
    TYPE_LIMITS,       /* a map with the settings of models.<name>.limits */
    TYPE_STRING,       /* printable text */
    TYPE_ARGUMENT,     /* any text */
    TYPE_NAME,         /* letters, digits and . _ : / - */
    TYPE_INTEGER,      /* number */
    TYPE_BOOLEAN,      /* number: 0 or 1 */
    TYPE_DURATION,     /* number: milliseconds */
    TYPE_PATH,         /* of a file or directory */
    TYPE_SECRET_FILE,  /* path of a file whose content is a secret */
    TYPE_SHA256,       /* 64 hexadecimal digits */
    TYPE_DATE,         /* number: wall_ms */
    TYPE_LISTEN,       /* address to listen on */
    TYPE_URL,          /* of an engine */
    TYPE_DIALECT,      /* number: enum engine_dialect */
    TYPE_ENDPOINT,     /* number: enum endpoint */
    TYPE_ON_EXCEED,    /* number: enum on_exceed */
    TYPE_BILLING_SYNC, /* number: enum billing_sync */
    TYPE_MEASURE,      /* number: enum measure */
    TYPE_PRICE,        /* number: pico-units per token */
    TYPE_CURRENCY,     /* three capital letters */
    TYPE_REDIS_URL,    /* of a Redis server */
    TYPE_COUNT
};

enum setting_flags {
    SETTING_REQUIRED = 1,
    SETTING_RESTART = 2,    /* cannot change by a reload */
    SETTING_ONE_OR_MORE = 4 /* of a LIST: an entry that is a map may stand for the list; readers see the list */
};

enum { SETTING_NAME_BYTES_MAX = 128 };

struct setting {
    const char *path;
    enum setting_type type;
    const char *default_text;
    int64_t minimum;
    int64_t maximum;
    unsigned flags;
    const char *unit;
    const char *doc;
};
extern const struct setting SETTINGS[SETTING_COUNT];

/* The first row that may be a child of @parent: the rows of LIMITS stand elsewhere, before their users. */
enum setting_id setting_first_child(enum setting_id parent);
/* The child of @parent that is called @name ("<name>" and "[]" match themselves only), or SETTING_COUNT. */
enum setting_id setting_child(enum setting_id parent, struct text name);
/* The one kind of thing a NAMED, VARIABLES or LIST holds. */
enum setting_id setting_item(enum setting_id parent);
/* The last part of the path: "length" of "models.<name>.queue.length"; "aliases[]" for a list's items. */
const char *setting_name(enum setting_id id);
/* The words a value may be when its type has such; NULL for other types. */
const char *const *setting_choices(enum setting_type type, size_t *ret_count);
/* The type in the words of the documentation ("duration") and of an error ("a duration such as 30s"). */
const char *setting_type_name(enum setting_type type);
const char *setting_type_expects(enum setting_type type);
/* Letters, digits and . _ : / - only, 1 to SETTING_NAME_BYTES_MAX bytes. */
bool setting_is_name(struct text name);
/* What @value means (see enum setting_type; 0 for text), or false when it is not of that type. Bounds are not looked
 * at. */
bool setting_parse(enum setting_type type, struct text value, int64_t *ret_number);

/* What schema_check works with and on. */
struct schema_context {
    enum load_mode mode;
    struct arena *arena; /* for replaced values */
    struct problem_list *problems;
};
/* Hold @node and everything below against the table: kinds, names, types, bounds, what is required; and replace ${…}.
 * Sets valid, value and number of the nodes that are good. */
void schema_check(const struct schema_context *context, enum setting_id id, struct node *node);

/* Of a checked map (may be NULL): the setting's node, also when it is not valid; or NULL when it was not written. */
const struct node *setting_node(const struct node *map, enum setting_id id);
/* Its number, or that of the default (0 without one). */
int64_t setting_number(const struct node *map, enum setting_id id);
/* Its text, or the default's (at == NULL without one); NUL-terminated. */
struct text setting_text(const struct node *map, enum setting_id id);

/* JSON Schema (draft-07) and the Markdown reference, made from the table. False when @to is full. */
bool schema_write_json(struct buffer *to);
bool schema_write_markdown(struct buffer *to);

#endif
