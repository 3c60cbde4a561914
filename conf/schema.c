/* The table and how to find one's way in it. */
#include "conf/schema.h"

#include <string.h>

#include "base/panic.h"
#include "conf/address.h"
#include "conf/value.h"

const struct setting SETTINGS[SETTING_COUNT] = {
#define X(id, path, type, default_text, minimum, maximum, flags, unit, doc)                                            \
    {path, TYPE_##type, default_text, minimum, maximum, flags, unit, doc},
#include "conf/schema.def"
#undef X
};

static const struct {
    const char *name;
    const char *expects;
} TYPE_WORDS[TYPE_COUNT] = {
    [TYPE_MAP] = {"map", "a map of settings (name: value)"},
    [TYPE_NAMED] = {"map by name", "a map of names (name: {…})"},
    [TYPE_VARIABLES] = {"map by name", "a map of variables (NAME: value)"},
    [TYPE_LIST] = {"list", "a list ([a, b], or lines that begin with -)"},
    [TYPE_LIMITS] = {"limits", "a map of limits (requests_per_minute: 60)"},
    [TYPE_STRING] = {"text", "text"},
    [TYPE_ARGUMENT] = {"text", "text"},
    [TYPE_NAME] = {"name", "a name of letters, digits and . _ : / -"},
    [TYPE_INTEGER] = {"whole number", "a whole number in digits, without quotes"},
    [TYPE_BOOLEAN] = {"yes or no", "yes or no (or true or false)"},
    [TYPE_DURATION] = {"duration", "a duration with its unit, such as 500ms, 30s, 5m, 1h or 7d"},
    [TYPE_PATH] = {"path", "a path"},
    [TYPE_SECRET_FILE] = {"path of a secret", "the path of a file"},
    [TYPE_SHA256] = {"SHA-256", "the 64 hexadecimal digits of a SHA-256 (of the key, never the key itself)"},
    [TYPE_DATE] = {"date", "a date such as 2027-01-31 or 2027-01-31T12:00:00Z"},
    [TYPE_LISTEN] = {"address", "an address such as 127.0.0.1:8700, [::]:8700 or unix:/run/tollgate.sock"},
    [TYPE_URL] = {"URL", "a URL such as http://127.0.0.1:8000 or unix:/run/engine.sock"},
    [TYPE_DIALECT] = {"one of", "a kind of engine"},
    [TYPE_ENDPOINT] = {"one of", "an endpoint"},
    [TYPE_ON_EXCEED] = {"one of", "soft, hard or cut"},
    [TYPE_BILLING_SYNC] = {"one of", "os or group"},
    [TYPE_MEASURE] = {"one of", "a measure"},
    [TYPE_PRICE] = {"price", "a price per million tokens with at most six decimals, such as \"0.40\""},
    [TYPE_CURRENCY] = {"currency", "a currency of three capital letters, such as EUR"},
    [TYPE_REDIS_URL] = {"URL of a Redis", "a URL such as unix:/run/redis/redis.sock or redis://127.0.0.1:6379/0"},
};

const char *setting_type_name(enum setting_type type)
{
    return TYPE_WORDS[type].name;
}

const char *setting_type_expects(enum setting_type type)
{
    return TYPE_WORDS[type].expects;
}

/* The one row below which the settings of @parent stand. */
static enum setting_id describing(enum setting_id parent)
{
    return SETTINGS[parent].type == TYPE_LIMITS ? SETTING_MODEL_LIMITS : parent;
}

enum setting_id setting_first_child(enum setting_id parent)
{
    return describing(parent) + 1;
}

enum setting_id setting_child(enum setting_id parent, struct text name)
{
    parent = describing(parent);
    struct text prefix = text_of(SETTINGS[parent].path);
    bool is_item = text_equal(name, TEXT("[]"));
    if (!is_item && name.length > 0 && (memchr(name.at, '.', name.length) || memchr(name.at, '[', name.length)))
        return SETTING_COUNT; /* it would reach below the children */
    for (enum setting_id id = parent + 1; id < SETTING_COUNT; id++) {
        struct text path = text_of(SETTINGS[id].path);
        if (!text_starts_with(path, prefix))
            break; /* children follow their parents */
        size_t start = prefix.length + (prefix.length > 0 && !is_item);
        if (start >= path.length || (start > prefix.length && path.at[prefix.length] != '.'))
            continue;
        if (text_equal((struct text){path.at + start, path.length - start}, name))
            return id;
    }
    return SETTING_COUNT;
}

enum setting_id setting_item(enum setting_id parent)
{
    bool is_list = SETTINGS[parent].type == TYPE_LIST;
    enum setting_id item = setting_child(parent, is_list ? TEXT("[]") : TEXT("<name>"));
    ENSURE(item != SETTING_COUNT);
    return item;
}

const char *setting_name(enum setting_id id)
{
    const char *dot = strrchr(SETTINGS[id].path, '.');
    return dot != NULL ? dot + 1 : SETTINGS[id].path;
}

static const struct {
    size_t count;
    const char *const *names;
} CHOICES[TYPE_COUNT] = {
    [TYPE_DIALECT] = {DIALECT_COUNT, DIALECT_NAMES},
    [TYPE_ENDPOINT] = {ENDPOINT_COUNT, ENDPOINT_NAMES},
    [TYPE_ON_EXCEED] = {ON_EXCEED_COUNT, ON_EXCEED_NAMES},
    [TYPE_BILLING_SYNC] = {BILLING_SYNC_COUNT, BILLING_SYNC_NAMES},
    [TYPE_MEASURE] = {MEASURE_COUNT, MEASURE_NAMES},
};

const char *const *setting_choices(enum setting_type type, size_t *ret_count)
{
    *ret_count = CHOICES[type].count;
    return CHOICES[type].names;
}

bool setting_is_name(struct text name)
{
    if (name.length == 0 || name.length > SETTING_NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < name.length; i++) {
        char c = name.at[i];
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    (c != '\0' && strchr("._:/-", c) != NULL);
        if (!good)
            return false;
    }
    return true;
}

static bool is_printable(struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        if ((unsigned char) text.at[i] < ' ' || text.at[i] == 0x7f)
            return false;
    }
    return true;
}

