/* Keys of ours: "tg_<env>_<keyid>_<secret>_<crc>", how they are made and recognised, and the keys file. */
#ifndef AUTH_KEY_H
#define AUTH_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum { KEY_TEXT_BYTES = 96, KEY_ID_CHARACTERS = 10, KEY_SECRET_CHARACTERS = 43, KEY_CRC_CHARACTERS = 6 };

/* Make a new key of environment @env (1..8 of [a-z0-9]) from 42 random bytes; the text with its NUL goes to @ret_text.
 * False when the operating system gives no randomness. */
bool key_make(const char *env, char ret_text[KEY_TEXT_BYTES], char ret_id[KEY_ID_CHARACTERS + 1]);
/* @text has our shape and its check characters are right (for secret scanners and early typing errors; no secret is
 * needed). */
bool key_is_well_formed(struct text text);
void key_digest(struct text bearer, uint8_t ret_sha256[32]);

#endif
