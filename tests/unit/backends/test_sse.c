/* backends/sse: what an event is, however the bytes were cut. */
#include "backends/sse.h"

#include <string.h>

#include "tests/lib/unit.h"

/* All events as one text: data in brackets, raw after it in braces. */
struct record {
    struct buffer text;
    int count;
    int stop_after; /* 0 = never */
};

static bool remember(void *owner, const struct sse_event *event)
{
    struct record *record = owner;
    assert_true(buffer_format(&record->text, "[%.*s]{%.*s}", TEXT_ARGUMENTS(event->data), TEXT_ARGUMENTS(event->raw)));
    record->count++;
    return record->count != record->stop_after;
}

static void record_begin(struct record *record)
{
    memset(record, 0, sizeof(*record));
    buffer_init(&record->text, 16 << 20);
}

/* Feed a copy of just the size of each piece, so that AddressSanitizer sees a read past its end. */
static bool feed_piece(struct sse_parser *parser, struct text piece, struct record *record)
{
    char *copy = malloc(piece.length > 0 ? piece.length : 1);
    assert_non_null(copy);
    if (piece.length > 0)
        memcpy(copy, piece.at, piece.length);
    bool on = sse_feed(parser, (struct text){copy, piece.length}, remember, record);
    free(copy);
    return on;
}

/* Feed @stream in two pieces. */
static void parse_cut_at(struct text stream, size_t cut, struct record *record, bool *ret_rest)
{
    struct sse_parser parser;
    sse_begin(&parser);
    record_begin(record);
    bool on = feed_piece(&parser, (struct text){stream.at, cut}, record) &&
              feed_piece(&parser, (struct text){stream.at + cut, stream.length - cut}, record);
    assert_true(on);
    *ret_rest = sse_has_rest(&parser);
    sse_finish(&parser);
}

static void parse_in_random_pieces(struct text stream, struct record *record, bool *ret_rest)
{
    struct sse_parser parser;
    sse_begin(&parser);
    record_begin(record);
    while (stream.length > 0) {
        size_t length = 1 + unit_random_below(stream.length < 8 ? stream.length : 8);
        assert_true(feed_piece(&parser, (struct text){stream.at, length}, record));
        stream = (struct text){stream.at + length, stream.length - length};
    }
    *ret_rest = sse_has_rest(&parser);
    sse_finish(&parser);
}

struct example {
    const char *stream;
    const char *events;
    bool rest;
};

