/* YAML to a tree with places. What is refused stands in bad/, too; here is what needs no file. */
#include "tests/lib/unit.h"

#include <string.h>

#include "conf/document.h"

enum { ARENA_BYTES = 64 * 1024 * 1024 };
static struct arena arena;
static struct problem_list problems;

static int begin(void **state)
{
    (void) state;
    arena_init(&arena, ARENA_BYTES);
    problem_list_init(&problems);
    return 0;
}

static int end(void **state)
{
    (void) state;
    arena_finish(&arena);
    problem_list_finish(&problems);
    return 0;
}

static struct node *parse(const char *yaml)
{
    return document_parse("/t.yaml", text_of(yaml), &arena, &problems);
}

static void assert_problem(const char *wanted)
{
    struct text got = buffer_text(&problems.text);
    if (memmem(got.at, got.length, wanted, strlen(wanted)) == NULL)
        fail_msg("no \"%s\" in\n%.*s", wanted, TEXT_ARGUMENTS(got));
}

static void nodes_know_their_places(void **state)
{
    (void) state;
    const struct node *root = parse("a: 1\nlist:\n  - x\n  - 'y'\nmap: { k: v }\n");
    assert_int_equal(problems.errors, 0);
    assert_int_equal(root->kind, NODE_MAP);
    assert_int_equal(root->count, 3);
    const struct node *a = node_child(root, "a");
    assert_int_equal(a->place.line, 1);
    assert_int_equal(a->place.column, 4);
    assert_int_equal(a->key_place.column, 1);
    const struct node *list = node_child(root, "list");
    assert_int_equal(list->kind, NODE_LIST);
    assert_int_equal(list->count, 2);
    assert_string_equal(list->first->text.at, "x");
    assert_false(list->first->quoted);
    assert_true(list->first->next->quoted);
    assert_int_equal(list->first->next->place.line, 4);
    assert_string_equal(node_child(node_child(root, "map"), "k")->text.at, "v");
    assert_null(node_child(root, "none"));
    assert_null(node_child(list, "x"));
    assert_null(node_child(NULL, "x"));
}

static void columns_count_characters(void **state)
{
    (void) state;
    const struct node *root = parse("\"\xc3\xa9\xc3\xa9\": 1\n");
    assert_int_equal(root->first->place.column, 7);
}

static void null_is_empty_unless_quoted(void **state)
{
    (void) state;
    const struct node *root = parse("a:\nb: ~\nc: null\nd: ''\ne: '~'\nnull: 1\n");
    assert_int_equal(node_child(root, "a")->kind, NODE_EMPTY);
    assert_int_equal(node_child(root, "b")->kind, NODE_EMPTY);
    assert_int_equal(node_child(root, "c")->kind, NODE_EMPTY);
    assert_int_equal(node_child(root, "d")->kind, NODE_SCALAR);
    assert_int_equal(node_child(root, "e")->kind, NODE_SCALAR);
    assert_string_equal(node_child(root, "null")->text.at, "1");
}

static void byte_order_mark_and_crlf_are_fine(void **state)
{
    (void) state;
    const struct node *root = parse("\xef\xbb\xbfmodels: 1\r\nb: 2\r\n");
    assert_int_equal(problems.errors, 0);
    assert_non_null(node_child(root, "models"));
    assert_string_equal(node_child(root, "b")->text.at, "2");
}

static void an_empty_file_is_an_empty_node(void **state)
{
    (void) state;
    assert_int_equal(document_parse("/t", (struct text){NULL, 0}, &arena, &problems)->kind, NODE_EMPTY);
    assert_int_equal(parse("---\n...\n")->kind, NODE_EMPTY);
    assert_int_equal(problems.errors, 0);
}

