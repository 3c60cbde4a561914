/* One table of paths, and what is concluded when a choice, a usage or a timings object is complete. */
#include "backends/answer_meaning.h"

_Static_assert(PLACE_PREDICTED_N - PLACE_INPUT + 1 == ANSWER_COUNTS, "one slot a count");

struct member {
    enum place parent;
    enum place place;
    struct text name;
};

#define MEMBER(parent, name, place)                                                                                    \
    {                                                                                                                  \
        parent, place,                                                                                                 \
        {                                                                                                              \
            name, sizeof(name) - 1                                                                                     \
        }                                                                                                              \
    }
static const struct member members[] = {
    MEMBER(PLACE_ROOT, "choices", PLACE_CHOICES),
    MEMBER(PLACE_ROOT, "usage", PLACE_USAGE),
    MEMBER(PLACE_ROOT, "error", PLACE_ERROR),
    MEMBER(PLACE_ROOT, "timings", PLACE_TIMINGS),
    MEMBER(PLACE_CHOICE, "index", PLACE_INDEX),
    MEMBER(PLACE_CHOICE, "delta", PLACE_DELTA),
    MEMBER(PLACE_CHOICE, "message", PLACE_DELTA),
    MEMBER(PLACE_CHOICE, "text", PLACE_CONTENT),
    MEMBER(PLACE_CHOICE, "finish_reason", PLACE_FINISH),
    MEMBER(PLACE_DELTA, "content", PLACE_CONTENT),
    MEMBER(PLACE_DELTA, "reasoning_content", PLACE_CONTENT),
    MEMBER(PLACE_DELTA, "reasoning", PLACE_CONTENT),
    MEMBER(PLACE_DELTA, "refusal", PLACE_CONTENT),
    MEMBER(PLACE_DELTA, "tool_calls", PLACE_CONTENT),
    MEMBER(PLACE_DELTA, "function_call", PLACE_CONTENT),
    MEMBER(PLACE_CONTENT, "id", PLACE_OTHER), /* labels that the engine writes, no tokens */
    MEMBER(PLACE_CONTENT, "type", PLACE_OTHER),
    MEMBER(PLACE_USAGE, "prompt_tokens", PLACE_INPUT),
    MEMBER(PLACE_USAGE, "completion_tokens", PLACE_OUTPUT),
    MEMBER(PLACE_USAGE, "input_tokens", PLACE_INPUT),
    MEMBER(PLACE_USAGE, "output_tokens", PLACE_OUTPUT),
    MEMBER(PLACE_USAGE, "prompt_tokens_details", PLACE_DETAILS),
    MEMBER(PLACE_USAGE, "input_tokens_details", PLACE_DETAILS),
    MEMBER(PLACE_DETAILS, "cached_tokens", PLACE_CACHED),
    MEMBER(PLACE_TIMINGS, "prompt_n", PLACE_PROMPT_N),
    MEMBER(PLACE_TIMINGS, "cache_n", PLACE_CACHE_N),
    MEMBER(PLACE_TIMINGS, "predicted_n", PLACE_PREDICTED_N),
};
#undef MEMBER

enum place answer_element_place(enum place parent)
{
    if (parent == PLACE_CHOICES)
        return PLACE_CHOICE;
    return parent == PLACE_CONTENT ? PLACE_CONTENT : PLACE_OTHER;
}

enum place answer_member_place(enum place parent, struct text name)
{
    if (parent == PLACE_OTHER)
        return PLACE_OTHER;
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (members[i].parent == parent && text_equal(members[i].name, name))
            return members[i].place;
    return parent == PLACE_CONTENT ? PLACE_CONTENT : PLACE_OTHER;
}

static void forget_counts(struct answer_scan *scan)
{
    for (size_t i = 0; i < ANSWER_COUNTS; i++)
        scan->_counts[i] = -1;
}

static int64_t count_of(const struct answer_scan *scan, enum place place)
{
    return scan->_counts[place - PLACE_INPUT];
}

static int64_t or_zero(int64_t count)
{
    return count > 0 ? count : 0;
}

static void take_usage(struct answer_scan *scan)
{
    int64_t input = count_of(scan, PLACE_INPUT), output = count_of(scan, PLACE_OUTPUT);
    int64_t cached = or_zero(count_of(scan, PLACE_CACHED));
    if (input < 0 && output < 0)
        return;
    input = or_zero(input);
    scan->usage = (struct engine_usage){
        .seen = true,
        .input_tokens = input,
        .cached_input_tokens = cached < input ? cached : input,
        .output_tokens = or_zero(output),
    };
}

static void take_timings(struct answer_scan *scan)
{
    int64_t prompt = count_of(scan, PLACE_PROMPT_N), cached = count_of(scan, PLACE_CACHE_N);
    int64_t predicted = count_of(scan, PLACE_PREDICTED_N);
    if (prompt < 0 || cached < 0 || predicted < 0)
        return;
    scan->_timings = (struct engine_usage){
        .seen = true,
        .input_tokens = prompt + cached,
        .cached_input_tokens = cached,
        .output_tokens = predicted,
    };
}

static void take_choice(struct answer_scan *scan)
{
    if (!scan->_choice_has_content)
        return;
    scan->content_choices++;
    if (scan->_choice_index < ANSWER_CHOICES_MAX)
        scan->content_bits[scan->_choice_index / 64] |= UINT64_C(1) << scan->_choice_index % 64;
}

void answer_begin_value(struct answer_scan *scan, enum place place, char c)
{
    if (place == PLACE_USAGE)
        scan->usage_value_begin = scan->_offset;
    if ((place == PLACE_USAGE || place == PLACE_TIMINGS) && c == '{')
        forget_counts(scan);
    if (place == PLACE_ERROR && c != 'n' && c != 'f')
        scan->has_error = true;
    if (place == PLACE_CHOICES && c == '[')
        scan->has_choices = true;
    if (place == PLACE_FINISH && c == '"')
        scan->finish_count++;
    if (place == PLACE_CHOICE) {
        scan->_choice_index = scan->choice_count++;
        scan->_choice_has_content = false;
    }
}

void answer_note_number(struct answer_scan *scan, enum place place, int64_t number)
{
    if (place == PLACE_INDEX)
        scan->_choice_index = number < ANSWER_CHOICES_MAX ? (unsigned) number : ANSWER_CHOICES_MAX;
    else if (place >= PLACE_INPUT && number <= ANSWER_TOKENS_MAX && number > count_of(scan, place))
        scan->_counts[place - PLACE_INPUT] = number;
}

void answer_end_object(struct answer_scan *scan, enum place place)
{
    if (place == PLACE_USAGE)
        take_usage(scan);
    if (place == PLACE_TIMINGS)
        take_timings(scan);
    if (place == PLACE_CHOICE)
        take_choice(scan);
}
