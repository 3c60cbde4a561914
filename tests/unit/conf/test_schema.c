/* The table is sound, and what is made from it is what the repository holds. Run from the repository's root. */
#include "tests/lib/unit.h"

#include <jansson.h>
#include <string.h>

#include "conf/files.h"
#include "conf/schema.h"

enum { DOCUMENT_LIMIT = 1024 * 1024 };

static void every_row_is_sound(void **state)
{
    (void) state;
    for (enum setting_id id = SETTING_ROOT + 1; id < SETTING_COUNT; id++) {
        const struct setting *setting = &SETTINGS[id];
        assert_true(strlen(setting->doc) > 5);
        assert_true(setting->doc[strlen(setting->doc) - 1] == '.');
        assert_true(setting->minimum <= setting->maximum);
        for (enum setting_id other = id + 1; other < SETTING_COUNT; other++)
            assert_string_not_equal(setting->path, SETTINGS[other].path);
    }
}

static void every_default_is_a_value(void **state)
{
    (void) state;
    for (enum setting_id id = 0; id < SETTING_COUNT; id++) {
        const struct setting *setting = &SETTINGS[id];
        int64_t number;
        if (setting->default_text == NULL)
            continue;
        assert_true(setting_parse(setting->type, text_of(setting->default_text), &number));
        assert_int_equal(setting_number(NULL, id), number);
        if (setting->type == TYPE_INTEGER || setting->type == TYPE_DURATION)
            assert_in_range(number, setting->minimum, setting->maximum);
    }
}

/* Each row is reached from the root by its own path. */
static size_t count_below(enum setting_id id)
{
    size_t count = 1;
    if (SETTINGS[id].type == TYPE_LIMITS)
        return count; /* its rows were counted where they stand */
    for (enum setting_id child = id + 1; child < SETTING_COUNT; child++) {
        const char *name = SETTINGS[id].type == TYPE_LIST ? "[]" : setting_name(child);
        if (setting_child(id, text_of(name)) == child)
            count += count_below(child);
    }
    return count;
}

static void every_row_has_its_parent(void **state)
{
    (void) state;
    assert_int_equal(count_below(SETTING_ROOT), SETTING_COUNT);
}

static void children_are_found_by_name_only(void **state)
{
    (void) state;
    assert_int_equal(setting_child(SETTING_ROOT, TEXT("listen")), SETTING_LISTEN);
    assert_int_equal(setting_child(SETTING_ADMIN, TEXT("listen")), SETTING_ADMIN_LISTEN);
    assert_int_equal(setting_child(SETTING_ROOT, TEXT("tenants")), SETTING_TENANTS);
    assert_int_equal(setting_child(SETTING_ROOT, TEXT("tenants_dir")), SETTING_TENANTS_DIR);
    assert_int_equal(setting_child(SETTING_ROOT, TEXT("admin.listen")), SETTING_COUNT);
    assert_int_equal(setting_child(SETTING_ROOT, TEXT("models.<name>")), SETTING_COUNT);
    assert_int_equal(setting_child(SETTING_ROOT, TEXT("")), SETTING_COUNT);
    assert_int_equal(setting_child(SETTING_MODEL, TEXT("aliases[]")), SETTING_COUNT);
    assert_int_equal(setting_child(SETTING_MODEL, TEXT("[]")), SETTING_COUNT);
    assert_int_equal(setting_child(SETTING_TENANT_LIMITS, TEXT("burst")), SETTING_LIMIT_BURST);
    assert_int_equal(setting_child(SETTING_KEY_LIMITS, TEXT("requests")), SETTING_COUNT);
    assert_int_equal(setting_first_child(SETTING_KEY_LIMITS), SETTING_LIMIT_REQUESTS);
    assert_int_equal(setting_item(SETTING_ENGINES), SETTING_ENGINE);
    assert_int_equal(setting_item(SETTING_MODELS), SETTING_MODEL);
    assert_int_equal(setting_item(SETTING_ENGINE_ENV), SETTING_ENGINE_VARIABLE);
}

static void names_have_a_small_alphabet(void **state)
{
    (void) state;
    assert_true(setting_is_name(TEXT("google/gemma-3:270m_Q4.K")));
    assert_false(setting_is_name(TEXT("")));
    assert_false(setting_is_name(TEXT("a b")));
    assert_false(setting_is_name(TEXT("a*")));
    assert_false(setting_is_name((struct text){"a\0b", 3}));
    char name[SETTING_NAME_BYTES_MAX + 1];
    memset(name, 'x', sizeof(name));
    assert_true(setting_is_name((struct text){name, SETTING_NAME_BYTES_MAX}));
    assert_false(setting_is_name((struct text){name, SETTING_NAME_BYTES_MAX + 1}));
}

static void assert_file_holds(const char *path, const struct buffer *wanted)
{
    struct file_content content;
    assert_int_equal(file_read(path, DOCUMENT_LIMIT, &content), 0);
    if (!text_equal((struct text){content.bytes, content.length}, buffer_text(wanted)))
        fail_msg("%s is not what the table says: write it anew with tollgate schema", path);
    free(content.bytes);
}

static void the_json_schema_is_json_and_in_the_repository(void **state)
{
    (void) state;
    struct buffer schema;
    buffer_init(&schema, DOCUMENT_LIMIT);
    assert_true(schema_write_json(&schema));
    struct text text = buffer_text(&schema);
    json_t *json = json_loadb(text.at, text.length, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json);
    assert_true(json_is_false(json_object_get(json, "additionalProperties")));
    assert_non_null(json_object_get(json_object_get(json, "properties"), "models"));
    json_decref(json);
    assert_file_holds("conf/tollgate.schema.json", &schema);
    buffer_finish(&schema);
}

static void the_reference_names_every_setting_and_is_in_the_repository(void **state)
{
    (void) state;
    struct buffer reference;
    buffer_init(&reference, DOCUMENT_LIMIT);
    assert_true(schema_write_markdown(&reference));
    struct text text = buffer_text(&reference);
    for (enum setting_id id = SETTING_ROOT + 1; id < SETTING_COUNT; id++) {
        char quoted[128];
        snprintf(quoted, sizeof(quoted), "`%s`", SETTINGS[id].path);
        if (memmem(text.at, text.length, quoted, strlen(quoted)) == NULL)
            fail_msg("%s is not in the reference", quoted);
    }
    assert_file_holds("docs/configuration.md", &reference);
    buffer_finish(&reference);
}

static void a_full_buffer_is_told(void **state)
{
    (void) state;
    for (size_t limit = 0; limit < 20000; limit += 997) {
        struct buffer small;
        buffer_init(&small, limit);
        assert_false(schema_write_json(&small));
        buffer_finish(&small);
    }
    for (size_t limit = 0; limit < 5000; limit += 97) {
        struct buffer small;
        buffer_init(&small, limit);
        assert_false(schema_write_markdown(&small));
        buffer_finish(&small);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_sound),
        cmocka_unit_test(every_default_is_a_value),
        cmocka_unit_test(every_row_has_its_parent),
        cmocka_unit_test(children_are_found_by_name_only),
        cmocka_unit_test(names_have_a_small_alphabet),
        cmocka_unit_test(the_json_schema_is_json_and_in_the_repository),
        cmocka_unit_test(the_reference_names_every_setting_and_is_in_the_repository),
        cmocka_unit_test(a_full_buffer_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