static const struct example examples[] = {
    {"data: a\n\n", "[a]{data: a\n\n}", false},
    {"data: a\r\n\r\ndata: b\r\n\r\n", "[a]{data: a\r\n\r\n}[b]{data: b\r\n\r\n}", false},
    {"data: a\r\rdata: b\r\r", "[a]{data: a\r\r}[b]{data: b\r\r}", false},
    {"data:a\n\n", "[a]{data:a\n\n}", false},
    {"data:  a \n\n", "[ a ]{data:  a \n\n}", false},
    {"data\n\n", "[]{data\n\n}", false},
    {"data:\n\n", "[]{data:\n\n}", false},
    {"data: \n\n", "[]{data: \n\n}", false},
    {"data: a\ndata: b\ndata\ndata:c\n\n", "[a\nb\n\nc]{data: a\ndata: b\ndata\ndata:c\n\n}", false},
    {"data: a\r\ndata: b\r\n\r\n", "[a\nb]{data: a\r\ndata: b\r\n\r\n}", false},
    {": ping\n\n", "", false},
    {":\r\n\r\n", "", false},
    {": ping\ndata: a\n\n", "[a]{: ping\ndata: a\n\n}", false},
    {"event: x\nid: 1\nretry: 2\n\n", "", false},
    {"event: x\ndata: a\n\n", "[a]{event: x\ndata: a\n\n}", false},
    {"datax: a\n\n dat: b\n\ndata : c\n\n", "", false},
    {"\n\n\ndata: a\n\n\n\n", "[a]{data: a\n\n}", false},
    {"\r\n\r\ndata: a\r\n\r\n\r\n", "[a]{data: a\r\n\r\n}", false},
    {"\xEF\xBB\xBF"
     "data: a\n\n",
     "[a]{data: a\n\n}", false},
    {"\xEF\xBB"
     "data: a\n\ndata: b\n\n",
     "[b]{data: b\n\n}", false},
    {"data: a\n\n\xEF\xBB\xBF"
     "data: b\n\n",
     "[a]{data: a\n\n}", false},
    {"\xEF\xBB", "", true},
    {"data: a\n\ndata: b\n", "[a]{data: a\n\n}", true},
    {"data: a", "", true},
    {"data: a\r\n\r\n\rdata: b\r\n\r\n", "[a]{data: a\r\n\r\n}[b]{data: b\r\n\r\n}", false},
    {"data: a\n\r\n", "[a]{data: a\n\r}", false},
    {"data: a\r\n\ndata: b\n\n", "[a]{data: a\r\n\n}[b]{data: b\n\n}", false},
    {"data: a\r\n\rdata: b\n\n", "[a]{data: a\r\n\r}[b]{data: b\n\n}", false},
    {"data: a\r\n\r", "", true},
    {"data: \xC3\xA9\xF0\x9F\x98\x80\n\n", "[\xC3\xA9\xF0\x9F\x98\x80]{data: \xC3\xA9\xF0\x9F\x98\x80\n\n}", false},
    {"data: {\"a\":1}\n\ndata: [DONE]\n\n", "[{\"a\":1}]{data: {\"a\":1}\n\n}[[DONE]]{data: [DONE]\n\n}", false},
    {"", "", false},
};
enum { EXAMPLE_COUNT = sizeof(examples) / sizeof(examples[0]) };

static void assert_events(const struct record *record, const struct example *example, bool rest)
{
    struct text found = buffer_text(&record->text);
    if (!text_equal(found, text_of(example->events)))
        fail_msg("%s\ngave %.*s", example->stream, TEXT_ARGUMENTS(found));
    assert_int_equal(rest, example->rest);
}

static void the_examples_hold_at_every_cut(void **state)
{
    (void) state;
    for (size_t i = 0; i < EXAMPLE_COUNT; i++) {
        struct text stream = text_of(examples[i].stream);
        for (size_t cut = 0; cut <= stream.length; cut++) {
            struct record record;
            bool rest;
            parse_cut_at(stream, cut, &record, &rest);
            assert_events(&record, &examples[i], rest);
            buffer_finish(&record.text);
        }
    }
}

static void the_examples_hold_in_random_pieces(void **state)
{
    (void) state;
    for (size_t i = 0; i < EXAMPLE_COUNT; i++) {
        for (int round = 0; round < 50; round++) {
            struct record record;
            bool rest;
            parse_in_random_pieces(text_of(examples[i].stream), &record, &rest);
            assert_events(&record, &examples[i], rest);
            buffer_finish(&record.text);
        }
    }
}

/* Streams of random fragments: cut anywhere, they give what they give whole. */
static void random_streams_do_not_depend_on_the_cut(void **state)
{
    (void) state;
    static const char *const fragments[] = {"data: ", "data", ":", " ",        "\n",          "\r",
                                            "\r\n",   "\n\n", "x", "event: y", "\xEF\xBB\xBF"};
    for (int round = 0; round < 300; round++) {
        char stream[256] = "";
        for (size_t count = unit_random_below(30); count > 0; count--)
            strcat(stream, fragments[unit_random_below(sizeof(fragments) / sizeof(fragments[0]))]);
        struct text whole = text_of(stream);
        struct record expected, found;
        bool expected_rest, found_rest;
        parse_cut_at(whole, 0, &expected, &expected_rest);
        for (size_t cut = 1; cut <= whole.length + 4; cut++) {
            if (cut <= whole.length)
                parse_cut_at(whole, cut, &found, &found_rest);
            else
                parse_in_random_pieces(whole, &found, &found_rest);
            assert_true(text_equal(buffer_text(&found.text), buffer_text(&expected.text)));
            assert_int_equal(found_rest, expected_rest);
            buffer_finish(&found.text);
        }
        buffer_finish(&expected.text);
    }
}

