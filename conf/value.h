/* What a scalar of the configuration means: ${…}, whole numbers, yes and no, durations, dates. Pure but for getenv. */
#ifndef CONF_VALUE_H
#define CONF_VALUE_H

#include "base/arena.h"
#include "base/clock.h"
#include "base/text.h"

/* A price of 1 per million tokens is 10^6 pico-units (10^-12) per token. */
enum { VALUE_BYTES_MAX = 64 * 1024, PRICE_PICO_PER_UNIT = 1000000 };

enum expand_result { EXPAND_DONE, EXPAND_UNSET, EXPAND_MALFORMED, EXPAND_TOO_LONG };
/* Replace ${NAME} and ${NAME:-default}; $${ stands for ${ itself. The result is in @arena, NUL-terminated. On UNSET
 * @ret_name is the variable that has no value. */
enum expand_result value_expand(struct text written, struct arena *arena, struct text *ret, struct text *ret_name);
/* value_expand would replace something. */
bool value_has_variable(struct text written);

/* All return false, leaving @ret alone, when the whole text is not exactly that. */
bool value_integer(struct text text, int64_t *ret); /* decimal, no leading zeros, no "1_000" */
bool value_boolean(struct text text, int64_t *ret); /* true, yes, false, no */
bool value_duration_ms(struct text text, int64_t *ret);
bool value_price(struct text text,
                 int64_t *ret); /* decimal, at most six digits behind the point; in millionths: pico-units per token */
bool value_date(struct text text, wall_ms *ret); /* 2027-01-01 or RFC 3339 */

enum { DURATION_TEXT_BYTES = 32 };
/* In the largest unit that needs no fraction: "30s", "5m". */
const char *value_duration_text(int64_t milliseconds, char to[DURATION_TEXT_BYTES]);

#endif
