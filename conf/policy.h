/* The nouns ops write, as one immutable snapshot: models, engines, tenants, keys, scopes. Read by every folder, changed
 * by none. */
#ifndef CONF_POLICY_H
#define CONF_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/text.h"

/* What a key may be allowed to call. Order is that of ENDPOINT_NAMES. */
enum endpoint { ENDPOINT_COMPLETIONS, ENDPOINT_CHAT, ENDPOINT_EMBEDDINGS, ENDPOINT_MODELS, ENDPOINT_COUNT };
/* "completions", "chat", "embeddings", "models": as in `scopes: {endpoints: […]}`, logs and metrics. */
extern const char *const ENDPOINT_NAMES[ENDPOINT_COUNT];

/* What happens to a stream whose token limit runs out while it runs. */
enum on_exceed {
    ON_EXCEED_SOFT, /* it goes on: what exceeds is debt, and the next requests wait */
    ON_EXCEED_HARD, /* cannot happen: the whole cap is reserved before */
    ON_EXCEED_CUT,  /* it is ended with finish_reason "length" */
    ON_EXCEED_COUNT
};
extern const char *const ON_EXCEED_NAMES[ON_EXCEED_COUNT]; /* "soft", "hard", "cut" */

/* One level's limits: its own buckets. 0 = not limited. */
struct limits {
    int64_t requests_per_minute;
    int64_t tokens_per_minute;
    int64_t concurrent_requests;
    int64_t request_burst; /* `burst: {requests, tokens}`: the buckets' capacity; 0 = one minute's worth */
    int64_t token_burst;
    bool strict_window; /* no 60 s window exceeds the limit: the rest after the burst flows back, (limit - burst) a
                           minute; the burst is then a tenth unless given */
    enum on_exceed on_exceed;
    const char *origin; /* "file:line:col" of the `limits` map, "" when there is none. Of the presets' map when no other
                           was written; behind a comma and a blank when it gives a part of these limits */
};

/* What can be priced and sent to a provider: numbers of one kind, summed. */
enum measure {
    MEASURE_INPUT_TOKENS,        /* all input, also what came from the engine's cache */
    MEASURE_CACHED_INPUT_TOKENS, /* the part of it that came from the engine's cache */
    MEASURE_OUTPUT_TOKENS,
    MEASURE_REQUESTS,
    MEASURE_COUNT
};
/* "input_tokens", "cached_input_tokens", "output_tokens", "requests" */
extern const char *const MEASURE_NAMES[MEASURE_COUNT];

/* Amounts of money are integer pico-units, 10^-12 of a currency's unit; a price per million tokens with six decimals is
 * a whole number of them per token. No price is above PRICE_PICO_MAX, so that price times any int64_t count of tokens
 * fits in __int128 with room for sums. */
#define PRICE_PICO_MAX INT64_C(1000000000000000)

/* `models.<name>.price`, one version. Input that came from the cache costs @cached_input instead of @input. */
struct price {
    wall_ms valid_from_wall_ms; /* a full UTC hour, so that an epoch has one price; 0 = from the beginning */
    const char *currency;       /* three capital letters: "EUR" */
    const char *input;          /* as written, per million tokens: "0.10" */
    const char *cached_input;   /* @input's unless written */
    const char *output;
    int64_t input_pico; /* per token, 0..PRICE_PICO_MAX */
    int64_t cached_input_pico;
    int64_t output_pico;
};

/* What a tenant or key may use. A part that was not written allows everything. */
struct scopes {
    bool models_limited;
    size_t model_pattern_count;
    const char *const *model_patterns; /* globs over canonical model names */
    bool endpoints_limited;
    unsigned endpoint_bits; /* 1u << enum endpoint */
};

/* The engines' ways of speaking, by name in YAML (`dialect:`); rows in backends/dialect.c. */
enum engine_dialect { DIALECT_OPENAI, DIALECT_VLLM, DIALECT_LLAMACPP, DIALECT_COUNT };
extern const char *const DIALECT_NAMES[DIALECT_COUNT]; /* "openai", "vllm", "llamacpp" */

