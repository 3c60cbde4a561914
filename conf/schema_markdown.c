/* The table as the reference page of the documentation. */
#include "conf/schema.h"
#include "conf/value.h"

enum { RANGE_BYTES_MAX = 96 };

static const char introduction[] =
    "# Configuration\n\n"
    "<!-- Made from conf/schema.def by `tollgate schema --markdown`: change it there. -->\n\n"
    "One YAML file, found as `--config FILE`, `./tollgate.yaml` or `/etc/tollgate/tollgate.yaml`.\n"
    "`tollgate check` reads it as `tollgate run` would and names every mistake with its line and column;\n"
    "`conf/examples/` holds a minimal file and one with every setting.\n\n"
    "- **Values.** Durations have a unit: `500ms`, `30s`, `5m`, `1h`, `7d`. Whole numbers are plain digits. Yes and "
    "no\n"
    "  may be written `yes`, `no`, `true`, `false`. Unknown settings are errors. Anchors, aliases and tags of YAML "
    "are\n"
    "  not accepted.\n"
    "- **Environment.** `${NAME}` and `${NAME:-default}` are replaced in values, never in names; `$${` stands for "
    "`${`.\n"
    "- **Paths** are seen from the file that names them.\n"
    "- **Secrets** stand in files of their own (`…_file`), one line each, which only their owner may read "
    "(`chmod 600`,\n"
    "  at most `640`). API keys are written as SHA-256 digests only.\n"
    "- **Reload.** `tollgate reload` or SIGHUP reads everything again. A file with a mistake changes nothing. "
    "Settings\n"
    "  marked *restart* cannot change by a reload: the whole file is refused.\n";

static bool is_section(enum setting_id id)
{
    return SETTINGS[id].type == TYPE_MAP;
}

/* '|' ends a cell of a table. */
static bool add_cell(struct buffer *to, const char *text)
{
    bool fits = true;
    for (const char *at = text; fits && *at != '\0'; at++) {
        if (*at == '|')
            fits = buffer_add(to, TEXT("\\"));
        fits = fits && buffer_add(to, (struct text){at, 1});
    }
    return fits;
}

static bool is_list(enum setting_type type)
{
    return type == TYPE_LIST || type == TYPE_NAMED || type == TYPE_VARIABLES;
}

static bool add_type(struct buffer *to, enum setting_id id)
{
    enum setting_type type = SETTINGS[id].type;
    size_t count;
    const char *const *choices = setting_choices(type, &count);
    bool fits = buffer_add(to, text_of(choices != NULL ? "" : setting_type_name(type)));
    for (size_t i = 0; choices != NULL && i < count; i++)
        fits = fits && buffer_format(to, "%s`%s`", i > 0 ? ", " : "", choices[i]);
    if (type == TYPE_LIMITS)
        fits = fits && buffer_format(to, ": as `%s`", SETTINGS[SETTING_MODEL_LIMITS].path);
    if ((SETTINGS[id].flags & SETTING_ONE_OR_MORE) != 0)
        fits = fits && buffer_add(to, TEXT(", or one entry"));
    if (SETTINGS[id].unit[0] != '\0')
        fits = fits && buffer_format(to, " (%s)", SETTINGS[id].unit);
    return fits;
}

static void range_text(const struct setting *setting, struct builder *to)
{
    char least[DURATION_TEXT_BYTES], most[DURATION_TEXT_BYTES];
    if (setting->type == TYPE_DURATION)
        builder_format(to, "%s to %s", value_duration_text(setting->minimum, least),
                       value_duration_text(setting->maximum, most));
    else if (setting->type == TYPE_INTEGER)
        builder_format(to, "%lld to %lld", (long long) setting->minimum, (long long) setting->maximum);
    else if (setting->type == TYPE_PRICE)
        builder_format(to, "0 to %lld", (long long) (setting->maximum / PRICE_PICO_PER_UNIT));
    else if (is_list(setting->type))
        builder_format(to, "%lld to %lld entries", (long long) setting->minimum, (long long) setting->maximum);
}

static bool add_row(struct buffer *to, enum setting_id id)
{
    const struct setting *setting = &SETTINGS[id];
    char memory[RANGE_BYTES_MAX];
    struct builder range;
    builder_init(&range, memory, sizeof(memory));
    range_text(setting, &range);
    const char *tick = setting->default_text != NULL ? "`" : "";
    const char *shown = setting->default_text != NULL ? setting->default_text : "";
    bool fits = buffer_format(to, "| `%s` | ", setting->path) && add_type(to, id);
    fits = fits && buffer_format(to, " | %s%s%s%s | %s | ", tick, shown, tick,
                                 (setting->flags & SETTING_REQUIRED) != 0 ? "*required*" : "", builder_string(&range));
    fits = fits && add_cell(to, setting->doc);
    return fits && buffer_format(to, "%s |\n", (setting->flags & SETTING_RESTART) != 0 ? " *restart*" : "");
}

/* Entries that are maps have a section of their own. */
static bool add_row_and_entries(struct buffer *to, enum setting_id id)
{
    if (!add_row(to, id))
        return false;
    return !is_list(SETTINGS[id].type) || is_section(setting_item(id)) || add_row(to, setting_item(id));
}

static bool add_section(struct buffer *to, enum setting_id id)
{
    const struct setting *setting = &SETTINGS[id];
    bool is_root = id == SETTING_ROOT;
    bool fits = buffer_format(to, "\n## %s%s%s\n\n%s\n\n", is_root ? "" : "`", is_root ? "The file" : setting->path,
                              is_root ? "" : "`", is_root ? "Settings at the top level." : setting->doc);
    fits = fits && buffer_add(to, TEXT("| setting | type | default | range | meaning |\n|---|---|---|---|---|\n"));
    for (enum setting_id child = id + 1; fits && child < SETTING_COUNT; child++) {
        if (setting_child(id, text_of(setting_name(child))) == child)
            fits = add_row_and_entries(to, child);
    }
    return fits;
}

bool schema_write_markdown(struct buffer *to)
{
    bool fits = buffer_add(to, text_of(introduction));
    for (enum setting_id id = SETTING_ROOT; fits && id < SETTING_COUNT; id++) {
        if (is_section(id))
            fits = add_section(to, id);
    }
    return fits;
}
