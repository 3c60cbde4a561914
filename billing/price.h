/* What usage costs: whole pico-units, the price of its own time, and one rounding, where an amount is shown. Pure. */
#ifndef BILLING_PRICE_H
#define BILLING_PRICE_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/policy.h"

/* 10^-12 of a currency's unit. Sums of prices times counts stay far inside as long as the counts' sum is an int64_t. */
__extension__ typedef __int128 money_pico;

enum {
    PRICE_DECIMALS = 12,        /* of an exact amount */
    PRICE_ROUNDED_DECIMALS = 6, /* of an amount in an export */
    PRICE_TEXT_BYTES = 48
};

/* The version that counts at @when, or NULL: the model has no price then. */
const struct price *price_at(const struct model *model, wall_ms when);

/* What @quantity >= 0 of one measure adds. All input costs the price of input; the part that came from the cache then
 * adds the difference to its own price, which is negative for a discount. So amounts are sums in any order. Requests
 * cost nothing. */
money_pico price_of(const struct price *price, enum measure measure, int64_t quantity);

/* Exactly, without trailing zeros behind the point: "0.000012"; returns @to. */
const char *price_text(money_pico amount, char to[PRICE_TEXT_BYTES]);
/* With PRICE_ROUNDED_DECIMALS, half to even: "0.000012"; returns @to. */
const char *price_text_rounded(money_pico amount, char to[PRICE_TEXT_BYTES]);
/* The pico-units themselves: "12000000"; returns @to. */
const char *price_text_pico(money_pico amount, char to[PRICE_TEXT_BYTES]);

#endif