/* Bytes that no formatter of ours accepts. Wiped when the snapshot dies. */
struct secret {
    const char *_bytes; /* NUL-terminated, or NULL = none */
};

/* Per-phase timers of one request at an engine; all > 0. */
struct engine_timeouts {
    int64_t connect_ms;
    int64_t first_token_ms; /* from dispatch to the first body byte or event */
    int64_t inter_chunk_ms; /* between two events; an engine's comments do not count */
    int64_t total_ms;
};

/* One entry of `models.<name>.engines`. Exactly one of spawn and url. */
struct engine {
    const char *name;  /* "<model>/<1-based position>": the instance's name everywhere */
    const char *model; /* canonical name */
    size_t argument_count;
    const char *const *arguments; /* spawn: argv with {socket} and {port} as written, NULL-terminated; else NULL */
    size_t environment_count;
    const char *const *environment; /* "NAME=value", sorted by name */
    const char *working_directory;  /* absolute: that of the file which names the engine */
    const char *url; /* "http://host:port", "https://…" without trailing '/', "unix:/path"; else NULL */
    enum engine_dialect dialect;
    struct secret api_key; /* sent as Authorization: Bearer, to a url engine only */
    int weight;            /* 1..1000 */
    int max_in_flight;     /* 0 = ask the engine */
    bool continuous_usage;
    bool embeddings_only; /* the readiness test asks for an embedding, not for a token */
};

struct model {
    const char *name; /* canonical */
    size_t alias_count;
    const char *const *aliases;
    const char *engine_model;
    int64_t context_tokens;     /* 0 = not given */
    int64_t max_output_tokens;  /* 0 = not given */
    int64_t default_max_tokens; /* completions without a cap; 16 unless given */
    int queue_length;
    int64_t queue_wait_ms;
    struct engine_timeouts timeouts;
    int64_t start_timeout_ms; /* a spawned engine not READY by then is stopped and started again */
    size_t engine_count;
    const struct engine *engines;
    struct limits limits; /* of everybody's requests for it */
    size_t price_count;
    const struct price *prices; /* sorted by valid_from_wall_ms, all different: the last that is valid counts */
    int64_t created_wall_s;     /* when the model first appeared in a load of this process: `created` in /v1/models */
};

struct key {
    const char *name; /* unique within its tenant; the key's id in logs */
    const struct tenant *tenant;
    uint8_t sha256[32];      /* of the whole bearer */
    const char *user;        /* "" = none */
    wall_ms expires_wall_ms; /* 0 = never */
    bool disabled;
    struct scopes scopes;
    struct limits limits; /* presets of `defaults.key.limits` filled in where the key gives none itself */
};

/* `tenants.<name>.models.<model>`: one tenant's share of one model. */
struct tenant_model {
    const char *model; /* canonical */
    struct limits limits;
};

struct tenant {
    const char *name;
    const char *customer; /* the providers' name of the tenant; "" = none: what a provider needs it for is held */
    bool disabled;
    struct scopes scopes;
    struct limits limits; /* presets of `defaults.tenant.limits` filled in as above */
    size_t model_count;
    const struct tenant_model *models;
};

/* How safe a usage record is before the answer's last byte leaves. */
enum billing_sync {
    BILLING_SYNC_OS,    /* with the kernel: a killed gateway loses nothing */
    BILLING_SYNC_GROUP, /* on disk, many records with one fdatasync: a power cut loses nothing either */
    BILLING_SYNC_COUNT
};
extern const char *const BILLING_SYNC_NAMES[BILLING_SYNC_COUNT]; /* "os", "group" */

enum provider_kind { PROVIDER_FILE, PROVIDER_STRIPE, PROVIDER_KIND_COUNT };
extern const char *const PROVIDER_KIND_NAMES[PROVIDER_KIND_COUNT]; /* "file", "stripe": the key in YAML */

