/* How much input a request brings: prompts, messages and tool definitions, counted as they are passed. */
#include <string.h>

#include "gateway/openai_parse.h"

enum { PROMPTS_MAX = 2048, MESSAGES_MAX = 4096, LABEL_BYTES_MAX = 64 };

static void count_text(struct openai_parse *parse)
{
    parse->request.input_text_bytes += json_decoded_length(parse->scan.span);
}

static bool refuse_length(struct openai_parse *parse, const char *param, int length_max)
{
    return openai_refuse(parse, param, "array_above_max_length",
                         "Invalid '%s': array too long. Expected an array with maximum length %d.", param, length_max);
}

static bool refuse_empty(struct openai_parse *parse, const char *param)
{
    return openai_refuse(parse, param, "empty_array",
                         "Invalid '%s': empty array. Expected an array with minimum length 1.", param);
}

/* The token just read is one id of a list. */
static bool take_token_id(struct openai_parse *parse, const char *param)
{
    int64_t id;
    if (parse->scan.token != JSON_NUMBER)
        return openai_refuse_type(parse, param, "a list of token ids to hold integers only");
    if (!json_number_to_int64(parse->scan.span, &id) || id < 0 || id > INT32_MAX)
        return openai_refuse(parse, param, "invalid_value",
                             "Invalid '%s': a token id must be an integer between 0 and 2147483647.", param);
    parse->request.input_token_ids++;
    return true;
}

/* '[' of a list inside the list was just read. */
static bool take_token_ids(struct openai_parse *parse, const char *param)
{
    if (json_next(&parse->scan) == JSON_ARRAY_END)
        return refuse_empty(parse, param);
    while (parse->scan.token != JSON_ARRAY_END) {
        if (!take_token_id(parse, param))
            return false;
        json_next(&parse->scan);
    }
    return true;
}

/* One element of the list; every element has the kind of the first. */
static bool take_prompt(struct openai_parse *parse, const char *param, enum json_token first)
{
    enum json_token token = parse->scan.token;
    if (token != JSON_STRING && token != JSON_NUMBER && token != JSON_ARRAY_BEGIN)
        return openai_refuse_type(parse, param, "a list of strings, of token ids, or of lists of token ids");
    if (token != first)
        return openai_refuse(parse, param, "invalid_type",
                             "Invalid '%s': a list holds strings, token ids, or lists of token ids, not a mixture.",
                             param);
    if (token == JSON_NUMBER)
        return take_token_id(parse, param);
    if (token == JSON_STRING)
        count_text(parse);
    else if (!take_token_ids(parse, param))
        return false;
    if (++parse->request.prompts > PROMPTS_MAX)
        return refuse_length(parse, param, PROMPTS_MAX);
    return true;
}

bool openai_take_prompts(struct openai_parse *parse, const char *param)
{
    parse->request.prompts = 1;
    if (parse->scan.token == JSON_STRING) {
        count_text(parse);
        return true;
    }
    if (parse->scan.token != JSON_ARRAY_BEGIN)
        return openai_refuse_type(parse, param, "a string or a list");
    enum json_token first = json_next(&parse->scan);
    if (first == JSON_ARRAY_END)
        return refuse_empty(parse, param);
    /* A list of numbers is one prompt, any other list has one for each element. */
    parse->request.prompts = first == JSON_NUMBER ? 1 : 0;
    while (parse->scan.token != JSON_ARRAY_END) {
        if (!take_prompt(parse, param, first))
            return false;
        json_next(&parse->scan);
    }
    return true;
}

static bool key_is_among(struct text key, const struct text *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (json_string_equals(key, names[i]))
            return true;
    return false;
}

/* Members of a content part whose value is a picture, a sound or a file: no text, however long its data: URL is. */
static bool is_media(struct text key)
{
    static const struct text names[] = {
        {"image_url", 9}, {"input_audio", 11}, {"audio_url", 9}, {"video_url", 9}, {"file", 4}, {"input_image", 11},
    };
    return key_is_among(key, names, sizeof(names) / sizeof(names[0]));
}

/* Members whose short value is a label and no text of the prompt. */
static bool is_label(struct text key)
{
    static const struct text names[] = {{"role", 4}, {"type", 4}, {"id", 2}, {"tool_call_id", 12}};
    return key_is_among(key, names, sizeof(names) / sizeof(names[0]));
}

static bool skip_media(struct openai_parse *parse)
{
    bool image = json_string_equals(parse->scan.span, TEXT("image_url")) ||
                 json_string_equals(parse->scan.span, TEXT("input_image"));
    struct text value;
    if (!json_skip_value(&parse->scan, &value))
        return openai_refuse_type(parse, "messages", "an object");
    if (image && !text_equal(value, TEXT("null")))
        parse->request.images++;
    return true;
}

/* '{' of a message was just read. Every string in it counts but labels and media: what a chat template makes of the
 * members is the engine's affair, so nothing that may be rendered is left out. */
static bool take_message(struct openai_parse *parse)
{
    struct json_scan *scan = &parse->scan;
    const unsigned outside = scan->depth, in_part = outside + 3;
    bool label = false;
    for (;;) {
        enum json_token token = json_next(scan);
        if (token == JSON_ERROR)
            return openai_refuse_type(parse, "messages", "an object");
        if (token == JSON_OBJECT_END && scan->depth == outside)
            return true;
        if (token == JSON_KEY && scan->depth == in_part && is_media(scan->span)) {
            if (!skip_media(parse))
                return false;
            continue;
        }
        if (token == JSON_STRING && !(label && scan->span.length <= LABEL_BYTES_MAX))
            count_text(parse);
        label = token == JSON_KEY && is_label(scan->span);
    }
}

bool openai_take_messages(struct openai_parse *parse, const char *param)
{
    if (parse->scan.token != JSON_ARRAY_BEGIN)
        return openai_refuse_type(parse, param, "an array of messages");
    while (json_next(&parse->scan) != JSON_ARRAY_END) {
        if (parse->scan.token != JSON_OBJECT_BEGIN)
            return openai_refuse_type(parse, param, "each message to be an object");
        if (++parse->request.messages > MESSAGES_MAX)
            return refuse_length(parse, param, MESSAGES_MAX);
        if (!take_message(parse))
            return false;
    }
    return parse->request.messages > 0 || refuse_empty(parse, param);
}

bool openai_take_definitions(struct openai_parse *parse, const char *param)
{
    const unsigned outside = parse->scan.depth;
    bool container = parse->scan.token == JSON_OBJECT_BEGIN || parse->scan.token == JSON_ARRAY_BEGIN;
    if (!container)
        return openai_refuse_type(parse, param, "an array");
    do {
        enum json_token token = json_next(&parse->scan);
        if (token == JSON_ERROR)
            return openai_refuse_type(parse, param, "an array");
        /* As compact JSON: quotes and one comma or colon a token. */
        if (token == JSON_STRING || token == JSON_KEY)
            parse->request.input_text_bytes += json_decoded_length(parse->scan.span) + 3;
        else
            parse->request.input_text_bytes += parse->scan.span.length;
    } while (parse->scan.depth > outside);
    return true;
}

bool openai_take_text(struct openai_parse *parse, const char *param)
{
    if (parse->scan.token != JSON_STRING)
        return openai_refuse_type(parse, param, "a string");
    count_text(parse);
    return true;
}
