/* Base62 without bias, a CRC-32 that scanners can check without asking us, and SHA-256 by OpenSSL. */
#include "auth/key.h"

#include <string.h>
#include <sys/random.h>

#include <openssl/evp.h>
#include <pthread.h>

#include "base/panic.h"

static const char BASE62[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
enum { BASE = 62, UNBIASED_BYTES = 256 - 256 % BASE };

static const struct text PREFIX = {"tg_", 3};

static bool is_base62(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

bool key_environment_is_valid(struct text env)
{
    if (env.length < 1 || env.length > KEY_ENVIRONMENT_CHARACTERS_MAX) {
        return false;
    }
    for (size_t i = 0; i < env.length; i++) {
        char c = env.at[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))) {
            return false;
        }
    }
    return true;
}

static uint32_t crc32_ieee(struct text of)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < of.length; i++) {
        crc ^= (uint8_t) of.at[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (UINT32_C(0xedb88320) & (0u - (crc & 1u)));
        }
    }
    return ~crc;
}

static void write_check(char to[KEY_CRC_CHARACTERS], struct text covered)
{
    uint32_t rest = crc32_ieee(covered);
    for (size_t i = KEY_CRC_CHARACTERS; i > 0; i--) {
        to[i - 1] = BASE62[rest % BASE];
        rest /= BASE;
    }
}

/* Bytes past the last multiple of 62 are thrown away: their remainders would favour the first eight characters. */
static bool fill_base62(char *to, size_t count)
{
    uint8_t random[64]; /* up to 256 bytes, getrandom gives all or, before the pool is ready, nothing */
    size_t filled = 0;
    while (filled < count) {
        if (getrandom(random, sizeof(random), 0) != (ssize_t) sizeof(random)) {
            explicit_bzero(random, sizeof(random));
            return false;
        }
        for (size_t i = 0; i < sizeof(random) && filled < count; i++) {
            if (random[i] < UNBIASED_BYTES) {
                to[filled++] = BASE62[random[i] % BASE];
            }
        }
    }
    explicit_bzero(random, sizeof(random));
    return true;
}

bool key_make(const char *env, char ret_text[KEY_TEXT_BYTES], char ret_id[KEY_ID_CHARACTERS + 1])
{
    ENSURE(key_environment_is_valid(text_of(env)));
    char random[KEY_ID_CHARACTERS + KEY_SECRET_CHARACTERS];
    if (!fill_base62(random, sizeof(random))) {
        explicit_bzero(random, sizeof(random));
        return false;
    }
    struct text id = {random, KEY_ID_CHARACTERS};
    struct text secret = {random + KEY_ID_CHARACTERS, KEY_SECRET_CHARACTERS};
    struct builder key;
    builder_init(&key, ret_text, KEY_TEXT_BYTES);
    builder_add(&key, PREFIX);
    builder_add_string(&key, env);
    builder_add_string(&key, "_");
    builder_add(&key, id);
    builder_add_string(&key, "_");
    builder_add(&key, secret);
    builder_add_string(&key, "_");
    char check[KEY_CRC_CHARACTERS];
    write_check(check, builder_text(&key));
    builder_add(&key, (struct text){check, sizeof(check)});
    (void) builder_string(&key);
    ENSURE(!key.overflowed);
    text_copy(ret_id, KEY_ID_CHARACTERS + 1, id);
    explicit_bzero(random, sizeof(random));
    return true;
}

/* Take @count base62 characters and, unless at the end, the '_' after them. */
static bool skip_part(struct text *rest, size_t count)
{
    if (rest->length < count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!is_base62(rest->at[i])) {
            return false;
        }
    }
    bool last = rest->length == count;
    if (!last && rest->at[count] != '_') {
        return false;
    }
    size_t taken = count + (last ? 0 : 1);
    rest->at += taken;
    rest->length -= taken;
    return true;
}

bool key_is_well_formed(struct text text)
{
    if (!text_starts_with(text, PREFIX)) {
        return false;
    }
    struct text rest = {text.at + PREFIX.length, text.length - PREFIX.length};
    const char *end = rest.length == 0 ? NULL : memchr(rest.at, '_', rest.length);
    if (end == NULL || !key_environment_is_valid((struct text){rest.at, (size_t) (end - rest.at)})) {
        return false;
    }
    if (!skip_part(&rest, (size_t) (end - rest.at)) || !skip_part(&rest, KEY_ID_CHARACTERS) ||
        !skip_part(&rest, KEY_SECRET_CHARACTERS)) {
        return false;
    }
    char check[KEY_CRC_CHARACTERS];
    write_check(check, (struct text){text.at, (size_t) (rest.at - text.at)});
    return text_equal(rest, (struct text){check, sizeof(check)});
}

/* Fetched once: looking the algorithm up by name costs more than a short digest. */
static EVP_MD *fetched;

static void fetch(void)
{
    fetched = EVP_MD_fetch(NULL, "SHA256", NULL);
}

static const EVP_MD *sha256_method(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fetch);
    return fetched != NULL ? fetched : EVP_sha256();
}

bool key_digest(struct text bearer, uint8_t ret_sha256[32])
{
    uint8_t sha256[EVP_MAX_MD_SIZE];
    if (EVP_Digest(bearer.at, bearer.length, sha256, NULL, sha256_method(), NULL) != 1) {
        return false;
    }
    memcpy(ret_sha256, sha256, 32);
    return true;
}