/* One meter of a provider: which sums are sent to it. */
struct meter_policy {
    const char *event_name; /* unique within the provider */
    enum measure measure;
    size_t model_pattern_count;        /* >= 1 */
    const char *const *model_patterns; /* globs over canonical model names; {"*"} when none were written */
};

/* One entry of `billing.providers`. At most one of each kind, so that the kind names it in identifiers and states. */
struct provider_policy {
    enum provider_kind kind;
    const char *directory; /* FILE: absolute; may not exist yet */
    struct secret api_key; /* STRIPE */
    const char *api_base;  /* STRIPE: "https://api.stripe.com", without trailing '/'; http only to this machine */
    size_t meter_count;    /* STRIPE: >= 1 */
    const struct meter_policy *meters;
};

/* `billing`. */
struct billing_policy {
    int64_t epoch_ms; /* 1 s to 1 h; a UTC hour's end ends an epoch as well */
    enum billing_sync sync;
    int64_t retention_ms; /* how long sealed epochs stay on disk after they were delivered */
    bool bill_client_gone;
    bool bill_engine_error;
    bool bill_crash;
    bool bill_estimated; /* counts that no engine gave */
    size_t provider_count;
    const struct provider_policy *providers;
};

/* The Redis that collects usage. */
enum redis_kind {
    REDIS_PRIVATE, /* the master starts one; nothing else below is set */
    REDIS_UNIX,
    REDIS_TCP
};
struct redis_address {
    enum redis_kind kind;
    const char *path; /* UNIX: absolute */
    const char *host; /* TCP: a name or a numeric address without brackets */
    int port;
    int database;     /* 0 unless given */
    const char *text; /* as written, NULL for PRIVATE; holds no password */
};

/* What runtime_dir may have, so that "/" and a socket's name of up to 23 bytes still fit into a socket's path. */
enum { RUNTIME_DIR_BYTES_MAX = 76 };

enum listen_kind { LISTEN_TCP, LISTEN_UNIX };
struct listen_address {
    enum listen_kind kind;
    const char *host; /* numeric IPv4 or IPv6 without brackets; TCP */
    int port;         /* TCP; 0 = any free one */
    const char *path; /* UNIX */
    const char *text; /* as written */
};

/* One accepted configuration. Everything in it lives as long as the snapshot. */
struct policy {
    const char *file; /* the main file's absolute path */
    struct listen_address listen;
    struct listen_address admin_listen;
    struct secret admin_token;    /* none when admin.token_file is not given */
    const char *admin_token_file; /* absolute, or NULL: then <state_dir>/admin.token is made */
    const char *state_dir;        /* absolute */
    const char *runtime_dir;      /* absolute */
    const char *keys_file;        /* absolute, or NULL */
    int workers;                  /* >= 1 */
    int64_t drain_timeout_ms;
    size_t model_count;
    const struct model *models; /* sorted by name */
    size_t tenant_count;
    const struct tenant *tenants; /* sorted by name */
    size_t key_count;
    const struct key *keys; /* sorted by sha256 */
    struct redis_address redis;
    struct billing_policy billing;
    struct limits user_limits; /* `defaults.user.limits`: of each (tenant, user) */
    wall_ms loaded_wall_ms;
    uint8_t sha256[32]; /* of the bundle it was loaded from */
};

/* The model called @name or with the alias @name, or NULL. */
const struct model *policy_model(const struct policy *policy, struct text name);
/* The provider of this kind, or NULL. */
const struct provider_policy *policy_provider(const struct policy *policy, enum provider_kind kind);
/* The key with this digest, or NULL. Constant work per look-up is not promised: digests are not secrets. */
const struct key *policy_key(const struct policy *policy, const uint8_t sha256[32]);

/* What an instance is: argv, environment, directory, URL, dialect and API key. Instances whose hash changed are
 * replaced; weight, max_in_flight and the like are taken over. */
void engine_settings_hash(const struct engine *engine, uint8_t ret_sha256[32]);

/* References: policy_hold adds one, policy_drop takes one (and NULLs); the last frees. Any thread. */
const struct policy *policy_hold(const struct policy *policy);
void policy_drop(const struct policy **policy);

#endif
