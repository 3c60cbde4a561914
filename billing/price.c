/* Prices times counts, and amounts as decimal digits. */
#include "billing/price.h"

#include <string.h>

#include "base/panic.h"

__extension__ typedef unsigned __int128 magnitude;

const struct price *price_at(const struct model *model, wall_ms when)
{
    const struct price *found = NULL;
    for (size_t i = 0; i < model->price_count && model->prices[i].valid_from_wall_ms <= when; i++)
        found = &model->prices[i];
    return found;
}

money_pico price_of(const struct price *price, enum measure measure, int64_t quantity)
{
    ENSURE(quantity >= 0);
    switch (measure) {
    case MEASURE_INPUT_TOKENS:
        return (money_pico) price->input_pico * quantity;
    case MEASURE_CACHED_INPUT_TOKENS:
        return (money_pico) (price->cached_input_pico - price->input_pico) * quantity;
    case MEASURE_OUTPUT_TOKENS:
        return (money_pico) price->output_pico * quantity;
    case MEASURE_REQUESTS:
    case MEASURE_COUNT:
        break;
    }
    return 0;
}

/* @units of 10^-@decimals, with all of them. */
static void put_digits(magnitude units, bool is_negative, unsigned decimals, char to[PRICE_TEXT_BYTES])
{
    char reversed[PRICE_TEXT_BYTES];
    unsigned count = 0;
    for (unsigned place = 0; units > 0 || place <= decimals; place++, units /= 10) {
        if (place == decimals && decimals > 0)
            reversed[count++] = '.';
        reversed[count++] = (char) ('0' + (int) (units % 10));
    }
    size_t length = 0;
    if (is_negative)
        to[length++] = '-';
    while (count > 0)
        to[length++] = reversed[--count];
    to[length] = '\0';
}

static magnitude magnitude_of(money_pico amount)
{
    return amount < 0 ? -(magnitude) amount : (magnitude) amount;
}

const char *price_text(money_pico amount, char to[PRICE_TEXT_BYTES])
{
    put_digits(magnitude_of(amount), amount < 0, PRICE_DECIMALS, to);
    size_t length = strlen(to);
    while (to[length - 1] == '0')
        length--;
    if (to[length - 1] == '.')
        length--;
    to[length] = '\0';
    return to;
}

const char *price_text_rounded(money_pico amount, char to[PRICE_TEXT_BYTES])
{
    magnitude step = 1;
    for (int i = PRICE_ROUNDED_DECIMALS; i < PRICE_DECIMALS; i++)
        step *= 10;
    magnitude units = magnitude_of(amount) / step, rest = magnitude_of(amount) % step;
    if (rest > step / 2 || (rest == step / 2 && units % 2 == 1))
        units++;
    put_digits(units, amount < 0 && units > 0, PRICE_ROUNDED_DECIMALS, to);
    return to;
}

const char *price_text_pico(money_pico amount, char to[PRICE_TEXT_BYTES])
{
    put_digits(magnitude_of(amount), amount < 0, 0, to);
    return to;
}