/* "data: x…x\n\n" of @length bytes in all. */
static struct text long_event(size_t length)
{
    char *memory = malloc(length);
    assert_non_null(memory);
    memset(memory, 'x', length);
    memcpy(memory, "data: ", 6);
    memcpy(memory + length - 2, "\n\n", 2);
    return (struct text){memory, length};
}

static bool feed_in_pieces(struct sse_parser *parser, struct text bytes, size_t piece_length, struct record *record)
{
    for (size_t at = 0; at < bytes.length; at += piece_length) {
        size_t length = bytes.length - at < piece_length ? bytes.length - at : piece_length;
        if (!sse_feed(parser, (struct text){bytes.at + at, length}, remember, record))
            return false;
    }
    return true;
}

/* Byte by byte too: were each byte to cause a scan of what came before, this would take hours. */
static void the_longest_event_passes_and_one_byte_more_does_not(void **state)
{
    (void) state;
    static const size_t pieces[] = {1, 4096, SSE_EVENT_BYTES_MAX + 1};
    for (size_t i = 0; i < 3; i++) {
        for (size_t extra = 0; extra < 2; extra++) {
            struct sse_parser parser;
            struct record record;
            struct text bytes = long_event(SSE_EVENT_BYTES_MAX + extra);
            sse_begin(&parser);
            record_begin(&record);
            assert_true(sse_feed(&parser, TEXT("data: first\n\n"), remember, &record));
            assert_int_equal(feed_in_pieces(&parser, bytes, pieces[i], &record), extra == 0);
            assert_int_equal(record.count, extra == 0 ? 2 : 1);
            assert_int_equal(parser.too_long, extra == 1);
            assert_int_equal(sse_feed(&parser, TEXT("data: last\n\n"), remember, &record), extra == 0);
            assert_int_equal(record.count, extra == 0 ? 3 : 1);
            free((void *) (uintptr_t) bytes.at);
            buffer_finish(&record.text);
            sse_finish(&parser);
        }
    }
}

/* A line that never ends is refused as soon as it is too long, comment or not. */
static void an_endless_line_is_refused(void **state)
{
    (void) state;
    char block[4096];
    struct sse_parser parser;
    struct record record;
    size_t blocks = 0;
    memset(block, ':', sizeof(block));
    sse_begin(&parser);
    record_begin(&record);
    while (sse_feed(&parser, (struct text){block, sizeof(block)}, remember, &record))
        blocks++;
    assert_int_equal(blocks, SSE_EVENT_BYTES_MAX / sizeof(block));
    assert_true(parser.too_long);
    buffer_finish(&record.text);
    sse_finish(&parser);
}

static void stop_drops_the_rest(void **state)
{
    (void) state;
    struct text stream = TEXT("data: a\n\ndata: b\n\ndata: c\n\n");
    for (size_t cut = 0; cut < 17; cut++) {
        struct sse_parser parser;
        struct record record;
        sse_begin(&parser);
        record_begin(&record);
        record.stop_after = 2;
        feed_piece(&parser, (struct text){stream.at, cut}, &record);
        assert_false(feed_piece(&parser, (struct text){stream.at + cut, stream.length - cut}, &record));
        assert_int_equal(record.count, 2);
        assert_false(parser.too_long);
        assert_false(sse_has_rest(&parser));
        buffer_finish(&record.text);
        sse_finish(&parser);
    }
}

int main(void)
{
    unit_random_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_examples_hold_at_every_cut),
        cmocka_unit_test(the_examples_hold_in_random_pieces),
        cmocka_unit_test(random_streams_do_not_depend_on_the_cut),
        cmocka_unit_test(the_longest_event_passes_and_one_byte_more_does_not),
        cmocka_unit_test(an_endless_line_is_refused),
        cmocka_unit_test(stop_drops_the_rest),
    };
    return cmocka_run_group_tests_name("sse", tests, NULL, NULL);
}
