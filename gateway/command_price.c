/* `tollgate price`: one amount, and how it comes about. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "billing/price.h"
#include "gateway/command.h"

static const char NAME[] = "price";

enum { PART_COUNT = 3 };

/* One line of the bill. */
struct part {
    const char *name;
    int64_t tokens;
    const char *per_million; /* as written */
    money_pico amount;
};

struct bill {
    const struct model *model;
    const struct price *price;
    struct part parts[PART_COUNT];
    money_pico total;
};

static struct bill make_bill(const struct model *model, const struct price *price, const int64_t tokens[MEASURE_COUNT])
{
    int64_t cached = tokens[MEASURE_CACHED_INPUT_TOKENS], fresh = tokens[MEASURE_INPUT_TOKENS] - cached;
    money_pico of_cached =
        price_of(price, MEASURE_INPUT_TOKENS, cached) + price_of(price, MEASURE_CACHED_INPUT_TOKENS, cached);
    struct bill bill = {
        .model = model,
        .price = price,
        .parts = {{"input", fresh, price->input, price_of(price, MEASURE_INPUT_TOKENS, fresh)},
                  {"cached_input", cached, price->cached_input, of_cached},
                  {"output", tokens[MEASURE_OUTPUT_TOKENS], price->output,
                   price_of(price, MEASURE_OUTPUT_TOKENS, tokens[MEASURE_OUTPUT_TOKENS])}},
    };
    for (size_t i = 0; i < PART_COUNT; i++)
        bill.total += bill.parts[i].amount;
    return bill;
}

static const char *valid_from_text(const struct price *price, char to[CLOCK_TEXT_BYTES])
{
    return price->valid_from_wall_ms != 0 ? clock_text(price->valid_from_wall_ms, to) : "the beginning";
}

static int print_text(const struct bill *bill)
{
    char text[PRICE_TEXT_BYTES], rounded[PRICE_TEXT_BYTES], when[CLOCK_TEXT_BYTES];
    printf("%s, %s, the price from %s on\n\n", bill->model->name, bill->price->currency,
           valid_from_text(bill->price, when));
    printf("%-12s  %19s  %14s  %s\n", "", "TOKENS", "PER MILLION", "AMOUNT");
    for (size_t i = 0; i < PART_COUNT; i++) {
        const struct part *part = &bill->parts[i];
        printf("%-12s  %19lld  %14s  %s\n", part->name, (long long) part->tokens, part->per_million,
               price_text(part->amount, text));
    }
    printf("%-12s  %19s  %14s  %s\n", "total", "", "", price_text(bill->total, text));
    printf("\nAn export shows %s %s.\n", price_text_rounded(bill->total, rounded), bill->price->currency);
    return COMMAND_DONE;
}

/* Amounts are strings: a double would round them. */
static int print_json(const struct bill *bill)
{
    char text[PRICE_TEXT_BYTES], rounded[PRICE_TEXT_BYTES], pico[PRICE_TEXT_BYTES], when[CLOCK_TEXT_BYTES];
    json_t *parts = json_array();
    for (size_t i = 0; i < PART_COUNT; i++) {
        const struct part *part = &bill->parts[i];
        json_array_append_new(parts,
                              json_pack("{s:s, s:I, s:s, s:s}", "part", part->name, "tokens", (json_int_t) part->tokens,
                                        "per_million", part->per_million, "amount", price_text(part->amount, text)));
    }
    const char *valid_from = bill->price->valid_from_wall_ms != 0 ? valid_from_text(bill->price, when) : NULL;
    return command_print_json(NAME, json_pack("{s:s, s:s, s:s?, s:o, s:s, s:s, s:s}", "model", bill->model->name,
                                              "currency", bill->price->currency, "valid_from", valid_from, "parts",
                                              parts, "amount", price_text(bill->total, text), "amount_rounded",
                                              price_text_rounded(bill->total, rounded), "amount_pico",
                                              price_text_pico(bill->total, pico)));
}

static int explain(const struct policy *policy, const char *wanted, const int64_t tokens[MEASURE_COUNT], bool json)
{
    const struct model *model = command_find_model(NAME, policy, wanted);
    if (model == NULL)
        return COMMAND_FAILED;
    const struct price *price = price_at(model, clock_wall_ms());
    if (price == NULL && model->price_count > 0)
        return command_fail(NAME, "the model \"%s\" has no price yet: its first one is valid later", model->name);
    if (price == NULL)
        return command_fail(NAME, "the model \"%s\" has no price: give it one, `price: {currency, input, output}`",
                            model->name);
    struct bill bill = make_bill(model, price, tokens);
    return json ? print_json(&bill) : print_text(&bill);
}

/* False after saying so; *@ret_exit is then what to return. */
static bool read_count(const char *option, const char *given, int64_t *ret, int *ret_exit)
{
    if (given != NULL && text_to_int64(text_of(given), ret) && *ret >= 0)
        return true;
    *ret_exit = given == NULL ? command_usage_error(NAME, "--%s is missing", option)
                              : command_usage_error(NAME, "--%s must be a number of tokens, not \"%s\"", option, given);
    return false;
}

int command_price(int argc, char **argv)
{
    const char *config = NULL, *model = NULL, *input = NULL, *output = NULL, *cached = NULL;
    bool json = false;
    const struct command_option options[] = {
        COMMAND_OPTION_CONFIG(&config),
        {.name = "model", .value_name = "MODEL", .help = "its name or an alias", .value = &model},
        {.name = "input", .value_name = "TOKENS", .help = "all input, also what was cached", .value = &input},
        {.name = "output", .value_name = "TOKENS", .help = "output", .value = &output},
        {.name = "cached",
         .value_name = "TOKENS",
         .help = "how much of the input came from the engine's cache; default 0",
         .value = &cached},
        COMMAND_OPTION_JSON(&json),
    };
    const struct command_usage usage = {
        .name = NAME,
        .synopsis = "--model MODEL --input TOKENS --output TOKENS [--cached TOKENS] [--config FILE] [--json]",
        .about = "Say what so many tokens of a model cost at its present price, part by part. Amounts are exact;\n"
                 "an export rounds each of its rows once, half to even.\n\n"
                 "Exit codes: 0 done, 1 no such model or price, 2 usage.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    int64_t tokens[MEASURE_COUNT] = {0};
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    if (model == NULL)
        return command_usage_error(NAME, "--model is missing");
    if (!read_count("input", input, &tokens[MEASURE_INPUT_TOKENS], &exit_code) ||
        !read_count("output", output, &tokens[MEASURE_OUTPUT_TOKENS], &exit_code) ||
        !read_count("cached", cached != NULL ? cached : "0", &tokens[MEASURE_CACHED_INPUT_TOKENS], &exit_code))
        return exit_code;
    if (tokens[MEASURE_CACHED_INPUT_TOKENS] > tokens[MEASURE_INPUT_TOKENS])
        return command_usage_error(NAME, "--cached is a part of --input and cannot be more");
    const char *file = command_config_file(NAME, config);
    const struct policy *policy = file == NULL ? NULL : command_load(NAME, file);
    if (policy == NULL)
        return COMMAND_FAILED;
    exit_code = explain(policy, model, tokens, json);
    policy_drop(&policy);
    return exit_code;
}