static bool is_currency(struct text text)
{
    bool good = text.length == 3;
    for (size_t i = 0; good && i < text.length; i++)
        good = text.at[i] >= 'A' && text.at[i] <= 'Z';
    return good;
}

static bool parse_choice(enum setting_type type, struct text value, int64_t *ret_number)
{
    size_t count;
    const char *const *choices = setting_choices(type, &count);
    for (size_t i = 0; i < count; i++) {
        if (text_equal(value, text_of(choices[i]))) {
            *ret_number = (int64_t) i;
            return true;
        }
    }
    return false;
}

bool setting_parse(enum setting_type type, struct text value, int64_t *ret_number)
{
    uint8_t digest[32];
    struct listen_parts parts;
    struct redis_parts redis;
    struct text url;
    *ret_number = 0;
    switch (type) {
    case TYPE_MAP:
    case TYPE_NAMED:
    case TYPE_VARIABLES:
    case TYPE_LIST:
    case TYPE_LIMITS:
    case TYPE_COUNT:
        return false;
    case TYPE_ARGUMENT:
        return true;
    case TYPE_STRING:
    case TYPE_PATH:
    case TYPE_SECRET_FILE:
        return is_printable(value);
    case TYPE_NAME:
        return setting_is_name(value);
    case TYPE_INTEGER:
        return value_integer(value, ret_number);
    case TYPE_BOOLEAN:
        return value_boolean(value, ret_number);
    case TYPE_DURATION:
        return value_duration_ms(value, ret_number);
    case TYPE_SHA256:
        return text_from_hex(value, digest, sizeof(digest));
    case TYPE_DATE:
        return value_date(value, ret_number);
    case TYPE_LISTEN:
        return address_parse_listen(value, &parts) == NULL;
    case TYPE_URL:
        return address_parse_url(value, &url) == NULL;
    case TYPE_REDIS_URL:
        return address_parse_redis(value, &redis) == NULL;
    case TYPE_PRICE:
        return value_price(value, ret_number);
    case TYPE_CURRENCY:
        return is_currency(value);
    case TYPE_DIALECT:
    case TYPE_ENDPOINT:
    case TYPE_ON_EXCEED:
    case TYPE_BILLING_SYNC:
    case TYPE_MEASURE:
        return parse_choice(type, value, ret_number);
    }
    UNREACHABLE("every type has its case");
}

const struct node *setting_node(const struct node *map, enum setting_id id)
{
    return node_child(map, setting_name(id));
}

int64_t setting_number(const struct node *map, enum setting_id id)
{
    const struct node *node = setting_node(map, id);
    if (node != NULL && node->valid)
        return node->number;
    int64_t number = 0;
    if (SETTINGS[id].default_text != NULL)
        ENSURE(setting_parse(SETTINGS[id].type, text_of(SETTINGS[id].default_text), &number));
    return number;
}

struct text setting_text(const struct node *map, enum setting_id id)
{
    const struct node *node = setting_node(map, id);
    return node != NULL && node->valid ? node->value : text_of(SETTINGS[id].default_text);
}