static void depth_ends_at_the_limit(void **state)
{
    (void) state;
    char yaml[2 * DOCUMENT_DEPTH_MAX + 3];
    memset(yaml, '[', DOCUMENT_DEPTH_MAX);
    memset(yaml + DOCUMENT_DEPTH_MAX, ']', DOCUMENT_DEPTH_MAX);
    yaml[2 * DOCUMENT_DEPTH_MAX] = '\0';
    assert_non_null(parse(yaml));
    assert_int_equal(problems.errors, 0);
    char deeper[sizeof(yaml) + 2];
    snprintf(deeper, sizeof(deeper), "[%s]", yaml);
    assert_null(parse(deeper));
    assert_problem("/t.yaml:1:17: error: nested deeper than 16 levels");
}

static void a_bomb_of_depth_ends_at_once(void **state)
{
    (void) state;
    enum { BOMB_BYTES = 4 * 1024 * 1024 };
    char *bomb = malloc(BOMB_BYTES + 1);
    memset(bomb, '[', BOMB_BYTES);
    bomb[BOMB_BYTES] = '\0';
    /* Without the bound this takes minutes and runs into the test runner's limit. */
    assert_null(parse(bomb));
    assert_problem("nested deeper");
    free(bomb);
}

static void size_and_nodes_are_bounded(void **state)
{
    (void) state;
    char *large = malloc(DOCUMENT_BYTES_MAX + 2);
    memset(large, '#', DOCUMENT_BYTES_MAX + 1);
    large[DOCUMENT_BYTES_MAX + 1] = '\0';
    assert_null(parse(large));
    assert_problem("larger than 4 MiB");
    large[DOCUMENT_BYTES_MAX] = '\0';
    assert_non_null(parse(large));

    for (size_t i = 0; i < DOCUMENT_BYTES_MAX; i++)
        large[i] = i % 2 == 0 ? ',' : 'a';
    large[0] = '[';
    arena_finish(&arena);
    arena_init(&arena, 1024L * 1024 * 1024);
    assert_null(parse(large));
    assert_problem("more than 500000 values");
    free(large);
}

static void duplicates_in_a_large_map_are_found_fast(void **state)
{
    (void) state;
    enum { ENTRIES = 100000 };
    struct buffer yaml;
    buffer_init(&yaml, DOCUMENT_BYTES_MAX);
    for (int i = 0; i < ENTRIES; i++)
        assert_true(buffer_format(&yaml, "k%d: 1\n", i));
    assert_true(buffer_format(&yaml, "k7: 1\n"));
    assert_non_null(document_parse("/t.yaml", buffer_text(&yaml), &arena, &problems));
    assert_int_equal(problems.errors, 1);
    assert_problem("/t.yaml:100001:1: error: \"k7\" is already set on line 8");
    buffer_finish(&yaml);
}

static void every_lack_of_memory_is_survived(void **state)
{
    (void) state;
    const char *yaml = "models: { m: { aliases: [a, b, c], engines: [ { url: 'http://h' } ] } }\n";
    bool done = false;
    for (size_t limit = 0; !done; limit += 16) {
        struct arena small;
        arena_init(&small, limit);
        done = document_parse("/t.yaml", text_of(yaml), &small, &problems) != NULL;
        assert_int_equal(arena_overflowed(&small), !done);
        arena_finish(&small);
    }
    assert_int_equal(problems.errors, 0);
}

static void problems_are_bounded_in_number(void **state)
{
    (void) state;
    for (int i = 0; i < 1000; i++)
        problem_error(&problems, (struct place){"/t", 1, 1}, "number %d of some\nlines", i);
    assert_int_equal(problems.errors, 1000);
    assert_problem("/t:1:1: error: number 99 of some?lines\nthere are more problems, which are not shown\n");
    assert_true(buffer_length(&problems.text) < 10000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(nodes_know_their_places),
        TEST(columns_count_characters),
        TEST(null_is_empty_unless_quoted),
        TEST(byte_order_mark_and_crlf_are_fine),
        TEST(an_empty_file_is_an_empty_node),
        TEST(depth_ends_at_the_limit),
        TEST(a_bomb_of_depth_ends_at_once),
        TEST(size_and_nodes_are_bounded),
        TEST(duplicates_in_a_large_map_are_found_fast),
        TEST(every_lack_of_memory_is_survived),
        TEST(problems_are_bounded_in_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
