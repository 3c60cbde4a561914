/* base/json: no crash, strings decode to their stated length, and jansson agrees but for what is written here. */
#include "base/json.h"

#include "tests/fuzz/pieces.h"

/* jansson's own names for what our tokens are called. */
#define JSON_STRING JANSSON_STRING
#define JSON_TRUE   JANSSON_TRUE
#define JSON_FALSE  JANSSON_FALSE
#define JSON_NULL   JANSSON_NULL
#include <jansson.h>
#undef JSON_STRING
#undef JSON_TRUE
#undef JSON_FALSE
#undef JSON_NULL

static void check_string(struct text span)
{
    char *decoded = malloc(span.length);
    MUST(decoded != NULL);
    size_t length = json_string_decode(span, decoded);
    MUST(length <= span.length - 2 && length == json_decoded_length(span));
    MUST(json_string_equals(span, (struct text){decoded, length}));
    MUST(json_string_equals_ignoring_case(span, (struct text){decoded, length}));
    MUST(length == 0 || !json_string_equals(span, (struct text){decoded, length - 1}));
    free(decoded);
}

/* The error, or NULL. */
static const char *scan_tokens(struct text whole)
{
    struct json_scan scan;
    enum json_token token;
    json_begin(&scan, whole);
    do {
        token = json_next(&scan);
        MUST(scan.position <= whole.length && scan.depth <= JSON_DEPTH_MAX);
        if (token == JSON_STRING || token == JSON_KEY)
            check_string(scan.span);
    } while (token != JSON_END && token != JSON_ERROR);
    return token == JSON_END ? NULL : scan.error;
}

/* Skipping the one value is reading all its tokens. */
static void check_skip(struct text whole, const char *error)
{
    struct json_scan scan;
    struct text span;
    json_begin(&scan, whole);
    bool skipped = json_skip_value(&scan, &span);
    bool ended = skipped && json_next(&scan) == JSON_END;
    MUST(ended == (error == NULL));
    MUST(!skipped || (span.at >= whole.at && span.length > 0));
}

static void check_agreement(struct text whole, const char *error)
{
    json_error_t refusal;
    json_t *value = json_loadb(whole.at, whole.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &refusal);
    if (value == NULL && error == NULL) {
        /* What jansson's own types cannot hold. */
        enum json_error_code code = json_error_code(&refusal);
        MUST(code == json_error_numeric_overflow || code == json_error_null_byte_in_key);
    } else if (value != NULL && error != NULL) {
        /* Our limits; and behind a bare value jansson takes a NUL byte for the end. */
        bool limit = strstr(error, "64 levels") != NULL || strstr(error, "200000") != NULL;
        MUST(limit || memchr(whole.at, '\0', whole.length) != NULL);
    }
    if (value != NULL)
        json_decref(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text whole = text_exact(data, size);
    const char *error = scan_tokens(whole);
    check_skip(whole, error);
    check_agreement(whole, error);
    text_drop(whole);
    return 0;
}
