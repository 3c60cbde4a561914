/* Keys of ours, "tg_<env>_<keyid>_<secret>_<crc>": how they are made, recognised and digested. */
#ifndef AUTH_KEY_H
#define AUTH_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum {
    KEY_TEXT_BYTES = 96,
    KEY_ENVIRONMENT_CHARACTERS_MAX = 8,
    KEY_ID_CHARACTERS = 10,
    KEY_SECRET_CHARACTERS = 43, /* 43 * log2(62) = 256 bits */
    KEY_CRC_CHARACTERS = 6
};

/* @env is 1..8 of [a-z0-9]. */
bool key_environment_is_valid(struct text env);
/* Make a new key of environment @env (valid, by the function above): id and secret are base62 from the operating
 * system's randomness, every character equally likely. The text with its NUL goes to @ret_text, which is the caller's
 * to wipe. False, leaving both alone, when the system gives no randomness. Any thread. */
bool key_make(const char *env, char ret_text[KEY_TEXT_BYTES], char ret_id[KEY_ID_CHARACTERS + 1]);
/* @text has our shape and its check characters are right (for secret scanners and early typing errors; no secret is
 * needed). The check characters are the CRC-32 (IEEE, as in zlib) of everything before them, the last '_' included, in
 * base62 (0-9A-Za-z), highest digit first. */
bool key_is_well_formed(struct text text);
/* The SHA-256 under which a bearer of any form is looked up. False, leaving @ret_sha256 alone, when memory is
 * exhausted. Any thread. */
bool key_digest(struct text bearer, uint8_t ret_sha256[32]);

#endif
